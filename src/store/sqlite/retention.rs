//! Records that have been kept for long enough are dropped; their sums by day stay. How far back
//! the ledger has its records is written down in the transaction that drops the first of them.

use super::columns::unsigned;
use rusqlite::Connection;

/// Records dropped in one turn at writing: some milliseconds of work, for which nobody who writes
/// has to wait longer than for a batch.
const DROPPED_AT_ONCE: u32 = 1_000;

/// The ledger has every record of the calls admitted from here on, microseconds since 1970.
pub(super) fn kept_from_us(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT kept_from_us FROM usage_retention")?
        .query_row((), |row| row.get(0))
}

/// Drops some of the records from before `before_us`; false: there are no more.
pub(super) fn drop_before(connection: &mut Connection, before_us: i64) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    transaction
        .prepare_cached("UPDATE usage_retention SET kept_from_us = max(kept_from_us, ?1)")?
        .execute([before_us])?;
    let mut dropped = 0;
    for table in ["usage_places", "usage_rows"] {
        let delete = format!(
            "DELETE FROM {table} WHERE record_id IN
                 (SELECT record_id FROM usage_rows WHERE occurred_at_us < ?1
                  ORDER BY occurred_at_us, record_id LIMIT ?2)"
        );
        let mut delete = transaction.prepare_cached(&delete)?;
        dropped = delete.execute((before_us, DROPPED_AT_ONCE))?;
    }
    transaction.commit()?;
    Ok(dropped == DROPPED_AT_ONCE as usize)
}

/// What the rows of the store take, and how much is left for more, bytes.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT (page_count - freelist_count) * page_size, freelist_count * page_size
               FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    connection
        .prepare_cached(sql)?
        .query_row((), |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))
}
