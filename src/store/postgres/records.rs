//! The ledger's records one by one, as its view `usage_records` shows them, and the end of those
//! that have been kept for long enough: they go by month, a partition at a time. How far back the
//! ledger has its records is written down in the transaction that drops the first of them.

use super::columns::{UnixUs, unsigned};
use super::schema;
use super::session::Session;
use crate::store::error::LedgerError;
use crate::store::usage::{RECORD_COLUMNS, RecordTotals};
use shard::units::Period;
use tokio_postgres::{Error, Row};

/// Records that are fetched at once.
const FETCHED_AT_ONCE: u32 = 1_000;

/// The ledger has every record of the calls admitted from here on, microseconds since 1970.
pub(super) async fn kept_from_us(db: &Session) -> Result<i64, Error> {
    let row = db.row("SELECT kept_from_us FROM usage_retention", &[]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Drops the records of one month that ended before `before_us`; false: there is none.
pub(super) async fn drop_before(db: &Session, before_us: i64) -> Result<bool, Error> {
    let list = "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'usage_rows'::regclass AND relname ~ '^usage_rows_\\d{4}_\\d{2}$'
         ORDER BY relname LIMIT 1";
    let Some(oldest) = db.row(list, &[]).await? else { return Ok(false) };
    let name: &str = oldest.get(0);
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    let ends_at_us = digits.parse().map(|month| Period(month).next().starts_at_unix_us());
    let Some(ends_at_us) = ends_at_us.ok().filter(|ends_at_us| *ends_at_us <= before_us) else {
        return Ok(false);
    };
    db.batch(&schema::begin_schema_change()).await?;
    let keep = "UPDATE usage_retention SET kept_from_us = greatest(kept_from_us, $1)";
    db.execute(keep, &[&ends_at_us]).await?;
    // Another instance may have dropped it meanwhile.
    db.batch(&format!("DROP TABLE IF EXISTS {name}; COMMIT")).await?;
    Ok(true)
}

/// Gives each record of a call from before `before_us` to `take`, in the order of the ids, with
/// what it adds to the totals. `take`'s error ends it.
pub(super) async fn each_before<E>(
    db: &Session,
    before_us: i64,
    mut take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
) -> Result<Result<(), E>, LedgerError> {
    let number = |column: &&str| match *column {
        "streamed" => "streamed::integer::text".to_owned(),
        column => format!("{column}::text"),
    };
    let columns: Vec<String> = RECORD_COLUMNS.iter().map(number).collect();
    let before = format!("'epoch'::timestamptz + {before_us} * interval '1 microsecond'");
    db.batch(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         DECLARE records NO SCROLL CURSOR FOR SELECT {}, input_tokens + output_tokens::bigint,
             cost_nanousd FROM usage_records
         WHERE occurred_at < to_char(({before}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')
         ORDER BY record_id",
        columns.join(", ")
    ))
    .await?;
    let fetch = format!("FETCH {FETCHED_AT_ONCE} FROM records");
    loop {
        let rows = db.client().query(&fetch, &[]).await.map_err(LedgerError::from)?;
        if rows.is_empty() {
            db.batch("COMMIT").await?;
            return Ok(Ok(()));
        }
        for row in &rows {
            let at = RECORD_COLUMNS.len();
            let texts: Vec<String> = (0..at).map(|column| row.get(column)).collect();
            let totals = RecordTotals {
                records: 1,
                tokens: unsigned(row.get(at)).into(),
                cost_nanousd: unsigned(row.get(at + 1)).into(),
            };
            if let Err(error) = take(&texts, totals) {
                db.batch("ROLLBACK").await?;
                return Ok(Err(error));
            }
        }
    }
}

/// The sums of the records of calls from before `before_us`, as Postgres adds them up.
pub(super) async fn totals_before(db: &Session, before_us: i64) -> Result<RecordTotals, Error> {
    let sql = "SELECT count(*), coalesce(sum(input_tokens::bigint + output_tokens), 0)::text,
         coalesce(sum(cost_nanousd), 0)::text FROM usage_rows WHERE occurred_at < $1";
    let row = db.row(sql, &[&UnixUs(before_us)]).await?;
    let number = |row: &Row, column| row.get::<_, &str>(column).parse().unwrap_or(u128::MAX);
    Ok(row.map_or_else(RecordTotals::default, |row| RecordTotals {
        records: unsigned(row.get(0)),
        tokens: number(&row, 1),
        cost_nanousd: number(&row, 2),
    }))
}
