//! How the catalog's values stand in their columns.

use crate::clock;
use crate::store::texts;
use bytes::{BufMut, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// What a value's conversion may fail with.
type SqlError = Box<dyn std::error::Error + Sync + Send>;

/// Integers are signed; what the API takes in fits, and so do identities.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// No row of ours holds a negative count.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// An instant, microseconds since 1970, as a `timestamptz`.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnixUs(pub(super) i64);

/// Postgres counts its microseconds from 2000 on.
pub(super) const EPOCH_UNIX_US: i64 = 946_684_800_000_000;

impl ToSql for UnixUs {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, SqlError> {
        out.put_i64(self.0.saturating_sub(EPOCH_UNIX_US));
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for UnixUs {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, SqlError> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?).saturating_add(EPOCH_UNIX_US)))
    }

    accepts!(TIMESTAMPTZ);
}

/// `created_at` of a row made now.
pub(super) fn now() -> UnixUs {
    UnixUs(clock::unix_us())
}

/// RFC 3339 in UTC, of a column that may be null.
pub(super) fn time_text_at(row: &Row, column: usize) -> Option<String> {
    let at: Option<UnixUs> = row.get(column);
    at.map(|UnixUs(at)| texts::time(at).as_str().to_owned())
}

/// The same of one that is never null.
pub(super) fn created_at(row: &Row, column: usize) -> String {
    time_text_at(row, column).unwrap_or_default()
}

/// A sum that Postgres gives as text, since it may leave 64 bits: stops at the largest integer.
pub(super) fn wide_at(row: &Row, column: usize) -> i64 {
    let text: String = row.get(column);
    match text.parse::<i128>() {
        Ok(number) => i64::try_from(number).unwrap_or(i64::MAX),
        // Longer than 128 bits; a sum of ours is never negative.
        Err(_) => i64::MAX,
    }
}
