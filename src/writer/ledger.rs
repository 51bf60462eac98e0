//! The ledger in SQLite: a batch of settled records, its sums and the watermarks of the journals
//! that it came from, in one transaction. What is below a watermark is skipped, so a batch may be
//! written again after any doubt: nothing is lost, nothing is there twice.

use super::row::{self, Text};
use crate::journal::format::Entry;
use crate::mail::Settled;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Statement, Transaction, TransactionBehavior, params,
};
use shard::record::Record;
use shard::units::{ConsumerId, KeyId, NanoUsd, Period, ServiceId};
use std::collections::HashMap;

/// A journal as the ledger names it.
pub struct Origin {
    /// Its id.
    pub journal_id: u128,
    /// The process that wrote it.
    pub instance_id: u128,
}

/// How far a journal gets with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Index of the journal's origin.
    pub origin: usize,
    /// All before it is in.
    pub next_seq: u64,
    /// There will be nothing more.
    pub closed: bool,
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows added, recovered ones included.
    pub rows: u64,
    /// Of those, the recovered ones.
    pub recovered: u64,
    /// Records that were in already.
    pub skipped: u64,
    /// Records that the ledger refused, now in `usage_dlq`.
    pub refused: u64,
}

/// Prices a record that the journal's writer did not live to price. The second argument: tokens
/// of the consumer's month on the service so far.
pub type Price<'a> = &'a dyn Fn(&Record, u64) -> NanoUsd;

/// Service names, cached: they never change.
#[derive(Default)]
pub struct Names(HashMap<ServiceId, Box<str>>);

#[derive(Default)]
struct Sums {
    calls: i64,
    input_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    cost_nanousd: i64,
}

type Daily = HashMap<(ConsumerId, ServiceId, i64), Sums>;

/// Fits the connection to large batches.
pub fn tune(connection: &Connection) -> rusqlite::Result<()> {
    // Checkpoints copy pages a second time and sync twice: every 32 MiB (2048 pages), not every
    // 16. A batch of 4096 rows dirties 1.5 MiB of the 4 MiB of cache.
    connection.execute_batch("PRAGMA wal_autocheckpoint = 2048; PRAGMA cache_size = -4096;")?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(())
}

/// The journal's watermark, and whether it is closed.
pub fn watermark(connection: &Connection, journal_id: u128) -> rusqlite::Result<(u64, bool)> {
    let found = connection
        .prepare_cached("SELECT next_seq, closed FROM ingest_watermark WHERE journal_id = ?1")?
        .query_row([row::uuid(journal_id).as_str()], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Writes `records`, whose `shard` is the index of their origin, then `recovered` ones (priced
/// here, and only if their id is not in yet), and advances the watermarks.
pub fn write(
    connection: &mut Connection,
    names: &mut Names,
    origins: &[Origin],
    records: &[Settled],
    recovered: &mut [(Settled, Price<'_>)],
    advances: &[Advance],
) -> rusqlite::Result<Written> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut marks = Vec::with_capacity(origins.len());
    for origin in origins {
        marks.push(watermark(&transaction, origin.journal_id)?.0);
    }
    let mut written = Written::default();
    let mut daily = Daily::new();
    insert_all(&transaction, names, origins, &marks, records, &mut daily, &mut written)?;
    for (settled, price) in recovered {
        recover(&transaction, names, origins, settled, *price, &mut daily, &mut written)?;
    }
    add_daily(&transaction, &mut daily)?;
    for advance in advances {
        transaction
            .prepare_cached(
                "INSERT INTO ingest_watermark VALUES (?1, ?2, ?3) ON CONFLICT (journal_id)
                 DO UPDATE SET next_seq = max(next_seq, excluded.next_seq),
                               closed = max(closed, excluded.closed)",
            )?
            .execute((
                row::uuid(origins[advance.origin].journal_id).as_str(),
                advance.next_seq as i64,
                advance.closed,
            ))?;
    }
    transaction.commit()?;
    Ok(written)
}

fn insert_all(
    transaction: &Transaction<'_>,
    names: &mut Names,
    origins: &[Origin],
    marks: &[u64],
    records: &[Settled],
    daily: &mut Daily,
    written: &mut Written,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    let mut bound = None;
    for settled in records {
        let origin = settled.shard as usize;
        if settled.seq < marks[origin] {
            written.skipped += 1;
            continue;
        }
        let texts = Texts::of(&settled.record, settled.shard);
        if bound != Some(texts) {
            let name = names.of(transaction, texts.service)?;
            texts.bind(&mut insert, name, origins[origin].instance_id)?;
            bound = Some(texts);
        }
        match insert_row(&mut insert, settled) {
            Ok(_) => {
                count(daily, &settled.record);
                written.rows += 1;
            }
            Err(error) if is_refusal(&error) => {
                refuse(transaction, origins[origin].journal_id, settled, &error)?;
                written.refused += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const INSERT: &str = "INSERT INTO usage_records VALUES
    (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22)";

/// The texts that a row mostly shares with the one before: SQLite copies each text that is bound,
/// so they are bound again only when one of them changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Texts {
    shard: u16,
    period: Period,
    consumer: ConsumerId,
    key: KeyId,
    service: ServiceId,
}

impl Texts {
    fn of(record: &Record, shard: u16) -> Self {
        let Record { period, consumer, key, service, .. } = *record;
        Self { shard, period, consumer, key, service }
    }

    fn bind(&self, insert: &mut Statement<'_>, name: &str, instance: u128) -> rusqlite::Result<()> {
        insert.raw_bind_parameter(3, row::period(self.period).as_str())?;
        insert.raw_bind_parameter(5, row::id(self.consumer.0).as_str())?;
        insert.raw_bind_parameter(6, row::id(self.key.0).as_str())?;
        insert.raw_bind_parameter(7, row::id(self.service.0).as_str())?;
        insert.raw_bind_parameter(8, name)?;
        insert.raw_bind_parameter(22, row::uuid(instance).as_str())
    }
}

/// Binds the rest of the row, and inserts it.
fn insert_row(insert: &mut Statement<'_>, settled: &Settled) -> rusqlite::Result<usize> {
    let record = &settled.record;
    let record_id = row::uuid(record.record_id);
    insert.raw_bind_parameter(1, record_id.as_str())?;
    insert.raw_bind_parameter(2, row::time(record.occurred_at_unix_us).as_str())?;
    insert.raw_bind_parameter(4, request_id(settled, &record_id))?;
    insert.raw_bind_parameter(9, record.status)?;
    insert.raw_bind_parameter(10, record.outcome.name())?;
    insert.raw_bind_parameter(11, record.streamed)?;
    insert.raw_bind_parameter(12, record.usage.input_tokens)?;
    insert.raw_bind_parameter(13, record.usage.cached_tokens)?;
    insert.raw_bind_parameter(14, record.usage.output_tokens)?;
    let source = if record.usage.estimated { "estimated" } else { "reported" };
    insert.raw_bind_parameter(15, source)?;
    insert.raw_bind_parameter(16, record.price_version)?;
    insert.raw_bind_parameter(17, record.cost.0)?;
    insert.raw_bind_parameter(18, record.attempts)?;
    insert.raw_bind_parameter(19, record.latency_us)?;
    insert.raw_bind_parameter(20, record.ttft_us)?;
    insert.raw_bind_parameter(21, record.overhead_us)?;
    insert.raw_execute()
}

/// A request that died with its process: billed unless its settlement is in after all (which
/// may have lain in a segment that is deleted by now).
fn recover(
    transaction: &Transaction<'_>,
    names: &mut Names,
    origins: &[Origin],
    settled: &mut Settled,
    price: Price<'_>,
    daily: &mut Daily,
    written: &mut Written,
) -> rusqlite::Result<()> {
    let known = transaction
        .prepare_cached("SELECT 1 FROM usage_records WHERE record_id = ?1")?
        .exists([row::uuid(settled.record.record_id).as_str()])?;
    if known {
        written.skipped += 1;
        return Ok(());
    }
    // Its price may depend on what the month has so far, this batch included.
    add_daily(transaction, daily)?;
    let record = &settled.record;
    let tokens: i64 = transaction
        .prepare_cached(
            "SELECT coalesce(sum(input_tokens + output_tokens), 0) FROM usage_daily
             WHERE period = ?1 AND consumer_id = ?2 AND service_id = ?3",
        )?
        .query_row(
            (
                row::period(record.period).as_str(),
                row::id(record.consumer.0).as_str(),
                row::id(record.service.0).as_str(),
            ),
            |row| row.get(0),
        )?;
    settled.record.cost = price(record, tokens as u64);
    let one = std::slice::from_ref(settled);
    let rows = written.rows;
    insert_all(transaction, names, origins, &vec![0; origins.len()], one, daily, written)?;
    written.recovered += written.rows - rows;
    Ok(())
}

fn refuse(
    transaction: &Transaction<'_>,
    journal_id: u128,
    settled: &Settled,
    reason: &rusqlite::Error,
) -> rusqlite::Result<()> {
    let slot = Entry::Post(settled.record, settled.prev_end).encode(settled.seq);
    transaction
        .prepare_cached("INSERT OR REPLACE INTO usage_dlq VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            row::uuid(journal_id).as_str(),
            settled.seq as i64,
            reason.to_string(),
            slot.as_slice(),
            request_id(settled, &row::uuid(settled.record.record_id)),
        ))?;
    Ok(())
}

/// Is it the row that is at fault, and not the store?
fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

fn request_id<'a, const N: usize>(settled: &'a Settled, record_id: &'a Text<N>) -> &'a str {
    let given = settled.request_id.as_ref().and_then(|id| std::str::from_utf8(id.as_bytes()).ok());
    given.unwrap_or(record_id.as_str())
}

fn count(daily: &mut Daily, record: &Record) {
    let day = record.occurred_at_unix_us.div_euclid(DAY_US);
    let sums = daily.entry((record.consumer, record.service, day)).or_default();
    sums.calls += 1;
    sums.input_tokens += i64::from(record.usage.input_tokens);
    sums.cached_tokens += i64::from(record.usage.cached_tokens);
    sums.output_tokens += i64::from(record.usage.output_tokens);
    sums.cost_nanousd = sums.cost_nanousd.saturating_add(record.cost.0);
}

const DAY_US: i64 = 86_400_000_000;

fn add_daily(transaction: &Transaction<'_>, daily: &mut Daily) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_daily VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (consumer_id, service_id, day) DO UPDATE SET
             calls = calls + excluded.calls,
             input_tokens = input_tokens + excluded.input_tokens,
             cached_tokens = cached_tokens + excluded.cached_tokens,
             output_tokens = output_tokens + excluded.output_tokens,
             cost_nanousd = cost_nanousd + excluded.cost_nanousd",
    )?;
    for ((consumer, service, day), sums) in daily.drain() {
        let starts_at = day * DAY_US;
        upsert.execute(params![
            row::id(consumer.0).as_str(),
            row::id(service.0).as_str(),
            &row::time(starts_at).as_str()[..10],
            row::period(Period::of(starts_at)).as_str(),
            sums.calls,
            sums.input_tokens,
            sums.cached_tokens,
            sums.output_tokens,
            sums.cost_nanousd,
        ])?;
    }
    Ok(())
}

impl Names {
    fn of(&mut self, transaction: &Transaction<'_>, id: ServiceId) -> rusqlite::Result<&str> {
        use std::collections::hash_map::Entry::{Occupied, Vacant};
        match self.0.entry(id) {
            Occupied(known) => Ok(known.into_mut()),
            Vacant(unknown) => {
                let name: Option<String> = transaction
                    .prepare_cached("SELECT name FROM services WHERE id = ?1")?
                    .query_row([row::id(id.0).as_str()], |row| row.get(0))
                    .optional()?;
                // Services are never deleted; should one be, its id names it.
                Ok(unknown.insert(name.unwrap_or_else(|| id.to_string()).into()))
            }
        }
    }
}
