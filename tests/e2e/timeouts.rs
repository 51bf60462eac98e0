//! Every patience with an upstream has an end of its own, which the caller and the record are
//! told of alike, before an answer's head, in a body, and in a stream.

use crate::shared::{Own, unique};
use crate::support::admin::per_token;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Patience of which one kind ends long before the others.
fn patience(short: &str, ms: u32) -> String {
    let kinds = ["connect", "first_byte", "idle", "total"];
    let line =
        |kind: &str| format!("{kind}_timeout_ms = {}\n", if kind == short { ms } else { 60_000 });
    format!("[upstream]\n{}", kinds.map(line).concat())
}

/// Not earlier than its patience says, and long before any other ends.
fn timed_out(instance: &Instance, request: &Request, ms: u32) {
    assert_eq!(cost_of_timeout(instance, request, ms), 0);
}

/// The same; what it cost.
fn cost_of_timeout(instance: &Instance, request: &Request, ms: u32) -> u64 {
    let request_id = unique("timeout");
    let begun = Instant::now();
    let answer = instance.call(&request.clone().key(instance.key("bench")).id(&request_id));
    assert!(begun.elapsed() >= Duration::from_millis(ms.into()), "too early");
    assert_eq!(answer.expect(504).code(), "upstream_timeout");
    let row = instance.ledger().row(&request_id);
    assert_eq!((row.status, row.outcome.as_str()), (504, "timed_out"), "{row:?}");
    instance.balance_books();
    row.cost_nanousd
}

/// A port that takes no more connections: whoever holds it never accepts, and its queue is full.
fn full_port() -> (SocketAddr, OwnedFd, Vec<TcpStream>) {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&socket, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
        assert!(queued.len() < 16, "the queue has no end");
    }
    (address, socket, queued)
}

/// A call of a service at `address`, once it is sold.
fn call_of(instance: &Instance, address: SocketAddr) -> Request {
    let id = instance.admin().service("full", &format!("http://{address}"), &per_token(1, 1, 1));
    poll::until("the service", || {
        let models = Request::get("/v1/models").key(instance.key("bench"));
        instance.call(&models).text().contains(&id).then_some(())
    });
    Request::get(&format!("/api/v1/consume/{id}"))
}

#[test]
fn connecting_has_an_end() {
    let instance = Setup::default().shards(1).config(&patience("connect", 300)).start();
    let (address, _socket, _queued) = full_port();
    timed_out(&instance, &call_of(&instance, address), 300);
}

#[test]
fn connecting_ends_with_the_whole_call() {
    let instance = Setup::default().shards(1).config(&patience("total", 300)).start();
    let (address, _socket, _queued) = full_port();
    timed_out(&instance, &call_of(&instance, address), 300);
}

#[test]
fn connecting_ends_with_the_drain() {
    let config = format!("{}[server]\ndrain_timeout_ms = 300\n", patience("connect", 60_000));
    let mut instance = Setup::default().shards(1).config(&config).start();
    let (address, _socket, _queued) = full_port();
    let request = call_of(&instance, address).key(instance.key("bench")).id("cut-off");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    poll::until("the call to be under way", || {
        (instance.metrics().sum("tollgate_permits_open", &[]) == 1).then_some(())
    });
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    let row = instance.ledger().row("cut-off");
    assert_eq!((row.status, row.outcome.as_str()), (504, "timed_out"), "{row:?}");
}

#[test]
fn the_first_byte_has_its_time() {
    let instance = Setup::default().shards(1).config(&patience("first_byte", 300)).start();
    let request = instance.chat(&json!({}));
    timed_out(&instance, &request.clone().header("x-mock-fault", "stall-before-head"), 300);
    // An answer that has begun may take longer.
    let slow = request.key(instance.key("bench")).header("x-mock-fault", "slow");
    instance.call(&slow).expect(200);
}

#[test]
fn silence_within_an_answer_has_an_end() {
    let instance = Setup::default().shards(1).config(&patience("idle", 300)).start();
    let request = instance.chat(&json!({}));
    timed_out(&instance, &request.clone().header("x-mock-fault", "stall-mid-stream"), 300);
    // Before the answer's first byte it is not idle, it thinks.
    let slow = request.key(instance.key("bench")).header("x-mock-latency-ms", "900");
    instance.call(&slow).expect(200);
}

#[test]
fn a_whole_call_has_an_end() {
    let instance = Setup::default().shards(1).config(&patience("total", 400)).start();
    let slow = instance.chat(&json!({})).header("x-mock-fault", "slow");
    timed_out(&instance, &slow, 400);
    // A stream that goes on and on ends with an event that says why.
    let own = Own::on(&instance, &per_token(1, 1, 1), &["--tokens", "100000"]);
    let body = own.chat_body(&json!({ "stream": true }));
    let request = Request::post("/v1/chat/completions", &body).key(instance.key("bench"));
    let mut connection: Connection = instance.open();
    let request = request.id("endless").header("x-mock-inter-token-ms", "20");
    let answer = connection.call(&request).unwrap().expect(200);
    assert!(answer.events().last().unwrap().contains("upstream_timeout"), "{}", answer.text());
    assert!(connection.is_closed());
    assert_eq!(instance.ledger().row("endless").outcome, "timed_out");
    instance.balance_books();
}

const OWN_TIMEOUT: &str = "x-tollgate-timeout-ms";

#[test]
fn a_caller_may_have_less_patience() {
    let instance = Setup::default().shards(1).start();
    let hurried = |request: Request| request.header(OWN_TIMEOUT, "300");
    let request = hurried(instance.chat(&json!({})));
    // The upstream has the prompt, and it is the caller who would not wait.
    for fault in ["stall-before-head", "stall-mid-stream"] {
        let request = request.clone().header("x-mock-fault", fault);
        assert!(cost_of_timeout(&instance, &request, 300) > 0, "{fault}");
    }
    assert!(!instance.metrics().has("tollgate_upstream_faults_total"));
    instance.call(&request.key(instance.key("bench"))).expect(200);
    let (address, _socket, _queued) = full_port();
    timed_out(&instance, &hurried(call_of(&instance, address)), 300);
    // A stream ends as it does with any other timeout.
    let own = Own::on(&instance, &per_token(1, 1, 1), &["--tokens", "100000"]);
    let body = own.chat_body(&json!({ "stream": true }));
    let request = Request::post("/v1/chat/completions", &body).key(instance.key("bench"));
    let request = hurried(request).id("hurried").header("x-mock-inter-token-ms", "20");
    let mut connection: Connection = instance.open();
    let answer = connection.call(&request).unwrap().expect(200);
    assert!(answer.events().last().unwrap().contains("upstream_timeout"), "{}", answer.text());
    assert!(connection.is_closed());
    let row = instance.ledger().row("hurried");
    assert_eq!((row.outcome.as_str(), row.output_tokens > 0), ("timed_out", true), "{row:?}");
    assert!(!own.upstream.last().contains(OWN_TIMEOUT), "{}", own.upstream.last());
    instance.balance_books();
}

#[test]
fn a_caller_may_not_have_more_patience() {
    let instance = Setup::default().shards(1).config(&patience("total", 300)).start();
    let request = instance.chat(&json!({})).header("x-mock-fault", "stall-before-head");
    for ms in ["60000", "99999999999999999999999"] {
        timed_out(&instance, &request.clone().header(OWN_TIMEOUT, ms), 300);
    }
}

#[test]
fn a_patience_that_is_no_number_is_refused() {
    let instance = Setup::default().shards(1).start();
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    for ms in ["", "0", "000", "-1", "+5", "1.5", "1e3", "1 2", "5s"] {
        let answer = instance.call(&request.clone().header(OWN_TIMEOUT, ms)).expect(400);
        assert_eq!(answer.code(), "invalid_request", "{ms}");
        assert_eq!(answer.json()["error"]["param"], OWN_TIMEOUT, "{ms}");
    }
    let twice = request.header(OWN_TIMEOUT, "1000").header(OWN_TIMEOUT, "2000");
    let answer = instance.call(&twice).expect(400);
    assert!(answer.text().contains(OWN_TIMEOUT), "{}", answer.text());
    instance.balance_books();
}
