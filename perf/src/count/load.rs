//! The suite's own load: a fixed number of calls over connections that stay open, the next one on
//! each as soon as its answer is there. Every answer is checked.

use crate::floor::BODY;
use crate::floor::framing::message_len;
use crate::floor::ring::{Event, Ring};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// Connections of one group.
pub const CONNECTIONS: usize = 64;

/// Connections to several servers, of which one at a time is called.
pub struct Load {
    ring: Ring,
    connections: Vec<Connection>,
    events: Vec<Event>,
}

/// The connections to one server.
#[derive(Clone, Copy)]
pub struct Group {
    first: usize,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the request that have been sent.
    sent: usize,
}

impl Load {
    /// A load without connections yet, for messages of at most so many bytes.
    pub fn new(message_bytes: usize) -> Result<Self, String> {
        let ring = Ring::new(message_bytes).map_err(|error| format!("io_uring: {error}"))?;
        Ok(Self { ring, connections: Vec::new(), events: Vec::new() })
    }

    /// Opens connections to a server on which `request` will be made.
    pub fn open(&mut self, server: SocketAddr, request: &[u8]) -> Result<Group, String> {
        let first = self.connections.len();
        for _ in 0..CONNECTIONS {
            let stream =
                TcpStream::connect(server).map_err(|error| format!("{server}: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            self.connections.push(Connection { stream, sent: 0 });
            // The even slot holds the request for good, the odd one the answer.
            let slot = self.ring.add_slot();
            self.ring.fill(slot, request);
            self.ring.add_slot();
        }
        Ok(Group { first })
    }

    /// Makes so many calls and waits for their answers; returns the time in microseconds.
    pub fn run(&mut self, group: Group, calls: usize) -> Result<f64, String> {
        let begun = Instant::now();
        let at_once = calls.min(CONNECTIONS);
        for at in group.first..group.first + at_once {
            self.call(at);
        }
        let (mut made, mut answered) = (at_once, 0);
        let mut events = std::mem::take(&mut self.events);
        while answered < calls {
            self.ring.turn(&mut events).map_err(|error| format!("io_uring: {error}"))?;
            for event in events.drain(..) {
                let Event::Moved(slot, count) = event else {
                    return Err("a connection broke".to_owned());
                };
                if !self.go_on(slot, count)? {
                    continue;
                }
                answered += 1;
                if made < calls {
                    made += 1;
                    self.call(slot / 2);
                }
            }
        }
        self.events = events;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    }

    fn call(&mut self, at: usize) {
        self.connections[at].sent = 0;
        self.ring.send(2 * at, &self.connections[at].stream, 0);
    }

    /// True: an answer is whole.
    fn go_on(&mut self, slot: usize, count: usize) -> Result<bool, String> {
        let connection = &mut self.connections[slot / 2];
        let is_request = slot.is_multiple_of(2);
        if is_request {
            connection.sent += count;
            if connection.sent < self.ring.held(slot).len() {
                self.ring.send(slot, &connection.stream, connection.sent);
                return Ok(false);
            }
            self.ring.clear(slot + 1);
            self.ring.receive(slot + 1, &connection.stream);
            return Ok(false);
        }
        self.ring.received(slot, count);
        let answer = self.ring.held(slot);
        if message_len(answer).is_none_or(|length| answer.len() < length) {
            self.ring.receive(slot, &connection.stream);
            return Ok(false);
        }
        if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(BODY.as_bytes()) {
            return Ok(true);
        }
        Err(format!("an answer is not the upstream's: {}", String::from_utf8_lossy(answer)))
    }
}
