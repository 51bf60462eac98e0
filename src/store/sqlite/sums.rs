//! What the ledger keeps beside its rows, in the transaction that adds them: each day's sums, and
//! the monthly fees that the rows make due. No addition here can leave SQLite's 64 bits: a count
//! stops at the largest integer, and is told; a cost is carried over into a second column.

use crate::store::day_sums::{Day, DaySum, DaySums};
use crate::store::known_prices::KnownPrices;
use crate::store::texts;
use rusqlite::{CachedStatement, Transaction, params};
use shard::units::{DAY_US, Period};

/// One in `cost_carry`, nano-USD.
const CARRY_NANOUSD: i128 = 1_000_000_000_000_000_000;

/// Adds everything to the ledger. Returns how many of its sums stand at the largest integer.
pub(super) fn flush(
    sums: &mut DaySums,
    transaction: &Transaction<'_>,
    prices: &KnownPrices,
) -> rusqlite::Result<u64> {
    let mut upsert = transaction.prepare_cached(UPSERT)?;
    let (mut saturated, mut due) = (0, Vec::new());
    for ((consumer, service, day), sum) in sums.drain() {
        saturated += u64::from(add_day(&mut upsert, (consumer, service, day), &sum)?);
        for (version, at_unix_us) in sum.prices {
            if let Some(fee) = prices.fee_nanousd((service, version)) {
                due.push((at_unix_us, consumer, service, version, fee));
            }
        }
    }
    // Whichever came first decides on the month.
    due.sort_unstable_by_key(|(at_unix_us, ..)| *at_unix_us);
    let mut insert = transaction
        .prepare_cached("INSERT OR IGNORE INTO usage_fees VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for (at_unix_us, consumer, service, version, fee) in due {
        insert.execute(params![
            texts::id(consumer.0).as_str(),
            texts::id(service.0).as_str(),
            texts::period(Period::of(at_unix_us)).as_str(),
            texts::time(at_unix_us).as_str(),
            version,
            fee,
        ])?;
    }
    Ok(saturated)
}

/// The last column tells whether a count has stopped at the largest integer.
const UPSERT: &str = "INSERT INTO usage_daily (consumer_id, service_id, day, period, calls,
        input_tokens, cached_tokens, output_tokens, cost_nanousd, cost_carry)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
     ON CONFLICT (consumer_id, service_id, day) DO UPDATE SET
         calls = min(calls, 0x7fffffffffffffff - excluded.calls) + excluded.calls,
         input_tokens = min(input_tokens, 0x7fffffffffffffff - excluded.input_tokens)
             + excluded.input_tokens,
         cached_tokens = min(cached_tokens, 0x7fffffffffffffff - excluded.cached_tokens)
             + excluded.cached_tokens,
         output_tokens = min(output_tokens, 0x7fffffffffffffff - excluded.output_tokens)
             + excluded.output_tokens,
         cost_carry = min(cost_carry, 0x7ffffffffffffffe - excluded.cost_carry)
             + excluded.cost_carry
             + (cost_nanousd + excluded.cost_nanousd) / 1000000000000000000,
         cost_nanousd = (cost_nanousd + excluded.cost_nanousd) % 1000000000000000000
     RETURNING max(calls, input_tokens, cached_tokens, output_tokens) = 0x7fffffffffffffff";

fn add_day(
    upsert: &mut CachedStatement<'_>,
    (consumer, service, day): Day,
    sum: &DaySum,
) -> rusqlite::Result<bool> {
    let starts_at = day * DAY_US;
    upsert.query_row(
        params![
            texts::id(consumer.0).as_str(),
            texts::id(service.0).as_str(),
            &texts::time(starts_at).as_str()[..10],
            texts::period(Period::of(starts_at)).as_str(),
            sum.calls,
            sum.input_tokens,
            sum.cached_tokens,
            sum.output_tokens,
            (sum.cost_nanousd % CARRY_NANOUSD) as i64,
            i64::try_from(sum.cost_nanousd / CARRY_NANOUSD).unwrap_or(i64::MAX),
        ],
        |row| row.get(0),
    )
}
