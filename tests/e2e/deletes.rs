//! What nothing uses can be deleted: every shard forgets it, its name is free, its usage stays.

use crate::support::admin::{Admin, Key, per_token, text_of};
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::{poll, process};
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http::Method;

/// By the contract, a change reaches all shards within this.
const SECOND: Duration = Duration::from_secs(1);
/// One nano-USD for each token.
const ONE: u64 = 1_000_000;

fn start() -> Instance {
    Setup::default().shards(2).start()
}

/// A service at so much for each token: its id.
fn service(instance: &Instance, upstream: &Upstream, name: &str, nanousd: u64) -> String {
    let price = per_token(nanousd * ONE, nanousd * ONE, nanousd * ONE);
    instance.admin().service(name, &upstream.url, &price)
}

fn chat(model: &str, key: &str) -> Request {
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    Request::post("/v1/chat/completions", &json!({ "model": model, "messages": messages })).key(key)
}

fn stream(model: &str, key: &str) -> Request {
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    let body = json!({ "model": model, "messages": messages, "stream": true, "max_tokens": 50 });
    Request::post("/v1/chat/completions", &body).key(key)
}

/// The stream has begun.
fn begin(instance: &Instance, stream: &Request) -> Connection {
    let mut connection = instance.open();
    connection.send(&stream.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    connection.chunk().unwrap().unwrap();
    connection
}

fn delete(admin: &Admin, path: &str) -> (u16, String) {
    let (status, answer) = admin.call(Method::DELETE, path, None);
    (status, answer["error"]["message"].as_str().unwrap_or_default().to_owned())
}

/// Connections enough for both shards to have some.
fn open_some(instance: &Instance) -> Vec<Connection> {
    (0..8).map(|_| instance.open()).collect()
}

/// Each connection answers so within a second.
fn all_answer(connections: &mut [Connection], request: &Request, status: u16, code: &str) {
    poll::within(SECOND, &format!("{status} {code} on every shard"), || {
        let answers = connections.iter_mut().map(|it| it.call(request).unwrap());
        answers.fold(true, |so, it| so && it.status() == status && it.code() == code).then_some(())
    });
}

/// Names of the services that have been used, with their calls.
fn used(admin: &Admin, by: &str) -> Vec<(String, u64)> {
    let rows = admin.get(&format!("usage?by={by}"))["data"].clone();
    let row = |row: &Value| (row[by].as_str().unwrap_or("?").to_owned(), row["calls"].as_u64());
    let rows = rows.as_array().unwrap().iter().map(row);
    rows.map(|(name, calls)| (name, calls.unwrap())).collect()
}

#[test]
fn what_is_in_use_is_refused_by_the_name_of_its_user() {
    let instance = start();
    let admin = instance.admin();
    admin.plan("team", 10, 1_000);
    let keys: Vec<Key> = (0..5).map(|_| admin.key("team")).collect();
    let upstream = Upstream::start(&[]);
    let id = service(&instance, &upstream, "bound", 1);
    let bound = admin.key_of(&keys[0].consumer_id, &json!({ "services": ["bound"] }));
    let plan = admin.get("plans")["data"].as_array().unwrap().last().unwrap()["id"].clone();
    let (status, message) = delete(&admin, &format!("plans/{}", text_of(&plan)));
    assert_eq!(status, 409);
    let named = message.strip_prefix("The plan is in use by consumers somebody ").unwrap();
    assert!(named.ends_with(" and 2 more."), "{message}");
    let (status, message) = delete(&admin, &format!("services/{id}"));
    assert_eq!((status, message), (409, format!("The service is in use by key {}.", bound.id)));
    let consumer = format!("consumers/{}", bound.consumer_id);
    let (status, message) = delete(&admin, &consumer);
    assert_eq!(status, 409);
    assert_eq!(message, format!("The consumer is in use by keys {}, {}.", keys[0].id, bound.id));

    assert_eq!(delete(&admin, &format!("keys/{}", bound.id)).0, 200);
    assert_eq!(delete(&admin, &format!("services/{id}")).0, 200);
    assert_eq!(delete(&admin, &format!("keys/{}", keys[0].id)).0, 200);
    assert_eq!(delete(&admin, &consumer).0, 200);
    assert_eq!(delete(&admin, &consumer).0, 404);
}

#[test]
fn every_shard_forgets_a_service_and_its_name_is_anothers() {
    let mut instance = start();
    let key = instance.key("bench").to_owned();
    let upstream = Upstream::start(&[]);
    let old = service(&instance, &upstream, "chat", 1);
    let mut connections = open_some(&instance);
    let call = chat("chat", &key).header("x-mock-prompt-tokens", "3").header("x-mock-tokens", "4");
    all_answer(&mut connections, &call, 200, "");
    let calls_before = instance.metrics().sum("consumption_requests_total", &[("service", "chat")]);

    // A call that has begun ends, and is billed.
    let slow = stream("chat", &key).id("under-way");
    let slow = slow.header("x-mock-tokens", "40").header("x-mock-inter-token-ms", "50");
    let mut under_way = begin(&instance, &slow);

    assert_eq!(delete(&instance.admin(), &format!("services/{old}")).0, 200);
    all_answer(&mut connections, &call, 404, "model_not_found");
    let by_id = Request::get(&format!("/api/v1/consume/{old}")).key(&key);
    all_answer(&mut connections, &by_id, 404, "service_not_found");
    let model = Request::get("/v1/models/chat").key(&key);
    all_answer(&mut connections, &model, 404, "model_not_found");
    let models = Request::get("/v1/models").key(&key);
    for connection in &mut connections {
        assert!(!connection.call(&models).unwrap().text().contains(&old));
    }
    let admin = instance.admin();
    for path in [format!("services/{old}"), format!("services/{old}/prices")] {
        assert_eq!(admin.call(Method::GET, &path, None).0, 404, "{path}");
    }
    assert!(!admin.get("services").to_string().contains(&old));
    while under_way.chunk().unwrap().is_some() {}
    let row = instance.ledger().row("under-way");
    let outcome = (row.service_id.as_str(), row.model.as_str(), row.outcome.as_str());
    assert_eq!(outcome, (old.as_str(), "chat", "completed"));
    assert_eq!(row.cost_nanousd, row.input_tokens + row.output_tokens);

    let new = service(&instance, &upstream, "chat", 5);
    all_answer(&mut connections, &call, 200, "");
    let answer = connections[0].call(&call.clone().id("anew")).unwrap().expect(200);
    assert_eq!(answer.head.number("x-tollgate-cost-nanousd"), 7 * 5);
    assert_eq!(instance.ledger().row("anew").service_id, new);
    instance.balance_books();
    let calls = instance.metrics().sum("consumption_requests_total", &[("service", "chat")]);
    assert!(calls > calls_before, "{calls} after {calls_before}");
    assert_eq!(used(&admin, "service").iter().filter(|(name, _)| name == "chat").count(), 2);

    instance.process.kill();
    instance.restart();
    let mut connections = open_some(&instance);
    all_answer(&mut connections, &by_id, 404, "service_not_found");
    let answer = connections[0].call(&call).unwrap().expect(200);
    assert_eq!(answer.head.number("x-tollgate-cost-nanousd"), 7 * 5);
    let admin = instance.admin();
    assert_eq!(used(&admin, "service").iter().filter(|(name, _)| name == "chat").count(), 2);
    assert!(!admin.get("services").to_string().contains(&old));
}

#[test]
fn calls_of_a_deleted_service_are_priced_after_a_kill() {
    let mut instance = start();
    let key = instance.key("bench").to_owned();
    let upstream = Upstream::start(&[]);
    let id = service(&instance, &upstream, "short-lived", 2);
    let call = chat("short-lived", &key);
    all_answer(&mut open_some(&instance), &call, 200, "");
    let stalled = stream("short-lived", &key).id("cut-off");
    let cut_off = begin(&instance, &stalled.header("x-mock-fault", "stall-mid-stream"));
    let names: Vec<String> = (0..20).map(|number| format!("last-{number}")).collect();
    for name in &names {
        instance.call(&call.clone().id(name)).expect(200);
    }
    assert_eq!(delete(&instance.admin(), &format!("services/{id}")).0, 200);
    instance.process.kill();
    drop(cut_off);
    instance.restart();

    let ledger = instance.ledger();
    for name in names.iter().map(String::as_str).chain(["cut-off"]) {
        let row = ledger.row(name);
        assert_eq!((row.service_id.as_str(), row.model.as_str()), (id.as_str(), "short-lived"));
        assert!(row.cost_nanousd > 0);
        assert_eq!(row.cost_nanousd, 2 * (row.input_tokens + row.output_tokens), "{row:?}");
    }
    assert_eq!(ledger.row("cut-off").outcome, "recovered");
    let rows = ledger.rows();
    let cost: u64 = rows.iter().map(|row| row.cost_nanousd).sum();
    let sum = instance.admin().get("usage")["data"][0].clone();
    assert_eq!(
        (sum["calls"].as_u64(), sum["cost_nanousd"].as_u64()),
        (Some(rows.len() as u64), Some(cost),)
    );
    assert!(used(&instance.admin(), "service").iter().any(|(name, _)| name == "short-lived"));
}

#[test]
fn a_consumer_and_its_plan_go_and_its_usage_stays() {
    let mut instance = start();
    let admin = instance.admin();
    admin.plan("passing", 10, 1_000_000);
    let acme =
        text_of(&admin.post("consumers", &json!({ "name": "acme", "plan": "passing" }))["id"]);
    let key = admin.key_of(&acme, &json!({}));
    instance.call(&instance.chat(&json!({})).key(&key.text).id("theirs")).expect(200);
    instance.ledger().row("theirs");
    assert_eq!(delete(&admin, &format!("keys/{}", key.id)).0, 200);
    assert_eq!(delete(&admin, &format!("consumers/{acme}")).0, 200);
    let plans = admin.get("plans")["data"].clone();
    let plan = plans.as_array().unwrap().iter().find(|plan| plan["name"] == "passing").unwrap();
    let plan = format!("plans/{}", text_of(&plan["id"]));
    assert_eq!(delete(&admin, &plan).0, 200);

    for path in [plan.clone(), format!("consumers/{acme}")] {
        assert_eq!(admin.call(Method::GET, &path, None).0, 404);
        assert_eq!(admin.call(Method::PATCH, &path, Some(&json!({}))).0, 404);
    }
    let unplanned = json!({ "name": "other", "plan": "passing" });
    assert_eq!(admin.call(Method::POST, "consumers", Some(&unplanned)).0, 400);
    admin.plan("passing", 3, 1_000_000);
    let anew =
        text_of(&admin.post("consumers", &json!({ "name": "acme", "plan": "passing" }))["id"]);
    let key = admin.key_of(&anew, &json!({}));
    let check = |instance: &Instance| {
        let answer = instance.call(&instance.chat(&json!({})).key(&key.text)).expect(200);
        assert_eq!(answer.head.number("x-ratelimit-limit-requests"), 3);
        let admin = instance.admin();
        let named = || used(&admin, "consumer").iter().filter(|(name, _)| name == "acme").count();
        poll::until("both in the report", || (named() == 2).then_some(()));
        assert_eq!(admin.call(Method::GET, &format!("consumers/{acme}"), None).0, 404);
        instance.metrics();
    };
    check(&instance);
    instance.process.kill();
    instance.restart();
    // After a restart a bucket fills from zero.
    poll::until("a token", || {
        (instance.call(&instance.chat(&json!({})).key(&key.text)).status() == 200).then_some(())
    });
    instance.metrics();
    assert_eq!(instance.admin().call(Method::GET, &plan, None).0, 404);
}

#[test]
fn a_demo_service_that_is_deleted_stays_so() {
    let mut instance = start();
    let api = instance.admin();
    let place = ["--admin-url", &api.url, "--admin-token", &api.token];
    let command = |args: &[&str]| process::run(&[args, &place].concat());
    let done = command(&["service", "delete", "demo-chat", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let shown: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(shown["id"], *instance.service("per_token"));
    let again = command(&["service", "delete", "demo-chat"]);
    assert_eq!(again.status.code(), Some(1));
    let refused = command(&["plan", "delete", "bench"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("in use by consumer demo-bench"), "{said}");
    assert_eq!(command(&["consumer", "delete", "nobody"]).status.code(), Some(1));

    let before = instance.demo.clone();
    instance.process.terminate();
    assert!(instance.process.ended().success());
    instance.restart();
    for part in ["keys", "services", "models"] {
        assert_eq!(instance.demo[part], before[part]);
    }
    let names = instance.admin().get("services")["data"].clone();
    let names: Vec<_> = names.as_array().unwrap().iter().map(|it| text_of(&it["name"])).collect();
    assert_eq!(names, ["demo-chat-tiered", "demo-chat-flat"]);
    let key = instance.key("bench");
    let answer = instance.call(&chat("demo-chat", key)).expect(404);
    assert_eq!(answer.code(), "model_not_found");
    instance.call(&chat("demo-chat-tiered", key)).expect(200);
}
