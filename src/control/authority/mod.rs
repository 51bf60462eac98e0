//! The authority that the instance leases from: in this process, or in a Redis that all instances
//! share. A call of the first is a function call; one of the second is answered later, by
//! [`ChosenAuthority::on_event`].

mod address;
mod event;
mod link;
mod open;
mod push;
mod revocations;
mod script;

pub(crate) use address::RedisAddress;
pub(crate) use event::Event;
pub(crate) use link::{Answered, Link};

use shard::lease::{LeaseCall, LeaseReply, Recall};
use shard::units::{BucketId, ConsumerId, KeyId, Nanos, Period};
use tokio::sync::oneshot;

/// See the module.
pub(crate) enum ChosenAuthority {
    /// In this process.
    Embedded(Box<shard::authority::Authority>),
    /// In Redis.
    Redis(Box<Link>),
}

impl ChosenAuthority {
    /// One in this process. `empty_at`: when this process began, if another has served from the
    /// same data before and may have spent tokens.
    pub(crate) fn embedded(empty_at: Option<Nanos>) -> Self {
        Self::Embedded(Box::new(shard::authority::Authority::new(empty_at)))
    }

    /// One in Redis, and what comes from there. Runs tasks, so a runtime has to be there.
    pub(crate) fn redis(at: RedisAddress, holder: u128) -> (Self, flume::Receiver<Event>) {
        let (link, events) = Link::new(at, holder);
        (Self::Redis(Box::new(link)), events)
    }

    /// Does the call, or takes it along to [`ChosenAuthority::send`].
    pub(crate) fn call(&mut self, call: &LeaseCall, now: Nanos) -> Option<LeaseReply> {
        match self {
            Self::Embedded(authority) => Some(authority.call(call, now)),
            Self::Redis(link) => {
                link.call(call);
                None
            }
        }
    }

    /// The next lease of this process that a call so far has called back, if any.
    pub(crate) fn poll_recall(&mut self) -> Option<Recall> {
        match self {
            Self::Embedded(authority) => authority.poll_recall(),
            Self::Redis(_) => None,
        }
    }

    /// Tells what the month has consumed by the ledger.
    pub(crate) fn seed_quota(&mut self, month: (ConsumerId, Period), tokens: u64) {
        match self {
            Self::Embedded(authority) => authority.seed_quota(month, tokens),
            Self::Redis(link) => link.seed(month, tokens),
        }
    }

    /// Would it be heard at once that somebody else needs what is on lease here?
    pub(crate) fn is_recallable(&self, now: Nanos) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Redis(link) => link.is_recallable(now),
        }
    }

    /// From now on nothing is granted of the bucket. Embedded nobody else could be granted any.
    pub(crate) fn revoke(&mut self, bucket: BucketId) {
        if let Self::Redis(link) = self {
            link.revoke(bucket);
        }
    }

    /// Tells all instances that the key is refused from now on; `told` hears whether they know.
    pub(crate) fn tell_revoked(&self, key: KeyId, told: oneshot::Sender<bool>) {
        if let Self::Redis(link) = self {
            link.tell_revoked(key, told);
        }
    }

    /// Since when it is out of reach; `None` as well where it has not been reached yet.
    pub(crate) fn lost_at(&self) -> Option<Nanos> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(link) => link.lost_at(),
        }
    }

    /// Sends all calls since the last time, in one go. Waits for nothing.
    pub(crate) fn send(&mut self) {
        if let Self::Redis(link) = self {
            link.send();
        }
    }

    /// Takes in what has come from Redis: the answers, and how long they took.
    pub(crate) fn on_event(&mut self, event: Event) -> (Vec<Answered>, Option<Nanos>) {
        match self {
            Self::Embedded(_) => (Vec::new(), None),
            Self::Redis(link) => link.on_event(event),
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/e2e/support/redis_server.rs"]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod redis_server;
#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod tests;
