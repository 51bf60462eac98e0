//! What happens as time passes: lapsed leases, overdue operations, idle pools and memory, gauges.

use super::core::Core;
use super::upstream::Pools;
use super::{deadline, mailbox, presence};
use crate::clock;
use crate::journal::format::SLOT_BYTES;
use crate::metrics::Counter;
use crate::net;
use shard::units::Nanos;
use std::time::Duration;

/// Lets time pass, for as long as the shard lives.
pub(super) async fn keep(core: &Core, pools: &Pools) {
    /// While leases are held, what falls due meanwhile waits no longer than this.
    const LEASES_EVERY: Duration = Duration::from_millis(10);
    let (mut next_sweep, mut sweep_in) = (Nanos(0), deadline::SWEEP_EVERY);
    loop {
        let due = core.shard.borrow().poll_timeout();
        net::sleep(due.map_or(sweep_in, |due| {
            let span = Duration::from_nanos(due.since(clock::lately()).0);
            span.clamp(Duration::from_millis(1), LEASES_EVERY)
        }))
        .await;
        let now = clock::lately();
        core.shard.borrow_mut().on_timeout(now);
        core.wake_ready();
        mailbox::post(core);
        if now >= next_sweep {
            core.deadlines.sweep(now);
            let is_news_due = core.calls.look_after(now);
            sweep_in = if is_news_due { presence::LOOK_AGAIN } else { deadline::SWEEP_EVERY };
            next_sweep = now.after(Nanos(sweep_in.as_nanos() as u64));
            if pools.sweep(now, &core.config().upstream) {
                core.idle_memory.freed(now);
            }
            core.idle_memory.give_back(now);
            core.fault_log.flush(now);
            gauge(core, pools);
        }
    }
}

fn gauge(core: &Core, pools: &Pools) {
    let metrics = core.metrics();
    let shard = core.shard.borrow();
    metrics.open_connections.set(i64::from(core.connections.get()));
    metrics.permits_open.set(shard.open_permits() as i64);
    metrics.permits_leaked.add(shard.leaked_total() - metrics.permits_leaked.get());
    metrics.keys_cached.set(shard.keys_cached() as i64);
    metrics.pool_idle.set(pools.idle() as i64);
    let journal = &core.journals[usize::from(core.index)];
    let raise = |counter: &Counter, level: u64| counter.add(level.saturating_sub(counter.get()));
    raise(&metrics.journal_records, journal.appended());
    raise(&metrics.journal_bytes, journal.appended() * SLOT_BYTES as u64);
    raise(&metrics.journal_synced, journal.synced());
    raise(&metrics.journal_sync_failures, journal.sync_failures());
}
