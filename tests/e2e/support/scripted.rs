//! An upstream that does with each request what a test says, down to the byte and the close.

use super::admin::per_token;
use super::http::Request;
use super::instance::Instance;
use super::poll;
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A whole good answer.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 51\r\n\r\n{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";

/// What comes after a test's part.
pub enum Then {
    /// The body is read, and [`ANSWER`] given.
    Answer,
    /// All is said: the next request is waited for.
    Next,
    /// The connection is closed.
    Close,
    /// The connection is reset, whatever has been read of it.
    Reset,
}

/// A request whose head has been read.
pub struct Call {
    /// Its first line.
    pub line: String,
    /// The others, each with its end.
    pub fields: String,
    /// Where its answer goes.
    pub output: TcpStream,
    input: BufReader<TcpStream>,
    body_bytes: u64,
}

impl Call {
    /// Sends this.
    pub fn say(&mut self, bytes: &[u8]) {
        // Whoever has left does not listen.
        let _ = self.output.write_all(bytes);
    }

    /// Reads the whole body.
    pub fn read_body(&mut self) {
        let mut body = self.input.by_ref().take(self.body_bytes);
        // Whoever has left sends no more.
        let _ = std::io::copy(&mut body, &mut std::io::sink());
        self.body_bytes = 0;
    }

    fn read_head(&mut self) -> bool {
        let (mut head, mut line) = (String::new(), String::new());
        self.body_bytes = 0;
        while line != "\r\n" {
            head += &line;
            line.clear();
            if self.input.read_line(&mut line).unwrap_or(0) == 0 {
                return false;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                self.body_bytes = value.trim().parse().unwrap();
            }
        }
        let (first, fields) = head.split_once("\r\n").unwrap();
        (self.line, self.fields) = (first.to_owned(), fields.to_owned());
        true
    }
}

/// An upstream that does so with each request: its url. Its threads end with the tests.
pub fn start(act: impl Fn(&mut Call) -> Then + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let act = Arc::new(act);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let act = Arc::clone(&act);
            thread::spawn(move || serve(stream, &*act));
        }
    });
    url
}

/// One that sends each field of a request back, in its answer's head beside `own` and, as a line
/// of `got`, in its body.
pub fn echo(own: &'static str) -> String {
    start(move |call| {
        call.read_body();
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 1 });
        let body = json!({ "got": call.fields, "usage": usage }).to_string();
        let echoed: String = call
            .fields
            .split_inclusive('\n')
            .filter(|line| !line.to_lowercase().starts_with("content-length"))
            .collect();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             {own}{echoed}\r\n{body}",
            body.len()
        );
        call.say(answer.as_bytes());
        Then::Next
    })
}

/// A service on an upstream that acts so: its path, once it is sold.
pub fn service(
    instance: &Instance,
    name: &str,
    act: impl Fn(&mut Call) -> Then + Send + Sync + 'static,
) -> String {
    let id = instance.admin().service(name, &start(act), &per_token(1, 1, 1));
    let path = format!("/api/v1/consume/{id}");
    let request = Request::get(&path).key(instance.key("bench"));
    poll::until("the service to be sold", || {
        (instance.call(&request).status() == 200).then_some(())
    });
    path
}

fn serve(output: TcpStream, act: &dyn Fn(&mut Call) -> Then) {
    output.set_nodelay(true).unwrap();
    let input = BufReader::new(output.try_clone().unwrap());
    let (line, fields) = (String::new(), String::new());
    let mut call = Call { line, fields, output, input, body_bytes: 0 };
    while call.read_head() {
        match act(&mut call) {
            Then::Answer => {
                call.read_body();
                call.say(ANSWER);
            }
            Then::Next => {}
            Then::Close => return,
            Then::Reset => {
                return set_socket_linger(&call.output, Some(Duration::ZERO)).unwrap();
            }
        }
    }
}

/// Lets so much time go by, as an upstream does that works.
pub fn work(span: Duration) {
    let begun = Instant::now();
    poll::until("the work to be done", || (begun.elapsed() >= span).then_some(()));
}
