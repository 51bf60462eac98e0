//! `/admin/v1/services` and their prices. The upstream's credential goes in and never comes out.

use super::body::BodyFields;
use super::error::{AdminError, FieldProblem};
use super::query::{self, Pairs};
use super::{Body, page_of, parse_id, price_json, refuse};
use crate::clock;
use crate::control::admin_state::AdminState;
use crate::control::upstream_url;
use crate::store::{
    CatalogError, NewService, PriceRow, ServiceChange, ServiceRow, new_id, price_to_json,
};
use crate::wire::time_text::rfc3339;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use shard::catalog::{PriceModel, PriceVersion};
use shard::units::ServiceId;
use std::sync::Arc;

const FIELDS: [&str; 6] =
    ["name", "base_url", "default_path", "upstream_credential", "price", "enabled"];
const DEFAULT_PATH: &str = "/v1/chat/completions";
const NAME_CHARS_MAX: usize = 128;
const TEXT_CHARS_MAX: usize = 2_048;
const CREDENTIAL_CHARS_MAX: usize = 4_096;
/// Headers that frame a message or name its target: not the credential's to set.
const HEADERS_REFUSED: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let page = query::only_page(pairs)?;
    let read = state.store.services(page).await;
    Ok(page_of(&read.map_err(refuse("service", ""))?, page.limit, |row| row.place, shown))
}

pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: ServiceId = parse_id("service", &id)?;
    let read = state.store.service(id).await;
    Ok(Json(shown(&read.map_err(refuse("service", id))?)))
}

pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    let name = fields.required_text("name", NAME_CHARS_MAX);
    if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
        fields.problem("name", "must be visible ASCII without spaces, quotes and backslashes");
    }
    let base_url = read_base_url(&mut fields);
    if base_url.is_none() && !fields.has_problem("base_url") {
        fields.problem("base_url", "is required");
    }
    let id = ServiceId(new_id().map_err(refuse("service", ""))?);
    let new = NewService {
        id,
        name,
        base_url: base_url.unwrap_or_default(),
        default_path: read_path(&mut fields).unwrap_or_else(|| DEFAULT_PATH.to_owned()),
        credential: sealed(&state, id, read_credential(&mut fields))?,
        enabled: fields.boolean("enabled").unwrap_or(true),
        price: read_price(&mut fields),
        effective_at_unix_us: clock::unix_us(),
    };
    fields.finish()?;
    let made = state.change_service(state.store.insert_service(new)).await;
    let row = made.map_err(refuse("service", ""))?;
    Ok((StatusCode::CREATED, Json(shown(&row))))
}

pub(super) async fn change(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<Json<Value>, AdminError> {
    let id: ServiceId = parse_id("service", &id)?;
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    if fields.has("name") {
        fields.problem("name", "cannot be changed: it is the model name that callers send");
    }
    if fields.has("price") {
        fields.problem("price", "has versions: POST it to /admin/v1/services/{id}/prices");
    }
    let has_credential = fields.has("upstream_credential");
    let change = ServiceChange {
        base_url: read_base_url(&mut fields),
        default_path: read_path(&mut fields),
        credential: match has_credential {
            true => Some(sealed(&state, id, read_credential(&mut fields))?),
            false => None,
        },
        enabled: fields.boolean("enabled"),
    };
    fields.finish()?;
    let changed = state.change_service(state.store.update_service(id, change)).await;
    let row = changed.map_err(refuse("service", id))?;
    Ok(Json(shown(&row)))
}

pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: ServiceId = parse_id("service", &id)?;
    let deleted = state.delete_service(id).await;
    Ok(Json(shown(&deleted.map_err(refuse("service", id))?)))
}

pub(super) async fn prices(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let id: ServiceId = parse_id("service", &id)?;
    let page = query::only_page(pairs)?;
    let read = state.store.service(id).await;
    let mut rows = read.map_err(refuse("service", id))?.prices;
    let in_force = in_force(&rows).map(|price| price.version);
    // By version: the order of creation, as in every list.
    rows.sort_by_key(|row| row.price.version);
    rows.retain(|row| i64::from(row.price.version) > page.after);
    rows.truncate(page.limit as usize);
    let place = |row: &PriceRow| i64::from(row.price.version);
    Ok(page_of(&rows, page.limit, place, |row| shown_price(id, row, in_force)))
}

pub(super) async fn add_price(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let id: ServiceId = parse_id("service", &id)?;
    let mut fields = BodyFields::of_body(&body, &["price", "effective_at"])?;
    let price = read_price(&mut fields);
    let now_unix_us = clock::unix_us();
    let effective_at_unix_us = fields.instant("effective_at").unwrap_or(now_unix_us);
    if effective_at_unix_us < now_unix_us {
        // Calls since then have been priced, and no record is ever changed.
        fields.problem("effective_at", "lies in the past; leave it out for a price from now on");
    }
    fields.finish()?;
    let add = state.store.add_price(id, price, effective_at_unix_us);
    let service = state.change_service(add).await.map_err(refuse("service", id))?;
    let added = service.prices.iter().max_by_key(|row| row.price.version);
    let added = added.ok_or_else(|| AdminError::no_such("service", &id.to_string()))?;
    let in_force = (effective_at_unix_us <= clock::unix_us()).then_some(added.price.version);
    Ok((StatusCode::CREATED, Json(shown_price(id, added, in_force))))
}

fn read_base_url(fields: &mut BodyFields) -> Option<String> {
    let url = fields.text("base_url", TEXT_CHARS_MAX)?;
    match upstream_url::parse(&url) {
        Ok(_) => Some(url),
        Err(cause) => {
            fields.problem("base_url", cause);
            None
        }
    }
}

fn read_path(fields: &mut BodyFields) -> Option<String> {
    let path = fields.text("default_path", TEXT_CHARS_MAX)?;
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Some(path);
    }
    fields.problem("default_path", "must begin with / and be visible ASCII without #");
    None
}

/// A token, sent as `authorization: Bearer …`, or `{header, value}`: a whole header line.
fn read_credential(fields: &mut BodyFields) -> Option<String> {
    let name = "upstream_credential";
    match fields.take(name)? {
        Value::String(token) if is_header_value(&token) => {
            return Some(format!("authorization: Bearer {token}"));
        }
        value @ Value::Object(_) => match read_header(&value, name) {
            Ok(line) => return Some(line),
            Err(problems) => fields.add(problems),
        },
        _ => fields.problem(
            name,
            "must be a token of visible ASCII, or {\"header\": …, \"value\": …}, or null: none",
        ),
    }
    None
}

/// As the store keeps it.
fn sealed(
    state: &AdminState,
    id: ServiceId,
    credential: Option<String>,
) -> Result<Option<Vec<u8>>, AdminError> {
    let sealed = credential.map(|line| state.vault.seal().close(id, &line)).transpose();
    sealed.map_err(CatalogError::Internal).map_err(refuse("service", id))
}

fn read_header(value: &Value, path: &str) -> Result<String, Vec<FieldProblem>> {
    let mut inner = BodyFields::nested(value, path, &["header", "value"])?;
    let header = inner.required_text("header", NAME_CHARS_MAX).to_ascii_lowercase();
    let is_name =
        header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !is_name || HEADERS_REFUSED.contains(&header.as_str()) {
        inner.problem("header", "must be the name of a header that carries a credential");
    }
    let text = inner.required_text("value", CREDENTIAL_CHARS_MAX);
    if !text.is_empty() && !is_header_value(&text) {
        inner.problem("value", "must be visible ASCII, with single spaces inside at the most");
    }
    inner.finish().map(|()| format!("{header}: {text}"))
}

fn is_header_value(text: &str) -> bool {
    let is_visible = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    is_visible && !text.is_empty() && text.trim() == text && text.len() <= CREDENTIAL_CHARS_MAX
}

fn read_price(fields: &mut BodyFields) -> PriceModel {
    match fields.take("price") {
        None => fields.problem("price", "is required"),
        Some(value) => match price_json::read(&value, "price") {
            Ok(price) => return price,
            Err(problems) => fields.add(problems),
        },
    }
    PriceModel::PerToken(Default::default())
}

fn shown(row: &ServiceRow) -> Value {
    let current = in_force(&row.prices);
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "base_url": row.base_url,
        "default_path": row.default_path,
        "has_upstream_credential": row.credential.is_some(),
        "enabled": row.enabled,
        "price": current.map(|price| price_to_json(&price.model)),
        "price_version": current.map(|price| price.version),
        "created_at": row.created_at,
    })
}

/// The price of calls admitted now, of prices in the order of their start.
fn in_force(prices: &[PriceRow]) -> Option<&PriceVersion> {
    let now_unix_us = clock::unix_us();
    let begun = prices.iter().rev().find(|it| it.price.effective_at_unix_us <= now_unix_us);
    begun.or_else(|| prices.first()).map(|it| &it.price)
}

fn shown_price(service: ServiceId, row: &PriceRow, in_force: Option<u32>) -> Value {
    json!({
        "service_id": service.to_string(),
        "version": row.price.version,
        "price": price_to_json(&row.price.model),
        "effective_at": rfc3339(row.price.effective_at_unix_us),
        "in_force": in_force == Some(row.price.version),
        "created_at": row.created_at,
    })
}
