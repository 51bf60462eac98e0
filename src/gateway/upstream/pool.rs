//! Idle connections to upstreams, kept for the next call. A connection that holds, or may yet
//! bring, a byte that belongs to no answer must never be handed out: the next caller would get
//! what was meant for the last. So each is looked at right before the call that it is used for,
//! whose request leaves in the same turn. A stray answer that comes only after that can't be told
//! from the call's own.

use super::UpstreamRequest;
use super::connection::{BodyRest, UpstreamConnection};
use crate::clock;
use crate::config::Upstream;
use crate::gateway::core::Core;
use crate::net::Look;
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

/// For so long no connection of a service is kept whose upstream has sent such a byte: what it
/// does on one connection it may be about to do on the others, after the look at them.
const DISTRUST: Nanos = Nanos::from_s(10);
/// A connection that has been idle for so long gives back its buffers.
const BUFFERS_KEPT: Nanos = Nanos::from_s(1);

#[derive(Default)]
struct ServicePool {
    connections: Vec<UpstreamConnection>,
    distrusted_until: Nanos,
}

/// Idle connections of one shard, by the service's index.
#[derive(Default)]
pub(crate) struct Pools {
    by_service: RefCell<Vec<ServicePool>>,
    idle: Cell<usize>,
}

impl Pools {
    /// Idle connections in all.
    pub(crate) fn idle(&self) -> usize {
        self.idle.get()
    }

    /// Makes room for one more connection: clients, who may each need one, and idle connections
    /// are together no more than clients alone may be. The oldest goes.
    pub(super) fn make_room(&self, core: &Core) {
        let most = core.config().server.max_connections as usize;
        while self.idle.get() > 0 && self.idle.get() + core.connections.get() as usize >= most {
            let mut pools = self.by_service.borrow_mut();
            let oldest = |pool: &&mut ServicePool| {
                pool.connections.first().map(|connection| connection.idle_since)
            };
            let used = pools.iter_mut().filter(|pool| !pool.connections.is_empty());
            let Some(pool) = used.min_by_key(oldest) else { return };
            pool.connections.remove(0);
            self.idle.set(self.idle.get() - 1);
        }
    }

    /// A connection on which nothing has come since its last answer. Each is looked at, however
    /// short it has been idle, right before it is written to.
    pub(super) fn take(
        &self,
        core: &Core,
        request: &UpstreamRequest<'_>,
    ) -> Option<UpstreamConnection> {
        loop {
            let mut connection = self.pop(request.index)?;
            match connection.look() {
                Look::Quiet if connection.is_for(request.service) => {
                    return Some(connection);
                }
                Look::Quiet | Look::Ended => {}
                Look::Speaks => self.distrust(core, request.index, connection.address),
            }
        }
    }

    fn pop(&self, index: u32) -> Option<UpstreamConnection> {
        let connection = self.by_service.borrow_mut().get_mut(index as usize)?.connections.pop()?;
        self.idle.set(self.idle.get() - 1);
        Some(connection)
    }

    /// Keeps a connection that nothing more is wanted of. Of an answer that has said it all, the
    /// end may be missing yet: nobody waits for it, and without it the connection is not used.
    pub(crate) fn put(&self, core: &Core, index: u32, mut connection: UpstreamConnection) {
        if connection.skip_at_hand().is_err() {
            return;
        }
        if connection.is_done() && connection.position < connection.input.len() {
            return self.distrust(core, index, connection.address);
        }
        let ended = connection.link.is_expired() || matches!(connection.rest, BodyRest::UntilClose);
        let unsound = connection.unsound || connection.ceased || !connection.head.keep_alive;
        if ended || unsound || core.draining() {
            return;
        }
        let now = clock::lately();
        connection.reset();
        connection.idle_since = now;
        self.make_room(core);
        let mut pools = self.by_service.borrow_mut();
        let index = index as usize;
        if pools.len() <= index {
            pools.resize_with(index + 1, ServicePool::default);
        }
        let pool = &mut pools[index];
        if now >= pool.distrusted_until
            && pool.connections.len() < core.config().upstream.pool_idle_max
        {
            pool.connections.push(connection);
            self.idle.set(self.idle.get() + 1);
        }
    }

    /// The upstream at `address` has sent what belongs to no answer.
    fn distrust(&self, core: &Core, index: u32, address: SocketAddr) {
        core.metrics().stray(index);
        let now = clock::lately();
        let mut pools = self.by_service.borrow_mut();
        let slot = index as usize;
        if pools.len() <= slot {
            pools.resize_with(slot + 1, ServicePool::default);
        }
        let pool = &mut pools[slot];
        let is_news = now >= pool.distrusted_until;
        pool.distrusted_until = now.after(DISTRUST);
        self.idle.set(self.idle.get() - pool.connections.len());
        pool.connections.clear();
        drop(pools);
        if is_news {
            tracing::warn!(
                service = &*core.service(index).name,
                upstream = %address,
                "the upstream sent bytes that belong to no answer: its connections were closed, \
                 and none is kept for the next {} s",
                DISTRUST.0 / 1_000_000_000
            );
        }
    }

    /// Closes what has been idle for too long, and frees the buffers of what has been for a while;
    /// true if there were any.
    pub(crate) fn sweep(&self, now: Nanos, config: &Upstream) -> bool {
        let mut any_freed = false;
        let patience = Nanos::from_ms(config.pool_idle_timeout_ms);
        for pool in self.by_service.borrow_mut().iter_mut() {
            let before = pool.connections.len();
            pool.connections.retain_mut(|connection| {
                let idle = now.since(connection.idle_since);
                if idle >= BUFFERS_KEPT && connection.input.capacity() > 0 {
                    connection.free_buffers();
                    any_freed = true;
                }
                idle < patience
            });
            self.idle.set(self.idle.get() - (before - pool.connections.len()));
        }
        any_freed
    }
}
