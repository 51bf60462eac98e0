//! `/admin/v1/plans`

use super::body::BodyFields;
use super::error::AdminError;
use super::query::{self, Pairs};
use super::{Body, page_of, parse_id, refuse};
use crate::control::admin_state::AdminState;
use crate::store::{PlanChange, PlanRow, new_id, when_lost_name, when_lost_of};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use shard::catalog::{Plan, WhenLost};
use shard::units::PlanId;
use std::ops::RangeInclusive;
use std::sync::Arc;

const FIELDS: [&str; 5] = ["name", "rate_per_s", "burst", "quota_tokens", "when_lost"];
/// Far above what an instance serves, far below where a bucket's arithmetic ends.
const RATE: RangeInclusive<u64> = 1..=1_000_000_000;
/// Readers that hold numbers as doubles keep it whole.
const QUOTA: RangeInclusive<u64> = 0..=(1 << 53) - 1;
const NAME_CHARS_MAX: usize = 64;

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let page = query::only_page(pairs)?;
    let rows = state.store.plans(page).await.map_err(refuse("plan", ""))?;
    Ok(page_of(&rows, page.limit, |row| row.place, shown))
}

pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: PlanId = parse_id("plan", &id)?;
    let row = state.store.plan(id).await.map_err(refuse("plan", id))?;
    Ok(Json(shown(&row)))
}

pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    let plan = Plan {
        id: PlanId(new_id().map_err(refuse("plan", ""))?),
        name: fields.required_text("name", NAME_CHARS_MAX).into(),
        rate_per_s: fields.required_integer("rate_per_s", RATE),
        burst: fields.required_integer("burst", RATE),
        quota_tokens: fields.required_integer("quota_tokens", QUOTA),
        when_lost: when_lost(&mut fields),
    };
    fields.finish()?;
    let insert = state.store.insert_plan(plan);
    let row = state.change_plan(insert).await.map_err(refuse("plan", ""))?;
    Ok((StatusCode::CREATED, Json(shown(&row))))
}

pub(super) async fn change(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<Json<Value>, AdminError> {
    let id: PlanId = parse_id("plan", &id)?;
    let mut fields = BodyFields::of_body(&body, &FIELDS)?;
    if fields.has("name") {
        fields.problem("name", "cannot be changed");
    }
    let has_when_lost = fields.has("when_lost");
    let change = PlanChange {
        rate_per_s: fields.integer("rate_per_s", RATE),
        burst: fields.integer("burst", RATE),
        quota_tokens: fields.integer("quota_tokens", QUOTA),
        when_lost: has_when_lost.then(|| when_lost(&mut fields)),
    };
    fields.finish()?;
    let update = state.store.update_plan(id, change);
    let row = state.change_plan(update).await.map_err(refuse("plan", id))?;
    Ok(Json(shown(&row)))
}

/// Shards are not told: no key is on the plan, and what they have counted for it stands.
pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: PlanId = parse_id("plan", &id)?;
    let deleted = state.store.delete_plan(id).await;
    Ok(Json(shown(&deleted.map_err(refuse("plan", id))?)))
}

fn when_lost(fields: &mut BodyFields) -> Option<WhenLost> {
    let text = fields.text("when_lost", NAME_CHARS_MAX)?;
    let when_lost = when_lost_of(&text);
    if when_lost.is_none() {
        fields.problem("when_lost", "must be \"closed\", \"degraded\", \"open\" or null");
    }
    when_lost
}

fn shown(row: &PlanRow) -> Value {
    json!({
        "id": row.plan.id.to_string(),
        "name": row.plan.name,
        "rate_per_s": row.plan.rate_per_s,
        "burst": row.plan.burst,
        "quota_tokens": row.plan.quota_tokens,
        "when_lost": row.plan.when_lost.map(when_lost_name),
        "created_at": row.created_at,
    })
}
