//! Changes to keys, plans and services, on every shard within a second.

use crate::support::admin::{Admin, text_of};
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http::Method;

/// By the contract, a change reaches all shards within this.
const SECOND: Duration = Duration::from_secs(1);

/// Connections to every shard: at least two each.
fn on_both_shards(instance: &Instance) -> Vec<Connection> {
    let mut connections = Vec::new();
    loop {
        let scrape = instance.metrics();
        let open = |shard: &str| scrape.sum("tollgate_open_connections", &[("shard", shard)]);
        if open("0") >= 2 && open("1") >= 2 {
            return connections;
        }
        assert!(connections.len() < 200, "connections land on one shard only");
        let mut connection = instance.open();
        connection.call(&Request::get("/healthz")).unwrap().expect(200);
        connections.push(connection);
    }
}

fn statuses(connections: &mut [Connection], key: &str) -> Vec<u16> {
    let request = Request::get("/v1/models").key(key);
    connections.iter_mut().map(|connection| connection.call(&request).unwrap().status()).collect()
}

fn all(connections: &mut [Connection], key: &str, status: u16) -> bool {
    statuses(connections, key).iter().all(|found| *found == status)
}

fn rotated(admin: &Admin, id: &str, grace_s: u64) -> (String, String) {
    let new = admin.post(&format!("keys/{id}/rotate"), &json!({ "grace_s": grace_s }));
    (text_of(&new["id"]), text_of(&new["key"]))
}

#[test]
fn a_revoked_key_is_refused_within_a_second() {
    let instance = Setup::default().shards(2).start();
    let admin = instance.admin();
    let mut connections = on_both_shards(&instance);
    let (one, other) = (admin.key("enterprise"), admin.key("enterprise"));
    assert!(all(&mut connections, &one.text, 200) && all(&mut connections, &other.text, 200));
    admin.done(Method::DELETE, &format!("keys/{}", one.id), None);
    poll::within(SECOND, "the revoked key to be refused on both shards", || {
        all(&mut connections, &one.text, 401).then_some(())
    });
    for _ in 0..5 {
        assert!(all(&mut connections, &one.text, 401), "a revoked key came back");
    }
    assert!(all(&mut connections, &other.text, 200));
    let shown = admin.get(&format!("keys/{}", one.id));
    assert!(shown["revoked_at"].is_string() && shown.get("key").is_none(), "{shown}");
}

#[test]
fn a_revoked_key_stays_revoked_after_a_restart() {
    let mut instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    let key = admin.key("enterprise");
    let request = Request::get("/v1/models").key(&key.text);
    instance.call(&request).expect(200);
    admin.done(Method::DELETE, &format!("keys/{}", key.id), None);
    instance.process.kill();
    instance.restart();
    instance.call(&request).expect(401);
    instance.call(&Request::get("/v1/models").key(instance.key("basic"))).expect(200);
}

#[test]
fn a_rotated_key_lives_on_for_its_grace() {
    let instance = Setup::default().shards(2).start();
    let admin = instance.admin();
    let mut connections = on_both_shards(&instance);
    let first = admin.key("enterprise");
    assert!(all(&mut connections, &first.text, 200));
    let (second_id, second) = rotated(&admin, &first.id, 3_600);
    assert!(all(&mut connections, &second, 200) && all(&mut connections, &first.text, 200));
    let (third_id, third) = rotated(&admin, &second_id, 0);
    assert!(all(&mut connections, &third, 200));
    poll::within(SECOND, "the key without grace to be refused", || {
        all(&mut connections, &second, 401).then_some(())
    });
    let (_, fourth) = rotated(&admin, &third_id, 2);
    assert!(all(&mut connections, &third, 200), "it has two seconds");
    poll::within(3 * SECOND, "the grace to end", || {
        all(&mut connections, &third, 401).then_some(())
    });
    assert!(all(&mut connections, &fourth, 200) && all(&mut connections, &first.text, 200));
}

#[test]
fn a_rotated_key_has_no_second_rate() {
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    let slow = json!({ "name": "slow", "rate_per_s": 1, "burst": 5, "quota_tokens": 1_000_000 });
    admin.post("plans", &slow);
    let old = admin.key("slow");
    let call = |key: &str| instance.call(&instance.chat(&json!({})).key(key)).status();
    let admitted = (0..10).filter(|_| call(&old.text) == 200).count();
    assert!((5..=7).contains(&admitted), "{admitted}");
    let (_, new) = rotated(&admin, &old.id, 3_600);
    let admitted = (0..10).filter(|_| call(&new) == 200).count();
    assert!(admitted <= 2, "{admitted}");
}

#[test]
fn a_key_expires_by_itself() {
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    let consumer = admin.key("enterprise").consumer_id;
    let unix_s = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let key = admin.key_of(&consumer, &json!({ "expires_at": unix_s + 3 }));
    let request = Request::get("/v1/models").key(&key.text);
    instance.call(&request).expect(200);
    poll::within(5 * SECOND, "the key to expire", || {
        (instance.call(&request).status() == 401).then_some(())
    });
}

#[test]
fn changes_of_plans_and_services_arrive() {
    let instance = Setup::default().shards(2).start();
    let admin = instance.admin();
    let mut connections = on_both_shards(&instance);
    let plan = admin.post(
        "plans",
        &json!({ "name": "grown", "rate_per_s": 100, "burst": 100, "quota_tokens": 1_000_000 }),
    );
    let key = admin.key("grown").text;
    let chat = instance.chat(&json!({})).key(&key);
    let mut limits = |name: &str| -> Vec<u64> {
        connections.iter_mut().map(|open| open.call(&chat).unwrap().head.number(name)).collect()
    };
    assert!(limits("x-ratelimit-limit-tokens").iter().all(|limit| *limit == 1_000_000));
    let change = json!({ "quota_tokens": 2_000_000, "rate_per_s": 1_000, "burst": 500 });
    admin.done(Method::PATCH, &format!("plans/{}", text_of(&plan["id"])), Some(&change));
    poll::within(SECOND, "the plan's new quota on both shards", || {
        limits("x-ratelimit-limit-tokens").iter().all(|limit| *limit == 2_000_000).then_some(())
    });
    assert!(limits("x-ratelimit-limit-requests").iter().all(|limit| *limit == 500));
    let path = format!("services/{}", instance.service("per_token"));
    let bench = instance.chat(&json!({})).key(instance.key("bench"));
    let mut every = |status: u16| {
        let mut calls = connections.iter_mut().map(|open| open.call(&bench).unwrap().status());
        calls.all(|found| found == status)
    };
    for (enabled, status) in [(false, 404), (true, 200)] {
        let change = json!({ "enabled": enabled });
        admin.done(Method::PATCH, &path, Some(&change));
        poll::within(SECOND, "the service to be switched", || every(status).then_some(()));
    }
}

#[test]
fn the_admin_api_names_the_field() {
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    for (path, body, field) in [
        ("plans", json!({ "rate_per_s": 1, "burst": 1, "quota_tokens": 1 }), "name"),
        (
            "plans",
            json!({ "name": "a", "rate_per_s": 0, "burst": 1, "quota_tokens": 1 }),
            "rate_per_s",
        ),
        ("plans", json!({ "name": "a", "rate_per_s": 1, "burst": -1, "quota_tokens": 1 }), "burst"),
        ("consumers", json!({ "name": "a", "plan": "nowhere" }), "plan"),
        ("keys", json!({ "consumer_id": "nobody" }), "consumer_id"),
        ("services", json!({ "name": "a", "base_url": "ftp://x", "price": {} }), "base_url"),
        (
            "services",
            json!({ "name": "a", "base_url": "http://x", "price": { "kind": "free" } }),
            "price.kind",
        ),
    ] {
        let (status, answer) = admin.call(Method::POST, path, Some(&body));
        assert_eq!(status, 400, "{path} {body}: {answer}");
        assert_eq!(answer["error"]["code"], "invalid_request", "{answer}");
        assert_eq!(answer["error"]["param"], field, "{answer}");
    }
    let stranger = Admin::new(&admin.url, "not-the-token");
    for path in ["plans", "keys", "usage"] {
        let (status, answer) = stranger.call(Method::GET, path, None);
        assert_eq!(status, 401, "{answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    let (status, answer) = admin.call(Method::GET, "plans/nothing", None);
    assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("not_found")));
    let (status, text) = admin.text(Method::POST, "/admin/v1/plans", Some("{"));
    assert_eq!(status, 400, "{text}");
}

#[test]
fn lists_come_page_by_page() {
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    for number in 0..5 {
        admin.plan(&format!("page-{number}"), 1, 1);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    for _ in 0..20 {
        let page = admin.get(&format!("plans?limit=2{cursor}"));
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2, "{page}");
        names.extend(data.iter().map(|plan| text_of(&plan["name"])));
        match &page["next_cursor"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    // Three by the contract, one of the demo's, five of these.
    let unique: std::collections::BTreeSet<&String> = names.iter().collect();
    assert_eq!((names.len(), unique.len()), (9, 9), "{names:?}");
}

#[test]
fn the_admin_api_describes_itself() {
    let admin = crate::shared::shared().instance.admin();
    let (status, page) = admin.text(Method::GET, "/openapi.json", None);
    assert_eq!(status, 200);
    let openapi: Value = serde_json::from_str(&page).unwrap();
    assert!(openapi["paths"]["/admin/v1/plans"].is_object());
    assert_eq!(admin.text(Method::GET, "/healthz", None).0, 200);
}
