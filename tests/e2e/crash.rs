//! kill -9 under load: every answer that a client has in full is in the ledger once, and nothing
//! is there twice.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Row;
use crate::support::load::{Log, Until};
use crate::support::{poll, process};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::thread;

/// How often the process is killed: 3, or `TOLLGATE_E2E_KILLS`.
fn kills() -> usize {
    std::env::var("TOLLGATE_E2E_KILLS").map_or(3, |text| text.parse().unwrap())
}

fn once_each(rows: &[Row]) -> BTreeMap<&str, &Row> {
    let records: BTreeSet<&str> = rows.iter().map(|row| row.record_id.as_str()).collect();
    assert_eq!(records.len(), rows.len(), "a record is there twice");
    let requests: BTreeMap<&str, &Row> =
        rows.iter().map(|row| (row.request_id.as_str(), row)).collect();
    assert_eq!(requests.len(), rows.len(), "a request is there twice");
    requests
}

/// A stream that has begun and will not end.
fn open_stream(instance: &Instance, request_id: &str) -> crate::support::http::Connection {
    let request = instance.chat(&json!({ "stream": true })).key(instance.key("bench"));
    let request = request.id(request_id).header("x-mock-fault", "stall-mid-stream");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    connection.chunk().unwrap().unwrap();
    connection
}

fn kill_under_load(instance: &mut Instance, log: &Log, round: usize) {
    let run = format!("round-{round}");
    let wanted = log.finished_count() + 150 + round % 7 * 20;
    // Loading clients hold the instance; killing needs only its id.
    let pid = rustix::process::Pid::from_raw(instance.process.id().try_into().unwrap()).unwrap();
    let done = AtomicBool::new(false);
    let open = open_stream(instance, &format!("{run}-open"));
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..4 {
            scope.spawn(|| log.client(instance, &run, &done));
        }
        poll::until("enough answers", || (log.finished_count() >= wanted).then_some(()));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    drop(open);
    assert!(!instance.process.ended().success());
}

#[test]
fn no_answer_is_lost_and_none_is_counted_twice() {
    crash_loop(Setup::default().shards(2).start(), kills());
}

#[test]
fn durability_on_disk_survives_a_kill_too() {
    let config = "[usage]\ndurability = \"disk\"\n";
    crash_loop(Setup::default().shards(1).config(config).start(), 1);
}

fn crash_loop(mut instance: Instance, rounds: usize) {
    let log = Log::default();
    for round in 0..rounds {
        kill_under_load(&mut instance, &log, round);
        instance.restart();
        let finished = log.finished.lock().unwrap().clone();
        let ledger = instance.ledger();
        poll::until("the open stream to be recovered", || {
            Some(ledger.rows_of(&format!("round-{round}-open"))).filter(|rows| !rows.is_empty())
        });
        let rows = ledger.rows();
        let by_request = once_each(&rows);
        let missing: Vec<&String> =
            finished.iter().filter(|id| !by_request.contains_key(id.as_str())).collect();
        assert!(missing.is_empty(), "answered, but not in the ledger: {missing:?}");
        for id in &finished {
            let row = by_request[id.as_str()];
            assert_eq!((row.outcome.as_str(), row.status), ("completed", 200), "{row:?}");
        }
        let open = by_request[format!("round-{round}-open").as_str()];
        assert_eq!(open.outcome, "recovered", "{open:?}");
        assert!(open.streamed, "{open:?}");
        let sent: BTreeSet<String> = log.sent.lock().unwrap().iter().cloned().collect();
        for id in by_request.keys().filter(|id| !id.ends_with("-open")) {
            assert!(sent.contains(*id), "{id} was never sent");
        }
    }
    sums_hold(&instance);
    verify_journal(&instance);
    // It goes on as if nothing had been.
    let before = instance.ledger().rows().len();
    instance.call(&instance.chat(&json!({})).key(instance.key("bench")).id("after")).expect(200);
    instance.ledger().row("after");
    assert_eq!(instance.ledger().rows().len(), before + 1);
    let account = Request::get("/api/v1/account").key(instance.key("bench"));
    let cost = instance.call(&account).expect(200).json()["month"]["cost_nanousd"].clone();
    assert!(cost.as_u64().is_some_and(|cost| cost > 0), "{cost}");
}

/// The daily sums are those of the rows.
fn sums_hold(instance: &Instance) {
    let rows = instance.ledger().rows();
    let usage = instance.admin().get("usage?by=day");
    let sum = |name: &str| -> u64 {
        usage["data"].as_array().unwrap().iter().map(|row| row[name].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("calls"), rows.len() as u64);
    assert_eq!(sum("cost_nanousd"), rows.iter().map(|row| row.cost_nanousd).sum::<u64>());
    assert_eq!(sum("output_tokens"), rows.iter().map(|row| row.output_tokens).sum::<u64>());
}

fn verify_journal(instance: &Instance) {
    let dir = instance.data_dir().join("journal");
    let output = process::run(&["journal", "verify", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}
