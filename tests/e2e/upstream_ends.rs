//! Where an upstream ends what it has begun: no call is sent twice that may have been heard, and
//! nothing broken looks whole.

use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 51\r\n\r\n{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";

/// What an upstream does with a request, once its head is read; false: it closes.
type Act = fn(&mut TcpStream, &str) -> bool;

/// A service on an upstream that acts so: its path.
fn service(instance: &Instance, name: &str, act: Act) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream, act));
        }
    });
    let path =
        format!("/api/v1/consume/{}", instance.admin().service(name, &url, &per_token(1, 1, 1)));
    let request = Request::get(&path).key(instance.key("bench"));
    poll::until("the service to be sold", || {
        (instance.call(&request).status() == 200).then_some(())
    });
    path
}

fn serve(mut stream: TcpStream, act: Act) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while !line.ends_with("\r\n\r\n") {
            let before = line.len();
            if input.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line[before..].strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        if !act(&mut stream, line.lines().next().unwrap()) {
            return;
        }
        if std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink()).is_err()
            || stream.write_all(ANSWER).is_err()
        {
            return;
        }
    }
}

#[test]
fn a_call_that_was_heard_is_not_sent_again() {
    static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "interim", |stream, line| {
        if !line.contains("/interim") {
            return true;
        }
        HEARD.lock().unwrap().push(line.to_owned());
        stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap();
        false
    });
    // A connection of the call before is at hand.
    instance.call(&Request::get(&format!("{path}/interim")).key(instance.key("bench"))).expect(502);
    assert_eq!(HEARD.lock().unwrap().len(), 1, "{HEARD:?}");
    instance.balance_books();
}

#[test]
fn what_breaks_off_after_a_probe_does_not_look_whole() {
    /// More than is held until it is whole.
    const CHUNKS: usize = 300;
    static ASKED: AtomicBool = AtomicBool::new(false);
    let instance = Setup::default().shards(1).start();
    let path = service(&instance, "breaks", |stream, line| {
        if !line.contains("/breaks") {
            return true;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..CHUNKS {
            stream.write_all(format!("400\r\n{}\r\n", "x".repeat(0x400)).as_bytes()).unwrap();
        }
        poll::until("the probe", || ASKED.load(Ordering::Acquire).then_some(()));
        false
    });
    let request = Request::get(&format!("{path}/breaks")).key(instance.key("bench"));
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let mut bytes = 0;
    while bytes < CHUNKS * 0x400 {
        bytes += connection.chunk().unwrap().unwrap().len();
    }
    connection.end_writes().unwrap();
    // A zero that may begin the next chunk's size.
    assert_eq!(connection.take(1).unwrap(), b"0");
    ASKED.store(true, Ordering::Release);
    assert_eq!(connection.rest().unwrap(), b"!");
    instance.balance_books();
}

#[test]
fn a_long_request_leaves_its_upstream_the_time_to_answer() {
    const FIRST_BYTE: Duration = Duration::from_millis(400);
    let config = format!("[upstream]\nfirst_byte_timeout_ms = {}\n", FIRST_BYTE.as_millis());
    let instance = Setup::default().shards(1).config(&config).start();
    let path = service(&instance, "slow-reader", |_, line| {
        let begun = Instant::now();
        let late = || (!line.contains("/long") || begun.elapsed() > 2 * FIRST_BYTE).then_some(());
        poll::until("the upstream to read on", late);
        true
    });
    // More than the buffers of both sockets take.
    let body = format!("\"{}\"", "x".repeat(15 << 20));
    let request = Request::new("POST", &format!("{path}/long")).body(&body);
    let request = request.header("content-type", "application/json").key(instance.key("bench"));
    instance.call(&request).expect(200);
    instance.balance_books();
}
