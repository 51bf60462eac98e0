//! The one place that reads a clock for decisions and labels.
//!
//! A shard reads it when one of its waits ends ([`tick`]) and goes by that reading until it waits
//! again ([`lately`]): between two waits it runs for microseconds, and a reading costs 25 ns, of
//! which a relayed call would take twenty.

use rustix::time::{ClockId, clock_gettime};
use shard::units::{Moment, Nanos};
use std::cell::Cell;

/// How long the difference between the two clocks is taken to hold: a step of the wall clock is
/// seen after this.
const OFFSET_HOLDS: Nanos = Nanos::from_ms(10);

thread_local! {
    static LAST: Cell<Reading> = const { Cell::new(NONE) };
}

const NONE: Reading = Reading { now: Nanos(0), offset_us: 0, compared: Nanos(0) };

#[derive(Clone, Copy)]
struct Reading {
    now: Nanos,
    /// What the wall clock is ahead.
    offset_us: i64,
    compared: Nanos,
}

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

/// Reads the clock for this thread's [`lately`].
pub fn tick() {
    let last = LAST.get();
    let now = now();
    if last.compared == Nanos(0) || now.since(last.compared) >= OFFSET_HOLDS {
        let offset_us = unix_us().saturating_sub(micros(now));
        LAST.set(Reading { now, offset_us, compared: now });
    } else {
        LAST.set(Reading { now, ..last });
    }
}

/// [`now`] at this thread's last [`tick`].
pub fn lately() -> Nanos {
    moment_lately().now
}

/// [`moment`] at this thread's last [`tick`].
pub fn moment_lately() -> Moment {
    if LAST.get().now == Nanos(0) {
        tick();
    }
    let Reading { now, offset_us, .. } = LAST.get();
    Moment { now, unix_us: micros(now).saturating_add(offset_us) }
}

fn micros(time: Nanos) -> i64 {
    (time.0 / 1_000) as i64
}
