//! Sums of integers that may not fit into SQLite's own 64 bits.

use rusqlite::Row;

/// Where [`wide_sum`] cuts integers in two.
const SPLIT_AT: i64 = 1_000_000_000;

/// The two columns of a sum of integers that SQLite's own 64 bits may not hold; see [`sum_at`].
pub(super) fn wide_sum(column: &str) -> String {
    format!("coalesce(sum({column} / {SPLIT_AT}), 0), coalesce(sum({column} % {SPLIT_AT}), 0)")
}

/// Reads what [`wide_sum`] put into this column and the next one.
pub(super) fn sum_at(row: &Row<'_>, column: usize) -> rusqlite::Result<i128> {
    let (high, low): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
    Ok(i128::from(high) * i128::from(SPLIT_AT) + i128::from(low))
}
