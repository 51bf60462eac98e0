//! The whole warm call, in the loop that ships: an instance in this process, a client and a model
//! server over loopback sockets, and the allocator's count of the shard's thread alone.

use crate::counting;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tollgate::config::{Config, Shards};
use tollgate::run::{self, Addresses, Owner, RunError};

const PATIENCE: Duration = Duration::from_secs(20);
const CALLS: u64 = 500;
const ROUNDS: u32 = 3;
/// A message from control wakes the shard, and a call that waits for its tokens is parked: for
/// all of the calls together.
const CONTROLS: u64 = CALLS / 10;
/// What a stream asks for: the text that is kept to be counted as it grows (5), its pieces as they
/// are framed (3), a text with escapes, and the stream's own state.
const STREAM: u64 = 10;

/// An instance of one shard that sells one service, and a connection of the one who may call it.
struct House {
    _data: TempDir,
    served: JoinHandle<Result<(), RunError>>,
    client: TcpStream,
    key: String,
    service: String,
    answer: Vec<u8>,
}

impl House {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let upstream = run::spawn_model_server(anywhere).unwrap();
        let mut config = Config::default();
        config.server.data_dir = data.path().join("data");
        config.server.listen = anywhere;
        config.server.admin_listen = anywhere;
        config.server.shards = Shards::Exactly(1);
        let (ready, addresses) = channel();
        let served = thread::spawn(move || {
            let on_ready =
                |addresses: &Addresses| ready.send(addresses.clone()).map_err(|_| "".into());
            let read = || Ok(config.clone());
            let owner = Owner { read: &read, on_ready: &on_ready, on_reload: &|_, _| {} };
            run::serve(config.clone(), &owner)
        });
        let addresses = addresses.recv_timeout(PATIENCE).unwrap();
        let (key, service) = furnish(&addresses, upstream);
        let client = TcpStream::connect(addresses.data_url.trim_start_matches("http://")).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { _data: data, served, client, key, service, answer: Vec::new() }
    }

    fn chat(&self, more: &str) -> Vec<u8> {
        let messages = r#""messages":[{"role":"user","content":"Say something."}]"#;
        let body = format!(r#"{{"model":"model",{messages}{more}}}"#);
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
        let (key, length) = (&self.key, body.len());
        format!("{head}\r\nx-api-key: {key}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    }

    fn consume(&self) -> Vec<u8> {
        let (service, key) = (&self.service, &self.key);
        format!("GET /api/v1/consume/{service} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n")
            .into_bytes()
    }

    /// One call and all of its answer, which a machine that stops control for a second may refuse.
    fn call(&mut self, request: &[u8]) {
        let begun = Instant::now();
        while !self.is_served(request) {
            assert!(begun.elapsed() < PATIENCE);
        }
    }

    fn is_served(&mut self, request: &[u8]) -> bool {
        self.client.write_all(request).unwrap();
        self.answer.clear();
        let mut piece = [0; 16 * 1024];
        while !is_whole(&self.answer) {
            let bytes = self.client.read(&mut piece).unwrap();
            assert!(bytes > 0, "{}", String::from_utf8_lossy(&self.answer));
            self.answer.extend_from_slice(&piece[..bytes]);
        }
        let text = String::from_utf8_lossy(&self.answer);
        let away = text.contains("authority_unavailable");
        assert!(away || text.starts_with("HTTP/1.1 200 "), "{text}");
        !away
    }

    /// Ends it as a signal would, which must leave nothing behind.
    fn stop(self) {
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::TERM).unwrap();
        self.served.join().unwrap().unwrap();
    }
}

/// A key with next to no limits, and the service on `upstream` that it may call.
fn furnish(addresses: &Addresses, upstream: SocketAddr) -> (String, String) {
    let post = |path: &str, body: Value| -> Value {
        let answer = ureq::post(format!("{}/admin/v1/{path}", addresses.admin_url))
            .header("authorization", format!("Bearer {}", addresses.admin_token))
            .send_json(body);
        answer.unwrap().body_mut().read_json().unwrap()
    };
    let many = 10_000_000;
    post(
        "plans",
        json!({
            "name": "wide", "rate_per_s": many, "burst": many,
            "quota_tokens": 1_000_000_000_000_u64,
        }),
    );
    let consumer = post("consumers", json!({ "name": "somebody", "plan": "wide" }));
    let key = post("keys", json!({ "consumer_id": consumer["id"] }));
    let service = post(
        "services",
        json!({
            "name": "model",
            "base_url": format!("http://{upstream}"),
            "default_path": "/v1/chat/completions",
            "price": {
                "kind": "per_token", "input_nanousd_per_mtok": 1,
                "cached_input_nanousd_per_mtok": 1, "output_nanousd_per_mtok": 1,
            },
        }),
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&key["key"]), text(&service["id"]))
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    match text.split("content-length: ").nth(1) {
        Some(rest) => {
            let length = rest.split("\r\n").next().unwrap().parse::<usize>().unwrap();
            answer.len() == head + 4 + length
        }
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// How often the shard's thread asked for memory in so many calls, at best: whatever a call asks
/// for, it asks for each time.
fn least(house: &mut House, request: &[u8], shard: usize) -> u64 {
    let rounds = (0..ROUNDS).map(|_| {
        let before = counting::count(shard);
        (0..CALLS).for_each(|_| house.call(request));
        counting::count(shard) - before
    });
    rounds.min().unwrap()
}

#[test]
fn a_whole_warm_call_allocates_nothing_but_for_streams() {
    let mut house = House::start();
    let usage = r#","stream":true,"stream_options":{"include_usage":true}"#;
    for (name, request, per_call) in [
        ("a GET", house.consume(), 0),
        ("a chat", house.chat(""), 0),
        // The request is composed anew, with the question for usage in it.
        ("a stream", house.chat(r#","stream":true"#), STREAM + 3),
        ("a stream that asks for usage", house.chat(usage), STREAM),
    ] {
        (0..CALLS).for_each(|_| house.call(&request));
        let shard = counting::place_of("shard-0");
        let count = least(&mut house, &request, shard);
        if count > per_call * CALLS + CONTROLS {
            let run = || (0..CALLS / 10).for_each(|_| house.call(&request));
            let callers = counting::callers(shard, run);
            panic!("{name}: {count} in {CALLS} calls, not {per_call} each; of a tenth:\n{callers}");
        }
    }
    house.stop();
}
