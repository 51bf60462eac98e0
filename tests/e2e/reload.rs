//! SIGHUP: what can change while the instance runs does, and no call notices; what is wrong
//! changes nothing.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::load::Log;
use crate::support::poll;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const FIRST: &str = "[server]\nmax_body_bytes = 65536\nidle_timeout_ms = 60000\n";

/// The status of a call with a body of so many bytes and a little more.
fn status_of(instance: &Instance, padding_bytes: usize) -> u16 {
    let request = instance.chat(&json!({ "padding": "x".repeat(padding_bytes) }));
    instance.call(&request.key(instance.key("bench"))).status()
}

/// Is a connection that says nothing closed?
fn closes_idle(instance: &Instance) -> bool {
    instance.open().rest().is_ok_and(|bytes| bytes.is_empty())
}

#[test]
fn a_timeout_and_a_size_change_under_load_and_no_call_breaks() {
    let mut instance = Setup::default().shards(2).config(FIRST).start();
    assert_eq!(status_of(&instance, 8_000), 200);
    let (log, done) = (Log::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| log.client(&instance, "reloaded", &done));
        }
        for round in 1..=5 {
            let enough = log.finished_count() + 50;
            let body = 4_096 + round;
            let config =
                format!("[server]\nmax_body_bytes = {body}\nidle_timeout_ms = {}\n", 3_000 - round);
            instance.rewrite_config(&config);
            poll::until("answers", || (log.finished_count() >= enough).then_some(()));
        }
        done.store(true, Relaxed);
    });
    let broken = log.broken.lock().unwrap();
    assert!(broken.is_empty(), "broken off: {broken:?}");
    assert_eq!(log.finished_count(), log.sent.lock().unwrap().len());
    // Whichever shard takes the connection.
    poll::until("the smaller bound", || {
        (0..8).all(|_| status_of(&instance, 8_000) == 413).then_some(())
    });
    assert_eq!(status_of(&instance, 2_000), 200);
    assert!((0..3).all(|_| closes_idle(&instance)));
    instance.balance_books();
    instance.process.wait_for("server.max_body_bytes, server.idle_timeout_ms");
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let mut instance = Setup::default().shards(1).config(FIRST).start();
    instance.rewrite_config("[server]\nmax_body_bytes = 4096\nidle_timeout = 1\n");
    let named = instance.process.wait_for("not reloaded: the configuration is wrong");
    assert!(named.contains("tollgate.toml:3:1: server.idle_timeout: no such key"), "{named}");
    assert_eq!(status_of(&instance, 8_000), 200);
    instance.rewrite_config("[server]\nmax_body_bytes = 4096\n");
    instance.process.wait_for("configuration reloaded");
    poll::until("the new bound", || (status_of(&instance, 8_000) == 413).then_some(()));
}

#[test]
fn what_takes_a_restart_is_named_and_waits() {
    let mut instance = Setup::default().shards(1).config(FIRST).start();
    instance.rewrite_config("[usage]\ndurability = \"disk\"\nsegment_bytes = 1048576\n");
    let named = instance.process.wait_for("changed settings that take a restart");
    assert!(named.contains("usage.durability, usage.segment_bytes"), "{named}");
    instance.process.wait_for("configuration reloaded");
    assert_eq!(status_of(&instance, 100), 200);
    instance.balance_books();
}

#[test]
fn the_admin_token_and_the_log_change() {
    let mut instance = Setup::default()
        .shards(1)
        .config("[admin]\ntoken = \"the-first-admin-token\"\n[log]\nlevel = \"info\"\n")
        .start();
    let status = |instance: &Instance, token: &str| {
        let admin = crate::support::admin::Admin::new(&instance.admin().url, token);
        admin.text(ureq::http::Method::GET, "/admin/v1/plans", None).0
    };
    assert_eq!(status(&instance, "the-first-admin-token"), 200);
    instance
        .rewrite_config("[admin]\ntoken = \"the-second-admin-token\"\n[log]\nlevel = \"warn\"\n");
    poll::until("the new token", || {
        (status(&instance, "the-second-admin-token") == 200).then_some(())
    });
    assert_eq!(status(&instance, "the-first-admin-token"), 401);
    poll::until("scripts to find it", || {
        let demo = std::fs::read_to_string(instance.data_dir().join("demo.json")).unwrap();
        demo.contains("\"the-second-admin-token\"").then_some(())
    });
    // Silent at this level, so only the answers tell.
    instance
        .rewrite_config("[admin]\ntoken = \"the-third-admin-token\"\n[log]\nlevel = \"info\"\n");
    let line = instance.process.wait_for("configuration reloaded");
    assert!(line.contains("admin.token") && !line.contains("third"), "{line}");
    assert!(!instance.process.log().contains("second-admin-token"));
    assert_eq!(instance.process.log().matches("configuration reloaded").count(), 1);
    let request = Request::get("/api/v1/account").key(instance.key("basic"));
    instance.call(&request).expect(200);
}
