//! Sums of the ledger. The writer adds to it a batch (about 100 ms) behind the settled records.

use super::{Failure, id_at, unsigned};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use shard::units::{ConsumerId, NanoUsd, Period, ServiceId};

/// What sums are apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Consumer,
    Service,
    Day,
}

/// The span of a sum, as text that the ledger's columns compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Days from this one, `YYYY-MM-DD`.
    pub(crate) from_day: Option<String>,
    /// Days up to this one, inclusive.
    pub(crate) to_day: Option<String>,
    /// Instants from this one. Set: records are summed one by one, not their daily sums.
    pub(crate) from_instant: Option<String>,
    /// Instants before this one; as above.
    pub(crate) before_instant: Option<String>,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    /// The values of what was asked `by`, in that order.
    pub(crate) group: Vec<String>,
    pub(crate) calls: i64,
    pub(crate) input_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cost: NanoUsd,
}

/// Sums over `span`, ordered by their groups; `limit` of them after `offset`.
pub(crate) fn sums(
    connection: &Connection,
    by: &[By],
    span: &Span,
    limit: u32,
    offset: i64,
) -> Result<Vec<Sum>, Failure> {
    let of_records = span.from_instant.is_some() || span.before_instant.is_some();
    let (table, day, calls) = if of_records {
        ("usage_records", "substr(occurred_at, 1, 10)", "count(*)")
    } else {
        ("usage_daily", "day", "coalesce(sum(calls), 0)")
    };
    let (mut condition, mut values) = ("1".to_owned(), Vec::new());
    for (bound, column, comparison) in [
        (&span.from_day, day, ">="),
        (&span.to_day, day, "<="),
        (&span.from_instant, "occurred_at", ">="),
        (&span.before_instant, "occurred_at", "<"),
    ] {
        if let Some(bound) = bound {
            condition += &format!(" AND {column} {comparison} ?");
            values.push(Value::Text(bound.clone()));
        }
    }
    values.extend([Value::Integer(limit.into()), Value::Integer(offset)]);
    let (mut columns, mut grouping) = (String::new(), String::new());
    if !by.is_empty() {
        let names: Vec<&str> = by
            .iter()
            .map(|by| match by {
                By::Consumer => "consumer_id",
                By::Service => "service_id",
                By::Day => day,
            })
            .collect();
        let names = names.join(", ");
        columns = format!("{names}, ");
        grouping = format!("GROUP BY {names} ORDER BY {names}");
    }
    let mut statement = connection.prepare(&format!(
        "SELECT {columns}{calls}, coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0),
             coalesce(sum(output_tokens), 0), coalesce(sum(cost_nanousd), 0)
         FROM {table} WHERE {condition} {grouping} LIMIT ? OFFSET ?"
    ))?;
    let first = by.len();
    let rows = statement.query_map(params_from_iter(values), |row| {
        Ok(Sum {
            group: (0..first).map(|column| row.get(column)).collect::<Result<_, _>>()?,
            calls: row.get(first)?,
            input_tokens: row.get(first + 1)?,
            cached_tokens: row.get(first + 2)?,
            output_tokens: row.get(first + 3)?,
            cost: NanoUsd(row.get(first + 4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Has any call ever been admitted?
pub(crate) fn has_records(connection: &Connection) -> Result<bool, Failure> {
    let query = "SELECT EXISTS (SELECT 1 FROM usage_records)";
    Ok(connection.query_row(query, (), |row| row.get(0))?)
}

/// Tokens, input and output together, of a consumer's month, on one service if named.
pub(crate) fn month_tokens(
    connection: &Connection,
    consumer: ConsumerId,
    service: Option<ServiceId>,
    period: Period,
) -> Result<u64, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT coalesce(sum(input_tokens + output_tokens), 0) FROM usage_daily
         WHERE period = ?1 AND consumer_id = ?2 AND (?3 IS NULL OR service_id = ?3)",
    )?;
    let service = service.map(|service| service.to_string());
    let month = (period_text(period), consumer.to_string(), service);
    Ok(unsigned(statement.query_row(month, |row| row.get(0))?))
}

/// A consumer's month on one service.
pub(crate) struct ServiceMonth {
    pub(crate) service: ServiceId,
    pub(crate) cost: NanoUsd,
    pub(crate) calls: u64,
    pub(crate) tokens: u64,
}

/// Cost and calls of a consumer's month, by service.
pub(crate) fn month_costs(
    connection: &Connection,
    consumer: ConsumerId,
    period: Period,
) -> Result<Vec<ServiceMonth>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT service_id, sum(cost_nanousd), sum(calls), sum(input_tokens + output_tokens)
         FROM usage_daily
         WHERE period = ?1 AND consumer_id = ?2 GROUP BY service_id",
    )?;
    let rows = statement.query_map((period_text(period), consumer.to_string()), |row| {
        Ok(ServiceMonth {
            service: ServiceId(id_at(row, 0)?),
            cost: NanoUsd(row.get(1)?),
            calls: unsigned(row.get(2)?),
            tokens: unsigned(row.get(3)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// `YYYY-MM`, as the ledger writes it.
fn period_text(period: Period) -> String {
    format!("{:04}-{:02}", period.0 / 100, period.0 % 100)
}
