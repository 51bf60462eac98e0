//! Sums of the ledger. The writer adds to it a batch (about 100 ms) behind the settled records.

use super::columns::unsigned;
use super::retention;
use super::wide::{sum_at, wide_sum};
use crate::store::error::CatalogError;
use crate::store::usage::{By, ServiceMonth, Sum, SumSpan};
use crate::wire::time_text::{parse_day, parse_rfc3339};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use shard::units::{ConsumerId, DAY_US, NanoUsd, Period};
use std::collections::HashMap;

/// Sums over `span`, ordered by their groups; `limit` of them after `offset`.
pub(super) fn sums(
    connection: &Connection,
    by: &[By],
    span: &SumSpan,
    limit: u32,
    offset: i64,
) -> Result<Vec<Sum>, CatalogError> {
    span.refuse_dropped(retention::kept_from_us(connection)?)?;
    let (source, mut values) = source_of(span);
    values.extend([Value::Integer(limit.into()), Value::Integer(offset)]);
    let (mut columns, mut grouping) = (String::new(), String::new());
    if !by.is_empty() {
        let names: Vec<&str> = by.iter().map(|by| by.column("day")).collect();
        let names = names.join(", ");
        columns = format!("{names}, ");
        grouping = format!("GROUP BY {names} ORDER BY {names}");
    }
    let [input, cached, output, cost] =
        ["input_tokens", "cached_tokens", "output_tokens", "cost_nanousd"].map(wide_sum);
    let mut statement = connection.prepare(&format!(
        "SELECT {columns}coalesce(sum(calls), 0), {input}, {cached}, {output}, {cost}, {CARRY}
         FROM ({source}) {grouping} LIMIT ? OFFSET ?"
    ))?;
    let first = by.len();
    let rows = statement.query_map(params_from_iter(values), |row| {
        Ok(Sum {
            group: (0..first).map(|column| row.get(column)).collect::<Result<_, _>>()?,
            names: Vec::new(),
            calls: row.get(first)?,
            input_tokens: narrow(sum_at(row, first + 1)?),
            cached_tokens: narrow(sum_at(row, first + 3)?),
            output_tokens: narrow(sum_at(row, first + 5)?),
            cost: cost_at(row, first + 7)?,
            fees: NanoUsd(0),
        })
    })?;
    let mut sums: Vec<Sum> = rows.collect::<Result<_, _>>()?;
    add_fees(connection, by, span, &mut sums)?;
    add_names(connection, by, &mut sums)?;
    Ok(sums)
}

/// Names deleted consumers and services too: what they used stays in the ledger.
fn add_names(connection: &Connection, by: &[By], sums: &mut [Sum]) -> Result<(), CatalogError> {
    for (place, by) in by.iter().enumerate() {
        let query = match by {
            By::Consumer => "SELECT name FROM consumers WHERE id = ?1",
            By::Service => "SELECT name FROM services WHERE id = ?1",
            By::Day => {
                sums.iter_mut().for_each(|sum| sum.names.push(None));
                continue;
            }
        };
        let mut statement = connection.prepare_cached(query)?;
        for sum in &mut *sums {
            let found = statement.query_row([&sum.group[place]], |row| row.get(0));
            sum.names.push(found.optional()?);
        }
    }
    Ok(())
}

/// Adds to each sum the monthly fees of its group. A month's fee fell due with its first call by a
/// subscription's price, so it belongs to that call's day and instant, and to no other; a group
/// with a fee always has a call.
fn add_fees(
    connection: &Connection,
    by: &[By],
    span: &SumSpan,
    sums: &mut [Sum],
) -> Result<(), CatalogError> {
    let (Some(first), Some(last)) = (sums.first(), sums.last()) else { return Ok(()) };
    let day = "substr(due_at, 1, 10)";
    let (mut condition, mut values) = ("1".to_owned(), Vec::new());
    for (bound, column) in [
        (&span.from_day, format!("{day} >=")),
        (&span.to_day, format!("{day} <=")),
        (&span.from_instant, "due_at >=".to_owned()),
        (&span.before_instant, "due_at <".to_owned()),
    ] {
        if let Some(bound) = bound {
            condition += &format!(" AND {column} ?");
            values.push(Value::Text(bound.clone()));
        }
    }
    let names: Vec<&str> = by.iter().map(|by| by.column(day)).collect();
    let (names, places) = (names.join(", "), vec!["?"; by.len()].join(", "));
    let (mut columns, mut grouping) = (String::new(), String::new());
    if !by.is_empty() {
        // Of the page at hand only.
        condition += &format!(" AND ({names}) >= ({places}) AND ({names}) <= ({places})");
        values.extend(first.group.iter().chain(&last.group).cloned().map(Value::Text));
        (columns, grouping) = (format!("{names}, "), format!("GROUP BY {names}"));
    }
    let fee = wide_sum("fee_nanousd");
    let mut statement = connection
        .prepare(&format!("SELECT {columns}{fee} FROM usage_fees WHERE {condition} {grouping}"))?;
    let rows = statement.query_map(params_from_iter(values), |row| {
        let group = (0..by.len()).map(|column| row.get(column)).collect::<Result<_, _>>()?;
        Ok((group, NanoUsd(narrow(sum_at(row, by.len())?))))
    })?;
    let fees: HashMap<Vec<String>, NanoUsd> = rows.collect::<Result<_, _>>()?;
    for sum in sums {
        sum.fees = fees.get(&sum.group).copied().unwrap_or_default();
    }
    Ok(())
}

const DAILY: &str = "SELECT consumer_id, service_id, day, calls, input_tokens, cached_tokens,
    output_tokens, cost_nanousd, cost_carry FROM usage_daily WHERE 1";
const RECORDS: &str = "SELECT consumer_id, service_id,
    strftime('%Y-%m-%d', occurred_at_us / 1000000, 'unixepoch') AS day,
    1 AS calls, input_tokens, cached_tokens, output_tokens, cost_nanousd, 0 AS cost_carry
    FROM usage_rows WHERE 1";

/// What is summed over `span`: whole days' sums, and the records of the days that it cuts, which
/// their index finds. Only the records of two days are ever looked at.
fn source_of(span: &SumSpan) -> (String, Vec<Value>) {
    let (from, before) = (span.from_instant.as_deref(), span.before_instant.as_deref());
    let [first, last] = span.cut_days();
    let (mut source, mut values) = (String::new(), Vec::new());
    let mut part = |select: &str, bounds: &[(&str, Option<Value>)]| {
        let joint = if source.is_empty() { "" } else { " UNION ALL " };
        source = format!("{source}{joint}{select}");
        for (condition, bound) in bounds {
            if let Some(bound) = bound {
                source = format!("{source} AND {condition} ?");
                values.push(bound.clone());
            }
        }
    };
    let text = |day: Option<&str>| day.map(|day| Value::Text(day.to_owned()));
    let days = [
        ("day >=", text(span.from_day.as_deref())),
        ("day <=", text(span.to_day.as_deref())),
        ("day >", text(first)),
        ("day <", text(last)),
    ];
    part(DAILY, &days);
    let from_us = from.and_then(parse_rfc3339).unwrap_or(i64::MIN);
    let before_us = before.and_then(parse_rfc3339).unwrap_or(i64::MAX);
    for day in first.into_iter().chain(last.filter(|last| first != Some(*last))) {
        let starts_us = parse_day(day).unwrap_or_default();
        let (since, until) = (from_us.max(starts_us), before_us.min(starts_us + DAY_US));
        let bounds = [("occurred_at_us >=", since), ("occurred_at_us <", until)];
        part(RECORDS, &bounds.map(|(condition, us)| (condition, Some(Value::Integer(us)))));
    }
    (source, values)
}

/// The sum of what costs were carried over, to follow the [`wide_sum`] of a cost.
const CARRY: &str = "coalesce(sum(cost_carry), 0)";
/// One of `cost_carry`, nano-USD.
const CARRY_NANOUSD: i128 = 1_000_000_000_000_000_000;

/// Stops at the largest amount: 9 billion USD.
fn cost_at(row: &Row<'_>, column: usize) -> rusqlite::Result<NanoUsd> {
    let carried: i64 = row.get(column + 2)?;
    Ok(NanoUsd(narrow(sum_at(row, column)? + i128::from(carried) * CARRY_NANOUSD)))
}

/// Stops at the largest integer.
fn narrow(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}

/// Has any call ever been admitted? Its day's sums stay, whatever becomes of its record.
pub(super) fn has_records(connection: &Connection) -> Result<bool, CatalogError> {
    let query = "SELECT EXISTS (SELECT 1 FROM usage_daily)";
    Ok(connection.query_row(query, (), |row| row.get(0))?)
}

/// Tokens of each month, input and output together, all of them at one moment.
pub(super) fn months(
    connection: &mut Connection,
    months: &[(ConsumerId, Period)],
) -> Result<Vec<u64>, CatalogError> {
    let transaction = connection.transaction()?;
    let [input, output] = ["input_tokens", "output_tokens"].map(wide_sum);
    let mut statement = transaction.prepare_cached(&format!(
        "SELECT {input}, {output} FROM usage_daily WHERE period = ?1 AND consumer_id = ?2"
    ))?;
    let mut tokens = Vec::with_capacity(months.len());
    for (consumer, period) in months {
        let month = (period.to_string(), consumer.to_string());
        let sum = statement.query_row(month, |row| Ok(sum_at(row, 0)? + sum_at(row, 2)?))?;
        tokens.push(u64::try_from(sum).unwrap_or(u64::MAX));
    }
    Ok(tokens)
}

/// Cost and calls of a consumer's month, by service.
pub(super) fn month_costs(
    connection: &Connection,
    consumer: ConsumerId,
    period: Period,
) -> Result<Vec<ServiceMonth>, CatalogError> {
    let [input, output, cost] = ["input_tokens", "output_tokens", "cost_nanousd"].map(wide_sum);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {cost}, {CARRY}, sum(calls), {input}, {output},
             coalesce((SELECT fee_nanousd FROM usage_fees AS fees
                       WHERE fees.consumer_id = ?2 AND fees.service_id = usage_daily.service_id
                           AND fees.period = ?1), 0)
         FROM usage_daily WHERE period = ?1 AND consumer_id = ?2 GROUP BY service_id"
    ))?;
    let rows = statement.query_map((period.to_string(), consumer.to_string()), |row| {
        Ok(ServiceMonth {
            cost: cost_at(row, 0)?,
            calls: unsigned(row.get(3)?),
            tokens: unsigned(narrow(sum_at(row, 4)? + sum_at(row, 6)?)),
            fee: NanoUsd(row.get(8)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
