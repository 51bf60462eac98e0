//! The contract's table of errors, row by row, in both dialects: status, code, shape, what the
//! message says to do, and the headers that belong to it.

use crate::support::forged;
use crate::support::http::{Answer, Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use rusqlite::Connection as Sqlite;
use serde_json::{Value, json};

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";

/// A row: status, code, the type in Anthropic's dialect.
type Row = (u16, &'static str, &'static str);

/// Words of which each message must have one: what to do next.
const REMEDIES: [&str; 6] = ["Send ", "Wait ", "GET ", "Check ", "Use ", "Name "];

const CONFIG: &str = "[server]\nmax_body_bytes = 65536\nhead_timeout_ms = 400\n\
    body_timeout_ms = 400\n[upstream]\nfirst_byte_timeout_ms = 300\n\
    [keys]\nfailures_per_minute_per_key = 1\n";

/// Is this the row's refusal, complete, in the dialect of `path`?
fn is_row(answer: &Answer, path: &str, (status, code, anthropic): Row) {
    let what = format!("{path} {code}: {:?} {}", answer.head, answer.text());
    assert_eq!(answer.status(), status, "{what}");
    let (body, head) = (answer.json(), &answer.head);
    let error = &body["error"];
    if path.starts_with(ANTHROPIC) {
        assert_eq!((&body["type"], &error["type"]), (&json!("error"), &json!(anthropic)), "{what}");
    } else {
        let mut fields: Vec<&String> = error.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["code", "message", "param", "type"], "{what}");
        assert_eq!(error["code"], code, "{what}");
        assert!(error["type"].is_string(), "{what}");
    }
    let message = error["message"].as_str().unwrap();
    assert!(REMEDIES.iter().any(|word| message.contains(word)), "no remedy: {what}");
    assert_eq!(head.must("content-type"), "application/json", "{what}");
    assert!(!head.must("x-request-id").is_empty(), "{what}");
    assert_eq!(head.header("retry-after").is_some(), [429, 503].contains(&status), "{what}");
    assert!(head.header("x-tollgate-cost-nanousd").is_none(), "{what}");
    // Rate-limited or admitted, the caller sees the limits.
    let has_limits = [429, 502, 504].contains(&status);
    for name in ["limit", "remaining", "reset"] {
        for of in ["requests", "tokens"] {
            let header = head.header(&format!("x-ratelimit-{name}-{of}"));
            assert_eq!(header.is_some(), has_limits, "{name}-{of}: {what}");
        }
    }
    for secret in ["127.0.0.1", "tg_7", ".rs", "panicked", "os error"] {
        assert!(!what.contains(secret), "{secret} leaks: {what}");
    }
}

/// The answer to these raw bytes; it may come before all of them are sent.
fn answer_to(instance: &Instance, bytes: &[u8]) -> Answer {
    let mut connection: Connection = instance.open();
    let _ = connection.send(bytes);
    connection.answer("POST").unwrap()
}

fn call(instance: &Instance, path: &str, more: &Value) -> Request {
    let mut body = json!({
        "model": instance.model("per_token"),
        "max_tokens": 16,
        "messages": [{ "role": "user", "content": "Hello" }],
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Request::post(path, &body)
}

#[test]
fn what_is_wrong_with_a_request_is_said_in_its_dialect() {
    let instance = Setup::default().shards(1).config(CONFIG).start();
    let admin = instance.admin();
    let key = instance.key("bench");
    let consumer = admin.key("premium").consumer_id;
    let one = admin.key_of(&consumer, &json!({ "services": [instance.service("tiered")] })).text;
    let post = |path: &str, body: &str| Request::new("POST", path).key(key).body(body).to_bytes();
    for path in [OPENAI, ANTHROPIC] {
        let whole = call(&instance, path, &json!({})).key(key).to_bytes();
        let long = format!("{path}?{}", "x".repeat(9_000));
        let wide = call(&instance, path, &json!({})).key(key).header("x-wide", &"x".repeat(40_000));
        let many = (0..101).fold(Request::get(path), |it, n| it.header(&format!("x-{n}"), "1"));
        let rows: [(Row, Vec<u8>); 16] = [
            ((400, "invalid_request", "invalid_request_error"), post(path, "{")),
            ((400, "invalid_request", "invalid_request_error"), post(path, "[]")),
            ((400, "invalid_request", "invalid_request_error"), post(path, "{\"model\":7}")),
            ((400, "invalid_request", "invalid_request_error"), post(path, "{\"messages\":[]}")),
            (
                (400, "invalid_request", "invalid_request_error"),
                post(path, &format!("{{\"model\":{}", "[".repeat(100))),
            ),
            (
                (400, "invalid_request", "invalid_request_error"),
                format!("POST {path} HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n").into_bytes(),
            ),
            (
                (401, "invalid_api_key", "authentication_error"),
                call(&instance, path, &json!({})).key("tg_no").to_bytes(),
            ),
            (
                (403, "service_not_allowed", "permission_error"),
                call(&instance, path, &json!({})).key(&one).to_bytes(),
            ),
            (
                (404, "model_not_found", "not_found_error"),
                call(&instance, path, &json!({ "model": "no-such" })).key(key).to_bytes(),
            ),
            ((404, "not_found", "not_found_error"), Request::get(path).key(key).to_bytes()),
            ((408, "request_timeout", "invalid_request_error"), whole[..whole.len() - 9].to_vec()),
            ((408, "request_timeout", "invalid_request_error"), whole[..60].to_vec()),
            ((413, "request_too_large", "request_too_large"), post(path, &"x".repeat(70_000))),
            ((414, "uri_too_long", "invalid_request_error"), Request::get(&long).to_bytes()),
            ((431, "headers_too_large", "invalid_request_error"), wide.to_bytes()),
            ((431, "headers_too_large", "invalid_request_error"), many.to_bytes()),
        ];
        for (row, bytes) in rows {
            is_row(&answer_to(&instance, &bytes), path, row);
        }
    }
    is_row(&instance.call(&Request::get("/nowhere")), "/", (404, "not_found", ""));
    instance.balance_books();
}

#[test]
fn what_a_plan_does_not_give_is_said_in_the_callers_dialect() {
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    // The burst is spent with the first call, and what comes back takes a second.
    admin.plan("once", 1, 1_000_000);
    admin.plan("spent", 1_000, 1);
    for path in [OPENAI, ANTHROPIC] {
        let key = admin.key("once").text;
        let request = call(&instance, path, &json!({})).key(&key);
        let refused = poll::until("the rate to be spent", || {
            Some(instance.call(&request)).filter(|answer| answer.status() != 200)
        });
        is_row(&refused, path, (429, "rate_limit_exceeded", "rate_limit_error"));
        assert!((1..=2).contains(&refused.head.number("retry-after")));
        let key = admin.key("spent").text;
        let refused = instance.call(&call(&instance, path, &json!({})).key(&key));
        is_row(&refused, path, (429, "insufficient_quota", "rate_limit_error"));
        assert!(refused.head.number("retry-after") <= 31 * 24 * 3_600);
        let body = refused.json();
        let kind = if path == OPENAI { "insufficient_quota" } else { "rate_limit_error" };
        assert_eq!(body["error"]["type"], kind, "clients tell it from a rate by the type: {body}");
    }
    instance.balance_books();
}

#[test]
fn what_the_upstream_or_the_gateway_lacks_is_said_in_the_callers_dialect() {
    let instance = Setup::default().shards(1).config(CONFIG).start();
    let admin = instance.admin();
    for path in [OPENAI, ANTHROPIC] {
        for (fault, row) in [
            ("close-before-head", (502, "upstream_error", "api_error")),
            ("stall-before-head", (504, "upstream_timeout", "api_error")),
        ] {
            let request = call(&instance, path, &json!({})).key(instance.key("bench"));
            is_row(&instance.call(&request.header("x-mock-fault", fault)), path, row);
        }
        // One wrong secret a minute is looked at; whoever comes next waits.
        let key = admin.key("premium").text;
        let wrong = |number| {
            let forged = forged::with_another_secret(&key, number);
            instance.call(&call(&instance, path, &json!({})).key(&forged))
        };
        is_row(&wrong(1), path, (401, "invalid_api_key", "authentication_error"));
        is_row(&wrong(2), path, (503, "overloaded", "overloaded_error"));
    }
    instance.balance_books();
}

/// Somebody holds the store's write lock until this is dropped.
fn locked_store(instance: &Instance) -> Sqlite {
    let store = Sqlite::open(instance.data_dir().join("tollgate.db")).unwrap();
    store.busy_timeout(poll::PATIENCE).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    store
}

#[test]
fn a_full_journal_refuses_and_loses_nothing() {
    let config = "[usage]\nsegment_bytes = 65536\njournal_max_bytes = 131072\n";
    let instance = Setup::default().embedded().shards(1).config(config).start();
    let mut connection = instance.open();
    let request = |path| call(&instance, path, &json!({})).key(instance.key("bench"));
    connection.call(&request(OPENAI)).unwrap().expect(200);
    let lock = locked_store(&instance);
    let mut refuse = |path| {
        poll::until("the journal to be full", || {
            let answer = connection.call(&request(path)).unwrap();
            Some(answer).filter(|answer| answer.status() != 200)
        })
    };
    for path in [OPENAI, ANTHROPIC] {
        is_row(&refuse(path), path, (503, "journal_full", "api_error"));
    }
    assert!(instance.metrics().sum("tollgate_journal_full_total", &[]) >= 2);
    drop(lock);
    poll::until("the journal to have room again", || {
        (connection.call(&request(OPENAI)).unwrap().status() == 200).then_some(())
    });
    instance.balance_books();
}

#[test]
fn an_authority_that_does_not_answer_is_named() {
    let instance = Setup::default().embedded().shards(1).start();
    let admin = instance.admin();
    let keys = [OPENAI, ANTHROPIC].map(|path| (path, admin.key("premium").text));
    for (_, key) in &keys {
        // Verified, and nothing asked of the authority yet.
        instance.call(&Request::get("/v1/models").key(key)).expect(200);
    }
    // The table that months are read from has another name for a while. No call is admitted
    // meanwhile, so no record is missing.
    let store = Sqlite::open(instance.data_dir().join("tollgate.db")).unwrap();
    store.busy_timeout(poll::PATIENCE).unwrap();
    store.execute_batch("ALTER TABLE usage_daily RENAME TO usage_away").unwrap();
    for (path, key) in &keys {
        let refused = instance.call(&call(&instance, path, &json!({})).key(key));
        is_row(&refused, path, (503, "authority_unavailable", "api_error"));
    }
    store.execute_batch("ALTER TABLE usage_away RENAME TO usage_daily").unwrap();
    for (path, key) in &keys {
        poll::until("the authority to answer", || {
            let answer = instance.call(&call(&instance, path, &json!({})).key(key));
            (answer.status() == 200).then_some(())
        });
    }
    instance.balance_books();
}
