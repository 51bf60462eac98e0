//! `/admin/v1/consumers`

use super::body::BodyFields;
use super::error::AdminError;
use super::query::{self, Pairs};
use super::{Body, page_of, parse_id, refuse};
use crate::control::admin_state::AdminState;
use crate::store::{ConsumerChange, ConsumerRow, new_id};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use shard::units::{ConsumerId, PlanId};
use std::sync::Arc;

const FIELDS: [&str; 2] = ["name", "plan"];
const NAME_CHARS_MAX: usize = 256;

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let page = query::only_page(pairs)?;
    let read = state.store.consumers(page).await;
    Ok(page_of(&read.map_err(refuse("consumer", ""))?, page.limit, |row| row.place, shown))
}

pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: ConsumerId = parse_id("consumer", &id)?;
    let read = state.store.consumer(id).await;
    Ok(Json(shown(&read.map_err(refuse("consumer", id))?)))
}

pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    let name = fields.required_text("name", NAME_CHARS_MAX);
    let plan = fields.required_text("plan", NAME_CHARS_MAX);
    let plan = if plan.is_empty() { None } else { find_plan(&state, &mut fields, plan).await? };
    fields.finish()?;
    let plan = plan.unwrap_or_default();
    let id = ConsumerId(new_id().map_err(refuse("consumer", ""))?);
    let made = state.change_consumer(state.store.insert_consumer(id, name, plan)).await;
    Ok((StatusCode::CREATED, Json(shown(&made.map_err(refuse("consumer", ""))?))))
}

pub(super) async fn change(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<Json<Value>, AdminError> {
    let id: ConsumerId = parse_id("consumer", &id)?;
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    let name = fields.text("name", NAME_CHARS_MAX);
    let plan = match fields.text("plan", NAME_CHARS_MAX) {
        Some(text) => find_plan(&state, &mut fields, text).await?,
        None => None,
    };
    fields.finish()?;
    let update = state.store.update_consumer(id, ConsumerChange { name, plan });
    let changed = state.change_consumer(update).await;
    Ok(Json(shown(&changed.map_err(refuse("consumer", id))?)))
}

pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: ConsumerId = parse_id("consumer", &id)?;
    let deleted = state.delete_consumer(id).await;
    Ok(Json(shown(&deleted.map_err(refuse("consumer", id))?)))
}

/// The plan with this id or name; its absence is a problem of the field.
async fn find_plan(
    state: &AdminState,
    fields: &mut BodyFields,
    text: String,
) -> Result<Option<PlanId>, AdminError> {
    let found = state.store.find_plan(text).await.map_err(refuse("plan", ""))?;
    if found.is_none() {
        fields.problem("plan", "must be the id or the name of a plan");
    }
    Ok(found)
}

fn shown(row: &ConsumerRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "plan": row.plan_name,
        "plan_id": row.plan.to_string(),
        "created_at": row.created_at,
    })
}
