//! What an upstream can do wrong, what its caller then sees, and what the ledger says of it.

use crate::shared::{Own, unique};
use crate::support::admin::per_token;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use serde_json::{Value, json};

const IMPATIENT: &str = "[upstream]\nconnect_timeout_ms = 300\nfirst_byte_timeout_ms = 300\n\
                         idle_timeout_ms = 300\ntotal_timeout_ms = 1500\n";

fn row_says(instance: &Instance, request_id: &str, status: u16, outcome: &str) {
    let row = instance.ledger().row(request_id);
    assert_eq!((row.status, row.outcome.as_str()), (status, outcome), "{row:?}");
}

#[test]
fn before_the_head_a_fault_is_a_status() {
    let instance = Setup::default().shards(1).config(IMPATIENT).start();
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let mut connection = instance.open();
    for (fault, status, code, outcome) in [
        ("close-before-head", 502, "upstream_error", "upstream_failed"),
        ("garbage", 502, "upstream_error", "upstream_failed"),
        ("huge-head", 502, "upstream_error", "upstream_failed"),
        ("bad-chunk", 502, "upstream_error", "upstream_failed"),
        ("short-body", 502, "upstream_error", "upstream_failed"),
        ("close-mid-body", 502, "upstream_error", "upstream_failed"),
        ("stall-before-head", 504, "upstream_timeout", "timed_out"),
        ("stall-mid-stream", 504, "upstream_timeout", "timed_out"),
    ] {
        let request_id = unique("fault");
        let request = Request::get(&path).key(instance.key("bench")).id(&request_id);
        // The connection survives: nothing of the answer was sent before the fault.
        let answer = connection.call(&request.header("x-mock-fault", fault)).unwrap();
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{fault}");
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.status, row.outcome.as_str()), (status, outcome), "{fault}: {row:?}");
        assert_eq!((row.cost_nanousd, row.output_tokens), (0, 0), "{fault}: {row:?}");
    }
    instance.balance_books();
}

#[test]
fn an_upstream_that_is_not_there_is_a_502() {
    let instance = Setup::default().shards(1).config(IMPATIENT).start();
    let admin = instance.admin();
    // Nobody listens on port 9 of this host.
    let id = admin.service("nobody", "http://127.0.0.1:9", &per_token(1, 1, 1));
    let request = Request::get(&format!("/api/v1/consume/{id}")).key(instance.key("bench"));
    let answer = crate::support::poll::until("the service", || {
        Some(instance.call(&request)).filter(|answer| answer.status() != 404)
    });
    assert_eq!(answer.expect(502).code(), "upstream_error");
    instance.balance_books();
}

/// A stream's text up to where the server closed, which it must have done.
fn broken_stream(instance: &Instance, request: &Request) -> String {
    let mut connection: Connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    let mut text = String::new();
    // Whether the last chunk comes or the connection just closes, the error was the last event.
    while let Ok(Some(chunk)) = connection.chunk() {
        text += &String::from_utf8(chunk).unwrap();
    }
    assert!(connection.is_closed());
    text
}

#[test]
fn within_a_stream_a_fault_is_its_last_event() {
    let instance = Setup::default().shards(1).config(IMPATIENT).start();
    for (path, fault, code, outcome) in [
        ("/v1/chat/completions", "close-mid-stream", "upstream_error", "upstream_failed"),
        ("/v1/chat/completions", "bad-chunk", "upstream_error", "upstream_failed"),
        ("/v1/completions", "close-mid-stream", "upstream_error", "upstream_failed"),
        ("/v1/responses", "close-mid-stream", "upstream_error", "upstream_failed"),
        ("/v1/messages", "close-mid-stream", "api_error", "upstream_failed"),
        ("/v1/chat/completions", "stall-mid-stream", "upstream_timeout", "timed_out"),
    ] {
        let request_id = unique("broken");
        let body = json!({
            "model": instance.model("per_token"),
            "stream": true,
            "max_tokens": 16,
            "messages": [{ "role": "user", "content": "Hello" }],
            "input": "Hello",
            "prompt": "Hello",
        });
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let text = broken_stream(&instance, &request.header("x-mock-fault", fault));
        let last = text.trim_end().rsplit("\n\n").next().unwrap().to_owned();
        let data = last.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let error: Value = serde_json::from_str(data).unwrap();
        let kind =
            if path == "/v1/messages" { &error["error"]["type"] } else { &error["error"]["code"] };
        assert_eq!(kind, code, "{path} {fault}: {text}");
        assert!(!text.contains("[DONE]"), "{text}");
        row_says(&instance, &request_id, 200, outcome);
        let row = instance.ledger().row(&request_id);
        assert!(
            row.output_tokens > 0 && row.cost_nanousd > 0,
            "what was relayed is billed: {row:?}"
        );
    }
    instance.balance_books();
}

#[test]
fn an_upstreams_own_error_event_passes_and_is_noted() {
    let instance = Setup::default().shards(1).start();
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let request_id = unique("error-event");
        let body = json!({
            "model": instance.model("per_token"), "stream": true, "max_tokens": 16, "messages": [],
        });
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let answer = instance.call(&request.header("x-mock-fault", "error-event")).expect(200);
        assert!(answer.text().contains("The simulated model server failed."), "{}", answer.text());
        row_says(&instance, &request_id, 200, "upstream_failed");
    }
    instance.balance_books();
}

#[test]
fn a_call_has_an_end() {
    let instance = Setup::default().shards(1).config(IMPATIENT).start();
    let own = Own::on(&instance, &per_token(1, 1, 1), &["--tokens", "100000"]);
    let request_id = unique("endless");
    let body = own.chat_body(&json!({ "stream": true }));
    let request = Request::post("/v1/chat/completions", &body).key(instance.key("bench"));
    let text =
        broken_stream(&instance, &request.id(&request_id).header("x-mock-inter-token-ms", "20"));
    assert!(text.contains("upstream_timeout"), "{text}");
    row_says(&instance, &request_id, 200, "timed_out");
    instance.balance_books();
}

#[test]
fn a_stale_connection_is_not_the_callers_concern() {
    let instance = Setup::default().shards(1).start();
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    for _ in 0..5 {
        let request = Request::get(&path).key(instance.key("bench"));
        // The upstream closes after this answer; the pool may learn of it too late.
        instance.call(&request.clone().header("x-mock-fault", "close-before-head")).expect(502);
        for _ in 0..3 {
            instance.call(&request).expect(200);
        }
    }
    instance.balance_books();
}
