//! What happens as time passes: lapsed leases, overdue sockets, idle pools and memory, gauges.

use super::core::Core;
use super::upstream::Pools;
use super::watch;
use crate::clock;
use crate::journal::format::SLOT_BYTES;
use crate::metrics::Counter;
use crate::net;
use shard::units::Nanos;
use std::time::Duration;

/// Lets time pass, for as long as the shard lives.
pub async fn keep(core: &Core, pools: &Pools) {
    /// While leases are held, what falls due meanwhile waits no longer than this.
    const LEASES_EVERY: Duration = Duration::from_millis(10);
    let (mut next_sweep, mut sweep_in) = (Nanos(0), watch::SWEEP_EVERY);
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
        core.post();
        if now >= next_sweep {
            sweep_in = core.watches.sweep(now);
            next_sweep = now.after(Nanos(sweep_in.as_nanos() as u64));
            if pools.sweep(now, &core.config().upstream) {
                core.has_freed();
            }
            give_back(core, now);
            gauge(core, pools);
        }
    }
}

/// Makes the allocator give back what was freed: it does so once that is a second old and a thread
/// ends, and there and not on the shard. See tuning.md, "memory of idle connections".
fn give_back(core: &Core, now: Nanos) {
    const OLD: Nanos = Nanos::from_ms(1_500);
    if let Some((first, last)) = core.freed.get()
        && now.since(first) >= OLD
    {
        core.freed.set((last > first).then_some((last, last)));
        // Without a thread it goes back later.
        let _ = std::thread::Builder::new().name("give-back".into()).spawn(|| {});
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
