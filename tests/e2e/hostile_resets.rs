//! Clients that go away with a reset, in every state of a call and of its connection: what was
//! admitted is settled once, nothing stays open, and nobody else notices.

use crate::support::bystander::{beside, warm};
use crate::support::forged;
use crate::support::held;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use serde_json::json;

/// How often each.
const TIMES: usize = 8;

/// Brief, so that what a reset left waiting ends while the test looks.
const CONFIG: &str = "[server]\nhead_timeout_ms = 2000\nbody_timeout_ms = 2000\n\
    [upstream]\nfirst_byte_timeout_ms = 3000\nidle_timeout_ms = 3000\npool_idle_timeout_ms = 300\n";

/// What is sent, and what is waited for before the reset.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    wait: fn(&mut Connection),
}

fn at_once(_: &mut Connection) {}

fn head(connection: &mut Connection) {
    connection.head().unwrap();
}

fn first_chunk(connection: &mut Connection) {
    connection.head().unwrap();
    connection.chunk().unwrap();
}

fn one_answer(connection: &mut Connection) {
    connection.answer("POST").unwrap();
}

fn cases(instance: &Instance) -> Vec<Case> {
    let key = instance.key("bench");
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let whole = instance.chat(&json!({})).key(key);
    let stream = instance.chat(&json!({ "stream": true, "max_tokens": 200 })).key(key);
    let stream = stream.header("x-mock-inter-token-ms", "2").to_bytes();
    let fault = |name: &str| whole.clone().header("x-mock-fault", name).to_bytes();
    let large = Request::get(&path).key(key).header("x-mock-body-bytes", "5000000").to_bytes();
    let plain = whole.to_bytes();
    let body_at = plain.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let chunked = whole.clone().chunked(10).to_bytes();
    let waits = whole.clone().header("expect", "100-continue").to_bytes();
    let waits = waits[..waits.len() - (plain.len() - body_at)].to_vec();
    let refused = Request::new("POST", &path).key("tg_no").body(&"x".repeat(500_000)).to_bytes();
    let unknown = Request::get(&path).key(&forged::nobodys(1)).to_bytes();
    let case = |name, bytes: &[u8], wait| Case { name, bytes: bytes.to_vec(), wait };
    vec![
        case("nothing sent", b"", at_once),
        case("in the request line", &plain[..10], at_once),
        case("in the head", &plain[..body_at - 20], at_once),
        case("before the body", &plain[..body_at], at_once),
        case("in the body", &plain[..plain.len() - 5], at_once),
        case("in a chunk", &chunked[..chunked.len() - 12], at_once),
        case("before the last chunk", &chunked[..chunked.len() - 5], at_once),
        case("told to continue", &waits, head),
        case("the request just sent", &plain, at_once),
        case("the upstream silent", &fault("stall-before-head"), at_once),
        case("the upstream slow", &fault("slow"), at_once),
        case("the upstream stuck", &fault("stall-mid-stream"), at_once),
        case("the stream asked for", &stream, at_once),
        case("the stream begun", &stream, head),
        case("in the stream", &stream, first_chunk),
        case("in a large body", &large, head),
        case("the large body asked for", &large, at_once),
        case("refused while sending", &refused, head),
        case("an unknown key sent", &unknown, at_once),
        case("answered", &plain, one_answer),
        case("in a pipeline", &plain.repeat(6), one_answer),
        case("in a pipeline of streams", &stream.repeat(3), first_chunk),
        case("nonsense sent", b"\0\0\0\0", at_once),
    ]
}

#[test]
fn a_reset_in_any_state_costs_only_its_sender() {
    let mut instance = Setup::default().shards(1).config(CONFIG).start();
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    let cases = cases(&instance);
    beside(&instance, "resets in any state", |turn| {
        for Case { name, bytes, wait } in turn.part(&cases) {
            for _ in 0..TIMES {
                let mut connection = instance.open();
                // The server may close first, where it refuses.
                if connection.send(bytes).is_ok() {
                    wait(&mut connection);
                }
                connection.reset().unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    });
    held::none_leaked(&instance, before);
    instance.balance_books();
    let rows = instance.ledger().rows();
    let with = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    // Streams and large bodies that broke off under way; how many depends on the buffers.
    assert!(with("client_aborted") >= TIMES, "{} aborted", with("client_aborted"));
    assert_eq!(with("recovered"), 0);
    assert!(instance.process.is_running(), "{}", instance.process.log());
    assert!(!instance.process.log().contains("panicked"), "{}", instance.process.log());
}

#[test]
fn resets_from_many_at_once_do_not_pile_up() {
    const CLIENTS: u32 = 300;
    let mut instance = Setup::default().shards(2).config(CONFIG).start();
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    let cases = cases(&instance);
    beside(&instance, "resets at once", |turn| {
        let mut open: Vec<Connection> = Vec::new();
        for number in turn.share(CLIENTS) {
            let mut connection = instance.open();
            // The pause between sending and the reset is what the others take.
            let _ = connection.send(&cases[number as usize % cases.len()].bytes);
            open.push(connection);
        }
        for connection in open {
            connection.reset().unwrap();
        }
    });
    held::none_leaked(&instance, before);
    instance.balance_books();
    assert!(instance.process.is_running(), "{}", instance.process.log());
    assert!(!instance.process.log().contains("panicked"), "{}", instance.process.log());
}
