//! Connections that say nothing hold next to nothing, whatever passed over them before.

use crate::support::held;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll::{self, PATIENCE};
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

/// A client's connection is a task that waits and a few counted references. More is a buffer.
const CLIENT_BYTES_MAX: u64 = 4 * 1024;
/// An upstream's is part of a list, and what its caller left may not be back with the system yet.
const UPSTREAM_BYTES_MAX: u64 = 16 * 1024;

/// Small hashes for the first keys, so that connections can't reuse the memory that these free.
const CONFIG: &str = "[keys]\nargon2_memory_kib = 1024\n";

/// Fails unless so many idle connections come to hold less than `bytes_max` each, of what the
/// process has gained since it had `before_kib`.
fn hold_little(
    instance: &Instance,
    name: &str,
    connections: usize,
    before_kib: u64,
    bytes_max: u64,
) {
    let begun = Instant::now();
    let each = poll::until("the memory to be looked at", || {
        let grown_kib = held::memory_kib(instance).saturating_sub(before_kib);
        let each = grown_kib * 1024 / connections as u64;
        (each < bytes_max || begun.elapsed() > PATIENCE / 2).then_some(each)
    });
    let line = format!("idle, {name}: {each} bytes a connection ({connections})\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(each < bytes_max, "{line}");
}

/// The memory of a process that has given back what its last work took.
fn memory_at_rest_kib(instance: &Instance) -> u64 {
    let (mut last_kib, mut since) = (0, Instant::now());
    poll::until("the memory to come to rest", || {
        let now_kib = held::memory_kib(instance);
        if now_kib != last_kib {
            (last_kib, since) = (now_kib, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(1_500)).then_some(now_kib)
    })
}

/// Many connections, each after one call of this kind, or of none.
fn idle_after(name: &str, request: impl Fn(&Instance) -> Option<Request>) {
    const CONNECTIONS: usize = 2_000;
    let instance = Setup::default().shards(1).config(CONFIG).start();
    let request = request(&instance);
    let mut idle: Vec<Connection> = Vec::with_capacity(CONNECTIONS);
    let mut open = || {
        let mut connection = instance.open();
        if let Some(request) = &request {
            connection.call(request).unwrap().expect(200);
        }
        idle.push(connection);
    };
    // The first ones allocate what all share.
    (0..20).for_each(|_| open());
    let before_kib = memory_at_rest_kib(&instance);
    (20..CONNECTIONS).for_each(|_| open());
    poll::until("all of them to be there", || {
        let there = instance.metrics().sum("tollgate_open_connections", &[]);
        (there >= CONNECTIONS as u64).then_some(())
    });
    hold_little(&instance, name, CONNECTIONS - 20, before_kib, CLIENT_BYTES_MAX);
    // They are as good as new.
    for connection in idle.iter_mut().step_by(CONNECTIONS / 10) {
        connection.call(&Request::get("/healthz")).unwrap().expect(200);
    }
}

#[test]
fn connections_that_never_spoke_hold_little() {
    idle_after("never spoke", |_| None);
}

#[test]
fn connections_hold_little_after_a_call() {
    idle_after("after a call", |instance| {
        Some(instance.chat(&json!({})).key(instance.key("bench")))
    });
}

#[test]
fn connections_hold_little_after_a_chunked_body() {
    idle_after("after a chunked body", |instance| {
        let long = json!({ "user": "x".repeat(40_000) });
        Some(instance.chat(&long).key(instance.key("bench")).chunked(4_000))
    });
}

#[test]
fn connections_to_upstreams_hold_little() {
    const CONNECTIONS: usize = 400;
    // All wait for their long answers at once, so each has a connection of its own.
    let upstream = Upstream::start(&["--latency-ms", "1500", "--tokens", "8000"]);
    let instance = Setup::default().shards(1).config(CONFIG).upstream(&upstream).start();
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    let bytes = instance.call(&request).expect(200).body.len();
    assert!(bytes > 30_000, "{bytes}");
    let before_kib = memory_at_rest_kib(&instance);
    let mut callers: Vec<Connection> = (0..CONNECTIONS).map(|_| instance.open()).collect();
    for caller in &mut callers {
        caller.send(&request.to_bytes()).unwrap();
    }
    for caller in &mut callers {
        caller.answer("POST").unwrap().expect(200);
    }
    drop(callers);
    let idle = poll::until("the callers to be gone", || {
        let metrics = instance.metrics();
        let open = metrics.sum("tollgate_open_connections", &[]);
        (open == 0).then(|| metrics.sum("tollgate_pool_connections", &[]))
    });
    assert!(idle as usize > CONNECTIONS / 2, "{idle} kept");
    hold_little(&instance, "to upstreams", idle as usize, before_kib, UPSTREAM_BYTES_MAX);
}
