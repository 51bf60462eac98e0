//! Each route of the contract's part 3.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::Request;
use serde_json::{Value, json};

#[test]
fn consume_relays_any_method() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let path = format!("/api/v1/consume/{}", own.id);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
        let request = Request::new(method, &path).key(instance.key("bench"));
        let answer = instance.call(&request).expect(200);
        assert_eq!(answer.json()["object"], "chat.completion", "{method}");
        let last = own.upstream.last();
        assert!(last.starts_with(&format!("{method} /v1/chat/completions HTTP/1.1\r\n")), "{last}");
    }
    let head = Request::new("HEAD", &path).key(instance.key("bench"));
    let answer = instance.call(&head).expect(200);
    assert!(answer.body.is_empty());
    assert!(own.upstream.last().starts_with("HEAD /v1/chat/completions HTTP/1.1\r\n"));
}

#[test]
fn consume_relays_path_query_and_body() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    for (rest, relayed) in [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("?a=1&b=%20c", "/v1/chat/completions?a=1&b=%20c"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/models?x", "/v1/models?x"),
        ("/v1/completions//x.y/..z?../a", "/v1/completions//x.y/..z?../a"),
    ] {
        let path = format!("/api/v1/consume/{}{rest}", own.id);
        instance.call(&Request::get(&path).key(instance.key("bench")));
        let last = own.upstream.last();
        assert!(last.starts_with(&format!("GET {relayed} HTTP/1.1\r\n")), "{rest}: {last}");
    }
    let path = format!("/api/v1/consume/{}", own.id);
    let body = r#"{"messages": [ ], "odd":"\u00e9 é","x":1.50}"#;
    let request = Request::new("PUT", &path).key(instance.key("bench")).body(body);
    instance.call(&request).expect(200);
    assert!(own.upstream.last().ends_with(&format!("\r\n\r\n{body}")), "{}", own.upstream.last());
}

#[test]
fn a_path_may_not_climb_out_of_its_service() {
    let instance = &shared().instance;
    for rest in ["/..", "/v1/../x", "/v1/%2e%2e/x", "/v1/.%2E", "/./v1", "/v1/..\\x"] {
        let path = format!("/api/v1/consume/{}{rest}", instance.service("per_token"));
        let answer = instance.call(&Request::get(&path).key(instance.key("bench"))).expect(400);
        assert_eq!(answer.code(), "invalid_request", "{rest}");
    }
}

#[test]
fn a_base_url_may_have_a_path() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let model = unique("below");
    let base_url = format!("{}/deep/down", own.upstream.url);
    let id = instance.admin().service(&model, &base_url, &per_token(1, 1, 1));
    let path = format!("/api/v1/consume/{id}/v1/models");
    crate::support::poll::until("the service", || {
        let answer = instance.call(&Request::get(&path).key(instance.key("bench")));
        // The simulated model server has nothing there, and says so in its own words.
        (answer.json()["error"]["code"] == Value::Null).then_some(())
    });
    assert!(own.upstream.last().starts_with("GET /deep/down/v1/models HTTP/1.1\r\n"));
}

#[test]
fn the_model_names_the_service() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let model = &own.model;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    for (path, body, mark) in [
        (
            "/v1/chat/completions",
            json!({ "model": model, "messages": messages }),
            "chat.completion",
        ),
        ("/v1/completions", json!({ "model": model, "prompt": "Hello" }), "text_completion"),
        ("/v1/embeddings", json!({ "model": model, "input": "Hello" }), "list"),
        ("/v1/responses", json!({ "model": model, "input": "Hello" }), "response"),
        (
            "/v1/messages",
            json!({ "model": model, "max_tokens": 9, "messages": messages }),
            "message",
        ),
    ] {
        let request_id = unique("route");
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let answer = instance.call(&request).expect(200).json();
        let kind = answer.get("object").unwrap_or(&answer["type"]);
        assert_eq!(kind, mark, "{answer}");
        assert!(own.upstream.last().starts_with(&format!("POST {path} HTTP/1.1\r\n")));
        let row = instance.ledger().row(&request_id);
        assert_eq!(
            (row.service_id.as_str(), row.model.as_str()),
            (own.id.as_str(), model.as_str())
        );
        assert_eq!((row.outcome.as_str(), row.tokens_source.as_str()), ("completed", "reported"));
        assert!(row.input_tokens > 0, "{row:?}");
        assert_eq!(row.output_tokens > 0, path != "/v1/embeddings", "{row:?}");
    }
}

#[test]
fn models_are_those_that_the_key_may_use() {
    let instance = &shared().instance;
    let ids = |key: &str| {
        let list = instance.call(&Request::get("/v1/models").key(key)).expect(200).json();
        assert_eq!(list["object"], "list");
        let data = list["data"].as_array().unwrap().clone();
        assert!(data.iter().all(|model| model["object"] == "model" && model["created"].is_u64()));
        data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ids(instance.key("premium"));
    for kind in ["per_token", "tiered", "subscription"] {
        assert!(all.iter().any(|id| id == instance.model(kind)), "{all:?}");
    }
    let admin = instance.admin();
    let consumer = admin.key("enterprise").consumer_id;
    let one = json!({ "services": [instance.service("tiered")] });
    let key = admin.key_of(&consumer, &one);
    assert_eq!(ids(&key.text), [instance.model("tiered")]);
}

#[test]
fn health_needs_no_key() {
    let instance = &shared().instance;
    for path in ["/healthz", "/readyz"] {
        let answer = instance.call(&Request::get(path)).expect(200);
        assert!(answer.head.header("x-request-id").is_some());
        let head = instance.call(&Request::new("HEAD", path)).expect(200);
        assert_eq!(head.head.number("content-length"), answer.body.len() as u64);
    }
}

#[test]
fn what_is_not_there_is_404() {
    let instance = &shared().instance;
    let key = instance.key("bench");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/models"),
        ("GET", "/api/v1/consume"),
        ("GET", "/admin/v1/plans"),
        ("GET", "/metrics"),
    ] {
        let answer = instance.call(&Request::new(method, path).key(key)).expect(404);
        assert_eq!(answer.code(), "not_found", "{method} {path}");
    }
    for id in ["000000000000", "nonsense", "tg_", "%00"] {
        let path = format!("/api/v1/consume/{id}");
        assert_eq!(
            instance.call(&Request::get(&path).key(key)).expect(404).code(),
            "service_not_found"
        );
    }
    let body = json!({ "model": "no-such-model", "messages": [] });
    for path in ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"] {
        let answer = instance.call(&Request::post(path, &body).key(key)).expect(404);
        assert_eq!(answer.code(), "model_not_found");
    }
}

#[test]
fn what_only_tells_is_only_read() {
    let shared = shared();
    for path in ["/healthz", "/readyz", "/v1/models", "/api/v1/account"] {
        let request = |method| Request::new(method, path).key(shared.instance.key("basic"));
        shared.instance.call(&request("HEAD")).expect(200);
        shared.instance.call(&request("POST")).expect(404);
    }
}
