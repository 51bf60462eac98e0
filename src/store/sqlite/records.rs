//! The ledger's records one by one, as its view `usage_records` shows them: for keeping them
//! elsewhere.

use super::columns::unsigned;
use super::wide::{sum_at, wide_sum};
use crate::store::error::LedgerError;
use crate::store::usage::{RECORD_COLUMNS, RecordTotals};
use rusqlite::types::Value;
use rusqlite::{Connection, Row};

/// Gives each record of a call from before `before_us` to `take`, in the order of the ids, with
/// what it adds to the totals. `take`'s error ends it.
pub(super) fn each_before<E>(
    connection: &Connection,
    before_us: i64,
    mut take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
) -> Result<Result<(), E>, LedgerError> {
    let columns = RECORD_COLUMNS.join(", ");
    let mut select = connection.prepare(&format!(
        "SELECT {columns} FROM usage_records
         WHERE occurred_at < strftime('%Y-%m-%dT%H:%M:%S', ?1 / 1000000, 'unixepoch')
         ORDER BY record_id"
    ))?;
    let mut rows = select.query([before_us])?;
    let mut texts = vec![String::new(); RECORD_COLUMNS.len()];
    while let Some(row) = rows.next()? {
        for (column, text) in texts.iter_mut().enumerate() {
            *text = text_at(row, column)?;
        }
        if let Err(error) = take(&texts, totals_of(row)?) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// The sums of the records of calls from before `before_us`, as SQLite adds them up.
pub(super) fn totals_before(
    connection: &Connection,
    before_us: i64,
) -> rusqlite::Result<RecordTotals> {
    let [tokens, cost] = ["(input_tokens + output_tokens)", "cost_nanousd"].map(wide_sum);
    let sql =
        format!("SELECT count(*), {tokens}, {cost} FROM usage_rows WHERE occurred_at_us < ?1");
    connection.query_row(&sql, [before_us], |row| {
        let [tokens, cost_nanousd] = [sum_at(row, 1)?, sum_at(row, 3)?].map(i128::unsigned_abs);
        Ok(RecordTotals { records: unsigned(row.get(0)?), tokens, cost_nanousd })
    })
}

fn totals_of(row: &Row<'_>) -> rusqlite::Result<RecordTotals> {
    let number = |name: &str| row.get(name).map(|number| u128::from(unsigned(number)));
    let tokens = number("input_tokens")? + number("output_tokens")?;
    Ok(RecordTotals { records: 1, tokens, cost_nanousd: number("cost_nanousd")? })
}

fn text_at(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get(column)? {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        // The view has no others.
        Value::Null | Value::Real(_) | Value::Blob(_) => String::new(),
    })
}
