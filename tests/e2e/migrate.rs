//! From the embedded store to Postgres: all of it, once, whatever happens in the middle.

use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::postgres::{self, Database};
use crate::support::redis_server::RedisServer;
use crate::support::{poll, process};
use rusqlite::Connection;
use serde_json::{Value, json};
use ureq::http::Method;

/// Records of last month, beside those that are called for: some seconds of copying.
const MORE_ROWS: u64 = 150_000;

/// Sums and the plans' terms, as the admin API tells them.
fn told(instance: &Instance) -> [Value; 3] {
    ["usage?by=consumer,service,day", "plans", "services"].map(|path| {
        let (status, answer) = instance.admin().call(Method::GET, path, None);
        assert_eq!(status, 200, "{answer}");
        answer
    })
}

fn call(instance: &Instance, kind: &str) {
    let body = json!({ "model": instance.model(kind) });
    // A Redis that has just started knows nobody for a moment.
    poll::until("a call", || {
        let answer = instance.call(&instance.chat(&body).key(instance.key("premium")));
        (answer.head.status == 200).then_some(())
    });
}

fn records(instance: &Instance) -> u64 {
    let url = instance.store_url().unwrap();
    postgres::query(url, "SELECT count(*) FROM usage_rows").unwrap()[0][0].parse().unwrap()
}

/// Records with texts that need care, and one that the ledger refused.
fn add_rows(instance: &Instance) {
    let db = Connection::open(instance.data_dir().join("tollgate.db")).unwrap();
    db.execute_batch(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MORE_ROWS})
         INSERT INTO usage_rows SELECT CAST(printf('%016d', i) AS BLOB),
             occurred_at_us - 40 * 86400000000, 'a\\tb' || char(10), consumer_id, key_id,
             service_id, status, outcome, streamed, i, cached_tokens, output_tokens, estimated,
             price_version, cost_nanousd + i, attempts, latency_us, ttft_us, overhead_us, instance
         FROM (SELECT * FROM usage_rows LIMIT 1), n;
         INSERT INTO usage_dlq VALUES ('00000000-0000-0000-0000-000000000001', 7, 'why', x'0aff',
             'r');"
    ))
    .unwrap();
}

#[test]
fn an_embedded_store_moves_whole_though_its_move_is_cut_off() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().embedded().shards(1).upstream(&upstream).start();
    for kind in ["per_token", "tiered", "subscription"] {
        call(&instance, kind);
    }
    let credential = json!({ "upstream_credential": { "header": "authorization", "value": "s" } });
    let path = format!("services/{}", instance.service("tiered"));
    assert_eq!(instance.admin().call(Method::PATCH, &path, Some(&credential)).0, 200);
    instance.balance_books();
    let before = told(&instance);
    instance.process.terminate();
    instance.process.ended();
    add_rows(&instance);

    let redis = RedisServer::start();
    let data_dir = instance.data_dir();
    // It may be done before anybody has seen it begin.
    let cut_off = || {
        let database = Database::create();
        let to = ["--to", &database.url];
        let migrate = [&["migrate", "--from", data_dir.to_str().unwrap()], &to[..]].concat();
        let mut moving = process::command(&migrate).spawn().unwrap();
        let some = "SELECT rows FROM transfers WHERE name = 'usage_rows' AND rows > 0";
        let moved = || postgres::query(&database.url, some).ok()?.pop()?.pop()?.parse().ok();
        poll::until("some records are there", moved);
        moving.kill().unwrap();
        moving.wait().unwrap();
        moved().filter(|moved: &u64| *moved < MORE_ROWS).map(|_| database)
    };
    let database = std::iter::repeat_with(cut_off).take(5).flatten().next().unwrap();
    let migrate = ["migrate", "--from", data_dir.to_str().unwrap(), "--to", &database.url];
    let url = std::path::Path::new(&database.url);
    let serve = process::command(&["demo", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir.join("other"))
        .env("TOLLGATE_STORE__URL", url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(!serve.status.success() && said.contains("half filled"), "{said}");

    // The server may not have noticed yet that who was killed has gone.
    let open = "SELECT 1 FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'tollgate'";
    poll::until("no connection is left", || {
        postgres::query(&database.url, open).ok().filter(Vec::is_empty)
    });
    let moved = process::run(&migrate);
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert!(moved.status.success(), "{said}{}", String::from_utf8_lossy(&moved.stderr));
    assert!(said.contains("usage_rows: 150,003\n") && said.contains("verified"), "{said}");
    let again = process::run(&migrate);
    let refusal = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && refusal.contains("not written over"), "{refusal}");
    let odd = "SELECT count(*), count(DISTINCT record_id), sum(input_tokens)::text
         FROM usage_rows WHERE request_id = E'a\\\\tb\\n'";
    let sum = (MORE_ROWS * (MORE_ROWS + 1) / 2).to_string();
    let count = MORE_ROWS.to_string();
    assert_eq!(postgres::query(&database.url, odd).unwrap(), [[count.clone(), count, sum]]);
    let strays = "SELECT (SELECT count(*) FROM usage_rows_default), (SELECT slot FROM usage_dlq)";
    assert_eq!(postgres::query(&database.url, strays).unwrap(), [["0", "\\x0aff"]]);

    instance.move_to(database, &redis);
    assert_eq!(told(&instance), before, "sums, plans and services are what they were");
    for kind in ["per_token", "tiered"] {
        call(&instance, kind);
    }
    poll::until("the new calls' rows", || (records(&instance) == MORE_ROWS + 5).then_some(()));
}
