//! SIGTERM under load: no answer broken, no record lost, and the process says that all is well.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::load::Log;
use crate::support::poll;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::thread;

fn terminate_under_load(instance: &Instance, log: &Log) {
    let pid = rustix::process::Pid::from_raw(instance.process.id().try_into().unwrap()).unwrap();
    let never = AtomicBool::new(false);
    let wanted = log.finished_count() + 300;
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| log.client(instance, "drained", &never));
        }
        poll::until("enough answers", || (log.finished_count() >= wanted).then_some(()));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        // The clients end by themselves, when nobody answers any more.
    });
}

#[test]
fn all_that_was_begun_is_finished_and_recorded() {
    let mut instance = Setup::default().shards(2).start();
    let log = Log::default();
    for _ in 0..2 {
        terminate_under_load(&instance, &log);
        let status = instance.process.ended();
        assert_eq!(status.code(), Some(0), "{}", instance.process.log());
        let broken = log.broken.lock().unwrap();
        assert!(broken.is_empty(), "broken off: {broken:?}");
        let rows = instance.ledger().rows();
        let recorded: BTreeSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
        let finished = log.finished.lock().unwrap();
        let answered: BTreeSet<&str> = finished.iter().map(String::as_str).collect();
        assert_eq!(rows.len(), recorded.len(), "a request is there twice");
        let lost: Vec<_> = answered.difference(&recorded).collect();
        assert!(lost.is_empty(), "answered, not recorded: {lost:?}");
        let unanswered: Vec<_> = recorded.difference(&answered).collect();
        assert!(unanswered.is_empty(), "recorded, not answered: {unanswered:?}");
        assert!(rows.iter().all(|row| row.outcome == "completed"));
        drop((broken, finished));
        instance.restart();
    }
}

#[test]
fn a_stream_in_flight_is_finished() {
    let mut instance = Setup::default().shards(1).start();
    let request = instance.chat(&json!({ "stream": true })).key(instance.key("bench"));
    let request = request.id("long").header("x-mock-inter-token-ms", "40");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    let head = connection.head().unwrap();
    connection.chunk().unwrap().unwrap();
    instance.process.terminate();
    poll::until("no more connections to be taken", || instance.refuses_connections().then_some(()));
    let rest = connection.body(&head, "POST").unwrap();
    assert!(String::from_utf8(rest).unwrap().ends_with("data: [DONE]\n\n"));
    assert!(connection.is_closed());
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    let row = instance.ledger().row("long");
    assert_eq!((row.outcome.as_str(), row.output_tokens), ("completed", 16), "{row:?}");
}

#[test]
fn a_draining_instance_is_not_ready() {
    let mut instance = Setup::default().shards(1).start();
    let request = instance.chat(&json!({ "stream": true })).key(instance.key("bench"));
    let request = request.id("held").header("x-mock-inter-token-ms", "60");
    let mut stream = instance.open();
    stream.send(&request.to_bytes()).unwrap();
    let head = stream.head().unwrap();
    let ready = Request::get("/readyz");
    let mut prober = instance.open();
    prober.call(&ready).unwrap().expect(200);
    instance.process.terminate();
    // A balancer's probe on a kept connection: it is answered until it is told to go away.
    let answer = poll::until("not to be ready", || {
        Some(prober.call(&ready).unwrap()).filter(|answer| answer.status() != 200)
    });
    assert_eq!(answer.head.must("connection"), "close");
    assert_eq!(answer.head.number("retry-after"), 1);
    assert_eq!(answer.expect(503).json()["status"], "draining");
    assert!(prober.is_closed());
    assert!(instance.process.is_running());
    stream.body(&head, "POST").unwrap();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    assert_eq!(instance.ledger().row("held").outcome, "completed");
}
