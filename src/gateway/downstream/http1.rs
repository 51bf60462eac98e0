//! A caller over HTTP/1.1 or 1.0: its socket and buffers, reading a request's head and body within
//! their bounds and deadlines, framing and sending an answer. It knows nothing of what a request
//! or an answer is about.

use super::Request;
use crate::clock;
use crate::gateway::answer::{self, AnswerHead, BodyLength};
use crate::gateway::call::Next;
use crate::gateway::core::Core;
use crate::gateway::deadline::{Socket, WriteDeadline};
use crate::gateway::presence::{Presence, Probe};
use crate::wire::chunked::{CHUNK_END, LAST_CHUNK, write_chunk_head};
use crate::wire::error::ApiError;
use crate::wire::request::{BodyFraming, HeadLimits, Method, RequestHead, parse_request_head};
use crate::wire::write::{write_header, write_header_u64};
use shard::units::Nanos;
use std::net::SocketAddr;

/// How long a draining shard waits for another request on an idle connection: clients in a
/// request-answer loop have sent theirs by then, and are told to close in its answer.
pub(crate) const IDLE_GRACE: Nanos = Nanos::from_ms(300);
/// A fresh connection's input buffer. Most heads and small bodies fit; it grows as needed.
pub(super) const INPUT_BYTES_MIN: usize = 2048;
/// A buffer that grew past this is given back after the request.
pub(super) const BUFFER_KEPT_BYTES: usize = 64 * 1024;
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

/// Begins no chunk: whoever reads it knows that the body is broken.
const NO_CHUNK: u8 = b'!';

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How reading a head ended.
pub(crate) enum HeadRead {
    /// It is here: [`Http1::request`].
    Ready,
    /// Nothing has come for a while. How long it may stay idle is set.
    Silent,
    /// The client is gone or was silent for too long; there is nothing to answer.
    Closed,
    /// Answer this, then close.
    Refused(ApiError),
}

/// How an answer's end is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    /// By its length, or by the status or the method: there is none.
    #[default]
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection closes (an HTTP/1.0 client).
    Close,
}

/// A caller.
pub(crate) struct Http1 {
    /// Its socket.
    pub(super) socket: Socket,
    /// Is it still there?
    presence: Presence,
    /// Its address.
    pub(super) peer: SocketAddr,
    /// Bytes read; the current request begins at 0.
    pub(super) input: Vec<u8>,
    /// The current request's head, as places in `input`.
    pub(super) head: RequestHead,
    /// Bytes on their way out.
    pub(super) output: Vec<u8>,
    /// When the current request's first byte was here.
    pub(super) begun: Nanos,
    /// Time since then that went by waiting for the client: to send, and to take its answer.
    pub(super) waited: Nanos,
    pub(super) decoded_body: Vec<u8>,
    pub(super) request_bytes: usize,
    pub(super) body_is_read: bool,
    ending: Ending,
    /// The current answer is not the connection's last.
    keeps_alive: bool,
    closes_after: bool,
}

impl Http1 {
    /// One that has said nothing yet.
    pub(crate) fn new(socket: Socket, peer: SocketAddr) -> Self {
        Self {
            presence: Presence::of(&socket.reader),
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
            ending: Ending::default(),
            keeps_alive: false,
            closes_after: false,
        }
    }

    /// The current request.
    pub(crate) fn request(&self) -> Request<'_> {
        Request { head: &self.head, bytes: &self.input, body: self.body() }
    }

    /// There is, or can be, no head to answer but what stands at sight in the input.
    pub(crate) fn without_head(&mut self) -> &[u8] {
        self.head.clear();
        &self.input
    }

    /// A request begins, or what stands for one.
    pub(crate) fn begin(&mut self) {
        self.begun = clock::lately();
        self.waited = Nanos(0);
    }

    /// Its socket, when it has nothing else.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// See [`super::Exchange::presence`].
    pub(crate) fn presence(&self) -> Presence {
        self.presence.clone()
    }

    /// From now on until the head of its answer a client that says no more, and may have left, is
    /// asked by an interim answer. Those that only half-close know them less well than chunks, so
    /// it comes only if the answer is long in coming; and not to HTTP/1.0, which has none.
    pub(crate) fn expect_answer(&self, now: Nanos) {
        const PATIENCE: Nanos = Nanos::from_ms(1_000);
        let (bytes, not_before) = (CONTINUE, now.after(PATIENCE));
        let probe = (!self.head.http_10).then_some(Probe { bytes, not_before });
        self.presence.probe_with(probe);
    }

    /// From now on the same is asked, if the answer is chunked, by a leading zero of the next
    /// chunk's size, which is no part of the answer.
    fn expect_chunk(&self) {
        let probe = Probe { bytes: b"0", not_before: Nanos(0) };
        let is_chunked = self.ending == Ending::Chunked;
        self.presence.probe_with(is_chunked.then_some(probe));
    }

    /// See [`super::Exchange::expect_end`].
    pub(crate) fn expect_end(&self) {
        self.presence.probe_with(None);
    }

    /// Has it left while its upstream was waited for?
    pub(crate) fn has_left(&self) -> bool {
        self.presence.has_left()
    }

    /// Sends what `output` holds, and empties it.
    pub(super) async fn send(&mut self, core: &Core) -> std::io::Result<()> {
        let stall = Nanos::from_ms(core.config().server.write_timeout_ms);
        let deadline = WriteDeadline::WhenStalledFor(stall);
        let result = match self.output.len() {
            0..=ONE_WRITE_BYTES_MAX => {
                self.socket.writer.write_all(&mut self.output, deadline).await
            }
            _ => self.send_in_pieces(deadline).await,
        };
        self.output.clear();
        result
    }

    async fn send_in_pieces(&mut self, deadline: WriteDeadline) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.socket.writer.send_now(&self.output[sent..])? {
                0 => self.socket.writer.ready(None, deadline).await?,
                count => sent += count,
            }
        }
        Ok(())
    }

    /// See [`super::Exchange::close_after`].
    pub(crate) fn close_after(&mut self) {
        (self.closes_after, self.keeps_alive) = (true, false);
    }

    /// See [`super::Exchange::answer`].
    pub(crate) fn answer(&mut self, core: &Core, answer: &AnswerHead<'_>) {
        self.ending = match answer.length {
            BodyLength::Known(_) | BodyLength::None => Ending::Length,
            BodyLength::Unknown if self.head.http_10 => Ending::Close,
            BodyLength::Unknown => Ending::Chunked,
        };
        let can_follow = self.can_continue() && self.ending != Ending::Close;
        self.keeps_alive =
            can_follow && self.head.keep_alive && !core.draining() && !self.closes_after;
        let out = &mut self.output;
        answer::write(out, answer);
        match (answer.length, self.ending) {
            (BodyLength::Known(length), _) => write_header_u64(out, b"content-length", length),
            (_, Ending::Chunked) => write_header(out, b"transfer-encoding", b"chunked"),
            _ => {}
        }
        if let Some(option) = connection_option(self.keeps_alive, self.head.http_10) {
            write_header(out, b"connection", option);
        }
        out.extend_from_slice(b"\r\n");
        // In all other answers there is no room to ask: what asked before the head must stop.
        self.expect_chunk();
    }

    /// See [`super::Exchange::part`].
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.head.method == Method::Head {
            return;
        }
        if self.ending != Ending::Chunked {
            return self.output.extend_from_slice(bytes);
        }
        write_chunk_head(&mut self.output, bytes.len());
        self.output.extend_from_slice(bytes);
        self.output.extend_from_slice(CHUNK_END);
    }

    /// See [`super::Exchange::has_parts`].
    pub(crate) fn has_parts(&self) -> bool {
        !self.output.is_empty()
    }

    /// See [`super::Exchange::finish`].
    pub(crate) async fn finish(&mut self, core: &Core) -> Next {
        if self.ending == Ending::Chunked {
            self.output.extend_from_slice(LAST_CHUNK);
        }
        let sent = self.send(core).await;
        if sent.is_ok() && self.keeps_alive { Next::KeepAlive } else { Next::Close }
    }

    /// See [`super::Exchange::abort`].
    pub(crate) async fn abort(&mut self, core: &Core) -> Next {
        // What is left may be all of it, and a probe's zero could pass for the last chunk.
        self.output.clear();
        if self.ending == Ending::Chunked {
            self.output.push(NO_CHUNK);
        }
        // It is the last word on this connection, heard or not.
        let _ = self.send(core).await;
        Next::Close
    }

    /// See [`super::Exchange::flush`].
    pub(crate) async fn flush(&mut self, core: &Core) -> std::io::Result<()> {
        let begun = clock::lately();
        let result = self.send(core).await;
        self.waited = self.waited.after(clock::lately().since(begun));
        result
    }

    /// Reads the next request's head.
    pub(crate) async fn read_head(&mut self, core: &Core) -> HeadRead {
        let config = core.config();
        let server = &config.server;
        let limits = HeadLimits {
            head_bytes: server.max_head_bytes,
            uri_bytes: server.max_uri_bytes,
            headers: server.max_headers,
        };
        self.head.clear();
        (self.body_is_read, self.closes_after) = (false, false);
        if self.input.is_empty()
            && let Err(end) = self.read_first(core).await
        {
            return end;
        }
        self.begin();
        let deadline = self.begun.after(Nanos::from_ms(server.head_timeout_ms));
        loop {
            match parse_request_head(&self.input, &limits, &mut self.head) {
                Ok(true) => return self.head_is_ready(),
                Ok(false) => {}
                Err(error) => return HeadRead::Refused(error.into()),
            }
            match self.read_more(deadline).await {
                Some(_) => {}
                None if self.socket.reader.is_expired() => {
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
        self.socket.reader.begin_idle(begun.after(patience));
        loop {
            if !self.socket.reader.speaks_before(begun.after(SILENT_AFTER)).await {
                let is_over = self.socket.reader.is_idle_over();
                return Err(if is_over { HeadRead::Closed } else { HeadRead::Silent });
            }
            self.make_room();
            match self.socket.reader.recv_now(&mut self.input) {
                Ok(Some(1..)) => break,
                Ok(Some(0)) | Err(_) => return Err(HeadRead::Closed),
                Ok(None) => {}
            }
        }
        self.socket.reader.end_idle();
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
    pub(super) async fn read_more(&mut self, deadline: Nanos) -> Option<usize> {
        self.make_room();
        let begun = clock::now();
        let read = self.socket.reader.read(&mut self.input, deadline).await;
        self.waited = self.waited.after(clock::lately().since(begun));
        read.ok().filter(|count| *count > 0)
    }

    /// Says that nothing more comes, and reads on for a while what nobody wants.
    pub(crate) async fn linger(&mut self) {
        self.socket.writer.end();
        let deadline = clock::lately().after(LINGER);
        self.socket.reader.begin_idle(deadline);
        let mut skipped = 0;
        while skipped < LINGER_BYTES_MAX
            && clock::lately() < deadline
            && self.socket.reader.speaks_before(deadline).await
        {
            self.input.clear();
            self.input.reserve(BUFFER_KEPT_BYTES);
            match self.socket.reader.recv_now(&mut self.input) {
                Ok(Some(0)) | Err(_) => return,
                Ok(count) => skipped += count.unwrap_or_default(),
            }
        }
    }
}

/// What has to be said of the connection, since the version does not imply it.
const fn connection_option(keeps_alive: bool, http_10: bool) -> Option<&'static [u8]> {
    match (keeps_alive, http_10) {
        (false, _) => Some(b"close"),
        (true, true) => Some(b"keep-alive"),
        (true, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::connection_option;

    #[test]
    fn what_the_version_does_not_imply_of_the_connection_is_said() {
        assert_eq!(connection_option(true, false), None);
        assert_eq!(connection_option(false, false), Some(&b"close"[..]));
        assert_eq!(connection_option(true, true), Some(&b"keep-alive"[..]));
        assert_eq!(connection_option(false, true), Some(&b"close"[..]));
    }
}
