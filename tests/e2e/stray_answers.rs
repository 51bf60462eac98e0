//! What an upstream sends after an answer's end is nobody's: it never reaches the next caller.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use crate::support::scripted::{ANSWER, Call, Then, service, work};
use std::io::Write;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

const STOLEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN";
const DELAYS_MS: [u64; 3] = [5, 20, 50];
/// Requests whose stray answer is on its way back, by what they are called.
static STRAYED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// `/NAME/KIND/DELAYms` is answered by a KIND, and after a while by what nobody asked for; anything
/// else is answered late enough for such a thing to come first.
fn act(call: &mut Call) -> Then {
    let parts: Vec<String> = call.line.split(['/', ' ']).map(str::to_owned).collect();
    let Some(at) = parts.iter().position(|part| part.ends_with("ms")) else {
        work(Duration::from_millis(if call.line.contains("/late") { 80 } else { 0 }));
        return Then::Answer;
    };
    let delay_ms = parts[at].trim_end_matches("ms").parse().unwrap();
    call.say(match parts[at - 1].as_str() {
        "head" => b"HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\n",
        "no-content" => b"HTTP/1.1 204 No Content\r\n\r\n",
        "not-modified" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 51\r\n\r\n",
        "empty" => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        _ => ANSWER,
    });
    let mut output = call.output.try_clone().unwrap();
    let name = format!("{}-{delay_ms}", parts[at - 1]);
    thread::spawn(move || {
        work(Duration::from_millis(delay_ms));
        // It may have been closed, which is as good.
        let _ = output.write_all(STOLEN);
        STRAYED.lock().unwrap().push(name);
    });
    Then::Next
}

fn next_caller_is_served(instance: &Instance, path: &str, name: &str) {
    let request = Request::get(&format!("{path}/late")).key(instance.key("enterprise"));
    let answer = instance.call(&request);
    let is_own = answer.status() == 200 && answer.text().starts_with("{\"usage");
    assert!(is_own, "{name}: {} {}", answer.status(), answer.text());
}

fn stray(instance: &Instance, path: &str, method: &str, kind: &str, delay_ms: u64) -> u16 {
    let request = Request::new(method, &format!("{path}/{kind}/{delay_ms}ms"));
    let request = request.key(instance.key("bench"));
    instance.open().call(&request).unwrap().status()
}

fn has_strayed(name: &str) {
    poll::until("the stray answer", || {
        STRAYED.lock().unwrap().iter().any(|strayed| strayed == name).then_some(())
    });
}

#[test]
fn an_answer_without_a_body_leaves_nothing_to_the_next_caller() {
    let instance = Setup::default().shards(1).start();
    for (method, kind, status) in [
        ("HEAD", "head", 200),
        ("GET", "no-content", 204),
        ("GET", "not-modified", 304),
        ("GET", "empty", 200),
    ] {
        for delay_ms in DELAYS_MS {
            let name = format!("{kind}-{delay_ms}");
            let path = service(&instance, &name, act);
            assert_eq!(stray(&instance, &path, method, kind, delay_ms), status);
            // It comes while this call is waiting for its own answer,
            next_caller_is_served(&instance, &path, &name);
            has_strayed(&name);
            // and before this one begins.
            next_caller_is_served(&instance, &path, &name);
        }
    }
    instance.balance_books();
}

#[test]
fn a_second_answer_is_seen_before_the_next_call_and_told_of() {
    let mut instance = Setup::default().shards(1).start();
    for delay_ms in DELAYS_MS {
        let name = format!("second-{delay_ms}");
        let path = service(&instance, &name, act);
        assert_eq!(stray(&instance, &path, "GET", "second", delay_ms), 200);
        has_strayed(&name);
        for _ in 0..3 {
            next_caller_is_served(&instance, &path, &name);
        }
        let strays =
            instance.metrics().sum("tollgate_upstream_strays_total", &[("service", &name)]);
        assert_eq!(strays, 1, "{name}");
        let told = format!("service=\"{name}\"");
        poll::until("the log to tell of it", || {
            instance.process.log().contains(&told).then_some(())
        });
    }
    instance.balance_books();
}

#[test]
fn what_comes_together_with_an_answer_is_not_taken_for_another() {
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "together", |call| {
        if call.line.contains("/together") {
            call.read_body();
            call.say(&[ANSWER, STOLEN].concat());
            return Then::Next;
        }
        Then::Answer
    });
    for _ in 0..3 {
        let request = Request::get(&format!("{path}/together")).key(instance.key("bench"));
        instance.call(&request).expect(200);
        next_caller_is_served(&instance, &path, "together");
    }
    let strays =
        instance.metrics().sum("tollgate_upstream_strays_total", &[("service", "together")]);
    assert_eq!(strays, 3);
    instance.balance_books();
}

#[test]
fn an_end_that_comes_late_keeps_nobody_waiting_and_the_connection() {
    static CONNECTIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static ENDED: Mutex<u32> = Mutex::new(0);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "late-end", |call| {
        if !call.line.contains("/stream") {
            return Then::Answer;
        }
        call.read_body();
        CONNECTIONS.lock().unwrap().push(call.output.peer_addr().unwrap().to_string());
        call.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n");
        call.say(b"transfer-encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n");
        // Longer than anybody would wait for it.
        work(Duration::from_millis(400));
        call.say(b"0\r\n\r\n");
        *ENDED.lock().unwrap() += 1;
        Then::Next
    });
    let request = Request::new("POST", &format!("{path}/stream")).body("{}");
    let request = request.key(instance.key("bench"));
    let mut connection = instance.open();
    for calls in 1..4 {
        let answer = connection.call(&request).unwrap().expect(200);
        assert_eq!(answer.events(), ["[DONE]"]);
        // The caller has all of it before the upstream has sent it.
        assert_eq!(*ENDED.lock().unwrap(), calls - 1);
        poll::until("the late end", || (*ENDED.lock().unwrap() == calls).then_some(()));
    }
    let connections = CONNECTIONS.lock().unwrap();
    assert!(connections.iter().all(|it| *it == connections[0]), "{connections:?}");
    instance.balance_books();
}
