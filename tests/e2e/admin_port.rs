//! The admin port under clients that are slow, silent, too many or misled: each is told or closed
//! in time, and the instance keeps its descriptors for calls. Also, a consumer's name is its own.

use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use serde_json::{Value, json};
use std::io::ErrorKind;
use ureq::http::Method;

/// More than the port serves and refuses at once.
const CROWD: usize = 400;
/// Descriptors that a crowd may cost: 128 served and 32 being refused, and a few in between.
const CROWD_DESCRIPTORS_MAX: usize = 128 + 32 + 16;

fn start() -> Instance {
    let config = "[server]\nhead_timeout_ms = 1000\nbody_timeout_ms = 1000\n\
                  write_timeout_ms = 1000\n";
    Setup::default().shards(1).config(config).start()
}

fn open(instance: &Instance) -> Connection {
    Connection::open(&instance.admin().url).unwrap()
}

fn descriptors(instance: &Instance) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", instance.process.id())).unwrap().count()
}

fn is_well(instance: &Instance) -> bool {
    let answer = Connection::open(&instance.admin().url)
        .and_then(|mut it| it.call(&Request::get("/healthz")));
    answer.is_ok_and(|answer| answer.status() == 200)
}

#[test]
fn a_request_that_does_not_come_is_told_so() {
    let instance = start();
    let token = instance.admin().token;
    let mut slow_head = open(&instance);
    slow_head.send(b"GET /healthz HTTP/1.1\r\nhost: a").unwrap();
    let mut slow_body = open(&instance);
    let head = format!(
        "POST /admin/v1/plans HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-length: 100\r\n\r\n{{\"name\":"
    );
    slow_body.send(head.as_bytes()).unwrap();
    let mut silent = open(&instance);
    for mut slow in [slow_head, slow_body] {
        let answer = slow.answer("POST").unwrap();
        assert_eq!((answer.status(), answer.code().as_str()), (408, "request_timeout"));
        assert_eq!(answer.head.must("connection"), "close");
        assert!(slow.rest().is_ok_and(|rest| rest.is_empty()));
    }
    assert!(silent.rest().is_ok_and(|rest| rest.is_empty()), "nothing was asked");
}

#[test]
fn a_body_past_its_bound_is_refused_whatever_its_framing() {
    let instance = start();
    let token = instance.admin().token;
    let body = json!({ "name": "x".repeat(70_000) }).to_string();
    let request = Request::new("POST", "/admin/v1/plans").key(&token).body(&body);
    for request in [request.clone(), request.chunked(8_192)] {
        let mut connection = open(&instance);
        // It may be refused before all of it is sent.
        let _ = connection.send(&request.to_bytes());
        let answer = connection.answer("POST").unwrap();
        assert_eq!((answer.status(), answer.code().as_str()), (413, "request_too_large"));
    }
    assert!(is_well(&instance));
}

#[test]
fn a_silent_crowd_costs_a_bounded_number_of_descriptors() {
    let instance = start();
    let before = descriptors(&instance);
    let mut crowd: Vec<Connection> = (0..CROWD).map(|_| open(&instance)).collect();
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    instance.call(&request).expect(200);
    let held = descriptors(&instance) - before;
    assert!(held <= CROWD_DESCRIPTORS_MAX, "{held} descriptors held");
    // Each is closed in time, with a word for some of those that found no place.
    let mut refused = 0;
    for silent in &mut crowd {
        match silent.answer("GET") {
            Ok(answer) => {
                assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
                refused += 1;
            }
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "still open"),
        }
    }
    assert!(refused > 0);
    poll::until("room again", || is_well(&instance).then_some(()));
    poll::until("the descriptors", || (descriptors(&instance) <= before + 8).then_some(()));
}

#[test]
fn a_client_that_takes_no_answer_is_cut_off() {
    let instance = start();
    let mut deaf = open(&instance);
    // More than the sockets' buffers hold, both ways: the server stops reading when its answers
    // are stuck, and this waits until it gives up.
    let requests = Request::get("/openapi.json").to_bytes().repeat(200_000);
    let error = deaf.send(&requests).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "still open");
    assert!(is_well(&instance));
}

#[test]
fn a_name_that_is_not_its_own_is_refused() {
    let config = "[admin]\nhosts = [\"Admin.example\"]\n";
    let instance = Setup::default().shards(1).config(config).start();
    let admin = instance.admin();
    let status = |path: &str, host: &str| {
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\r\n",
            admin.token
        );
        let mut connection = Connection::open(&admin.url).unwrap();
        connection.send(bytes.as_bytes()).unwrap();
        connection.answer("GET").unwrap().status()
    };
    for path in ["/metrics", "/admin/v1/plans", "/openapi.json"] {
        for good in ["127.0.0.1:3001", "localhost", "[::1]:3001", "admin.EXAMPLE:80", "10.0.0.1"] {
            assert_eq!(status(path, good), 200, "{path} {good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "admin.example.evil:3001"] {
            assert_eq!(status(path, bad), 421, "{path} {bad}");
        }
    }
}

#[test]
fn a_consumers_name_is_its_own_until_it_is_deleted() {
    let instance = start();
    let admin = instance.admin();
    let body = json!({ "name": "acme", "plan": "basic" });
    let first = admin.post("consumers", &body);
    let (status, refused) = admin.call(Method::POST, "consumers", Some(&body));
    assert_eq!((status, &refused["error"]["param"]), (409, &json!("name")), "{refused}");
    let other = admin.post("consumers", &json!({ "name": "other", "plan": "basic" }));
    let path = |consumer: &Value| format!("consumers/{}", consumer["id"].as_str().unwrap());
    let renamed = admin.call(Method::PATCH, &path(&other), Some(&json!({ "name": "acme" })));
    assert_eq!(renamed.0, 409);
    let key = admin.key_of(other["id"].as_str().unwrap(), &json!({}));
    let (status, refused) = admin.call(Method::DELETE, &path(&other), None);
    assert_eq!(status, 409);
    assert!(refused["error"]["message"].as_str().unwrap().contains(&key.id), "{refused}");
    assert_eq!(admin.call(Method::DELETE, &path(&first), None).0, 200);
    assert_eq!(admin.call(Method::GET, &path(&first), None).0, 404);
    admin.post("consumers", &body);
}
