//! `/admin/v1/usage`: sums of the ledger. They lag the calls by a batch of the writer, 100 ms.

use super::body::BodyFields;
use super::error::AdminError;
use super::query::{self, Pairs};
use super::refuse;
use crate::control::admin_state::AdminState;
use crate::store::{By, Sum, SumSpan};
use crate::wire::time_text::{day, parse_day, parse_rfc3339, rfc3339};
use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use shard::units::DAY_US;
use std::sync::Arc;

const PARAMETERS: [&str; 5] = ["by", "from", "to", "limit", "cursor"];
const ROWS_MAX: i64 = 10_000;
const TEXT_CHARS_MAX: usize = 64;

pub(super) async fn sums(
    State(state): State<Arc<AdminState>>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let mut fields = query::read(pairs, &PARAMETERS)?;
    let by = read_by(&mut fields);
    let span = read_span(&mut fields);
    let limit = query::number(&mut fields, "limit", ROWS_MAX).unwrap_or(ROWS_MAX);
    let offset = query::number(&mut fields, "cursor", i64::MAX).unwrap_or(0);
    fields.finish()?;
    let read = state.store.sums(by.clone(), span, limit as u32, offset).await;
    let sums = read.map_err(refuse("usage", ""))?;
    let next_cursor = (sums.len() as i64 >= limit && !by.is_empty())
        .then(|| offset.saturating_add(limit).to_string());
    let data: Vec<Value> = sums.iter().map(|sum| shown(&by, sum)).collect();
    Ok(Json(json!({ "data": data, "next_cursor": next_cursor })))
}

fn read_by(fields: &mut BodyFields) -> Vec<By> {
    let mut by = Vec::new();
    let Some(text) = fields.text("by", TEXT_CHARS_MAX) else {
        return by;
    };
    for name in text.split(',') {
        let known = match name.trim() {
            "consumer" => By::Consumer,
            "service" => By::Service,
            "day" => By::Day,
            _ => {
                fields.problem("by", "must be some of consumer, service and day, with commas");
                return by;
            }
        };
        if by.contains(&known) {
            fields.problem("by", format!("names {} twice", name.trim()));
            return by;
        }
        by.push(known);
    }
    by
}

/// Days where the bounds are days (`to` is inclusive) or midnights, else instants (`to` is not).
fn read_span(fields: &mut BodyFields) -> SumSpan {
    let (mut span, mut begin) = (SumSpan::default(), i64::MIN);
    for (name, is_end) in [("from", false), ("to", true)] {
        let Some(text) = fields.text(name, TEXT_CHARS_MAX) else { continue };
        // A + for the offset arrives as a space where the caller did not escape it.
        let (date, instant) = (parse_day(&text), parse_rfc3339(&text.replace(' ', "+")));
        let bound = match (date, instant) {
            (Some(_), _) => (text, true),
            (None, Some(at)) if at % DAY_US == 0 => (day(at - i64::from(is_end)), true),
            (None, Some(at)) => (rfc3339(at), false),
            (None, None) => {
                fields.problem(
                    name,
                    "must be a day or a time, such as 2030-01-31 or 2030-01-31T00:00:00Z",
                );
                continue;
            }
        };
        let at = date.or(instant).unwrap_or_default();
        if is_end && (at < begin || at == begin && date.is_none()) {
            fields.problem(name, "must be after from");
        }
        begin = at;
        match (bound, is_end) {
            ((text, true), false) => span.from_day = Some(text),
            ((text, true), true) => span.to_day = Some(text),
            ((text, false), false) => span.from_instant = Some(text),
            ((text, false), true) => span.before_instant = Some(text),
        }
    }
    span
}

fn shown(by: &[By], sum: &Sum) -> Value {
    let mut value = json!({});
    for ((by, text), name) in by.iter().zip(&sum.group).zip(&sum.names) {
        match by {
            By::Day => value["day"] = text.as_str().into(),
            By::Consumer => {
                value["consumer_id"] = text.as_str().into();
                value["consumer"] = name.as_deref().into();
            }
            By::Service => {
                value["service_id"] = text.as_str().into();
                value["service"] = name.as_deref().into();
            }
        }
    }
    value["calls"] = sum.calls.into();
    value["input_tokens"] = sum.input_tokens.into();
    value["cached_tokens"] = sum.cached_tokens.into();
    value["output_tokens"] = sum.output_tokens.into();
    value["cost_nanousd"] = sum.cost.0.into();
    value["fees_nanousd"] = sum.fees.0.into();
    value
}
