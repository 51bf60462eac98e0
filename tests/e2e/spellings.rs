//! Whatever a caller spells, what is metered is the same: usage is asked for, or the call refused.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::Request;
use serde_json::json;

/// A stream of 6 + 9 tokens, asked for in these words.
fn call(path: &str, content_type: Option<&str>, body: &[u8], request_id: &str) -> Request {
    let request = Request::new("POST", path).key(shared().instance.key("bench")).id(request_id);
    let request = request.header("x-mock-prompt-tokens", "6").header("x-mock-tokens", "9");
    let request = match content_type {
        Some(content_type) => request.header("content-type", content_type),
        None => request,
    };
    request.bytes(body)
}

#[test]
fn usage_is_asked_for_however_a_call_is_spelt() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1_000_000, 1_000_000, 1_000_000), &[]);
    let body = own.chat_body(&json!({ "stream": true })).to_string();
    let json = Some("application/json");
    for (rest, content_type, body) in [
        ("", json, body.clone()),
        ("", json, format!(" {body}")),
        ("", None, format!("\r\n\t {body}")),
        ("", Some("text/plain"), format!("\n{body}")),
        ("", Some("text/plain"), body.clone()),
        ("", Some("application/json; charset=UTF-8"), body.clone()),
        ("/v1/chat/completions", Some("multipart/form-data; boundary=x"), body.clone()),
        ("/v1/chat/completions?a=/x", json, body.clone()),
    ] {
        let request_id = unique("spelt");
        let path = format!("/api/v1/consume/{}{rest}", own.id);
        let what = format!("{path} {content_type:?} {body}");
        let request = call(&path, content_type, body.as_bytes(), &request_id);
        let answer = instance.call(&request).expect(200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{what}: {}", answer.text());
        assert!(!answer.text().contains("usage"), "{what}: {}", answer.text());
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.input_tokens, row.output_tokens), (6, 9), "{what}: {row:?}");
        assert_eq!((row.tokens_source.as_str(), row.cost_nanousd), ("reported", 15), "{row:?}");
    }
    // Paths that only some servers take for the same: the model server here does not.
    for rest in ["/v1/chat/%63ompletions", "/v1/chat/completions/", "/v1/Chat/COMPLETIONS;a"] {
        let path = format!("/api/v1/consume/{}{rest}", own.id);
        instance.call(&call(&path, json, body.as_bytes(), &unique("spelt")));
        assert!(own.upstream.last().contains(r#""include_usage":true"#), "{}", own.upstream.last());
    }
}

#[test]
fn what_an_upstream_might_read_otherwise_is_refused() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let body = own.chat_body(&json!({ "stream": true })).to_string();
    let with = |more: &str| body.replacen('{', &format!("{{{more},"), 1).into_bytes();
    let utf_16: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json = "application/json";
    let before = own.upstream.last();
    for (name, content_type, body) in [
        ("a byte order mark", json, format!("\u{feff}{body}").into_bytes()),
        ("UTF-16", "application/json; charset=utf-16", utf_16.clone()),
        ("UTF-16, untold", "text/plain", utf_16),
        ("UTF-7", "application/json; charset=utf-7", body.clone().into_bytes()),
        ("a comment", "text/plain", format!("/**/{body}").into_bytes()),
        ("a comma too many", "text/plain", body.replace("true}", "true,}").into_bytes()),
        ("not a number", "text/plain", with("\"top_p\":NaN")),
        ("a text for a truth", "text/plain", body.replace("true", "\"true\"").into_bytes()),
        ("a number for a truth", "text/plain", body.replace("true", "1").into_bytes()),
        ("another case", "text/plain", with("\"Stream\":true")),
        ("a long s", "text/plain", with("\"\u{17f}tream\":true")),
        ("a name twice", "text/plain", with("\"stream\":false")),
        ("an option in another case", json, with("\"stream_options\":{\"Include_usage\":false}")),
        ("nesting", "text/plain", with(&format!("\"x\":{}{}", "[".repeat(70), "]".repeat(70)))),
        ("a form", "application/x-www-form-urlencoded", b"stream=true".to_vec()),
        ("a text behind it", "text/plain", format!("{body}{{\"stream\":true}}").into_bytes()),
    ] {
        let request_id = unique("odd");
        for path in [&format!("/api/v1/consume/{}", own.id), "/v1/chat/completions"] {
            let answer = instance.call(&call(path, Some(content_type), &body, &request_id));
            assert_eq!(answer.status(), 400, "{name} {path}: {}", answer.text());
            assert_eq!(answer.code(), "invalid_request", "{name} {path}");
        }
    }
    let encoded = call(&format!("/api/v1/consume/{}", own.id), None, body.as_bytes(), "encoded");
    instance.call(&encoded.header("content-encoding", "gzip")).expect(400);
    assert_eq!(own.upstream.last(), before, "the upstream got one");
    // Where usage comes unasked, a body may be anything.
    let path = format!("/api/v1/consume/{}/v1/anything", own.id);
    instance.call(&call(&path, Some("text/plain"), b"{\"stream\":1,", "anything")).expect(404);
}

#[test]
fn a_stream_that_brings_no_usage_though_asked_is_marked() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &["--no-usage"]);
    let unreported = |streamed: &str| {
        let labels = [("service", own.model.as_str()), ("streamed", streamed)];
        instance.metrics().sum("tollgate_usage_unreported_total", &labels)
    };
    for stream in [true, false] {
        let before = unreported(&stream.to_string());
        let request_id = unique("unreported");
        let request =
            Request::post("/v1/chat/completions", &own.chat_body(&json!({ "stream": stream })));
        instance.call(&request.key(instance.key("bench")).id(&request_id)).expect(200);
        assert_eq!(instance.ledger().row(&request_id).tokens_source, "estimated");
        assert_eq!(unreported(&stream.to_string()), before + 1);
    }
}
