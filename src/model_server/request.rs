//! From bytes to what is asked for: the head in full, of the body only the few fields that
//! change an answer. Pure; it must never copy a body.

use super::fault::PlannedFault;
use memchr::memmem::Finder;
use std::mem::MaybeUninit;

/// Most bytes of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most fields of a head.
const FIELDS_MAX: usize = 128;
/// Most bytes of a model's name.
const NAME_BYTES_MAX: usize = 256;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelRoute {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`, Anthropic's
    Messages,
    /// `/v1/models`
    Models,
    /// `/mock/stats`: counts of what happened so far.
    Stats,
    /// `/mock/last`: the last request as it came.
    Last,
    /// Anything else.
    Unknown,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By `content-length`, or 0.
    Length(usize),
    /// In chunks.
    Chunked,
}

/// What a request's `x-mock-…` headers ask for.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub fault: Option<PlannedFault>,
    pub tokens: Option<u32>,
    pub latency_ms: Option<u32>,
    pub ttft_ms: Option<u32>,
    pub inter_token_ms: Option<u32>,
    pub prompt_tokens: Option<u32>,
    pub cached_tokens: Option<u32>,
    pub body_bytes: Option<u32>,
}

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    /// Its bytes.
    pub length: usize,
    pub endpoint: ModelRoute,
    /// Method HEAD: the answer has no body.
    pub head_only: bool,
    /// The client wants no further answer on this connection.
    pub close: bool,
    /// The client waits for `100 Continue`.
    pub expects: bool,
    pub framing: Framing,
    pub overrides: Overrides,
}

/// Parses the head at the front of `bytes`; `None` if it isn't all there, or the status of the
/// refusal.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Head>, u16> {
    let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    };
    if request.version != Some(1) {
        return Err(505);
    }
    let (path, query) = split_target(request.path.unwrap_or_default());
    let mut head = Head {
        length,
        endpoint: endpoint(path),
        head_only: request.method == Some("HEAD"),
        close: false,
        expects: false,
        framing: Framing::Length(0),
        overrides: Overrides::default(),
    };
    if let Some(name) = query.split('&').find_map(|pair| pair.strip_prefix("fault=")) {
        head.overrides.fault = Some(PlannedFault::named(name.as_bytes()).ok_or(400_u16)?);
    }
    let mut framed = false;
    for field in request.headers.iter() {
        take_field(&mut head, field.name, field.value, &mut framed)?;
    }
    Ok(Some(head))
}

fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

fn endpoint(path: &str) -> ModelRoute {
    match path {
        "/v1/chat/completions" => ModelRoute::Chat,
        "/v1/completions" => ModelRoute::Completions,
        "/v1/embeddings" => ModelRoute::Embeddings,
        "/v1/responses" => ModelRoute::Responses,
        "/v1/messages" => ModelRoute::Messages,
        "/v1/models" => ModelRoute::Models,
        "/mock/stats" => ModelRoute::Stats,
        "/mock/last" => ModelRoute::Last,
        _ => ModelRoute::Unknown,
    }
}

/// Two framings in one head are refused: a gateway that passes them on must not go unnoticed.
fn take_field(head: &mut Head, name: &str, value: &[u8], framed: &mut bool) -> Result<(), u16> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let framing = if is("content-length") {
        let length = number(value).ok_or(400_u16)? as usize;
        Framing::Length(if length <= BODY_BYTES_MAX { length } else { return Err(413) })
    } else if is("transfer-encoding") {
        if value.eq_ignore_ascii_case(b"chunked") { Framing::Chunked } else { return Err(501) }
    } else {
        if is("connection") {
            head.close |= value.eq_ignore_ascii_case(b"close");
        } else if is("expect") {
            head.expects = true;
        } else if name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-mock-")) {
            return take_override(&mut head.overrides, &name[7..], value);
        }
        return Ok(());
    };
    head.framing = framing;
    if std::mem::replace(framed, true) { Err(400) } else { Ok(()) }
}

/// An unknown name is refused, or a test would believe in a fault that never came.
fn take_override(overrides: &mut Overrides, name: &str, value: &[u8]) -> Result<(), u16> {
    if name.eq_ignore_ascii_case("fault") {
        overrides.fault = Some(PlannedFault::named(value).ok_or(400_u16)?);
        return Ok(());
    }
    let place = match name.to_ascii_lowercase().as_str() {
        "tokens" => &mut overrides.tokens,
        "latency-ms" => &mut overrides.latency_ms,
        "ttft-ms" => &mut overrides.ttft_ms,
        "inter-token-ms" => &mut overrides.inter_token_ms,
        "prompt-tokens" => &mut overrides.prompt_tokens,
        "cached-tokens" => &mut overrides.cached_tokens,
        "body-bytes" => &mut overrides.body_bytes,
        _ => return Err(400),
    };
    *place = Some(number(value).ok_or(400_u16)?);
    Ok(())
}

fn number(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// Decodes chunks from `input` at `at` onwards into `body`, as far as they are there; returns
/// whether the body is complete. `at` stays before what must be seen again.
pub(super) fn decode_chunks(input: &[u8], at: &mut usize, body: &mut Vec<u8>) -> Result<bool, u16> {
    loop {
        let rest = &input[*at..];
        let (used, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) if rest.len() < HEAD_BYTES_MAX => return Ok(false),
            _ => return Err(400),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return end_of_trailers(rest, used).map(|end| {
                *at += end.unwrap_or(0);
                end.is_some()
            });
        }
        if size > BODY_BYTES_MAX - body.len() || *at > 2 * BODY_BYTES_MAX {
            return Err(413);
        }
        match rest.get(used + size..used + size + 2) {
            Some(b"\r\n") => body.extend_from_slice(&rest[used..used + size]),
            Some(_) => return Err(400),
            None => return Ok(false),
        }
        *at += used + size + 2;
    }
}

/// Where the trailers that begin at `from` end, if they do.
fn end_of_trailers(rest: &[u8], from: usize) -> Result<Option<usize>, u16> {
    if rest[from..].starts_with(b"\r\n") {
        return Ok(Some(from + 2));
    }
    match memchr::memmem::find(&rest[from..], b"\r\n\r\n") {
        Some(at) => Ok(Some(from + at + 4)),
        None if rest.len() < HEAD_BYTES_MAX => Ok(None),
        None => Err(431),
    }
}

/// Finds the few fields of a JSON body that change an answer, without parsing it: the first
/// occurrence as a key, at any depth, whose value has the right type. Inside a string the
/// quotes would be escaped, so no text can be taken for a key.
pub(super) struct Scanner {
    model: Finder<'static>,
    stream: Finder<'static>,
    include_usage: Finder<'static>,
    maximum: Finder<'static>,
}

impl Scanner {
    /// Prepares the searches.
    pub(super) fn new() -> Self {
        Self {
            model: Finder::new("\"model\""),
            stream: Finder::new("\"stream\""),
            include_usage: Finder::new("\"include_usage\""),
            maximum: Finder::new("tokens\""),
        }
    }

    /// The model's name, as it is written between its quotes.
    pub(super) fn model<'body>(&self, body: &'body [u8]) -> Option<&'body [u8]> {
        values(&self.model, body).find_map(|value| {
            let inside = value.strip_prefix(b"\"")?;
            let inside = &inside[..inside.len().min(NAME_BYTES_MAX)];
            let mut escaped = false;
            let end = inside.iter().position(|&byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            })?;
            Some(&inside[..end])
        })
    }

    /// Whether a stream is wanted.
    pub(super) fn stream(&self, body: &[u8]) -> bool {
        flag(&self.stream, body)
    }

    /// Whether a stream is to end with its usage.
    pub(super) fn include_usage(&self, body: &[u8]) -> bool {
        flag(&self.include_usage, body)
    }

    /// The most output tokens wanted, by whichever of its names.
    pub(super) fn tokens_max(&self, body: &[u8]) -> Option<u32> {
        self.maximum.find_iter(body).find_map(|at| {
            let key = ["\"max_", "\"max_completion_", "\"max_output_"];
            if !key.iter().any(|key| body[..at].ends_with(key.as_bytes())) {
                return None;
            }
            let value = value(&body[at + self.maximum.needle().len()..])?;
            let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
            number(&value[..digits])
        })
    }
}

fn flag(key: &Finder<'_>, body: &[u8]) -> bool {
    values(key, body)
        .find_map(|value| match value {
            [b't', b'r', b'u', b'e', ..] => Some(true),
            [b'f', b'a', b'l', b's', b'e', ..] => Some(false),
            _ => None,
        })
        .unwrap_or(false)
}

/// What follows each occurrence of `key` that is a key.
fn values<'body>(key: &Finder<'_>, body: &'body [u8]) -> impl Iterator<Item = &'body [u8]> {
    key.find_iter(body).filter_map(|at| value(&body[at + key.needle().len()..]))
}

fn value(after_key: &[u8]) -> Option<&[u8]> {
    Some(after_key.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn scans_keys_and_never_text() {
        let scanner = Scanner::new();
        let body =
            br#"{"messages":[{"role":"model","content":"\"model\": \"x\", \"stream\":true"}],
            "tools":[{"properties":{"stream":{"type":"boolean"},"max_tokens":{"a":1}}}],
            "model" : "a\"b", "max_completion_tokens": 12, "stream":
            true}"#;
        assert_eq!(scanner.model(body), Some(&br#"a\"b"#[..]));
        assert!(scanner.stream(body) && !scanner.include_usage(body));
        assert_eq!(scanner.tokens_max(body), Some(12));
        assert_eq!(scanner.tokens_max(br#"{"max_tokens":null,"prompt_tokens":3}"#), None);
        assert!(!scanner.stream(br#"{"stream":false}"#));
        assert_eq!(scanner.model(br#"{"model":"unfinished"#), None);
    }

    #[test]
    fn chunks_come_in_any_pieces() {
        let input = b"4;ext=1\r\nwiki\r\n5\r\npedia\r\n0\r\nx: y\r\n\r\nGET /";
        let end = input.len() - 5;
        for step in 1..end {
            let (mut at, mut body, mut seen) = (0, Vec::new(), 0);
            while !decode_chunks(&input[..seen], &mut at, &mut body).unwrap() {
                seen = (seen + step).min(end);
            }
            assert_eq!((at, body.as_slice()), (end, &b"wikipedia"[..]));
        }
        for bad in ["4\r\nwikiX\r\n", "zz\r\n", "ffffffff\r\n"] {
            assert!(decode_chunks(bad.as_bytes(), &mut 0, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_ambiguous_and_unknown_heads() {
        let refusal = |fields: &str| {
            let head = format!("POST /v1/models HTTP/1.1\r\n{fields}\r\n\r\n");
            parse(head.as_bytes()).map(|head| head.unwrap().framing)
        };
        assert_eq!(refusal("Content-Length: 3"), Ok(Framing::Length(3)));
        assert_eq!(refusal("transfer-encoding: Chunked"), Ok(Framing::Chunked));
        assert_eq!(refusal("content-length: 3\r\ncontent-length: 3"), Err(400));
        assert_eq!(refusal("content-length: 3\r\ntransfer-encoding: chunked"), Err(400));
        assert_eq!(refusal("content-length: +3"), Err(400));
        assert_eq!(refusal("content-length: 67108865"), Err(413));
        assert_eq!(refusal("x-mock-fault: no-such"), Err(400));
        assert_eq!(refusal("x-mock-tokenz: 3"), Err(400));
        assert_eq!(refusal(&format!("a: {}", "b".repeat(HEAD_BYTES_MAX))), Err(431));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n").unwrap_err(), 505);
        assert!(parse(b"GET / HTTP/1.1\r\n").unwrap().is_none());
    }
}
