//! The head of an upstream's answer, read as strictly as a request's: an upstream that frames its
//! answers ambiguously could smuggle one caller's answer to the next.

pub use super::head::is_hop_by_hop;
use super::head::{FramingFields, HEADERS_MAX, HeadLimits, HeadScan, ScanError, is_listed, trim};
use super::span::Span;
pub use super::write::{
    reason_phrase, write_duration, write_header, write_header_u64, write_status_line, write_u64,
};
use std::mem::MaybeUninit;

/// Does this status stand for work done? Where such an answer reports no usage, tokens are counted.
pub(crate) const fn is_success(status: u16) -> bool {
    status >= 200 && status < 300
}

/// Where an answer's body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is none.
    #[default]
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Why an answer's head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Malformed or ambiguous, and how: for the log.
    Malformed(&'static str),
    /// Over a bound.
    TooLarge,
}

/// An answer's head. One per connection, cleared between answers.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The status, 100 to 599.
    pub status: u16,
    /// Where the body ends.
    pub framing: ResponseFraming,
    /// Content-Length as sent, also where there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// The connection may carry another call once the body has ended: the upstream keeps it open,
    /// and where the body ends is beyond doubt. After an answer without a body it is not: some
    /// upstreams send one all the same, which the next caller would get.
    pub keep_alive: bool,
    /// A body is announced, whether there can be one or not.
    pub announces_body: bool,
    /// Content-Type is `text/event-stream`.
    pub is_event_stream: bool,
    /// Content-Type is JSON.
    pub is_json: bool,
    /// The body is not compressed.
    pub content_encoding_identity: bool,
    /// All fields as sent: name, value.
    pub headers: Vec<(Span, Span)>,
    /// Bytes of the head, the empty line included.
    pub head_len: usize,
    lists_fields: bool,
    scan: HeadScan,
}

impl ResponseHead {
    /// Makes it ready for the next answer; the room for fields is kept.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::default() };
    }

    /// The field may be passed on: it is not for this hop only.
    pub(crate) fn is_forwarded(&self, buf: &[u8], name: &[u8]) -> bool {
        !(is_hop_by_hop(name) || self.lists_fields && is_listed(buf, &self.headers, name))
    }
}

/// Reads a head from the start of `buf`: `false` as long as it is not complete. Call it again with
/// the same bytes and more, and the same `head`; after `true`, `clear` it before the next.
pub fn parse_response_head(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
    request_was_head: bool,
) -> Result<bool, ResponseError> {
    let end = match head.scan.find_end(buf, limits.head_bytes, limits.head_bytes) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(false),
        Err(ScanError::Malformed(reason)) => return Err(ResponseError::Malformed(reason)),
        Err(ScanError::FirstLineTooLong | ScanError::TooLarge) => {
            return Err(ResponseError::TooLarge);
        }
    };
    let text = &buf[head.scan.start..end];
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let room = limits.headers.min(HEADERS_MAX);
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        text,
        &mut slots[..room],
    ) {
        Ok(httparse::Status::Complete(bytes)) if bytes == text.len() => {}
        Ok(_) => return Err(ResponseError::Malformed("the head ends where it should not")),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
        Err(_) => return Err(ResponseError::Malformed("not an HTTP/1 head")),
    }
    head.status = parsed.code.unwrap_or_default();
    if !(100..600).contains(&head.status) || head.status == 101 {
        return Err(ResponseError::Malformed("a status that no request asked for"));
    }
    head.head_len = end;
    let http_10 = parsed.version == Some(0);
    let framing = read_fields(buf, head, parsed.headers).map_err(ResponseError::Malformed)?;
    framing.check(http_10).map_err(ResponseError::Malformed)?;
    head.framing = body_framing(head.status, request_was_head, &framing);
    head.content_length = framing.length;
    head.keep_alive = framing.persists(http_10) && has_certain_end(head.framing);
    head.announces_body = framing.chunked || framing.length.is_some_and(|bytes| bytes > 0);
    head.lists_fields = framing.lists_fields;
    Ok(true)
}

/// RFC 9112, section 6.3.
fn body_framing(status: u16, request_was_head: bool, fields: &FramingFields) -> ResponseFraming {
    if request_was_head || matches!(status, 100..=199 | 204 | 304) {
        return ResponseFraming::None;
    }
    match (fields.chunked, fields.length) {
        (true, _) => ResponseFraming::Chunked,
        (false, Some(bytes)) => ResponseFraming::Length(bytes),
        (false, None) => ResponseFraming::UntilClose,
    }
}

fn has_certain_end(framing: ResponseFraming) -> bool {
    matches!(framing, ResponseFraming::Length(1..) | ResponseFraming::Chunked)
}

fn read_fields(
    buf: &[u8],
    head: &mut ResponseHead,
    headers: &[httparse::Header<'_>],
) -> Result<FramingFields, &'static str> {
    let mut framing = FramingFields::default();
    head.content_encoding_identity = true;
    for header in headers {
        let (name, value) = (header.name.as_bytes(), trim(header.value));
        head.headers.push((Span::within(buf, name), Span::within(buf, value)));
        framing.note(name, value)?;
        if name.eq_ignore_ascii_case(b"content-type") {
            let media_type = trim(value.split(|byte| *byte == b';').next().unwrap_or_default());
            head.is_event_stream = media_type.eq_ignore_ascii_case(b"text/event-stream");
            head.is_json = is_json(media_type);
        } else if name.eq_ignore_ascii_case(b"content-encoding") {
            head.content_encoding_identity &= value.eq_ignore_ascii_case(b"identity");
        }
    }
    Ok(framing)
}

/// `application/json`, or anything that ends with `+json`.
fn is_json(media_type: &[u8]) -> bool {
    let tail = media_type.len().checked_sub(5).map(|at| &media_type[at..]);
    media_type.eq_ignore_ascii_case(b"application/json")
        || tail.is_some_and(|tail| tail.eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, uri_bytes: 0, headers: 16 };

    fn parse(text: &str, was_head: bool) -> Result<ResponseHead, ResponseError> {
        let mut head = ResponseHead::default();
        match parse_response_head(text.as_bytes(), &LIMITS, &mut head, was_head)? {
            true => Ok(head),
            false => Err(ResponseError::Malformed("incomplete")),
        }
    }

    fn framing(fields: &str) -> Result<ResponseFraming, ResponseError> {
        parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), false).map(|head| head.framing)
    }

    #[test]
    fn framing_follows_the_rules() {
        assert_eq!(framing("Content-Length: 12\r\n"), Ok(ResponseFraming::Length(12)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(ResponseFraming::Chunked));
        assert_eq!(framing(""), Ok(ResponseFraming::UntilClose));
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length : 1\r\n",
            "A: b\n",
            "A: b\r\n c\r\n",
            "A: b\0c\r\n",
        ] {
            assert!(matches!(framing(fields), Err(ResponseError::Malformed(_))), "{fields:?}");
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_they_say() {
        for (status, was_head) in [(200, true), (204, false), (304, false), (100, false)] {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n");
            let head = parse(&text, was_head).unwrap();
            assert_eq!((head.framing, head.announces_body), (ResponseFraming::None, true));
            assert_eq!((head.status, head.content_length), (status, Some(9)));
        }
    }

    #[test]
    fn only_a_body_of_certain_length_leaves_the_connection_to_the_next_call() {
        for (status, field, was_head, keeps) in [
            (200, "content-length: 1", false, true),
            (200, "transfer-encoding: chunked", false, true),
            (500, "content-length: 1", false, true),
            (200, "content-length: 0", false, false),
            (200, "a: b", false, false),
            (200, "content-length: 1", true, false),
            (200, "transfer-encoding: chunked", true, false),
            (200, "a: b", true, false),
            (204, "a: b", false, false),
            (304, "content-length: 1", false, false),
        ] {
            let head = parse(&format!("HTTP/1.1 {status} X\r\n{field}\r\n\r\n"), was_head);
            assert_eq!(head.unwrap().keep_alive, keeps, "{status} {field} {was_head}");
        }
    }

    #[test]
    fn content_type_and_encoding_are_told() {
        let head = parse(
            "HTTP/1.1 200\r\ncontent-type: Text/Event-Stream ; charset=utf-8\r\n\
             content-encoding: gzip\r\nconnection: close, X-Hop\r\nx-hop: 1\r\n\r\n",
            false,
        )
        .unwrap();
        assert!(head.is_event_stream && !head.is_json && !head.content_encoding_identity);
        assert!(!head.keep_alive);
        for kind in ["application/json", "application/problem+JSON; a=b"] {
            let text = format!("HTTP/1.0 500 X\r\ncontent-type: {kind}\r\n\r\n");
            let head = parse(&text, false).unwrap();
            assert!(head.is_json && head.content_encoding_identity && !head.keep_alive);
        }
    }

    #[test]
    fn fields_that_the_connection_field_names_stop_here() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\n\r\n";
        let head = parse(text, false).unwrap();
        let forwarded = |name: &str| head.is_forwarded(text.as_bytes(), name.as_bytes());
        assert!(!forwarded("x-hop") && !forwarded("Connection") && forwarded("X-End"));
    }

    #[test]
    fn other_protocols_and_statuses_are_refused() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 999 X\r\n\r\n",
            "HTTP/1.1 099 X\r\n\r\n",
            "HTTP/1.1 20 X\r\n\r\n",
            "HTTP/1.0 200 X\r\nTransfer-Encoding: chunked\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(matches!(parse(text, false), Err(ResponseError::Malformed(_))), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(5000));
        assert_eq!(parse(&long, false).unwrap_err(), ResponseError::TooLarge);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(17));
        assert_eq!(parse(&many, false).unwrap_err(), ResponseError::TooLarge);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_one_answer(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "HTTP/1\\.[01] [0-9]{3} ?[a-z]{0,3}\r\n\
                 (([a-z]|Content-Length): ?[0-9]{0,3}\r\n){0,3}\r\n"
                    .prop_map(String::into_bytes),
            ],
            cut in 0usize..200,
        ) {
            let mut whole = ResponseHead::default();
            let expected = parse_response_head(&text, &LIMITS, &mut whole, false);
            let mut pieces = ResponseHead::default();
            let cut = cut.min(text.len());
            let mut result = parse_response_head(&text[..cut], &LIMITS, &mut pieces, false);
            if result == Ok(false) {
                result = parse_response_head(&text, &LIMITS, &mut pieces, false);
            }
            if expected != Ok(true) || result.is_err() || pieces.head_len <= cut {
                prop_assert_eq!(result, expected);
            }
            if expected == Ok(true) {
                prop_assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
            }
        }
    }
}
