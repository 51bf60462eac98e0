//! Every refusal that a caller may see, and the only place that gives it a status and a body.
//!
//! Messages say what to do next and carry nothing internal: no upstream address, no path, nothing
//! of another caller.

use super::call::CallError;
use super::chunked::ChunkError;
use super::request::{HeadError, NoTimeout};
use std::borrow::Cow;

/// The dialect that the caller speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `{"error":{"message","type","param","code"}}`
    #[default]
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`, on `/v1/messages`.
    Anthropic,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// Malformed HTTP or JSON, or a field whose value is not allowed.
    InvalidRequest {
        /// What is wrong.
        message: Cow<'static, str>,
        /// Which field.
        param: Option<&'static str>,
    },
    /// The key is missing, malformed, unknown, revoked or expired. All get the same answer.
    InvalidApiKey,
    /// The key may not use this service.
    ServiceNotAllowed,
    /// No service has this id.
    ServiceNotFound,
    /// No service has the body's `model`.
    ModelNotFound,
    /// No such route.
    NotFound,
    /// The client was too slow to send.
    RequestTimeout,
    /// The body is over its bound.
    RequestTooLarge,
    /// The target is over its bound.
    UriTooLong,
    /// The fields are over their bound.
    HeadersTooLarge,
    /// Over the plan's rate.
    RateLimitExceeded,
    /// The month's tokens are spent.
    InsufficientQuota,
    /// The upstream broke off or answered nonsense.
    UpstreamError,
    /// This instance has too much to do.
    Overloaded,
    /// The limits cannot be counted now.
    AuthorityUnavailable,
    /// Usage cannot be recorded now.
    JournalFull,
    /// The upstream did not answer in time.
    UpstreamTimeout,
}

/// One refusal's row: status, code, the type in each dialect.
struct RefusalRow(u16, &'static str, &'static str, &'static str);

impl ApiError {
    /// An [`ApiError::InvalidRequest`] that names no field.
    pub(crate) fn invalid(message: &'static str) -> Self {
        Self::InvalidRequest { message: Cow::Borrowed(message), param: None }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.row().0
    }

    /// The `code` that programs go by.
    pub(crate) fn code(&self) -> &'static str {
        self.row().1
    }

    /// The `type` in this dialect.
    pub(crate) fn error_type(&self, shape: Shape) -> &'static str {
        match shape {
            Shape::OpenAi => self.row().2,
            Shape::Anthropic => self.row().3,
        }
    }

    /// Appends the body, JSON.
    pub(crate) fn write_body(&self, out: &mut Vec<u8>, shape: Shape) {
        out.extend_from_slice(match shape {
            Shape::OpenAi => b"{\"error\":{\"message\":",
            Shape::Anthropic => b"{\"type\":\"error\",\"error\":{\"type\":",
        });
        match shape {
            Shape::OpenAi => {
                write_string(out, self.message());
                out.extend_from_slice(b",\"type\":");
                write_string(out, self.error_type(shape));
                out.extend_from_slice(b",\"param\":");
                match self {
                    Self::InvalidRequest { param: Some(param), .. } => write_string(out, param),
                    _ => out.extend_from_slice(b"null"),
                }
                out.extend_from_slice(b",\"code\":");
                write_string(out, self.code());
            }
            Shape::Anthropic => {
                write_string(out, self.error_type(shape));
                out.extend_from_slice(b",\"message\":");
                write_string(out, self.message());
            }
        }
        out.extend_from_slice(b"}}");
    }

    /// Appends it as the last event of a stream that has begun.
    pub(crate) fn write_sse_event(&self, out: &mut Vec<u8>, shape: Shape) {
        if shape == Shape::Anthropic {
            out.extend_from_slice(b"event: error\n");
        }
        out.extend_from_slice(b"data: ");
        self.write_body(out, shape);
        out.extend_from_slice(b"\n\n");
    }

    fn row(&self) -> RefusalRow {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::InvalidRequest { .. } => RefusalRow(400, "invalid_request", INVALID, INVALID),
            Self::InvalidApiKey => {
                RefusalRow(401, "invalid_api_key", INVALID, "authentication_error")
            }
            Self::ServiceNotAllowed => {
                RefusalRow(403, "service_not_allowed", INVALID, "permission_error")
            }
            Self::ServiceNotFound => {
                RefusalRow(404, "service_not_found", INVALID, "not_found_error")
            }
            Self::ModelNotFound => RefusalRow(404, "model_not_found", INVALID, "not_found_error"),
            Self::NotFound => RefusalRow(404, "not_found", INVALID, "not_found_error"),
            Self::RequestTimeout => RefusalRow(408, "request_timeout", INVALID, INVALID),
            Self::RequestTooLarge => {
                RefusalRow(413, "request_too_large", INVALID, "request_too_large")
            }
            Self::UriTooLong => RefusalRow(414, "uri_too_long", INVALID, INVALID),
            Self::HeadersTooLarge => RefusalRow(431, "headers_too_large", INVALID, INVALID),
            Self::RateLimitExceeded => {
                RefusalRow(429, "rate_limit_exceeded", "requests", "rate_limit_error")
            }
            Self::InsufficientQuota => {
                RefusalRow(429, "insufficient_quota", "insufficient_quota", "rate_limit_error")
            }
            Self::UpstreamError => RefusalRow(502, "upstream_error", SERVER, "api_error"),
            Self::Overloaded => RefusalRow(503, "overloaded", SERVER, "overloaded_error"),
            Self::AuthorityUnavailable => {
                RefusalRow(503, "authority_unavailable", SERVER, "api_error")
            }
            Self::JournalFull => RefusalRow(503, "journal_full", SERVER, "api_error"),
            Self::UpstreamTimeout => RefusalRow(504, "upstream_timeout", SERVER, "api_error"),
        }
    }

    /// What people read: what is wrong, and what to do next.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::InvalidRequest { message, .. } => message,
            // SDKs and LiteLLM recognise it by its first words.
            Self::InvalidApiKey => {
                "Incorrect API key provided: it is missing or not valid. Send a current key as \
                 'Authorization: Bearer tg_...' or 'x-api-key: tg_...'."
            }
            Self::ServiceNotAllowed => {
                "This API key may not use this service. GET /v1/models lists those that it may use."
            }
            Self::ServiceNotFound => {
                "There is no such service. GET /v1/models lists those that this key may use, each \
                 with its service_id."
            }
            Self::ModelNotFound => {
                "The model does not exist or is not for sale. GET /v1/models lists those that this \
                 key may use."
            }
            Self::NotFound => {
                "There is no such route. Check the method and the path of the request."
            }
            Self::RequestTimeout => {
                "The request did not arrive in time. Send it again over a new connection."
            }
            Self::RequestTooLarge => "The request body is too large. Send a shorter one.",
            Self::UriTooLong => "The request target is too long. Send a shorter path or query.",
            Self::HeadersTooLarge => {
                "The request headers are too large. Send fewer or shorter ones."
            }
            Self::RateLimitExceeded => {
                "The rate limit of your plan is reached. Wait as long as Retry-After says, then \
                 send the request again."
            }
            Self::InsufficientQuota => {
                "The tokens left of your plan's monthly quota do not suffice for this request. \
                 GET /api/v1/account shows what is left and when it resets."
            }
            Self::UpstreamError => {
                "The service failed to answer. Send the request again; if it goes on, ask the \
                 service's provider."
            }
            Self::Overloaded => {
                "The gateway has too much to do. Wait as long as Retry-After says, then send the \
                 request again."
            }
            Self::AuthorityUnavailable => {
                "The gateway cannot check limits at the moment. Wait as long as Retry-After says, \
                 then send the request again."
            }
            Self::JournalFull => {
                "The gateway cannot record usage at the moment. Wait as long as Retry-After says, \
                 then send the request again."
            }
            Self::UpstreamTimeout => {
                "The service did not answer in time. Send the request again, or ask for a shorter \
                 answer."
            }
        }
    }
}

impl From<HeadError> for ApiError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::BadRequest(reason) => Self::InvalidRequest {
                message: Cow::Owned(format!(
                    "The request is not valid HTTP: {reason}. Send a valid one over a new \
                     connection."
                )),
                param: None,
            },
            HeadError::UriTooLong => Self::UriTooLong,
            HeadError::HeadersTooLarge => Self::HeadersTooLarge,
            HeadError::VersionNotSupported => {
                Self::invalid("The HTTP version is not supported. Use HTTP/1.1.")
            }
            HeadError::ExpectationFailed => Self::invalid(
                "The expectation is not supported. Send 'Expect: 100-continue' or none.",
            ),
        }
    }
}

impl From<NoTimeout> for ApiError {
    fn from(_: NoTimeout) -> Self {
        Self::InvalidRequest {
            message: "'x-tollgate-timeout-ms' is not a whole number of milliseconds above 0. Send \
                      one, or leave the header out."
                .into(),
            param: Some("x-tollgate-timeout-ms"),
        }
    }
}

impl From<ChunkError> for ApiError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::TrailersTooLarge => Self::HeadersTooLarge,
            _ => Self::invalid(
                "The request body is not valid chunked coding. Send valid chunks, or a \
                 Content-Length instead.",
            ),
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let (message, param) = match error {
            CallError::Malformed => {
                (Cow::Borrowed("The request body is not valid JSON. Send a JSON object."), None)
            }
            CallError::NotAnObject => {
                (Cow::Borrowed("The request body is not a JSON object. Send one."), None)
            }
            CallError::TooDeep => (
                Cow::Borrowed(
                    "The request body is nested too deeply. Send one of 64 levels at the most.",
                ),
                None,
            ),
            CallError::Duplicate(field) => (
                Cow::Owned(format!("'{field}' is given more than once. Send it once.")),
                Some(field),
            ),
            CallError::OtherCase(field) => (
                Cow::Owned(format!("'{field}' is written in another case. Send it as '{field}'.")),
                Some(field),
            ),
            CallError::WrongType { field, expected } => {
                (Cow::Owned(format!("'{field}' is not {expected}. Send {expected}.")), Some(field))
            }
        };
        Self::InvalidRequest { message, param }
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for run in text.as_bytes().split_inclusive(|byte| b"\"\\".contains(byte) || *byte < b' ') {
        let Some((last, plain)) = run.split_last() else { continue };
        out.extend_from_slice(plain);
        match last {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *last]),
            // No message of ours has a control character, so none needs its escape.
            0..0x20 => out.push(b' '),
            _ => out.push(*last),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde_json::{Value, json};

    fn body(error: &ApiError, shape: Shape) -> Value {
        let mut out = Vec::new();
        error.write_body(&mut out, shape);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn statuses_and_codes_are_those_of_the_contract() {
        for (error, status, code, anthropic) in [
            (ApiError::invalid("x"), 400, "invalid_request", "invalid_request_error"),
            (ApiError::InvalidApiKey, 401, "invalid_api_key", "authentication_error"),
            (ApiError::ServiceNotAllowed, 403, "service_not_allowed", "permission_error"),
            (ApiError::ServiceNotFound, 404, "service_not_found", "not_found_error"),
            (ApiError::ModelNotFound, 404, "model_not_found", "not_found_error"),
            (ApiError::NotFound, 404, "not_found", "not_found_error"),
            (ApiError::RequestTimeout, 408, "request_timeout", "invalid_request_error"),
            (ApiError::RequestTooLarge, 413, "request_too_large", "request_too_large"),
            (ApiError::UriTooLong, 414, "uri_too_long", "invalid_request_error"),
            (ApiError::HeadersTooLarge, 431, "headers_too_large", "invalid_request_error"),
            (ApiError::RateLimitExceeded, 429, "rate_limit_exceeded", "rate_limit_error"),
            (ApiError::InsufficientQuota, 429, "insufficient_quota", "rate_limit_error"),
            (ApiError::UpstreamError, 502, "upstream_error", "api_error"),
            (ApiError::Overloaded, 503, "overloaded", "overloaded_error"),
            (ApiError::AuthorityUnavailable, 503, "authority_unavailable", "api_error"),
            (ApiError::JournalFull, 503, "journal_full", "api_error"),
            (ApiError::UpstreamTimeout, 504, "upstream_timeout", "api_error"),
        ] {
            assert_eq!((error.status(), error.code()), (status, code));
            let open_ai = body(&error, Shape::OpenAi);
            assert_eq!(open_ai["error"]["code"], code);
            assert_eq!(open_ai["error"]["param"], Value::Null);
            assert_eq!(open_ai["error"]["message"], error.message());
            let other = body(&error, Shape::Anthropic);
            assert_eq!(other["type"], "error");
            assert_eq!(other["error"], json!({"type": anthropic, "message": error.message()}));
            assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn a_stream_ends_with_an_error_event() {
        let event = |shape| {
            let mut out = Vec::new();
            ApiError::UpstreamError.write_sse_event(&mut out, shape);
            String::from_utf8(out).unwrap()
        };
        let (open_ai, anthropic) = (event(Shape::OpenAi), event(Shape::Anthropic));
        assert!(open_ai.starts_with("data: {\"error\":{\"message\":\"The service failed"));
        assert!(open_ai.ends_with("\"code\":\"upstream_error\"}}\n\n"));
        assert!(
            anthropic.starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\"")
        );
        assert!(anthropic.ends_with("\"}}\n\n"));
    }

    #[test]
    fn a_field_is_named_and_its_text_cannot_break_out() {
        let error = ApiError::from(CallError::Duplicate("model"));
        assert_eq!(body(&error, Shape::OpenAi)["error"]["param"], "model");
        let error = ApiError::invalid("a\"b\\c\nd");
        assert_eq!(body(&error, Shape::OpenAi)["error"]["message"], "a\"b\\c d");
    }
}
