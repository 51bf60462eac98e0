//! Clients that leave while their upstream is silent: the upstream is left too, and the record
//! says so. And clients that only say that they send no more: they get their answers.

use crate::shared::{Own, unique};
use crate::support::acted::{self, STREAM, chunk};
use crate::support::admin::per_token;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use crate::support::scripted::{Then, service, work};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Reads a stream up to where its upstream falls silent, after so many events.
fn read_half(connection: &mut Connection, events: usize) {
    assert_eq!(connection.head().unwrap().status, 200);
    let mut seen = String::new();
    while seen.matches("\n\n").count() < events {
        seen += &String::from_utf8(connection.chunk().unwrap().unwrap()).unwrap();
    }
}

#[test]
fn a_client_that_leaves_a_silent_stream_is_noticed() {
    let instance = Setup::default().shards(1).start();
    let own = Own::on(&instance, &per_token(1_000_000, 1_000_000, 1_000_000), &["--tokens", "16"]);
    // Half of 16 tokens, and a chat's opening event.
    let ways: [(_, _, fn(Connection)); 2] = [
        ("/v1/chat/completions", 9, drop),
        ("/v1/completions", 8, |it: Connection| it.reset().unwrap()),
    ];
    for (path, events, leave) in ways {
        let before = own.upstream.count("aborted_streams");
        let request_id = unique("silent");
        let body = own.chat_body(&json!({ "stream": true, "prompt": "Say something." }));
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let mut connection = instance.open();
        connection.send(&request.header("x-mock-fault", "stall-mid-stream").to_bytes()).unwrap();
        read_half(&mut connection, events);
        leave(connection);
        // Its own patience with a silent upstream is a minute.
        poll::until("the upstream to be left too", || {
            (own.upstream.count("aborted_streams") > before).then_some(())
        });
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.outcome.as_str(), row.status), ("client_aborted", 200), "{row:?}");
        assert!(row.input_tokens > 0 && (6..=24).contains(&row.output_tokens), "{row:?}");
        assert_eq!(row.cost_nanousd, row.input_tokens + row.output_tokens, "{row:?}");
    }
    instance.balance_books();
}

/// How long it takes from a client's leaving to its upstream being left, over many streams: told,
/// not judged, since a busy machine takes its own time.
#[test]
fn an_upstream_is_left_soon_after_its_client_has_left() {
    const ROUNDS: usize = 15;
    const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let instance = Setup::default().shards(1).start();
    for (name, is_silent) in [("chatty", false), ("silent", true)] {
        let (say, left) = channel();
        acted::service(&instance, name, move |stream| {
            stream.write_all((STREAM.to_owned() + &chunk(EVENT)).as_bytes())?;
            stream.set_read_timeout(Some(Duration::from_millis(5)))?;
            loop {
                match stream.read(&mut [0]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => break,
                }
                if !is_silent && stream.write_all(chunk(EVENT).as_bytes()).is_err() {
                    break;
                }
            }
            let _ = say.send(Instant::now());
            Err(ErrorKind::Other.into())
        });
        let mut spans: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let body = json!({ "model": name, "stream": true, "messages": [] });
                let request = Request::post("/v1/chat/completions", &body);
                let mut connection = instance.open();
                connection.send(&request.key(instance.key("bench")).to_bytes()).unwrap();
                read_half(&mut connection, 1);
                drop(connection);
                let gone = Instant::now();
                left.recv_timeout(poll::PATIENCE).unwrap().saturating_duration_since(gone)
            })
            .collect();
        spans.sort();
        let (least, median, most) = (spans[0], spans[ROUNDS / 2], spans[ROUNDS - 1]);
        println!("{name}: the upstream was left after {least:?}, {median:?}, at most {most:?}");
    }
    instance.balance_books();
    assert!(instance.ledger().rows().iter().all(|row| row.outcome == "client_aborted"));
}

#[test]
fn a_client_that_does_not_wait_for_an_answer_is_noticed() {
    let instance = Setup::default().shards(1).start();
    let own = Own::on(&instance, &per_token(1_000_000, 1_000_000, 1_000_000), &[]);
    let leave: [fn(Connection); 2] = [drop, |it| it.reset().unwrap()];
    for (stream, leave) in [false, true].into_iter().zip(leave) {
        let request_id = unique("impatient");
        let body = own.chat_body(&json!({ "stream": stream }));
        let request = Request::post("/v1/chat/completions", &body).key(instance.key("bench"));
        let request = request.id(&request_id).header("x-mock-fault", "stall-before-head");
        let mut connection = instance.open();
        connection.send(&request.to_bytes()).unwrap();
        poll::until("the upstream to have it", || {
            own.upstream.last().contains(&request_id).then_some(())
        });
        leave(connection);
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.outcome.as_str(), row.status), ("client_aborted", 499), "{row:?}");
        assert_eq!((row.output_tokens, row.tokens_source.as_str()), (0, "estimated"), "{row:?}");
        assert!(row.input_tokens > 0 && row.cost_nanousd == row.input_tokens, "{row:?}");
    }
    instance.balance_books();
}

/// The next answer, past interim ones.
fn final_answer(connection: &mut Connection) -> (u16, String) {
    loop {
        let head = connection.head().unwrap();
        if head.status >= 200 {
            let body = connection.body(&head, "POST").unwrap();
            return (head.status, String::from_utf8(body).unwrap());
        }
        assert_eq!(head.status, 100);
    }
}

fn half_closed(instance: &Instance, requests: &[&Request]) -> Vec<String> {
    let mut connection = instance.open();
    let bytes: Vec<u8> = requests.iter().flat_map(|request| request.to_bytes()).collect();
    connection.send(&bytes).unwrap();
    connection.end_writes().unwrap();
    let answers = requests.iter().map(|_| {
        let (status, body) = final_answer(&mut connection);
        assert_eq!(status, 200, "{body}");
        body
    });
    let bodies = answers.collect();
    assert!(connection.is_closed());
    bodies
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let instance = Setup::default().shards(1).start();
    let key = instance.key("bench");
    let plain = instance.chat(&json!({})).key(key);
    // Longer than it takes until the gateway asks whether anybody is there, in either way.
    let slow = plain.clone().header("x-mock-latency-ms", "1500");
    let stream = instance.chat(&json!({ "stream": true, "max_tokens": 4 })).key(key);
    let slow_stream = stream.clone().header("x-mock-inter-token-ms", "300");
    for whole in [&plain, &slow] {
        let [body] = &half_closed(&instance, &[whole])[..] else { panic!("one answer") };
        assert!(body.contains("chat.completion"), "{body}");
    }
    for streamed in [&stream, &slow_stream] {
        let [body] = &half_closed(&instance, &[streamed])[..] else { panic!("one answer") };
        assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
        assert_eq!(body.matches("\"content\":\"").count(), 5, "{body}");
    }
    // What was sent ahead is not lost by looking after the client meanwhile.
    let bodies = half_closed(&instance, &[&slow, &slow_stream, &plain]);
    assert!(bodies[0].contains("chat.completion") && bodies[2].contains("chat.completion"));
    assert!(bodies[1].ends_with("data: [DONE]\n\n"));
    let rows = instance.ledger();
    poll::until("all rows", || (rows.rows().len() >= 7).then_some(()));
    assert!(rows.rows().iter().all(|row| row.outcome == "completed"), "{:?}", rows.rows());
    instance.balance_books();
}

#[test]
fn nothing_is_asked_in_the_middle_of_a_body_of_known_length() {
    /// More than is held until it is whole.
    const HALF: usize = 200 * 1024;
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "pauses", |call| {
        if !call.line.contains("/pauses") {
            return Then::Answer;
        }
        call.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF).as_bytes());
        call.say(&[b'x'; HALF]);
        // Longer than it takes until the gateway asks for an answer's head.
        work(Duration::from_millis(1_500));
        call.say(&[b'x'; HALF]);
        Then::Next
    });
    let request = Request::get(&format!("{path}/pauses")).key(instance.key("bench"));
    let [body] = &half_closed(&instance, &[&request])[..] else { panic!("one answer") };
    assert!(body.len() == 2 * HALF && body.bytes().all(|byte| byte == b'x'));
    instance.balance_books();
}
