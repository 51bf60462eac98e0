//! Upstream credentials in SQLite: what was replaced is removed from the file and its log too.

use super::columns::id_at;
use super::file;
use crate::store::error::{CatalogError, StoreError};
use crate::store::rows::SealedCredential;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use shard::units::ServiceId;
use std::path::Path;

/// `user_version` of a file that may still hold what was replaced in its tables.
const UNSCRUBBED: i64 = 1;

/// The credentials by a connection of its own.
pub(crate) struct SqliteCredentials(Connection);

impl SqliteCredentials {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        file::open(data_dir).map(Self)
    }

    pub(crate) fn plain(&self) -> Result<Vec<(ServiceId, String)>, CatalogError> {
        let mut statement = self.0.prepare(
            "SELECT id, credential_header FROM services WHERE credential_header IS NOT NULL",
        )?;
        let rows = statement.query_map((), |row| Ok((ServiceId(id_at(row, 0)?), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn sealed(&self) -> Result<Vec<SealedCredential>, CatalogError> {
        let mut statement = self.0.prepare(
            "SELECT id, name, credential_sealed FROM services WHERE credential_sealed IS NOT NULL",
        )?;
        let rows = statement.query_map((), |row| {
            Ok(SealedCredential {
                service: ServiceId(id_at(row, 0)?),
                service_name: row.get(1)?,
                sealed: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn replace(
        &mut self,
        credentials: &[(ServiceId, Option<Vec<u8>>)],
    ) -> Result<(), CatalogError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (service, sealed) in credentials {
            transaction.execute(
                "UPDATE services SET credential_sealed = ?2, credential_header = NULL
                 WHERE id = ?1",
                (service.to_string(), sealed),
            )?;
        }
        transaction.pragma_update(None, "user_version", UNSCRUBBED)?;
        Ok(transaction.commit()?)
    }

    /// Rewrites the file from its tables, so that nothing is left of what they held before, and
    /// empties the write-ahead log.
    pub(crate) fn scrub(&self) -> Result<(), CatalogError> {
        let db = &self.0;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != UNSCRUBBED {
            return Ok(());
        }
        let any_service = "SELECT 1 FROM services LIMIT 1";
        if db.query_row(any_service, (), |_| Ok(())).optional()?.is_some() {
            db.execute_batch("PRAGMA secure_delete = ON; VACUUM;")?;
            let busy: i64 =
                db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
            if busy != 0 {
                return Err(CatalogError::Internal("the store is in use".to_owned()));
            }
        }
        db.pragma_update(None, "user_version", 0)?;
        Ok(())
    }
}
