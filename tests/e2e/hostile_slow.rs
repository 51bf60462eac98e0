//! Clients that send next to nothing, read nothing, or say nothing at all: each is closed at its
//! deadline, holds little meanwhile, and takes nothing from the others.

use crate::shared::shared;
use crate::support::admin::per_token;
use crate::support::bystander::{beside, warm};
use crate::support::held;
use crate::support::http::{Answer, Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll;
use serde_json::json;
use std::io::ErrorKind;
use std::time::Duration;

/// How long a trickling client waits before its next byte.
const BEAT: Duration = Duration::from_millis(20);

/// Sends a byte of `endless` at each beat until an answer comes; `None`: closed without one.
fn trickle(connection: &mut Connection, endless: &[u8]) -> Option<Answer> {
    connection.patience(BEAT).unwrap();
    let mut bytes = endless.iter().cycle();
    poll::until("an end to the trickle", || {
        let _ = connection.send(&[*bytes.next().unwrap()]);
        match connection.answer("GET") {
            Ok(answer) => Some(Some(answer)),
            Err(error) => {
                let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                (!waits).then_some(None)
            }
        }
    })
}

#[test]
fn a_request_has_its_deadlines_however_it_trickles() {
    let config = "[server]\nhead_timeout_ms = 600\nbody_timeout_ms = 600\n";
    let instance = Setup::default().shards(1).config(config).start();
    heads_that_trickle(&instance);
    bodies_that_never_come(&instance);
    instance.balance_books();
}

fn heads_that_trickle(instance: &Instance) {
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
    let field = format!("{post}x: ");
    let trickles = [
        ("", "GETGET"),
        ("GET /", "a"),
        ("GET /healthz HTTP/1.1\r\n", "x: y\r\n"),
        (post, "x"),
        (&field, " "),
    ];
    beside(instance, "trickling heads", |turn| {
        for (start, endless) in turn.part(&trickles) {
            let mut connection = instance.open();
            connection.send(start.as_bytes()).unwrap();
            let answer = trickle(&mut connection, endless.as_bytes()).unwrap();
            // A method of so many letters is none: that is seen before the deadline.
            let expected: &[u16] = if start.is_empty() { &[400, 408] } else { &[408] };
            assert!(expected.contains(&answer.status()), "{start}: {}", answer.text());
        }
    });
}

/// Those who were told to continue, and do not.
fn bodies_that_never_come(instance: &Instance) {
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    let bytes = request.header("expect", "100-continue").to_bytes();
    let body_at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    beside(instance, "bodies that never come", |_| {
        let mut waiting: Vec<Connection> = (0..40).map(|_| instance.open()).collect();
        for connection in &mut waiting {
            connection.send(&bytes[..body_at]).unwrap();
        }
        for connection in &mut waiting {
            assert_eq!(connection.head().unwrap().status, 100);
        }
        for connection in &mut waiting {
            let answer = connection.answer("POST").unwrap().expect(408);
            assert_eq!(answer.code(), "request_timeout");
            assert!(connection.is_closed());
        }
    });
}

#[test]
fn calls_that_come_byte_by_byte_are_calls() {
    const CLIENTS: usize = 12;
    let instance = &shared().instance;
    let key = instance.key("bench");
    let requests: Vec<Vec<u8>> = (0..CLIENTS)
        .map(|number| {
            let request = instance.chat(&json!({ "stream": number % 3 == 0 })).key(key);
            let request = if number % 2 == 0 { request } else { request.chunked(9) };
            request.to_bytes()
        })
        .collect();
    let longest = requests.iter().map(Vec::len).max().unwrap();
    beside(instance, "calls byte by byte", |turn| {
        let requests = turn.part(&requests);
        let mut connections: Vec<Connection> = requests.iter().map(|_| instance.open()).collect();
        for at in 0..longest {
            for (connection, request) in connections.iter_mut().zip(requests) {
                if let Some(byte) = request.get(at) {
                    connection.send(&[*byte]).unwrap();
                }
            }
        }
        for connection in &mut connections {
            connection.answer("POST").unwrap().expect(200);
        }
    });
}

#[test]
fn who_reads_nothing_is_left_and_holds_little() {
    const READERS: u32 = 6;
    /// Of a large answer 8 MiB are kept, to find its usage in; the rest waits at the upstream.
    /// The tables that count the tokens of what was sent come on top, once.
    const GROWTH_KIB: u64 = READERS as u64 * 10 * 1024 + 64 * 1024;
    let upstream = Upstream::start(&[]);
    let config = "[server]\nwrite_timeout_ms = 600\n[upstream]\npool_idle_timeout_ms = 300\n";
    let instance = Setup::default().shards(1).config(config).upstream(&upstream).start();
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    let before_kib = held::peak_kib(&instance);
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let large = Request::get(&path).key(instance.key("bench"));
    let large = large.header("x-mock-body-bytes", "40000000").to_bytes();
    let mut silent: Vec<Connection> = Vec::new();
    beside(&instance, "silent readers", |turn| {
        for _ in turn.share(READERS) {
            let mut reader = instance.open();
            reader.send(&large).unwrap();
            silent.push(reader);
        }
        poll::until("the readers to be given up", || {
            let rows = instance.ledger().rows();
            let left = rows.iter().filter(|row| row.outcome == "client_aborted").count();
            (left == silent.len()).then_some(())
        });
    });
    drop(silent);
    let growth_kib = held::peak_kib(&instance).saturating_sub(before_kib);
    assert!(growth_kib < GROWTH_KIB, "{growth_kib} KiB for {READERS} readers");
    held::none_leaked(&instance, before);
    instance.balance_books();
}

#[test]
fn two_thousand_that_say_nothing_cost_little_and_go() {
    const SILENT: usize = 2_000;
    const GROWTH_KIB: u64 = 24 * 1024;
    let config = "[server]\nhead_timeout_ms = 2000\nidle_timeout_ms = 2000\n\
                  [upstream]\npool_idle_timeout_ms = 300\n";
    let instance = Setup::default().shards(1).config(config).start();
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    let before_kib = held::peak_kib(&instance);
    beside(&instance, "silent connections", |_| {
        let mut silent: Vec<Connection> = Vec::new();
        for number in 0..SILENT {
            let mut connection = instance.open();
            match number % 4 {
                0 => connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").unwrap(),
                1 => drop(connection.call(&Request::get("/healthz")).unwrap().expect(200)),
                _ => {}
            }
            silent.push(connection);
        }
        for (number, connection) in silent.iter_mut().enumerate() {
            if number % 4 == 0 {
                connection.answer("GET").unwrap().expect(408);
            }
            assert!(connection.is_closed());
        }
    });
    let growth_kib = held::peak_kib(&instance).saturating_sub(before_kib);
    assert!(growth_kib < GROWTH_KIB, "{growth_kib} KiB for {SILENT} connections");
    held::none_leaked(&instance, before);
    instance.balance_books();
}

/// One call on each of these connections, all under way at once.
fn all_call(instance: &Instance, connections: &mut [Connection], service: &str) {
    let request = Request::get(&format!("/api/v1/consume/{service}")).key(instance.key("bench"));
    for connection in connections.iter_mut() {
        connection.send(&request.to_bytes()).unwrap();
    }
    for connection in connections {
        connection.answer("GET").unwrap().expect(200);
    }
}

#[test]
fn a_crowd_leaves_descriptors_for_the_calls_of_others() {
    let instance = Setup::default().shards(1).descriptors(100, 600).start();
    let upstream = Upstream::start(&["--latency-ms", "30"]);
    let service = instance.admin().service("slow", &upstream.url, &per_token(1, 1, 1));
    let mut callers: Vec<Connection> = (0..120).map(|_| instance.open()).collect();
    poll::until("the service", || {
        let request = Request::get(&format!("/api/v1/consume/{service}"));
        let answer = callers[0].call(&request.key(instance.key("bench"))).unwrap();
        (answer.status() == 200).then_some(())
    });
    // More than the soft bound allows.
    all_call(&instance, &mut callers, &service);
    let crowd: Vec<Connection> = (0..700).map(|_| instance.open()).collect();
    poll::until("the crowd to be there", || {
        let open = instance.metrics().sum("tollgate_open_connections", &[]);
        (open > 150).then_some(())
    });
    all_call(&instance, &mut callers, instance.service("per_token"));
    drop(crowd);
    // Idle connections to one upstream make room for those to another.
    for name in ["slow-2", "slow-3", "slow-4"] {
        let service = instance.admin().service(name, &upstream.url, &per_token(1, 1, 1));
        poll::until("the next service", || {
            let request = Request::get(&format!("/api/v1/consume/{service}"));
            let answer = callers[0].call(&request.key(instance.key("bench"))).unwrap();
            (answer.status() == 200).then_some(())
        });
        all_call(&instance, &mut callers, &service);
    }
    poll::until("room for newcomers", || {
        let mut connection = instance.open();
        connection.call(&Request::get("/healthz")).is_ok_and(|it| it.status() == 200).then_some(())
    });
    instance.balance_books();
}
