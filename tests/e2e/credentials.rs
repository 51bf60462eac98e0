//! Who may call: keys both ways, refusals that tell nothing, and credentials that end here.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::forged;
use crate::support::http::{Answer, Request};
use crate::support::poll;
use crate::support::scripted::echo;
use serde_json::json;
use ureq::http::Method;

#[test]
fn a_key_is_taken_either_way() {
    let instance = &shared().instance;
    let key = instance.key("bench");
    for request in [
        Request::get("/v1/models").header("authorization", &format!("Bearer {key}")),
        Request::get("/v1/models").header("Authorization", &format!("bearer {key}")),
        Request::get("/v1/models").header("x-api-key", key),
        Request::get("/v1/models").header("X-API-Key", key),
    ] {
        instance.call(&request).expect(200);
    }
}

#[test]
fn every_bad_key_gets_the_same_answer() {
    let instance = &shared().instance;
    let admin = instance.admin();
    let good = instance.key("bench");
    let revoked = admin.key("premium");
    instance.call(&Request::get("/v1/models").key(&revoked.text)).expect(200);
    admin.done(Method::DELETE, &format!("keys/{}", revoked.id), None);
    let past = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    let (status, _) = admin.call(
        Method::POST,
        "keys",
        Some(&{
            let mut body = past.clone();
            body["consumer_id"] = json!(revoked.consumer_id);
            body
        }),
    );
    // A key that is born expired is either refused or never good.
    assert!(status == 400 || status / 100 == 2, "{status}");
    let mut mistyped = good.to_owned();
    mistyped.replace_range(20..21, if &good[20..21] == "a" { "b" } else { "a" });
    let bearer = |text: &str| Request::get("/v1/models").key(text);
    let requests = [
        ("missing", Request::get("/v1/models")),
        ("empty", Request::get("/v1/models").header("authorization", "")),
        ("basic", Request::get("/v1/models").header("authorization", "Basic dXNlcjpwYXNz")),
        ("malformed", bearer("sk-something")),
        ("short", bearer(&good[..good.len() - 1])),
        ("long", bearer(&format!("{good}0"))),
        ("mistyped", bearer(&mistyped)),
        ("upper case", bearer(&good.to_uppercase())),
        ("unknown", bearer(&forged::nobodys(0))),
        ("wrong secret", bearer(&forged::with_another_secret(good, 0))),
        ("revoked", bearer(&revoked.text)),
        ("x-api-key", Request::get("/v1/models").header("x-api-key", "nonsense")),
    ];
    let mut first: Option<Answer> = None;
    for (what, request) in requests {
        let answer = poll::until(what, || {
            Some(instance.call(&request)).filter(|answer| answer.status() == 401)
        });
        assert_eq!(answer.code(), "invalid_api_key", "{what}");
        let first = first.get_or_insert_with(|| answer.clone());
        assert_eq!(answer.body, first.body, "{what}");
        assert_eq!(answer.head.header("www-authenticate"), first.head.header("www-authenticate"));
        assert!(answer.head.header("x-ratelimit-limit-requests").is_none(), "{what}");
    }
}

#[test]
fn a_key_for_one_service_opens_no_other() {
    let instance = &shared().instance;
    let admin = instance.admin();
    let consumer = admin.key("enterprise").consumer_id;
    let key = admin.key_of(&consumer, &json!({ "services": [instance.service("tiered")] })).text;
    let path = |kind: &str| format!("/api/v1/consume/{}", instance.service(kind));
    instance.call(&Request::get(&path("tiered")).key(&key)).expect(200);
    let answer = instance.call(&Request::get(&path("per_token")).key(&key)).expect(403);
    assert_eq!(answer.code(), "service_not_allowed");
    let answer = instance.call(&instance.chat(&json!({})).key(&key)).expect(403);
    assert_eq!(answer.code(), "service_not_allowed");
}

#[test]
fn credentials_end_at_the_gateway() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let key = instance.key("bench");
    let path = format!("/api/v1/consume/{}", own.id);
    for request in [
        Request::get(&path).key(key).header("x-api-key", key),
        Request::get(&path).header("x-api-key", key).header("proxy-authorization", "Basic eA=="),
    ] {
        let request =
            request.header("x-passed", "on").header("connection", "x-hop").header("x-hop", "1");
        instance.call(&request).expect(200);
        let last = own.upstream.last().to_lowercase();
        assert!(!last.contains("tg_") && !last.contains("x-api-key"), "{last}");
        assert!(!last.contains("authorization") && !last.contains("x-hop"), "{last}");
        assert!(last.contains("\r\nx-passed: on\r\n"), "{last}");
    }
}

#[test]
fn the_services_credential_ends_at_its_upstream() {
    let instance = &shared().instance;
    let body = json!({
        "name": unique("secretive"),
        "base_url": echo(""),
        "upstream_credential": "sk-upstream-secret",
        "price": per_token(1, 1, 1),
    });
    let made = instance.admin().post("services", &body);
    assert!(!made.to_string().contains("sk-upstream-secret"), "{made}");
    let listed = instance.admin().get("services?limit=100");
    assert!(!listed.to_string().contains("sk-upstream-secret"), "{listed}");
    let id = made["id"].as_str().unwrap();
    let request = Request::get(&format!("/api/v1/consume/{id}/v1/models"));
    let request = request.key(instance.key("bench")).header("x-passed", "on");
    let answer = poll::until("the service", || {
        Some(instance.call(&request)).filter(|answer| answer.status() == 200)
    });
    let got = answer.json()["got"].as_str().unwrap().to_lowercase();
    assert!(got.contains("authorization: bearer sk-upstream-secret\r\n"), "{got}");
    assert!(!got.contains("tg_"), "{got}");
    // The upstream has sent all of that back in its answer's head.
    let head = format!("{:?}", answer.head);
    assert_eq!(answer.head.must("x-passed"), "on");
    assert!(!head.contains("sk-upstream-secret"), "{head}");
}
