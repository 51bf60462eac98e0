//! The table `usage_dlq`, and what makes a record end there.

use crate::channels::Settled;
use crate::store::batch::Dead;
use crate::store::error::LedgerError;
use crate::store::refused::{record_in, slot_of, tell};
use crate::store::texts;
use rusqlite::{Connection, ErrorCode, Row, Transaction};
use std::fmt::Display;

/// Is the record at fault, and not the store? What the store may take later (it is locked, full,
/// or its disk fails) is tried again; whatever else it says, it will always say of this record.
pub(super) fn is_refusal(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::AuthorizationForStatementDenied
                | ErrorCode::OperationInterrupted
                | ErrorCode::OperationAborted
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
                | ErrorCode::SchemaChanged
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
        )
    )
}

/// Keeps a record aside.
pub(super) fn keep(
    transaction: &Transaction<'_>,
    journal_id: u128,
    settled: &Settled,
    reason: &dyn Display,
) -> rusqlite::Result<()> {
    let (slot, reason) = (slot_of(settled), reason.to_string());
    let record_id = texts::uuid(settled.record.record_id);
    transaction
        .prepare_cached("INSERT OR REPLACE INTO usage_dlq VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            texts::uuid(journal_id).as_str(),
            settled.seq as i64,
            &reason,
            slot.as_slice(),
            settled.request_id_or(record_id.as_str()),
        ))?;
    tell(journal_id, settled, &reason);
    Ok(())
}

/// How many records are kept aside.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let count = "SELECT count(*) FROM usage_dlq";
    connection.query_row(count, (), |row| Ok(row.get::<_, i64>(0)? as u64))
}

/// Gives every record that was kept aside to `take`, in the order of their journals.
pub(super) fn each<E: From<LedgerError>>(
    connection: &Connection,
    mut take: impl FnMut(Dead) -> Result<(), E>,
) -> Result<(), E> {
    let select = "SELECT journal_id, seq, reason, request_id, slot FROM usage_dlq
         ORDER BY journal_id, seq";
    let mut select = connection.prepare(select).map_err(LedgerError::from)?;
    for dead in select.query_map((), read).map_err(LedgerError::from)? {
        take(dead.map_err(LedgerError::from)?)?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Dead> {
    Ok(Dead {
        journal_id: row.get(0)?,
        seq: row.get(1)?,
        reason: row.get(2)?,
        request_id: row.get(3)?,
        record: record_in(row.get(4)?),
    })
}
