//! The least relay: one upstream connection for each client's, messages passed on as they are, on
//! a bare io_uring. No gateway can cost less CPU on this kernel without a different system call.

use super::framing::message_len;
use super::ring::{Event, Ring};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Serves until it fails. A message is at most so long.
pub fn serve(listener: &TcpListener, upstream: SocketAddr, message_bytes: usize) -> io::Result<()> {
    let mut ring = Ring::new(message_bytes)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::new();
    ring.accept(listener);
    loop {
        ring.turn(&mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Accepted(client) => {
                    ring.accept(listener);
                    let upstream = TcpStream::connect(upstream)?;
                    client.set_nodelay(true)?;
                    upstream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        ring.add_slot()
                    });
                    ring.clear(slot);
                    ring.receive(slot, &client);
                    pairs[slot] =
                        Some(Pair { client, upstream, stage: Stage::ReadRequest, sent: 0 });
                }
                Event::Ended(slot) => {
                    pairs[slot] = None;
                    free.push(slot);
                }
                Event::Moved(slot, count) => {
                    if let Some(pair) = &mut pairs[slot] {
                        pair.go_on(&mut ring, slot, count);
                    }
                }
            }
        }
    }
}

enum Stage {
    ReadRequest,
    SendRequest,
    ReadAnswer,
    SendAnswer,
}

struct Pair {
    client: TcpStream,
    upstream: TcpStream,
    stage: Stage,
    /// Bytes of the message, in a stage that sends.
    sent: usize,
}

impl Pair {
    fn go_on(&mut self, ring: &mut Ring, slot: usize, count: usize) {
        match self.stage {
            Stage::ReadRequest => {
                ring.received(slot, count);
                if is_whole(ring.held(slot)) {
                    (self.stage, self.sent) = (Stage::SendRequest, 0);
                    ring.send(slot, &self.upstream, 0);
                } else {
                    ring.receive(slot, &self.client);
                }
            }
            Stage::ReadAnswer => {
                ring.received(slot, count);
                if is_whole(ring.held(slot)) {
                    (self.stage, self.sent) = (Stage::SendAnswer, 0);
                    ring.send(slot, &self.client, 0);
                } else {
                    ring.receive(slot, &self.upstream);
                }
            }
            Stage::SendRequest => {
                self.sent += count;
                if self.sent < ring.held(slot).len() {
                    ring.send(slot, &self.upstream, self.sent);
                    return;
                }
                self.stage = Stage::ReadAnswer;
                ring.clear(slot);
                ring.receive(slot, &self.upstream);
            }
            Stage::SendAnswer => {
                self.sent += count;
                if self.sent < ring.held(slot).len() {
                    ring.send(slot, &self.client, self.sent);
                    return;
                }
                self.stage = Stage::ReadRequest;
                ring.clear(slot);
                ring.receive(slot, &self.client);
            }
        }
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    message_len(bytes).is_some_and(|len| bytes.len() >= len)
}
