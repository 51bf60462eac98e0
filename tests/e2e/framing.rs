//! HTTP/1.1 as it is on the wire: connections that live on, bodies in every framing, bounds and
//! deadlines, and what request smuggling is made of.

use crate::shared::{Own, Shared, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use serde_json::json;
use std::sync::OnceLock;

#[test]
fn a_connection_carries_many_requests() {
    let instance = &shared().instance;
    let mut connection = instance.open();
    let key = instance.key("bench");
    for round in 0..20 {
        let id = unique("kept");
        let request = match round % 4 {
            0 => instance.chat(&json!({})).key(key),
            1 => instance.chat(&json!({ "stream": true })).key(key),
            2 => Request::get("/v1/models"),
            _ => Request::get("/healthz"),
        };
        let answer = connection.call(&request.id(&id)).unwrap();
        assert_eq!(answer.status(), if round % 4 == 2 { 401 } else { 200 });
        assert_eq!(answer.head.must("x-request-id"), id);
    }
    let last = Request::get("/healthz").header("connection", "close");
    assert_eq!(connection.call(&last).unwrap().expect(200).head.must("connection"), "close");
    assert!(connection.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let instance = &shared().instance;
    let mut connection = instance.open();
    let key = instance.key("bench");
    let requests: Vec<Request> = (0..12)
        .map(|round| match round % 3 {
            0 => instance.chat(&json!({})).key(key),
            1 => instance.chat(&json!({ "stream": true })).key(key).chunked(7),
            _ => Request::get("/v1/models").key(key),
        })
        .enumerate()
        .map(|(round, request)| request.id(&format!("pipelined-{round}")))
        .collect();
    connection.send(&requests.iter().flat_map(Request::to_bytes).collect::<Vec<u8>>()).unwrap();
    for round in 0..requests.len() {
        let answer = connection.answer("POST").unwrap().expect(200);
        assert_eq!(answer.head.must("x-request-id"), format!("pipelined-{round}"));
    }
}

#[test]
fn a_chunked_body_arrives_whole() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let path = format!("/api/v1/consume/{}", own.id);
    let text = "{\"messages\":[{\"content\":\"".to_owned() + &"word ".repeat(20_000) + "\"}]}";
    for chunk_bytes in [1_000, 16_384, 70_000] {
        let request = Request::new("POST", &path).key(instance.key("bench"));
        let request = request.body(&text).chunked(chunk_bytes);
        instance.call(&request).expect(200);
        assert!(own.upstream.last().ends_with(&format!("\r\n\r\n{text}")), "{chunk_bytes}");
    }
    let mut connection = instance.open();
    let request = Request::new("POST", &path).key(instance.key("bench")).body("{}").chunked(1);
    for byte in request.to_bytes() {
        connection.send(&[byte]).unwrap();
    }
    connection.answer("POST").unwrap().expect(200);
    assert!(own.upstream.last().ends_with("\r\n\r\n{}"));
}

#[test]
fn trailers_and_chunk_extensions_are_read_and_dropped() {
    let instance = &shared().instance;
    let mut connection = instance.open();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         transfer-encoding: chunked\r\n\r\n",
        instance.key("bench")
    );
    let body = instance.chat(&json!({})).to_bytes();
    let body = body.rsplit(|byte| *byte == b'\n').next().unwrap().to_vec();
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(format!("{:X};a=b\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(
        b"\r\n0\r\nx-trailer: 1\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    );
    connection.send(&bytes).unwrap();
    connection.answer("POST").unwrap().expect(200);
    connection.answer("GET").unwrap().expect(200);
}

#[test]
fn a_client_that_waits_is_told_to_continue() {
    let instance = &shared().instance;
    let mut connection = instance.open();
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    let bytes = request.header("expect", "100-continue").to_bytes();
    let body_at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    connection.send(&bytes[..body_at]).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send(&bytes[body_at..]).unwrap();
    connection.answer("POST").unwrap().expect(200);
    // Whoever may not call is refused before the body is sent.
    let refused = instance.chat(&json!({})).key("tg_nonsense").header("expect", "100-continue");
    let mut connection = instance.open();
    connection.send(&refused.to_bytes()[..120]).unwrap();
    let bytes = refused.to_bytes();
    let body_at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    connection.send(&bytes[120..body_at]).unwrap();
    connection.answer("POST").unwrap().expect(401);
}

#[test]
fn head_brings_no_body() {
    let instance = &shared().instance;
    let mut connection = instance.open();
    let key = instance.key("bench");
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    for path in [path.as_str(), "/v1/models", "/api/v1/account", "/healthz", "/nowhere"] {
        let answer = connection.call(&Request::new("HEAD", path).key(key)).unwrap();
        assert_eq!(answer.status(), if path == "/nowhere" { 404 } else { 200 }, "{path}");
        assert!(answer.head.number("content-length") > 0, "{path}");
    }
    // Had a body come, it would be read as this answer's head.
    connection.call(&Request::get("/healthz")).unwrap().expect(200);
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let instance = &shared().instance;
    let key = instance.key("bench");
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let mut connection = instance.open();
    let head = format!("GET {path} HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer("GET").unwrap().expect(200);
    assert_eq!(answer.json()["object"], "chat.completion");
    assert!(connection.is_closed());
}

#[test]
fn what_two_readers_could_read_apart_is_refused() {
    let instance = &shared().instance;
    let post = |fields: &str, body: &str| {
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n{body}")
    };
    let (length, chunked) = ("content-length: 2", "transfer-encoding: chunked");
    for bytes in [
        post(&format!("{length}\r\n{chunked}"), "{}"),
        post(&format!("{chunked}\r\n{length}"), "0\r\n\r\n"),
        post(&format!("{length}\r\ncontent-length: 3"), "{}x"),
        post("content-length: 2, 3", "{}"),
        post("content-length: +2", "{}"),
        post("content-length: 0x2", "{}"),
        post("content-length: -1", ""),
        post("content-length: 99999999999999999999", ""),
        post("content-length : 2", "{}"),
        post("transfer-encoding: chunked, chunked", "0\r\n\r\n"),
        post("transfer-encoding: gzip", "{}"),
        post("transfer-encoding: xchunked", "0\r\n\r\n"),
        post("x: 1\r\n folded", ""),
        post(" x: 1", ""),
        post("x", ""),
        post("x: a\0b", ""),
        post("x: a\rb", ""),
        "GET /healthz HTTP/1.1\nhost: x\n\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(),
        "GET  /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.2\r\nhost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/2.0\r\nhost: x\r\n\r\n".to_owned(),
        "GET healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "G@T /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nhost: x\r\nexpect: 200-ok\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned() + &"\u{0}".repeat(64),
    ] {
        let mut connection = instance.open();
        connection.send(bytes.as_bytes()).unwrap();
        let answer = connection.answer("POST").unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        assert_eq!(answer.status(), 400, "{bytes:?}: {}", answer.text());
        assert_eq!(answer.code(), "invalid_request", "{bytes:?}");
        assert!(answer.head.header("x-request-id").is_some());
        assert!(connection.is_closed(), "{bytes:?}");
    }
}

#[test]
fn bad_chunks_are_refused_after_the_key() {
    let instance = &shared().instance;
    for bad in
        ["zz\r\n{}\r\n0\r\n\r\n", "2\r\n{}x\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", "2\n{}\n0\n\n"]
    {
        let mut connection = instance.open();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\
             transfer-encoding: chunked\r\n\r\n{bad}",
            instance.key("bench")
        );
        connection.send(head.as_bytes()).unwrap();
        let answer = connection.answer("POST").unwrap_or_else(|error| panic!("{error}: {bad:?}"));
        assert_eq!(answer.expect(400).code(), "invalid_request", "{bad:?}");
        assert!(connection.is_closed(), "{bad:?}");
    }
}

/// An instance with bounds that a test can reach.
fn strict() -> &'static Instance {
    static STRICT: OnceLock<Shared> = OnceLock::new();
    let config = "[server]\nmax_head_bytes = 2048\nmax_uri_bytes = 512\nmax_headers = 20\n\
                  max_body_bytes = 4096\nhead_timeout_ms = 400\nbody_timeout_ms = 400\n\
                  idle_timeout_ms = 400\n";
    let start = || Shared::start(Setup::default().shards(1).config(config));
    &STRICT.get_or_init(start).instance
}

#[test]
fn bounds_hold() {
    let instance = strict();
    let key = instance.key("bench");
    let get = |target: &str| Request::get(target).key(key);
    let long = |bytes: usize| "x".repeat(bytes);
    let many = (0..30).fold(get("/healthz"), |request, n| request.header(&format!("x-{n}"), "1"));
    let models = "/v1/chat/completions";
    for (request, status, code) in [
        (get(&format!("/healthz?{}", long(600))), 414, "uri_too_long"),
        (get(&format!("/healthz?{}", long(100_000))), 414, "uri_too_long"),
        (get("/healthz").header("x", &long(3_000)), 431, "headers_too_large"),
        (many, 431, "headers_too_large"),
        (Request::new("POST", models).key(key).body(&long(5_000)), 413, "request_too_large"),
        (
            Request::new("POST", models).key(key).body(&long(5_000)).chunked(900),
            413,
            "request_too_large",
        ),
    ] {
        let mut connection = instance.open();
        // It may answer, and close, before all has been sent.
        let _ = connection.send(&request.to_bytes());
        let answer = connection.answer("POST").unwrap();
        assert_eq!((answer.status(), answer.code().as_str()), (status, code));
    }
    let fits = Request::new("PUT", &format!("/api/v1/consume/{}", instance.service("per_token")));
    let body = format!("{{\"x\":\"{}\"}}", long(4_096 - 8));
    instance.call(&fits.key(key).body(&body)).expect(200);
    instance.call(&get(&format!("/healthz?{}", long(500)))).expect(200);
    instance.balance_books();
}

#[test]
fn slow_clients_are_refused() {
    let instance = strict();
    let mut slow_head = instance.open();
    slow_head.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    let mut slow_body = instance.open();
    let request = instance.chat(&json!({})).key(instance.key("bench")).to_bytes();
    slow_body.send(&request[..request.len() - 5]).unwrap();
    let mut silent = instance.open();
    for connection in [&mut slow_head, &mut slow_body] {
        let answer = connection.answer("GET").unwrap().expect(408);
        assert_eq!(answer.code(), "request_timeout");
        assert!(connection.is_closed());
    }
    assert!(silent.is_closed());
    let mut idle: Connection = instance.open();
    idle.call(&Request::get("/healthz")).unwrap().expect(200);
    assert!(idle.is_closed());
}
