//! The demo is created once, found again, and never doubled.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::seed;
use crate::cli::fake_admin::FakeAdmin;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_marketplace_is_made_once() {
    let fake = FakeAdmin::default();
    let admin_url = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let first = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();

    // One plan, four consumers with a key each, three services.
    assert_eq!(fake.len(), 1 + 4 + 4 + 3);
    assert_eq!(fake.named("bench")["quota_tokens"], 1_000_000_000_000_000_u64);
    assert_eq!(fake.named("demo-premium")["plan"], "premium");
    let tiered = fake.named("demo-chat-tiered");
    assert_eq!(tiered["id"], *first.services.tiered);
    assert_eq!(tiered["price"]["tiers"][2]["up_to_tokens"], Value::Null);
    assert_eq!(tiered["price"]["tiers"][1]["input_nanousd_per_mtok"], 2_400_000_000_u64);
    assert_eq!(fake.named("demo-chat-flat")["price"]["overage"]["kind"], "per_token");

    let second = seed(&admin_url, "secret", "http://up:2", "http://data:2", dir.path()).unwrap();
    assert_eq!(fake.len(), 12);
    assert!(second.keys == first.keys && second.services == first.services);
    assert_eq!(second.data_url, "http://data:2");
    assert_eq!(second.upstream_url, "http://up:2");
    assert_eq!(fake.named("demo-chat")["base_url"], "http://up:2");
    assert_eq!(fake.named("demo-chat-flat")["base_url"], "http://up:2");
}

#[test]
fn the_file_is_as_promised_and_its_owners_only() {
    let admin_url = FakeAdmin::default().start();
    let dir = tempfile::tempdir().unwrap();
    seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();
    let path = dir.path().join("demo.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut fields: Vec<&str> = file.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected =
        ["admin_token", "admin_url", "data_url", "keys", "models", "services", "upstream_url"];
    assert_eq!(fields, expected);
    assert_eq!(file["models"]["subscription"], "demo-chat-flat");
    for plan in ["basic", "premium", "enterprise", "bench"] {
        assert!(file["keys"][plan].as_str().unwrap().starts_with("tg_"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_or_lost_start_is_made_good() {
    let fake = FakeAdmin::default();
    let admin_url = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let first = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();

    // demo.json is gone: the consumers and services are found again, only keys are new.
    std::fs::remove_file(dir.path().join("demo.json")).unwrap();
    let second = seed(&admin_url, "secret", "http://up:2", "http://data:1", dir.path()).unwrap();
    assert_eq!(fake.len(), 12 + 4);
    assert!(second.services == first.services && second.keys != first.keys);
    assert_eq!(fake.named("demo-chat")["base_url"], "http://up:2");

    // A service is deleted: it stays so, and nothing else is made anew.
    fake.remove("demo-chat");
    let third = seed(&admin_url, "secret", "http://up:3", "http://data:1", dir.path()).unwrap();
    assert_eq!(fake.len(), 12 + 4 - 1);
    assert!(third.keys == second.keys && third.services == second.services);
    assert_eq!(third.deleted, [third.services.per_token.as_str()]);
    assert_eq!(fake.named("demo-chat-tiered")["base_url"], "http://up:3");

    // The store is gone: everything is made anew.
    let anew = FakeAdmin::default();
    let admin_url = anew.start();
    seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();
    assert_eq!(anew.len(), 12);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let admin_url = FakeAdmin::default().start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("demo.json"), "{}").unwrap();
    let error = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).err();
    assert!(error.unwrap().contains("is not the demo's"));
    assert_eq!(std::fs::read(dir.path().join("demo.json")).unwrap(), b"{}");
}
