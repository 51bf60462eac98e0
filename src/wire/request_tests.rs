//! Tests of `request`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, uri_bytes: 256, headers: 16 };

fn parse(text: &str) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::default();
    match parse_request_head(text.as_bytes(), &LIMITS, &mut head)? {
        true => Ok(head),
        false => Err(HeadError::BadRequest("incomplete")),
    }
}

fn get(fields: &str) -> Result<RequestHead, HeadError> {
    parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

fn get_10(fields: &str) -> Result<RequestHead, HeadError> {
    parse(&format!("GET / HTTP/1.0\r\n{fields}\r\n"))
}

fn is_bad(result: &Result<RequestHead, HeadError>) -> bool {
    matches!(result, Err(HeadError::BadRequest(_)))
}

#[test]
fn a_whole_head_is_read() {
    let text = "\r\nPOST /v1/chat/completions?a=b?c HTTP/1.1\r\nHost: api.example:3000\r\n\
        authorization: bEARER  tg_x \r\nX-API-Key: k\r\nContent-Type: application/json\r\n\
        content-length: 12\r\nExpect: 100-Continue\r\nX-Request-Id: abc-1\r\n\
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
        Empty:\r\n\r\n{rest";
    let head = parse(text).unwrap();
    let of = |span: Option<Span>| span.map(|span| std::str::from_utf8(span.of(text.as_bytes())));
    assert_eq!((head.method, of(Some(head.method_span))), (Method::Post, Some(Ok("POST"))));
    assert_eq!(of(Some(head.path)), Some(Ok("/v1/chat/completions")));
    assert_eq!(of(head.query), Some(Ok("a=b?c")));
    assert_eq!(of(head.host), Some(Ok("api.example:3000")));
    assert_eq!(of(head.authorization), Some(Ok("bEARER  tg_x")));
    assert_eq!(of(head.bearer), Some(Ok("tg_x")));
    assert_eq!(of(head.x_api_key), Some(Ok("k")));
    assert_eq!(of(head.content_type), Some(Ok("application/json")));
    assert_eq!(of(head.x_request_id), Some(Ok("abc-1")));
    assert!(head.traceparent.is_some() && head.expect_continue && head.keep_alive);
    assert_eq!(head.framing, BodyFraming::Length(12));
    assert_eq!((head.headers.len(), head.head_len), (9, text.len() - 5));
    assert!(head.headers[8].1.is_empty());
}

#[test]
fn framing_follows_the_rules() {
    assert_eq!(get("").unwrap().framing, BodyFraming::None);
    assert_eq!(get("Content-Length: 0\r\n").unwrap().framing, BodyFraming::Length(0));
    assert_eq!(get("Transfer-Encoding:CHUNKED \r\n").unwrap().framing, BodyFraming::Chunked);
}

#[test]
fn what_could_smuggle_a_request_is_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\ncontent-length: 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length:\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length : 1\r\n",
        "Content-Length\t: 1\r\n",
        " Content-Length: 1\r\n",
        "Content-Length: 1\n",
        "Content-Length: 1\r\n\n",
        "Content-Length: 1\rX: y\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;a\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding: chunked\x00\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "A: b\r\n\tc\r\n",
        "A: b\0\r\n",
        "A: b\x01\r\n",
        "A: b\x7f\r\n",
        "A\0: b\r\n",
        "A b: c\r\n",
        "A: b\r\nno colon\r\n",
        ": b\r\n",
    ] {
        assert!(is_bad(&get(fields)), "{fields:?}");
    }
    assert!(is_bad(&get_10("Transfer-Encoding: chunked\r\n")));
}

#[test]
fn doubled_or_missing_fields_are_refused() {
    assert!(is_bad(&parse("GET / HTTP/1.1\r\n\r\n")));
    assert!(get_10("").is_ok());
    for fields in ["Host: a\r\n", "Authorization: a\r\nAuthorization: a\r\n", "X-Api-Key: a\r\n"] {
        let twice = format!("{fields}X-Api-Key: b\r\n");
        assert!(is_bad(&get(&twice)), "{twice:?}");
    }
    for host in ["", "api.example:3000", "127.0.0.1", "[::1]", "[::1]:80", "my_host-1.", "a:"] {
        assert!(parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok(), "{host}");
    }
    for host in ["a b", "a,b", "a/b", "u@a", "a?b", "[", "[]", "[::1", "[::1]a", "a:b", "a:1:2"] {
        assert!(is_bad(&parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))), "{host}");
    }
}

#[test]
fn targets_are_paths_or_http_addresses() {
    let path = |target: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        parse(&text).map(|head| {
            let part = |span: Span| String::from_utf8_lossy(span.of(text.as_bytes())).into_owned();
            (part(head.path), head.query.map(part))
        })
    };
    let some = |path: &str, query: Option<&str>| Ok((path.to_owned(), query.map(str::to_owned)));
    assert_eq!(path("/a%20b?c"), some("/a%20b", Some("c")));
    assert_eq!(path("/?"), some("/", Some("")));
    assert_eq!(path("HTTP://host:1/a/b?c"), some("/a/b", Some("c")));
    assert_eq!(path("http://host"), some("/", None));
    assert_eq!(path("http://host?q"), some("/", Some("q")));
    for target in [
        "*",
        "host:443",
        "https://a/",
        "http://",
        "http:///a",
        "http://[",
        "http://u@a/b",
        "http://{/a",
        "a",
        "?a",
        "/a#b",
        "/\u{e4}",
        "/a\tb",
        "/a\x7f",
        "/a b",
        "",
    ] {
        assert!(matches!(path(target), Err(HeadError::BadRequest(_))), "{target:?}");
    }
}

#[test]
fn a_refused_heads_path_is_told_at_sight() {
    for (head, path) in [
        ("\r\nPOST /v1/messages?a=b HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "/v1/messages"),
        ("POST http://a/v1/messages", "/v1/messages"),
        ("POST /v1/messages\r\n", "/v1/messages"),
        ("POST", ""),
        ("\x16\x03 \x01", ""),
        ("", ""),
    ] {
        assert_eq!(path_at_sight(head.as_bytes()), path.as_bytes(), "{head:?}");
    }
}

#[test]
fn versions_are_told_apart() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3"] {
        let text = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(parse(&text).unwrap_err(), HeadError::VersionNotSupported, "{version}");
    }
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(parse(preface).unwrap_err(), HeadError::VersionNotSupported);
    for line in ["GET /", "GET / ", "GET  / HTTP/1.1", "GET / http/1.1", "GET / HTTP/1.1 ", "GET"] {
        assert!(is_bad(&parse(&format!("{line}\r\nHost: a\r\n\r\n"))), "{line:?}");
    }
}

#[test]
fn connections_persist_as_both_sides_wish() {
    assert!(!get("Connection: foo, Close\r\n").unwrap().keep_alive);
    assert!(!get("Connection: keep-alive\r\nConnection: close\r\n").unwrap().keep_alive);
    assert!(!get_10("").unwrap().keep_alive);
    assert!(get_10("Connection: Keep-Alive\r\n").unwrap().keep_alive);
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop ,close\r\nX-Hop: 1\r\n\r\n";
    let head = parse(text).unwrap();
    let forwarded = |name: &str| head.is_forwarded(text.as_bytes(), name.as_bytes());
    assert!(!forwarded("X-HOP") && !forwarded("te") && forwarded("x-other"));
    assert!(is_bad(&get(&format!("Connection: {}\r\n", "a,".repeat(33)))));
}

#[test]
fn an_expectation_other_than_continue_fails() {
    assert_eq!(get("Expect: 200-ok\r\n").unwrap_err(), HeadError::ExpectationFailed);
    assert!(!get("Expect: 100-continue\r\n").unwrap().expect_continue);
    let old = get_10("Expect: 100-continue\r\nContent-Length: 1\r\n").unwrap();
    assert!(!old.expect_continue);
}

#[test]
fn only_sane_ids_are_kept() {
    for (name, value) in [
        ("X-Request-Id", "a b"),
        ("X-Request-Id", ""),
        ("X-Request-Id", "a\"b"),
        ("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        ("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
        ("traceparent", "junk"),
    ] {
        let head = get(&format!("{name}: {value}\r\n")).unwrap();
        assert_eq!((head.x_request_id, head.traceparent), (None, None), "{value}");
    }
    assert_eq!(get(&format!("X-Request-Id: {}\r\n", "a".repeat(129))).unwrap().x_request_id, None);
}

#[test]
fn bounds_hold_before_the_head_is_complete() {
    let refusal = |text: &str| parse(text).unwrap_err();
    assert_eq!(refusal(&format!("GET /{}", "a".repeat(400))), HeadError::UriTooLong);
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(256));
    assert_eq!(refusal(&line), HeadError::UriTooLong);
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "b".repeat(4096));
    assert_eq!(refusal(&fields), HeadError::HeadersTooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(16));
    assert_eq!(refusal(&many), HeadError::HeadersTooLarge);
    for garbage in ["\x16\x03\x01", "\r\n\r\n\r\n", "\n", "G\0T", &"A".repeat(33)] {
        assert!(
            matches!(parse(garbage), Err(HeadError::BadRequest(reason)) if reason != "incomplete")
        );
    }
}

#[test]
fn a_cleared_head_forgets_and_keeps_its_room() {
    let mut head = get("Authorization: Bearer a\r\nContent-Length: 3\r\n").unwrap();
    let room = head.headers.capacity();
    head.clear();
    assert_eq!(format!("{head:?}"), format!("{:?}", RequestHead::default()));
    assert_eq!(head.headers.capacity(), room);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_one_answer(
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(\r\n){0,3}(GET|POST|X) (/|http://a|\\*)[a-z?#]{0,5} HTTP/1\\.[0-2]\r?\n\
             ((Host|Content-Length|Transfer-Encoding|Connection|A ?): ?[0-9a-z,]{0,5}\r\n){0,4}\r\n"
                .prop_map(String::into_bytes),
        ],
        cut in 1usize..40,
    ) {
        let mut whole = RequestHead::default();
        let expected = parse_request_head(&text, &LIMITS, &mut whole);
        let mut pieces = RequestHead::default();
        let mut result = Ok(false);
        for end in (0..text.len()).step_by(cut).chain([text.len()]) {
            result = parse_request_head(&text[..end], &LIMITS, &mut pieces);
            if result != Ok(false) {
                break;
            }
        }
        // What is refused early may be refused for another reason than the whole, never accepted.
        prop_assert_eq!(result.is_err(), expected.is_err());
        if expected.is_ok() {
            prop_assert_eq!(result, expected);
        }
        if expected == Ok(true) {
            prop_assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
        }
    }
}
