//! The one place where a refusal of the admin API becomes an answer, in the data plane's shape.
//! What the store said goes to the log, never to the caller.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    /// Path of the field in the body, e.g. `price.tiers[0].up_to_tokens`.
    pub(crate) field: String,
    /// Completes the sentence that the field's name begins.
    pub(crate) message: String,
}

impl FieldProblem {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminError {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<String>,
}

impl AdminError {
    /// 400: the caller's fault, with the field at fault.
    pub(crate) fn invalid(param: Option<&str>, message: String) -> Self {
        let param = param.map(str::to_owned);
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", message, param }
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        let message = "Send the admin token as `Authorization: Bearer …`. It is set by \
                       TOLLGATE_ADMIN__TOKEN or kept in admin.token in the data directory.";
        Self::of(StatusCode::UNAUTHORIZED, "invalid_admin_token", message)
    }

    /// 421: a name that is not this port's.
    pub(crate) fn misdirected() -> Self {
        let message = "The admin port is not known by the name in Host. Call it by its address, or \
                       add the name to `[admin] hosts` in the configuration.";
        Self::of(StatusCode::MISDIRECTED_REQUEST, "misdirected_request", message)
    }

    /// 404 of an object.
    pub(crate) fn no_such(kind: &str, id: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, "not_found", format!("There is no {kind} {id:?}."))
    }

    /// 404 of a route.
    pub(crate) fn no_route() -> Self {
        Self::of(StatusCode::NOT_FOUND, "not_found", "There is no such route.")
    }

    /// 405.
    pub(crate) fn no_method() -> Self {
        let message = "This route does not know that method.";
        Self::of(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// 409: the object's state, or another object, is in the way.
    pub(crate) fn conflict(param: &str, message: String) -> Self {
        let param = Some(param.to_owned());
        Self { param, ..Self::of(StatusCode::CONFLICT, "conflict", message) }
    }

    /// 413.
    pub(crate) fn too_large() -> Self {
        let message = "The body is larger than 64 KiB.";
        Self::of(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// 408: the head or the body did not come in time.
    pub(crate) fn timeout() -> Self {
        let message = "The request did not come in time. Send it again, faster.";
        Self::of(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 503: too many connections.
    pub(crate) fn overloaded() -> Self {
        let message = "The admin API has too many connections. Close some, or try again later.";
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    }

    /// 503: as many calls wait for the store as may.
    pub(crate) fn store_busy() -> Self {
        let message = "Too many calls wait for the store. Try again in a moment.";
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    }

    /// 503: the store cannot be reached; `cause` goes to the log.
    pub(crate) fn store_away(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "an admin call failed");
        let message = "The store cannot be reached now, and a change may have been made or not. \
                       Look, and try again in a moment.";
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
    }

    /// 503: a sum over more records than can be added up in time.
    pub(crate) fn too_slow() -> Self {
        let message = "This took longer than 10 s and was given up. Ask for whole days, or for \
                       fewer hours at a time.";
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "too_slow", message)
    }

    /// 500: our fault or the host's; `cause` goes to the log.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "an admin call failed");
        let message = "The instance could not carry this out; its log says why.";
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// 500: a revocation that holds, but will be forgotten; `cause` goes to the log.
    pub(crate) fn not_kept(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a revocation could not be stored");
        let message = "The key is refused from now on, but the store could not keep that: a \
                       restart would accept it again. Mend the store (the instance's log says \
                       what is wrong) and repeat the call.";
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// 503: a revocation that the store cannot be told of; `others_know`: Redis keeps it for them.
    /// `cause` goes to the log.
    pub(crate) fn not_kept_away(others_know: bool, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, others_know, "a revocation could not be stored");
        let message = if others_know {
            "The key is refused by all instances from now on. But the store cannot be reached, and \
             may not have kept that: the key may be accepted again when Redis loses it. Repeat \
             the call once the store is back."
        } else {
            "The key is refused on this instance from now on. But neither the store nor Redis can \
             be reached: other instances may accept the key, and so may this one after a restart. \
             Repeat the call once the store is back."
        };
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
    }

    /// 503: a revocation that holds on this instance, and that the store had no turn for yet.
    pub(crate) fn not_kept_yet() -> Self {
        let message = "The key is refused on this instance from now on, but too many calls wait \
                       for the store, which has not kept that yet: a restart would accept it \
                       again. Repeat the call in a moment.";
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    }

    /// The whole answer, for a connection that ends with it.
    pub(crate) fn as_http(&self) -> String {
        let (status, body) = (self.status, self.body().to_string());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code
        }})
    }

    fn of(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None }
    }
}

impl From<Vec<FieldProblem>> for AdminError {
    fn from(problems: Vec<FieldProblem>) -> Self {
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| format!("{} {}", problem.field, problem.message))
            .collect();
        let param = problems.first().map(|problem| problem.field.as_str());
        Self::invalid(param, format!("{}.", lines.join("; ")))
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
