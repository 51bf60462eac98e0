//! A small HTTP/1.1 client that hides nothing: bytes as they are, chunk by chunk, and errors as
//! they come. It must never repair what the server gets wrong.

use super::poll::PATIENCE;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use serde_json::Value;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A request to be sent.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunk_bytes: Option<usize>,
}

impl Request {
    /// Any method.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunk_bytes: None,
        }
    }

    /// GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// POST of a JSON body.
    pub fn post(target: &str, body: &Value) -> Self {
        Self::new("POST", target).header("content-type", "application/json").body(&body.to_string())
    }

    /// With this header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this key as bearer.
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// With this request id.
    pub fn id(self, request_id: &str) -> Self {
        self.header("x-request-id", request_id)
    }

    /// With this body.
    pub fn body(self, body: &str) -> Self {
        self.bytes(body.as_bytes())
    }

    /// With these bytes as its body.
    pub fn bytes(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// The body in chunks of this size.
    pub fn chunked(mut self, chunk_bytes: usize) -> Self {
        self.chunk_bytes = Some(chunk_bytes);
        self
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.chunk_bytes {
            Some(_) => head += "transfer-encoding: chunked\r\n",
            None if self.body.is_empty() && self.method != "POST" => {}
            None => head += &format!("content-length: {}\r\n", self.body.len()),
        }
        let mut bytes = (head + "\r\n").into_bytes();
        let Some(chunk_bytes) = self.chunk_bytes else {
            bytes.extend_from_slice(&self.body);
            return bytes;
        };
        for chunk in self.body.chunks(chunk_bytes) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

/// An answer's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The header's value, where it is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = found.next()?;
        assert!(found.next().is_none(), "{name} is there twice: {:?}", self.headers);
        Some(&first.1)
    }

    /// A header that must be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    /// A header that must be there and be a number.
    pub fn number(&self, name: &str) -> u64 {
        self.must(name).parse().unwrap_or_else(|_| panic!("{name}: {}", self.must(name)))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding == "chunked")
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body, decoded.
    pub body: Vec<u8>,
}

impl Answer {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Its error's code.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Fails unless the status is this one.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status(), status, "{}", self.text());
        self
    }

    /// The data of each SSE event.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        let data = |event: &str| {
            let lines = event.lines().filter_map(|line| line.strip_prefix("data: "));
            lines.collect::<Vec<_>>().join("\n")
        };
        events.map(data).collect()
    }
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    /// Connects to `http://host:port` or `host:port`.
    pub fn open(url: &str) -> Result<Self> {
        Self::over(TcpStream::connect(url.trim_start_matches("http://"))?)
    }

    /// Connects from this address of this host, so that the server takes it for another's.
    pub fn open_from(ip: Ipv4Addr, url: &str) -> Result<Self> {
        let to: SocketAddr = url.trim_start_matches("http://").parse().map_err(Error::other)?;
        // Other tests start processes meanwhile, which must not inherit it.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddr::from((ip, 0)))?;
        connect(&socket, &to)?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Waits no longer than this for bytes.
    pub fn patience(&self, patience: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Says that nothing more will be sent; answers still come.
    pub fn end_writes(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Leaves with a reset, as a client does whose process dies with bytes unread.
    pub fn reset(self) -> Result<()> {
        Ok(set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// One request and its answer.
    pub fn call(&mut self, request: &Request) -> Result<Answer> {
        self.send(&request.to_bytes())?;
        self.answer(&request.method)
    }

    /// The next answer, to a request of this method.
    pub fn answer(&mut self, method: &str) -> Result<Answer> {
        let head = self.head()?;
        let body = self.body(&head, method)?;
        Ok(Answer { head, body })
    }

    /// The next answer's head; interim ones too.
    pub fn head(&mut self) -> Result<Head> {
        let end = loop {
            if let Some(at) = find(&self.input, b"\r\n\r\n") {
                break at;
            }
            self.fill()?;
        };
        let text = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status =
            status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| nonsense(status_line))?;
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").ok_or_else(|| nonsense(line))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        Ok(Head { status, headers: lines.map(header).collect::<Result<_>>()? })
    }

    /// The body that belongs to a head.
    pub fn body(&mut self, head: &Head, method: &str) -> Result<Vec<u8>> {
        if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.is_chunked() {
            assert!(head.header("content-length").is_none(), "two framings: {head:?}");
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk()? {
                body.extend_from_slice(&chunk);
            }
            return Ok(body);
        }
        match head.header("content-length") {
            Some(length) => self.take(length.parse().map_err(|_| nonsense(length))?),
            None => self.rest(),
        }
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = loop {
            if let Some(at) = find(&self.input, b"\r\n") {
                break self.take(at + 2)?;
            }
            self.fill()?;
        };
        let digits = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let bytes = usize::from_str_radix(&digits, 16).map_err(|_| nonsense(&digits))?;
        let mut chunk = self.take(bytes + 2)?;
        if chunk.split_off(bytes) != b"\r\n" {
            return Err(nonsense("a chunk without an end"));
        }
        Ok((bytes > 0).then_some(chunk))
    }

    /// All that comes until the server closes.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        self.stream.read_to_end(&mut self.input)?;
        Ok(std::mem::take(&mut self.input))
    }

    /// Has the server closed, with nothing more to say?
    pub fn is_closed(&mut self) -> bool {
        self.input.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// The next so many bytes.
    pub fn take(&mut self, bytes: usize) -> Result<Vec<u8>> {
        while self.input.len() < bytes {
            self.fill()?;
        }
        Ok(self.input.drain(..bytes).collect())
    }

    fn fill(&mut self) -> Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(Error::from(ErrorKind::UnexpectedEof)),
            bytes => {
                self.input.extend_from_slice(&piece[..bytes]);
                Ok(())
            }
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the server sent nonsense: {what}"))
}
