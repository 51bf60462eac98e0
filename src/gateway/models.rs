//! `GET /v1/models` and `GET /v1/models/{id}`: the services that a key may use, as models, in the
//! dialect of whoever asks.

use super::call::{Call, Stop};
use super::core::Core;
use super::downstream::Request;
use super::route::{self, Route};
use crate::wire::error::{ApiError, Shape};
use crate::wire::percent;
use crate::wire::time_text::rfc3339;
use serde_json::{Value, json};
use shard::catalog::Service;
use shard::key_cache::Caller;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Anthropic's own bound on a page.
const LIMIT: RangeInclusive<usize> = 1..=1_000;

/// The list, or the one that the path names.
pub(super) fn asked_for(
    core: &Core,
    request: &Request<'_>,
    call: &Call,
    caller: &Caller,
) -> Result<Value, Stop> {
    let shard = core.shard.borrow();
    let catalog = shard.catalog();
    let is_usable =
        |index: u32| catalog.services[index as usize].enabled && shard.may_use(caller, index);
    if call.route == Route::OneModel {
        let name = percent::decoded(route::model_id(request.path()).unwrap_or_default());
        let found = catalog.service_by_name(&name).filter(|index| is_usable(*index));
        let index = found.ok_or(ApiError::ModelNotFound)?;
        return Ok(shown(&catalog.services[index as usize], call.shape));
    }
    let usable = (0..).zip(&catalog.services).filter(|(index, _)| is_usable(*index));
    let services: Vec<&Service> = usable.map(|(_, service)| &**service).collect();
    match call.shape {
        Shape::OpenAi => {
            let data: Vec<Value> = services.iter().map(|it| shown(it, call.shape)).collect();
            Ok(json!({ "object": "list", "data": data }))
        }
        Shape::Anthropic => {
            let query = request.head.query.map_or(&b""[..], |query| query.of(request.bytes));
            Ok(page(&services, &ListRange::read(query)?)?)
        }
    }
}

fn shown(service: &Service, shape: Shape) -> Value {
    let created_unix_us = service.prices[0].effective_at_unix_us;
    match shape {
        Shape::OpenAi => json!({
            "id": &*service.name,
            "object": "model",
            "created": created_unix_us / 1_000_000,
            "owned_by": "tollgate",
            "service_id": service.id.to_string(),
        }),
        Shape::Anthropic => json!({
            "type": "model",
            "id": &*service.name,
            "display_name": &*service.name,
            "created_at": rfc3339(created_unix_us),
        }),
    }
}

/// Which part of the list is asked for, in Anthropic's words.
#[derive(Default)]
struct ListRange<'a> {
    limit: Option<usize>,
    after: Option<Cow<'a, [u8]>>,
    before: Option<Cow<'a, [u8]>>,
}

impl<'a> ListRange<'a> {
    fn read(query: &'a [u8]) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        for pair in query.split(|byte| *byte == b'&') {
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            let value = percent::decoded(pair.get(at + 1..).unwrap_or_default());
            match &pair[..at] {
                b"limit" => asked.limit = Some(limit(&value)?),
                b"after_id" => asked.after = Some(value),
                b"before_id" => asked.before = Some(value),
                _ => {}
            }
        }
        Ok(asked)
    }
}

fn limit(text: &[u8]) -> Result<usize, ApiError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|number| LIMIT.contains(number)).ok_or_else(|| ApiError::InvalidRequest {
        message: "'limit' is not a whole number from 1 to 1000. Send one, or none.".into(),
        param: Some("limit"),
    })
}

/// Without a limit it is all there is: a caller that reads one page has read the list.
fn page(services: &[&Service], asked: &ListRange<'_>) -> Result<Value, ApiError> {
    let place = |id: &[u8], param: &'static str| {
        let found = services.iter().position(|service| service.name.as_bytes() == id);
        found.ok_or_else(|| ApiError::InvalidRequest {
            message: format!("'{param}' names no model of the list. Send an id of it.").into(),
            param: Some(param),
        })
    };
    let begin = match &asked.after {
        Some(id) => place(id, "after_id")? + 1,
        None => 0,
    };
    let end = match &asked.before {
        Some(id) => place(id, "before_id")?,
        None => services.len(),
    };
    let within = services.get(begin..end).unwrap_or_default();
    let count = asked.limit.unwrap_or(within.len()).min(within.len());
    // Going backwards, the page is the one that ends where the last one began.
    let part = match asked.before {
        Some(_) => &within[within.len() - count..],
        None => &within[..count],
    };
    Ok(json!({
        "data": part.iter().map(|it| shown(it, Shape::Anthropic)).collect::<Vec<_>>(),
        "has_more": part.len() < within.len(),
        "first_id": part.first().map(|service| &*service.name),
        "last_id": part.last().map(|service| &*service.name),
    }))
}
