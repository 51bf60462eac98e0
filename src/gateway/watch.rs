//! Deadlines of sockets, looked at together a few times a second instead of by a timer each:
//! arming one is two stores, and the ring sees no timer operation per read.
//!
//! A deadline that passes shuts the socket down, so that the read or write waiting on it ends;
//! the task that waited asks [`Watch::fired`] why. Precision is [`SWEEP_EVERY`]; what needs
//! better (a parked request) has a timer of its own.
//!
//! A deadline may hold only while the peer takes nothing ([`Watch::arm_taking`]): the sweep asks
//! the kernel how much of what was sent is not acknowledged, and where that has become less, the
//! time begins anew.
//!
//! The same sweep looks after clients whose calls take long: nobody reads from a client while its
//! upstream is waited for, so nobody would notice that it has left. A client that has reset its
//! connection is gone. One that has only said that it sends no more may be half-closed and want
//! its answer, or gone: a [`Probe`] makes the kernel of one that is gone say so.

use crate::net::{self, Handle, Look, Peer, Stream};
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often deadlines are looked at.
pub const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Room for this many sockets is made at once.
const WATCHES_MIN: usize = 64;
/// Calls that take less are not looked after.
const LOOK_AFTER: Nanos = Nanos::from_ms(20);
/// What a probe brings is looked for after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A time that does not come.
pub const NEVER: Nanos = Nanos(u64::MAX);

/// What ends when the deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Reads only: the peer can still be told.
    Reads,
    /// The same; the peer is not in the middle of anything.
    IdleRead,
    /// Everything.
    Both,
}

/// Bytes that mean nothing to a client that has said all and still listens.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Sent once, and only while nothing else is being sent.
    pub bytes: &'static [u8],
    /// Not before this.
    pub not_before: Nanos,
}

/// One socket's deadline.
pub struct Watch {
    handle: Handle,
    deadline: Cell<Nanos>,
    ends: Cell<Ends>,
    /// How long the peer may take nothing; `None`: the deadline holds whatever it does.
    taking: Cell<Option<Nanos>>,
    /// What was not acknowledged when last asked; `None`: not asked since it was armed.
    unacknowledged: Cell<Option<u32>>,
    fired: Cell<bool>,
    /// Who waits for the peer to speak, and is woken if it has not by then.
    listener: RefCell<Option<(Nanos, Waker)>>,
    open: Cell<bool>,
    /// Of an upstream's socket: the client that is being served, and since when.
    client: RefCell<Option<(Rc<Watch>, Nanos)>>,
    /// Of a client's socket.
    probe: Cell<Option<Probe>>,
    left: Cell<bool>,
}

impl Watch {
    /// From now on, end what waits on the socket at `deadline`.
    pub fn arm(&self, deadline: Nanos, ends: Ends) {
        self.deadline.set(deadline);
        self.ends.set(ends);
        self.taking.set(None);
    }

    /// From now on, end what waits on the socket when its peer has taken nothing for `patience`.
    pub fn arm_taking(&self, now: Nanos, patience: Nanos, ends: Ends) {
        self.arm(now.after(patience), ends);
        self.taking.set(Some(patience));
        self.unacknowledged.set(None);
    }

    /// Has the peer taken some of what it was sent since last asked? Then its time begins anew.
    /// Asked at the first sweep, to know where it stood, and when the time is over.
    fn takes(&self, now: Nanos) -> bool {
        let Some(patience) = self.taking.get().filter(|_| self.deadline.get() != NEVER) else {
            return false;
        };
        let is_due = self.deadline.get() <= now;
        if !is_due && self.unacknowledged.get().is_some() {
            return false;
        }
        let Ok(left) = self.handle.unacknowledged_bytes() else { return false };
        let took = self.unacknowledged.replace(Some(left)).is_some_and(|before| left < before);
        if took && is_due {
            self.deadline.set(now.after(patience));
        }
        took
    }

    /// No deadline.
    pub fn disarm(&self) {
        self.deadline.set(NEVER);
    }

    /// Has a deadline passed?
    pub fn fired(&self) -> bool {
        self.fired.get()
    }

    /// Wakes whoever has listened long enough.
    fn wake_listener(&self, now: Nanos) {
        let is_due = |listener: &mut (Nanos, Waker)| listener.0 <= now;
        if let Some((_, waker)) = self.listener.borrow_mut().take_if(is_due) {
            waker.wake();
        }
    }

    /// From now on, end this (an upstream's socket) if the client leaves.
    pub fn serve(&self, client: Presence, now: Nanos) {
        *self.client.borrow_mut() = Some((client.0, now));
    }

    /// No client is served any more.
    pub fn served(&self) {
        *self.client.borrow_mut() = None;
    }

    /// How to find out whether this client is still there; `None`: in no way.
    pub fn probe_with(&self, probe: Option<Probe>) {
        self.probe.set(probe);
    }

    /// Has this client been found to have left?
    pub fn left(&self) -> bool {
        self.left.get()
    }

    /// The client that has been served for long.
    fn waiting_client(&self, now: Nanos) -> Option<Rc<Watch>> {
        let client = self.client.borrow();
        let (client, since) = client.as_ref()?;
        let is_waiting = self.open.get() && client.open.get() && now.since(*since) >= LOOK_AFTER;
        is_waiting.then(|| Rc::clone(client))
    }

    /// Sends the probe, where there is one and it may be sent.
    fn send_probe(&self, now: Nanos) -> Probed {
        // A write that waits on the socket ends by itself when the client has left.
        let is_idle = self.deadline.get() == NEVER;
        let Some(probe) = self.probe.get().filter(|probe| is_idle && now >= probe.not_before)
        else {
            return Probed::Nothing;
        };
        match self.handle.send_now(probe.bytes) {
            Ok(0) => Probed::Nothing,
            Ok(sent) if sent == probe.bytes.len() => {
                self.probe.set(None);
                Probed::Sent
            }
            // A part of it would spoil what follows.
            Ok(_) | Err(_) => Probed::Failed,
        }
    }
}

enum Probed {
    Nothing,
    Sent,
    Failed,
}

/// The deadlines of one shard.
#[derive(Default)]
pub struct Watches(RefCell<Vec<Rc<Watch>>>);

impl Watches {
    /// Takes a socket under watch.
    pub fn socket(&self, stream: Stream) -> Socket {
        let watch = Rc::new(Watch {
            handle: stream.reader.handle(),
            deadline: Cell::new(NEVER),
            ends: Cell::new(Ends::Both),
            taking: Cell::new(None),
            unacknowledged: Cell::new(None),
            fired: Cell::new(false),
            listener: RefCell::new(None),
            open: Cell::new(true),
            client: RefCell::new(None),
            probe: Cell::new(None),
            left: Cell::new(false),
        });
        let mut watches = self.0.borrow_mut();
        if watches.len() == watches.capacity() {
            // However many come and go between two sweeps: room is for twice those still open.
            watches.retain(|watch| watch.open.get());
            let room = watches.len().max(WATCHES_MIN);
            watches.reserve(room);
        }
        watches.push(Rc::clone(&watch));
        drop(watches);
        Socket { watch: Guard(watch), stream }
    }

    /// Ends reads that wait for a request on an idle connection.
    pub fn end_idle(&self) {
        for watch in self.0.borrow().iter().filter(|watch| watch.open.get()) {
            if watch.ends.get() == Ends::IdleRead && watch.deadline.get() != NEVER {
                watch.handle.end_reads();
            }
        }
    }

    /// Ends everything.
    pub fn end_all(&self) {
        for watch in self.0.borrow().iter().filter(|watch| watch.open.get()) {
            watch.fired.set(true);
            watch.handle.end();
        }
    }

    /// Ends what is overdue or serves clients that have left, wakes who has listened long enough,
    /// and forgets what is closed. How long to wait before the next sweep.
    pub fn sweep(&self, now: Nanos) -> Duration {
        self.0.borrow_mut().retain(|watch| {
            watch.wake_listener(now);
            if watch.open.get() && !watch.takes(now) && watch.deadline.get() <= now {
                watch.fired.set(true);
                watch.disarm();
                match watch.ends.get() {
                    Ends::Reads | Ends::IdleRead => watch.handle.end_reads(),
                    Ends::Both => watch.handle.end(),
                }
            }
            watch.open.get()
        });
        if self.look_after_clients(now) { LOOK_AGAIN } else { SWEEP_EVERY }
    }

    /// True if there is news to come.
    fn look_after_clients(&self, now: Nanos) -> bool {
        let watches = self.0.borrow();
        let calls: Vec<(&Rc<Watch>, Rc<Watch>)> = watches
            .iter()
            .filter_map(|upstream| Some((upstream, upstream.waiting_client(now)?)))
            .collect();
        let handles: Vec<Handle> = calls.iter().map(|(_, client)| client.handle.clone()).collect();
        if handles.is_empty() {
            return false;
        }
        // Unasked, they are as they were; there is another sweep.
        let Ok(peers) = net::peers(&handles) else { return false };
        let mut any_probed = false;
        for ((upstream, client), peer) in calls.iter().zip(peers) {
            let probed = match peer {
                Peer::Open => Probed::Nothing,
                Peer::SaidAll => client.send_probe(now),
                Peer::Gone => Probed::Failed,
            };
            any_probed |= matches!(probed, Probed::Sent);
            if matches!(probed, Probed::Failed) {
                client.left.set(true);
                upstream.served();
                upstream.fired.set(true);
                upstream.handle.end();
            }
        }
        any_probed
    }
}

/// A client, for looking after it.
#[derive(Clone)]
pub struct Presence(Rc<Watch>);

/// Marks the socket closed before its descriptor is.
struct Guard(Rc<Watch>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.open.set(false);
    }
}

/// A socket with its deadline. Fields drop in order: first the guard, then the descriptor.
pub struct Socket {
    watch: Guard,
    stream: Stream,
}

impl Socket {
    /// For looking after whoever is at its other end.
    pub fn presence(&self) -> Presence {
        Presence(Rc::clone(&self.watch.0))
    }

    /// Its deadline.
    pub fn watch(&self) -> &Watch {
        &self.watch.0
    }

    /// See [`net::ReadHalf::read`].
    pub async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.reader.read(buffer).await
    }

    /// Waits until there is something to read or nothing more can come; false if neither has
    /// happened by the first sweep after `until`.
    pub async fn speaks_before(&self, until: Nanos) -> bool {
        let listener = &self.watch().listener;
        let mut readable = pin!(self.stream.reader.readable());
        let mut is_listening = false;
        let speaks = poll_fn(|context| {
            if readable.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            let mut listener = listener.borrow_mut();
            if is_listening && listener.is_none() {
                return Poll::Ready(false);
            }
            is_listening = true;
            *listener = Some((until, context.waker().clone()));
            Poll::Pending
        });
        let speaks = speaks.await;
        *listener.borrow_mut() = None;
        speaks
    }

    /// See [`net::WriteHalf::write`].
    pub async fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.writer.write(bytes).await
    }

    /// See [`net::WriteHalf::write_all`].
    pub async fn write_all(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.stream.writer.write_all(bytes).await
    }

    /// Sends nothing more.
    pub fn end_writes(&self) {
        self.stream.writer.end();
    }

    /// See [`net::WriteHalf::ready`].
    pub async fn ready(&self, or_readable: bool) -> io::Result<()> {
        self.stream.writer.ready(or_readable.then_some(&self.stream.reader)).await
    }

    /// See [`net::WriteHalf::send_now`].
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.writer.send_now(bytes)
    }

    /// See [`net::ReadHalf::recv_now`].
    pub fn recv_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        self.stream.reader.recv_now(buffer)
    }

    /// See [`net::ReadHalf::look`].
    pub fn look(&self) -> Look {
        self.stream.reader.look()
    }

    /// Does the kernel show that the peer cannot have read all that was sent to it?
    pub fn is_unread(&self) -> bool {
        self.stream.writer.unacknowledged_bytes().is_ok_and(|bytes| bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::net::Listener;

    /// Connections of this many clients at once, one after the other `rounds` times, unswept.
    fn room_after(rounds: usize, at_once: usize) -> usize {
        let room = net::run(async move {
            let listener = net::bind(([127, 0, 0, 1], 0).into()).unwrap();
            let address = listener.local_addr().unwrap();
            let _listener = Listener::from_std(listener).unwrap();
            let watches = Watches::default();
            for _ in 0..rounds {
                let mut open = Vec::new();
                for _ in 0..at_once {
                    open.push(watches.socket(Stream::connect(address).await.unwrap()));
                }
            }
            watches.0.borrow().capacity()
        });
        room.unwrap()
    }

    #[test]
    fn room_is_for_open_sockets_only() {
        assert!(room_after(40, 50) <= 4 * WATCHES_MIN);
        assert!(room_after(4, 500) >= 500);
    }
}
