//! A request's head: from the connection's bytes to spans of them.
//!
//! Strict where two readers could disagree: whoever stands behind this gateway must see the same
//! requests as it does. Bare LF, folded fields, two lengths, a length beside chunks, and whatever
//! else serves request smuggling are refused, never repaired.

use super::head::{FramingFields, HeadScan, ScanError, is_hop_by_hop, is_listed, trim};
pub use super::head::{HEADERS_MAX, HeadLimits};
use super::span::Span;
use std::mem::MaybeUninit;

/// Bytes of a method; the longest registered one has 17.
const METHOD_BYTES_MAX: usize = 32;
/// What a request line has besides its target: the method, two spaces, `HTTP/1.1`.
const REQUEST_LINE_EXTRA_BYTES: usize = METHOD_BYTES_MAX + 10;
/// Bytes of a caller's request id.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// The method, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// PATCH
    Patch,
    /// OPTIONS
    Options,
    /// Any other; `method_span` has it.
    #[default]
    Other,
}

impl Method {
    /// Its name; `OTHER` for what is not in the list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Other => "OTHER",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "PATCH" => Self::Patch,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// Where a request's body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    #[default]
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Malformed or ambiguous; the reason may be shown to the client.
    BadRequest(&'static str),
    /// The target is over its bound.
    UriTooLong,
    /// The head, or the number of its fields, is over its bound.
    HeadersTooLarge,
    /// Not HTTP/1.0 or HTTP/1.1.
    VersionNotSupported,
    /// An Expect other than 100-continue.
    ExpectationFailed,
}

/// The value of an x-tollgate-timeout-ms is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTimeout;

/// A request's head. One per connection, cleared between requests.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method as sent.
    pub method_span: Span,
    /// The target's path; always begins with `/`.
    pub path: Span,
    /// What follows the `?`.
    pub query: Option<Span>,
    /// Where the body ends.
    pub framing: BodyFraming,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// HTTP/1.0.
    pub http_10: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The Authorization field, whole.
    pub authorization: Option<Span>,
    /// What follows `Bearer` in it.
    pub bearer: Option<Span>,
    /// x-api-key.
    pub x_api_key: Option<Span>,
    /// x-request-id, where it is 1 to 64 letters, digits and `-_.:/=+@`.
    pub x_request_id: Option<Span>,
    /// traceparent, where it is one (W3C Trace Context, version 00).
    pub traceparent: Option<Span>,
    /// Content-Type.
    pub content_type: Option<Span>,
    /// Host.
    pub host: Option<Span>,
    /// x-tollgate-timeout-ms.
    pub timeout: Option<Span>,
    /// There is an anthropic-version.
    pub names_anthropic: bool,
    /// All fields as sent: name, value.
    pub headers: Vec<(Span, Span)>,
    /// Bytes of the head, the empty line included.
    pub head_len: usize,
    lists_fields: bool,
    scan: HeadScan,
}

impl RequestHead {
    /// Makes it ready for the next request; the room for fields is kept.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::default() };
    }

    /// The field may be passed on: it is not for this hop only.
    pub(crate) fn is_forwarded(&self, buf: &[u8], name: &[u8]) -> bool {
        !(is_hop_by_hop(name) || self.lists_fields && is_listed(buf, &self.headers, name))
    }

    /// How long the caller gives the whole call; `None`: it does not say.
    pub(crate) fn timeout_ms(&self, buf: &[u8]) -> Result<Option<u64>, NoTimeout> {
        let Some(span) = self.timeout else { return Ok(None) };
        let text = span.of(buf);
        let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        // A number that is too long to be held is as good as the longest.
        let digit =
            |sum: u64, byte: &u8| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
        let ms = if is_number { text.iter().fold(0, digit) } else { 0 };
        if ms == 0 { Err(NoTimeout) } else { Ok(Some(ms)) }
    }
}

/// Reads a head from the start of `buf`: `false` as long as it is not complete. Call it again with
/// the same bytes and more, and the same `head`; after `true`, `clear` it before the next.
pub fn parse_request_head(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<bool, HeadError> {
    let line_bytes = limits.uri_bytes.saturating_add(REQUEST_LINE_EXTRA_BYTES);
    let found = head.scan.find_end(buf, limits.head_bytes, line_bytes);
    if matches!(found, Ok(None) | Err(ScanError::FirstLineTooLong | ScanError::TooLarge)) {
        check_method_begins(&buf[head.scan.start.min(buf.len())..])?;
    }
    let end = match found {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(false),
        Err(ScanError::Malformed(reason)) => return Err(HeadError::BadRequest(reason)),
        Err(ScanError::FirstLineTooLong) => return Err(HeadError::UriTooLong),
        Err(ScanError::TooLarge) if head.scan.in_first_line() => return Err(HeadError::UriTooLong),
        Err(ScanError::TooLarge) => return Err(HeadError::HeadersTooLarge),
    };
    let text = &buf[head.scan.start..end];
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let room = limits.headers.min(HEADERS_MAX);
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(text, &mut slots[..room]) {
        Ok(httparse::Status::Complete(bytes)) if bytes == text.len() => {}
        Ok(_) => return Err(HeadError::BadRequest("the head ends where it should not")),
        Err(error) => return Err(refusal(error, text)),
    }
    head.http_10 = parsed.version == Some(0);
    head.head_len = end;
    read_request_line(buf, limits, head, &parsed)?;
    read_fields(buf, head, parsed.headers)?;
    Ok(true)
}

/// The path of a head that was refused or never came whole, as far as its first line tells. It
/// decides how the refusal is written, and nothing else.
pub(crate) fn path_at_sight(buf: &[u8]) -> &[u8] {
    let line = buf.trim_ascii_start().split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let resource = origin_form(target).unwrap_or_default();
    resource.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// Garbage (a TLS handshake, say) is refused as soon as it cannot be a method.
fn check_method_begins(line: &[u8]) -> Result<(), HeadError> {
    let start = &line[..line.len().min(METHOD_BYTES_MAX + 1)];
    let method = start.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~\r".contains(byte);
    if method.len() > METHOD_BYTES_MAX || !method.iter().all(is_token) {
        return Err(HeadError::BadRequest("no HTTP method"));
    }
    Ok(())
}

fn refusal(error: httparse::Error, text: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::HeadersTooLarge,
        httparse::Error::Version if has_other_version(text) => HeadError::VersionNotSupported,
        httparse::Error::HeaderName => HeadError::BadRequest("a malformed header name"),
        httparse::Error::HeaderValue => HeadError::BadRequest("a malformed header value"),
        _ => HeadError::BadRequest("a malformed request line"),
    }
}

/// Is the request line well formed but for its version: three parts, the last one `HTTP/` and more?
fn has_other_version(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ');
    let version = parts.nth(2).and_then(|version| version.strip_prefix(b"HTTP/"));
    parts.next().is_none() && version.is_some_and(|number| number.iter().any(u8::is_ascii_digit))
}

fn read_request_line(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
    parsed: &httparse::Request<'_, '_>,
) -> Result<(), HeadError> {
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if method.len() > METHOD_BYTES_MAX {
        return Err(HeadError::BadRequest("no HTTP method"));
    }
    if target.len() > limits.uri_bytes {
        return Err(HeadError::UriTooLong);
    }
    head.method = Method::of(method);
    head.method_span = Span::within(buf, method.as_bytes());
    let target = target.as_bytes();
    if !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(HeadError::BadRequest("a character in the target that must be escaped"));
    }
    let resource = origin_form(target)
        .ok_or(HeadError::BadRequest("the target is neither a path nor an http:// address"))?;
    let path = resource.split(|byte| *byte == b'?').next().unwrap_or_default();
    head.query = resource.get(path.len() + 1..).map(|query| Span::within(buf, query));
    // `http://host` has an empty path, which means `/`: the scheme's own slash says it.
    let path = if path.is_empty() { &target[5..6] } else { path };
    head.path = Span::within(buf, path);
    Ok(())
}

/// Path and query of a target in origin form, or in absolute form (`http://…`).
fn origin_form(target: &[u8]) -> Option<&[u8]> {
    if target.first() == Some(&b'/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let authority_bytes = rest.iter().take_while(|byte| !b"/?".contains(byte)).count();
    let (authority, resource) = rest.split_at(authority_bytes);
    is_authority(authority).then_some(resource)
}

/// Is it a name, an IPv4 or a bracketed IPv6 address, maybe with a port? That is what hosts are
/// called in practice; the rest of RFC 3986, 3.2 (user, escapes, sub-delimiters) is refused.
fn is_authority(text: &[u8]) -> bool {
    let of = |part: &[u8], more: &[u8]| {
        part.iter().all(|byte| byte.is_ascii_alphanumeric() || more.contains(byte))
    };
    let (host_is_good, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let address = rest.iter().take_while(|byte| **byte != b']').count();
            let (address, port) = rest.split_at(address);
            (!address.is_empty() && of(address, b":."), port.strip_prefix(b"]"))
        }
        None => {
            let (name, port) = text.split_at(text.iter().take_while(|b| **b != b':').count());
            (!name.is_empty() && of(name, b"-._~"), Some(port))
        }
    };
    let port_is_good = |port: &[u8]| match port.strip_prefix(b":") {
        Some(port) => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    host_is_good && port.is_some_and(port_is_good)
}

fn read_fields(
    buf: &[u8],
    head: &mut RequestHead,
    headers: &[httparse::Header<'_>],
) -> Result<(), HeadError> {
    let mut framing = FramingFields::default();
    let mut expects = false;
    for header in headers {
        let (name, value) = (header.name.as_bytes(), trim(header.value));
        let span = Span::within(buf, value);
        head.headers.push((Span::within(buf, name), span));
        framing.note(name, value).map_err(HeadError::BadRequest)?;
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => once(&mut head.host, span, "more than one Host")?,
            6 if is(b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::ExpectationFailed);
                }
                expects = true;
            }
            9 if is(b"x-api-key") => once(&mut head.x_api_key, span, "more than one x-api-key")?,
            11 if is(b"traceparent") && is_traceparent(value) => head.traceparent = Some(span),
            // A reader of the first and a reader of the last would see two different bodies.
            12 if is(b"content-type") => {
                once(&mut head.content_type, span, "more than one Content-Type")?;
            }
            12 if is(b"x-request-id") && is_request_id(value) => head.x_request_id = Some(span),
            13 if is(b"authorization") => {
                once(&mut head.authorization, span, "more than one Authorization")?;
                head.bearer = bearer(value).map(|token| Span::within(buf, token));
            }
            17 if is(b"anthropic-version") => head.names_anthropic = true,
            21 if is(b"x-tollgate-timeout-ms") => {
                once(&mut head.timeout, span, "more than one x-tollgate-timeout-ms")?;
            }
            _ => {}
        }
    }
    framing.check(head.http_10).map_err(HeadError::BadRequest)?;
    check_host(buf, head)?;
    head.framing = match (framing.chunked, framing.length) {
        (true, _) => BodyFraming::Chunked,
        (false, Some(bytes)) => BodyFraming::Length(bytes),
        (false, None) => BodyFraming::None,
    };
    let has_body = !matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
    head.expect_continue = expects && has_body && !head.http_10;
    head.keep_alive = framing.persists(head.http_10);
    head.lists_fields = framing.lists_fields;
    Ok(())
}

fn once(field: &mut Option<Span>, value: Span, reason: &'static str) -> Result<(), HeadError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeadError::BadRequest(reason)),
    }
}

fn check_host(buf: &[u8], head: &RequestHead) -> Result<(), HeadError> {
    match head.host {
        None if !head.http_10 => Err(HeadError::BadRequest("no Host")),
        Some(host) if !host.of(buf).is_empty() && !is_authority(host.of(buf)) => {
            Err(HeadError::BadRequest("a malformed Host"))
        }
        _ => Ok(()),
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = trim(rest);
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && rest.first() == Some(&b' ');
    (is_bearer && !token.is_empty()).then_some(token)
}

fn is_request_id(value: &[u8]) -> bool {
    let is_sane = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/=+@".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&value.len()) && value.iter().all(is_sane)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case, neither id all zeros.
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_id = |part: &[u8]| part.iter().all(is_hex) && part.iter().any(|byte| *byte != b'0');
    value.len() == 55
        && value.starts_with(b"00-")
        && is_id(&value[3..35])
        && value[35] == b'-'
        && is_id(&value[36..52])
        && value[52] == b'-'
        && value[53..].iter().all(is_hex)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
