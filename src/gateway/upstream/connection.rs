//! A connection to an upstream over HTTP/1.1: the request sent, the answer's head and body read
//! within their deadlines. It knows nothing of what an answer means.

use super::UpstreamRequest;
use super::fault::{Cause, Fault};
use super::link::Link;
use crate::clock;
use crate::gateway::core::Core;
use crate::gateway::deadline::WriteDeadline;
use crate::gateway::presence::CallUnderWay;
use crate::metrics::Phase;
use crate::net::{self, Look};
use crate::wire::chunked::{ChunkDecoder, Step};
use crate::wire::request::HeadLimits;
use crate::wire::response::{ResponseFraming, ResponseHead, parse_response_head};
use shard::catalog::Service;
use shard::units::Nanos;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Room for one read of an answer.
const READ_BYTES: usize = 16 * 1024;
/// Header lines of an answer.
const ANSWER_HEADERS_MAX: usize = 128;
/// Interim (1xx) answers that are skipped before an answer counts as nonsense.
const INTERIM_ANSWERS_MAX: usize = 8;
/// Reads for what an answer that has said it all is still to be ended with.
const TAIL_READS_MAX: usize = 4;
/// An upstream that has begun a good answer and for so long takes no more of its request does
/// not wait for the rest of it.
const EARLY_PATIENCE: Duration = Duration::from_secs(1);

pub(super) enum BodyRest {
    Done,
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

/// A connection to an upstream and the answer that is coming in on it.
pub(crate) struct UpstreamConnection {
    pub(super) link: Link,
    /// Ends what waits on the socket if the client leaves.
    call: Rc<CallUnderWay>,
    pub(super) address: SocketAddr,
    /// The answer's head, as places in `head_bytes`.
    pub head: ResponseHead,
    /// See `head`.
    pub head_bytes: Vec<u8>,
    /// What was read.
    pub input: Vec<u8>,
    /// Room for an answer's whole body, kept for the next answer.
    pub body: Vec<u8>,
    pub(super) output: Vec<u8>,
    pub(super) position: usize,
    pub(super) rest: BodyRest,
    pub(super) total_deadline: Nanos,
    pub(super) waited: Nanos,
    pub(super) reused: bool,
    /// How far the call has come.
    phase: Phase,
    /// The upstream has said something since the call began.
    spoke: bool,
    /// Interim answers since the call began.
    interim: usize,
    /// The upstream did not get, or did not want, the whole request.
    pub(super) ceased: bool,
    /// Not to be used for another call.
    pub(super) unsound: bool,
    pub(super) idle_since: Nanos,
}

impl UpstreamConnection {
    pub(super) fn new(link: Link, call: Rc<CallUnderWay>, address: SocketAddr) -> Self {
        Self {
            link,
            call,
            address,
            head: ResponseHead::default(),
            head_bytes: Vec::new(),
            input: Vec::with_capacity(READ_BYTES),
            body: Vec::new(),
            output: Vec::new(),
            position: 0,
            rest: BodyRest::Done,
            total_deadline: Nanos(u64::MAX),
            waited: Nanos(0),
            reused: false,
            phase: Phase::Send,
            spoke: false,
            interim: 0,
            ceased: false,
            unsound: false,
            idle_since: Nanos(0),
        }
    }

    pub(super) fn reset(&mut self) {
        const KEPT_BYTES: usize = 64 * 1024;
        for buffer in [&mut self.input, &mut self.output, &mut self.body] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.head.clear();
        self.position = 0;
        self.waited = Nanos(0);
        (self.spoke, self.interim, self.phase) = (false, 0, Phase::Send);
        self.call.end();
    }

    /// Frees every buffer; the next call makes them anew.
    pub(super) fn free_buffers(&mut self) {
        self.head = ResponseHead::default();
        for buffer in [&mut self.head_bytes, &mut self.input, &mut self.body, &mut self.output] {
            *buffer = Vec::new();
        }
        self.link.free_buffers();
    }

    /// May a call of the service go over it? Its host or its addresses may have changed.
    pub(super) fn is_for(&self, service: &Service) -> bool {
        service.addrs.contains(&self.address) && self.link.is_for(service)
    }

    /// Time spent waiting for the upstream since the call began.
    pub(crate) const fn waited(&self) -> Nanos {
        self.waited
    }

    /// The answer's head is here.
    fn has_head(&self) -> bool {
        self.phase == Phase::Body
    }

    /// The answer is read to its end.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.rest, BodyRest::Done)
    }

    pub(super) async fn exchange(
        &mut self,
        core: &Core,
        request: &UpstreamRequest<'_>,
    ) -> Result<(), Fault> {
        let begun = clock::lately();
        self.call.begin(request.client.clone(), begun);
        let result = self.converse(core, request.is_head).await;
        self.output.clear();
        self.waited = self.waited.after(clock::lately().since(begun));
        result
    }

    async fn converse(&mut self, core: &Core, is_head: bool) -> Result<(), Fault> {
        let config = core.config();
        let limits = HeadLimits {
            head_bytes: config.upstream.max_head_bytes,
            uri_bytes: config.upstream.max_head_bytes,
            headers: ANSWER_HEADERS_MAX,
        };
        self.send(config.upstream.idle_timeout_ms, &limits, is_head).await?;
        if !self.has_head() {
            self.phase = Phase::Head;
        }
        let deadline = self.deadline(config.upstream.first_byte_timeout_ms);
        while !self.take_head(&limits, is_head)? {
            if self.read(deadline).await? == 0 {
                return Err(self.fault(Cause::Closed));
            }
        }
        Ok(())
    }

    /// Sends the request; less than all of it where the answer is here before that and does not
    /// depend on the rest. Most requests leave at once, with all else that the shard's turn sends;
    /// a peer woken in mid-turn by a system call of its own would take the shard's core.
    async fn send(
        &mut self,
        idle_timeout_ms: u64,
        limits: &HeadLimits,
        is_head: bool,
    ) -> Result<(), Fault> {
        let mut deadline = WriteDeadline::At(self.deadline(idle_timeout_ms));
        let mut sent = 0;
        let mut taken = self.link.write(&mut self.output, deadline).await;
        loop {
            let count = match taken {
                Ok(count) => count,
                Err(error) => {
                    // What the upstream said before it hung up is its answer.
                    self.ceased = true;
                    let is_here = self.has_head() || self.listen(limits, is_head)?;
                    return if is_here { Ok(()) } else { Err(self.unsent(error.kind().into())) };
                }
            };
            sent += count;
            if sent == self.output.len() {
                return Ok(());
            }
            if self.has_head() {
                let room = self.link.ready(false, WriteDeadline::At(self.total_deadline));
                self.ceased = net::within(EARLY_PATIENCE, room).await.is_none();
            } else {
                // An upstream that takes nothing is as silent as one that says nothing.
                if count > 0 {
                    deadline = WriteDeadline::At(self.deadline(idle_timeout_ms));
                }
                // How the wait ended, the next look and the next write tell.
                let _ = self.link.ready(true, deadline).await;
                // A refusal does not wait for the rest (RFC 9112, section 9.3).
                self.ceased = self.listen(limits, is_head)? && self.head.status >= 300;
            }
            if self.ceased {
                return Ok(());
            }
            taken = self.link.send_now(&self.output[sent..]);
        }
    }

    /// Takes in what the upstream has said so far: is the answer's head here?
    fn listen(&mut self, limits: &HeadLimits, is_head: bool) -> Result<bool, Fault> {
        loop {
            if self.take_head(limits, is_head)? {
                return Ok(true);
            }
            match self.read_now() {
                Ok(Some(1..)) => {}
                Ok(None) => return Ok(false),
                // It says no more, so it will not answer what it has not got.
                Ok(Some(0)) => return Err(self.unsent(Cause::Closed)),
                Err(error) => return Err(self.unsent(error.kind().into())),
            }
        }
    }

    /// When an operation that begins now has taken too long, be it by itself or by the call's
    /// total time.
    fn deadline(&self, patience_ms: u64) -> Nanos {
        clock::lately().after(Nanos::from_ms(patience_ms)).min(self.total_deadline)
    }

    /// Is the answer's head here? Interim ones are skipped.
    fn take_head(&mut self, limits: &HeadLimits, is_head: bool) -> Result<bool, Fault> {
        while !self.has_head() {
            match parse_response_head(&self.input, limits, &mut self.head, is_head) {
                Ok(true) if self.head.status >= 200 => self.begin(),
                // 101 would end HTTP on this connection; nobody asked for it.
                Ok(true) if self.head.status != 101 && self.interim < INTERIM_ANSWERS_MAX => {
                    self.interim += 1;
                    self.unsound |= self.head.announces_body;
                    self.input.drain(..self.head.head_len);
                    self.head.clear();
                }
                Ok(true) | Err(_) => return Err(self.fault(Cause::Nonsense)),
                Ok(false) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn begin(&mut self) {
        self.phase = Phase::Body;
        self.position = self.head.head_len;
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(&self.input[..self.position]);
        self.rest = match self.head.framing {
            ResponseFraming::None | ResponseFraming::Length(0) => BodyRest::Done,
            ResponseFraming::Length(length) => BodyRest::Length(length),
            ResponseFraming::Chunked => BodyRest::Chunked(ChunkDecoder::default()),
            ResponseFraming::UntilClose => BodyRest::UntilClose,
        };
    }

    /// The next piece of the body as a place in `input`, valid until the next call; `None` at
    /// the end.
    pub(crate) async fn next_part(&mut self, core: &Core) -> Result<Option<Range<usize>>, Fault> {
        loop {
            if let Some(part) = self.part_at_hand()? {
                return Ok(Some(part));
            }
            if self.is_done() {
                return Ok(None);
            }
            self.read_more(core).await?;
        }
    }

    /// Reads once; only when there is no part at hand and the body is not done.
    pub(crate) async fn read_more(&mut self, core: &Core) -> Result<(), Fault> {
        self.input.drain(..self.position);
        self.position = 0;
        let begun = clock::lately();
        // The time that a client takes to receive is not the upstream's, so each read has its own.
        let deadline = self.deadline(core.config().upstream.idle_timeout_ms);
        let mut read = self.read(deadline).await;
        self.waited = self.waited.after(clock::lately().since(begun));
        if self.ceased && matches!(&read, Err(fault) if fault.cause != Cause::Deadline) {
            // The reset is for the part of the request that nobody wanted.
            read = Ok(0);
        }
        if read? == 0 {
            if !matches!(self.rest, BodyRest::UntilClose) || self.link.is_expired() {
                return Err(self.fault(Cause::Closed));
            }
            self.rest = BodyRest::Done;
        }
        Ok(())
    }

    /// Passes over what has been read of the answer.
    pub(super) fn skip_at_hand(&mut self) -> Result<(), Fault> {
        while self.part_at_hand()?.is_some() {}
        Ok(())
    }

    /// What is on the connection besides its last answer, whose end may still have to be read.
    pub(super) fn look(&mut self) -> Look {
        let mut reads = 0;
        while !self.is_done() && reads < TAIL_READS_MAX {
            reads += 1;
            self.input.clear();
            self.position = 0;
            if !matches!(self.read_now(), Ok(Some(1..))) || self.skip_at_hand().is_err() {
                return Look::Ended;
            }
        }
        let look = match (self.is_done(), self.position < self.input.len()) {
            (true, false) => self.link.look(),
            (true, true) => Look::Speaks,
            (false, _) => Look::Ended,
        };
        self.input.clear();
        (self.position, self.spoke) = (0, false);
        look
    }

    /// The next piece of what has been read already: `None` if there is none, at the end or not.
    pub(crate) fn part_at_hand(&mut self) -> Result<Option<Range<usize>>, Fault> {
        while self.position < self.input.len() {
            let begin = self.position;
            let available = self.input.len() - begin;
            match &mut self.rest {
                BodyRest::Done => return Ok(None),
                BodyRest::UntilClose => {
                    self.position = self.input.len();
                    return Ok(Some(begin..self.position));
                }
                BodyRest::Length(left) => {
                    let count = available.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.rest = BodyRest::Done;
                    }
                    self.position += count;
                    return Ok(Some(begin..self.position));
                }
                BodyRest::Chunked(decoder) => {
                    let step = decoder.decode(&self.input[begin..]);
                    let Ok(step) = step else { return Err(self.fault(Cause::Nonsense)) };
                    match step {
                        Step::Data { payload, consumed } => {
                            self.position += consumed;
                            return Ok(Some(begin + payload.start..begin + payload.end));
                        }
                        Step::More { consumed } => {
                            self.position += consumed;
                            return Ok(None);
                        }
                        Step::End { consumed } => {
                            self.position += consumed;
                            self.rest = BodyRest::Done;
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    async fn read(&mut self, deadline: Nanos) -> Result<usize, Fault> {
        self.make_room();
        match self.link.read(&mut self.input, deadline).await {
            Ok(count) => {
                self.spoke |= count > 0;
                Ok(count)
            }
            Err(error) => Err(self.fault(error.kind().into())),
        }
    }

    fn read_now(&mut self) -> io::Result<Option<usize>> {
        self.make_room();
        let read = self.link.read_now(&mut self.input);
        self.spoke |= matches!(read, Ok(Some(1..)));
        read
    }

    fn make_room(&mut self) {
        if self.input.capacity() - self.input.len() < READ_BYTES / 4 {
            self.input.reserve(READ_BYTES);
        }
    }

    /// The request was not taken whole: nobody can have acted on it.
    fn unsent(&self, cause: Cause) -> Fault {
        Fault { heard: self.spoke, ..self.fault(cause) }
    }

    fn fault(&self, cause: Cause) -> Fault {
        let cause = if self.link.is_expired() { Cause::Deadline } else { cause };
        // Bytes that the upstream's kernel has acknowledged were there for a program to read, and
        // to act on. A reset tells no more than an end: it comes from programs that have read
        // nothing and from such as did all the work. Where the connection was closed before the
        // call came, it stands in the place of an acknowledgement. A program that reads all and
        // resets before its kernel has acknowledged (it may hold that back for 40 ms) looks the
        // same, and is called twice.
        // Past a deadline our own end counts among the unacknowledged bytes: they tell nothing.
        let is_late = cause == Cause::Deadline && self.phase != Phase::Send;
        let heard = self.spoke || is_late || !self.link.is_unread();
        Fault { phase: self.phase, heard, cause }
    }
}
