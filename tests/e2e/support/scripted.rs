//! An upstream that does with each request what a test says, down to the byte and the close.

use super::admin::per_token;
use super::http::Request;
use super::instance::Instance;
use super::poll;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
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
}

/// A request whose head has been read.
pub struct Call {
    /// Its first line.
    pub line: String,
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
        let mut head = String::new();
        self.body_bytes = 0;
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            if self.input.read_line(&mut head).unwrap_or(0) == 0 {
                return false;
            }
            if let Some(value) = head[before..].strip_prefix("content-length: ") {
                self.body_bytes = value.trim().parse().unwrap();
            }
        }
        head.lines().next().unwrap().clone_into(&mut self.line);
        true
    }
}

/// What an upstream does with a request.
pub type Act = fn(&mut Call) -> Then;

/// A service on an upstream that acts so: its path, once it is sold.
pub fn service(instance: &Instance, name: &str, act: Act) -> String {
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

fn serve(output: TcpStream, act: Act) {
    output.set_nodelay(true).unwrap();
    let input = BufReader::new(output.try_clone().unwrap());
    let mut call = Call { line: String::new(), output, input, body_bytes: 0 };
    while call.read_head() {
        match act(&mut call) {
            Then::Answer => {
                call.read_body();
                call.say(ANSWER);
            }
            Then::Next => {}
            Then::Close => return,
        }
    }
}

/// Lets so much time go by, as an upstream does that works.
pub fn work(span: Duration) {
    let begun = Instant::now();
    poll::until("the work to be done", || (begun.elapsed() >= span).then_some(()));
}
