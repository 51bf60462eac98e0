//! The table `keys`.

use super::columns::{created_now, id_at};
use crate::store::error::CatalogError;
use crate::store::rows::{Digest, KeyRow, NewKey, Page};
use rusqlite::{Connection, Row};
use serde_json::Value;
use shard::units::{BucketId, ConsumerId, KeyId};

const SELECT: &str = "SELECT place, id, consumer_id, bucket_id, name, secret_hash, services,
    expires_at_unix_us, revoked_at, created_at, digest FROM keys";

/// Of a key that can be used at `?2`, microseconds since 1970.
pub(super) const LIVING: &str =
    "revoked_at IS NULL AND (expires_at_unix_us IS NULL OR expires_at_unix_us > ?2)";

/// A new key.
pub(super) fn insert(connection: &Connection, key: &NewKey) -> Result<KeyRow, CatalogError> {
    let services = key
        .services
        .as_ref()
        .map(|services| Value::from_iter(services.iter().map(ToString::to_string)).to_string());
    refuse_deleted(connection, key.consumer, services.as_deref())?;
    connection.execute(
        "INSERT INTO keys (id, consumer_id, bucket_id, name, secret_hash, services,
             expires_at_unix_us, created_at, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            key.id.to_string(),
            key.consumer.to_string(),
            key.bucket.to_string(),
            &key.name,
            &key.secret_hash,
            services,
            key.expires_at_unix_us,
            created_now(),
            key.digest.to_bytes(),
        ),
    )?;
    get(connection, key.id)
}

/// Making a key takes a while: what it is for may have been deleted since it was looked up.
fn refuse_deleted(
    connection: &Connection,
    consumer: ConsumerId,
    services: Option<&str>,
) -> Result<(), CatalogError> {
    let is_there = |query: &str, value: &str| -> rusqlite::Result<bool> {
        connection.query_row(query, [value], |row| row.get(0))
    };
    let consumer_is_there =
        "SELECT EXISTS (SELECT 1 FROM consumers WHERE id = ?1 AND deleted_at IS NULL)";
    if !is_there(consumer_is_there, &consumer.to_string())? {
        return Err(CatalogError::Deleted("consumer_id"));
    }
    let services_are_there = "SELECT NOT EXISTS (SELECT 1 FROM json_each(?1) WHERE value NOT IN
        (SELECT id FROM services WHERE deleted_at IS NULL))";
    match services {
        Some(services) if !is_there(services_are_there, services)? => {
            Err(CatalogError::Deleted("services"))
        }
        _ => Ok(()),
    }
}

/// Keeps the digests of keys that have been verified.
pub(super) fn set_digests(
    connection: &mut Connection,
    digests: &[(KeyId, Digest)],
) -> Result<(), CatalogError> {
    let transaction = connection.transaction()?;
    {
        let mut update = transaction.prepare("UPDATE keys SET digest = ?2 WHERE id = ?1")?;
        for (key, digest) in digests {
            update.execute((key.to_string(), digest.to_bytes()))?;
        }
    }
    Ok(transaction.commit()?)
}

/// How many there are, revoked ones too.
pub(super) fn count(connection: &Connection) -> Result<usize, CatalogError> {
    let count =
        connection.query_row("SELECT count(*) FROM keys", (), |row| row.get::<_, i64>(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Inserts `successor` and lets the key `old` live until `old_ends_at_unix_us` at the most;
/// `None`: it is revoked at once. Answers the old and the new row.
pub(super) fn rotate(
    connection: &mut Connection,
    old: KeyId,
    successor: &NewKey,
    old_ends_at_unix_us: Option<i64>,
) -> Result<[KeyRow; 2], CatalogError> {
    let transaction = connection.transaction()?;
    if get(&transaction, old)?.revoked_at.is_some() {
        return Err(CatalogError::Deleted("id"));
    }
    let successor = insert(&transaction, successor)?;
    match old_ends_at_unix_us {
        Some(ends_at) => transaction.execute(
            "UPDATE keys SET expires_at_unix_us = min(coalesce(expires_at_unix_us, ?2), ?2)
             WHERE id = ?1",
            (old.to_string(), ends_at),
        )?,
        None => set_revoked(&transaction, old)?,
    };
    let old = get(&transaction, old)?;
    transaction.commit()?;
    Ok([old, successor])
}

/// Revokes a key, for good. And is it the last of its bucket?
pub(super) fn revoke(connection: &Connection, id: KeyId) -> Result<(KeyRow, bool), CatalogError> {
    set_revoked(connection, id)?;
    let row = get(connection, id)?;
    let is_last: bool = connection.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM keys
             WHERE consumer_id = ?1 AND bucket_id = ?2 AND revoked_at IS NULL)",
        (row.consumer.to_string(), row.bucket.to_string()),
        |row| row.get(0),
    )?;
    Ok((row, is_last))
}

fn set_revoked(connection: &Connection, id: KeyId) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
        (id.to_string(), created_now()),
    )
}

/// One key.
pub(super) fn get(connection: &Connection, id: KeyId) -> Result<KeyRow, CatalogError> {
    Ok(connection.query_row(&format!("{SELECT} WHERE id = ?1"), [id.to_string()], read)?)
}

/// One page of the keys, of one consumer if named.
pub(super) fn list(
    connection: &Connection,
    consumer: Option<ConsumerId>,
    page: Page,
) -> Result<Vec<KeyRow>, CatalogError> {
    let filter = if consumer.is_some() { "consumer_id = ?3" } else { "?3 IS NULL" };
    let query = format!("{SELECT} WHERE {filter} AND place > ?1 ORDER BY place LIMIT ?2");
    let consumer = consumer.map(|consumer| consumer.to_string());
    let mut statement = connection.prepare(&query)?;
    let rows = statement.query_map((page.after, page.limit, consumer), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One page of the keys that are not revoked.
pub(super) fn unrevoked(connection: &Connection, page: Page) -> Result<Vec<KeyRow>, CatalogError> {
    let query = format!("{SELECT} WHERE revoked_at IS NULL AND place > ?1 ORDER BY place LIMIT ?2");
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map((page.after, page.limit), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let services: Option<String> = row.get(6)?;
    let services = services.map(|text| {
        let ids: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
        ids.iter().filter_map(|id| id.parse().ok()).collect()
    });
    Ok(KeyRow {
        place: row.get(0)?,
        id: KeyId(id_at(row, 1)?),
        consumer: ConsumerId(id_at(row, 2)?),
        bucket: BucketId(id_at(row, 3)?),
        name: row.get(4)?,
        secret_hash: row.get::<_, String>(5)?.into(),
        services,
        expires_at_unix_us: row.get(7)?,
        revoked_at: row.get(8)?,
        created_at: row.get(9)?,
        digest: row.get::<_, Option<Vec<u8>>>(10)?.and_then(|bytes| Digest::from_bytes(&bytes)),
    })
}
