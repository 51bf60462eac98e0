//! Refusals: their shapes in both dialects, and JSON that two readers could read apart.

use crate::shared::shared;
use crate::support::http::Request;
use serde_json::{Value, json};

fn post(path: &str, body: &str) -> Request {
    Request::new("POST", path).header("content-type", "application/json").body(body)
}

#[test]
fn json_that_is_not_clear_is_refused() {
    let instance = &shared().instance;
    let model = instance.model("per_token");
    for (body, param) in [
        ("", Value::Null),
        ("{", Value::Null),
        ("[]", Value::Null),
        ("nonsense", Value::Null),
        ("{\"messages\":[]}", json!("model")),
        ("{\"model\":7}", json!("model")),
        ("{\"model\":\"MODEL\",\"model\":\"MODEL\"}", json!("model")),
        ("{\"model\":\"MODEL\",\"mod\\u0065l\":\"other\"}", json!("model")),
        ("{\"model\":\"MODEL\",\"stream\":true,\"stream\":false}", json!("stream")),
        ("{\"model\":\"MODEL\",\"max_tokens\":1,\"max_tokens\":9}", json!("max_tokens")),
        ("{\"model\":\"MODEL\",\"stream\":\"yes\"}", json!("stream")),
        ("{\"model\":\"MODEL\",\"max_tokens\":-1}", json!("max_tokens")),
        ("{\"model\":\"MODEL\"}{}", Value::Null),
    ] {
        let body = body.replace("MODEL", model);
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] {
            let answer = instance.call(&post(path, &body).key(instance.key("bench"))).expect(400);
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "invalid_request", "{body}");
            assert_eq!(error["type"], "invalid_request_error", "{body}");
            assert_eq!(error["param"], param, "{path} {body}: {error}");
        }
    }
}

#[test]
fn errors_have_the_shape_of_their_dialect() {
    let instance = &shared().instance;
    let body = json!({ "model": "no-such", "max_tokens": 5, "messages": [] });
    let call = |path: &str, key: &str, body: &Value| {
        let answer = instance.call(&Request::post(path, body).key(key));
        assert_eq!(answer.head.must("content-type"), "application/json");
        (answer.status(), answer.json())
    };
    let key = instance.key("bench");
    let (status, openai) = call("/v1/chat/completions", key, &body);
    assert_eq!(status, 404);
    let fields: Vec<&String> = openai["error"].as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 4, "{openai}");
    for field in ["message", "type", "param", "code"] {
        assert!(openai["error"].get(field).is_some(), "{openai}");
    }
    for (key, status, kind) in [(key, 404, "not_found_error"), ("x", 401, "authentication_error")] {
        let (found, anthropic) = call("/v1/messages", key, &body);
        assert_eq!(found, status);
        assert_eq!(anthropic["type"], "error", "{anthropic}");
        assert_eq!(anthropic["error"]["type"], kind, "{anthropic}");
        assert!(anthropic["error"]["message"].as_str().is_some_and(|text| text.len() > 20));
    }
    let (status, anthropic) = call("/v1/messages", key, &json!({ "max_tokens": 5 }));
    assert_eq!((status, &anthropic["error"]["type"]), (400, &json!("invalid_request_error")));
}

#[test]
fn nothing_internal_leaks() {
    let instance = &shared().instance;
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let upstream = instance.demo["upstream_url"].as_str().unwrap().trim_start_matches("http://");
    for fault in ["close-before-head", "garbage", "bad-chunk", "huge-head", "short-body"] {
        let request = Request::get(&path).key(instance.key("bench")).header("x-mock-fault", fault);
        let answer = instance.call(&request).expect(502);
        assert_eq!(answer.code(), "upstream_error", "{fault}");
        let all = format!("{:?}{}", answer.head, answer.text());
        for secret in [upstream, "127.0.0.1", "tg_", "src/", ".rs", "os error", "panicked"] {
            assert!(!all.contains(secret), "{fault}: {secret} in {all}");
        }
    }
}

#[test]
fn an_upstreams_refusal_passes_as_it_is() {
    let instance = &shared().instance;
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    for (fault, status) in [("status-400", 400), ("status-429", 429), ("status-500", 500)] {
        let id = crate::shared::unique("passed");
        let request = Request::get(&path).key(instance.key("bench")).id(&id);
        let answer = instance.call(&request.header("x-mock-fault", fault)).expect(status);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], Value::Null, "{error}");
        assert!(error["message"].as_str().unwrap().contains("simulated"), "{error}");
        let row = instance.ledger().row(&id);
        assert_eq!((row.status, row.outcome.as_str()), (status, "completed"), "{row:?}");
        assert_eq!((row.input_tokens, row.output_tokens, row.cost_nanousd), (0, 0, 0), "{row:?}");
    }
}
