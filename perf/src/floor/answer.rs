//! The least server: the same answer to every request. It is the upstream of every measurement, and
//! by itself the least that a refusal can cost.

use super::framing::message_len;
use super::ring::{Event, Ring};
use std::io;
use std::net::{TcpListener, TcpStream};

/// A whole answer of a model, as `tollgate upstream` gives it: 16 tokens, usage reported.
pub const BODY: &str = concat!(
    r#"{"id":"chatcmpl-bfa9ae8d44b45a35","object":"chat.completion","created":1735689600,"#,
    r#""model":"demo-chat","choices":[{"index":0,"message":{"role":"assistant","content":"#,
    r#""line house man hour home room part way service hand side end idea right story book","#,
    r#""refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":17,"#,
    r#""completion_tokens":16,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":0}}}"#,
);

/// Serves until it fails. A request is at most so long.
pub fn serve(listener: &TcpListener, message_bytes: usize) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         x-request-id: req_bfa9ae8d44b45a35\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut ring = Ring::new(message_bytes)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::new();
    ring.accept(listener);
    loop {
        ring.turn(&mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Accepted(stream) => {
                    ring.accept(listener);
                    stream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        ring.add_slot()
                    });
                    ring.clear(slot);
                    ring.receive(slot, &stream);
                    connections[slot] = Some(Connection { stream, sends: false });
                }
                Event::Ended(slot) => {
                    connections[slot] = None;
                    free.push(slot);
                }
                Event::Moved(slot, count) => {
                    if let Some(connection) = &mut connections[slot] {
                        connection.go_on(&mut ring, slot, count, answer.as_bytes());
                    }
                }
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    sends: bool,
}

impl Connection {
    fn go_on(&mut self, ring: &mut Ring, slot: usize, count: usize, answer: &[u8]) {
        if self.sends {
            // A short answer fits into any socket's buffer.
            assert_eq!(count, answer.len(), "sent in part");
            self.sends = false;
            ring.clear(slot);
            ring.receive(slot, &self.stream);
            return;
        }
        ring.received(slot, count);
        if message_len(ring.held(slot)).is_some_and(|len| ring.held(slot).len() >= len) {
            self.sends = true;
            ring.fill(slot, answer);
            ring.send(slot, &self.stream, 0);
        } else {
            ring.receive(slot, &self.stream);
        }
    }
}
