//! Whether a client is still there while its call is under way. Nobody reads from a client while
//! its upstream is waited for, so nobody would notice that it has left. The sweep of deadlines
//! looks after the clients whose calls take long, all of them with one question to the kernel.
//!
//! A client that has reset its connection is gone, and the call's operations on its upstream are
//! ended. One that has only said that it sends no more may be half-closed and want its answer, or
//! gone: a [`Probe`] makes the kernel of one that is gone say so. Without a probe such a client
//! stays until a write to it fails.

use super::deadline::{Operations, TimedReader};
use super::registry::Registry;
use crate::net::{self, Handle, Peer};
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The clients of calls that take less are not looked after.
const LOOK_AFTER: Nanos = Nanos::from_ms(20);
/// What a probe brings is looked for after this.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bytes that mean nothing to a client that has said all and still listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// Sent once, and only while nothing else is being sent.
    pub bytes: &'static [u8],
    /// Not before this.
    pub not_before: Nanos,
}

/// A client, for looking after it.
#[derive(Clone)]
pub(super) struct Presence(Rc<WatchedClient>);

struct WatchedClient {
    connection: Rc<Operations>,
    probe: Cell<Option<Probe>>,
    has_left: Cell<bool>,
}

impl Presence {
    /// Of the client at the other end of a connection.
    pub(super) fn of(connection: &TimedReader) -> Self {
        let connection = connection.operations();
        Self(Rc::new(WatchedClient {
            connection,
            probe: Cell::new(None),
            has_left: Cell::new(false),
        }))
    }

    /// How to find out whether this client is still there; `None`: in no way.
    pub(super) fn probe_with(&self, probe: Option<Probe>) {
        self.0.probe.set(probe);
    }

    /// Has this client been found to have left?
    pub(super) fn has_left(&self) -> bool {
        self.0.has_left.get()
    }

    fn socket(&self) -> &Handle {
        self.0.connection.socket()
    }

    /// Sends the probe, where there is one and it may be sent.
    fn send_probe(&self, now: Nanos) -> Probed {
        // A write that is under way ends by itself when the client has left.
        let may_send = |probe: &Probe| !self.0.connection.is_writing() && now >= probe.not_before;
        let Some(probe) = self.0.probe.get().filter(may_send) else { return Probed::Nothing };
        match self.socket().send_now(probe.bytes) {
            Ok(0) => Probed::Nothing,
            Ok(sent) if sent == probe.bytes.len() => {
                self.0.probe.set(None);
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

/// The call that is under way on an upstream's connection, if one is.
pub(super) struct CallUnderWay {
    upstream: Rc<Operations>,
    /// The client that is being served, and since when.
    client: RefCell<Option<(Presence, Nanos)>>,
}

impl CallUnderWay {
    /// A call begins, which ends if its client leaves.
    pub(super) fn begin(&self, client: Presence, now: Nanos) {
        *self.client.borrow_mut() = Some((client, now));
    }

    /// No call is under way any more.
    pub(super) fn end(&self) {
        *self.client.borrow_mut() = None;
    }

    /// The client that has been waiting for long.
    fn waiting_client(&self, now: Nanos) -> Option<Presence> {
        let client = self.client.borrow();
        let (client, since) = client.as_ref()?;
        (now.since(*since) >= LOOK_AFTER).then(|| client.clone())
    }
}

/// The calls of one shard that are under way.
#[derive(Default)]
pub(super) struct CallsUnderWay(Registry<CallUnderWay>);

impl CallsUnderWay {
    /// The calls on a connection to an upstream, of which none has begun.
    pub(super) fn on(&self, upstream: &TimedReader) -> Rc<CallUnderWay> {
        let upstream = upstream.operations();
        self.0.add(CallUnderWay { upstream, client: RefCell::new(None) })
    }

    /// Ends the calls whose clients have left. True if there is news to come.
    pub(super) fn look_after(&self, now: Nanos) -> bool {
        let mut waiting = Vec::new();
        self.0.each(|call| {
            waiting.extend(call.waiting_client(now).map(|client| (Rc::clone(call), client)));
        });
        if waiting.is_empty() {
            return false;
        }
        let sockets: Vec<&Handle> = waiting.iter().map(|(_, client)| client.socket()).collect();
        // Unasked, they are as they were; there is another sweep.
        let Ok(peers) = net::peers(&sockets) else { return false };
        let mut any_probed = false;
        for ((call, client), peer) in waiting.iter().zip(peers) {
            let probed = match peer {
                Peer::Open => Probed::Nothing,
                Peer::SaidAll => client.send_probe(now),
                Peer::Gone => Probed::Failed,
            };
            any_probed |= matches!(probed, Probed::Sent);
            if matches!(probed, Probed::Failed) {
                client.0.has_left.set(true);
                call.end();
                call.upstream.expire();
            }
        }
        any_probed
    }
}
