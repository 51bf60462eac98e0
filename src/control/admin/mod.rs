//! The admin API: plans, consumers, keys, services, prices and usage over HTTP/1.1, for holders
//! of the admin token. Handlers are thin: read the call, change through the state, show the row.
//!
//! A change runs to its end even where the caller has gone: it is never left in the store without
//! the shards having been told. A read ends with its caller.

mod body;
mod consumers;
mod error;
mod keys;
mod plans;
mod price_json;
mod query;
mod serve;
mod services;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use serve::serve;

use super::admin_state::AdminState;
use crate::config::Hosts;
use crate::store::CatalogError;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use error::AdminError;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

const BODY_BYTES_MAX: usize = 64 * 1_024;

/// Describes both planes' interface. By hand: a generator would be a dependency for one file, and
/// could not see the data plane.
const OPENAPI: &str = include_str!("openapi.json");

/// All routes. They need the caller's address (`ConnectInfo<SocketAddr>`).
fn router(state: Arc<AdminState>) -> Router {
    let mut router = Router::new();
    for (path, methods) in routes() {
        router = router.route(path, methods);
    }
    router
        .fallback(|| async { AdminError::no_route() })
        .method_not_allowed_fallback(|| async { AdminError::no_method() })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// Every route; `openapi.json` describes each.
fn routes() -> [(&'static str, MethodRouter<Arc<AdminState>>); 14] {
    [
        ("/admin/v1/plans", get(plans::list).post(plans::create)),
        ("/admin/v1/plans/{id}", get(plans::show).patch(plans::change).delete(plans::delete)),
        ("/admin/v1/consumers", get(consumers::list).post(consumers::create)),
        (
            "/admin/v1/consumers/{id}",
            get(consumers::show).patch(consumers::change).delete(consumers::delete),
        ),
        ("/admin/v1/keys", get(keys::list).post(keys::create)),
        ("/admin/v1/keys/{id}", get(keys::show).delete(keys::revoke)),
        ("/admin/v1/keys/{id}/rotate", post(keys::rotate)),
        ("/admin/v1/services", get(services::list).post(services::create)),
        (
            "/admin/v1/services/{id}",
            get(services::show).patch(services::change).delete(services::delete),
        ),
        ("/admin/v1/services/{id}/prices", get(services::prices).post(services::add_price)),
        ("/admin/v1/usage", get(usage::sums)),
        ("/healthz", get(|| async { Json(json!({ "status": "ok" })) })),
        ("/metrics", get(metrics)),
        (
            "/openapi.json",
            get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }),
        ),
    ]
}

/// Lets a call pass that carries the token or needs none, and sees it through.
async fn guard(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    if !is_ours(&request, &state.settings().config.admin_hosts) {
        return AdminError::misdirected().into_response();
    }
    let is_open = match request.uri().path() {
        "/healthz" | "/openapi.json" => true,
        "/metrics" => is_from_loopback(&request),
        _ => false,
    };
    if !is_open && !has_token(&request, &state.settings().admin_token) {
        return AdminError::unauthorized().into_response();
    }
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => AdminError::internal(&error).into_response(),
    }
}

fn is_from_loopback(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback())
}

/// Is the port called by an address or by a name of its own? A web page can bind a name of its own
/// to this address and have a browser call it (DNS rebinding); it cannot bind an address.
fn is_ours(request: &Request, hosts: &Hosts) -> bool {
    // Browsers always name the host, and hyper has refused a second Host.
    let Some(value) = request.headers().get(header::HOST) else { return true };
    let Ok(authority) = value.to_str().unwrap_or_default().parse::<Authority>() else {
        return false;
    };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok() || hosts.0.contains(&host)
}

fn has_token(request: &Request, token: &str) -> bool {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return false;
    };
    let Some((scheme, given)) = value.as_bytes().split_at_checked(b"Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}

async fn metrics(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    state.metrics.control.store_connections.set(state.store.connections());
    let page = state.metrics.page(state.directory().catalog());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

/// A request's body: at most 64 KiB, read within its timeout.
struct Body(Bytes);

impl FromRequest<Arc<AdminState>> for Body {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &Arc<AdminState>) -> Result<Self, AdminError> {
        let patience = Duration::from_millis(state.settings().config.server.body_timeout_ms);
        let read = tokio::time::timeout(patience, Bytes::from_request(request, state)).await;
        read.map_err(|_| AdminError::timeout())?.map(Self).map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                return AdminError::too_large();
            }
            AdminError::invalid(None, "The body could not be read to its end.".to_owned())
        })
    }
}

/// A list's answer; a full page names the place to go on from.
fn page_of<T>(
    rows: &[T],
    limit: u32,
    place: fn(&T) -> i64,
    show: impl Fn(&T) -> Value,
) -> Json<Value> {
    let next = rows.last().filter(|_| rows.len() >= limit as usize);
    let next_cursor = next.map(|last| place(last).to_string());
    let data: Vec<Value> = rows.iter().map(show).collect();
    Json(json!({ "data": data, "next_cursor": next_cursor }))
}

/// Reads an identity from a path.
fn parse_id<T: std::str::FromStr>(kind: &str, text: &str) -> Result<T, AdminError> {
    text.parse().map_err(|_| AdminError::no_such(kind, text))
}

/// What a failed read or change of one object says.
fn refuse(kind: &'static str, id: impl ToString) -> impl FnOnce(CatalogError) -> AdminError {
    let id = id.to_string();
    move |failure| match failure {
        CatalogError::InUse(by) => {
            AdminError::conflict("id", format!("The {kind} is in use by {by}."))
        }
        CatalogError::Deleted(field) => {
            AdminError::conflict(field, format!("What {field} names has just been deleted."))
        }
        CatalogError::Missing => AdminError::no_such(kind, &id),
        CatalogError::Duplicate => {
            AdminError::conflict("name", format!("There is a {kind} with this name already."))
        }
        CatalogError::Dropped(day) => AdminError::invalid(
            Some("from"),
            format!(
                "Records of calls before {day} were dropped (usage.keep_days). Name whole days \
                 for times before it: 2026-11-01 instead of 2026-11-01T06:00:00Z."
            ),
        ),
        CatalogError::Busy => AdminError::store_busy(),
        CatalogError::TooSlow => AdminError::too_slow(),
        CatalogError::Away(cause) => AdminError::store_away(&cause),
        CatalogError::Internal(cause) => AdminError::internal(&cause),
    }
}
