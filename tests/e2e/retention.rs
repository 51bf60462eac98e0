//! Records are kept for `usage.keep_days`; an export that is verified comes first.

use crate::support::instance::{Instance, Setup};
use crate::support::{poll, process};
use rusqlite::Connection;
use serde_json::json;
use std::process::Output;
use ureq::http::Method;

const DAY_US: i64 = 86_400_000_000;

fn store(instance: &Instance) -> Connection {
    Connection::open(instance.data_dir().join("tollgate.db")).unwrap()
}

fn count(instance: &Instance, sql: &str) -> i64 {
    store(instance).query_row(sql, (), |row| row.get(0)).unwrap()
}

fn export(instance: &Instance, before: &str, out: &str) -> Output {
    let (dir, out) = (instance.data_dir(), instance.data_dir().join(out));
    let [dir, out] = [dir.to_str().unwrap(), out.to_str().unwrap()];
    process::run(&["usage", "export", dir, "--before", before, "--out", out])
}

#[test]
fn old_records_are_exported_then_dropped_and_their_sums_stay() {
    let mut instance =
        Setup::default().embedded().shards(1).config("[usage]\nkeep_days = 30\n").start();
    let key = instance.key("premium").to_owned();
    for n in 0..5 {
        let call = instance.chat(&json!({})).key(&key).id(&format!("call-{n}"));
        instance.call(&call).expect(200);
    }
    poll::until("five rows", || {
        (count(&instance, "SELECT count(*) FROM usage_records") == 5).then_some(())
    });
    instance.process.terminate();
    instance.process.ended();
    // Four of them were made in 2025.
    let back = format!(
        "UPDATE usage_rows
         SET occurred_at_us = (occurred_at_us / {DAY_US} - 400) * {DAY_US}
         WHERE record_id IN (SELECT record_id FROM usage_rows LIMIT 4)"
    );
    store(&instance).execute_batch(&back).unwrap();

    let exported = export(&instance, "2026-01-01", "old.csv");
    let said = String::from_utf8_lossy(&exported.stdout).into_owned();
    assert!(exported.status.success() && said.contains(": 4 records"), "{exported:?}");
    let csv = std::fs::read_to_string(instance.data_dir().join("old.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(csv.starts_with("record_id,occurred_at,period,request_id,"), "{csv}");
    assert!(csv.contains(",2025-") && csv.contains(",call-0,") && csv.contains(",completed,"));
    assert_eq!(
        export(&instance, "2026-01-01", "old.csv").status.code(),
        Some(2),
        "it is there already"
    );

    instance.restart();
    poll::until("one row", || {
        (count(&instance, "SELECT count(*) FROM usage_records") == 1).then_some(())
    });
    assert_eq!(count(&instance, "SELECT sum(calls) FROM usage_daily"), 5);
    let exported = export(&instance, "9999-01-01", "rest.csv");
    let said = String::from_utf8_lossy(&exported.stdout).into_owned();
    let begins = said.contains(": 1 records of calls from 20");
    assert!(exported.status.success() && begins, "what is gone is not in it: {exported:?}");
    let path = "usage?from=2025-06-01T00:00:01Z";
    let (status, answer) = instance.admin().call(Method::GET, path, None);
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("were dropped"), "{status} {answer}");
}

#[test]
fn records_in_postgres_are_exported_by_the_configuration() {
    let instance = Setup::default().shards(1).on_postgres().start();
    let key = instance.key("premium").to_owned();
    for n in 0..3 {
        let call = instance.chat(&json!({})).key(&key).id(&format!("call-{n}"));
        instance.call(&call).expect(200);
    }
    instance.balance_books();
    let path = |name: &str| instance.data_dir().join(name).to_str().unwrap().to_owned();
    let config = format!("[store]\nurl = \"{}\"\n", instance.store_url().unwrap());
    std::fs::write(path("export.toml"), config).unwrap();
    let (config, out) = (path("export.toml"), path("all.csv"));
    let export = ["usage", "export", "--config", &config, "--before", "9999-01-01", "--out", &out];
    let exported = process::run(&export);
    let said = String::from_utf8_lossy(&exported.stdout).into_owned();
    assert!(exported.status.success() && said.contains(": 3 records"), "{exported:?}");
    let csv = std::fs::read_to_string(&out).unwrap();
    assert!(csv.lines().count() == 4 && csv.contains(",call-0,"), "{csv}");
    let bytes = instance.metrics().sum("tollgate_ledger_bytes", &[]);
    assert!(bytes > 1 << 20, "{bytes} bytes");
}
