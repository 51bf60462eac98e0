//! `tollgate serve` as an operator runs it: a configuration file, the commands over the admin API,
//! calls, a reload, and an end that leaves the books balanced.

use crate::support::http::{Connection, Request};
use crate::support::instance::Upstream;
use crate::support::ledger::Ledger;
use crate::support::poll;
use crate::support::process::{self, Process};
use serde_json::{Value, json};
use std::path::Path;

/// A command over the admin API, with the token where the instance keeps it.
fn done(admin_url: &str, data_dir: &Path, args: &[&str]) -> Value {
    let data_dir = data_dir.to_str().unwrap();
    let place = ["--admin-url", admin_url, "--data-dir", data_dir, "--json"];
    let output = process::run(&[args, &place].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn config(data_dir: &Path, body_bytes: u32) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nshards = 2\n\
         data_dir = \"{}\"\nmax_body_bytes = {body_bytes}\n",
        data_dir.display()
    )
}

#[test]
fn an_operator_sets_up_sells_reloads_and_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data_dir) = (dir.path().join("tollgate.toml"), dir.path().join("data"));
    std::fs::write(&file, config(&data_dir, 100_000)).unwrap();
    let file_name = file.to_str().unwrap();
    assert!(process::run(&["check", "--config", file_name]).status.success());
    let command = process::command(&["serve", "--config", file_name]);
    let (mut process, addresses) = Process::start(command, "ready data=");
    let (data_url, admin_url) = addresses.split_once(" admin=").unwrap();
    let upstream = Upstream::start(&[]);
    let admin = |args: &[&str]| done(admin_url, &data_dir, args);

    let limits = ["--rate-per-s", "500", "--burst", "500", "--quota-tokens", "1M"];
    admin(&[&["plan", "create", "team"], &limits[..]].concat());
    admin(&["consumer", "create", "acme", "--plan", "team"]);
    let key = admin(&["key", "create", "--consumer", "acme"])["key"].as_str().unwrap().to_owned();
    let place = ["--base-url", &upstream.url, "--per-token", "2,10"];
    admin(&[&["service", "create", "chat"], &place[..]].concat());

    let call = |padding_bytes: usize| {
        let body = json!({
            "model": "chat",
            "messages": [{ "role": "user", "content": "Hello" }],
            "padding": "x".repeat(padding_bytes),
        });
        let request = Request::post("/v1/chat/completions", &body).key(&key);
        Connection::open(data_url).unwrap().call(&request).unwrap()
    };
    let cost: u64 = (0..20)
        .map(|_| call(0).expect(200))
        .map(|answer| answer.head.number("x-tollgate-cost-nanousd"))
        .sum();
    assert!(cost > 0);
    let sums = poll::until("the usage", || {
        let sums = admin(&["usage", "--by", "consumer,service"]);
        (sums["data"][0]["calls"] == 20).then_some(sums)
    });
    assert_eq!(sums["data"][0]["cost_nanousd"], cost, "{sums}");

    assert_eq!(call(9_000).status(), 200);
    std::fs::write(&file, config(&data_dir, 5_000)).unwrap();
    process.hang_up();
    poll::until("the smaller bound on both shards", || {
        (0..8).all(|_| call(9_000).status() == 413).then_some(())
    });
    let before = Ledger::of(&data_dir).rows().len();
    process.terminate();
    assert_eq!(process.ended().code(), Some(0));
    let rows = Ledger::of(&data_dir).rows();
    // The larger bound may have held for some calls after the signal.
    assert!(rows.len() >= before.max(21), "{} rows", rows.len());
    assert!(rows.iter().all(|row| row.outcome == "completed"));
    let verified = process::run(&["journal", "verify", data_dir.join("journal").to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
