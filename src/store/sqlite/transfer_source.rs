//! The embedded store as what a Postgres is filled from: its rows as lines of COPY in text form.

use super::file;
use super::wide::{sum_at, wide_sum};
use crate::store::error::{StoreError, TransferError};
use crate::store::texts;
use crate::store::transfer_tables::{Form, TableSums, TransferTable};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use shard::units::{Period, id_from_text};
use std::fmt::Write as _;
use std::path::Path;
use std::str;
use uuid::Uuid;

/// A cost of a day that is over this has as many of them in a column of its own.
const CARRY: i128 = 1_000_000_000_000_000_000;

/// See the module.
pub(in crate::store) struct TransferSource(Connection);

impl TransferSource {
    /// Opens the store of `data_dir` and brings its schema up to date.
    pub(in crate::store) fn open(data_dir: &Path) -> Result<Self, TransferError> {
        let db = file::open(data_dir)?;
        let plain = "SELECT name FROM services WHERE credential_header IS NOT NULL LIMIT 1";
        let plain: Option<String> = db.query_row(plain, (), |row| row.get(0)).optional()?;
        match plain {
            None => Ok(Self(db)),
            Some(service) => Err(TransferError(format!(
                "the upstream credential of {service} is not sealed yet: start an instance of this \
                 version on the embedded store once, and stop it"
            ))),
        }
    }

    /// The months that it has records of.
    pub(in crate::store) fn months(&self) -> Result<Vec<Period>, TransferError> {
        let (mut months, mut from) = (Vec::new(), i64::MIN);
        let next = "SELECT min(occurred_at_us) FROM usage_rows WHERE occurred_at_us >= ?1";
        while let Some(at_us) =
            self.0.query_row(next, [from], |row| row.get::<_, Option<i64>>(0))?
        {
            let month = Period::of(at_us);
            months.push(month);
            from = month.next().starts_at_unix_us();
        }
        Ok(months)
    }

    /// Gives each row of a table to `take` but the first `skipped`, in the order of its key.
    pub(in crate::store) fn each_row(
        &self,
        table: &TransferTable,
        skipped: u64,
        mut take: impl FnMut(&str) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let columns: Vec<&str> =
            table.columns.iter().map(|(column, _)| expression(table.name, column)).collect();
        let mut select = self.0.prepare(&format!(
            "SELECT {} FROM {} ORDER BY {} LIMIT -1 OFFSET ?1",
            columns.join(", "),
            table.name,
            table.key
        ))?;
        let mut rows = select.query([skipped as i64])?;
        let mut line = String::new();
        while let Some(row) = rows.next()? {
            line.clear();
            for (at, (column, form)) in table.columns.iter().enumerate() {
                if at > 0 {
                    line.push('\t');
                }
                put(&mut line, *form, row.get_ref(at)?).ok_or_else(|| {
                    TransferError(format!("{}.{column} holds what is unreadable", table.name))
                })?;
            }
            line.push('\n');
            take(&line)?;
        }
        Ok(())
    }

    /// What a table's rows come to.
    pub(in crate::store) fn sums(&self, table: &TransferTable) -> Result<TableSums, TransferError> {
        let summed = |column: &&'static str| match *column {
            "month_place" | "outcome" => wide_sum(expression(table.name, column)),
            column => wide_sum(column),
        };
        let sums: Vec<String> = table.sums.iter().map(summed).collect();
        let carry = if table.name == "usage_daily" { "sum(cost_carry)" } else { "0" };
        let select = format!(
            "SELECT count(*), coalesce({carry}, 0), {} FROM {}",
            sums.join(", "),
            table.name
        );
        Ok(self.0.query_row(&select, (), |row| {
            let mut sums: Vec<i128> = (0..table.sums.len())
                .map(|at| sum_at(row, 2 + 2 * at))
                .collect::<Result<_, _>>()?;
            if let Some(cost) = sums.last_mut() {
                *cost += i128::from(row.get::<_, i64>(1)?) * CARRY;
            }
            Ok(TableSums { rows: row.get::<_, i64>(0)? as u64, sums })
        })?)
    }
}

/// What a column of Postgres is read by here.
fn expression(table: &str, column: &'static str) -> &'static str {
    match (table, column) {
        // Everything is new to whoever follows the changes there.
        (_, "changed") => "1",
        (_, "occurred_at") => "occurred_at_us",
        // What the columns there hold.
        (_, "latency_us") => "min(latency_us, 2147483647)",
        (_, "ttft_us") => "min(ttft_us, 2147483647)",
        (_, "overhead_us") => "min(overhead_us, 2147483647)",
        // What several columns here say is one there, and no text is an empty one.
        (_, "outcome") => "(outcome + 8 * streamed + 16 * estimated)",
        ("usage_rows", "request_id") => "coalesce(request_id, '')",
        (_, "month_place") => {
            "coalesce((SELECT month_place FROM usage_places WHERE usage_places.record_id =
                 usage_rows.record_id), '')"
        }
        ("usage_daily", "cost_nanousd") => {
            "iif(cost_carry > 0, cost_carry || printf('%018d', cost_nanousd), cost_nanousd)"
        }
        _ => column,
    }
}

/// Adds a value to a line; `None`: it is none of that form.
fn put(line: &mut String, form: Form, value: ValueRef<'_>) -> Option<()> {
    match (form, value) {
        (_, ValueRef::Null) => line.push_str("\\N"),
        (Form::Same, ValueRef::Integer(number)) => write!(line, "{number}").ok()?,
        (Form::Same, ValueRef::Text(text)) => put_text(line, str::from_utf8(text).ok()?),
        (Form::Id, ValueRef::Text(text)) => write!(line, "{}", id_from_text(text)?).ok()?,
        (Form::Ids, ValueRef::Text(text)) => {
            let ids: Vec<String> = serde_json::from_slice(text).ok()?;
            let ids: Option<Vec<String>> =
                ids.iter().map(|id| Some(id_from_text(id.as_bytes())?.to_string())).collect();
            write!(line, "{{{}}}", ids?.join(",")).ok()?;
        }
        (Form::Uuid, ValueRef::Blob(bytes)) => {
            write!(line, "{}", Uuid::from_slice(bytes).ok()?).ok()?;
        }
        (Form::Bytes, ValueRef::Blob(bytes)) => {
            line.push_str("\\\\x");
            bytes.iter().try_for_each(|byte| write!(line, "{byte:02x}")).ok()?;
        }
        (Form::UnixUs, ValueRef::Integer(at_us)) => line.push_str(texts::time(at_us).as_str()),
        (Form::Month, ValueRef::Text(text)) => {
            line.push_str(&str::from_utf8(text).ok()?.replace('-', ""));
        }
        _ => return None,
    }
    Some(())
}

fn put_text(line: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // The one character that Postgres has no place for.
            '\0' => line.push('\u{fffd}'),
            other => line.push(other),
        }
    }
}

impl From<rusqlite::Error> for TransferError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}
