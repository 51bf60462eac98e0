//! The server as its clients see it, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Behaviour, PlannedFault, spawn};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than anything here takes, so that a hang fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// The chunks of a chunked body.
    chunks: Vec<String>,
}

impl Client {
    fn of(behaviour: Behaviour) -> (Self, SocketAddr) {
        let address = spawn("127.0.0.1:0".parse().unwrap(), behaviour).unwrap();
        (Self::to(address), address)
    }

    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn post(&mut self, path: &str, fields: &str, body: &Value) -> Answer {
        self.send(&post(path, fields, body));
        self.read().unwrap()
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        self.read().unwrap()
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn read_head(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line()?;
        }
        let status = head.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse().unwrap());
        let status = status.ok_or(ErrorKind::InvalidData)?;
        Ok(Answer { status, head, body: Vec::new(), chunks: Vec::new() })
    }

    fn read_chunk(&mut self) -> std::io::Result<String> {
        let size = usize::from_str_radix(self.line()?.trim_end(), 16);
        let mut chunk = vec![0; size.map_err(|_| ErrorKind::InvalidData)? + 2];
        self.0.read_exact(&mut chunk)?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(chunk.len() - 2);
        Ok(String::from_utf8(chunk).unwrap())
    }

    fn read(&mut self) -> std::io::Result<Answer> {
        let mut answer = self.read_head()?;
        if let Some(length) = answer.field("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut answer.body)?;
            return Ok(answer);
        }
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        loop {
            let chunk = self.read_chunk()?;
            if chunk.is_empty() {
                return Ok(answer);
            }
            answer.body.extend_from_slice(chunk.as_bytes());
            answer.chunks.push(chunk);
        }
    }

    fn closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The data of the events; checks that a named event's data has its name as type.
    fn events(&self) -> Vec<Value> {
        let event = |chunk: &String| {
            let (name, data) = chunk.split_once("data: ").unwrap();
            let data = data.strip_suffix("\n\n").unwrap();
            if data == "[DONE]" {
                return json!(data);
            }
            let data: Value = serde_json::from_str(data).unwrap();
            if let Some(name) = name.strip_prefix("event: ") {
                assert_eq!(data["type"], name.trim_end());
            }
            data
        };
        self.chunks.iter().map(event).collect()
    }
}

fn post(path: &str, fields: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len())
}

fn joined(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

/// Polls until the statistic has the value.
fn await_stat(address: SocketAddr, name: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while Client::to(address).get("/mock/stats").json()[name] != value {
        assert!(Instant::now() < deadline, "{name} never became {value}");
        std::thread::yield_now();
    }
}

const CHAT: &str = "/v1/chat/completions";

#[test]
fn answers_whole_in_every_shape() {
    let (mut client, _) = Client::of(Behaviour { cached_fraction: 0.5, ..Behaviour::default() });
    let body = json!({"model": "m\"1", "messages": [], "x": "y".repeat(80)});
    let length = body.to_string().len() as u64;
    let (prompt, cached) = (length / 4, length / 8);
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": 16,
        "total_tokens": prompt + 16, "prompt_tokens_details": {"cached_tokens": cached}});

    let chat = client.post(CHAT, "", &body).json();
    assert_eq!((&chat["usage"], &chat["model"]), (&usage, &json!("m\"1")));
    assert_eq!(chat["choices"][0]["finish_reason"], "stop");
    let text = chat["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text.split(' ').count(), 16);

    let completion = client.post("/v1/completions", "", &body).json();
    assert_eq!(completion["usage"], usage);
    assert_eq!(completion["choices"][0]["text"].as_str().unwrap().split(' ').count(), 16);

    let response = client.post("/v1/responses", "", &body).json();
    assert_eq!(response["status"], "completed");
    assert_eq!(response["usage"]["input_tokens"], prompt);
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], cached);
    assert_eq!(response["output"][0]["content"][0]["type"], "output_text");

    let message = client.post("/v1/messages", "", &body).json();
    assert_eq!(message["usage"]["input_tokens"], prompt - cached);
    assert_eq!(message["usage"]["cache_read_input_tokens"], cached);
    assert_eq!(message["usage"]["output_tokens"], 16);
    assert_eq!(message["stop_reason"], "end_turn");

    assert_eq!(client.get("/v1/models").json()["data"][0]["object"], "model");
    assert_eq!(client.get(CHAT).json()["usage"]["prompt_tokens"], 1);
    assert_eq!(client.get("/v1/nothing").status, 404);
}

#[test]
fn streams_in_every_shape() {
    let (mut client, _) = Client::of(Behaviour::default());
    let body = json!({"model": "m", "stream": true, "max_tokens": 5,
        "stream_options": {"include_usage": true}});

    let chat = client.post(CHAT, "", &body).events();
    assert_eq!(chat.len(), 1 + 5 + 3);
    assert_eq!(chat[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(joined(&chat, "/choices/0/delta/content").split(' ').count(), 5);
    assert_eq!(chat[6]["choices"][0]["finish_reason"], "length");
    assert_eq!((&chat[6]["usage"], &chat[7]["choices"]), (&Value::Null, &json!([])));
    assert_eq!(chat[7]["usage"]["completion_tokens"], 5);
    assert_eq!(chat[8], "[DONE]");

    let completion = client.post("/v1/completions", "", &body).events();
    assert_eq!(completion.len(), 5 + 3);
    assert_eq!(joined(&completion, "/choices/0/text").split(' ').count(), 5);

    let response = client.post("/v1/responses", "", &body).events();
    let last = &response.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["usage"]["output_tokens"], 5);
    let text = joined(&response, "/delta");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
    for (number, event) in response.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }

    let message = client.post("/v1/messages", "", &body).events();
    assert_eq!(message[0]["message"]["usage"]["output_tokens"], 1);
    assert_eq!(joined(&message, "/delta/text").split(' ').count(), 5);
    assert_eq!(message[9]["delta"]["stop_reason"], "max_tokens");
    assert_eq!(message[9]["usage"]["output_tokens"], 5);
    assert_eq!(message[10]["type"], "message_stop");

    let plain = client.post(CHAT, "", &json!({"stream": true})).events();
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
    assert_eq!(plain.len(), 1 + 16 + 2);
    let whole = client.post("/v1/responses", "", &json!({"stream": true})).events();
    assert_eq!(whole.last().unwrap()["type"], "response.completed");
}

#[test]
fn embeds_the_same_in_both_encodings() {
    let ask = |encoding: &str| {
        let (mut client, _) = Client::of(Behaviour::default());
        let body = json!({"input": ["a", "b"], "encoding_format": encoding, "dimensions": 3});
        client.post("/v1/embeddings", "", &body).json()
    };
    let (float, base64) = (ask("float"), ask("base64"));
    assert_eq!(float["data"][1]["embedding"].as_array().unwrap().len(), 3);
    assert_ne!(float["data"][0]["embedding"], float["data"][1]["embedding"]);
    let coded = base64["data"][1]["embedding"].as_str().unwrap();
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = coded
        .bytes()
        .map(|byte| digits.iter().position(|digit| *digit == byte).unwrap() as u8)
        .flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1))
        .collect();
    let bytes: Vec<u8> =
        bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect();
    let vector: Vec<f32> =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(json!(vector), float["data"][1]["embedding"]);
    assert_eq!(float["usage"]["prompt_tokens"], float["usage"]["total_tokens"]);
    let (mut client, _) = Client::of(Behaviour::default());
    assert_eq!(client.post("/v1/embeddings", "", &json!({"input": []})).status, 400);
}

#[test]
fn pipelines_chunks_and_continues() {
    let (mut client, address) = Client::of(Behaviour::default());
    let one = post(CHAT, "", &json!({"model": "one"}));
    let head = "HEAD /v1/models HTTP/1.1\r\n\r\n";
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Key: k\r\nconnection: close\r\n\
         \r\n9\r\n{{\"model\":\r\n6\r\n\"two\"}}\r\n0\r\n\r\n"
    );
    client.send(&format!("{one}{head}{chunked}"));
    assert_eq!(client.read().unwrap().json()["model"], "one");
    assert_eq!(client.read_head().unwrap().status, 200);
    let two = client.read().unwrap();
    assert_eq!((&two.json()["model"], two.field("connection")), (&json!("two"), Some("close")));
    assert!(client.closed());

    let mut client = Client::to(address);
    let last = String::from_utf8(client.get("/mock/last").body).unwrap();
    assert!(last.starts_with("POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding"), "{last}");
    assert!(last.ends_with("\r\n\r\n{\"model\":\"two\"}"), "{last}");
    let asks = format!("POST {CHAT} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    client.send(&asks);
    assert_eq!(client.read_head().unwrap().status, 100);
    client.send("{}");
    assert_eq!(client.read().unwrap().status, 200);
    let stats = client.get("/mock/stats").json();
    let expected = json!({"requests": 4, "streams": 0, "aborted_streams": 0, "connections": 2});
    assert_eq!(stats, expected);
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 400);
    assert!(client.closed());
}

#[test]
fn takes_and_gives_large_bodies() {
    let (mut client, _) = Client::of(Behaviour::default());
    let body = json!({"text": "z".repeat(3_000_000), "model": "big"});
    let answer = client.post(CHAT, "x-mock-body-bytes: 2000000\r\n", &body);
    assert!(answer.body.len() >= 2_000_000 && answer.json()["model"] == "big");
    assert_eq!(answer.json()["usage"]["prompt_tokens"], body.to_string().len() / 4);
    assert!(client.get("/mock/last").body.ends_with(b"}"));
}

#[test]
fn repeats_itself_by_its_seed() {
    let run = |seed| {
        let behaviour = Behaviour { seed, fail_rate: 0.5, ..Behaviour::default() };
        let (mut client, _) = Client::of(behaviour);
        (0..40).map(|_| client.get(CHAT)).map(|a| (a.status, a.body)).collect::<Vec<_>>()
    };
    let first = run(1);
    assert!(first == run(1) && first != run(2));
    let failed = first.iter().filter(|(status, _)| *status == 500).count();
    assert!((5..35).contains(&failed), "{failed}");
}

#[test]
fn overrides_and_waits_as_asked() {
    let (mut client, _) = Client::of(Behaviour { tokens: 3, ..Behaviour::default() });
    let fields = "X-Mock-Tokens: 7\r\nx-mock-prompt-tokens: 90\r\nx-mock-cached-tokens: 40\r\n";
    let usage = &client.post(CHAT, fields, &json!({"max_tokens": 2})).json()["usage"];
    assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(7), &json!(97)));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 40);

    let start = Instant::now();
    let fields = "x-mock-latency-ms: 40\r\nx-mock-ttft-ms: 50\r\nx-mock-inter-token-ms: 30\r\n";
    client.send(&post(CHAT, fields, &json!({"stream": true})));
    client.read_head().unwrap();
    assert!(client.read_chunk().unwrap().contains("assistant"));
    let opened = start.elapsed();
    assert!(opened >= Duration::from_millis(40));
    client.read_chunk().unwrap();
    let begun = start.elapsed();
    assert!(begun >= Duration::from_millis(90));
    while client.read_chunk().unwrap() != "" {}
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[test]
fn counts_streams_that_nobody_reads() {
    let (mut client, address) = Client::of(Behaviour::default());
    let fields = "x-mock-inter-token-ms: 5\r\nx-mock-tokens: 1000000\r\n";
    client.send(&post(CHAT, fields, &json!({"stream": true})));
    client.read_head().unwrap();
    drop(client);
    await_stat(address, "aborted_streams", 1);
    let mut client = Client::to(address);
    client.send(&post(CHAT, "x-mock-fault: stall-mid-stream\r\n", &json!({"stream": true})));
    client.read_head().unwrap();
    drop(client);
    await_stat(address, "aborted_streams", 2);
    await_stat(address, "streams", 2);
}

#[test]
fn whole_answers_go_wrong_as_asked() {
    let (_, address) = Client::of(Behaviour::default());
    let ask = |fault: &str| {
        let mut client = Client::to(address);
        client.send(&format!("GET {CHAT}?fault={fault} HTTP/1.1\r\n\r\n"));
        client
    };
    for (fault, status) in [("status-500", 500), ("status-429", 429), ("status-400", 400)] {
        let answer = ask(fault).read().unwrap();
        assert!(answer.status == status && answer.json()["error"]["message"].is_string());
        assert_eq!(answer.field("retry-after"), (status == 429).then_some("1"));
    }
    assert_eq!(ask("error-event").read().unwrap().status, 500);
    assert!(ask("close-before-head").closed());
    for (fault, kind) in [
        ("close-mid-body", ErrorKind::UnexpectedEof),
        ("short-body", ErrorKind::UnexpectedEof),
        ("bad-chunk", ErrorKind::InvalidData),
        ("garbage", ErrorKind::InvalidData),
    ] {
        assert_eq!(ask(fault).read().err().map(|error| error.kind()), Some(kind), "{fault}");
    }
    assert!(ask("huge-head").read().unwrap().head.len() > 128 * 1024);
    assert!(ask("no-usage").read().unwrap().json().get("usage").is_none());
    let start = Instant::now();
    let slow = ask("slow").read().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(slow.body.len() as u64));
    for fault in ["stall-before-head", "stall-mid-stream"] {
        let mut client = ask(fault);
        let brief = Some(Duration::from_millis(50));
        client.0.get_ref().set_read_timeout(brief).unwrap();
        assert_eq!(client.read().err().unwrap().kind(), ErrorKind::WouldBlock, "{fault}");
    }
}

#[test]
fn streams_go_wrong_as_asked() {
    let (mut client, address) = Client::of(Behaviour::default());
    let ask = |path: &str, fault: &str| {
        let mut client = Client::to(address);
        let fields = format!("x-mock-fault: {fault}\r\n");
        client.send(&post(path, &fields, &json!({"stream": true})));
        client
    };
    for (fault, chunks, kind) in [
        ("close-mid-stream", 9, ErrorKind::UnexpectedEof),
        ("bad-chunk", 9, ErrorKind::InvalidData),
        ("short-body", 19, ErrorKind::UnexpectedEof),
    ] {
        let mut client = ask(CHAT, fault);
        client.read_head().unwrap();
        (0..chunks).for_each(|_| assert!(!client.read_chunk().unwrap().is_empty()));
        assert_eq!(client.read_chunk().unwrap_err().kind(), kind, "{fault}");
    }
    for (path, chunks) in [(CHAT, 10), ("/v1/responses", 13), ("/v1/messages", 12)] {
        let events = ask(path, "error-event").read().unwrap().events();
        assert_eq!(events.len(), chunks);
        let last = events.last().unwrap();
        assert!(last["type"] == "error" || last["error"]["type"] == "server_error", "{last}");
    }
    let quiet = ask("/v1/messages", "no-usage").read().unwrap();
    assert!(!String::from_utf8(quiet.body).unwrap().contains("usage"));
    assert_eq!(client.post(CHAT, "x-mock-fault: status-500\r\n", &json!({})).status, 500);
}

#[test]
fn a_fault_by_rate_hits_its_share() {
    let fault = Some(PlannedFault::Status(429));
    let (mut client, _) = Client::of(Behaviour { fault, fault_rate: 0.5, ..Behaviour::default() });
    let hit = (0..40).filter(|_| client.get(CHAT).status == 429).count();
    assert!((5..35).contains(&hit), "{hit}");
}
