//! What a call asks for: which service, which path, how many tokens to reserve. No I/O.

use super::call::{Call, Stop};
use super::core::Core;
use super::deadline::NEVER;
use super::downstream::Request;
use super::route::Route;
use super::segments::ends_in;
use super::wanted::{Wanted, target_path};
use crate::wire::call::{CallError, CallFields, scan_call};
use crate::wire::error::ApiError;
use crate::wire::prompt::prompt_text;
use shard::key_cache::Caller;
use shard::units::Nanos;

/// Bytes of a request body to a token of it: OpenAI's rule of thumb ("about 4 characters").
/// Only for reservations, which settlement replaces, and for calls that die with their process.
const BYTES_PER_TOKEN: u64 = 4;
/// A body of this size may hold an image or a document: their bytes are no text.
const MEDIA_BYTES_MIN: usize = 16 * 1024;

/// Finds the service and reads what the call says of itself.
pub(super) fn resolve(
    core: &Core,
    request: &Request<'_>,
    call: &Call,
    caller: &Caller,
) -> Result<Wanted, Stop> {
    let shard = core.shard.borrow();
    let catalog = shard.catalog();
    let body = request.body;
    let (found, fields) = match call.route {
        Route::Consume { service, .. } => {
            let found = service.and_then(|id| catalog.service_by_id(id));
            let path =
                found.map(|index| target_path(request, call, &catalog.services[index as usize]));
            (found, scan_at(path.unwrap_or_default(), request, body)?)
        }
        _ if request.head.method.name() != "POST" => return Err(ApiError::NotFound.into()),
        _ => {
            let fields = scan_plain(request, body)?;
            let Some(model) = &fields.model else {
                let message = "The body has no 'model'. Name the service in it; GET /v1/models \
                               lists those that this key may use."
                    .into();
                return Err(ApiError::InvalidRequest { message, param: Some("model") }.into());
            };
            (catalog.service_by_name(model.decode(body, &mut Vec::new())), Some(fields))
        }
    };
    let service = found
        .filter(|index| catalog.services[*index as usize].enabled)
        .ok_or_else(|| not_found(call.route))?;
    if !shard.may_use(caller, service) {
        return Err(ApiError::ServiceNotAllowed.into());
    }
    let path = target_path(request, call, &catalog.services[service as usize]);
    let method = request.method();
    // The answer to TRACE is the request, the service's credential and all; that to CONNECT is a
    // tunnel, where the framing of bodies ends.
    if [&b"TRACE"[..], b"CONNECT"].iter().any(|known| method.eq_ignore_ascii_case(known)) {
        return Err(ApiError::invalid("TRACE and CONNECT are not relayed. Use GET or POST.").into());
    }
    if climbs(path) {
        let message = "The path has . or .. segments. Send it without them.";
        return Err(ApiError::invalid(message).into());
    }
    let timeout_ms = request.head.timeout_ms(request.bytes).map_err(ApiError::from)?;
    let answers_in_tokens = !ends_in(path, b"embeddings");
    let asked = fields.as_ref().and_then(|fields| fields.max_tokens);
    let copies = fields.as_ref().and_then(|fields| fields.n).unwrap_or(1).max(1);
    let output = match asked {
        _ if !answers_in_tokens || request.is_head() => 0,
        Some(most) => most.saturating_mul(copies),
        None => u64::from(core.config().usage.default_reserve_tokens),
    };
    let input = input_estimate(body);
    let hide_usage = completes(path)
        && fields.as_ref().is_some_and(|fields| fields.stream && !fields.include_usage_asked);
    Ok(Wanted {
        service,
        reserve_tokens: input.saturating_add(output).max(1),
        strict: asked.is_some(),
        input_estimate: u32::try_from(input).unwrap_or(u32::MAX),
        hide_usage,
        fields,
        is_head: request.is_head(),
        deadline: timeout_ms.map_or(NEVER, |ms| call.beginning.begun.after(Nanos::from_ms(ms))),
        handle: core.service(service),
    })
}

/// A model is what the body names, a service what the path names.
const fn not_found(route: Route) -> ApiError {
    match route {
        Route::Model(_) => ApiError::ModelNotFound,
        _ => ApiError::ServiceNotFound,
    }
}

/// About how many tokens a body's prompt has.
fn input_estimate(body: &[u8]) -> u64 {
    let by_length = |bytes: usize| (bytes as u64).div_ceil(BYTES_PER_TOKEN);
    if body.len() < MEDIA_BYTES_MIN || memchr::memmem::find(body, b"base64").is_none() {
        return by_length(body.len());
    }
    let mut text = Vec::new();
    let other = prompt_text(body, &mut text);
    by_length(text.len()).saturating_add(other)
}

/// Is it a path on which usage must be asked for?
fn completes(path: &[u8]) -> bool {
    ends_in(path, b"completions")
}

/// Reads what a body on the consume route says of itself; on some paths it need not say anything.
fn scan_at(path: &[u8], request: &Request<'_>, body: &[u8]) -> Result<Option<CallFields>, Stop> {
    match completes(path) {
        true if body.is_empty() => Ok(None),
        true => scan_plain(request, body).map(Some),
        false => scan_any(request, body),
    }
}

/// Reads a body that decides what is metered. What its upstream reads in it must be what stands in
/// it here: it is JSON in UTF-8 to the letter, whatever it calls itself, or it is refused.
fn scan_plain(request: &Request<'_>, body: &[u8]) -> Result<CallFields, Stop> {
    for (name, value) in request.fields() {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if is(b"content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
            let message = "The body has a content-encoding. Send it without.";
            return Err(ApiError::invalid(message).into());
        }
        if is(b"content-type") && !is_utf_8(value) {
            let message = "The body's charset is not UTF-8. Send it in UTF-8.";
            return Err(ApiError::invalid(message).into());
        }
    }
    Ok(scan_call(body).map_err(ApiError::from)?)
}

/// Names the content type no other charset than UTF-8, or a part of it? JSON has no other.
fn is_utf_8(content_type: &[u8]) -> bool {
    const CHARSET: &[u8] = b"charset";
    let is_charset = |bytes: &[u8]| bytes.eq_ignore_ascii_case(CHARSET);
    let Some(at) = content_type.windows(CHARSET.len()).position(is_charset) else { return true };
    let Some(value) = content_type[at + CHARSET.len()..].strip_prefix(b"=") else { return false };
    let value = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let value = value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value);
    [&b"utf-8"[..], b"utf8", b"us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known))
}

/// On the consume route a body may be anything where usage comes unasked. What is JSON is known by
/// its first byte; only what calls itself so must be JSON.
fn scan_any(request: &Request<'_>, body: &[u8]) -> Result<Option<CallFields>, Stop> {
    let says_json = request.head.content_type.is_some_and(|content_type| {
        let value = content_type.of(request.bytes);
        value.len() >= 16 && value[..16].eq_ignore_ascii_case(b"application/json")
    });
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    if body.is_empty() || !(says_json || is_object) {
        return Ok(None);
    }
    match scan_call(body) {
        Ok(fields) => Ok(Some(fields)),
        Err(error @ CallError::Duplicate(_)) => Err(ApiError::from(error).into()),
        Err(error @ CallError::Malformed) if says_json => Err(ApiError::from(error).into()),
        Err(_) => Ok(None),
    }
}

/// Would the path, joined to a service's `base_path`, lead out of it? Dots and slashes count in
/// their encoding too, and a segment's parameters (`..;a`) do not: there are servers that decode
/// and drop them before they look for dots.
fn climbs(path: &[u8]) -> bool {
    let (mut rest, mut dots, mut is_dots) = (path, 0, true);
    loop {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => match [*high, low.to_ascii_lowercase()] {
                [b'2', b'e'] => (b'.', after),
                [b'2', b'f'] | [b'5', b'c'] => (b'/', after),
                [b'3', b'b'] => (b';', after),
                _ => (b'%', after),
            },
            [byte, after @ ..] => (*byte, after),
            [] => (b'/', rest),
        };
        match byte {
            b'/' | b'\\' | b';' if is_dots && (dots == 1 || dots == 2) => return true,
            b'/' | b'\\' => (dots, is_dots) = (0, true),
            b'.' => dots += 1,
            _ => is_dots = false,
        }
        if rest.is_empty() {
            return false;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::{climbs, is_utf_8};

    #[test]
    fn a_charset_is_found_however_it_is_given() {
        for plain in [
            "application/json",
            "application/json; charset=utf-8",
            "text/plain;CHARSET=\"UTF-8\" ; x=y",
            "a/b;charset=us-ascii",
            "",
        ] {
            assert!(is_utf_8(plain.as_bytes()), "{plain}");
        }
        for other in [
            "application/json; charset=utf-16",
            "a/b; Charset=utf-7",
            "a/b; charset=utf-8x",
            "a/b; charset*=utf-8''utf-7",
            "a/b; charset",
            "a/b; charset=",
        ] {
            assert!(!is_utf_8(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn dot_segments_are_seen_through_their_encoding() {
        for path in [
            "/..",
            "/a/../b",
            "/./a",
            "/%2e%2E/a",
            "/.%2e",
            "/a/.",
            "/a\\..\\b",
            "/..%2Fa",
            "/%2e%2e%2fa",
            "/a%2f..",
            "/a%5c%2e./b",
            "/..;/a",
            "/a/..;x=1",
            "/..%3b/a",
        ] {
            assert!(climbs(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "/",
            "/a/b",
            "/...",
            "/.well-known/x",
            "/a..b",
            "/v1.2/x",
            "/%2f",
            "/a;b/..c",
            "/%2",
            "/%",
            "/a%2e",
            "//a",
            "/;a",
        ] {
            assert!(!climbs(path.as_bytes()), "{path}");
        }
    }
}
