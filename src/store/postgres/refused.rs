//! The table `usage_dlq`.

use super::session::Session;
use crate::channels::Settled;
use crate::store::batch::Dead;
use crate::store::refused::{record_in, slot_of, tell};
use crate::store::texts;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// Keeps a record aside.
pub(super) async fn keep(
    db: &Session,
    journal_id: u128,
    settled: &Settled,
    reason: &str,
) -> Result<(), Error> {
    let record_id = texts::uuid(settled.record.record_id);
    // A text may be refused for the one character that Postgres has no place for.
    let request_id = settled.request_id_or(record_id.as_str()).replace('\0', "\u{fffd}");
    db.execute(
        "INSERT INTO usage_dlq (journal_id, seq, reason, slot, request_id)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (journal_id, seq) DO UPDATE
         SET reason = excluded.reason, slot = excluded.slot, request_id = excluded.request_id",
        &[
            &Uuid::from_u128(journal_id),
            &(settled.seq as i64),
            &reason,
            &slot_of(settled).as_slice(),
            &request_id,
        ],
    )
    .await?;
    tell(journal_id, settled, reason);
    Ok(())
}

/// How many records are kept aside.
pub(super) async fn count(db: &Session) -> Result<u64, Error> {
    let count = db.row("SELECT count(*) FROM usage_dlq", &[]).await?;
    Ok(count.map_or(0, |row| row.get::<_, i64>(0) as u64))
}

/// A page of what is kept aside, in the order of the journals, behind the place `after`.
pub(super) async fn page(db: &Session, after: (Uuid, i64), limit: i64) -> Result<Vec<Row>, Error> {
    let select = "SELECT journal_id, seq, reason, request_id, slot FROM usage_dlq
         WHERE (journal_id, seq) > ($1, $2) ORDER BY journal_id, seq LIMIT $3";
    db.rows(select, &[&after.0, &after.1, &limit]).await
}

/// A row of [`page`], and its place.
pub(super) fn read(row: &Row) -> ((Uuid, i64), Dead) {
    let (journal, seq): (Uuid, i64) = (row.get(0), row.get(1));
    let dead = Dead {
        journal_id: journal.hyphenated().to_string(),
        seq,
        reason: row.get(2),
        request_id: row.get(3),
        record: record_in(row.get(4)),
    };
    ((journal, seq), dead)
}
