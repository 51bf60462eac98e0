//! The schema, brought up to date at each start, by one instance at a time.

use super::errors::TooLong;
use super::session::{Access, CONNECT_WITHIN, Session};
use super::{partitions, plans};
use crate::store::error::{CatalogError, StoreError};
use crate::store::migrations::{Migration, checksum_of, pending};
use tokio::time::timeout;

/// Every migration in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    ("0001_create_catalog", include_str!("../../../migrations/postgres/0001_create_catalog.sql")),
    ("0002_create_usage", include_str!("../../../migrations/postgres/0002_create_usage.sql")),
    (
        "0003_narrow_usage_indexes",
        include_str!("../../../migrations/postgres/0003_narrow_usage_indexes.sql"),
    ),
    ("0004_place_usage", include_str!("../../../migrations/postgres/0004_place_usage.sql")),
    (
        "0005_transfer_from_embedded",
        include_str!("../../../migrations/postgres/0005_transfer_from_embedded.sql"),
    ),
    (
        "0006_split_by_consumer",
        include_str!("../../../migrations/postgres/0006_split_by_consumer.sql"),
    ),
    ("0007_name_secrets", include_str!("../../../migrations/postgres/0007_name_secrets.sql")),
    ("0008_pack_usage", include_str!("../../../migrations/postgres/0008_pack_usage.sql")),
];

/// The advisory locks of this program are its name's first letters and these.
const LOCK_CLASS: i32 = 0x746f_6c6c;
const SCHEMA_LOCK: i32 = 1;
const CHANGES_LOCK: i32 = 2;

/// Begins a change of the catalog: no other instance makes one before this one is over.
pub(super) fn begin_change() -> String {
    begin(CHANGES_LOCK)
}

/// Begins a change of the schema, likewise.
pub(super) fn begin_schema_change() -> String {
    begin(SCHEMA_LOCK)
}

fn begin(lock: i32) -> String {
    format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_CLASS}, {lock})")
}

/// Tells this program's schema from that of others.
pub(super) fn version() -> String {
    MIGRATIONS.iter().map(|(_, text)| checksum_of(text)).collect()
}

/// Connects, and brings the schema up to date: instances that start at the same time do it one
/// after the other. A new store gets the plans of the contract; the months' partitions are made.
pub(super) async fn open(access: &Access) -> Result<Session, StoreError> {
    open_for(access, false).await
}

/// The same for whoever fills it from an embedded store: it is half filled, and gets no plans.
pub(super) async fn open_half_filled(access: &Access) -> Result<Session, StoreError> {
    open_for(access, true).await
}

async fn open_for(access: &Access, is_transfer: bool) -> Result<Session, StoreError> {
    let db = match timeout(CONNECT_WITHIN, Session::open(access)).await {
        Ok(opened) => opened?,
        Err(_) => return Err(TooLong.into()),
    };
    // Another instance may be at it, with as long a migration as there may ever be.
    db.batch("SET lock_timeout = 0; SET statement_timeout = 0").await?;
    db.batch(&begin_schema_change()).await?;
    // A failure's own word matters more than its rollback's; the session is dropped with it.
    migrate(&db).await?;
    if !is_transfer {
        refuse_half_filled(&db).await?;
        plans::seed(&db).await.map_err(|failure| as_store_error(&failure))?;
    }
    partitions::make(&db).await?;
    db.batch("COMMIT").await?;
    Session::open(access).await.map_err(StoreError::from)
}

async fn migrate(db: &Session) -> Result<(), StoreError> {
    db.batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             name text PRIMARY KEY, checksum text NOT NULL,
             applied_at timestamptz NOT NULL DEFAULT now()
         )",
    )
    .await?;
    let applied =
        db.rows("SELECT name, checksum FROM schema_migrations ORDER BY name", &[]).await?;
    let applied: Vec<(String, String)> =
        applied.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, text) in pending(MIGRATIONS, &applied)? {
        db.batch(text).await?;
        let insert = "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)";
        db.execute(insert, &[name, &checksum_of(text)]).await?;
    }
    Ok(())
}

async fn refuse_half_filled(db: &Session) -> Result<(), StoreError> {
    let half = "SELECT 1 FROM transfers WHERE NOT is_done LIMIT 1";
    match db.row(half, &[]).await? {
        None => Ok(()),
        Some(_) => Err(StoreError::Failed(
            "the store (Postgres) is half filled: run `tollgate migrate` again, to its end".into(),
        )),
    }
}

fn as_store_error(failure: &CatalogError) -> StoreError {
    StoreError::Failed(failure.to_string())
}
