//! Clients that send slowly, or announce much and send little: they cost a bounded time, next to
//! no memory, and nothing on anybody's account.

use crate::shared::Own;
use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::json;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn connect(instance: &Instance) -> TcpStream {
    let stream = TcpStream::connect(instance.data_url().trim_start_matches("http://")).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request's head, then a byte of its body now and then, and never all of it: what the
/// server says to that, up to where it closes.
fn trickle(instance: &Instance, head: &str) -> String {
    let mut stream = connect(instance);
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = Vec::new();
    poll::until("the server to have had enough", || {
        let mut piece = [0; 4096];
        let sent = stream.write_all(b"1");
        match stream.read(&mut piece) {
            Ok(0) => return Some(()),
            Ok(bytes) => said.extend_from_slice(&piece[..bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Some(()),
        }
        sent.is_err().then_some(())
    });
    String::from_utf8(said).unwrap()
}

#[test]
fn a_body_that_trickles_in_has_an_end() {
    let config = "[server]\nbody_timeout_ms = 5000\nbody_total_timeout_ms = 600\n";
    let instance = Setup::default().shards(1).config(config).start();
    let key = instance.key("bench");
    for framing in ["content-length: 60000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nea60\r\n"] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             {framing}"
        );
        let said = trickle(&instance, &head);
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert!(said.contains("request_timeout"), "{said}");
    }
    instance.balance_books();
}

#[test]
fn the_body_of_a_refused_request_has_an_end() {
    let config = "[server]\nbody_timeout_ms = 600\n";
    let instance = Setup::default().shards(1).config(config).start();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\n\
                content-length: 60000\r\n\r\n";
    let said = trickle(&instance, head);
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
}

/// Address space of a process, bytes.
fn address_space(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn an_announced_body_takes_no_memory_before_it_comes() {
    let instance = Setup::default().shards(1).start();
    let request = Request::new("POST", "/v1/chat/completions").key(instance.key("bench"));
    let request = request.header("expect", "100-continue").header("content-length", "16000000");
    // Without a body the length is the announced one only.
    let text = String::from_utf8(request.to_bytes()).unwrap().replace("content-length: 0\r\n", "");
    instance.call(&instance.chat(&json!({})).key(instance.key("bench"))).expect(200);
    let before = address_space(instance.process.id());
    let mut waiting = Vec::new();
    for _ in 0..256 {
        let mut connection = instance.open();
        connection.send(text.as_bytes()).unwrap();
        assert_eq!(connection.head().unwrap().status, 100);
        waiting.push(connection);
    }
    instance.call(&Request::get("/healthz")).expect(200);
    let grown = address_space(instance.process.id()).saturating_sub(before);
    // 256 times what was announced would be 4 GB; the allocator itself grows by up to 1 GiB.
    assert!(grown < 2 << 30, "{grown} bytes for nothing");
}

/// Lets time pass that others take: a call that an upstream ponders, on a connection of its own.
fn others_take(instance: &Instance, ms: u64) {
    let request = instance.chat(&json!({})).key(instance.key("bench"));
    instance.call(&request.header("x-mock-latency-ms", &ms.to_string())).expect(200);
}

#[test]
fn overhead_is_not_the_time_that_others_take() {
    let instance = Setup::default().shards(1).start();
    let request = instance.chat(&json!({})).key(instance.key("bench")).id("slow-body");
    let request = request.header("expect", "100-continue").header("x-mock-latency-ms", "300");
    let text = String::from_utf8(request.to_bytes()).unwrap();
    let (head, body) = text.split_at(text.find("\r\n\r\n").unwrap() + 4);
    let mut connection = instance.open();
    connection.send(head.as_bytes()).unwrap();
    // From here on it waits for the body.
    assert_eq!(connection.head().unwrap().status, 100);
    others_take(&instance, 400);
    connection.send(body.as_bytes()).unwrap();
    connection.answer("POST").unwrap().expect(200);
    let row = instance.ledger().row("slow-body");
    assert!(row.latency_us >= 700_000, "{row:?}");
    assert!(row.latency_us - row.overhead_us >= 690_000, "{row:?}");
}

#[test]
fn overhead_is_not_the_time_that_a_client_takes_to_read() {
    let instance = Setup::default().shards(1).start();
    let own = Own::on(&instance, &per_token(1, 1, 1), &["--tokens", "50000"]);
    let body = own.chat_body(&json!({ "stream": true }));
    let request = Request::post("/v1/chat/completions", &body).key(instance.key("bench"));
    // What it takes with a client that reads.
    let begun = Instant::now();
    instance.call(&request).expect(200);
    let at_once_ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
    // This one does not for a while: the answer is more than the kernel holds for it.
    let mut stream = connect(&instance);
    let request = request.id("slow-reader").header("connection", "close");
    stream.write_all(&request.to_bytes()).unwrap();
    others_take(&instance, 2 * at_once_ms + 500);
    stream.read_to_end(&mut Vec::new()).unwrap();
    let row = instance.ledger().row("slow-reader");
    assert_eq!(row.outcome, "completed");
    assert!(row.overhead_us < row.latency_us / 2, "{at_once_ms} ms at once, {row:?}");
}

#[test]
fn who_takes_an_answer_slowly_gets_it_whole() {
    const BYTES: usize = 12_000_000;
    const PIECE: usize = 64 * 1024;
    let config = "[server]\nwrite_timeout_ms = 500\n";
    let instance = Setup::default().shards(1).config(config).start();
    let mut stream = connect(&instance);
    // The kernel takes little ahead of this client, so the server sees how slowly it reads.
    set_socket_recv_buffer_size(&stream, PIECE).unwrap();
    stream.set_read_timeout(Some(poll::PATIENCE)).unwrap();
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let request = Request::get(&path).key(instance.key("bench"));
    let request = request
        .header("x-mock-body-bytes", &BYTES.to_string())
        .header("connection", "close")
        .id("slow");
    stream.write_all(&request.to_bytes()).unwrap();
    let (begun, mut taken) = (Instant::now(), Vec::new());
    // Never silent for long, and never fast: until several deadlines have passed.
    while begun.elapsed() < Duration::from_secs(4) {
        let mut piece = vec![0; PIECE];
        let bytes = stream.read(&mut piece).unwrap();
        taken.extend_from_slice(&piece[..bytes]);
        let until = Instant::now() + Duration::from_millis(100);
        poll::until("a while", || (Instant::now() >= until).then_some(()));
    }
    assert!(taken.len() < BYTES, "it was taken too fast to show anything");
    stream.read_to_end(&mut taken).unwrap();
    assert!(taken.len() > BYTES, "{} of {BYTES} bytes", taken.len());
    assert_eq!(instance.ledger().row("slow").outcome, "completed");
    instance.balance_books();
}
