//! The bound on open files: raised as far as this process may, and connections kept to what is
//! left of it. Without this a crowd of silent clients takes the descriptors that the calls of
//! others need for their upstreams.

use crate::gateway::REFUSING_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Journals, the store, rings, listeners, the admin API and its callers.
const KEPT_BACK: u64 = 256;

/// The most client connections that each of so many shards can take: each may need another one
/// to an upstream. `None`: there is no bound.
pub(crate) fn connections_per_shard(shards: usize) -> Option<u32> {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    // Where it may not be raised, it is as it was.
    let _ = setrlimit(Resource::Nofile, wanted);
    let descriptors = getrlimit(Resource::Nofile).current?;
    let shards = shards.max(1) as u64;
    let kept_back = KEPT_BACK + shards * u64::from(REFUSING_MAX);
    let per_shard = descriptors.saturating_sub(kept_back) / 2 / shards;
    Some(u32::try_from(per_shard).unwrap_or(u32::MAX).max(1))
}
