//! What the ledger keeps beside its rows, in the transaction that adds them: each day's and each
//! month's sums, and the monthly fees that the rows make due. No sum leaves its column: a count
//! stops at the largest integer, and is told; a cost has as many digits as it takes.

use super::columns::{UnixUs, signed, unsigned};
use super::session::{Session, Values};
use crate::store::day_sums::{DaySum, DaySums};
use crate::store::known_prices::KnownPrices;
use futures_util::future::join;
use shard::month_places::MonthOnService;
use shard::units::{ConsumerId, DAY_US, Period, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Error, Row};

/// Sums in the order of their keys: in this order everybody locks the months, and only then what
/// belongs to them, so that two instances never wait for each other in a circle.
type Sorted = BTreeMap<(ConsumerId, ServiceId, i64), DaySum>;

/// Adds everything to the ledger. Returns how many of its sums stand at the largest integer.
pub(super) async fn flush(
    sums: &mut DaySums,
    db: &Session,
    prices: &KnownPrices,
) -> Result<u64, Error> {
    let days: Sorted = sums.drain().collect();
    if days.is_empty() {
        return Ok(0);
    }
    let mut months = Sorted::new();
    for ((consumer, service, day), sum) in &days {
        let period = i64::from(Period::of(day * DAY_US).0);
        let month = months.entry((*consumer, *service, period)).or_default();
        month.calls += sum.calls;
        month.input_tokens += sum.input_tokens;
        month.cached_tokens += sum.cached_tokens;
        month.output_tokens += sum.output_tokens;
        month.cost_nanousd += sum.cost_nanousd;
    }
    // One behind the other without a wait between them.
    let (of_months, of_days) = (upsert_months(), upsert_days());
    let (of_months, of_days) = join(add(db, &of_months, &months), add(db, &of_days, &days)).await;
    let saturated = of_months? + of_days?;
    add_fees(db, &days, prices).await?;
    Ok(saturated)
}

/// Tokens of months so far. The months are this transaction's until it is over: what another
/// instance adds to them comes before or after.
pub(super) async fn lock_months(
    db: &Session,
    months: &BTreeSet<MonthOnService>,
) -> Result<Vec<(MonthOnService, u64)>, Error> {
    // A lock needs a row, and all of them one order.
    let lock = "INSERT INTO usage_monthly AS months (consumer_id, service_id, period, calls,
             input_tokens, cached_tokens, output_tokens, cost_nanousd)
         SELECT consumer, service, at, 0, 0, 0, 0, 0
         FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) AS given (consumer, service, at)
         ON CONFLICT (consumer_id, service_id, period) DO UPDATE SET calls = months.calls
         RETURNING consumer_id, service_id, period, (input_tokens::numeric + output_tokens)::text";
    let values: Values<'_> = &[
        &months.iter().map(|it| signed(it.consumer.0)).collect::<Vec<i64>>(),
        &months.iter().map(|it| signed(it.service.0)).collect::<Vec<i64>>(),
        &months.iter().map(|it| it.period.0 as i32).collect::<Vec<i32>>(),
    ];
    let month = |row: &Row| {
        let month = MonthOnService {
            consumer: ConsumerId(unsigned(row.get(0))),
            service: ServiceId(unsigned(row.get(1))),
            period: Period(row.get::<_, i32>(2) as u32),
        };
        (month, row.get::<_, &str>(3).parse().unwrap_or(u64::MAX))
    };
    Ok(db.rows(lock, values).await?.iter().map(month).collect())
}

pub(super) fn upsert_days() -> String {
    let period = "extract(year FROM date '1970-01-01' + at::integer) * 100
         + extract(month FROM date '1970-01-01' + at::integer)";
    upsert(
        "usage_daily",
        "day, period",
        &format!("date '1970-01-01' + at::integer, {period}"),
        "day",
    )
}

pub(super) fn upsert_months() -> String {
    upsert("usage_monthly", "period", "at", "period")
}

fn upsert(table: &str, columns: &str, values: &str, key: &str) -> String {
    let counts = ["calls", "input_tokens", "cached_tokens", "output_tokens"];
    let added = counts.map(|count| {
        format!(
            "{count} = least(sums.{count}, 9223372036854775807 - excluded.{count})
                 + excluded.{count}"
        )
    });
    format!(
        "INSERT INTO {table} AS sums (consumer_id, service_id, {columns}, calls, input_tokens,
             cached_tokens, output_tokens, cost_nanousd)
         SELECT consumer, service, {values}, calls, input, cached, output, cost::numeric
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
                 $6::bigint[], $7::bigint[], $8::text[])
             AS given (consumer, service, at, calls, input, cached, output, cost)
         ON CONFLICT (consumer_id, service_id, {key}) DO UPDATE SET {},
             cost_nanousd = sums.cost_nanousd + excluded.cost_nanousd
         RETURNING greatest(calls, input_tokens, cached_tokens, output_tokens)
             = 9223372036854775807",
        added.join(", ")
    )
}

async fn add(db: &Session, upsert: &str, sums: &Sorted) -> Result<u64, Error> {
    let column = |value: fn(&DaySum) -> i64| sums.values().map(value).collect::<Vec<i64>>();
    let costs: Vec<String> = sums.values().map(|sum| sum.cost_nanousd.to_string()).collect();
    let rows = db
        .rows(
            upsert,
            &[
                &sums.keys().map(|(consumer, ..)| signed(consumer.0)).collect::<Vec<i64>>(),
                &sums.keys().map(|(_, service, _)| signed(service.0)).collect::<Vec<i64>>(),
                &sums.keys().map(|(.., at)| *at).collect::<Vec<i64>>(),
                &column(|sum| sum.calls),
                &column(|sum| sum.input_tokens),
                &column(|sum| sum.cached_tokens),
                &column(|sum| sum.output_tokens),
                &costs,
            ],
        )
        .await?;
    Ok(rows.iter().filter(|row| row.get::<_, bool>(0)).count() as u64)
}

async fn add_fees(db: &Session, days: &Sorted, prices: &KnownPrices) -> Result<(), Error> {
    // Of each month whichever came first decides; all in one order, as above.
    let mut due: BTreeMap<(ConsumerId, ServiceId, Period), (i64, u32, i64)> = BTreeMap::new();
    for ((consumer, service, _), sum) in days {
        for (version, at_unix_us) in &sum.prices {
            let Some(fee) = prices.fee_nanousd((*service, *version)) else { continue };
            let month = (*consumer, *service, Period::of(*at_unix_us));
            let this = (*at_unix_us, *version, fee);
            due.entry(month).and_modify(|first| *first = (*first).min(this)).or_insert(this);
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let at: Vec<UnixUs> = due.values().map(|(at_unix_us, ..)| UnixUs(*at_unix_us)).collect();
    db.execute(
        "INSERT INTO usage_fees (consumer_id, service_id, period, due_at, price_version,
             fee_nanousd)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::timestamptz[],
             $5::integer[], $6::bigint[])
         ON CONFLICT DO NOTHING",
        &[
            &due.keys().map(|(consumer, ..)| signed(consumer.0)).collect::<Vec<i64>>(),
            &due.keys().map(|(_, service, _)| signed(service.0)).collect::<Vec<i64>>(),
            &due.keys().map(|(.., period)| period.0 as i32).collect::<Vec<i32>>(),
            &at,
            &due.values().map(|(_, version, _)| *version as i32).collect::<Vec<i32>>(),
            &due.values().map(|(.., fee)| *fee).collect::<Vec<i64>>(),
        ],
    )
    .await?;
    Ok(())
}
