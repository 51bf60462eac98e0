//! The ledger's records one by one, as its view `usage_records` shows them, and the end of those
//! that have been kept for long enough: they go by month, a partition at a time. How far back the
//! ledger has its records is written down in the transaction that drops the first of them.

use super::columns::{UnixUs, unsigned};
use super::copy::{ESTIMATED, STREAMED};
use super::schema;
use super::session::Session;
use crate::store::error::LedgerError;
use crate::store::texts;
use crate::store::usage::{RECORD_COLUMNS, RecordTotals};
use shard::record::Outcome;
use shard::units::{ConsumerId, KeyId, Period, ServiceId};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// Records that are fetched at once.
const FETCHED_AT_ONCE: u32 = 1_000;
/// What has to read all records may take longer than anything else.
const LONG: &str = "SET LOCAL statement_timeout = '1h'";

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

/// What is read of each record, in the order in which [`columns_of`] reads it.
const SELECT: &str = "SELECT record_id, occurred_at, request_id, consumer_id, key_id, service_id,
         services.name, status, outcome, input_tokens, cached_tokens, output_tokens,
         price_version, cost_nanousd, attempts, latency_us, ttft_us, overhead_us, instance_id
     FROM usage_rows LEFT JOIN services ON services.id = service_id
         LEFT JOIN usage_instances ON number = instance";

/// Gives each record of a call from before `before_us` to `take`, in the order of the ids, with
/// what it adds to the totals. `take`'s error ends it.
pub(super) async fn each_before<E>(
    db: &Session,
    before_us: i64,
    mut take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
) -> Result<Result<(), E>, LedgerError> {
    // The view would have the server write each text, and leave out no month.
    db.batch(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LONG};
         DECLARE records NO SCROLL CURSOR FOR {SELECT}
         WHERE occurred_at < 'epoch'::timestamptz + {before_us} * interval '1 microsecond'
         ORDER BY record_id"
    ))
    .await?;
    let fetch = format!("FETCH {FETCHED_AT_ONCE} FROM records");
    let fetch = db.client().prepare(&fetch).await?;
    loop {
        let rows = db.client().query(&fetch, &[]).await.map_err(LedgerError::from)?;
        if rows.is_empty() {
            db.batch("COMMIT").await?;
            return Ok(Ok(()));
        }
        for row in &rows {
            let (texts, totals) = columns_of(row);
            if let Err(error) = take(&texts, totals) {
                db.batch("ROLLBACK").await?;
                return Ok(Err(error));
            }
        }
    }
}

/// A record's columns, as the view `usage_records` shows them, and what it adds to the totals.
fn columns_of(row: &Row) -> ([String; RECORD_COLUMNS.len()], RecordTotals) {
    let record_id = row.get::<_, Uuid>(0).to_string();
    let UnixUs(at_us) = row.get(1);
    let integer = |at| row.get::<_, i32>(at);
    let [input, cached, output] = [9, 10, 11].map(integer);
    let cost: i64 = row.get(13);
    let service = ServiceId(unsigned(row.get(5))).to_string();
    let name: Option<&str> = row.get(6);
    let bits: i16 = row.get(8);
    let (streamed, estimated) = (bits & STREAMED > 0, bits & ESTIMATED > 0);
    let outcome = Outcome::ALL.get(usize::from(bits as u16 & 7)).copied().unwrap_or_default();
    let instance: Option<Uuid> = row.get(18);
    let columns = [
        record_id.clone(),
        texts::time(at_us).as_str().to_owned(),
        Period::of(at_us).to_string(),
        Some(row.get::<_, String>(2)).filter(|given| !given.is_empty()).unwrap_or(record_id),
        ConsumerId(unsigned(row.get(3))).to_string(),
        KeyId(unsigned(row.get(4))).to_string(),
        service.clone(),
        name.map_or(service, str::to_owned),
        row.get::<_, i16>(7).to_string(),
        outcome.name().to_owned(),
        u8::from(streamed).to_string(),
        input.to_string(),
        cached.to_string(),
        output.to_string(),
        if estimated { "estimated" } else { "reported" }.to_owned(),
        integer(12).to_string(),
        cost.to_string(),
        row.get::<_, i16>(14).to_string(),
        integer(15).to_string(),
        integer(16).to_string(),
        integer(17).to_string(),
        instance.map_or_else(String::new, |id| id.to_string()),
    ];
    let tokens = unsigned(i64::from(input) + i64::from(output)).into();
    let totals = RecordTotals { records: 1, tokens, cost_nanousd: unsigned(cost).into() };
    (columns, totals)
}

/// The sums of the records of calls from before `before_us`, as Postgres adds them up.
pub(super) async fn totals_before(db: &Session, before_us: i64) -> Result<RecordTotals, Error> {
    let sql = "SELECT count(*), coalesce(sum(input_tokens::bigint + output_tokens), 0)::text,
         coalesce(sum(cost_nanousd), 0)::text FROM usage_rows WHERE occurred_at < $1";
    db.batch(&format!("BEGIN READ ONLY; {LONG}")).await?;
    let row = db.row(sql, &[&UnixUs(before_us)]).await?;
    db.batch("COMMIT").await?;
    let number = |row: &Row, column| row.get::<_, &str>(column).parse().unwrap_or(u128::MAX);
    Ok(row.map_or_else(RecordTotals::default, |row| RecordTotals {
        records: unsigned(row.get(0)),
        tokens: number(&row, 1),
        cost_nanousd: number(&row, 2),
    }))
}
