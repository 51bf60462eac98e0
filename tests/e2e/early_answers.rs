//! An upstream may answer before it has the whole request, and want no more of it.

use crate::shared::unique;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use crate::support::scripted::{Call, Then, service, work};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 21\r\n\r\n{\"error\":\"too large\"}";

fn post(instance: &Instance, path: &str, body_bytes: usize) -> Request {
    let body = format!("\"{}\"", "x".repeat(body_bytes));
    let request = Request::new("POST", path).body(&body).key(instance.key("bench"));
    request.header("content-type", "application/json")
}

/// Calls with bodies that fit into the sockets' buffers and that do not, on a new connection and
/// on a kept one: each gets its 413, and the upstream one request.
fn refuses_early(name: &str, refused: &AtomicU32, act: fn(&mut Call) -> Then) {
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, name, act);
    for body_bytes in [100_000, 3 << 20, 12 << 20] {
        for _ in 0..2 {
            let request_id = unique(name);
            let request = post(&instance, &format!("{path}/refuse"), body_bytes).id(&request_id);
            let answer = instance.call(&request).expect(413);
            assert_eq!(answer.text(), "{\"error\":\"too large\"}");
            assert_eq!(refused.swap(0, Ordering::Relaxed), 1, "{body_bytes}");
            assert_eq!(instance.ledger().row(&request_id).attempts, 1);
        }
        // The next one finds a kept connection.
        instance.call(&Request::get(&path).key(instance.key("bench"))).expect(200);
    }
    instance.balance_books();
}

#[test]
fn a_refusal_by_an_upstream_that_reads_no_more_arrives() {
    static REFUSED: AtomicU32 = AtomicU32::new(0);
    refuses_early("reads-no-more", &REFUSED, |call| {
        if !call.line.contains("/refuse") {
            return Then::Answer;
        }
        REFUSED.fetch_add(1, Ordering::Relaxed);
        call.say(TOO_LARGE);
        poll::until("the answer to arrive", || {
            (REFUSED.load(Ordering::Relaxed) == 0).then_some(())
        });
        Then::Close
    });
}

#[test]
fn a_refusal_by_an_upstream_that_closes_at_once_arrives() {
    static REFUSED: AtomicU32 = AtomicU32::new(0);
    refuses_early("closes-at-once", &REFUSED, |call| {
        if !call.line.contains("/refuse") {
            return Then::Answer;
        }
        REFUSED.fetch_add(1, Ordering::Relaxed);
        call.say(TOO_LARGE);
        Then::Close
    });
}

#[test]
fn an_answer_that_begins_before_the_request_has_ended_is_whole() {
    static READ: AtomicBool = AtomicBool::new(false);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "flushes", |call| {
        if !call.line.contains("/flush") {
            return Then::Answer;
        }
        call.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        work(Duration::from_millis(100));
        call.read_body();
        READ.store(true, Ordering::Relaxed);
        call.say(b"done");
        Then::Next
    });
    let answer = instance.call(&post(&instance, &format!("{path}/flush"), 12 << 20)).expect(200);
    assert_eq!(answer.text(), "done");
    assert!(READ.load(Ordering::Relaxed));
    instance.balance_books();
}

#[test]
fn a_good_answer_by_an_upstream_that_reads_no_more_arrives() {
    static ANSWERED: AtomicBool = AtomicBool::new(false);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "content", |call| {
        if !call.line.contains("/content") {
            return Then::Answer;
        }
        call.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        poll::until("the answer to arrive", || ANSWERED.load(Ordering::Relaxed).then_some(()));
        Then::Close
    });
    let answer = instance.call(&post(&instance, &format!("{path}/content"), 12 << 20)).expect(200);
    ANSWERED.store(true, Ordering::Relaxed);
    assert_eq!(answer.text(), "done");
    instance.balance_books();
}
