//! `/admin/v1/keys`. A key's text is in the answer that makes it, and nowhere else.

use super::body::BodyFields;
use super::error::AdminError;
use super::query::{self, Pairs};
use super::{Body, page_of, parse_id, refuse};
use crate::clock;
use crate::control::admin_state::{AdminState, NotKept};
use crate::control::secret;
use crate::store::{CatalogError, Digest, KeyRow, NewKey, new_id};
use crate::wire::time_text::rfc3339;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use shard::units::{BucketId, ConsumerId, KeyId, ServiceId};
use std::sync::Arc;
use tokio::sync::oneshot;

const NAME_CHARS_MAX: usize = 256;
const SERVICES_MAX: usize = 1_000;
/// A year.
const GRACE_S_MAX: u64 = 366 * 86_400;

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<Value>, AdminError> {
    let mut fields = query::read(pairs, &["limit", "cursor", "consumer_id"])?;
    let page = query::page(&mut fields);
    let consumer = fields.text("consumer_id", NAME_CHARS_MAX).and_then(|text| {
        let id = text.parse().ok();
        if id.is_none() {
            fields.problem("consumer_id", "must be the id of a consumer");
        }
        id
    });
    fields.finish()?;
    let read = state.store.keys(consumer, page).await;
    Ok(page_of(&read.map_err(refuse("key", ""))?, page.limit, |row| row.place, shown))
}

pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: KeyId = parse_id("key", &id)?;
    let row = state.store.key(id).await.map_err(refuse("key", id))?;
    Ok(Json(shown(&row)))
}

pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let mut fields =
        BodyFields::of_body(&body, &["consumer_id", "name", "expires_at", "services"])?;
    let consumer = read_consumer(&state, &mut fields);
    let name = fields.text("name", NAME_CHARS_MAX);
    let expires_at_unix_us = fields.instant("expires_at");
    if expires_at_unix_us.is_some_and(|at| at <= clock::unix_us()) {
        fields.problem("expires_at", "must be in the future");
    }
    let services = read_services(&state, &mut fields);
    fields.finish()?;
    let Made { id, text, secret_hash, digest } = make(&state).await.map_err(refuse("key", ""))?;
    let bucket = BucketId(new_id().map_err(refuse("key", ""))?);
    let new =
        NewKey { id, consumer, bucket, name, secret_hash, digest, services, expires_at_unix_us };
    let made = state.change_keys(async { Ok([state.store.insert_key(new).await?]) }).await;
    let [row] = made.map_err(refuse("key", ""))?;
    Ok((StatusCode::CREATED, Json(shown_once(&row, &text))))
}

pub(super) async fn rotate(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let id: KeyId = parse_id("key", &id)?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let mut fields = BodyFields::of_body(body, &["grace_s"])?;
    let grace_s = fields.integer("grace_s", 0..=GRACE_S_MAX).unwrap_or(0);
    fields.finish()?;
    let old = state.store.key(id).await.map_err(refuse("key", id))?;
    if status(&old) != "active" {
        let message = format!("The key is {} and cannot be rotated.", status(&old));
        return Err(AdminError::conflict("id", message));
    }
    let Made { id: new_id, text, secret_hash, digest } =
        make(&state).await.map_err(refuse("key", ""))?;
    let new = NewKey {
        id: new_id,
        consumer: old.consumer,
        bucket: old.bucket,
        name: old.name,
        secret_hash,
        digest,
        services: old.services,
        expires_at_unix_us: old.expires_at_unix_us,
    };
    let ends_at =
        (grace_s > 0).then(|| clock::unix_us().saturating_add(grace_s as i64 * 1_000_000));
    let rotated = state.change_keys(state.store.rotate_key(id, new, ends_at)).await;
    let [old, row] = rotated.map_err(refuse("key", id))?;
    let mut answer = shown_once(&row, &text);
    answer["replaces"] = shown(&old);
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn revoke(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, AdminError> {
    let id: KeyId = parse_id("key", &id)?;
    let revoked = state.revoke_key(id).await.map_err(|not_kept| not_revoked(id, &not_kept));
    Ok(Json(shown(&revoked?)))
}

/// The key is refused already, whatever the store says.
fn not_revoked(id: KeyId, NotKept { failure, others_know }: &NotKept) -> AdminError {
    match failure {
        CatalogError::Missing => AdminError::no_such("key", &id.to_string()),
        CatalogError::Busy => AdminError::not_kept_yet(),
        CatalogError::Away(_) | CatalogError::TooSlow => {
            AdminError::not_kept_away(*others_know, failure)
        }
        failure => AdminError::not_kept(failure),
    }
}

/// A new key. No `Debug`: it holds its text.
struct Made {
    id: KeyId,
    text: String,
    secret_hash: String,
    digest: Digest,
}

/// Makes a key on a thread of its own: hashing takes tens of milliseconds and of MB, and both the
/// thread and its memory are gone when it is done. The turn ends with the thread, also where
/// nobody waits for it any more.
async fn make(state: &Arc<AdminState>) -> Result<Made, CatalogError> {
    let id = KeyId(new_id()?);
    let turn = Arc::clone(&state.hashes).acquire_owned().await;
    let config = state.settings().config.keys.clone();
    let (answer, answered) = oneshot::channel();
    let hashing = std::thread::Builder::new().name("hash-key".to_owned()).spawn(move || {
        // Whoever asked may have left.
        let _ = answer.send(secret::make(id, &config));
        drop(turn);
    });
    let internal = |error: &dyn std::fmt::Display| CatalogError::Internal(error.to_string());
    hashing.map_err(|error| internal(&error))?;
    let made = answered.await.map_err(|error| internal(&error))?;
    let (text, secret_hash) = made.map_err(CatalogError::Internal)?;
    let digest = state.vault.digest_of(&text);
    let text = String::from_utf8(text.to_vec()).map_err(|error| internal(&error.utf8_error()))?;
    Ok(Made { id, text, secret_hash, digest })
}

fn read_consumer(state: &AdminState, fields: &mut BodyFields) -> ConsumerId {
    let text = fields.required_text("consumer_id", NAME_CHARS_MAX);
    let id = text.parse().ok().filter(|id| state.directory().consumer(*id).is_some());
    if id.is_none() && !text.is_empty() {
        fields.problem("consumer_id", "must be the id of a consumer");
    }
    id.unwrap_or_default()
}

fn read_services(state: &AdminState, fields: &mut BodyFields) -> Option<Arc<[ServiceId]>> {
    let value = fields.take("services")?;
    let directory = state.directory();
    let catalog = directory.catalog();
    let Some(names) = value.as_array().filter(|names| names.len() <= SERVICES_MAX) else {
        let message = format!("must be a list of at most {SERVICES_MAX} services, or null: all");
        fields.problem("services", message);
        return None;
    };
    let mut services = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let text = name.as_str().unwrap_or_default();
        let by_id = text.parse().ok().and_then(|id| catalog.service_by_id(id));
        match by_id.or_else(|| catalog.service_by_name(text.as_bytes())) {
            Some(index) => services.push(catalog.services[index as usize].id),
            None => fields
                .problem(&format!("services[{place}]"), "must be the id or the name of a service"),
        }
    }
    services.sort_unstable();
    services.dedup();
    Some(services.into())
}

fn status(row: &KeyRow) -> &'static str {
    match row.expires_at_unix_us {
        _ if row.revoked_at.is_some() => "revoked",
        Some(expires_at) if expires_at <= clock::unix_us() => "expired",
        _ => "active",
    }
}

fn shown_once(row: &KeyRow, text: &str) -> Value {
    let mut value = shown(row);
    value["key"] = text.into();
    value
}

fn shown(row: &KeyRow) -> Value {
    let services = row
        .services
        .as_ref()
        .map(|services| services.iter().map(ToString::to_string).collect::<Vec<_>>());
    json!({
        "id": row.id.to_string(),
        "consumer_id": row.consumer.to_string(),
        "name": row.name,
        "status": status(row),
        "services": services,
        "expires_at": row.expires_at_unix_us.map(rfc3339),
        "revoked_at": row.revoked_at,
        "created_at": row.created_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    #[test]
    fn a_revocation_that_the_store_has_no_turn_for_is_no_fault_of_the_instance() {
        let status = |failure| {
            let not_kept = NotKept { failure, others_know: false };
            not_revoked(KeyId(1), &not_kept).into_response().status()
        };
        assert_eq!(status(CatalogError::Busy), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(CatalogError::TooSlow), StatusCode::SERVICE_UNAVAILABLE);
        let away = CatalogError::Away("connection refused".to_owned());
        assert_eq!(status(away), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(CatalogError::Missing), StatusCode::NOT_FOUND);
        let broken = CatalogError::Internal("the disk is full".to_owned());
        assert_eq!(status(broken), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
