//! How connections end and what they hold: no answer is cut by our own reset, one too many is
//! told so, and an idle one gives its buffers back.

use crate::shared::{shared, unique};
use crate::support::held;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;

const LARGE_BYTES: usize = 3_000_000;

fn large(instance: &Instance) -> Request {
    Request::get(&format!("/api/v1/consume/{}", instance.service("per_token")))
        .key(instance.key("bench"))
        .header("x-mock-body-bytes", &LARGE_BYTES.to_string())
}

#[test]
fn an_answer_arrives_whole_whatever_its_client_says_after_its_request() {
    let instance = &shared().instance;
    for round in 0..5 {
        let mut connection = instance.open();
        let request = large(instance).header("connection", "close").id(&unique("whole"));
        connection.send(&request.to_bytes()).unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.must("connection"), "close");
        connection.send(b"and another thing").unwrap();
        let body = connection.body(&head, "GET").unwrap();
        assert!(body.len() >= LARGE_BYTES, "{round}: {}", body.len());
    }
}

#[test]
fn one_connection_too_many_is_told_so() {
    let instance = Setup::default().shards(1).config("[server]\nmax_connections = 3\n").start();
    let health = Request::get("/healthz");
    let mut held = Vec::new();
    // Those of the start may still be closing.
    poll::until("the bound to be reached", || {
        let mut connection = instance.open();
        match connection.call(&health).ok()?.status() {
            200 => {
                held.push(connection);
                None
            }
            status => {
                assert_eq!(status, 503);
                Some(())
            }
        }
    });
    assert!(held.len() <= 3, "{}", held.len());
    let mut refused = instance.open();
    let answer = refused.call(&health).unwrap().expect(503);
    assert_eq!(answer.code(), "overloaded");
    assert_eq!(answer.head.must("connection"), "close");
    assert_eq!(answer.head.number("retry-after"), 1);
    assert!(refused.is_closed());
    drop(held);
    poll::until("room", || (instance.open().call(&health).ok()?.status() == 200).then_some(()));
}

#[test]
fn idle_connections_hold_no_large_buffer() {
    let instance = Setup::default().shards(1).start();
    let before_kib = held::memory_kib(&instance);
    let body =
        format!("{{\"model\":\"demo-chat\",\"messages\":[],\"x\":\"{}\"}}", "x".repeat(9 << 20));
    let request = Request::new("POST", "/v1/chat/completions")
        .key(instance.key("bench"))
        .body(&body)
        .chunked(1 << 16);
    let mut idle = Vec::new();
    for _ in 0..12 {
        let mut connection = instance.open();
        connection.call(&request).unwrap().expect(200);
        idle.push(connection);
    }
    // 12 of them held 9 MiB each, and more.
    poll::until("the buffers to be given back", || {
        // The allocator gives memory back when it is asked for some.
        instance.call(&Request::get("/healthz")).expect(200);
        (held::memory_kib(&instance) < before_kib + 60 * 1024).then_some(())
    });
}
