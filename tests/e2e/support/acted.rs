//! An upstream that a test acts out itself, byte by byte, and its service.

use super::admin::per_token;
use super::http::Request;
use super::instance::Instance;
use super::poll;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// The head of an event stream.
pub const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// The end of a chunked body.
pub const LAST_CHUNK: &str = "0\r\n\r\n";

/// A text as one chunk.
pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A whole answer of this type.
pub fn whole(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A service whose upstream answers with what `act` writes: its id, once it is sold by one shard.
/// A connection on which `act` fails is closed.
pub fn service(
    instance: &Instance,
    name: &str,
    act: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let act = Arc::new(act);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let act = Arc::clone(&act);
            thread::spawn(move || serve(stream, &*act));
        }
    });
    let id = instance.admin().service(name, &url, &per_token(1_000_000, 1_000_000, 1_000_000));
    let models = Request::get("/v1/models").key(instance.key("bench"));
    poll::until("the service to be sold", || {
        instance.call(&models).text().contains(&id).then_some(())
    });
    id
}

fn serve(mut stream: TcpStream, act: &dyn Fn(&mut TcpStream) -> std::io::Result<()>) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            if input.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = head[before..].strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if input.read_exact(&mut body).is_err() {
            return;
        }
        if act(&mut stream).is_err() {
            return;
        }
    }
}
