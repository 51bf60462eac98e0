//! A replica of Postgres for the admin API's lists and reports, with how far it is behind.

use crate::support::instance::Setup;
use crate::support::own_postgres::OwnPostgres;
use crate::support::poll;
use serde_json::json;
use ureq::http::Method;

#[test]
fn lists_and_reports_are_read_from_a_replica_and_its_lag_is_told() {
    let server = OwnPostgres::start(&[], &[]);
    let replica = server.replica();
    let url = |port| format!("postgres://tollgate@127.0.0.1:{port}/postgres");
    let (url, read_url) = (url(server.port), url(replica.port));
    // The first start makes what the lists are read from: the replica must have it at the next.
    let mut first = Setup::default().store_at(&url).shards(1).start();
    first.process.terminate();
    first.process.ended();
    let position = server.query("SELECT pg_current_wal_lsn()").unwrap().remove(0).remove(0);
    let is_there = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn");
    poll::until("the replica has all", || {
        (replica.query(&is_there).unwrap() == [["t"]]).then_some(())
    });
    let config = format!("[store]\nurl = \"{url}\"\nread_url = \"{read_url}\"\n");
    let instance = Setup::default().embedded().beside(&first).shards(1).config(&config).start();
    let lag_us = || {
        let (_, page) = instance.admin().text(Method::GET, "/metrics", None);
        let name = "tollgate_store_replica_lag_seconds ";
        let lag = page.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
        lag.map(|lag| (lag * 1e6) as u64)
    };
    poll::until("the replica has all", || lag_us().filter(|lag_us| *lag_us == 0));

    replica.query("SELECT pg_wal_replay_pause()").unwrap();
    let plan = json!({ "name": "late", "rate_per_s": 1, "burst": 1, "quota_tokens": 1 });
    let id = instance.admin().post("plans", &plan)["id"].as_str().unwrap().to_owned();
    let is_listed = || {
        let plans = instance.admin().get("plans");
        plans["data"].as_array().unwrap().iter().any(|plan| plan["id"] == id.as_str())
    };
    assert!(!is_listed(), "the list is the replica's");
    instance.admin().get(&format!("plans/{id}"));
    poll::until("a lag", || lag_us().filter(|lag_us| *lag_us > 0));
    let key = instance.key("premium").to_owned();
    instance.call(&instance.chat(&json!({})).key(&key)).expect(200);

    replica.query("SELECT pg_wal_replay_resume()").unwrap();
    poll::until("the list has it", || is_listed().then_some(()));
    poll::until("no lag", || lag_us().filter(|lag_us| *lag_us == 0));
    let calls = || instance.admin().get("usage")["data"][0]["calls"].as_u64();
    poll::until("the report has the call", || calls().filter(|calls| *calls == 1));
    let held = instance.metrics().sum("tollgate_store_connections", &[]);
    assert!((4..=6).contains(&held), "{held} connections");
}
