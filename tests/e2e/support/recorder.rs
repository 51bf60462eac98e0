//! An upstream that keeps the exact bytes of each request and believes nothing: what is not one
//! well-framed request, with one framing and no credential of the caller's, is kept as a fault.

use super::admin::per_token;
use super::http::Request;
use super::instance::Instance;
use super::poll;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 51\r\n\r\n{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Method and target.
    pub line: String,
    /// The fields, as they came.
    pub fields: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Recorded {
    /// What it asks for.
    pub fn line_and_body(&self) -> (&str, &[u8]) {
        (&self.line, &self.body)
    }
}

#[derive(Default)]
struct Book {
    requests: Vec<Recorded>,
    faults: Vec<String>,
}

/// See the module. Its threads end with the tests.
pub struct Recorder {
    /// Where it is.
    pub url: String,
    book: Arc<Mutex<Book>>,
}

impl Recorder {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let book = Arc::new(Mutex::new(Book::default()));
        let kept = Arc::clone(&book);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let book = Arc::clone(&kept);
                thread::spawn(move || serve(stream, &book));
            }
        });
        Self { url, book }
    }

    /// Makes it a service of this instance: its id, once it is sold.
    pub fn service(&self, instance: &Instance, name: &str) -> String {
        let id = instance.admin().service(name, &self.url, &per_token(1, 1, 1));
        let request = Request::get(&format!("/api/v1/consume/{id}")).key(instance.key("bench"));
        poll::until("the service to be sold", || {
            (instance.call(&request).status() == 200).then_some(())
        });
        self.take();
        id
    }

    /// The requests since the last time; fails if anything else came.
    pub fn take(&self) -> Vec<Recorded> {
        let mut book = self.book.lock().unwrap();
        assert!(book.faults.is_empty(), "an upstream got {:?}", book.faults);
        std::mem::take(&mut book.requests)
    }
}

fn serve(mut stream: TcpStream, book: &Mutex<Book>) {
    let mut input = Vec::new();
    loop {
        match next_request(&mut stream, &mut input) {
            Ok(Some(request)) => book.lock().unwrap().requests.push(request),
            Ok(None) => return,
            Err(fault) => return book.lock().unwrap().faults.push(fault),
        }
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

fn next_request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<Recorded>, String> {
    let end = loop {
        if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if !read_more(stream, input) {
            let rest = String::from_utf8_lossy(input);
            return if rest.is_empty() { Ok(None) } else { Err(format!("a rest: {rest}")) };
        }
    };
    let head: Vec<u8> = input.drain(..end + 4).collect();
    let (line, fields, length) = read_head(&head[..end])?;
    while input.len() < length {
        if !read_more(stream, input) {
            return Err(format!("a body cut short: {line}"));
        }
    }
    Ok(Some(Recorded { line, fields, body: input.drain(..length).collect() }))
}

/// The request line, the fields, and the body's length, of a head that says each thing once.
fn read_head(head: &[u8]) -> Result<(String, String, usize), String> {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let fault = |what: &str| Err(format!("{what}: {text:?}"));
    let (line, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
    let is_control = |letter: char| letter.is_ascii_control() && letter != '\t';
    if text.replace("\r\n", "").contains(is_control) {
        return fault("a control character");
    }
    let Some(request) = line.strip_suffix(" HTTP/1.1").filter(|it| it.matches(' ').count() == 1)
    else {
        return fault("no request line");
    };
    let (mut length, mut hosts) = (None, 0);
    for field in fields.split("\r\n") {
        let Some((name, value)) = field.split_once(": ") else { return fault("no field") };
        if name.is_empty() || name.contains([' ', '\t']) {
            return fault("a field's name");
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_some() => return fault("two lengths"),
            "content-length" => length = Some(value.parse().map_err(|_| format!("{value:?}"))?),
            "transfer-encoding" | "connection" | "te" | "trailer" | "upgrade" | "expect" => {
                return fault("a field of one hop");
            }
            "authorization" | "x-api-key" => return fault("a credential"),
            _ => {}
        }
    }
    if hosts != 1 || text.contains("tg_") {
        return fault("a key, or not one host");
    }
    Ok((request.to_owned(), fields.to_owned(), length.unwrap_or_default()))
}

fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(0) | Err(_) => false,
        Ok(bytes) => {
            input.extend_from_slice(&piece[..bytes]);
            true
        }
    }
}
