//! An instance's leases: one per bucket and per month, shared out to its shards in slices.
//!
//! Load on the authority and stranded tokens grow with instances, not with cores. There is one
//! call in flight per bucket or month; a lost one is repeated under its number with the same
//! payload until it is answered, never given up and never changed. It must never hand out a
//! token past its lease's deadline or before its slot, nor one token to two shards.

mod quota;
mod rate;
mod round_trip;
mod stand_in;

#[cfg(test)]
use crate::authority::Planted;
use crate::catalog::{Plan, WhenLost};
use crate::lease::{FORGET_AFTER, LeaseAnswer, LeaseAsk, LeaseCall, LeaseKey, LeaseReply, PARK};
use crate::limits::{AUTHORITY_RTT_MAX, POOL_BUCKETS_MAX, POOL_QUOTAS_MAX};
use crate::message::{QuotaGrant, QuotaWant, RateGrant, RateWant, ToShard};
use crate::units::{BucketId, ConsumerId, Nanos, Period};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use round_trip::RoundTrip;
use stand_in::{QuotaReply, StandIn};
use std::collections::{BTreeSet, VecDeque};

/// What a shard waits that the full pool has no room for.
const NO_ROOM_DENY: Nanos = Nanos::from_s(1);
/// A call is repeated no sooner than this.
const REPEAT_AFTER_MIN: Nanos = Nanos::from_ms(5);

/// Who this instance is, and how far its authority.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Names the instance; never used again after a restart.
    pub holder: u128,
    /// Shards that share the leases.
    pub shards: u16,
    /// Round trip of a call until one is measured; zero where the authority is embedded.
    pub rtt: Nanos,
    /// Least time between two calls about one bucket; zero where the authority is embedded.
    pub call_gap: Nanos,
    /// The authority can call a lease back at any moment, see [`Pool::on_recall`].
    pub recallable: bool,
    /// What keys do whose plan does not say it, while the authority is out of reach.
    pub when_lost: WhenLost,
}

impl PoolConfig {
    /// How long a shard waits for an answer: the gap, and a way there and back that is slow for
    /// once. A call is not refused for what is only late.
    fn patience(&self) -> Nanos {
        PARK.max(self.call_gap.after(Nanos(self.rtt.0.saturating_mul(2))))
    }
}

/// The call in flight: its payload is frozen.
#[derive(Clone, Copy, Debug)]
struct CallInFlight<A> {
    seq: u64,
    ask: A,
    sent_at: Nanos,
    repeat_at: Nanos,
    attempts: u32,
}

impl<A: Copy> CallInFlight<A> {
    fn new(seq: u64, ask: A) -> Self {
        Self { seq, ask, sent_at: Nanos(0), repeat_at: Nanos(0), attempts: 0 }
    }

    /// Notes one more attempt.
    fn send(&mut self, rtt: Nanos, now: Nanos) {
        let wait = Nanos(rtt.0.saturating_mul(2)).max(REPEAT_AFTER_MIN);
        self.sent_at = now;
        self.repeat_at = now.after(Nanos(wait.0.saturating_mul(1 << self.attempts.min(5))));
        self.attempts = self.attempts.saturating_add(1);
    }
}

/// Where an entry stands in the pool's queues.
#[derive(Clone, Copy, Debug)]
struct QueuePlace {
    /// Its one timer; `Nanos::MAX`-like where none.
    due: Nanos,
    /// It is in the queue of calls.
    queued: bool,
}

const NEVER: Nanos = Nanos(u64::MAX);

impl QueuePlace {
    const NEW: Self = Self { due: NEVER, queued: false };
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    round_trip: RoundTrip,
    /// While the authority is out of reach.
    stand_in: Option<StandIn>,
    next_seq: u64,
    rates: HashMap<BucketId, (QueuePlace, rate::RateLease), FixedState>,
    months: HashMap<(ConsumerId, Period), (QueuePlace, quota::QuotaLease), FixedState>,
    calls: VecDeque<LeaseKey>,
    out: VecDeque<(u16, ToShard)>,
    timers: BTreeSet<(Nanos, LeaseKey)>,
    #[cfg(test)]
    pub(crate) planted: Planted,
}

impl Pool {
    /// A pool that holds nothing.
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            round_trip: RoundTrip::new(config.rtt),
            stand_in: None,
            next_seq: 1,
            rates: HashMap::default(),
            months: HashMap::default(),
            calls: VecDeque::new(),
            out: VecDeque::new(),
            timers: BTreeSet::new(),
            #[cfg(test)]
            planted: Planted::Nothing,
        }
    }

    /// A shard's word on a bucket. `plan` is the one that `want.plan` points at.
    pub fn on_rate(&mut self, want: RateWant, plan: &Plan, now: Nanos) {
        if self.rates.len() >= POOL_BUCKETS_MAX && !self.rates.contains_key(&want.bucket) {
            if want.want > 0 {
                let denied = denied(want.bucket, now.after(NO_ROOM_DENY));
                self.out.push_back((want.shard, ToShard::Rate(denied)));
            }
            return;
        }
        let PoolConfig { rtt, shards, .. } = self.config;
        let (_, lease) = self
            .rates
            .entry(want.bucket)
            .or_insert_with(|| (QueuePlace::NEW, rate::RateLease::new(plan, rtt, shards, now)));
        lease.on_word(&want, plan, now);
        lease.serve(want.bucket, now, &mut self.out);
        self.settle(LeaseKey::Rate(want.bucket), now);
    }

    /// A shard's word on a month. `plan` is the one that `want.plan` points at.
    pub fn on_quota(&mut self, want: QuotaWant, plan: &Plan, now: Nanos) {
        let key = (want.consumer, want.period);
        if self.months.len() >= POOL_QUOTAS_MAX && !self.months.contains_key(&key) {
            if want.want > 0 {
                let (consumer, period) = key;
                let refused = QuotaGrant {
                    consumer,
                    period,
                    granted: 0,
                    left: 0,
                    alone: false,
                    exhausted: true,
                    free: 0,
                };
                self.out.push_back((want.shard, ToShard::Quota(refused)));
            }
            return;
        }
        let shards = self.config.shards;
        let (_, lease) = self
            .months
            .entry(key)
            .or_insert_with(|| (QueuePlace::NEW, quota::QuotaLease::new(plan, shards, now)));
        lease.on_word(&want, plan, now);
        lease.serve(key, now, &mut self.out);
        self.settle(LeaseKey::Quota(want.consumer, want.period), now);
    }

    /// No token of the month was ever used, and no other instance is given any: a shard that is the
    /// only one knows all that is used from now on.
    pub fn is_alone_in(&mut self, month: (ConsumerId, Period)) {
        if let Some((_, lease)) = self.months.get_mut(&month) {
            lease.is_alone();
        }
    }

    /// The authority's answer. One to no call in flight is ignored.
    pub fn on_reply(&mut self, reply: LeaseReply, now: Nanos) {
        if reply.holder != self.config.holder {
            return;
        }
        match reply.answer {
            LeaseAnswer::Rate(answer) => {
                let Some((_, lease)) = self.rates.get_mut(&answer.bucket) else { return };
                let counts_from = reply.sent_at;
                #[cfg(test)]
                let counts_from = match self.planted {
                    Planted::ReceiveTimeDeadlines => now,
                    _ => counts_from,
                };
                if lease.on_answer(reply.seq, &answer, counts_from, now) {
                    lease.serve(answer.bucket, now, &mut self.out);
                    self.settle(LeaseKey::Rate(answer.bucket), now);
                }
            }
            LeaseAnswer::Quota(answer) => {
                let key = (answer.consumer, answer.period);
                let Some((_, lease)) = self.months.get_mut(&key) else { return };
                if lease.on_answer(reply.seq, &answer, now) {
                    lease.serve(key, now, &mut self.out);
                    self.settle(LeaseKey::Quota(answer.consumer, answer.period), now);
                }
            }
        }
    }

    /// How long a call took, from its sending to its answer: leases last longer by what calls take,
    /// and are repeated later.
    pub fn on_round_trip(&mut self, span: Nanos) {
        self.round_trip.add(span);
        self.config.rtt = self.round_trip.at_most().min(AUTHORITY_RTT_MAX);
    }

    /// The authority wants a lease back: what is free of it goes back with the next call.
    pub fn on_recall(&mut self, key: LeaseKey, now: Nanos) {
        #[cfg(test)]
        if self.planted == Planted::DeafToRecalls {
            return;
        }
        match key {
            LeaseKey::Rate(bucket) => {
                let Some((_, lease)) = self.rates.get_mut(&bucket) else { return };
                lease.recall();
                lease.serve(bucket, now, &mut self.out);
            }
            LeaseKey::Quota(consumer, period) => {
                let month = (consumer, period);
                let Some((_, lease)) = self.months.get_mut(&month) else { return };
                lease.recall(month, &mut self.out);
                lease.serve(month, now, &mut self.out);
            }
        }
        self.settle(key, now);
    }

    /// The instance ends, and its shards have given back what they had: so does it, of months. A
    /// lease of a bucket ends by itself.
    pub fn give_back_months(&mut self, now: Nanos) {
        let months: Vec<(ConsumerId, Period)> = self.months.keys().copied().collect();
        for (consumer, period) in months {
            self.on_recall(LeaseKey::Quota(consumer, period), now);
        }
    }

    /// Is a call about a month under way, or to be made?
    pub fn has_month_calls(&self) -> bool {
        self.months.values().any(|(_, lease)| lease.call_at().is_some())
    }

    /// Can the authority call leases back? Where it no longer can, none may be a long one.
    pub fn set_recallable(&mut self, recallable: bool, now: Nanos) {
        let ends = self.config.recallable && !recallable;
        self.config.recallable = recallable;
        if ends {
            let buckets: Vec<LeaseKey> = self.rates.keys().copied().map(LeaseKey::Rate).collect();
            buckets.into_iter().for_each(|bucket| self.on_recall(bucket, now));
        }
    }

    /// The authority is out of reach: from now on keys go on as their plans say.
    pub fn on_lost(&mut self, now: Nanos) {
        if self.stand_in.is_none() {
            // What is not known of a key is taken from the others: never too few.
            let holders = self.rates.values().map(|(_, lease)| lease.holders());
            self.stand_in = Some(StandIn::new(holders.max().unwrap_or(1), now));
        }
    }

    /// It is back.
    pub fn on_found(&mut self, now: Nanos) {
        if self.stand_in.take().is_none() {
            return;
        }
        let mut told = Vec::new();
        for (month, (_, lease)) in &mut self.months {
            if lease.report_again() {
                told.push(*month);
            }
        }
        for (consumer, period) in told {
            self.settle(LeaseKey::Quota(consumer, period), now);
        }
    }

    /// The stand-in's answer, if there is one.
    fn stand_in(&mut self, call: &LeaseCall, now: Nanos) -> Option<LeaseReply> {
        let stand_in = self.stand_in.as_mut()?;
        let open = |when_lost: Option<WhenLost>| {
            stand_in::goes_on(when_lost.unwrap_or(self.config.when_lost))
        };
        match &call.ask {
            LeaseAsk::Rate(ask) => {
                let (_, lease) = self.rates.get_mut(&ask.bucket)?;
                let open = open(lease.when_lost())?;
                lease.answered_here();
                Some(stand_in.rate(call, *ask, open, now))
            }
            LeaseAsk::Quota(ask) => {
                let (_, lease) = self.months.get_mut(&(ask.consumer, ask.period))?;
                let open = open(lease.when_lost())?;
                let spare = lease.spare(|left| stand_in.spare(left, open));
                let QuotaReply { reply, granted } =
                    stand_in::quota(call, ask, lease.left(), spare)?;
                lease.answered_here(ask.consumed, granted);
                Some(reply)
            }
        }
    }

    /// The next call to send, if any.
    pub fn poll_call(&mut self, now: Nanos) -> Option<LeaseCall> {
        #[cfg(test)]
        if self.planted == Planted::NoGap {
            self.config.call_gap = Nanos(0);
        }
        while let Some(key) = self.calls.pop_front() {
            let sent = match key {
                LeaseKey::Rate(bucket) => self.rates.get_mut(&bucket).and_then(|(place, lease)| {
                    place.queued = false;
                    let flight = lease.call(bucket, &mut self.next_seq, &self.config, now)?;
                    Some((flight.seq, flight.sent_at, LeaseAsk::Rate(flight.ask)))
                }),
                LeaseKey::Quota(consumer, period) => {
                    self.months.get_mut(&(consumer, period)).and_then(|(place, lease)| {
                        place.queued = false;
                        let key = (consumer, period);
                        let flight = lease.call(key, &mut self.next_seq, &self.config, now)?;
                        Some((flight.seq, flight.sent_at, LeaseAsk::Quota(flight.ask)))
                    })
                }
            };
            self.settle(key, now);
            if let Some((seq, sent_at, ask)) = sent {
                let call = LeaseCall { holder: self.config.holder, seq, sent_at, ask };
                match self.stand_in(&call, now) {
                    Some(reply) => self.on_reply(reply, now),
                    None => return Some(call),
                }
            }
        }
        None
    }

    /// The next message to a shard, if any.
    pub fn poll_shard(&mut self) -> Option<(u16, ToShard)> {
        self.out.pop_front()
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Repeats lost calls, answers shards that waited long enough, returns what lies idle.
    pub fn on_timeout(&mut self, now: Nanos) {
        while let Some((due, key)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            match key {
                LeaseKey::Rate(bucket) => {
                    let Some((place, lease)) = self.rates.get_mut(&bucket) else { continue };
                    place.due = NEVER;
                    if lease.is_forgettable(now) && !place.queued {
                        self.rates.remove(&bucket);
                        continue;
                    }
                    lease.serve(bucket, now, &mut self.out);
                    lease.return_if_idle(self.config.call_gap, now);
                }
                LeaseKey::Quota(consumer, period) => {
                    let month = (consumer, period);
                    let Some((place, lease)) = self.months.get_mut(&month) else { continue };
                    place.due = NEVER;
                    if lease.is_forgettable(now) && !place.queued {
                        self.months.remove(&month);
                        continue;
                    }
                    lease.serve(month, now, &mut self.out);
                    lease.return_if_idle(self.config.call_gap, now);
                }
            }
            self.settle(key, now);
        }
    }

    /// What could still be handed out.
    #[cfg(test)]
    pub(crate) fn probe(&self, bucket: BucketId, now: Nanos) -> u64 {
        self.rates.get(&bucket).map_or(0, |(_, lease)| lease.probe(now))
    }

    /// Since when it has held a lease that nobody else waits for, as far as it knows.
    #[cfg(test)]
    pub(crate) fn probe_long(&self, bucket: BucketId, now: Nanos) -> Option<Nanos> {
        self.rates.get(&bucket).and_then(|(_, lease)| lease.probe_long(now))
    }

    /// Brings the queue of calls and the timers in line with an entry that has changed.
    fn settle(&mut self, key: LeaseKey, now: Nanos) {
        let (place, call_at, due) = match key {
            LeaseKey::Rate(bucket) => match self.rates.get_mut(&bucket) {
                Some((place, lease)) => {
                    (place, lease.call_at(), lease.due(self.config.call_gap, now))
                }
                None => return,
            },
            LeaseKey::Quota(consumer, period) => match self.months.get_mut(&(consumer, period)) {
                Some((place, lease)) => (place, lease.call_at(), lease.due(self.config.call_gap)),
                None => return,
            },
        };
        let mut due = due;
        if let Some(call_at) = call_at {
            if call_at > now {
                due = due.min(call_at);
            } else if !place.queued {
                place.queued = true;
                self.calls.push_back(key);
            }
        }
        // One not later than now could be due for ever: it comes again a moment later.
        let due = due.max(now.after(Nanos(1)));
        if place.due != due {
            self.timers.remove(&(place.due, key));
            place.due = due;
            if due != NEVER {
                self.timers.insert((due, key));
            }
        }
    }
}

fn denied(bucket: BucketId, deny_until: Nanos) -> RateGrant {
    RateGrant {
        bucket,
        lease: 0,
        granted: 0,
        not_before: Nanos(0),
        spacing: Nanos(0),
        deadline: Nanos(0),
        keep: false,
        deny_until,
        left: 0,
    }
}

/// The end of a span that the authority's clock measured from `start` on, with the share of it
/// that clocks may differ by given away.
fn ends_early(start: Nanos, span: Nanos) -> Nanos {
    start.after(Nanos(span.0 - span.0 / 100))
}

/// The same for a span that must have passed for certain.
fn ends_late(start: Nanos, span: Nanos) -> Nanos {
    start.after(Nanos(span.0.saturating_add(span.0.div_ceil(100))))
}

/// Forgotten when unused since `last_word` for long.
const fn forget_at(last_word: Nanos) -> Nanos {
    last_word.after(FORGET_AFTER)
}

#[cfg(test)]
mod stand_in_tests;
#[cfg(test)]
mod tests;
