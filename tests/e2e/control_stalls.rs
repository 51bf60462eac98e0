//! What control does for callers goes on while something that it depends on stalls: the resolver,
//! a long sum over the ledger, the ledger's writer.

use crate::support::admin::{Admin, per_token};
use crate::support::instance::{Instance, Setup};
use crate::support::load::{Until, flood};
use crate::support::poll::{self, PATIENCE};
use crate::support::resolver::SilentResolver;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use ureq::http::Method;

/// By the contract, a change reaches all shards within this.
const SECOND: Duration = Duration::from_secs(1);

/// New keys of new consumers make their first call, and are refused within a second after their
/// revocation was asked for. Prints the longest of each.
fn come_and_go(instance: &Instance, keys: u32) {
    let [mut first_calls, mut refusals] = [Duration::ZERO; 2];
    for _ in 0..keys {
        let key = instance.admin().key("enterprise");
        let call = instance.chat(&json!({})).key(&key.text);
        let begun = Instant::now();
        instance.call(&call).expect(200);
        first_calls = first_calls.max(begun.elapsed());
        let begun = Instant::now();
        thread::scope(|scope| {
            let revocation = revoke(instance, &key.id);
            let revoked = scope.spawn(revocation);
            poll::within(SECOND, "a revoked key to be refused", || {
                (instance.call(&call).status() == 401).then_some(())
            });
            refusals = refusals.max(begun.elapsed());
            assert_eq!(revoked.join().unwrap(), 200);
        });
    }
    println!("at most: first call {first_calls:?}, refused {refusals:?} after its revocation");
}

/// Asks for a revocation; the status of the answer.
fn revoke(instance: &Instance, key: &str) -> impl FnOnce() -> u16 + Send + use<> {
    let (admin, path) = (instance.admin(), format!("keys/{key}"));
    move || admin.call(Method::DELETE, &path, None).0
}

#[test]
fn a_silent_resolver_stalls_nothing() {
    let resolver = SilentResolver::new();
    let instance = resolver.under(Setup::default().shards(2)).start();
    let admin = instance.admin();
    let begun = Instant::now();
    for number in 0..10 {
        let url = format!("http://models-{number}.silent/v1");
        admin.service(&format!("silent-{number}"), &url, &per_token(1, 1, 1));
    }
    println!("ten services of silent hosts were made in {:?}", begun.elapsed());
    poll::until("ten questions", || (resolver.questions() >= 10).then_some(()));
    come_and_go(&instance, 5);
    // A host that is known is found meanwhile, and called.
    let (_, port) = instance.demo["upstream_url"].as_str().unwrap().rsplit_once(':').unwrap();
    let url = format!("http://localhost:{port}");
    admin.service("found", &url, &per_token(1, 1, 1));
    let call = instance.chat(&json!({ "model": "found" })).key(instance.key("enterprise"));
    instance.call(&call).expect(200);
    assert_eq!(resolver.questions(), 10, "one look-up of a host at a time");
}

#[test]
fn a_host_that_is_not_found_is_said_once() {
    let mut instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    let id = admin.service("nowhere", "http://nowhere.invalid", &per_token(1, 1, 1));
    instance.process.wait_for("nowhere.invalid");
    for path in ["/a", "/b", "/c"] {
        let change = json!({ "default_path": path });
        admin.done(Method::PATCH, &format!("services/{id}"), Some(&change));
    }
    let log = instance.process.log();
    assert_eq!(log.matches("nowhere.invalid").count(), 1, "{log}");
}

/// Records of the large ledger; 5 000 000 take a minute to make.
fn large() -> u32 {
    let set = std::env::var("TOLLGATE_E2E_LEDGER_RECORDS");
    set.map_or(300_000, |records| records.parse().unwrap())
}

/// Adds a day with so many records to the ledger of an instance that has stopped.
fn fill(instance: &Instance, records: u32) {
    let store = rusqlite::Connection::open(instance.data_dir().join("tollgate.db")).unwrap();
    let sql = format!(
        "INSERT OR IGNORE INTO usage_instances VALUES (1, 'i');
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {records})
         INSERT INTO usage_rows (record_id, occurred_at_us, request_id, consumer_id, key_id,
             service_id, status, outcome, streamed, input_tokens, cached_tokens, output_tokens,
             estimated, price_version, cost_nanousd, attempts, latency_us, ttft_us, overhead_us,
             instance)
         SELECT CAST(printf('%012d', i) AS BLOB), (1768435200 + i % 86400) * 1000000, 'q',
             'consumer' || i % 1000, 'key', 'service', 200, 0, 0, 1, 0, 2, 0, 1, 3, 1, 1, 1, 1, 1
         FROM n;"
    );
    store.execute_batch(&sql).unwrap();
}

#[test]
fn sums_over_a_large_ledger_stall_nothing() {
    let mut instance = Setup::default().embedded().shards(2).start();
    instance.process.terminate();
    instance.process.ended();
    fill(&instance, large());
    instance.restart();
    let (done, sums, given_up) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let span = "from=2026-01-15T00:00:01Z&to=2026-01-15T23:59:59Z";
    let ask = |admin: &Admin| {
        while !done.load(Relaxed) {
            let path = format!("usage?by=consumer,day&{span}");
            let (status, answer) = admin.call(Method::GET, &path, None);
            assert!(status == 200 || status == 503, "{status} {answer}");
            let count = if status == 200 { &sums } else { &given_up };
            count.fetch_add(1, Relaxed);
        }
    };
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..8 {
            scope.spawn(|| ask(&instance.admin()));
        }
        come_and_go(&instance, 10);
        poll::until("a sum", || (sums.load(Relaxed) + given_up.load(Relaxed) > 0).then_some(()));
    });
    let (sums, given_up) = (sums.load(Relaxed), given_up.load(Relaxed));
    println!("{sums} sums of {} records meanwhile, {given_up} given up", large());
}

#[test]
fn prices_change_while_calls_are_metered() {
    let config = "[usage]\nbatch_age_ms = 5\n";
    let instance = Setup::default().shards(2).config(config).start();
    let (admin, calls, done) = (instance.admin(), AtomicU64::new(0), AtomicBool::new(false));
    let id = instance.service("per_token");
    let body = json!({ "price": per_token(1, 1, 1) });
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..4 {
            scope.spawn(|| flood(&instance, &calls, &done));
        }
        poll::until("calls", || (calls.load(Relaxed) >= 1_000).then_some(()));
        let begun = Instant::now();
        let before = calls.load(Relaxed);
        for _ in 0..400 {
            let begun = Instant::now();
            let (status, _) =
                admin.call(Method::POST, &format!("services/{id}/prices"), Some(&body));
            refused += u32::from(status != 201);
            slowest = slowest.max(begun.elapsed());
        }
        come_and_go(&instance, 3);
        let per_s = (calls.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{refused} of 400 changes refused, the slowest {slowest:?}, at {per_s:.0} calls/s"
        );
    });
    assert_eq!(refused, 0);
    instance.balance_books();
}

#[test]
fn a_revocation_waits_for_no_store() {
    let instance = Setup::default().embedded().shards(2).start();
    let key = instance.admin().key("enterprise");
    let call = instance.chat(&json!({})).key(&key.text);
    instance.call(&call).expect(200);
    // As if the disk took no write for as long as this is held.
    let store = rusqlite::Connection::open(instance.data_dir().join("tollgate.db")).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let revoked = scope.spawn(revoke(&instance, &key.id));
        poll::within(SECOND, "the key to be refused", || {
            (instance.call(&call).status() == 401).then_some(())
        });
        assert!(!revoked.is_finished(), "it is kept only once the store has it");
        store.execute_batch("COMMIT").unwrap();
        assert_eq!(revoked.join().unwrap(), 200);
    });
    // A store that fails is told of, and the key stays refused.
    let key = instance.admin().key("enterprise");
    let call = instance.chat(&json!({})).key(&key.text);
    instance.call(&call).expect(200);
    let trigger = "CREATE TRIGGER fail BEFORE UPDATE ON keys BEGIN SELECT raise(ABORT, 'no'); END";
    store.execute_batch(trigger).unwrap();
    let (status, answer) = instance.admin().call(Method::DELETE, &format!("keys/{}", key.id), None);
    assert_eq!(status, 500, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("repeat the call"), "{answer}");
    assert_eq!(instance.call(&call).status(), 401);
    store.execute_batch("DROP TRIGGER fail").unwrap();
    assert_eq!(revoke(&instance, &key.id)(), 200);
}
