//! When an operation's time is over. Every read, write and wait on a socket has a deadline of its
//! own. The deadlines of a shard are looked at together a few times a second ([`SWEEP_EVERY`])
//! instead of by a timer each: arming one is a few stores, and the ring sees no timer operation per
//! read. What needs better precision (a parked request) has a timer of its own.
//!
//! What a deadline ends when it passes:
//! - A wait is woken, and nothing else happens to its socket.
//! - A read that is under way owns its buffer, and giving it up may lose bytes. So the reads of its
//!   socket are ended, and what is written goes on: a client is still told why. The connection to
//!   an upstream serves one call, so its writes end as well ([`Ends`]).
//! - A write that is under way may have left in part, and nothing can follow the part. So its whole
//!   socket is shut down. It may have until a certain time, or for as long as the peer takes some
//!   of what it was sent every so often ([`WriteDeadline`]): then the kernel is asked how much of
//!   that is not acknowledged, and where it has become less, the time begins anew.
//!
//! What a deadline never ends is anything on another socket: no deadline of an upstream touches the
//! client's connection. Nor does it end another wait on its own socket, so calls that share a
//! client's connection must wait, and leave its reads and writes to the connection's own reader
//! and writer. Only the end of a drain ends everything ([`Deadlines::end_all`]).
//!
//! Whoever ran out of time asks for that: [`TimedReader::is_expired`], [`Socket::is_expired`].

use super::registry::Registry;
use crate::clock;
use crate::net::{Handle, Look, ReadHalf, Stream, WriteHalf};
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often deadlines are looked at.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// A time that does not come.
pub(super) const NEVER: Nanos = Nanos(u64::MAX);

/// What ends with a read that is out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The socket's reads: the client can still be told.
    Reads,
    /// The whole connection, which serves one call.
    Connection,
}

/// How long a write may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteDeadline {
    /// Until then, whatever the peer takes meanwhile.
    At(Nanos),
    /// For as long as the peer takes something within every such span.
    WhenStalledFor(Nanos),
}

/// The deadline of one operation, and whether it has passed.
struct Deadline {
    at: Cell<Nanos>,
    is_expired: Cell<bool>,
}

impl Deadline {
    const fn new() -> Self {
        Self { at: Cell::new(NEVER), is_expired: Cell::new(false) }
    }

    fn is_armed(&self) -> bool {
        self.at.get() != NEVER
    }

    fn is_over(&self, now: Nanos) -> bool {
        self.at.get() <= now
    }

    /// Holds for an operation that begins now, and until that ends or is dropped.
    fn arm(&self, at: Nanos) -> Armed<'_> {
        self.at.set(at);
        Armed(self)
    }

    /// True once, when its time is over.
    fn expires(&self, now: Nanos) -> bool {
        let is_over = self.is_over(now);
        if is_over {
            self.is_expired.set(true);
            self.at.set(NEVER);
        }
        is_over
    }
}

/// The deadline of an operation that is under way.
struct Armed<'a>(&'a Deadline);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.at.set(NEVER);
    }
}

/// The operations on one socket, each with its deadline.
pub(super) struct Operations {
    socket: Handle,
    ends: Ends,
    read: Deadline,
    write: Deadline,
    /// How long the peer of a write may take nothing; `None`: the deadline holds whatever it does.
    stall: Cell<Option<Nanos>>,
    /// What was not acknowledged when last asked; `None`: not asked since the write began.
    unacknowledged: Cell<Option<u32>>,
    /// Who waits for the peer to speak, and until when.
    wait: RefCell<Option<(Nanos, Waker)>>,
    /// When a peer that is in the middle of nothing has been waited for long enough.
    idle: Deadline,
}

impl Operations {
    /// The socket.
    pub(super) fn socket(&self) -> &Handle {
        &self.socket
    }

    /// Is a write under way? Nothing else can be sent meanwhile.
    pub(super) fn is_writing(&self) -> bool {
        self.write.is_armed()
    }

    /// Ends all of them, as if their time were over.
    pub(super) fn expire(&self) {
        self.read.is_expired.set(true);
        self.write.is_expired.set(true);
        self.socket.end();
    }

    fn sweep(&self, now: Nanos) {
        self.wake(now);
        if self.read.expires(now) {
            match self.ends {
                Ends::Reads => self.socket.end_reads(),
                Ends::Connection => self.socket.end(),
            }
        }
        if !self.takes(now) && self.write.expires(now) {
            self.socket.end();
        }
    }

    /// Wakes whoever has waited long enough.
    fn wake(&self, now: Nanos) {
        let is_over = |wait: &mut (Nanos, Waker)| wait.0 <= now || self.idle.is_over(now);
        if let Some((_, waker)) = self.wait.borrow_mut().take_if(is_over) {
            waker.wake();
        }
    }

    /// Has the peer taken some of what it was sent since last asked? Then its time begins anew.
    /// Asked at the first sweep, to know where it stood, and when the time is over.
    fn takes(&self, now: Nanos) -> bool {
        let Some(stall) = self.stall.get().filter(|_| self.write.is_armed()) else { return false };
        let is_over = self.write.is_over(now);
        if !is_over && self.unacknowledged.get().is_some() {
            return false;
        }
        let Ok(left) = self.socket.unacknowledged_bytes() else { return false };
        let took = self.unacknowledged.replace(Some(left)).is_some_and(|before| left < before);
        if took && is_over {
            self.write.at.set(now.after(stall));
        }
        took
    }

    fn begin_write(&self, deadline: WriteDeadline) -> Armed<'_> {
        let (at, stall) = match deadline {
            WriteDeadline::At(at) => (at, None),
            WriteDeadline::WhenStalledFor(span) => (clock::lately().after(span), Some(span)),
        };
        self.stall.set(stall);
        self.unacknowledged.set(None);
        self.write.arm(at)
    }
}

/// The deadlines of one shard.
#[derive(Default)]
pub(super) struct Deadlines(Registry<Operations>);

impl Deadlines {
    /// Gives each operation on a socket a deadline.
    pub(super) fn socket(&self, stream: Stream, ends: Ends) -> Socket {
        let operations = self.0.add(Operations {
            socket: stream.reader.handle(),
            ends,
            read: Deadline::new(),
            write: Deadline::new(),
            stall: Cell::new(None),
            unacknowledged: Cell::new(None),
            wait: RefCell::new(None),
            idle: Deadline::new(),
        });
        let reader = TimedReader { half: stream.reader, operations: Rc::clone(&operations) };
        Socket { reader, writer: TimedWriter { half: stream.writer, operations } }
    }

    /// Ends the waits for clients that are in the middle of nothing.
    pub(super) fn end_idle(&self) {
        self.0.each(|operations| {
            if operations.idle.is_armed() {
                operations.idle.at.set(Nanos(0));
                operations.wake(Nanos(0));
            }
        });
    }

    /// Ends everything.
    pub(super) fn end_all(&self) {
        self.0.each(|operations| operations.expire());
    }

    /// Ends what is out of time, and forgets the sockets that are closed.
    pub(super) fn sweep(&self, now: Nanos) {
        self.0.each(|operations| operations.sweep(now));
    }
}

/// A socket whose operations have deadlines. Its halves can go to different owners.
pub(super) struct Socket {
    /// What it receives.
    pub reader: TimedReader,
    /// What it sends.
    pub writer: TimedWriter,
}

impl Socket {
    /// Has a read or a write run out of time, or been ended as if it had?
    pub(super) fn is_expired(&self) -> bool {
        let operations = &self.reader.operations;
        operations.read.is_expired.get() || operations.write.is_expired.get()
    }
}

/// The half of a socket that reads and waits.
pub(super) struct TimedReader {
    half: ReadHalf,
    operations: Rc<Operations>,
}

impl TimedReader {
    /// The operations on the socket.
    pub(super) fn operations(&self) -> Rc<Operations> {
        Rc::clone(&self.operations)
    }

    /// See [`ReadHalf::read`]. Past the deadline it finds an end.
    pub(super) async fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        deadline: Nanos,
    ) -> io::Result<usize> {
        let _armed = self.operations.read.arm(deadline);
        self.half.read(buffer).await
    }

    /// Has a read run out of time?
    pub(super) fn is_expired(&self) -> bool {
        self.operations.read.is_expired.get()
    }

    /// From now on the peer is in the middle of nothing, and waited for until `deadline`.
    pub(super) fn begin_idle(&self, deadline: Nanos) {
        self.operations.idle.at.set(deadline);
    }

    /// The peer is in the middle of something.
    pub(super) fn end_idle(&self) {
        self.operations.idle.at.set(NEVER);
    }

    /// Has an idle peer been waited for long enough?
    pub(super) fn is_idle_over(&self) -> bool {
        self.operations.idle.is_over(clock::lately())
    }

    /// Waits until there is something to read or nothing more can come; false if neither has
    /// happened by the first sweep after `until`, or after the deadline of an idle peer.
    pub(super) async fn speaks_before(&self, until: Nanos) -> bool {
        let wait = &self.operations.wait;
        let mut readable = pin!(self.half.readable());
        let mut is_waiting = false;
        let speaks = poll_fn(|context| {
            if readable.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            let mut wait = wait.borrow_mut();
            if is_waiting && wait.is_none() {
                return Poll::Ready(false);
            }
            is_waiting = true;
            *wait = Some((until, context.waker().clone()));
            Poll::Pending
        });
        let speaks = speaks.await;
        *wait.borrow_mut() = None;
        // What came together with the end of the wait has come.
        speaks || self.look() != Look::Quiet
    }

    /// See [`ReadHalf::look`].
    pub(super) fn look(&self) -> Look {
        self.half.look()
    }

    /// See [`ReadHalf::recv_now`].
    pub(super) fn recv_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        self.half.recv_now(buffer)
    }
}

/// The half of a socket that writes.
pub(super) struct TimedWriter {
    half: WriteHalf,
    operations: Rc<Operations>,
}

impl TimedWriter {
    /// See [`WriteHalf::write`]. Past the deadline it fails.
    pub(super) async fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        deadline: WriteDeadline,
    ) -> io::Result<usize> {
        let _armed = self.operations.begin_write(deadline);
        self.half.write(bytes).await
    }

    /// See [`WriteHalf::write_all`]. Past the deadline it fails.
    pub(super) async fn write_all(
        &mut self,
        bytes: &mut Vec<u8>,
        deadline: WriteDeadline,
    ) -> io::Result<()> {
        let _armed = self.operations.begin_write(deadline);
        self.half.write_all(bytes).await
    }

    /// See [`WriteHalf::ready`]. Past the deadline the socket is ended, which the next write tells.
    pub(super) async fn ready(
        &self,
        or_readable: Option<&TimedReader>,
        deadline: WriteDeadline,
    ) -> io::Result<()> {
        let _armed = self.operations.begin_write(deadline);
        self.half.ready(or_readable.map(|reader| &reader.half)).await
    }

    /// See [`WriteHalf::send_now`].
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.half.send_now(bytes)
    }

    /// Does the kernel show that the peer cannot have read all that was sent to it?
    pub(super) fn is_unread(&self) -> bool {
        self.half.unacknowledged_bytes().is_ok_and(|bytes| bytes > 0)
    }

    /// Sends nothing more.
    pub(super) fn end(&self) {
        self.half.end();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::net::{self, Listener};
    use std::pin::Pin;

    const SOON: Nanos = Nanos(10);
    const LATER: Nanos = Nanos(20);

    /// A socket with deadlines, and its peer.
    async fn connection(deadlines: &Deadlines, ends: Ends) -> (Socket, Stream) {
        let listener = net::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let peer = Stream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = Listener::from_std(listener).unwrap().accept().await.unwrap().0;
        (deadlines.socket(accepted, ends), peer)
    }

    /// Lets an operation begin that can't end yet.
    async fn begin<F: Future>(mut operation: Pin<&mut F>) {
        poll_fn(|context| {
            assert!(operation.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_read_out_of_time_leaves_another_socket_and_its_own_writes_alone() {
        net::run(async {
            let deadlines = Deadlines::default();
            let (mut upstream, _upstream_peer) = connection(&deadlines, Ends::Connection).await;
            let (mut client, mut peer) = connection(&deadlines, Ends::Reads).await;
            let (mut one, mut other) = (Vec::with_capacity(8), Vec::with_capacity(8));
            {
                let mut late = pin!(upstream.reader.read(&mut one, SOON));
                let mut in_time = pin!(client.reader.read(&mut other, LATER));
                begin(late.as_mut()).await;
                begin(in_time.as_mut()).await;
                // A write of the socket that ends in time takes no deadline from the read.
                let mut bytes = b"x".to_vec();
                client.writer.write_all(&mut bytes, WriteDeadline::At(NEVER)).await.unwrap();
                deadlines.sweep(SOON);
                assert_eq!(late.await.unwrap(), 0);
                begin(in_time.as_mut()).await;
                deadlines.sweep(LATER);
                assert_eq!(in_time.await.unwrap(), 0);
            }
            assert!(upstream.is_expired() && client.reader.is_expired());
            let mut bytes = b"y".to_vec();
            client.writer.write_all(&mut bytes, WriteDeadline::At(NEVER)).await.unwrap();
            let mut heard = Vec::with_capacity(8);
            while heard.len() < 2 {
                assert!(peer.reader.read(&mut heard).await.unwrap() > 0);
            }
            assert_eq!(heard, b"xy");
        })
        .unwrap();
    }

    #[test]
    fn a_wait_out_of_time_is_woken_and_its_socket_left_whole() {
        net::run(async {
            let deadlines = Deadlines::default();
            let (mut client, mut peer) = connection(&deadlines, Ends::Reads).await;
            {
                let mut wait = pin!(client.reader.speaks_before(SOON));
                begin(wait.as_mut()).await;
                deadlines.sweep(SOON);
                assert!(!wait.await);
            }
            client.reader.begin_idle(LATER);
            {
                let mut idle = pin!(client.reader.speaks_before(NEVER));
                begin(idle.as_mut()).await;
                deadlines.sweep(SOON);
                begin(idle.as_mut()).await;
                deadlines.end_idle();
                assert!(!idle.await);
            }
            assert!(client.reader.is_idle_over() && !client.is_expired());
            peer.writer.write_all(&mut b"still here".to_vec()).await.unwrap();
            let mut input = Vec::with_capacity(16);
            client.reader.read(&mut input, NEVER).await.unwrap();
            assert_eq!(input, b"still here");
        })
        .unwrap();
    }
}
