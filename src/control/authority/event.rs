//! What comes from Redis.

use super::script::{GROUPS, ScriptAsk};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use shard::lease::LeaseKey;
use shard::units::{KeyId, Nanos};
use tokio::task::JoinSet;

/// Whoever last answered a ping sent longer ago than this may have said what was not heard.
const HEARD_WITHIN: Nanos = Nanos::from_ms(600);

/// See the module.
pub(crate) enum Event {
    /// The connections are there.
    Opened(Box<OpenLink>),
    /// A pipeline has come back, or has not.
    Answered { link: u64, calls: Vec<Vec<ScriptAsk>>, values: ScriptValues, round_trip: Nanos },
    /// All that the master had said by this instant was heard.
    Heard { link: u64, master: usize, sent_at: Nanos },
    /// A connection is of no use any more.
    Failed { link: u64, cause: String },
    /// Somebody else needs what is on lease here.
    Recalled(LeaseKey),
    /// These keys are refused from now on.
    Revoked(Vec<KeyId>),
}

/// An answer to each call of the script.
pub(super) type ScriptValues = Result<Vec<Value>, RedisError>;

/// A connection to a master that can do what the link asks of it.
pub(super) struct Master {
    pub(super) connection: MultiplexedConnection,
    /// When the last ping that it answered was sent.
    pub(super) heard_at: Nanos,
}

/// Connections to all masters.
pub(crate) struct OpenLink {
    pub(super) masters: Vec<Master>,
    /// Which master has the group.
    pub(super) of_group: [usize; GROUPS as usize],
    /// Names the script.
    pub(super) sha1: String,
    /// What listens on the connections, and ends with the link.
    pub(super) listening: JoinSet<()>,
}

impl OpenLink {
    /// The master that has the group.
    pub(super) fn master(&self, group: u8) -> Option<&Master> {
        self.masters.get(self.of_group[usize::from(group)])
    }

    /// A ping to the master that was sent at this instant was answered.
    pub(super) fn heard(&mut self, master: usize, sent_at: Nanos) {
        if let Some(master) = self.masters.get_mut(master) {
            master.heard_at = sent_at;
        }
    }

    /// Would what Redis says now be heard, whichever master says it?
    pub(super) fn is_alive(&self, now: Nanos) -> bool {
        self.masters.iter().all(|master| now.since(master.heard_at) < HEARD_WITHIN)
    }
}
