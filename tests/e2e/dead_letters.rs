//! No single record stops the ledger, whatever its upstream reported and whatever the store has
//! against it: the others come in, the process ends well and starts again.

use crate::support::admin::{Key, per_token, text_of};
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::{poll, process};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http::Method;

/// A service at the largest price that any version's admin API takes, and that price.
fn service_at_largest_price(instance: &Instance) -> (String, u64) {
    let admin = instance.admin();
    for largest in [1_000_000_000_000_000, 10_000_000_000_000] {
        let body = json!({
            "name": format!("dear-{largest}"),
            "base_url": text_of(&instance.demo["upstream_url"]),
            "price": per_token(largest, largest, largest),
        });
        match admin.call(Method::POST, "services", Some(&body)) {
            (201, made) => return (text_of(&made["id"]), largest),
            (status, answer) => {
                let message = text_of(&answer["error"]["message"]);
                assert_eq!(status, 400, "{answer}");
                assert!(message.contains("from 0 to 10000000000000"), "{message}");
            }
        }
    }
    panic!("no price is taken");
}

fn call(instance: &Instance, service: &str, key: &str, id: &str, prompt_tokens: u64) {
    let request = Request::get(&format!("/api/v1/consume/{service}"))
        .key(key)
        .id(id)
        .header("x-mock-prompt-tokens", &prompt_tokens.to_string())
        .header("x-mock-tokens", "1");
    let answer = poll::until("the service on this shard", || {
        Some(instance.call(&request)).filter(|answer| answer.status() != 404)
    });
    answer.expect(200);
}

fn ends_and_starts_again(instance: &mut Instance) {
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    instance.restart();
}

#[test]
fn an_upstream_that_reports_all_there_is_stops_no_ledger() {
    let mut instance = Setup::default().embedded().shards(1).start();
    let (service, largest) = service_at_largest_price(&instance);
    let key = instance.admin().key("bench").text;
    let call_tokens_max = 8_388_608;
    for n in 0..4 {
        call(&instance, &service, &key, &format!("dear-{n}"), u32::MAX.into());
    }
    call(&instance, instance.service("per_token"), &key, "cheap", 5);
    for n in 0..4 {
        let row = instance.ledger().row(&format!("dear-{n}"));
        assert_eq!(row.input_tokens, call_tokens_max);
        assert_eq!(row.cost_nanousd, (call_tokens_max + 1) * (largest / 1_000_000));
    }
    instance.ledger().row("cheap");
    assert_eq!(instance.metrics().sum("tollgate_tokens_clamped_total", &[]), 4);
    assert_eq!(instance.metrics().sum("tollgate_writer_failures_total", &[]), 0);
    instance.balance_books();
    ends_and_starts_again(&mut instance);
    let usage = instance.admin().get("usage?by=service");
    let row = usage["data"].as_array().unwrap().iter().find(|row| row["service_id"] == *service);
    assert_eq!(row.unwrap()["input_tokens"], 4 * call_tokens_max, "{usage}");
}

#[test]
fn what_the_store_refuses_is_kept_aside_and_the_rest_comes_in() {
    let mut instance = Setup::default().embedded().shards(2).start();
    let (admin, service) = (instance.admin(), instance.service("per_token").to_owned());
    let (bad, good) = (admin.key("bench"), admin.key("bench"));
    // Something about one consumer that the store will never take.
    let store = Connection::open(instance.data_dir().join("tollgate.db")).unwrap();
    store.busy_timeout(Duration::from_secs(10)).unwrap();
    store
        .execute_batch(&format!(
            "CREATE TRIGGER refuses BEFORE INSERT ON usage_daily
             WHEN NEW.consumer_id = '{}' BEGIN SELECT json('no'); END;",
            bad.consumer_id
        ))
        .unwrap();
    let one = |key: &Key, id: String| call(&instance, &service, &key.text, &id, 7);
    for n in 0..20 {
        one(&good, format!("good-{n}"));
        one(&bad, format!("bad-{n}"));
    }
    for n in 0..20 {
        instance.ledger().row(&format!("good-{n}"));
    }
    poll::until("the refused records", || {
        (instance.metrics().sum("tollgate_writer_refused_total", &[]) == 20).then_some(())
    });
    assert_eq!(instance.metrics().sum("tollgate_writer_failures_total", &[]), 0);
    assert!(instance.process.log().contains("the ledger refused a record"));
    let dead = dead_letters(&instance);
    let mut ids: Vec<String> = dead.iter().map(|dead| text_of(&dead["request_id"])).collect();
    ids.sort();
    let mut expected: Vec<String> = (0..20).map(|n| format!("bad-{n}")).collect();
    expected.sort();
    assert_eq!(ids, expected);
    for dead in &dead {
        assert_eq!(dead["consumer_id"], *bad.consumer_id, "{dead}");
        assert_eq!(dead["input_tokens"], 7);
        assert!(text_of(&dead["reason"]).contains("malformed JSON"), "{dead}");
    }
    ends_and_starts_again(&mut instance);
    let rows = instance.ledger().rows();
    assert_eq!(rows.iter().filter(|row| row.consumer_id == good.consumer_id).count(), 20);
    assert_eq!(dead_letters(&instance).len(), 20);
    let root = instance.data_dir().join("journal");
    let output = process::run(&["journal", "verify", root.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("20 records are kept aside"), "{text}");
}

/// `tollgate journal dead --json`, line by line.
fn dead_letters(instance: &Instance) -> Vec<Value> {
    let data_dir = instance.data_dir();
    let output = process::run(&["journal", "dead", data_dir.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
