//! Splits each month's records and the sums by their consumer, for when one table of a month is too
//! large to be kept warm: every question about one consumer then has to do with one part only. It
//! goes table by table, each in a transaction of its own: whoever is interrupted begins again, and
//! finds what is split already. Instances go on meanwhile; their journals spool.

use super::blocking::Blocking;
use super::columns::unsigned;
use super::partitions::{self, first_day, in_parts};
use super::schema;
use super::session::Session;
use crate::store::error::LedgerError;
use crate::store::location::PostgresServer;
use shard::units::Period;
use tokio_postgres::Error;

/// The tables of sums, with their keys and further indexes.
const SUMS: [(&str, &str, &str); 3] = [
    (
        "usage_daily",
        "consumer_id, service_id, day",
        "CREATE INDEX usage_daily_by_period ON usage_daily (consumer_id, period)",
    ),
    ("usage_monthly", "consumer_id, service_id, period", ""),
    ("usage_fees", "consumer_id, service_id, period", ""),
];

/// Splits what is there and what is to come into so many parts. `tell` hears of each table that has
/// been split. Once split, it stays so.
pub(crate) fn split(
    server: &PostgresServer,
    parts: u32,
    mut tell: impl FnMut(&str),
) -> Result<(), LedgerError> {
    let opened = Blocking::open(server).map_err(|why| LedgerError::Unavailable(why.to_string()))?;
    let wanted = i32::try_from(parts).unwrap_or(i32::MAX);
    opened.run_long(async |db| {
        db.batch("SET lock_timeout = 0; SET statement_timeout = 0").await?;
        let set = "UPDATE usage_split SET parts = $1 WHERE parts IN (1, $1)";
        if db.execute(set, &[&wanted]).await? == 0 {
            let has = partitions::parts(db).await?;
            return Err(LedgerError::Row(format!("it is split into {has} parts already")));
        }
        for (table, key, index) in SUMS {
            if is_whole(db, table).await? {
                split_sums(db, wanted, table, key, index).await?;
                tell(table);
            }
        }
        let months =
            "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'usage_rows'::regclass AND relkind = 'r'
                 AND relname ~ '^usage_rows_\\d{4}_\\d{2}$' ORDER BY relname DESC";
        for row in db.rows(months, &[]).await? {
            let table: &str = row.get(0);
            split_month(db, wanted, table).await?;
            tell(table);
        }
        Ok(())
    })
}

async fn is_whole(db: &Session, table: &str) -> Result<bool, Error> {
    let whole = "SELECT count(*) FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r'";
    Ok(db.row(whole, &[&table]).await?.is_some_and(|row| unsigned(row.get(0)) > 0))
}

async fn split_sums(
    db: &Session,
    parts: i32,
    table: &str,
    key: &str,
    index: &str,
) -> Result<(), Error> {
    db.batch(&schema::begin_schema_change()).await?;
    db.batch(&format!(
        "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
         ALTER TABLE {table} RENAME TO {table}_whole;
         CREATE TABLE {table} (LIKE {table}_whole INCLUDING DEFAULTS) {};
         INSERT INTO {table} SELECT * FROM {table}_whole;
         DROP TABLE {table}_whole;
         ALTER TABLE {table} ADD PRIMARY KEY ({key});
         {index};
         COMMIT",
        in_parts(table, parts)
    ))
    .await
}

async fn split_month(db: &Session, parts: i32, table: &str) -> Result<(), Error> {
    let digits: String = table.chars().filter(char::is_ascii_digit).collect();
    let month = Period(digits.parse().unwrap_or_default());
    let (from, to) = (first_day(month), first_day(month.next()));
    db.batch(&schema::begin_schema_change()).await?;
    db.batch(&format!(
        "ALTER TABLE usage_rows DETACH PARTITION {table};
         ALTER TABLE {table} RENAME TO {table}_whole;
         CREATE TABLE {table} (LIKE usage_rows INCLUDING DEFAULTS) {};
         INSERT INTO {table} SELECT * FROM {table}_whole;
         DROP TABLE {table}_whole;
         ALTER TABLE usage_rows ATTACH PARTITION {table} FOR VALUES FROM ('{from}') TO ('{to}');
         COMMIT",
        in_parts(table, parts)
    ))
    .await
}
