//! What comes from Redis.

use super::script::ScriptAsk;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use shard::units::{BucketId, KeyId, Nanos};
use tokio::task::JoinSet;

/// Whoever last answered a ping sent longer ago than this may have said what was not heard.
const HEARD_WITHIN: Nanos = Nanos::from_ms(600);

/// See the module.
pub(crate) enum Event {
    /// The connection is there.
    Opened(OpenLink),
    /// A pipeline has come back, or has not.
    Answered { link: u64, calls: Vec<Vec<ScriptAsk>>, values: ScriptValues, round_trip: Nanos },
    /// All that Redis had said by this instant was heard.
    Heard { link: u64, sent_at: Nanos },
    /// The connection is of no use any more.
    Failed { link: u64, cause: String },
    /// Somebody else needs what is on lease here.
    Recalled(BucketId),
    /// The key is refused from now on.
    Revoked(KeyId),
}

/// An answer to each call of the script.
pub(super) type ScriptValues = Result<Vec<Value>, RedisError>;

/// A connection to a Redis that can do what the link asks of it.
pub(crate) struct OpenLink {
    /// To the one that has all groups.
    pub(super) connection: MultiplexedConnection,
    /// Names the script.
    pub(super) sha1: String,
    /// When the last ping that was answered was sent.
    heard_at: Nanos,
    /// Ends with the link.
    _pings: JoinSet<()>,
}

impl OpenLink {
    /// One that answered what was sent at `heard_at`. `pings` go on telling when it did.
    pub(super) fn new(
        connection: MultiplexedConnection,
        sha1: String,
        heard_at: Nanos,
        pings: JoinSet<()>,
    ) -> Self {
        Self { connection, sha1, heard_at, _pings: pings }
    }

    /// A ping that was sent at this instant was answered.
    pub(super) fn heard(&mut self, sent_at: Nanos) {
        self.heard_at = sent_at;
    }

    /// Would what Redis says now be heard?
    pub(super) fn is_alive(&self, now: Nanos) -> bool {
        now.since(self.heard_at) < HEARD_WITHIN
    }
}
