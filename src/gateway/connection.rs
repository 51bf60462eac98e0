//! One client's connection: its buffers, reading a request's head and body within their bounds
//! and deadlines, and the loop over its requests (keep-alive and pipelined ones).

use super::core::Core;
use super::path;
use super::run::IDLE_GRACE;
use super::watch::{Ends, Probe, Socket};
use crate::clock;
use crate::wire::chunked::{ChunkDecoder, Step};
use crate::wire::error::ApiError;
use crate::wire::request::{BodyFraming, HeadLimits, Method, RequestHead, parse_request_head};
use shard::units::Nanos;
use std::net::SocketAddr;
use std::rc::Rc;

/// A fresh connection's input buffer. Most heads and small bodies fit; it grows as needed.
const INPUT_BYTES_MIN: usize = 2048;
/// Room for a body grows with what has come of it, by this or to twice as much: a client that only
/// announces a large one takes no memory.
const BODY_STEP_BYTES: usize = 16 * 1024;
/// A buffer that grew past this is given back after the request.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;
/// A refused request's rest is read up to here, so that the client can read its refusal.
const SKIPPED_BODY_BYTES_MAX: u64 = 64 * 1024;
/// A client that is still sending when it is refused gets this long, and this many bytes, to stop:
/// closing on unread bytes resets the connection and can take the refusal with it.
const LINGER: Nanos = Nanos::from_ms(1_000);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// After a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next one.
    KeepAlive,
    /// Close.
    Close,
}

/// How long a body may take.
struct Patience {
    per_read: Nanos,
    until: Nanos,
}

/// How reading a head ended.
pub enum HeadRead {
    /// `client.head` describes `client.input`.
    Ready,
    /// The client is gone or silent; there is nothing to answer.
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

/// Serves a client until either side has had enough. It is counted in `core.connections`.
pub async fn serve(core: Rc<Core>, socket: Socket, peer: SocketAddr) {
    let mut client = Client {
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
    };
    loop {
        let next = match client.read_head(&core).await {
            HeadRead::Ready => path::request(&core, &mut client).await,
            HeadRead::Closed => break,
            HeadRead::Refused(error) => path::refuse_head(&core, &mut client, error).await,
        };
        if next == Next::Close || client.finish_request(&core).await == Next::Close {
            if !client.body_is_read {
                client.linger().await;
            }
            break;
        }
    }
    core.connections.set(core.connections.get() - 1);
}

impl Client {
    /// The current request's body; whole after [`Client::read_body`].
    pub fn body(&self) -> &[u8] {
        match self.head.framing {
            BodyFraming::None => &[],
            BodyFraming::Length(_) => &self.input[self.head.head_len..self.request_bytes],
            BodyFraming::Chunked => &self.decoded_body,
        }
    }

    /// A HEAD request: its answer has a head only.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::Head
    }

    /// May the connection carry another request after this one?
    pub fn keeps_alive(&self, core: &Core) -> bool {
        self.head.keep_alive && !core.draining()
    }

    /// Can the next request be reached: is this one's body read, or small enough to skip?
    pub const fn can_continue(&self) -> bool {
        let small = match self.head.framing {
            BodyFraming::Length(length) => length <= SKIPPED_BODY_BYTES_MAX,
            BodyFraming::None | BodyFraming::Chunked => false,
        };
        // A client that waits for `100 Continue` may or may not send the body now.
        self.body_is_read || small && !self.head.expect_continue
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
        self.socket.watch().arm(clock::lately().after(patience), Ends::Both);
        let result = self.socket.write_all(&mut self.output).await;
        self.socket.watch().disarm();
        self.output.clear();
        result
    }

    /// Sends a part of an answer. How long that takes is the client's doing.
    pub async fn send_part(&mut self, core: &Core) -> std::io::Result<()> {
        let begun = clock::lately();
        let result = self.send(core).await;
        self.waited = self.waited.after(clock::lately().since(begun));
        result
    }

    async fn read_head(&mut self, core: &Core) -> HeadRead {
        let config = core.config();
        let server = &config.server;
        let limits = HeadLimits {
            head_bytes: server.max_head_bytes,
            uri_bytes: server.max_uri_bytes,
            headers: server.max_headers,
        };
        self.head.clear();
        self.body_is_read = false;
        self.begun = clock::lately();
        self.waited = Nanos(0);
        let mut deadline = if self.input.is_empty() {
            // An answer that began before the drain did may not have said that it is the last.
            let patience = Nanos::from_ms(server.idle_timeout_ms);
            self.begun.after(if core.draining() { IDLE_GRACE.min(patience) } else { patience })
        } else {
            self.begun.after(Nanos::from_ms(server.head_timeout_ms))
        };
        loop {
            if !self.input.is_empty() {
                match parse_request_head(&self.input, &limits, &mut self.head) {
                    Ok(true) => return self.head_is_ready(),
                    Ok(false) => {}
                    Err(error) => return HeadRead::Refused(error.into()),
                }
            }
            let was_empty = self.input.is_empty();
            match self.read_more(deadline).await {
                Some(_) if was_empty => {
                    self.begun = clock::lately();
                    deadline = self.begun.after(Nanos::from_ms(server.head_timeout_ms));
                }
                Some(_) => {}
                None if self.socket.watch().fired() && !self.input.is_empty() => {
                    return HeadRead::Refused(ApiError::RequestTimeout);
                }
                None => return HeadRead::Closed,
            }
        }
    }

    fn head_is_ready(&mut self) -> HeadRead {
        self.request_bytes = self.head.head_len;
        self.body_is_read = matches!(self.head.framing, BodyFraming::None);
        HeadRead::Ready
    }

    /// Is [`Client::body`] whole already?
    pub fn body_is_here(&mut self, core: &Core) -> bool {
        if let BodyFraming::Length(length) = self.head.framing
            && length <= core.config().server.max_body_bytes as u64
            && length <= (self.input.len() - self.head.head_len) as u64
        {
            self.request_bytes = self.head.head_len + length as usize;
            self.body_is_read = true;
        }
        self.body_is_read
    }

    /// Reads the rest of the request. Refuses what is too large or too slow; `Err(None)`: the
    /// client is gone.
    pub async fn read_body(&mut self, core: &Core) -> Result<(), Option<ApiError>> {
        let most = core.config().server.max_body_bytes as u64;
        if matches!(self.head.framing, BodyFraming::Length(length) if length > most) {
            return Err(Some(ApiError::RequestTooLarge));
        }
        if self.head.expect_continue && self.input.len() == self.head.head_len {
            self.output.extend_from_slice(CONTINUE);
            self.send(core).await.map_err(|_| None)?;
        }
        self.take_body(core, most, core.config().server.body_total_timeout_ms).await
    }

    async fn take_body(
        &mut self,
        core: &Core,
        most: u64,
        total_ms: u64,
    ) -> Result<(), Option<ApiError>> {
        let patience = Patience {
            per_read: Nanos::from_ms(core.config().server.body_timeout_ms),
            until: clock::lately().after(Nanos::from_ms(total_ms)),
        };
        if let BodyFraming::Length(length) = self.head.framing {
            let whole = self.head.head_len + length as usize;
            while self.input.len() < whole {
                let rest = whole - self.input.len();
                self.input.reserve(rest.min(self.input.len().max(BODY_STEP_BYTES)));
                self.must_read(&patience).await?;
            }
            self.request_bytes = whole;
        } else {
            let mut decoder = ChunkDecoder::default();
            self.decoded_body.clear();
            loop {
                let rest = &self.input[self.request_bytes..];
                let step = decoder.decode(rest).map_err(|error| Some(error.into()))?;
                match step {
                    Step::Data { payload, consumed } => {
                        if (self.decoded_body.len() + payload.len()) as u64 > most {
                            return Err(Some(ApiError::RequestTooLarge));
                        }
                        self.decoded_body.extend_from_slice(&rest[payload]);
                        self.request_bytes += consumed;
                    }
                    Step::More { consumed } => {
                        // The chunks read so far are decoded: only the head must stay.
                        let done = self.request_bytes + consumed;
                        self.input.drain(self.head.head_len..done);
                        self.request_bytes = self.head.head_len;
                        self.must_read(&patience).await?;
                    }
                    Step::End { consumed } => {
                        self.request_bytes += consumed;
                        break;
                    }
                }
            }
        }
        self.body_is_read = true;
        Ok(())
    }

    async fn must_read(&mut self, patience: &Patience) -> Result<(), Option<ApiError>> {
        let deadline = clock::lately().after(patience.per_read).min(patience.until);
        match self.read_more(deadline).await {
            Some(_) => Ok(()),
            None if self.socket.watch().fired() => Err(Some(ApiError::RequestTimeout)),
            None => Err(None),
        }
    }

    /// Reads once more into `input`; `None` at the end, on an error or past the deadline.
    async fn read_more(&mut self, deadline: Nanos) -> Option<usize> {
        // Never a few bytes at a time: a head could be made to leave room for only one.
        if self.input.capacity() - self.input.len() < INPUT_BYTES_MIN / 2 {
            self.input.reserve(self.input.capacity().max(INPUT_BYTES_MIN));
        }
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
    async fn linger(&mut self) {
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

    /// Makes room for the next request: forgets this one, reading the rest of a refused body.
    async fn finish_request(&mut self, core: &Core) -> Next {
        if !self.body_is_read {
            // Nobody wants it, so it gets no more time in all than a read that somebody wants.
            let total_ms = core.config().server.body_timeout_ms;
            let skipped = self.can_continue()
                && self.take_body(core, SKIPPED_BODY_BYTES_MAX, total_ms).await.is_ok();
            if !skipped {
                return Next::Close;
            }
        }
        self.input.drain(..self.request_bytes);
        for buffer in [&mut self.input, &mut self.output, &mut self.decoded_body] {
            if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.decoded_body.clear();
        Next::KeepAlive
    }
}
