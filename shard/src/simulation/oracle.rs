//! What must hold, kept apart from the code under test and in other words.

use crate::lease::{LONG_LEASE, lease_span};
use crate::units::Nanos;

/// What a run did, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub admitted: u64,
    pub denied: u64,
    pub exhausted: u64,
    pub calls: u64,
    pub words: u64,
    pub recalls: u64,
    pub failovers: u64,
    /// The worst of the budgets, once the faults had stopped.
    pub calm_share_permille: u64,
    pub calm_calls: u64,
    /// Of months.
    pub calm_month_calls: u64,
    pub calm_words: u64,
    pub calm_admitted: u64,
    pub calm_denied: u64,
    /// The same against what one place would have admitted of the same requests, unparked.
    pub calm_ideal_permille: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.denied += other.denied;
        self.exhausted += other.exhausted;
        self.calls += other.calls;
        self.words += other.words;
        self.recalls += other.recalls;
        self.failovers += other.failovers;
    }
}

/// The bucket that the whole system has to look like: one place, no network.
#[derive(Clone, Debug)]
pub(super) struct Ideal {
    /// Token·10⁻¹⁵: a rate in tokens per second times parts per million times nanoseconds.
    level: i128,
    full: i128,
    rate: i128,
    allowed: i128,
    ahead_max: i128,
    last: Nanos,
    /// A change of plan binds from here on.
    binds_from: Nanos,
}

const TOKEN: i128 = 1_000_000_000_000_000;

impl Ideal {
    /// `fast_ppm`: how much faster than true time the authority's clock may run.
    pub(super) fn new(rate_per_s: u64, burst: u64, fast_ppm: u64) -> Self {
        let full = i128::from(burst) * TOKEN;
        let rate = i128::from(rate_per_s) * i128::from(1_000_000 + fast_ppm);
        let ahead_max = rate * i128::from(lease_span(rate_per_s, burst).0) + TOKEN;
        let (last, binds_from) = (Nanos(0), Nanos(0));
        Self { level: full, full, rate, allowed: 0, ahead_max, last, binds_from }
    }

    /// The price of one forward step of the authority's clock: the bucket may fill at once, from
    /// as far down as the future is granted.
    pub(super) fn allow_step(&mut self) {
        self.allowed += self.full + self.ahead_max;
    }

    pub(super) fn change(&mut self, rate_per_s: u64, burst: u64, fast_ppm: u64, binds_from: Nanos) {
        *self = Self { binds_from, last: binds_from, ..Self::new(rate_per_s, burst, fast_ppm) };
    }

    pub(super) fn admit(&mut self, at: Nanos) -> Result<(), String> {
        if at < self.binds_from {
            return Ok(());
        }
        self.level += self.rate * i128::from(at.since(self.last).0);
        self.level = self.level.min(self.full) - TOKEN;
        self.last = at;
        if self.level < -self.allowed {
            let over = (-self.level - self.allowed) as f64 / TOKEN as f64;
            return Err(format!("bound: {over} tokens too many at {at:?}"));
        }
        Ok(())
    }
}

/// What one place would admit of the requests it sees, each at once or never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OnePlace {
    /// Nano-tokens.
    level: u128,
    last: Nanos,
    pub admitted: u64,
}

impl OnePlace {
    /// Empty.
    pub(super) fn at(now: Nanos) -> Self {
        Self { last: now, ..Self::default() }
    }

    pub(super) fn request(&mut self, rate_per_s: u64, burst: u64, at: Nanos) {
        let accrued = u128::from(rate_per_s) * u128::from(at.since(self.last).0);
        self.level = (self.level + accrued).min(u128::from(burst) * 1_000_000_000);
        self.last = at;
        if self.level >= 1_000_000_000 {
            self.level -= 1_000_000_000;
            self.admitted += 1;
        }
    }
}

/// No long lease lasts longer.
pub(super) fn long_lease_max(recallable: bool, rtt: Nanos) -> Nanos {
    if recallable { Nanos((LONG_LEASE.0 + rtt.0) / 100 * 102) } else { Nanos(0) }
}

/// No other lease of such a bucket lasts longer.
pub(super) fn lease_max(rate_per_s: u64, burst: u64, rtt: Nanos) -> Nanos {
    let span = lease_span(rate_per_s, burst).0;
    let last_slot = 1_000_000_000 / rate_per_s.max(1) + 2 * span + 1_000_000;
    Nanos(((2 * span + 2 * rtt.0).max(100_000_000) + last_slot + last_slot / 32) / 100 * 102)
}

/// A month over all instances.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Month {
    pub limit: u64,
    pub reserved: u64,
    pub consumed: u64,
    pub overrun: u64,
    /// Reserved by instances that died, and so never settled.
    pub lost: u64,
    /// On lease when the authority forgot it, and unknown to it until the holders call again.
    pub forgotten: u64,
}

impl Month {
    pub(super) fn check(&self) -> Result<(), String> {
        let most = self.limit + self.overrun + self.forgotten;
        if self.reserved + self.consumed + self.lost > most {
            return Err(format!("quota: more promised than the month has: {self:?}"));
        }
        Ok(())
    }
}
