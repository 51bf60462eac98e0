//! Sums of the ledger. The writer adds to it a batch (about 100 ms) behind the settled records.

use super::Done;
use super::columns::{signed, unsigned, wide_at};
use super::records;
use super::session::Session;
use crate::store::usage::{By, ServiceMonth, Sum, SumSpan};
use shard::units::{ConsumerId, NanoUsd, Period, ServiceId};
use std::collections::HashMap;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Tokens of consumers' months.
pub(super) const MONTHS: &str = "SELECT coalesce((SELECT sum(input_tokens::numeric + output_tokens)
            FROM usage_monthly AS months WHERE months.consumer_id = asked.consumer
                AND months.period = asked.period), 0)::text
        FROM unnest($1::bigint[], $2::integer[]) WITH ORDINALITY
            AS asked (consumer, period, place) ORDER BY place";
/// What an account shows of a consumer's month, by service.
pub(super) const MONTH_COSTS: &str =
    "SELECT cost_nanousd::text, (input_tokens::numeric + output_tokens)::text, calls,
             coalesce(fee_nanousd, 0)
         FROM usage_monthly LEFT JOIN usage_fees USING (consumer_id, service_id, period)
         WHERE consumer_id = $1 AND period = $2 ORDER BY service_id";

/// Values of a query whose text depends on what is asked.
type OwnedValues = Vec<Box<dyn ToSql + Sync + Send>>;

/// A query in the making.
#[derive(Default)]
struct Query {
    text: String,
    values: OwnedValues,
}

impl Query {
    fn add(&mut self, text: &str) {
        self.text += text;
    }

    /// Its place in the text.
    fn value(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    async fn rows(&self, db: &Session) -> Done<Vec<Row>> {
        let values: Vec<&(dyn ToSql + Sync)> =
            self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
        // Not kept: there are as many texts as there are ways to ask.
        Ok(db.client().query(&self.text, &values).await?)
    }
}

/// Sums over `span`, ordered by their groups; `limit` of them after `offset`.
pub(super) async fn sums(
    db: &Session,
    by: &[By],
    span: &SumSpan,
    limit: u32,
    offset: i64,
) -> Done<Vec<Sum>> {
    span.refuse_dropped(records::kept_from_us(db).await?)?;
    let mut query = Query::default();
    let names = columns_of(by, "day");
    let (columns, grouping) = grouped(&names);
    let wide = |column: &str| format!("coalesce(sum({column}), 0)::text");
    let sums = ["calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanousd"]
        .map(wide)
        .join(", ");
    query.add(&format!("SELECT {columns}{sums} FROM ("));
    add_source(&mut query, span);
    let (limit, offset) = (query.value(i64::from(limit)), query.value(offset));
    let order = if names.is_empty() { "" } else { "ORDER BY" };
    query.add(&format!(
        ") AS source {grouping} {order} {} LIMIT {limit} OFFSET {offset}",
        names.join(", ")
    ));
    let first = by.len();
    let sum = |row: &Row| Sum {
        group: group_of(row, by),
        names: Vec::new(),
        calls: wide_at(row, first),
        input_tokens: wide_at(row, first + 1),
        cached_tokens: wide_at(row, first + 2),
        output_tokens: wide_at(row, first + 3),
        cost: NanoUsd(wide_at(row, first + 4)),
        fees: NanoUsd(0),
    };
    let mut sums: Vec<Sum> = query.rows(db).await?.iter().map(sum).collect();
    add_fees(db, by, span, &mut sums).await?;
    add_names(db, by, &mut sums).await?;
    Ok(sums)
}

/// The columns of groups, where the day is `day`.
fn columns_of(by: &[By], day: &'static str) -> Vec<&'static str> {
    by.iter().map(|by| by.column(day)).collect()
}

/// What is selected of groups, and by what they are grouped.
fn grouped(names: &[&str]) -> (String, String) {
    let selected = |name: &&str| match name.ends_with("_id") {
        true => format!("{name}, "),
        false => format!("{name}::text, "),
    };
    let grouping = if names.is_empty() { "" } else { "GROUP BY" };
    (names.iter().map(selected).collect(), format!("{grouping} {}", names.join(", ")))
}

fn group_of(row: &Row, by: &[By]) -> Vec<String> {
    let value = |(column, by): (usize, &By)| match by {
        By::Consumer => ConsumerId(unsigned(row.get(column))).to_string(),
        By::Service => ServiceId(unsigned(row.get(column))).to_string(),
        By::Day => row.get(column),
    };
    by.iter().enumerate().map(value).collect()
}

/// Names deleted consumers and services too: what they used stays in the ledger.
async fn add_names(db: &Session, by: &[By], sums: &mut [Sum]) -> Done<()> {
    for (place, by) in by.iter().enumerate() {
        let table = match by {
            By::Consumer => "consumers",
            By::Service => "services",
            By::Day => {
                sums.iter_mut().for_each(|sum| sum.names.push(None));
                continue;
            }
        };
        let id = |sum: &Sum| sum.group[place].parse().ok().map(|ConsumerId(id)| signed(id));
        let ids: Vec<i64> = sums.iter().filter_map(id).collect();
        let rows =
            db.rows(&format!("SELECT id, name FROM {table} WHERE id = ANY ($1)"), &[&ids]).await?;
        let names: HashMap<i64, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for sum in &mut *sums {
            let name = id(sum).and_then(|id| names.get(&id).cloned());
            sum.names.push(name);
        }
    }
    Ok(())
}

/// Adds to each sum the monthly fees of its group. A month's fee fell due with its first call by a
/// subscription's price, so it belongs to that call's day and instant, and to no other; a group
/// with a fee always has a call.
async fn add_fees(db: &Session, by: &[By], span: &SumSpan, sums: &mut [Sum]) -> Done<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let day = "(due_at AT TIME ZONE 'UTC')::date";
    let (names, mut query) = (columns_of(by, day), Query::default());
    let (columns, grouping) = grouped(&names);
    query.add(&format!("SELECT {columns}sum(fee_nanousd)::text FROM usage_fees WHERE true"));
    for (bound, column, kind) in [
        (&span.from_day, format!("{day} >="), "date"),
        (&span.to_day, format!("{day} <="), "date"),
        (&span.from_instant, "due_at >=".to_owned(), "timestamptz"),
        (&span.before_instant, "due_at <".to_owned(), "timestamptz"),
    ] {
        if let Some(bound) = bound {
            let place = query.value(bound.clone());
            query.add(&format!(" AND {column} {place}::text::{kind}"));
        }
    }
    // Of the page at hand only.
    for (place, by) in by.iter().enumerate() {
        let id = |sum: &Sum| sum.group[place].parse().ok().map(|ConsumerId(id)| signed(id));
        let column = match by {
            By::Consumer => "consumer_id",
            By::Service => "service_id",
            By::Day => continue,
        };
        let ids: Vec<i64> = sums.iter().filter_map(id).collect();
        let ids = query.value(ids);
        query.add(&format!(" AND {column} = ANY ({ids})"));
    }
    query.add(&format!(" {grouping}"));
    let rows = query.rows(db).await?;
    let fee = |row: &Row| (group_of(row, by), row.get::<_, Option<String>>(by.len()));
    let fees: HashMap<Vec<String>, Option<String>> = rows.iter().map(fee).collect();
    for sum in sums {
        let fee = fees.get(&sum.group).and_then(Option::as_ref).map(|text| text.parse::<i64>());
        sum.fees = NanoUsd(fee.map_or(0, |fee| fee.unwrap_or(i64::MAX)));
    }
    Ok(())
}

const DAILY: &str = "SELECT consumer_id, service_id, day, calls, input_tokens, cached_tokens,
    output_tokens, cost_nanousd FROM usage_daily WHERE true";
const RECORDS: &str = "SELECT consumer_id, service_id, (occurred_at AT TIME ZONE 'UTC')::date
    AS day, 1::bigint AS calls, input_tokens, cached_tokens, output_tokens,
    cost_nanousd::numeric FROM usage_rows WHERE true";

/// What is summed over `span`: whole days' sums, and the records of the days that it cuts. Only
/// the records of two days are ever looked at.
fn add_source(query: &mut Query, span: &SumSpan) {
    let (from, before) = (span.from_instant.as_deref(), span.before_instant.as_deref());
    let [first, last] = span.cut_days();
    let mut part = |select: &str, bounds: &[(&str, &str, Option<&str>)]| {
        query.add(select);
        for (condition, end, bound) in bounds {
            if let Some(bound) = bound {
                let place = query.value((*bound).to_owned());
                query.add(&format!(" AND {condition} {place}::text{end}"));
            }
        }
    };
    let days = [
        ("day >=", "::date", span.from_day.as_deref()),
        ("day <=", "::date", span.to_day.as_deref()),
        ("day >", "::date", first),
        ("day <", "::date", last),
    ];
    part(DAILY, &days);
    let (at, day_after) = ("::timestamptz", "::timestamptz + interval '1 day'");
    if first.is_some() {
        let bounds = [
            ("occurred_at >=", at, from),
            ("occurred_at <", day_after, first),
            ("occurred_at <", at, before),
        ];
        part(&format!(" UNION ALL {RECORDS}"), &bounds);
    }
    if let Some(last) = last.filter(|last| first != Some(*last)) {
        let bounds = [("occurred_at >=", at, Some(last)), ("occurred_at <", at, before)];
        part(&format!(" UNION ALL {RECORDS}"), &bounds);
    }
}

/// Has any call ever been admitted? Its day's sums stay, whatever becomes of its record.
pub(super) async fn has_records(db: &Session) -> Done<bool> {
    Ok(db.row("SELECT 1 FROM usage_daily LIMIT 1", &[]).await?.is_some())
}

/// Tokens of each month, input and output together, all of them at one moment.
pub(super) async fn months(db: &Session, months: &[(ConsumerId, Period)]) -> Done<Vec<u64>> {
    let consumers: Vec<i64> = months.iter().map(|(consumer, _)| signed(consumer.0)).collect();
    let periods: Vec<i32> = months.iter().map(|(_, period)| period.0 as i32).collect();
    let rows = db.rows(MONTHS, &[&consumers, &periods]).await?;
    let count = |row: &Row| row.get::<_, &str>(0).parse().unwrap_or(u64::MAX);
    Ok(rows.iter().map(count).collect())
}

/// Cost and calls of a consumer's month, by service.
pub(super) async fn month_costs(
    db: &Session,
    consumer: ConsumerId,
    period: Period,
) -> Done<Vec<ServiceMonth>> {
    let rows = db.rows(MONTH_COSTS, &[&signed(consumer.0), &(period.0 as i32)]).await?;
    let month = |row: &Row| ServiceMonth {
        cost: NanoUsd(wide_at(row, 0)),
        fee: NanoUsd(row.get(3)),
        calls: unsigned(row.get(2)),
        tokens: unsigned(wide_at(row, 1)),
    };
    Ok(rows.iter().map(month).collect())
}
