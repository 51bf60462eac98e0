//! Upstream credentials where they rest: none is ever written in the clear, those of an earlier
//! version are sealed at the first start, and what the file still held of them is removed.

use super::Failure;
use crate::config::Config;
use crate::control::vault::{Rotation, Seal, Vault, encryption_file};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use shard::units::{ServiceId, id_from_text};
use std::io;

/// `user_version` of a file that may still hold what was replaced in its tables.
const UNSCRUBBED: i64 = 1;

/// A sealed credential, if there is one.
pub(crate) fn any(db: &Connection) -> Result<Option<Vec<u8>>, Failure> {
    let query = "SELECT credential_sealed FROM services
                 WHERE credential_sealed IS NOT NULL LIMIT 1";
    Ok(db.query_row(query, (), |row| row.get(0)).optional()?)
}

/// Seals what an earlier version wrote in the clear, and removes every trace of it.
pub(crate) fn seal_plain(db: &mut Connection, seal: &Seal) -> Result<(), Failure> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let plain: Vec<(String, String)> = transaction
        .prepare("SELECT id, credential_header FROM services WHERE credential_header IS NOT NULL")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, credential) in &plain {
        let sealed = seal.close(service_id(id)?, credential).map_err(Failure::Internal)?;
        transaction.execute(
            "UPDATE services SET credential_sealed = ?2, credential_header = NULL WHERE id = ?1",
            (id, sealed),
        )?;
    }
    if !plain.is_empty() {
        transaction.pragma_update(None, "user_version", UNSCRUBBED)?;
        tracing::info!(credentials = plain.len(), "upstream credentials are encrypted now");
    }
    transaction.commit()?;
    if let Err(failure) = scrub_if_due(db) {
        tracing::error!(%failure, "the store's file may still hold credentials in the clear; \
            the next start tries again to remove them");
    }
    Ok(())
}

fn service_id(text: &str) -> Result<ServiceId, Failure> {
    let id = id_from_text(text.as_bytes()).map(ServiceId);
    id.ok_or_else(|| Failure::Internal("a service's id in the store is not one".to_owned()))
}

/// Rewrites the file from its tables, so that nothing is left of what they held before, and
/// empties the write-ahead log.
fn scrub_if_due(db: &Connection) -> Result<(), Failure> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != UNSCRUBBED {
        return Ok(());
    }
    let has_services = db.query_row("SELECT 1 FROM services LIMIT 1", (), |_| Ok(())).optional()?;
    if has_services.is_some() {
        db.execute_batch("PRAGMA secure_delete = ON; VACUUM;")?;
        let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
        if busy != 0 {
            return Err(Failure::Internal("the store is in use".to_owned()));
        }
    }
    db.pragma_update(None, "user_version", 0)?;
    Ok(())
}

/// What a rotation did.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Credentials that are under the new key now.
    pub sealed: usize,
    /// Names of the services whose credentials could not be read, and are gone.
    pub dropped: Vec<String>,
}

/// Makes a new encryption key and seals every upstream credential under it. For an instance that
/// is not running, by whoever holds the lock of its data directory. Where the old key is gone or
/// wrong nothing is changed, unless `drop_unreadable`.
pub fn rotate(config: &Config, drop_unreadable: bool) -> Result<Rotated, String> {
    rotate_in(config, drop_unreadable).map_err(|failure| failure.to_string())
}

fn rotate_in(config: &Config, drop_unreadable: bool) -> Result<Rotated, Failure> {
    let internal = |error: &dyn std::fmt::Display| Failure::Internal(error.to_string());
    let mut db = crate::sqlite::open(&config.server.data_dir).map_err(|error| internal(&error))?;
    let old = match Vault::open(config, any(&db)?.as_deref()) {
        Ok(vault) => {
            seal_plain(&mut db, vault.seal())?;
            Some(vault)
        }
        Err(error) if drop_unreadable && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(internal(&error)),
    };
    let rotation = Rotation::of(&encryption_file(config));
    let next = rotation.begin().map_err(|error| internal(&error))?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rotated = Rotated { sealed: 0, dropped: Vec::new() };
    for (id, name, sealed) in sealed_rows(&transaction)? {
        let service = service_id(&id)?;
        let opened = match &old {
            Some(vault) => vault.seal().open(service, &sealed),
            None => Err("its key is gone".to_owned()),
        };
        let resealed = match opened {
            Ok(credential) => {
                rotated.sealed += 1;
                Some(next.close(service, &credential).map_err(Failure::Internal)?)
            }
            Err(_) if drop_unreadable => {
                rotated.dropped.push(name);
                None
            }
            Err(why) => {
                let what = format!("the upstream credential of {name} is no use: {why}");
                return Err(Failure::Internal(what));
            }
        };
        transaction
            .execute("UPDATE services SET credential_sealed = ?2 WHERE id = ?1", (id, resealed))?;
    }
    transaction.pragma_update(None, "user_version", UNSCRUBBED)?;
    transaction.commit()?;
    rotation.commit().map_err(|error| internal(&error))?;
    scrub_if_due(&db).map_err(|failure| {
        let what = "the new key holds, but what the old one sealed may still be in the file";
        Failure::Internal(format!("{what}; the next start tries again to remove it: {failure}"))
    })?;
    Ok(rotated)
}

/// Id, name and credential of each service that has one.
fn sealed_rows(db: &Connection) -> Result<Vec<(String, String, Vec<u8>)>, Failure> {
    let mut statement = db.prepare(
        "SELECT id, name, credential_sealed FROM services WHERE credential_sealed IS NOT NULL",
    )?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
