//! What passes the gateway in each direction, beside an upstream that echoes all it gets, and
//! what every answer of the gateway carries.

use crate::shared::{shared, unique};
use crate::support::http::Request;
use crate::support::poll;
use crate::support::scripted::echo;
use serde_json::json;

/// Fields that say who the upstream is.
const IDENTITY: &str = "server: gpu-7\r\nvia: 1.1 inner\r\nx-powered-by: Flask\r\n\
    access-control-allow-origin: *\r\nset-cookie: route=7\r\nx-ratelimit-limit-requests: 9\r\n\
    anthropic-ratelimit-requests-limit: 9\r\nrequest-id: theirs\r\nlocation: /inner\r\n\
    content-location: http://10.0.0.7/inner\r\nx-kept: yes\r\n";

#[test]
fn credentials_and_identities_pass_in_neither_direction() {
    let instance = &shared().instance;
    let key = instance.key("bench");
    let body = json!({
        "name": unique("echo"),
        "base_url": echo(IDENTITY),
        "upstream_credential": { "header": "api-key", "value": "sk-of-the-service" },
        "price": crate::support::admin::per_token(1, 1, 1),
    });
    let id = instance.admin().post("services", &body)["id"].as_str().unwrap().to_owned();
    let mut request = Request::get(&format!("/api/v1/consume/{id}/x")).key(key);
    for name in [
        "x-api-key",
        "api-key",
        "API_KEY",
        "X_Api_Key",
        "x-goog-api-key",
        "cookie",
        "Proxy_Authorization",
        "x-auth-token",
    ] {
        // A second key that is not one would be a bad call, so x-api-key is the caller's own.
        request = request.header(name, if name == "x-api-key" { key } else { "of-the-caller" });
    }
    let request = request.header("x-note", &format!("my key is {key}")).header("x-passed", "on");
    let answer = poll::until("the service to be sold", || {
        Some(instance.call(&request)).filter(|answer| answer.status() == 200)
    });
    let got = answer.json()["got"].as_str().unwrap().to_lowercase();
    assert!(!got.contains("of-the-caller") && !got.contains("tg_"), "{got}");
    assert!(got.contains("x-passed: on"), "{got}");
    let credentials: Vec<&str> = got.lines().filter(|line| line.contains("key")).collect();
    assert_eq!(credentials, ["api-key: sk-of-the-service"]);
    let head = format!("{:?}", answer.head);
    for gone in [
        "sk-of-the-service",
        "gpu-7",
        "inner",
        "Flask",
        "access-control",
        "set-cookie",
        "anthropic-ratelimit",
        "theirs",
        "location",
    ] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
    assert_eq!((answer.head.must("x-kept"), answer.head.must("x-passed")), ("yes", "on"));
    assert_ne!(answer.head.must("x-ratelimit-limit-requests"), "9");
    assert!(answer.head.must("date").ends_with(" GMT"), "{head}");
}

#[test]
fn every_answer_is_dated_once() {
    let instance = &shared().instance;
    let key = instance.key("bench");
    for request in [
        Request::get("/healthz"),
        Request::get("/nothing"),
        Request::get("/v1/models"),
        Request::get("/v1/models").key(key),
        Request::get("/api/v1/account").key(key),
        instance.chat(&json!({})).key(key),
        instance.chat(&json!({ "stream": true })).key(key),
    ] {
        let answer = instance.call(&request);
        let date = answer.head.must("date");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    }
}

#[test]
fn a_second_content_type_is_refused() {
    let instance = &shared().instance;
    let request = instance.chat(&json!({ "stream": true })).key(instance.key("bench"));
    let answer = instance.call(&request.header("content-type", "text/plain")).expect(400);
    assert_eq!(answer.code(), "invalid_request");
}

#[test]
fn anthropics_sdk_finds_its_request_id() {
    let instance = &shared().instance;
    let body = json!({
        "model": "demo-chat",
        "max_tokens": 5,
        "messages": [{ "role": "user", "content": "Hello" }],
    });
    let request = Request::post("/v1/messages", &body);
    for (request, status) in [(request.clone().key(instance.key("bench")), 200), (request, 401)] {
        let head = instance.call(&request).expect(status).head;
        assert_eq!(head.must("request-id"), head.must("x-request-id"));
    }
    let chat = instance.call(&instance.chat(&json!({})).key(instance.key("bench"))).expect(200);
    assert!(chat.head.header("request-id").is_none());
}

#[test]
fn refusals_are_told_as_sdks_look_for_them() {
    let instance = &shared().instance;
    let refused = instance.call(&Request::get("/v1/models").key("nonsense")).expect(401).json();
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Incorrect API key provided"), "{message}");
    let unknown = instance.chat(&json!({ "model": "nobodys" })).key(instance.key("bench"));
    let unknown = instance.call(&unknown).expect(404).json();
    assert_eq!(unknown["error"]["code"], "model_not_found");
    assert_eq!(unknown["error"]["type"], "invalid_request_error");
    let plan = unique("slow");
    let terms = json!({ "name": plan, "rate_per_s": 1, "burst": 1, "quota_tokens": 1_000_000 });
    instance.admin().post("plans", &terms);
    let key = instance.admin().key(&plan).text;
    let chat = instance.chat(&json!({})).key(&key);
    let refused = poll::until("the rate to be spent", || {
        Some(instance.call(&chat)).filter(|answer| answer.status() == 429)
    });
    let wait_ms = refused.head.number("retry-after-ms");
    assert!((1..=1_100).contains(&wait_ms), "{wait_ms}");
    assert_eq!(refused.head.number("retry-after"), wait_ms.div_ceil(1_000));
    let plan = unique("poor");
    let terms = json!({ "name": plan, "rate_per_s": 9, "burst": 9, "quota_tokens": 1 });
    instance.admin().post("plans", &terms);
    let key = instance.admin().key(&plan).text;
    let spent = instance.chat(&json!({ "max_tokens": 50 })).key(&key);
    let spent = instance.call(&spent).expect(429);
    assert_eq!(spent.code(), "insufficient_quota");
    assert!(spent.head.header("retry-after-ms").is_none());
    let month_s = 31 * 24 * 3_600;
    assert!((1..=month_s).contains(&spent.head.number("retry-after")));
}
