//! The words between an instance's pool and the authority, and tokens that ripen one by one.
//!
//! A call may be lost, repeated, reordered or late; it is known by `(holder, seq)` and its payload
//! never changes, so that the authority can do it once and repeat the answer. Every time in an
//! answer is a duration: the two clocks are never compared.

use crate::units::{BucketId, ConsumerId, Nanos, Period};

/// How long a request may be parked for tokens.
pub const PARK: Nanos = Nanos::from_ms(5);
/// Unspent rate tokens go back where they came from after this long without use.
pub(crate) const RATE_IDLE: Nanos = Nanos::from_ms(20);
/// Unreserved tokens of a month go back where they came from after this long without use.
pub(crate) const QUOTA_IDLE: Nanos = Nanos::from_s(1);
/// An entry that holds nothing is forgotten after this long without use.
pub(crate) const FORGET_AFTER: Nanos = Nanos::from_s(10);

/// A lease lasts this long where what is wanted is far below the rate and the holder can be told to
/// give it back. So a quiet key costs a call every few seconds.
pub const LONG_LEASE: Nanos = Nanos::from_s(5);

/// An authority that may have forgotten what it granted grants nothing for this long: longer than
/// any lease lasts. Other leases than long ones span at most half a second and two round trips
/// (`AUTHORITY_RTT_MAX`), and their slots a second and a half more. The rest is for a server that
/// goes on granting for a moment after another has taken its place.
pub const QUARANTINE: Nanos = Nanos::from_s(7);

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKey {
    /// A rate bucket.
    Rate(BucketId),
    /// A consumer's month.
    Quota(ConsumerId, Period),
}

/// What an instance asks of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseCall {
    /// The instance; a new one after each start.
    pub holder: u128,
    /// Grows with each call of the holder. A repeated call keeps its number.
    pub seq: u64,
    /// The holder's own clock when this attempt was sent. Only echoed.
    pub sent_at: Nanos,
    /// The question.
    pub ask: LeaseAsk,
}

/// See [`LeaseCall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAsk {
    /// Tokens of a rate bucket.
    Rate(RateAsk),
    /// Tokens of a month.
    Quota(QuotaAsk),
}

/// Wants and reports of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAsk {
    /// Which bucket.
    pub bucket: BucketId,
    /// The plan's rate.
    pub rate_per_s: u64,
    /// The plan's burst.
    pub burst: u64,
    /// The lease that `used` and `returned` belong to; 0: none.
    pub lease: u64,
    /// Tokens asked for; 0: only a report.
    pub want: u64,
    /// The same if the lease may be a long one, see [`LONG_LEASE`]; 0: the holder cannot be told to
    /// give it back.
    pub long_want: u64,
    /// Requests per second lately, refused ones included.
    pub demand_per_s: u64,
    /// Tokens of the lease that will never be spent again: spent, or lapsed at the holder.
    pub used: u64,
    /// Unspent tokens of the lease given back.
    pub returned: u64,
    /// The holder's round trip to the authority, 99th percentile: leases are longer by twice that.
    pub rtt: Nanos,
}

/// Wants and reports of one consumer's month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAsk {
    /// Whose month.
    pub consumer: ConsumerId,
    /// Which month.
    pub period: Period,
    /// The plan's tokens per month; `None` in a mere report.
    pub limit: Option<u64>,
    /// Tokens asked for; 0: only a report.
    pub want: u64,
    /// Of those, what the waiting requests cannot do without.
    pub need: u64,
    /// Fewer than these serve none of the waiting requests, and are not granted.
    pub least: u64,
    /// Tokens settled since the last call.
    pub consumed: u64,
    /// What the holder has on lease after this report: granted, neither settled nor given back.
    /// All of it, so that an authority which has forgotten it knows it again.
    pub held: u64,
}

/// The authority's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseReply {
    /// As in the call.
    pub holder: u128,
    /// As in the call.
    pub seq: u64,
    /// As in the call: deadlines count from here, since the call cannot have arrived earlier.
    pub sent_at: Nanos,
    /// The answer.
    pub answer: LeaseAnswer,
}

/// See [`LeaseReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// To [`LeaseAsk::Rate`].
    Rate(RateAnswer),
    /// To [`LeaseAsk::Quota`].
    Quota(QuotaAnswer),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Reports taken; `granted` says how much of the want was met.
    Done,
    /// Reports taken; nothing will be granted for a while.
    Denied,
    /// As `Denied`, since every token is on lease: a report of spent ones ends it.
    AllOnLease,
    /// The bucket's key is revoked: nothing will be granted any more.
    Revoked,
    /// A later call of the holder came first: nothing was done.
    Stale,
    /// The month's consumption is not known yet: nothing was done. Seed it and repeat the call.
    NeedSeed,
    /// The authority may have forgotten what it granted, and waits until that has lapsed: nothing
    /// was done.
    Fenced,
}

/// Tokens of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAnswer {
    /// Which bucket.
    pub bucket: BucketId,
    /// How the call ended.
    pub status: Status,
    /// The lease that holds the granted tokens and all earlier ones; 0: none.
    pub lease: u64,
    /// Tokens granted.
    pub granted: u64,
    /// The first may be spent after this; zero: now.
    pub not_before: Nanos,
    /// Between one granted token and the next; zero: all at once.
    pub spacing: Nanos,
    /// All tokens of the lease lapse after this.
    pub ttl: Nanos,
    /// Nobody waits for what the lease holds: it may be kept until it lapses or is recalled.
    pub long: bool,
    /// Nothing will be granted for this long.
    pub deny_for: Nanos,
    /// Tokens neither granted nor spent; negative where the future is granted already.
    pub left: i64,
    /// Holders that want tokens of the bucket lately, the caller among them; 0 where nothing was
    /// done.
    pub holders: u64,
}

/// A long lease of a bucket or a lease of a month that somebody else waits for, or that the plan no
/// longer allows: its holder is to give back what is free of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Whose lease.
    pub holder: u128,
    /// Of what.
    pub key: LeaseKey,
}

/// Tokens of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAnswer {
    /// Whose month.
    pub consumer: ConsumerId,
    /// Which month.
    pub period: Period,
    /// How the call ended.
    pub status: Status,
    /// Tokens granted.
    pub granted: u64,
    /// Tokens neither granted nor spent.
    pub left: u64,
}

/// Tokens that may be spent from `at` on, one more every `spacing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Tokens not yet ripe.
    pub count: u64,
    /// When the first one ripens.
    pub at: Nanos,
    /// Between one and the next.
    pub spacing: Nanos,
}

impl Run {
    /// How many of its tokens are ripe at `now`.
    pub(crate) fn ripe(&self, now: Nanos) -> u64 {
        if self.count == 0 || now < self.at {
            return 0;
        }
        let steps = now.since(self.at).0.checked_div(self.spacing.0).unwrap_or(u64::MAX);
        steps.saturating_add(1).min(self.count)
    }

    /// Cuts the first `count` tokens off.
    pub fn split(&mut self, count: u64) -> Self {
        let first = Self { count: count.min(self.count), ..*self };
        self.count -= first.count;
        self.at = self.at.after(Nanos(self.spacing.0.saturating_mul(first.count)));
        first
    }

    /// Takes the ripe tokens out and counts them.
    pub(crate) fn ripen(&mut self, now: Nanos) -> u64 {
        let ripe = self.ripe(now);
        self.split(ripe).count
    }

    /// When the token at `place` (from 0) ripens.
    pub(crate) fn ripens_at(&self, place: u64) -> Nanos {
        self.at.after(Nanos(self.spacing.0.saturating_mul(place)))
    }
}

/// Is a burst so small that it matters when spent tokens are reported? Until then they count as on
/// lease, and the bucket does not fill over what they leave: so each is reported at once, for a
/// message and a call each. Larger ones get their rate without, by the simulation.
pub(crate) fn is_small(rate_per_s: u64, burst: u64) -> bool {
    burst < 8 || burst < 32 && burst < rate_per_s / 40
}

/// Whole tokens that accrue in a span. Answers that carry it are many, and dividing 128 bits is
/// slow.
pub fn accrued(rate_per_s: u64, span: Nanos) -> u64 {
    match rate_per_s.checked_mul(span.0) {
        Some(nano_tokens) => nano_tokens / 1_000_000_000,
        None => {
            let nano_tokens = u128::from(rate_per_s) * u128::from(span.0);
            u64::try_from(nano_tokens / 1_000_000_000).unwrap_or(u64::MAX)
        }
    }
}

/// How long so many tokens take to accrue; at most what a `u64` of nanoseconds holds.
pub(crate) fn time_to_accrue(rate_per_s: u64, tokens: u64) -> Nanos {
    let rate_per_s = rate_per_s.max(1);
    match tokens.checked_mul(1_000_000_000) {
        Some(nano_tokens) => Nanos(nano_tokens.div_ceil(rate_per_s)),
        None => {
            let span_ns = (u128::from(tokens) * 1_000_000_000).div_ceil(rate_per_s.into());
            Nanos(u64::try_from(span_ns).unwrap_or(u64::MAX))
        }
    }
}

/// The span over which a bucket's tokens are leased out ahead: a quarter of what fills it, so
/// that spent but unreported tokens leave room to accrue. Whole microseconds.
pub(crate) fn lease_span(rate_per_s: u64, burst: u64) -> Nanos {
    let quarter_us = u128::from(burst) * 250_000 / u128::from(rate_per_s.max(1));
    Nanos::from_us((quarter_us.min(250_000) as u64).max(50_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_ripen_one_by_one_and_split_in_order() {
        let mut run = Run { count: 5, at: Nanos(100), spacing: Nanos(10) };
        assert_eq!((run.ripe(Nanos(99)), run.ripe(Nanos(100)), run.ripe(Nanos(119))), (0, 1, 2));
        assert_eq!(run.ripe(Nanos(10_000)), 5);
        let first = run.split(2);
        assert_eq!(first, Run { count: 2, at: Nanos(100), spacing: Nanos(10) });
        assert_eq!(run, Run { count: 3, at: Nanos(120), spacing: Nanos(10) });
        assert_eq!((run.ripen(Nanos(131)), run.count, run.at), (2, 1, Nanos(140)));
        let mut at_once = Run { count: 7, at: Nanos(5), spacing: Nanos(0) };
        assert_eq!((at_once.ripen(Nanos(4)), at_once.ripen(Nanos(5))), (0, 7));
    }

    #[test]
    fn what_accrues_in_a_span_takes_that_span() {
        for (rate, span_ns, tokens) in [
            (10, 99_999_999, 0),
            (10, 100_000_000, 1),
            (1_000_000_000, u64::MAX, u64::MAX),
            (u64::MAX, 1_000_000_000, u64::MAX),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            assert_eq!(accrued(rate, Nanos(span_ns)), tokens, "{rate}/s in {span_ns} ns");
        }
        for (rate, tokens, span_ns) in [
            (10, 1, 100_000_000),
            (3, 1, 333_333_334),
            (0, 1, 1_000_000_000),
            (1_000_000_000, u64::MAX, u64::MAX),
            (1, u64::MAX, u64::MAX),
        ] {
            assert_eq!(time_to_accrue(rate, tokens), Nanos(span_ns), "{tokens} at {rate}/s");
        }
    }

    #[test]
    fn only_few_tokens_are_worth_a_message_each() {
        for (rate, burst, small) in [
            (10, 7, true),
            (10, 10, false),
            (1_000, 20, true),
            (1_000, 31, false),
            (10_000_000, 31, true),
            (10_000_000, 100_000, false),
        ] {
            assert_eq!(is_small(rate, burst), small, "{rate}/s, {burst}");
        }
    }

    #[test]
    fn leases_span_a_quarter_of_the_burst_within_bounds() {
        assert_eq!(lease_span(10, 10), Nanos::from_ms(250));
        assert_eq!(lease_span(1_000, 400), Nanos::from_ms(100));
        assert_eq!(lease_span(1_000, 10), Nanos::from_ms(50));
        assert_eq!(lease_span(u64::MAX, u64::MAX), Nanos::from_ms(250));
    }
}
