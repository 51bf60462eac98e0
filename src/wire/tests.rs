//! Request heads as hyper takes them, beside ours: whatever both accept must mean the same call
//! with the same body, or the two could be made to disagree on where a request ends.
//!
//! Where they may differ: we refuse more (bare LF, no or doubled Host, doubled lengths and
//! credentials, targets that are neither path nor http address, …). hyper refuses more in these
//! places only, named in `may_refuse`: some characters of a target that RFC 3986 has no place for,
//! and the two largest lengths.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::head::HeadLimits;
use super::request::{BodyFraming, HeadError, RequestHead, parse_request_head};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use proptest::prelude::*;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1 << 14, uri_bytes: 1 << 13, headers: 90 };

/// What a head asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    /// Path and query.
    resource: String,
    http_10: bool,
    framing: BodyFraming,
    fields: Vec<(String, Vec<u8>)>,
}

fn asked_of_us(text: &[u8]) -> Result<Option<Asked>, HeadError> {
    let mut head = RequestHead::default();
    if !parse_request_head(text, &LIMITS, &mut head)? {
        return Ok(None);
    }
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let query = head.query.map_or(String::new(), |query| format!("?{}", string(query.of(text))));
    let field = |(name, value): &(super::span::Span, super::span::Span)| {
        (string(name.of(text)).to_ascii_lowercase(), value.of(text).to_vec())
    };
    Ok(Some(Asked {
        method: string(head.method_span.of(text)),
        resource: string(head.path.of(text)) + &query,
        http_10: head.http_10,
        // A length of 0 is no body, for hyper as for us.
        framing: match head.framing {
            BodyFraming::Length(0) => BodyFraming::None,
            other => other,
        },
        fields: sorted(head.headers.iter().map(field).collect()),
    }))
}

/// Sorted by name: hyper keeps fields of one name together.
fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|left, right| left.0.cmp(&right.0));
    fields
}

/// The bytes of a client that says no more.
struct Wire(Vec<u8>);

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let bytes = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0[..bytes]);
        self.0.drain(..bytes);
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// `None`: it is refused, or not complete.
fn asked_of_hyper(text: &[u8]) -> Option<Asked> {
    let asked = Rc::new(RefCell::new(None));
    let first = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        first.borrow_mut().get_or_insert_with(|| as_asked(&request));
        // Never answered: the first head is all that is of interest.
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    let connection = http1::Builder::new().serve_connection(Wire(text.to_vec()), service);
    let _ = pin!(connection).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    asked.take()
}

fn as_asked(request: &Request<Incoming>) -> Asked {
    let uri = request.uri();
    let field = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), value.as_bytes().to_vec())
    };
    Asked {
        method: request.method().as_str().to_owned(),
        // Written together, they lack the slash of an empty path.
        resource: uri
            .query()
            .map_or(uri.path().to_owned(), |query| format!("{}?{query}", uri.path())),
        http_10: request.version() == hyper::Version::HTTP_10,
        framing: match request.body().size_hint().exact() {
            Some(0) => BodyFraming::None,
            Some(bytes) => BodyFraming::Length(bytes),
            None => BodyFraming::Chunked,
        },
        fields: sorted(request.headers().iter().map(field).collect()),
    }
}

/// The target has a character that hyper refuses, and we pass on as it is; or its body is longer
/// than any (ours is refused by the bound of bodies).
fn may_refuse(ours: &Asked) -> bool {
    ours.framing == BodyFraming::Length(u64::MAX)
        || ours.framing == BodyFraming::Length(u64::MAX - 1)
        || ours.resource.bytes().any(|byte| b"\"<>\\^`{|}".contains(&byte))
}

fn compare(text: &[u8]) {
    let shown = text.escape_ascii();
    match (asked_of_us(text), asked_of_hyper(text)) {
        (Ok(Some(ours)), Some(theirs)) => assert_eq!(ours, theirs, "{shown}"),
        (Ok(Some(ours)), None) => assert!(may_refuse(&ours), "only we accept {shown}"),
        (Ok(None), theirs) => assert_eq!(theirs, None, "we wait for more of {shown}"),
        (Err(_), _) => {}
    }
}

fn pick(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(of.to_vec())
}

fn field() -> impl Strategy<Value = &'static str> {
    pick(&[
        "Host: a",
        "host: a:1",
        "Host:",
        "Content-Length: 5",
        "content-length:  5 ",
        "Content-Length: 0",
        "Content-Length: 05",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 18446744073709551615",
        "Content-Length: 18446744073709551616",
        "Content-Length: 6",
        "Transfer-Encoding: chunked",
        "transfer-encoding: Chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "Connection: close",
        "Connection: keep-alive, x",
        "Connection: upgrade",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "Authorization: Bearer tg_a",
        "X: \u{e9}",
        "X:\tb\t",
        "X: a\u{0}b",
        " folded",
        "\tfolded",
        "X Y: z",
        "X",
        ": y",
        "X-É: y",
        "A: b",
        "A: c",
        "!#$%&'*+-.^_`|~: x",
    ])
}

fn head() -> impl Strategy<Value = String> {
    let line = (
        pick(&["GET", "POST", "POST", "HEAD", "OPTIONS", "CONNECT", "PRI", "get", "P(ST", "", " "]),
        pick(&[
            "/",
            "/v1/chat/completions",
            "/a?b=c&d",
            "/a?",
            "/?a?b",
            "http://h",
            "http://h/a?b",
            "HTTP://h:1/a",
            "https://h/a",
            "*",
            "h:1",
            "//a",
            "/a//b/../c",
            "/%00%zz",
            "/a b",
            "/\"",
            "/é",
            "/#",
            "/a|b^c",
            "http://",
            "http:///a",
            "http://u@h/a",
            "/a;b,c",
            "",
        ]),
        pick(&[
            "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1", "",
        ]),
    );
    let end = pick(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n"]);
    (
        pick(&["", "", "", "\r\n", "\r\n\r\n", "\n"]),
        line,
        prop_oneof![4 => Just("Host: a\r\n"), 1 => Just("")],
        prop::collection::vec((field(), end.clone()), 0..5),
        end,
        prop_oneof![Just(""), Just("hello"), Just("5\r\nhello\r\n0\r\n\r\n")],
    )
        .prop_map(|(blank, (method, target, version), host, fields, end, body)| {
            let fields: String = fields.iter().flat_map(|(line, end)| [*line, *end]).collect();
            format!("{blank}{method} {target} {version}\r\n{host}{fields}{end}{body}")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn what_both_accept_means_the_same(
        head in head(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = head.into_bytes();
        compare(&bytes);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            compare(&bytes);
        }
    }
}

#[test]
fn ordinary_heads_are_accepted_by_both() {
    for (text, framing) in [
        ("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", BodyFraming::Length(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", BodyFraming::Chunked),
        ("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.0\r\n\r\n", BodyFraming::None),
    ] {
        let ours = asked_of_us(text.as_bytes()).unwrap().unwrap();
        assert_eq!(ours.framing, framing, "{text}");
        assert_eq!(asked_of_hyper(text.as_bytes()), Some(ours), "{text}");
    }
}
