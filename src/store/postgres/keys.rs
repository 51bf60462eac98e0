//! The table `keys`.

use super::Done;
use super::columns::{created_at, now, signed, time_text_at, unsigned};
use super::session::Session;
use crate::clock;
use crate::store::error::CatalogError;
use crate::store::in_use::{self, USERS_NAMED};
use crate::store::rows::{Digest, KeyRow, NewKey, Page};
use shard::units::{BucketId, ConsumerId, KeyId, ServiceId};
use tokio_postgres::Row;

const SELECT: &str = "SELECT place, id, consumer_id, bucket_id, name, secret_hash, services,
    expires_at_unix_us, revoked_at, created_at, digest FROM keys";

/// A new key.
pub(super) async fn insert(db: &Session, key: &NewKey) -> Done<KeyRow> {
    let services: Option<Vec<i64>> =
        key.services.as_ref().map(|ids| ids.iter().map(|id| signed(id.0)).collect());
    refuse_deleted(db, key.consumer, services.as_deref()).await?;
    db.execute(
        "INSERT INTO keys (id, consumer_id, bucket_id, name, secret_hash, services,
             expires_at_unix_us, created_at, digest, changed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nextval('catalog_changes'))",
        &[
            &signed(key.id.0),
            &signed(key.consumer.0),
            &signed(key.bucket.0),
            &key.name,
            &key.secret_hash,
            &services,
            &key.expires_at_unix_us,
            &now(),
            &key.digest.to_bytes(),
        ],
    )
    .await?;
    get(db, key.id).await
}

/// Making a key takes a while: what it is for may have been deleted since it was looked up.
async fn refuse_deleted(db: &Session, consumer: ConsumerId, services: Option<&[i64]>) -> Done<()> {
    let consumer_is_there = "SELECT 1 FROM consumers WHERE id = $1 AND deleted_at IS NULL";
    if db.row(consumer_is_there, &[&signed(consumer.0)]).await?.is_none() {
        return Err(CatalogError::Deleted("consumer_id"));
    }
    let service_is_gone = "SELECT 1 FROM unnest($1::bigint[]) AS named (id)
        WHERE id NOT IN (SELECT id FROM services WHERE deleted_at IS NULL) LIMIT 1";
    match services {
        Some(services) if db.row(service_is_gone, &[&services]).await?.is_some() => {
            Err(CatalogError::Deleted("services"))
        }
        _ => Ok(()),
    }
}

/// Refuses to let go what keys use that still work: those of `condition`, on `$1`.
pub(super) async fn refuse_used(db: &Session, condition: &str, id: u64) -> Done<()> {
    let living = format!(
        "SELECT id, count(*) OVER () FROM keys WHERE {condition} AND revoked_at IS NULL
             AND (expires_at_unix_us IS NULL OR expires_at_unix_us > $2)
         ORDER BY place LIMIT {USERS_NAMED}"
    );
    let living = db.rows(&living, &[&signed(id), &clock::unix_us()]).await?;
    let ids: Vec<String> =
        living.iter().map(|row| KeyId(unsigned(row.get(0))).to_string()).collect();
    in_use::refuse_used("key", &ids, living.first().map_or(0, |row| row.get(1)))
}

/// Keeps the digests of keys that have been verified.
pub(super) async fn set_digests(db: &Session, digests: &[(KeyId, Digest)]) -> Done<()> {
    let ids: Vec<i64> = digests.iter().map(|(id, _)| signed(id.0)).collect();
    let digests: Vec<Vec<u8>> = digests.iter().map(|(_, digest)| digest.to_bytes()).collect();
    db.execute(
        "UPDATE keys SET digest = given.digest, changed = nextval('catalog_changes')
         FROM unnest($1::bigint[], $2::bytea[]) AS given (id, digest) WHERE keys.id = given.id",
        &[&ids, &digests],
    )
    .await?;
    Ok(())
}

/// How many there are, revoked ones too.
pub(super) async fn count(db: &Session) -> Done<usize> {
    let count = db.row("SELECT count(*) FROM keys", &[]).await?;
    let count: i64 = count.map_or(0, |row| row.get(0));
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Inserts `successor` and lets the key `old` live until `old_ends_at_unix_us` at the most;
/// `None`: it is revoked at once. Answers the old and the new row.
pub(super) async fn rotate(
    db: &Session,
    old: KeyId,
    successor: &NewKey,
    old_ends_at_unix_us: Option<i64>,
) -> Done<[KeyRow; 2]> {
    if get(db, old).await?.revoked_at.is_some() {
        return Err(CatalogError::Deleted("id"));
    }
    let successor = insert(db, successor).await?;
    match old_ends_at_unix_us {
        Some(ends_at) => {
            db.execute(
                "UPDATE keys SET expires_at_unix_us = least(expires_at_unix_us, $2),
                     changed = nextval('catalog_changes') WHERE id = $1",
                &[&signed(old.0), &ends_at],
            )
            .await?;
        }
        None => set_revoked(db, old).await?,
    }
    Ok([get(db, old).await?, successor])
}

/// Revokes a key, for good. And is it the last of its bucket?
pub(super) async fn revoke(db: &Session, id: KeyId) -> Done<(KeyRow, bool)> {
    set_revoked(db, id).await?;
    let row = get(db, id).await?;
    let another = "SELECT 1 FROM keys
        WHERE consumer_id = $1 AND bucket_id = $2 AND revoked_at IS NULL LIMIT 1";
    let another = db.row(another, &[&signed(row.consumer.0), &signed(row.bucket.0)]).await?;
    Ok((row, another.is_none()))
}

async fn set_revoked(db: &Session, id: KeyId) -> Done<()> {
    let revoke = "UPDATE keys SET revoked_at = $2, changed = nextval('catalog_changes')
                  WHERE id = $1 AND revoked_at IS NULL";
    db.execute(revoke, &[&signed(id.0), &now()]).await?;
    Ok(())
}

/// One key.
pub(super) async fn get(db: &Session, id: KeyId) -> Done<KeyRow> {
    let row = db.row(&format!("{SELECT} WHERE id = $1"), &[&signed(id.0)]).await?;
    row.as_ref().map(read).ok_or(CatalogError::Missing)
}

/// One page of the keys, of one consumer if named.
pub(super) async fn list(
    db: &Session,
    consumer: Option<ConsumerId>,
    page: Page,
) -> Done<Vec<KeyRow>> {
    let limit = i64::from(page.limit);
    let rows = match consumer.map(|consumer| signed(consumer.0)) {
        Some(consumer) => {
            let of =
                format!("{SELECT} WHERE consumer_id = $3 AND place > $1 ORDER BY place LIMIT $2");
            db.rows(&of, &[&page.after, &limit, &consumer]).await?
        }
        None => {
            let all = format!("{SELECT} WHERE place > $1 ORDER BY place LIMIT $2");
            db.rows(&all, &[&page.after, &limit]).await?
        }
    };
    Ok(rows.iter().map(read).collect())
}

/// One page of the keys that are not revoked.
pub(super) async fn unrevoked(db: &Session, page: Page) -> Done<Vec<KeyRow>> {
    let list = format!("{SELECT} WHERE revoked_at IS NULL AND place > $1 ORDER BY place LIMIT $2");
    let rows = db.rows(&list, &[&page.after, &i64::from(page.limit)]).await?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> KeyRow {
    let services: Option<Vec<i64>> = row.get(6);
    let digest: Option<&[u8]> = row.get(10);
    KeyRow {
        place: row.get(0),
        id: KeyId(unsigned(row.get(1))),
        consumer: ConsumerId(unsigned(row.get(2))),
        bucket: BucketId(unsigned(row.get(3))),
        name: row.get(4),
        secret_hash: row.get::<_, &str>(5).into(),
        services: services.map(|ids| ids.into_iter().map(|id| ServiceId(unsigned(id))).collect()),
        expires_at_unix_us: row.get(7),
        revoked_at: time_text_at(row, 8),
        created_at: created_at(row, 9),
        digest: digest.and_then(Digest::from_bytes),
    }
}
