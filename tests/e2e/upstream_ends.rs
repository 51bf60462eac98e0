//! Where an upstream ends what it has begun: no call is sent twice that may have been heard, and
//! nothing broken looks whole.

use crate::shared::unique;
use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::Setup;
use crate::support::poll;
use crate::support::scripted::{Then, service, work};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[test]
fn a_call_that_was_heard_is_not_sent_again() {
    static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "interim", |call| {
        if !call.line.contains("/interim") {
            return Then::Answer;
        }
        HEARD.lock().unwrap().push(call.line.clone());
        call.say(b"HTTP/1.1 102 Processing\r\n\r\n");
        Then::Close
    });
    // A connection of the call before is at hand.
    instance.call(&Request::get(&format!("{path}/interim")).key(instance.key("bench"))).expect(502);
    assert_eq!(HEARD.lock().unwrap().len(), 1, "{HEARD:?}");
    instance.balance_books();
}

#[test]
fn what_breaks_off_after_a_probe_does_not_look_whole() {
    /// More than is held until it is whole.
    const CHUNKS: usize = 300;
    static ASKED: AtomicBool = AtomicBool::new(false);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "breaks", |call| {
        if !call.line.contains("/breaks") {
            return Then::Answer;
        }
        call.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..CHUNKS {
            call.say(format!("400\r\n{}\r\n", "x".repeat(0x400)).as_bytes());
        }
        poll::until("the probe", || ASKED.load(Ordering::Acquire).then_some(()));
        Then::Close
    });
    let request = Request::get(&format!("{path}/breaks")).key(instance.key("bench"));
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let mut bytes = 0;
    while bytes < CHUNKS * 0x400 {
        bytes += connection.chunk().unwrap().unwrap().len();
    }
    connection.end_writes().unwrap();
    // A zero that may begin the next chunk's size.
    assert_eq!(connection.take(1).unwrap(), b"0");
    ASKED.store(true, Ordering::Release);
    assert_eq!(connection.rest().unwrap(), b"!");
    instance.balance_books();
}

#[test]
fn a_long_request_leaves_its_upstream_the_time_to_answer() {
    const FIRST_BYTE: Duration = Duration::from_millis(400);
    let config = format!("[upstream]\nfirst_byte_timeout_ms = {}\n", FIRST_BYTE.as_millis());
    let instance = Setup::default().shards(1).config(&config).start();
    let path = service(&instance, "slow-reader", |call| {
        let is_long = call.line.contains("/long");
        work(if is_long { 2 * FIRST_BYTE } else { Duration::ZERO });
        Then::Answer
    });
    // More than the buffers of both sockets take.
    let body = format!("\"{}\"", "x".repeat(15 << 20));
    let request = Request::new("POST", &format!("{path}/long")).body(&body);
    let request = request.header("content-type", "application/json").key(instance.key("bench"));
    instance.call(&request).expect(200);
    instance.balance_books();
}

#[test]
fn what_an_upstream_has_read_is_not_sent_again() {
    static WORKED: AtomicU32 = AtomicU32::new(0);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "worker", |call| {
        let mut parts = call.line.split(['/', ' ']);
        let Some(ms) = parts.find_map(|part| part.strip_suffix("ms")?.parse().ok()) else {
            return Then::Answer;
        };
        call.read_body();
        WORKED.fetch_add(1, Ordering::Relaxed);
        work(Duration::from_millis(ms));
        if call.line.contains("/resets") { Then::Reset } else { Then::Close }
    });
    for (end, ms) in [
        ("ends", 0),
        ("ends", 300),
        ("ends", 500),
        ("ends", 1_500),
        ("resets", 300),
        ("resets", 1_500),
    ] {
        // Its connection is at hand.
        instance.call(&Request::get(&path).key(instance.key("bench"))).expect(200);
        let request_id = unique("worked");
        let request =
            Request::new("POST", &format!("{path}/{end}/{ms}ms")).body("{}").id(&request_id);
        let answer = instance.call(&request.key(instance.key("bench"))).expect(502);
        assert_eq!(answer.code(), "upstream_error");
        assert_eq!(WORKED.swap(0, Ordering::Relaxed), 1, "times that it was done: {end}, {ms} ms");
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.attempts, row.outcome.as_str()), (1, "upstream_failed"), "{row:?}");
    }
    instance.balance_books();
}

#[test]
fn a_failed_call_is_found_by_its_request_id() {
    let mut instance = Setup::default().shards(1).start();
    let path = service(&instance, "fails", |call| {
        match call.line.split_once("/fails").map(|(_, rest)| &rest[..2]) {
            Some("/1") => Then::Close,
            Some("/2") => {
                call.say(b"SMTP ready\r\n\r\n");
                Then::Close
            }
            Some("/3") => {
                call.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n1234");
                Then::Close
            }
            _ => Then::Answer,
        }
    });
    instance.admin().service("deaf", "http://127.0.0.1:9", &per_token(1, 1, 1));
    let get = |path: &str| Request::get(path).key(instance.key("bench"));
    let deaf = instance.chat(&json!({ "model": "deaf" })).key(instance.key("bench"));
    let calls = [
        (get(&format!("{path}/fails/1")), "head", "closed"),
        (get(&format!("{path}/fails/2")), "head", "not HTTP"),
        (get(&format!("{path}/fails/3")), "body", "closed"),
        (deaf, "connect", "refused"),
    ];
    for (number, (call, ..)) in calls.iter().enumerate() {
        let answer = instance.call(&call.clone().id(&format!("lost-{number}"))).expect(502);
        for cause in ["closed", "refused", "127.0.0.1"] {
            assert!(!answer.text().contains(cause), "{}", answer.text());
        }
    }
    let (scrape, log) = (instance.metrics(), instance.process.log());
    for (number, (_, phase, cause)) in calls.iter().enumerate() {
        assert!(scrape.sum("tollgate_upstream_faults_total", &[("phase", phase)]) >= 1, "{phase}");
        let line = log.lines().find(|line| line.contains(&format!("lost-{number}")));
        let line = line.unwrap_or_else(|| panic!("lost-{number} is not in the log: {log}"));
        assert!(line.contains(phase) && line.contains(cause), "{line}");
    }
    instance.balance_books();
}
