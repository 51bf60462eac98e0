//! How the catalog's values stand in their columns.

use crate::clock;
use crate::store::texts;
use rusqlite::types::Type;
use rusqlite::{Error, Row};
use shard::units::id_from_text;

/// `created_at` of a row made now.
pub(super) fn created_now() -> String {
    texts::time(clock::unix_us()).as_str().to_owned()
}

/// SQLite's integers are signed; what the API takes in fits.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// No row of ours holds a negative count.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads an identity; the tables hold none that is not one.
pub(super) fn id_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let text: String = row.get(column)?;
    id_from_text(text.as_bytes()).ok_or_else(|| unreadable(column, "not an identity"))
}

pub(super) fn unreadable(column: usize, cause: &str) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, cause.into())
}
