//! The one place that reads a clock for decisions and labels.
//!
//! A shard reads it when one of its waits ends ([`tick`]) and goes by that reading until it waits
//! again ([`lately`]): between two waits it runs for microseconds, and a reading costs 25 ns, of
//! which a relayed call would take twenty.

use rustix::time::{ClockId, clock_gettime};
use shard::units::{Moment, Nanos};
use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// How long the difference between the two clocks is taken to hold: a step of the wall clock is
/// seen after this.
const OFFSET_HOLDS: Nanos = Nanos::from_ms(10);

/// `Sun, 06 Nov 1994 08:49:37 GMT`
const HTTP_DATE_BYTES: usize = 29;

thread_local! {
    static LAST: Cell<Reading> = const { Cell::new(NONE) };
    static DATE: Cell<(i64, [u8; HTTP_DATE_BYTES])> = const { Cell::new((i64::MIN, [b' '; 29])) };
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
pub(crate) fn lately() -> Nanos {
    moment_lately().now
}

/// [`moment`] at this thread's last [`tick`].
pub(crate) fn moment_lately() -> Moment {
    if LAST.get().now == Nanos(0) {
        tick();
    }
    let Reading { now, offset_us, .. } = LAST.get();
    Moment { now, unix_us: micros(now).saturating_add(offset_us) }
}

/// The date of [`moment_lately`] as HTTP writes it (RFC 9110, section 5.6.7). Written anew once a
/// second and thread.
pub(crate) fn http_date_lately() -> [u8; HTTP_DATE_BYTES] {
    let second = moment_lately().unix_us.div_euclid(1_000_000);
    let (known, text) = DATE.get();
    if known == second {
        return text;
    }
    let since_1970 = Duration::from_secs(u64::try_from(second).unwrap_or(0));
    let date = httpdate::HttpDate::from(UNIX_EPOCH + since_1970);
    let mut text = [b' '; HTTP_DATE_BYTES];
    // It is always of this length until the year 9999.
    let _ = write!(&mut text[..], "{date}");
    DATE.set((second, text));
    text
}

fn micros(time: Nanos) -> i64 {
    (time.0 / 1_000) as i64
}
