//! Makes the allocator give back what idle connections have freed: it does so once that is a
//! second old and a thread ends, and there and not on the shard. See tuning.md, "memory of idle
//! connections".

use shard::units::Nanos;
use std::cell::Cell;

/// How old what was freed has to be.
const OLD: Nanos = Nanos::from_ms(1_500);

/// Since when freed memory waits to go back to the system, and its newest part.
#[derive(Debug, Default)]
pub(super) struct IdleMemory(Cell<Option<(Nanos, Nanos)>>);

impl IdleMemory {
    /// Buffers of a connection that is idle have been freed.
    pub(super) fn freed(&self, now: Nanos) {
        self.0.set(Some((self.0.get().map_or(now, |(first, _)| first), now)));
    }

    /// Has what is old enough given back.
    pub(super) fn give_back(&self, now: Nanos) {
        if let Some((first, last)) = self.0.get()
            && now.since(first) >= OLD
        {
            self.0.set((last > first).then_some((last, last)));
            // Without a thread it goes back later.
            let _ = std::thread::Builder::new().name("give-back".into()).spawn(|| {});
        }
    }
}
