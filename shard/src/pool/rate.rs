//! An instance's lease of one bucket.

use super::{CallInFlight, NEVER, PoolConfig, denied, ends_early, ends_late, forget_at};
use crate::catalog::{Plan, WhenLost};
use crate::lease::{
    LONG_LEASE, PARK, RATE_IDLE, RateAnswer, RateAsk, Run, Status, accrued, is_small, lease_span,
};
use crate::limits::RUNS_MAX;
use crate::message::{RateGrant, RateWant, ToShard};
use crate::units::{BucketId, Nanos};
use std::collections::VecDeque;

/// A shard gets not-before tokens for this long ahead: many enough that an abused bucket costs
/// few messages, few enough that none is stranded for long.
const RUN_AHEAD: Nanos = Nanos::from_ms(20);
/// Demand is averaged over this long.
const DEMAND_WINDOW: Nanos = Nanos::from_ms(100);
/// The same under a long lease: shards tell of what they keep seconds later, all at once.
const LONG_DEMAND_WINDOW: Nanos = Nanos::from_s(2);
/// A shard's slice beyond its waiting requests is at most one of this many parts of what is
/// left, per shard.
const SLICE_PARTS: u64 = 8;
/// Shards keep what lies idle of a long lease where a part is at least this large: what they have
/// spent and not reported is then little of the burst.
const KEPT_PART_MIN: u64 = 8;
/// What is left of a long lease when it is renewed.
const LONG_RENEWED_AT: Nanos = Nanos::from_ms(250);

#[derive(Debug)]
pub(super) struct RateLease {
    rate_per_s: u64,
    burst: u64,
    when_lost: Option<WhenLost>,
    /// By the authority's last word.
    holders: u64,
    lease: u64,
    deadline: Nanos,
    ttl: Nanos,
    /// Nobody else waits for what it holds, by the authority's last word.
    long: bool,
    /// Somebody does: all that is not spent goes back at once.
    recalled: bool,
    /// It was said while a call was on its way, whose answer may be older than that.
    overtaken: bool,
    /// The shards are to give back what they keep.
    recall_shards: bool,
    ready: u64,
    runs: VecDeque<Run>,
    shards: Vec<HeldRate>,
    used: u64,
    /// Unreported, given back with the next call.
    returning: u64,
    pending: VecDeque<RateWaiter>,
    flight: Option<CallInFlight<RateAsk>>,
    call_wanted: bool,
    next_call_at: Nanos,
    deny_until: Nanos,
    /// What denies is that every token is on lease.
    all_on_lease: bool,
    left: i64,
    left_at: Nanos,
    demand: u64,
    /// Thousandths of a request per second, so that a quiet key's is known too.
    demand_per_ks: u64,
    demand_at: Nanos,
    last_granted: u64,
    granted_at: Nanos,
    last_word: Nanos,
    /// Returned after this long without use.
    idle: Nanos,
    /// A shard waits for an answer for so long.
    patience: Nanos,
}

/// What a shard has of the lease.
#[derive(Clone, Copy, Debug, Default)]
struct HeldRate {
    /// Granted, and not yet reported spent nor given back.
    tokens: u64,
    /// Of those, for requests that waited: spent by now, though not reported.
    awaited: u64,
}

#[derive(Clone, Copy, Debug)]
struct RateWaiter {
    shard: u16,
    want: u64,
    need: u64,
    since: Nanos,
    /// The call in flight, or one already answered, was made for it too.
    asked: bool,
}

impl RateLease {
    pub(super) fn new(plan: &Plan, rtt: Nanos, shards: u16, now: Nanos) -> Self {
        Self {
            rate_per_s: plan.rate_per_s,
            burst: plan.burst,
            when_lost: plan.when_lost,
            holders: 1,
            lease: 0,
            deadline: Nanos(0),
            ttl: Nanos(0),
            long: false,
            recalled: false,
            overtaken: false,
            recall_shards: false,
            ready: 0,
            runs: VecDeque::new(),
            shards: vec![HeldRate::default(); usize::from(shards)],
            used: 0,
            returning: 0,
            pending: VecDeque::new(),
            flight: None,
            call_wanted: false,
            next_call_at: now,
            deny_until: Nanos(0),
            all_on_lease: false,
            left: 0,
            left_at: now,
            demand: 0,
            demand_per_ks: 0,
            demand_at: now,
            last_granted: 0,
            granted_at: now,
            last_word: now,
            idle: RATE_IDLE.max(Nanos(rtt.0.saturating_mul(4))),
            patience: PARK,
        }
    }

    /// Books a shard's report and notes its want.
    pub(super) fn on_word(&mut self, word: &RateWant, plan: &Plan, now: Nanos) {
        self.last_word = now;
        self.ripen(now);
        self.demand = self.demand.saturating_add(u64::from(word.demand));
        if word.lease == self.lease && self.lease != 0 {
            self.used += u64::from(word.used);
            self.call_wanted |= word.used > 0 && is_small(self.rate_per_s, self.burst);
            self.call_wanted |= word.returned > 0 && self.recalled;
            if let Some(held) = self.shards.get_mut(usize::from(word.shard)) {
                let gone = u64::from(word.used) + u64::from(word.returned);
                *held = HeldRate { tokens: held.tokens.saturating_sub(gone), awaited: 0 };
            }
            if word.used > 0 && self.all_on_lease {
                self.deny_until = Nanos(0);
            }
            if now < self.deadline {
                self.ready += u64::from(word.returned);
            } else {
                self.used += u64::from(word.returned);
            }
        }
        if word.want == 0 {
            return;
        }
        self.when_lost = plan.when_lost;
        if (self.rate_per_s, self.burst) != (plan.rate_per_s, plan.burst) {
            self.rate_per_s = plan.rate_per_s;
            self.burst = plan.burst;
            self.deny_until = Nanos(0);
            self.recall();
            // The slots of the old plan say nothing about the new one.
            self.returning += self.runs.drain(..).map(|run| run.count).sum::<u64>();
        }
        self.pending.retain(|pending| pending.shard != word.shard);
        self.pending.push_back(RateWaiter {
            shard: word.shard,
            want: u64::from(word.want),
            need: u64::from(word.need.min(word.want)),
            since: now,
            asked: false,
        });
    }

    /// Answers the shards that can be answered, and sees whether a call is wanted.
    pub(super) fn serve(
        &mut self,
        bucket: BucketId,
        now: Nanos,
        out: &mut VecDeque<(u16, ToShard)>,
    ) {
        self.ripen(now);
        if core::mem::take(&mut self.recall_shards) {
            let holding = self.shards.iter().enumerate().filter(|(_, held)| held.tokens > 0);
            let told =
                |(shard, _): (usize, &HeldRate)| (shard as u16, ToShard::RecallRate { bucket });
            out.extend(holding.map(told));
        }
        while let Some(pending) = self.pending.front().copied() {
            let target = self.slice(&pending, now);
            let stale = self.lease != 0 && self.deadline.since(now) < self.renewed_at();
            let held = self.held();
            // Of a long lease a shard gets what is there: it lasts for seconds.
            let enough = if self.long { pending.need.max(1) } else { target };
            let may_wait = now < pending.since.after(self.patience)
                && if pending.asked {
                    self.flight.is_some()
                } else {
                    now >= self.deny_until && self.runs.len() < RUNS_MAX
                };
            if (stale || held < enough) && may_wait {
                self.call_wanted |= !pending.asked;
                if stale || self.ready < pending.need.max(1) {
                    return;
                }
            }
            self.pending.pop_front();
            let grant = self.answer(bucket, &pending, target, now);
            out.push_back((pending.shard, ToShard::Rate(grant)));
            self.call_wanted |= self.is_low() && self.flight.is_none() && now >= self.deny_until;
        }
    }

    /// Is most of the last grant gone? More is asked for before all of it is; but of a quiet key,
    /// which may be gone for good, only when it calls again.
    fn is_low(&self) -> bool {
        let held = self.held();
        held < self.last_granted / 4 && !(self.long && held == 0)
    }

    /// A lease that has less than this left is renewed when a shard asks.
    fn renewed_at(&self) -> Nanos {
        let half = Nanos(self.ttl.0 / 2);
        if self.long { half.min(LONG_RENEWED_AT) } else { half }
    }

    /// Ends a long lease: what is not spent goes back, the shards' part of it when they have given
    /// it back.
    pub(super) fn recall(&mut self) {
        self.overtaken = self.flight.is_some();
        if self.long {
            self.long = false;
            self.recalled = true;
            self.recall_shards = true;
            self.call_wanted |= self.held() > 0 || self.used > 0;
        }
    }

    fn held(&self) -> u64 {
        self.ready + self.runs.iter().map(|run| run.count).sum::<u64>()
    }

    /// Tokens that the shard should get: what it needs, and of what it wants a part so small
    /// that little is stranded if it goes unused.
    fn slice(&self, pending: &RateWaiter, now: Nanos) -> u64 {
        let left = u64::try_from(self.left_at_authority(now)).unwrap_or(0);
        let free = self.ready.saturating_add(left);
        pending.want.min(free / self.parts()).max(pending.need)
    }

    fn parts(&self) -> u64 {
        SLICE_PARTS * self.shards.len().max(1) as u64
    }

    fn answer(
        &mut self,
        bucket: BucketId,
        pending: &RateWaiter,
        target: u64,
        now: Nanos,
    ) -> RateGrant {
        let granted = self.ready.min(target).min(u64::from(u32::MAX));
        self.ready -= granted;
        let mut grant = RateGrant {
            lease: self.lease,
            granted: granted as u32,
            not_before: now,
            deadline: self.deadline,
            keep: self.long && self.burst / self.parts() >= KEPT_PART_MIN,
            ..denied(bucket, Nanos(0))
        };
        if granted < pending.need {
            let soon = now.after(PARK);
            match self.runs.front_mut() {
                Some(run) if run.at <= soon && granted == 0 => {
                    let ahead = run.ripe(now.after(RUN_AHEAD));
                    let part = run.split(ahead.min(pending.want).min(u64::from(u32::MAX)));
                    grant.granted = part.count as u32;
                    grant.not_before = part.at;
                    grant.spacing = part.spacing;
                }
                Some(run) if run.at <= soon => {}
                Some(run) => grant.deny_until = run.at,
                None if self.deny_until > now => grant.deny_until = self.deny_until,
                None if granted == 0 => grant.deny_until = soon,
                None => {}
            }
            self.runs.retain(|run| run.count > 0);
        }
        if let Some(held) = self.shards.get_mut(usize::from(pending.shard)) {
            held.tokens += u64::from(grant.granted);
            held.awaited += pending.need.min(u64::from(grant.granted));
        }
        grant.left = self.left_beside(pending.shard, now);
        grant
    }

    /// Tokens in the bucket that the shard does not hold, as far as is known here.
    fn left_beside(&self, shard: u16, now: Nanos) -> i64 {
        let others = self.shards.iter().enumerate().filter(|(at, _)| *at != usize::from(shard));
        let others: u64 = others.map(|(_, held)| held.tokens.saturating_sub(held.awaited)).sum();
        let here = i64::try_from(self.held().saturating_add(others)).unwrap_or(i64::MAX);
        self.left_at_authority(now).saturating_add(here)
    }

    /// The call to send now: the one in flight again, or a new one.
    pub(super) fn call(
        &mut self,
        bucket: BucketId,
        next_seq: &mut u64,
        config: &PoolConfig,
        now: Nanos,
    ) -> Option<CallInFlight<RateAsk>> {
        if let Some(flight) = &mut self.flight {
            if now < flight.repeat_at {
                return None;
            }
            flight.send(config.rtt, now);
            return Some(*flight);
        }
        if !self.call_wanted {
            return None;
        }
        self.ripen(now);
        self.measure_demand(now);
        let mut ask = RateAsk {
            bucket,
            rate_per_s: self.rate_per_s,
            burst: self.burst,
            lease: self.lease,
            want: self.want(now),
            long_want: 0,
            demand_per_s: self.demand_per_ks / 1_000,
            used: core::mem::take(&mut self.used),
            returned: core::mem::take(&mut self.returning),
            rtt: config.rtt,
        };
        if ask.want > 0 && config.recallable {
            ask.long_want = ask.want.max(self.long_want());
        }
        if self.pending.is_empty() && (self.recalled || now >= self.idle_at(config.call_gap)) {
            (ask.want, ask.long_want) = (0, 0);
            let later: u64 = self.runs.drain(..).map(|run| run.count).sum();
            ask.returned += core::mem::take(&mut self.ready) + later;
        }
        for pending in &mut self.pending {
            pending.asked = true;
        }
        self.call_wanted = false;
        self.next_call_at = now.after(config.call_gap);
        self.patience = config.patience();
        let mut flight = CallInFlight::new(*next_seq, ask);
        *next_seq += 1;
        flight.send(config.rtt, now);
        self.flight = Some(flight);
        Some(flight)
    }

    /// Tokens to ask for: what the shards wait for, what a lease's span will need, or twice the
    /// last grant if that was gone in no time. Nothing where there is enough: tokens of a small
    /// bucket that lie here keep it from filling.
    fn want(&self, now: Nanos) -> u64 {
        let span = lease_span(self.rate_per_s, self.burst);
        let targets: u64 = self.pending.iter().map(|pending| self.slice(pending, now)).sum();
        let held = self.held();
        if held >= targets && !self.is_low() {
            return 0;
        }
        let ahead = self.demanded_in(span);
        let drained = now.since(self.granted_at) < Nanos(span.0 / 2);
        let twice = if drained { self.last_granted.saturating_mul(2) } else { 0 };
        let ahead = ahead.max(twice).max(targets);
        ahead.saturating_sub(held).min(self.burst)
    }

    /// What a lease as long as a long one will need, beside what is held.
    fn long_want(&self) -> u64 {
        let ahead = self.demanded_in(LONG_LEASE).saturating_add(1);
        ahead.saturating_sub(self.held()).min(self.burst)
    }

    /// Tokens for so long at the present demand, and a quarter more.
    fn demanded_in(&self, span: Nanos) -> u64 {
        let ahead = u128::from(self.demand_per_ks) * u128::from(span.0) / 800_000_000_000;
        u64::try_from(ahead).unwrap_or(u64::MAX)
    }

    fn measure_demand(&mut self, now: Nanos) {
        let span = now.since(self.demand_at);
        if span < Nanos::from_ms(1) {
            return;
        }
        let seen = u128::from(self.demand) * 1_000_000_000_000 / u128::from(span.0);
        let window = if self.long { LONG_DEMAND_WINDOW } else { DEMAND_WINDOW };
        let (weight, window) = (u128::from(span.min(window).0), u128::from(window.0));
        let mean = (u128::from(self.demand_per_ks) * (window - weight) + seen * weight) / window;
        self.demand_per_ks = u64::try_from(mean).unwrap_or(u64::MAX);
        self.demand = 0;
        self.demand_at = now;
    }

    /// Takes the answer to the call in flight; false if it answers none.
    pub(super) fn on_answer(
        &mut self,
        seq: u64,
        answer: &RateAnswer,
        sent_at: Nanos,
        now: Nanos,
    ) -> bool {
        if self.flight.as_ref().is_none_or(|flight| flight.seq != seq) {
            return false;
        }
        self.flight = None;
        self.holders = if answer.holders > 0 { answer.holders } else { self.holders };
        self.ripen(now);
        if answer.lease != 0 && answer.lease != self.lease {
            // The authority starts a lease only once the last one has lapsed.
            self.lapse();
            self.used = 0;
            self.lease = answer.lease;
            self.deadline = Nanos(0);
        }
        if answer.lease != 0 {
            self.ttl = answer.ttl;
            self.deadline = self.deadline.max(ends_early(sent_at, answer.ttl));
        }
        if answer.status == Status::Revoked {
            self.lapse();
        }
        let was_long = self.long;
        let overtaken = core::mem::take(&mut self.overtaken);
        if answer.granted > 0 {
            self.long = answer.long && !overtaken;
            self.recalled = answer.long && overtaken;
            self.call_wanted |= self.recalled;
        } else {
            // A mere report makes no lease a long one again that was recalled meanwhile.
            self.long &= answer.long;
        }
        self.recall_shards |= was_long && !self.long;
        if answer.deny_for > Nanos(0) {
            self.deny_until = ends_late(now, answer.deny_for);
        }
        self.all_on_lease = answer.status == Status::AllOnLease;
        if answer.granted > 0 {
            if answer.granted > self.last_granted && answer.left > 0 {
                // Grants double from one token on: until one is large enough, the gap would be time
                // in which callers are refused what is there.
                self.next_call_at = now;
            }
            self.last_granted = answer.granted;
            self.granted_at = now;
        }
        if now >= self.deadline {
            self.used += answer.granted;
        } else if answer.not_before == Nanos(0) && answer.spacing == Nanos(0) {
            self.ready += answer.granted;
        } else if answer.granted > 0 {
            self.runs.push_back(Run {
                count: answer.granted,
                at: ends_late(now, answer.not_before),
                spacing: ends_late(Nanos(0), answer.spacing),
            });
        }
        self.left = answer.left;
        self.left_at = now;
        true
    }

    /// What the key does while the authority is out of reach; `None`: what most do.
    pub(super) fn when_lost(&self) -> Option<WhenLost> {
        self.when_lost
    }

    /// Instances that share the bucket, as far as is known.
    pub(super) fn holders(&self) -> u64 {
        self.holders
    }

    /// The next call has nobody to be spared.
    pub(super) fn answered_here(&mut self) {
        self.next_call_at = Nanos(0);
    }

    /// Wants a call that gives everything back if no shard has asked for a while.
    pub(super) fn return_if_idle(&mut self, call_gap: Nanos, now: Nanos) {
        if self.holds(now) && self.is_quiet() && now >= self.idle_at(call_gap) {
            self.call_wanted = true;
        }
    }

    /// When a call may be made, if one is wanted.
    pub(super) fn call_at(&self) -> Option<Nanos> {
        match &self.flight {
            Some(flight) => Some(flight.repeat_at),
            None => self.call_wanted.then_some(self.next_call_at),
        }
    }

    /// When something else than a call is due.
    pub(super) fn due(&self, call_gap: Nanos, now: Nanos) -> Nanos {
        if let Some(pending) = self.pending.front() {
            return pending.since.after(self.patience);
        }
        if !self.is_quiet() {
            return NEVER;
        }
        if self.holds(now) { self.idle_at(call_gap) } else { forget_at(self.last_word) }
    }

    /// Does it hold nothing, and has it not been used for long?
    pub(super) fn is_forgettable(&self, now: Nanos) -> bool {
        !self.holds(now) && self.is_quiet() && now >= forget_at(self.last_word)
    }

    #[cfg(test)]
    pub(super) fn probe_long(&self, now: Nanos) -> Option<Nanos> {
        (self.long && now < self.deadline).then_some(self.granted_at)
    }

    #[cfg(test)]
    pub(super) fn probe(&self, now: Nanos) -> u64 {
        if now < self.deadline { self.held() } else { 0 }
    }

    /// Is there anything to give back or to report? A long lease that has lapsed is over for the
    /// authority as well.
    fn holds(&self, now: Nanos) -> bool {
        let is_over = self.long && now >= self.deadline;
        !is_over && (self.used > 0 || self.returning > 0 || self.held() > 0)
    }

    fn is_quiet(&self) -> bool {
        self.flight.is_none() && self.pending.is_empty() && !self.call_wanted
    }

    /// Shards that were told to come back later are given the time to. Where calls cost something
    /// a long lease is kept to its end.
    fn idle_at(&self, call_gap: Nanos) -> Nanos {
        if self.long && call_gap > Nanos(0) {
            return self.deadline;
        }
        let next = self.runs.front().map_or(Nanos(0), |run| run.at);
        self.last_word.max(self.granted_at).max(next).max(self.deny_until).after(self.idle)
    }

    fn ripen(&mut self, now: Nanos) {
        if self.lease != 0 && now >= self.deadline {
            self.lapse();
        }
        if !self.runs.is_empty() {
            self.ready += self.runs.iter_mut().map(|run| run.ripen(now)).sum::<u64>();
            self.runs.retain(|run| run.count > 0);
        }
    }

    /// Tokens past their deadline are burned: reported like spent ones.
    fn lapse(&mut self) {
        let later: u64 = self.runs.drain(..).map(|run| run.count).sum();
        let returning = core::mem::take(&mut self.returning);
        self.used += core::mem::take(&mut self.ready) + later + returning;
        self.shards.fill(HeldRate::default());
    }

    /// What the authority has left by now, as far as is known here; negative where the future is
    /// granted already.
    fn left_at_authority(&self, now: Nanos) -> i64 {
        let accrued = accrued(self.rate_per_s, now.since(self.left_at));
        let most = i64::try_from(self.burst).unwrap_or(i64::MAX);
        self.left.saturating_add_unsigned(accrued).min(most)
    }
}
