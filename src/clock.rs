//! The one place that reads a clock for decisions and labels.

use rustix::time::{ClockId, clock_gettime};
use shard::units::{Moment, Nanos};

/// Nanoseconds since boot, suspend included: deadlines hold across a suspended machine.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Boottime);
    Nanos((time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64))
}

/// Microseconds since 1970, UTC.
pub fn unix_us() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

/// Both clocks.
pub fn moment() -> Moment {
    Moment { now: now(), unix_us: unix_us() }
}
