//! Stands in for an authority that is out of reach, for the keys of plans that go on without it.
//!
//! *Degraded:* each of `n` instances grants half of its part of the rate and of the burst, from
//! empty on: all of them together half of the plan's. *Open:* whatever is asked for. Of a month, a
//! degraded instance grants half of its part of what was left by the authority's last word, and
//! nothing of one that it had no word on.

use crate::authority::Authority;
use crate::catalog::WhenLost;
use crate::lease::{
    LeaseAnswer, LeaseAsk, LeaseCall, LeaseReply, QuotaAnswer, QuotaAsk, RateAsk, Status,
};
use crate::limits::AUTHORITY_RATE_MAX;
use crate::units::Nanos;

/// See the module.
#[derive(Debug)]
pub(super) struct StandIn {
    authority: Authority,
    /// Instances that may be doing the same.
    instances: u64,
}

impl StandIn {
    /// From `now` on. `instances` must not be fewer than there are.
    pub(super) fn new(instances: u64, now: Nanos) -> Self {
        Self { authority: Authority::new(Some(now)), instances: instances.max(1) }
    }

    /// This instance's part of half of a number, at least one.
    fn part(&self, of: u64) -> u64 {
        (of / (2 * self.instances)).max(1)
    }

    /// The answer to a call about a bucket.
    pub(super) fn rate(
        &mut self,
        call: &LeaseCall,
        ask: RateAsk,
        open: bool,
        now: Nanos,
    ) -> LeaseReply {
        let (rate_per_s, burst) = if open {
            (AUTHORITY_RATE_MAX, AUTHORITY_RATE_MAX)
        } else {
            (self.part(ask.rate_per_s), self.part(ask.burst))
        };
        let ask = LeaseAsk::Rate(RateAsk { rate_per_s, burst, long_want: 0, ..ask });
        let mut reply = self.authority.call(&LeaseCall { ask, ..*call }, now);
        if let LeaseAnswer::Rate(answer) = &mut reply.answer {
            // It knows of no other instance, and does not say so.
            answer.holders = 0;
        }
        reply
    }

    /// What may be granted of a month that has so much left.
    pub(super) const fn spare(&self, left: u64, open: bool) -> u64 {
        if open { u64::MAX } else { left / (2 * self.instances) }
    }
}

/// An answer to a call about a month.
pub(super) struct QuotaReply {
    pub reply: LeaseReply,
    pub granted: u64,
}

/// The answer to a call about a month of which so much is left, and so much of that spare; none
/// where that is not enough.
pub(super) fn quota(call: &LeaseCall, ask: &QuotaAsk, left: u64, spare: u64) -> Option<QuotaReply> {
    if ask.need > spare {
        return None;
    }
    let granted = ask.want.min(spare / 8).max(ask.need);
    let answer = LeaseAnswer::Quota(QuotaAnswer {
        consumer: ask.consumer,
        period: ask.period,
        status: Status::Done,
        granted,
        left: left.saturating_sub(granted),
    });
    let LeaseCall { holder, seq, sent_at, .. } = *call;
    Some(QuotaReply { reply: LeaseReply { holder, seq, sent_at, answer }, granted })
}

/// Does a key of a plan that says so go on without the authority?
pub(super) fn goes_on(when_lost: WhenLost) -> Option<bool> {
    match when_lost {
        WhenLost::Closed => None,
        WhenLost::Degraded => Some(false),
        WhenLost::Open => Some(true),
    }
}
