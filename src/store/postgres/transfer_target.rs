//! A Postgres that is filled from an embedded store.

use super::blocking::{Blocking, TooLong};
use super::partitions;
use super::schema;
use super::session::Session;
use crate::store::error::{LedgerError, StoreError, TransferError};
use crate::store::location::PostgresServer;
use crate::store::rows::contract_plans;
use crate::store::transfer_tables::{TableSums, TransferTable};
use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use shard::units::Period;
use std::collections::HashMap;
use tokio_postgres::{Error, Row};

/// See the module.
pub(in crate::store) struct TransferTarget(Blocking);

impl TransferTarget {
    /// Connects, and brings the schema up to date.
    pub(in crate::store) fn open(server: &PostgresServer) -> Result<Self, TransferError> {
        Ok(Self(Blocking::open_half_filled(server)?))
    }

    /// Begins, or goes on: how many rows of each table are there. A database with other data is
    /// refused, and so is one that an instance is connected to.
    pub(in crate::store) fn begin(
        &self,
        tables: &[TransferTable],
        source: &str,
        months: &[Period],
    ) -> Result<HashMap<String, u64>, TransferError> {
        self.0.run(async |db| {
            db.batch(&schema::begin_schema_change()).await?;
            refuse_others(db).await?;
            let begun = db.rows("SELECT name, source, rows, is_done FROM transfers", &[]).await?;
            if begun.is_empty() {
                refuse_other_data(db, tables).await?;
                db.batch("DELETE FROM plans; DELETE FROM usage_retention").await?;
                partitions::make_for(db, months).await?;
                let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
                let insert = "INSERT INTO transfers (name, source, rows, is_done)
                    SELECT name, $2, 0, false FROM unnest($1::text[]) AS given (name)";
                db.execute(insert, &[&names, &source]).await?;
            } else if begun.iter().all(|row| row.get(3)) {
                let message = "that database has been filled by `tollgate migrate` before, and \
                               whatever has come since: it is not written over";
                return Err(TransferError(message.to_owned()));
            } else if begun.iter().any(|row| row.get::<_, &str>(1) != source) {
                let message = "that database is half filled from another store, or from this one \
                               before something changed in it: drop it, and begin anew";
                return Err(TransferError(message.to_owned()));
            }
            db.batch("COMMIT").await?;
            Ok(begun.iter().map(|row| (row.get(0), row.get::<_, i64>(2) as u64)).collect())
        })
    }

    /// Adds `count` rows to the `before` that a table has.
    pub(in crate::store) fn copy(
        &self,
        table: &TransferTable,
        before: u64,
        lines: String,
        count: u64,
    ) -> Result<(), TransferError> {
        let columns: Vec<&str> = table.columns.iter().map(|(column, _)| *column).collect();
        let copy = format!("COPY {} ({}) FROM STDIN", table.name, columns.join(", "));
        self.0.run(async |db| {
            db.batch("BEGIN").await?;
            let sink = db.client().copy_in::<_, Bytes>(&copy).await?;
            pin_mut!(sink);
            sink.send(Bytes::from(lines)).await?;
            sink.finish().await?;
            let advance = "UPDATE transfers SET rows = rows + $3 WHERE name = $1 AND rows = $2";
            let values: super::session::Values<'_> =
                &[&table.name, &(before as i64), &(count as i64)];
            if db.execute(advance, values).await? != 1 {
                let message = "another `tollgate migrate` fills that database";
                return Err(TransferError(message.to_owned()));
            }
            Ok(db.batch("COMMIT").await?)
        })
    }

    /// Makes the months' sums of the days', which hold all that was ever admitted, and has the
    /// sequences go on behind what is there.
    pub(in crate::store) fn add_months(&self) -> Result<(), TransferError> {
        let most = "9223372036854775807";
        let sum = |column: &str| format!("least(sum({column}), {most})::bigint");
        let counts =
            ["calls", "input_tokens", "cached_tokens", "output_tokens"].map(sum).join(", ");
        let identity = |(table, column): (&str, &str)| {
            format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{column}'),
                     (SELECT coalesce(max({column}), 0) + 1 FROM {table}), false)"
            )
        };
        let identities = ["plans", "consumers", "services", "keys"].map(|table| (table, "place"));
        let sequences: Vec<String> =
            identities.into_iter().chain([("usage_instances", "number")]).map(identity).collect();
        self.0.run(async |db| {
            Ok(db
                .batch(&format!(
                    "BEGIN; DELETE FROM usage_monthly;
                     INSERT INTO usage_monthly (consumer_id, service_id, period, calls,
                         input_tokens, cached_tokens, output_tokens, cost_nanousd)
                     SELECT consumer_id, service_id, period, {counts}, sum(cost_nanousd)
                     FROM usage_daily GROUP BY consumer_id, service_id, period;
                     SELECT setval('catalog_changes', 1); {}; COMMIT",
                    sequences.join("; ")
                ))
                .await?)
        })
    }

    /// What a table's rows come to.
    pub(in crate::store) fn sums(&self, table: &TransferTable) -> Result<TableSums, TransferError> {
        let sum = |column: &&str| match *column {
            // A text, and empty where there is none.
            "month_place" => "coalesce(sum(nullif(month_place, '')::numeric), 0)::text".to_owned(),
            column => format!("coalesce(sum({column}::numeric), 0)::text"),
        };
        let sums: Vec<String> = table.sums.iter().map(sum).collect();
        let select = format!("SELECT count(*), {} FROM {}", sums.join(", "), table.name);
        self.0.run(async |db| {
            let row = db.row(&select, &[]).await?;
            let read = |row: &Row| TableSums {
                rows: row.get::<_, i64>(0) as u64,
                sums: (1..row.len())
                    .map(|at| row.get::<_, &str>(at).parse().unwrap_or(i128::MAX))
                    .collect(),
            };
            row.as_ref().map(read).ok_or_else(|| TransferError("no answer".to_owned()))
        })
    }

    /// From now on it is a store like any other.
    pub(in crate::store) fn finish(&self) -> Result<(), TransferError> {
        self.0.run(async |db| Ok(db.batch("UPDATE transfers SET is_done = true").await?))
    }
}

/// Whoever has the database open would not see what comes, and may write.
async fn refuse_others(db: &Session) -> Result<(), TransferError> {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = 'tollgate' AND pid <> pg_backend_pid()";
    match db.row(others, &[]).await?.map_or(0, |row| row.get::<_, i64>(0)) {
        0 => Ok(()),
        count => Err(TransferError(format!(
            "{count} connections of Tollgate are open to that database: stop the instances"
        ))),
    }
}

/// A new store has the plans of the contract and nothing else.
async fn refuse_other_data(db: &Session, tables: &[TransferTable]) -> Result<(), TransferError> {
    let others = tables.iter().filter(|it| !["plans", "usage_retention"].contains(&it.name));
    let filled: Vec<String> = others
        .map(|it| format!("SELECT '{0}' WHERE EXISTS (SELECT 1 FROM {0})", it.name))
        .collect();
    let filled = db.rows(&filled.join(" UNION ALL "), &[]).await?;
    let mut filled: Vec<String> = filled.iter().map(|row| row.get(0)).collect();
    let plans = "SELECT name, rate_per_s, burst, quota_tokens FROM plans WHERE deleted_at IS NULL
         ORDER BY place";
    let of_row = |row: &Row| (row.get::<_, String>(0), [1, 2, 3].map(|at| row.get::<_, i64>(at)));
    let plans: Vec<_> = db.rows(plans, &[]).await?.iter().map(of_row).collect();
    let new = contract_plans().map_err(|error| TransferError(error.to_string()))?;
    let is_new = new.iter().map(|plan| {
        let numbers = [plan.rate_per_s, plan.burst, plan.quota_tokens];
        (plan.name.to_string(), numbers.map(super::columns::signed))
    });
    if !plans.is_empty() && !plans.into_iter().eq(is_new) {
        filled.push("plans".to_owned());
    }
    match filled.is_empty() {
        true => Ok(()),
        false => Err(TransferError(format!(
            "that database has data of its own ({}): give one that is empty",
            filled.join(", ")
        ))),
    }
}

impl From<Error> for TransferError {
    fn from(error: Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<TooLong> for TransferError {
    fn from(too_long: TooLong) -> Self {
        Self(LedgerError::from(too_long).to_string())
    }
}
