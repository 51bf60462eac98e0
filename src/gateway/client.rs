//! A client: its socket and buffers, reading a request's head and body within their bounds and
//! deadlines, and sending. It knows nothing of what a request is about, or of an answer.

mod body;

use super::call::Next;
use super::core::Core;
use super::watch::{Ends, Probe, Socket};
use crate::clock;
use crate::wire::error::ApiError;
use crate::wire::request::{BodyFraming, HeadLimits, Method, RequestHead, parse_request_head};
use shard::units::Nanos;
use std::net::SocketAddr;

/// How long a draining shard waits for another request on an idle connection: clients in a
/// request-answer loop have sent theirs by then, and are told to close in its answer.
pub const IDLE_GRACE: Nanos = Nanos::from_ms(300);
/// A fresh connection's input buffer. Most heads and small bodies fit; it grows as needed.
const INPUT_BYTES_MIN: usize = 2048;
/// A buffer that grew past this is given back after the request.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// A client that says nothing for so long after its connection or its last answer gives back all
/// of its buffers.
const SILENT_AFTER: Nanos = Nanos::from_ms(1_000);
/// A client gets this long, and this many bytes, to close after the last answer, or to stop sending
/// what it was refused: closing on unread bytes resets the connection and can take the answer with
/// it.
const LINGER: Nanos = Nanos::from_ms(1_000);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// More than this is sent piece by piece as there is room, so that its time begins anew with each.
const ONE_WRITE_BYTES_MAX: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How reading a head ended.
pub enum HeadRead {
    /// `client.head` describes `client.input`.
    Ready,
    /// Nothing has come for a while. The deadline of an idle connection is armed.
    Silent,
    /// The client is gone or was silent for too long; there is nothing to answer.
    Closed,
    /// Answer this, then close.
    Refused(ApiError),
}

/// A client.
pub struct Client {
    /// Its socket.
    pub socket: Socket,
    /// Its address.
    pub peer: SocketAddr,
    /// Bytes read; the current request begins at 0.
    pub input: Vec<u8>,
    /// The current request's head, as places in `input`.
    pub head: RequestHead,
    /// Bytes on their way out.
    pub output: Vec<u8>,
    /// When the current request's first byte was here.
    pub begun: Nanos,
    /// Time since then that went by waiting for the client: to send, and to take its answer.
    pub waited: Nanos,
    decoded_body: Vec<u8>,
    request_bytes: usize,
    body_is_read: bool,
}

impl Client {
    /// One that has said nothing yet.
    pub fn new(socket: Socket, peer: SocketAddr) -> Self {
        Self {
            socket,
            peer,
            input: Vec::with_capacity(INPUT_BYTES_MIN),
            head: RequestHead::default(),
            output: Vec::new(),
            begun: Nanos(0),
            waited: Nanos(0),
            decoded_body: Vec::new(),
            request_bytes: 0,
            body_is_read: false,
        }
    }

    /// A HEAD request: its answer has a head only.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::Head
    }

    /// The text that the request gives as its key; empty where it gives none.
    pub fn credential(&self) -> &[u8] {
        let credential = self.head.bearer.or(self.head.x_api_key);
        credential.map(|span| span.of(&self.input)).unwrap_or_default()
    }

    /// May the connection carry another request after this one?
    pub fn keeps_alive(&self, core: &Core) -> bool {
        self.head.keep_alive && !core.draining()
    }

    /// From now on until the head of its answer a client that says no more, and may have left, is
    /// asked by an interim answer. Those that only half-close know them less well than chunks, so
    /// it comes only if the answer is long in coming; and not to HTTP/1.0, which has none.
    pub fn expect_answer_head(&self, now: Nanos) {
        const PATIENCE: Nanos = Nanos::from_ms(1_000);
        let (bytes, not_before) = (CONTINUE, now.after(PATIENCE));
        let probe = (!self.head.http_10).then_some(Probe { bytes, not_before });
        self.socket.watch().probe_with(probe);
    }

    /// From now on the same is asked, if the answer is `chunked`, by a leading zero of the next
    /// chunk's size, which is no part of the answer.
    pub fn expect_chunk(&self, chunked: bool) {
        let probe = Probe { bytes: b"0", not_before: Nanos(0) };
        self.socket.watch().probe_with(chunked.then_some(probe));
    }

    /// Has it left while its upstream was waited for?
    pub fn has_left(&self) -> bool {
        self.socket.watch().left()
    }

    /// Sends what `output` holds, and empties it.
    pub async fn send(&mut self, core: &Core) -> std::io::Result<()> {
        let patience = Nanos::from_ms(core.config().server.write_timeout_ms);
        self.socket.watch().arm_taking(clock::lately(), patience, Ends::Both);
        let result = match self.output.len() {
            0..=ONE_WRITE_BYTES_MAX => self.socket.write_all(&mut self.output).await,
            _ => self.send_in_pieces(patience).await,
        };
        self.socket.watch().disarm();
        self.output.clear();
        result
    }

    async fn send_in_pieces(&mut self, patience: Nanos) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.socket.send_now(&self.output[sent..])? {
                0 => self.socket.ready(false).await?,
                count => {
                    sent += count;
                    self.socket.watch().arm_taking(clock::lately(), patience, Ends::Both);
                }
            }
        }
        Ok(())
    }

    /// Sends the last of an answer. Another request may follow if it was said so and the client
    /// took the answer.
    pub async fn send_end(&mut self, core: &Core, keep_alive: bool) -> Next {
        let sent = self.send(core).await;
        if sent.is_ok() && keep_alive { Next::KeepAlive } else { Next::Close }
    }

    /// Sends a part of an answer. How long that takes is the client's doing.
    pub async fn send_part(&mut self, core: &Core) -> std::io::Result<()> {
        let begun = clock::lately();
        let result = self.send(core).await;
        self.waited = self.waited.after(clock::lately().since(begun));
        result
    }

    /// Reads the next request's head.
    pub async fn read_head(&mut self, core: &Core) -> HeadRead {
        let config = core.config();
        let server = &config.server;
        let limits = HeadLimits {
            head_bytes: server.max_head_bytes,
            uri_bytes: server.max_uri_bytes,
            headers: server.max_headers,
        };
        self.head.clear();
        self.body_is_read = false;
        if self.input.is_empty()
            && let Err(end) = self.read_first(core).await
        {
            return end;
        }
        self.begun = clock::lately();
        self.waited = Nanos(0);
        let deadline = self.begun.after(Nanos::from_ms(server.head_timeout_ms));
        loop {
            match parse_request_head(&self.input, &limits, &mut self.head) {
                Ok(true) => return self.head_is_ready(),
                Ok(false) => {}
                Err(error) => return HeadRead::Refused(error.into()),
            }
            match self.read_more(deadline).await {
                Some(_) => {}
                None if self.socket.watch().fired() => {
                    return HeadRead::Refused(ApiError::RequestTimeout);
                }
                None => return HeadRead::Closed,
            }
        }
    }

    /// Reads a request's first bytes. The wait for them holds no buffer, so none is in the ring
    /// when it has taken too long and all are given back.
    async fn read_first(&mut self, core: &Core) -> Result<(), HeadRead> {
        let begun = clock::lately();
        // An answer that began before the drain did may not have said that it is the last.
        let patience = Nanos::from_ms(core.config().server.idle_timeout_ms);
        let patience = if core.draining() { IDLE_GRACE.min(patience) } else { patience };
        self.socket.watch().arm(begun.after(patience), Ends::IdleRead);
        loop {
            if !self.socket.speaks_before(begun.after(SILENT_AFTER)).await {
                return Err(HeadRead::Silent);
            }
            self.make_room();
            match self.socket.recv_now(&mut self.input) {
                Ok(Some(1..)) => break,
                Ok(Some(0)) | Err(_) => return Err(HeadRead::Closed),
                Ok(None) => {}
            }
        }
        self.socket.watch().disarm();
        Ok(())
    }

    fn head_is_ready(&mut self) -> HeadRead {
        self.request_bytes = self.head.head_len;
        self.body_is_read = matches!(self.head.framing, BodyFraming::None);
        HeadRead::Ready
    }

    /// Room for the next read. Never a few bytes at a time: a head could be made to leave room for
    /// only one.
    fn make_room(&mut self) {
        if self.input.capacity() - self.input.len() < INPUT_BYTES_MIN / 2 {
            self.input.reserve(self.input.capacity().max(INPUT_BYTES_MIN));
        }
    }

    /// Reads once more into `input`; `None` at the end, on an error or past the deadline.
    async fn read_more(&mut self, deadline: Nanos) -> Option<usize> {
        self.make_room();
        // Before a request's first byte nobody waits for it.
        let begun = (!self.input.is_empty()).then(clock::now);
        let ends = if begun.is_none() { Ends::IdleRead } else { Ends::Reads };
        self.socket.watch().arm(deadline, ends);
        let read = self.socket.read(&mut self.input).await;
        self.socket.watch().disarm();
        if let Some(begun) = begun {
            self.waited = self.waited.after(clock::lately().since(begun));
        }
        read.ok().filter(|count| *count > 0)
    }

    /// Says that nothing more comes, and reads on for a while what nobody wants.
    pub async fn part(&mut self) {
        self.socket.end_writes();
        let deadline = clock::lately().after(LINGER);
        let mut skipped = 0;
        while skipped < LINGER_BYTES_MAX {
            self.input.clear();
            self.input.reserve(BUFFER_KEPT_BYTES);
            let Some(count) = self.read_more(deadline).await else { return };
            skipped += count;
        }
    }
}
