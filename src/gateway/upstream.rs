//! Calls to upstreams: connections kept alive per shard and service, the request sent, the
//! answer's head and body read within their deadlines. Nothing here knows what an answer means.

use super::core::Core;
use super::net::{self, Stream};
use super::watch::{Ends, Socket};
use crate::clock;
use crate::config::Upstream;
use crate::wire::chunked::{ChunkDecoder, Step};
use crate::wire::request::HeadLimits;
use crate::wire::response::{ResponseFraming, ResponseHead, parse_response_head};
use shard::catalog::Service;
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

/// Room for one read of an answer.
const READ_BYTES: usize = 16 * 1024;
/// A connection idle for longer is asked whether its peer is still there before it is used.
const TRUSTED_IDLE: Nanos = Nanos::from_ms(100);
/// Header lines of an answer.
const ANSWER_HEADERS_MAX: usize = 128;
/// Interim (1xx) answers that are skipped before an answer counts as nonsense.
const INTERIM_ANSWERS_MAX: usize = 8;

/// Why a call brought no (whole) answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Unreachable, broken off, or nonsense.
    Failed,
    /// A deadline passed.
    TimedOut,
    /// A kept connection turned out to be closed before any byte of an answer: the upstream's
    /// idle timeout crossed our request, which it has therefore not seen.
    Stale,
}

/// Idle connections of one shard, by the service's index.
#[derive(Default)]
pub struct Pools {
    by_service: RefCell<Vec<Vec<Link>>>,
    idle: Cell<usize>,
}

impl Pools {
    /// Idle connections in all.
    pub fn idle(&self) -> usize {
        self.idle.get()
    }

    /// Makes room for one more connection: clients, who may each need one, and idle connections
    /// are together no more than clients alone may be. The oldest goes.
    fn make_room(&self, core: &Core) {
        let most = core.config().server.max_connections as usize;
        while self.idle.get() > 0 && self.idle.get() + core.connections.get() as usize >= most {
            let mut pools = self.by_service.borrow_mut();
            let oldest = |pool: &&mut Vec<Link>| pool.first().map(|link| link.idle_since);
            let Some(pool) = pools.iter_mut().filter(|pool| !pool.is_empty()).min_by_key(oldest)
            else {
                return;
            };
            pool.remove(0);
            self.idle.set(self.idle.get() - 1);
        }
    }

    fn take(&self, index: u32, service: &Service, now: Nanos) -> Option<Link> {
        let mut pools = self.by_service.borrow_mut();
        let pool = pools.get_mut(index as usize)?;
        while let Some(link) = pool.pop() {
            self.idle.set(self.idle.get() - 1);
            let fresh = now.since(link.idle_since) < TRUSTED_IDLE || link.socket.is_quiet();
            if fresh && service.addrs.contains(&link.address) {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn put(&self, core: &Core, index: u32, mut link: Link) {
        let ended = link.socket.watch().fired();
        let clean = !ended && link.position == link.input.len() && link.head.keep_alive;
        if !clean || !matches!(link.rest, Rest::Done) || core.draining() {
            return;
        }
        link.reset();
        link.idle_since = clock::lately();
        self.make_room(core);
        let mut pools = self.by_service.borrow_mut();
        let index = index as usize;
        if pools.len() <= index {
            pools.resize_with(index + 1, Vec::new);
        }
        if pools[index].len() < core.config().upstream.pool_idle_max {
            pools[index].push(link);
            self.idle.set(self.idle.get() + 1);
        }
    }

    /// Closes what has been idle for too long.
    pub fn drop_idle_since(&self, now: Nanos, config: &Upstream) {
        let patience = Nanos::from_ms(config.pool_idle_timeout_ms);
        for pool in self.by_service.borrow_mut().iter_mut() {
            let before = pool.len();
            pool.retain(|link| now.since(link.idle_since) < patience);
            self.idle.set(self.idle.get() - (before - pool.len()));
        }
    }
}

enum Rest {
    Done,
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

/// A connection to an upstream and the answer that is coming in on it.
pub struct Link {
    socket: Socket,
    address: SocketAddr,
    /// The answer's head, as places in `head_bytes`.
    pub head: ResponseHead,
    /// See `head`.
    pub head_bytes: Vec<u8>,
    /// What was read.
    pub input: Vec<u8>,
    /// Room for an answer's whole body, kept for the next answer.
    pub body: Vec<u8>,
    output: Vec<u8>,
    position: usize,
    rest: Rest,
    total_deadline: Nanos,
    waited: Nanos,
    reused: bool,
    /// The upstream has said something since the call began.
    heard: bool,
    idle_since: Nanos,
}

/// What one call to an upstream is about.
pub struct Request<'a> {
    /// Index of the service.
    pub index: u32,
    /// The service.
    pub service: &'a Service,
    /// A HEAD request: its answer has no body.
    pub is_head: bool,
    /// For whom. The call ends when it leaves.
    pub client: &'a Socket,
}

/// Sends what `compose` writes and reads the answer's head. `attempts` counts the calls begun.
pub async fn call(
    core: &Core,
    request: &Request<'_>,
    attempts: &mut u16,
    compose: impl Fn(&mut Vec<u8>),
) -> Result<Link, Fault> {
    let begun = clock::lately();
    let total = begun.after(Nanos::from_ms(core.config().upstream.total_timeout_ms));
    *attempts += 1;
    if let Some(mut link) = core.pools.take(request.index, request.service, begun) {
        (link.reused, link.heard) = (true, false);
        link.total_deadline = total;
        compose(&mut link.output);
        match link.exchange(core, request).await {
            Ok(()) => return Ok(link),
            // Sent again, so counted again: the record says how often the upstream was called.
            Err(Fault::Stale) => *attempts += 1,
            Err(fault) => return Err(fault),
        }
    }
    let mut link = Link::open(core, request.service).await?;
    link.waited = clock::lately().since(begun);
    link.total_deadline = total;
    compose(&mut link.output);
    link.exchange(core, request).await?;
    Ok(link)
}

impl Link {
    async fn open(core: &Core, service: &Service) -> Result<Self, Fault> {
        core.pools.make_room(core);
        let patience = Duration::from_millis(core.config().upstream.connect_timeout_ms);
        let mut fault = Fault::Failed;
        for address in &service.addrs {
            // A connect that lost its race with time is dropped with its socket.
            match net::within(patience, Stream::connect(*address)).await {
                Some(Ok(stream)) => return Ok(Self::new(core.watches.socket(stream), *address)),
                Some(Err(_)) => fault = Fault::Failed,
                None => fault = Fault::TimedOut,
            }
        }
        Err(fault)
    }

    fn new(socket: Socket, address: SocketAddr) -> Self {
        Self {
            socket,
            address,
            head: ResponseHead::default(),
            head_bytes: Vec::new(),
            input: Vec::with_capacity(READ_BYTES),
            body: Vec::new(),
            output: Vec::new(),
            position: 0,
            rest: Rest::Done,
            total_deadline: Nanos(u64::MAX),
            waited: Nanos(0),
            reused: false,
            heard: false,
            idle_since: Nanos(0),
        }
    }

    fn reset(&mut self) {
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
        self.socket.watch().disarm();
        self.socket.watch().served();
    }

    /// Time spent waiting for the upstream since the call began.
    pub const fn waited(&self) -> Nanos {
        self.waited
    }

    /// The rest of the answer must be here by then.
    pub fn end_by(&mut self, deadline: Nanos) {
        self.total_deadline = self.total_deadline.min(deadline);
    }

    /// The answer is read to its end.
    pub const fn is_done(&self) -> bool {
        matches!(self.rest, Rest::Done)
    }

    async fn exchange(&mut self, core: &Core, request: &Request<'_>) -> Result<(), Fault> {
        let begun = clock::lately();
        self.socket.watch().serve(request.client, begun);
        let within = |ms| clock::lately().after(Nanos::from_ms(ms)).min(self.total_deadline);
        let config = core.config();
        // An upstream that takes nothing is as silent as one that says nothing.
        self.socket.watch().arm(within(config.upstream.idle_timeout_ms), Ends::Both);
        let sent = self.socket.write_all(&mut self.output).await;
        self.socket.watch().arm(within(config.upstream.first_byte_timeout_ms), Ends::Both);
        self.output.clear();
        if sent.is_err() {
            return Err(self.fault());
        }
        let result = self.read_head(core, request.is_head).await;
        self.socket.watch().disarm();
        self.waited = self.waited.after(clock::lately().since(begun));
        result
    }

    async fn read_head(&mut self, core: &Core, is_head: bool) -> Result<(), Fault> {
        let limits = HeadLimits {
            head_bytes: core.config().upstream.max_head_bytes,
            uri_bytes: core.config().upstream.max_head_bytes,
            headers: ANSWER_HEADERS_MAX,
        };
        let mut interim = 0;
        loop {
            match parse_response_head(&self.input, &limits, &mut self.head, is_head) {
                Ok(true) if self.head.status >= 200 => break,
                // 101 would end HTTP on this connection; nobody asked for it.
                Ok(true) if self.head.status != 101 && interim < INTERIM_ANSWERS_MAX => {
                    interim += 1;
                    self.input.drain(..self.head.head_len);
                    self.head.clear();
                }
                Ok(true) | Err(_) => return Err(Fault::Failed),
                Ok(false) => {
                    if self.read().await? == 0 {
                        return Err(self.fault());
                    }
                }
            }
        }
        self.position = self.head.head_len;
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(&self.input[..self.position]);
        self.rest = match self.head.framing {
            ResponseFraming::None | ResponseFraming::Length(0) => Rest::Done,
            ResponseFraming::Length(length) => Rest::Length(length),
            ResponseFraming::Chunked => Rest::Chunked(ChunkDecoder::default()),
            ResponseFraming::UntilClose => Rest::UntilClose,
        };
        Ok(())
    }

    /// The next piece of the body as a place in `input`, valid until the next call; `None` at
    /// the end.
    pub async fn next_part(&mut self, core: &Core) -> Result<Option<Range<usize>>, Fault> {
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
    pub async fn read_more(&mut self, core: &Core) -> Result<(), Fault> {
        self.input.drain(..self.position);
        self.position = 0;
        let begun = clock::lately();
        let idle = begun.after(Nanos::from_ms(core.config().upstream.idle_timeout_ms));
        self.socket.watch().arm(idle.min(self.total_deadline), Ends::Both);
        let read = self.read().await;
        // The time that a client takes to receive is not the upstream's.
        self.socket.watch().disarm();
        self.waited = self.waited.after(clock::lately().since(begun));
        if read? == 0 {
            if !matches!(self.rest, Rest::UntilClose) || self.socket.watch().fired() {
                return Err(self.fault());
            }
            self.rest = Rest::Done;
        }
        Ok(())
    }

    /// The next piece of what has been read already: `None` if there is none, at the end or not.
    pub fn part_at_hand(&mut self) -> Result<Option<Range<usize>>, Fault> {
        while self.position < self.input.len() {
            let begin = self.position;
            let available = self.input.len() - begin;
            match &mut self.rest {
                Rest::Done => return Ok(None),
                Rest::UntilClose => {
                    self.position = self.input.len();
                    return Ok(Some(begin..self.position));
                }
                Rest::Length(left) => {
                    let count = available.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.rest = Rest::Done;
                    }
                    self.position += count;
                    return Ok(Some(begin..self.position));
                }
                Rest::Chunked(decoder) => {
                    let step = decoder.decode(&self.input[begin..]).map_err(|_| Fault::Failed)?;
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
                            self.rest = Rest::Done;
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<usize, Fault> {
        if self.input.capacity() - self.input.len() < READ_BYTES / 4 {
            self.input.reserve(READ_BYTES);
        }
        match self.socket.read(&mut self.input).await {
            Ok(count) => {
                self.heard |= count > 0;
                Ok(count)
            }
            Err(_) => Err(self.fault()),
        }
    }

    fn fault(&self) -> Fault {
        if self.socket.watch().fired() {
            Fault::TimedOut
        } else if self.reused && !self.heard {
            Fault::Stale
        } else {
            Fault::Failed
        }
    }
}
