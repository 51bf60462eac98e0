//! Streams: relayed as they come, byte for byte, with their usage read on the way.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::Upstream;
use serde_json::{Value, json};

/// Two model servers that say the same: one behind the gateway, one asked directly.
fn twins(args: &[&str]) -> (Own, Upstream) {
    let args = [&["--seed", "7"], args].concat();
    (Own::new(&per_token(1_000_000, 500_000, 3_000_000), &args), Upstream::start(&args))
}

fn input(path: &str, model: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "Say something, please." }]);
    match path {
        "/v1/completions" => json!({ "model": model, "prompt": "Say something." }),
        "/v1/responses" => json!({ "model": model, "input": "Say something." }),
        "/v1/messages" => json!({ "model": model, "max_tokens": 50, "messages": messages }),
        _ => json!({ "model": model, "messages": messages }),
    }
}

#[test]
fn a_stream_passes_byte_for_byte() {
    let instance = &shared().instance;
    let (own, direct) = twins(&["--tokens", "40"]);
    for path in ["/v1/responses", "/v1/messages", "/v1/completions", "/v1/chat/completions"] {
        let mut body = input(path, &own.model);
        body["stream"] = json!(true);
        if path.ends_with("completions") {
            body["stream_options"] = json!({ "include_usage": true });
        }
        let expected = direct.call(&Request::post(path, &body)).expect(200);
        let request_id = unique("stream");
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let answer = instance.call(&request).expect(200);
        assert_eq!(answer.text(), expected.text(), "{path}");
        assert_eq!(answer.head.must("content-type"), expected.head.must("content-type"));
        let row = instance.ledger().row(&request_id);
        assert!(row.streamed && row.outcome == "completed", "{row:?}");
        assert_eq!((row.output_tokens, row.tokens_source.as_str()), (40, "reported"), "{row:?}");
        let cost = (row.input_tokens * 1_000_000 + row.output_tokens * 3_000_000) / 1_000_000;
        assert_eq!(row.cost_nanousd, cost, "{row:?}");
        assert!(row.ttft_us > 0 && row.ttft_us <= row.latency_us, "{row:?}");
    }
}

#[test]
fn a_usage_chunk_that_nobody_asked_for_is_hidden() {
    let instance = &shared().instance;
    let (own, direct) = twins(&[]);
    for (path, options) in [
        ("/v1/chat/completions", None),
        ("/v1/completions", None),
        ("/v1/chat/completions", Some(json!({ "include_usage": false }))),
        ("/v1/chat/completions", Some(Value::Null)),
    ] {
        let mut body = input(path, &own.model);
        body["stream"] = json!(true);
        if let Some(options) = options {
            body["stream_options"] = options;
        }
        let mut asking = body.clone();
        asking["stream_options"] = json!({ "include_usage": true });
        let expected = direct.call(&Request::post(path, &asking)).expect(200).text();
        let usage = expected.split_inclusive("\n\n").find(|event| event.contains("\"choices\":[]"));
        // Nor does OpenAI send `usage` at all to whoever did not ask.
        let expected = expected.replace(usage.unwrap(), "").replace(",\"usage\":null", "");
        assert!(!expected.contains("usage"));
        let request_id = unique("hidden");
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let answer = instance.call(&request).expect(200);
        assert_eq!(answer.text(), expected, "{body}");
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.output_tokens, row.tokens_source.as_str()), (16, "reported"), "{row:?}");
    }
}

#[test]
fn usage_that_was_asked_for_is_there() {
    let instance = &shared().instance;
    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let answer = instance.call(&instance.chat(&more).key(instance.key("bench"))).expect(200);
    let events = answer.events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 16);
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[test]
fn the_first_token_does_not_wait_for_the_last() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    // Nothing but the end of the client will end this stream.
    let body = own.chat_body(&json!({ "stream": true }));
    let request = Request::post("/v1/chat/completions", &body)
        .key(instance.key("bench"))
        .header("x-mock-fault", "stall-mid-stream")
        .header("x-mock-inter-token-ms", "1");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let mut seen = String::new();
    while !seen.contains("\"content\":\"") {
        seen += &String::from_utf8(connection.chunk().unwrap().unwrap()).unwrap();
    }
    assert!(!seen.contains("[DONE]"));
}

#[test]
fn a_stream_arrives_in_the_pieces_that_it_came_in() {
    let instance = &shared().instance;
    let more = json!({ "stream": true, "max_tokens": 8 });
    let request = instance.chat(&more).key(instance.key("bench"));
    let mut connection = instance.open();
    connection.send(&request.header("x-mock-inter-token-ms", "15").to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let mut chunks = Vec::new();
    while let Some(chunk) = connection.chunk().unwrap() {
        chunks.push(String::from_utf8(chunk).unwrap());
    }
    // Each token is a write of its own 15 ms apart; not one chunk may have held back most of them.
    assert!(chunks.len() >= 5, "{chunks:?}");
    assert!(chunks.iter().all(|chunk| chunk.matches("data: ").count() <= 6), "{chunks:?}");
    assert!(chunks.concat().ends_with("data: [DONE]\n\n"));
}

#[test]
fn a_long_stream_passes_whole() {
    let instance = &shared().instance;
    let (own, direct) = twins(&["--tokens", "20000"]);
    let body =
        own.chat_body(&json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let request = Request::post("/v1/chat/completions", &body);
    let expected = direct.call(&request).expect(200);
    let answer = instance.call(&request.key(instance.key("bench"))).expect(200);
    assert!(expected.body.len() > 2_000_000);
    assert!(answer.body == expected.body, "{} {}", answer.body.len(), expected.body.len());
}
