//! The heads of answers, apart from how they are framed: the upstream's fields, the gateway's own,
//! refusals, and what is answered without an upstream.

use super::call::{Call, CallId, RetryAfter};
use crate::clock;
use crate::wire::error::Shape;
use crate::wire::pass;
use crate::wire::response::ResponseHead;
use crate::wire::write::{write_duration, write_header, write_header_u64, write_status_line};
use shard::LimitsView;
use shard::units::{NanoUsd, Nanos};

/// An answer's head.
pub(super) struct AnswerHead<'a> {
    /// The status.
    pub status: u16,
    /// What is said of the body.
    pub fields: AnswerFields<'a>,
    /// How long the body is.
    pub length: BodyLength,
    /// What the gateway adds.
    pub own: GatewayHeaders<'a>,
}

/// What an answer says of its body.
pub(super) enum AnswerFields<'a> {
    /// It is JSON of ours.
    Json,
    /// What the upstream says.
    Upstream(Theirs<'a>),
}

/// How long an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// This many bytes. For HEAD: of what GET would bring.
    Known(u64),
    /// Not known yet: it ends when the upstream's does.
    Unknown,
    /// There is none, by the status or the method.
    None,
}

/// The headers that Tollgate itself adds.
pub(super) struct GatewayHeaders<'a> {
    /// `x-request-id`
    pub request_id: &'a CallId,
    /// The caller's dialect: Anthropic's SDKs read `request-id`.
    pub shape: Shape,
    /// `x-ratelimit-…`
    pub limits: Option<&'a LimitsView>,
    /// `x-tollgate-cost-nanousd`
    pub cost: Option<NanoUsd>,
    /// `Retry-After`
    pub retry_after: Option<RetryAfter>,
}

impl<'a> GatewayHeaders<'a> {
    /// Those of every answer to the call.
    pub(super) const fn of(call: &'a Call) -> Self {
        let request_id = &call.beginning.request_id;
        Self { request_id, shape: call.shape, limits: None, cost: None, retry_after: None }
    }
}

/// An upstream's answer, as far as its fields go on to the caller.
pub(super) struct Theirs<'a> {
    /// Whose it is.
    pub upstream: pass::PassTarget<'a>,
    /// Its head, as places in `bytes`.
    pub head: &'a ResponseHead,
    /// See `head`.
    pub bytes: &'a [u8],
}

/// Writes a head without what frames the body and without the empty line; the upstream's fields
/// go first.
pub(super) fn write(out: &mut Vec<u8>, answer: &AnswerHead<'_>) {
    write_status_line(out, answer.status);
    let mut is_dated = false;
    match &answer.fields {
        AnswerFields::Json => write_header(out, b"content-type", b"application/json"),
        AnswerFields::Upstream(theirs) => {
            for (name, value) in &theirs.head.headers {
                let (name, value) = (name.of(theirs.bytes), value.of(theirs.bytes));
                let is_forwarded = theirs.head.is_forwarded(theirs.bytes, name);
                if is_forwarded && theirs.upstream.gives(name, value) {
                    is_dated |= name.eq_ignore_ascii_case(b"date");
                    write_header(out, name, value);
                }
            }
        }
    }
    if !is_dated {
        write_header(out, b"date", &clock::http_date_lately());
    }
    write_own(out, &answer.own);
}

fn write_own(out: &mut Vec<u8>, own: &GatewayHeaders<'_>) {
    write_header(out, b"x-request-id", own.request_id.as_bytes());
    if own.shape == Shape::Anthropic {
        write_header(out, b"request-id", own.request_id.as_bytes());
    }
    if let Some(limits) = own.limits {
        write_limits(out, limits);
    }
    if let Some(cost) = own.cost {
        write_header_u64(out, b"x-tollgate-cost-nanousd", cost.0.unsigned_abs());
    }
    if let Some(RetryAfter { span, in_ms }) = own.retry_after {
        write_header_u64(out, b"retry-after", span.0.div_ceil(1_000_000_000).max(1));
        if in_ms {
            write_header_u64(out, b"retry-after-ms", span.0.div_ceil(1_000_000).max(1));
        }
    }
}

fn write_limits(out: &mut Vec<u8>, limits: &LimitsView) {
    write_header_u64(out, b"x-ratelimit-limit-requests", limits.limit_requests);
    write_header_u64(out, b"x-ratelimit-remaining-requests", limits.remaining_requests);
    write_header_u64(out, b"x-ratelimit-limit-tokens", limits.limit_tokens);
    write_header_u64(out, b"x-ratelimit-remaining-tokens", limits.remaining_tokens);
    let mut span = |name: &[u8], value: Nanos| {
        out.extend_from_slice(name);
        write_duration(out, value.0);
        out.extend_from_slice(b"\r\n");
    };
    span(b"x-ratelimit-reset-requests: ", limits.reset_requests);
    span(b"x-ratelimit-reset-tokens: ", limits.reset_tokens);
}
