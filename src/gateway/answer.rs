//! Heads and bodies of answers: the headers that every answer carries, refusals, and what is
//! answered without an upstream.

use super::call::{Refused, RequestId, RetryAfter};
use super::client::Client;
use crate::clock;
use crate::wire::error::Shape;
use crate::wire::pass;
use crate::wire::response::ResponseHead;
use crate::wire::write::{write_duration, write_header, write_header_u64, write_status_line};
use shard::LimitsView;
use shard::units::{NanoUsd, Nanos};

/// How an answer's end is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection closes (an HTTP/1.0 client).
    Close,
    /// No body by the status or the method.
    NoBody,
}

/// The headers that Tollgate itself adds.
pub struct Own<'a> {
    /// `x-request-id`
    pub request_id: &'a RequestId,
    /// `x-ratelimit-…`
    pub limits: Option<&'a LimitsView>,
    /// `x-tollgate-cost-nanousd`
    pub cost: Option<NanoUsd>,
    /// `Retry-After`
    pub retry_after: Option<RetryAfter>,
    /// The caller's dialect: Anthropic's SDKs read `request-id`.
    pub shape: Shape,
    /// The connection stays open.
    pub keep_alive: bool,
    /// The client is HTTP/1.0: that the connection stays open must be said.
    pub http_10: bool,
}

/// An upstream's answer, as far as its fields go on to the caller.
pub struct Theirs<'a> {
    /// Whose it is.
    pub upstream: pass::Upstream<'a>,
    /// Its head, as places in `bytes`.
    pub head: &'a ResponseHead,
    /// See `head`.
    pub bytes: &'a [u8],
}

/// Writes the head of an upstream's answer up to and with the empty line; its fields go first.
pub fn write_head(
    out: &mut Vec<u8>,
    status: u16,
    theirs: &Theirs<'_>,
    ending: Ending,
    own: &Own<'_>,
) {
    write_status_line(out, status);
    let mut is_dated = false;
    for (name, value) in &theirs.head.headers {
        let (name, value) = (name.of(theirs.bytes), value.of(theirs.bytes));
        if theirs.head.is_forwarded(theirs.bytes, name) && theirs.upstream.gives(name, value) {
            is_dated |= name.eq_ignore_ascii_case(b"date");
            write_header(out, name, value);
        }
    }
    if !is_dated {
        write_header(out, b"date", &clock::http_date_lately());
    }
    write_own(out, ending, own);
}

fn write_own(out: &mut Vec<u8>, ending: Ending, own: &Own<'_>) {
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
    match ending {
        Ending::Length(length) => write_header_u64(out, b"content-length", length),
        Ending::Chunked => write_header(out, b"transfer-encoding", b"chunked"),
        Ending::Close | Ending::NoBody => {}
    }
    if !own.keep_alive {
        write_header(out, b"connection", b"close");
    } else if own.http_10 {
        write_header(out, b"connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
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

/// Writes a refusal into the client's output.
pub fn write_refusal(
    client: &mut Client,
    refused: &Refused,
    shape: Shape,
    request_id: &RequestId,
    keep_alive: bool,
) {
    let mut body = Vec::with_capacity(256);
    refused.error.write_body(&mut body, shape);
    let own = Own {
        request_id,
        limits: refused.limits.as_ref(),
        cost: None,
        retry_after: refused.retry_after,
        shape,
        keep_alive,
        http_10: client.head.http_10,
    };
    write_json(client, refused.error.status(), &body, &own);
}

/// Writes an answer of ours with a JSON body into the client's output.
pub fn write_json(client: &mut Client, status: u16, body: &[u8], own: &Own<'_>) {
    let is_head = client.is_head();
    let out = &mut client.output;
    write_status_line(out, status);
    write_header(out, b"content-type", b"application/json");
    write_header(out, b"date", &clock::http_date_lately());
    write_own(out, Ending::Length(body.len() as u64), own);
    if !is_head {
        out.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(keep_alive: bool, http_10: bool) -> String {
        let request_id = &RequestId::ours(1);
        let (limits, cost, retry_after, shape) = (None, None, None, Shape::OpenAi);
        let own = Own { request_id, limits, cost, retry_after, shape, keep_alive, http_10 };
        let mut out = Vec::new();
        write_own(&mut out, Ending::Length(0), &own);
        let text = String::from_utf8_lossy(&out).into_owned();
        text.lines().find(|line| line.starts_with("connection")).unwrap_or_default().to_owned()
    }

    #[test]
    fn what_the_version_does_not_imply_of_the_connection_is_said() {
        assert_eq!(connection(true, false), "");
        assert_eq!(connection(false, false), "connection: close");
        assert_eq!(connection(true, true), "connection: keep-alive");
        assert_eq!(connection(false, true), "connection: close");
    }
}
