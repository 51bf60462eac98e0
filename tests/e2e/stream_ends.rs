//! Where a stream ends, whatever stands in it or comes after it: the caller gets all of it, is
//! billed what its upstream reports, and does not wait for an upstream that never comes to an end.

use crate::support::acted::{self, LAST_CHUNK, STREAM, chunk, whole};
use crate::support::http::{Answer, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MESSAGE_START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":\
    {\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n";
const MESSAGE_DELTA: &str =
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n";
const MESSAGE_STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\
    \"response\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":5}}}\n\n";
/// What proxies put behind: an end of another dialect, figures of their own, a sign of life.
const EXTRA: &str = "event: proxy\ndata: {\"cost\":1}\n\n: still here\n\ndata: [DONE]\n\n";

fn ends() -> [(&'static str, String); 2] {
    let messages = [MESSAGE_START, MESSAGE_DELTA, MESSAGE_STOP].concat();
    [("/v1/messages", messages), ("/v1/responses", COMPLETED.to_owned())]
}

fn body(model: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    json!({
        "model": model, "stream": stream, "max_tokens": 50, "input": "Hello", "messages": messages
    })
}

fn call(instance: &Instance, path: &str, model: &str, request_id: &str) -> Answer {
    let request = Request::post(path, &body(model, true)).key(instance.key("bench"));
    instance.call(&request.id(request_id)).expect(200)
}

fn reported(instance: &Instance, request_id: &str, tokens: (u64, u64)) {
    let row = instance.ledger().row(request_id);
    assert_eq!((row.input_tokens, row.output_tokens), tokens, "{row:?}");
    assert_eq!((row.outcome.as_str(), row.tokens_source.as_str()), ("completed", "reported"));
}

#[test]
fn what_comes_after_the_end_marker_arrives() {
    let instance = Setup::default().shards(1).start();
    for (at, (path, events)) in ends().into_iter().enumerate() {
        let expected = format!("{events}{EXTRA}");
        // In the same packet, in the next one, and in pieces that split an event.
        let (first, last) = EXTRA.split_at(EXTRA.len() - 3);
        let whole = vec![STREAM.to_owned() + &chunk(&events) + &chunk(EXTRA) + LAST_CHUNK];
        let next = vec![STREAM.to_owned() + &chunk(&events), chunk(EXTRA) + LAST_CHUNK];
        let split =
            vec![STREAM.to_owned() + &chunk(&events) + &chunk(first), chunk(last) + LAST_CHUNK];
        for (way, writes) in [whole, next, split].into_iter().enumerate() {
            let name = format!("extra-{at}-{way}");
            acted::service(&instance, &name, move |stream| {
                writes.iter().try_for_each(|bytes| stream.write_all(bytes.as_bytes()))
            });
            let answer = call(&instance, path, &name, &name);
            assert_eq!(answer.text(), expected, "{path} {way}");
            reported(&instance, &name, (7, 5));
        }
    }
    instance.balance_books();
}

#[test]
fn the_end_marker_waits_for_nothing_that_may_follow() {
    let instance = Setup::default().shards(1).start();
    for (at, (path, events)) in ends().into_iter().enumerate() {
        let (name, seen) = (format!("open-{at}"), Arc::new(AtomicBool::new(false)));
        let (theirs, sent) = (Arc::clone(&seen), events.clone());
        acted::service(&instance, &name, move |stream| {
            stream.write_all((STREAM.to_owned() + &chunk(&sent)).as_bytes())?;
            // It never ends its body, but for a client that has seen the end.
            poll::until("the client to see the end", || {
                theirs.load(Ordering::Acquire).then_some(())
            });
            poll::until("the gateway to leave", || stream.write_all(b"1\r\n\n\r\n").err());
            Err(std::io::ErrorKind::Other.into())
        });
        let request = Request::post(path, &body(&name, true)).key(instance.key("bench"));
        let mut connection = instance.open();
        connection.send(&request.id(&name).to_bytes()).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let mut text = String::new();
        while text.len() < events.len() {
            text += &String::from_utf8(connection.chunk().unwrap().unwrap()).unwrap();
        }
        assert_eq!(text, events, "{path}");
        // The record is there before the end is.
        reported(&instance, &name, (7, 5));
        seen.store(true, Ordering::Release);
        while connection.chunk().unwrap().is_some() {}
        connection.call(&Request::get("/healthz")).unwrap().expect(200);
    }
    instance.balance_books();
}

/// Texts of a model's that look like what the gateway looks for.
fn surprises() -> [String; 4] {
    [
        "\n\ndata: [DONE]\n\n".to_owned(),
        json!({ "usage": { "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 } })
            .to_string(),
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\r\n\r\n".to_owned(),
        "\",\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0},\"x\":\"\\".to_owned(),
    ]
}

#[test]
fn what_a_model_says_is_never_taken_for_the_stream_itself() {
    let instance = Setup::default().shards(1).start();
    let event = |data: Value| format!("data: {data}\n\n");
    let deltas: String = surprises()
        .iter()
        .map(|text| event(json!({ "choices": [{ "index": 0, "delta": { "content": text } }] })))
        .collect();
    let usage = event(json!({
        "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 5 }
    }));
    let chat = format!("{deltas}{usage}data: [DONE]\n\n");
    let shown = format!("{deltas}data: [DONE]\n\n");
    // A tool's input is JSON of the model's own making.
    let tool = json!({ "type": "content_block_start", "index": 0, "content_block": {
        "type": "tool_use", "name": "x", "input": {
            "type": "message_stop", "usage": { "input_tokens": 0, "output_tokens": 0 }
        }
    } });
    let said = json!({ "type": "content_block_delta", "delta": {
        "type": "input_json_delta", "partial_json": surprises()[2]
    } });
    // A field `event` decides nothing: readers of the data alone would take it for another.
    let lie = format!("event: message_stop\ndata: {said}\n\n");
    let messages =
        [MESSAGE_START, &event(tool), &lie, &event(said), MESSAGE_DELTA, MESSAGE_STOP].concat();
    for (name, path, sent, expected) in [
        ("chat", "/v1/chat/completions", chat, shown),
        ("messages", "/v1/messages", messages.clone(), messages),
    ] {
        acted::service(&instance, name, move |stream| {
            stream.write_all((STREAM.to_owned() + &chunk(&sent) + LAST_CHUNK).as_bytes())
        });
        assert_eq!(call(&instance, path, name, name).text(), expected, "{path}");
        reported(&instance, name, (7, 5));
    }
}

#[test]
fn what_a_model_says_is_never_taken_for_its_usage() {
    let instance = Setup::default().shards(1).start();
    let of_the_model = json!({ "usage": { "input_tokens": 0, "output_tokens": 0 } });
    let counted = json!({ "input_tokens": 7, "output_tokens": 5 });
    // The upstream's own report first, so that the model's is the last in the text.
    let message = format!(
        "{{\"type\":\"message\",\"usage\":{counted},\"content\":[{{\"type\":\"tool_use\",\
         \"input\":{of_the_model}}},{{\"type\":\"text\",\"text\":{}}}]}}",
        json!(surprises()[3])
    );
    let sent = message.clone();
    acted::service(&instance, "message", move |stream| {
        stream.write_all(whole("application/json", &sent).as_bytes())
    });
    let request = Request::post("/v1/messages", &body("message", false)).key(instance.key("bench"));
    assert_eq!(instance.call(&request.id("message")).expect(200).text(), message);
    reported(&instance, "message", (7, 5));
}
