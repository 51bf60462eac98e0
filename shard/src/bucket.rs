//! One shard's tokens of every rate bucket that it uses.
//!
//! A request takes a token that is here, or is parked for one that is asked for, or is refused
//! until one can be had. Refills are asked for before a slice is spent; what lies unused goes
//! back. It must never let a token be taken after its deadline or before its slot.

use crate::lease::{FORGET_AFTER, PARK, RATE_IDLE, Run, accrued, is_small, time_to_accrue};
use crate::limits::BUCKETS_MAX;
use crate::message::{RateGrant, RateWant};
use crate::units::{BucketId, Nanos};
use core::cmp::Reverse;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::{BinaryHeap, VecDeque};

/// A slice that was spent sooner than this is followed by one of twice its size.
const SLICE_GROWS_BELOW: Nanos = Nanos::from_ms(200);
/// A slice that lasted longer than this is followed by one of half its size.
const SLICE_SHRINKS_ABOVE: Nanos = Nanos::from_ms(400);
/// So many times as long for slices that may be kept.
const KEPT_LONGER: u64 = 8;
/// The wait that a request is told if the full table has no room for its bucket.
const NO_ROOM_RETRY_AFTER: Nanos = Nanos::from_s(1);

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It has its token.
    Taken,
    /// Park it for at most [`PARK`]; try again when [`Buckets::poll_ready`] names the bucket.
    Wait,
    /// Refuse it.
    Denied {
        /// There may be a token after this.
        retry_after: Nanos,
    },
}

/// What a caller is told about its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketView {
    /// Tokens left, as far as is known here.
    pub remaining: u64,
    /// Until it is full again.
    pub reset: Nanos,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buckets {
    shard: u16,
    entries: HashMap<BucketId, BucketEntry, FixedState>,
    wants: VecDeque<BucketId>,
    woken: VecDeque<BucketId>,
    /// When to look for idle tokens: each bucket that holds or awaits something, once.
    idle: VecDeque<(Nanos, BucketId)>,
    /// When to look whether it can be forgotten: each bucket, once.
    quiet: VecDeque<(Nanos, BucketId)>,
    /// Slots that requests are parked for; every bucket at most once.
    slots: BinaryHeap<Reverse<(Nanos, BucketId)>>,
}

#[derive(Debug, Default)]
struct BucketEntry {
    tokens: u32,
    low_water: u32,
    used: u32,
    demand: u32,
    deadline: Nanos,
    last_take: Nanos,
    /// Requests parked since the last time that they were all woken.
    waiting: u32,
    returning: u32,
    last_granted: u32,
    slice: u32,
    plan: u32,
    lease: u64,
    run: Run,
    rate_per_s: u64,
    burst: u64,
    /// What lies idle stays, see [`RateGrant::keep`].
    keep: bool,
    deny_until: Nanos,
    granted_at: Nanos,
    /// Tokens of the bucket that are not here, see [`RateGrant::left`].
    left: i64,
    left_at: Nanos,
    /// A want is posted or unanswered.
    asked: bool,
    /// It is in `wants`.
    posted: bool,
    in_woken: bool,
    in_idle: bool,
    in_slots: bool,
}

impl Buckets {
    /// No bucket yet.
    pub(crate) fn new(shard: u16) -> Self {
        Self {
            shard,
            entries: HashMap::default(),
            wants: VecDeque::new(),
            woken: VecDeque::new(),
            idle: VecDeque::new(),
            quiet: VecDeque::new(),
            slots: BinaryHeap::new(),
        }
    }

    /// Takes a token for a request. `retry`: it was parked and is counted already.
    pub(crate) fn take(
        &mut self,
        bucket: BucketId,
        plan: u32,
        rate_per_s: u64,
        burst: u64,
        retry: bool,
        now: Nanos,
    ) -> Take {
        if let Some(entry) = self.entries.get_mut(&bucket) {
            entry.demand = entry.demand.saturating_add(u32::from(!retry));
            if entry.tokens > entry.low_water
                && now < entry.deadline
                && entry.is_of(rate_per_s, burst)
            {
                entry.spend(now);
                return Take::Taken;
            }
        } else if !self.add(bucket, now) {
            return Take::Denied { retry_after: NO_ROOM_RETRY_AFTER };
        }
        self.take_slowly(bucket, (plan, rate_per_s, burst), now)
    }

    /// Tokens left and time to full, for the headers of an answer.
    pub(crate) fn view(
        &self,
        bucket: BucketId,
        rate_per_s: u64,
        burst: u64,
        now: Nanos,
    ) -> BucketView {
        let entry = self.entries.get(&bucket);
        let remaining = entry.map_or(burst, |entry| entry.remaining(rate_per_s, burst, now));
        BucketView { remaining, reset: time_to_accrue(rate_per_s, burst - remaining) }
    }

    /// Control's answer to a want. All parked requests of the bucket are to try again.
    pub(crate) fn on_grant(&mut self, grant: RateGrant, now: Nanos) {
        let Some(entry) = self.entries.get_mut(&grant.bucket) else { return };
        entry.accept(&grant, now);
        self.wake(grant.bucket);
        self.watch(grant.bucket, now);
    }

    /// Others wait for tokens of the bucket.
    pub(crate) fn on_recall(&mut self, bucket: BucketId, now: Nanos) {
        if let Some(entry) = self.entries.get_mut(&bucket) {
            entry.keep = false;
            self.watch(bucket, now);
            self.give_back_if_idle(bucket, now);
        }
    }

    /// A bucket whose parked requests are to try again.
    pub(crate) fn poll_ready(&mut self) -> Option<BucketId> {
        let bucket = self.woken.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&bucket) {
            entry.in_woken = false;
        }
        Some(bucket)
    }

    /// The next word to send to control, if any.
    pub(crate) fn poll_want(&mut self) -> Option<RateWant> {
        while let Some(bucket) = self.wants.pop_front() {
            if let Some(entry) = self.entries.get_mut(&bucket) {
                entry.posted = false;
                return Some(entry.word(self.shard, bucket));
            }
        }
        None
    }

    /// When [`Self::on_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        let slot = self.slots.peek().map(|Reverse((at, _))| *at);
        let idle = self.idle.front().map(|(at, _)| *at);
        let quiet = self.quiet.front().map(|(at, _)| *at);
        [slot, idle, quiet].into_iter().flatten().min()
    }

    /// Wakes requests whose slot has come, gives back what lies idle, forgets the unused.
    pub(crate) fn on_timeout(&mut self, now: Nanos) {
        while let Some(Reverse((at, bucket))) = self.slots.peek().copied() {
            if at > now {
                break;
            }
            self.slots.pop();
            if let Some(entry) = self.entries.get_mut(&bucket) {
                entry.in_slots = false;
                entry.waiting = 0;
                self.wake(bucket);
            }
        }
        while self.idle.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bucket)) = self.idle.pop_front() else { break };
            self.look_for_idleness(bucket, now);
        }
        while self.quiet.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bucket)) = self.quiet.pop_front() else { break };
            self.report_if_over(bucket, now);
            self.forget_if_unused(bucket, now.after(FORGET_AFTER), |entry| {
                now >= entry.last_take.after(FORGET_AFTER)
            });
        }
    }

    /// Gives everything back: the shard stops.
    pub(crate) fn release_all(&mut self, now: Nanos) {
        let mut buckets: Vec<BucketId> = self.entries.keys().copied().collect();
        buckets.sort_unstable();
        for bucket in buckets {
            if let Some(entry) = self.entries.get_mut(&bucket) {
                entry.give_back(now);
                entry.post_if_needed(bucket, &mut self.wants);
            }
        }
    }

    /// What could still be spent, here or wherever it is given back to.
    #[cfg(test)]
    pub(crate) fn probe(&self, bucket: BucketId, now: Nanos) -> u64 {
        let entry = self.entries.get(&bucket).filter(|entry| now < entry.deadline);
        entry.map_or(0, |entry| u64::from(entry.tokens + entry.returning) + entry.run.count)
    }

    #[cold]
    fn add(&mut self, bucket: BucketId, now: Nanos) -> bool {
        if self.entries.len() >= BUCKETS_MAX {
            let Some((at, oldest)) = self.quiet.pop_front() else { return false };
            self.forget_if_unused(oldest, at, |_| true);
            if self.entries.len() >= BUCKETS_MAX {
                return false;
            }
        }
        self.quiet.push_back((now.after(FORGET_AFTER), bucket));
        self.entries.insert(bucket, BucketEntry { demand: 1, ..BucketEntry::default() });
        true
    }

    /// Drops a bucket that holds and awaits nothing, or looks at it again at `again_at`.
    fn forget_if_unused(
        &mut self,
        bucket: BucketId,
        again_at: Nanos,
        old_enough: impl Fn(&BucketEntry) -> bool,
    ) {
        match self.entries.get(&bucket) {
            Some(entry) if entry.is_empty() && old_enough(entry) => {
                self.entries.remove(&bucket);
            }
            Some(_) => self.quiet.push_back((again_at, bucket)),
            None => {}
        }
    }

    fn take_slowly(
        &mut self,
        bucket: BucketId,
        (plan, rate_per_s, burst): (u32, u64, u64),
        now: Nanos,
    ) -> Take {
        let Some(entry) = self.entries.get_mut(&bucket) else {
            return Take::Denied { retry_after: NO_ROOM_RETRY_AFTER };
        };
        if !entry.is_of(rate_per_s, burst) {
            if entry.keep {
                entry.keep = false;
                entry.give_back(now);
            }
            entry.deny_until = Nanos(0);
            entry.rate_per_s = rate_per_s;
            entry.burst = burst;
        }
        entry.plan = plan;
        entry.ripen(now);
        let take = if entry.tokens > 0 {
            entry.spend(now);
            Take::Taken
        } else {
            entry.last_take = now;
            entry.wait_or_deny(now)
        };
        let small = is_small(rate_per_s, burst);
        if take == Take::Taken && small {
            entry.post_if_needed(bucket, &mut self.wants);
        }
        let wants_now = match take {
            Take::Taken => !small && entry.tokens <= entry.low_water && entry.low_water > 0,
            Take::Wait => entry.run.count == 0,
            Take::Denied { .. } => false,
        };
        if wants_now && !entry.asked && entry.run.count == 0 && now >= entry.deny_until {
            entry.ask(bucket, &mut self.wants, now);
        }
        let slot = (take == Take::Wait && entry.run.count > 0 && !entry.in_slots)
            .then(|| core::mem::replace(&mut entry.in_slots, true));
        if slot.is_some() {
            self.slots.push(Reverse((entry.run.at, bucket)));
        }
        self.watch(bucket, now);
        take
    }

    fn wake(&mut self, bucket: BucketId) {
        if let Some(entry) = self.entries.get_mut(&bucket)
            && !entry.in_woken
        {
            entry.in_woken = true;
            self.woken.push_back(bucket);
        }
    }

    fn watch(&mut self, bucket: BucketId, now: Nanos) {
        if let Some(entry) = self.entries.get_mut(&bucket)
            && !entry.in_idle
            && !entry.rests()
        {
            entry.in_idle = true;
            self.idle.push_back((now.after(RATE_IDLE), bucket));
        }
    }

    fn look_for_idleness(&mut self, bucket: BucketId, now: Nanos) {
        let Some(entry) = self.entries.get_mut(&bucket) else { return };
        entry.in_idle = false;
        if !entry.rests() {
            self.give_back_if_idle(bucket, now);
            self.watch(bucket, now);
        }
    }

    /// Reports a kept slice that has lapsed: if the lease has been renewed for others, what was
    /// spent of it counts until it is reported.
    fn report_if_over(&mut self, bucket: BucketId, now: Nanos) {
        let Some(entry) = self.entries.get_mut(&bucket) else { return };
        if entry.keep && now >= entry.deadline {
            entry.keep = false;
            entry.ripen(now);
            entry.post_if_needed(bucket, &mut self.wants);
        }
    }

    fn give_back_if_idle(&mut self, bucket: BucketId, now: Nanos) {
        let Some(entry) = self.entries.get_mut(&bucket) else { return };
        entry.ripen(now);
        let slots_from = if entry.run.count > 0 { entry.run.at } else { Nanos(0) };
        let idle = now >= entry.last_take.max(slots_from).after(RATE_IDLE);
        if !entry.asked && entry.run.count == 0 {
            let lasted = entry.deadline.since(entry.granted_at);
            if idle {
                entry.give_back(now);
                entry.post_if_needed(bucket, &mut self.wants);
            } else if entry.tokens > 0 && entry.deadline.since(now).0 < lasted.0 / 2 {
                entry.ask(bucket, &mut self.wants, now);
            }
        }
    }
}

impl BucketEntry {
    fn is_small(&self) -> bool {
        is_small(self.rate_per_s, self.burst)
    }

    fn spend(&mut self, now: Nanos) {
        self.tokens -= 1;
        self.used = self.used.saturating_add(1);
        self.last_take = now;
    }

    /// What the whole bucket holds, as far as is known here; nothing while calls are refused.
    fn remaining(&self, rate_per_s: u64, burst: u64, now: Nanos) -> u64 {
        let tokens = u64::from(self.tokens);
        let (ripe, held) = match now < self.deadline {
            true => (tokens + self.run.ripe(now), tokens + self.run.count),
            false => (0, 0),
        };
        if ripe == 0 && (held > 0 || self.deny_until > now) {
            return 0;
        }
        let here = held.saturating_add(accrued(rate_per_s, now.since(self.left_at)));
        self.left.saturating_add_unsigned(here).clamp(0, i64::try_from(burst).unwrap_or(i64::MAX))
            as u64
    }

    /// Is the plan the one that its tokens were granted under?
    const fn is_of(&self, rate_per_s: u64, burst: u64) -> bool {
        self.rate_per_s == rate_per_s && self.burst == burst
    }

    /// Is there nothing to do before the next call?
    const fn rests(&self) -> bool {
        self.keep && !self.asked && !self.posted && self.run.count == 0 || self.is_empty()
    }

    /// Is there nothing to spend, to report or to wait for?
    const fn is_empty(&self) -> bool {
        self.tokens == 0
            && self.run.count == 0
            && self.used == 0
            && self.returning == 0
            && !self.asked
            && !self.posted
    }

    /// Brings the tokens up to `now`: past the deadline they are burned, at their slots they
    /// can be spent.
    fn ripen(&mut self, now: Nanos) {
        if now >= self.deadline {
            self.lapse();
        } else if self.run.count > 0 {
            self.tokens = self.tokens.saturating_add(self.run.ripen(now) as u32);
        }
    }

    fn lapse(&mut self) {
        let lapsed = self.tokens.saturating_add(self.run.count as u32);
        self.used = self.used.saturating_add(lapsed);
        if self.keep {
            // It had more than it could use: what it used is what the next slice goes by.
            self.last_granted = self.last_granted.saturating_sub(lapsed);
        }
        self.tokens = 0;
        self.run.count = 0;
    }

    fn wait_or_deny(&mut self, now: Nanos) -> Take {
        if self.run.count > 0 {
            let place = u64::from(self.waiting);
            let at = self.run.ripens_at(place);
            if place >= self.run.count || at > now.after(PARK) {
                return Take::Denied { retry_after: at.since(now) };
            }
        } else if self.deny_until > now {
            return Take::Denied { retry_after: self.deny_until.since(now) };
        }
        self.waiting = self.waiting.saturating_add(1);
        Take::Wait
    }

    /// Posts a want for a slice that should last a while.
    fn ask(&mut self, bucket: BucketId, wants: &mut VecDeque<BucketId>, now: Nanos) {
        let lasted = now.since(self.granted_at);
        let longer = if self.keep { KEPT_LONGER } else { 1 };
        self.slice = if lasted.0 < SLICE_GROWS_BELOW.0 * longer {
            self.last_granted.saturating_mul(2)
        } else if lasted.0 > SLICE_SHRINKS_ABOVE.0 * longer {
            self.last_granted / 2
        } else {
            self.last_granted
        };
        self.asked = true;
        if !self.posted {
            self.posted = true;
            wants.push_back(bucket);
        }
    }

    fn give_back(&mut self, now: Nanos) {
        self.ripen(now);
        self.returning = self.returning.saturating_add(self.tokens);
        self.left = self.left.saturating_add(i64::from(self.tokens));
        self.tokens = 0;
        self.low_water = 0;
        // Tokens that are not ripe yet are burned: given back, they could be spent early.
        self.lapse();
    }

    fn post_if_needed(&mut self, bucket: BucketId, wants: &mut VecDeque<BucketId>) {
        if !self.posted && (self.used > 0 || self.returning > 0) {
            self.posted = true;
            wants.push_back(bucket);
        }
    }

    fn word(&mut self, shard: u16, bucket: BucketId) -> RateWant {
        let (want, need) =
            if self.asked { (self.slice.max(self.waiting).max(1), self.waiting) } else { (0, 0) };
        RateWant {
            shard,
            bucket,
            plan: self.plan,
            lease: self.lease,
            want,
            need,
            demand: core::mem::take(&mut self.demand),
            used: core::mem::take(&mut self.used),
            returned: core::mem::take(&mut self.returning),
        }
    }

    fn accept(&mut self, grant: &RateGrant, now: Nanos) {
        self.ripen(now);
        if grant.lease != 0 && grant.lease != self.lease {
            // A new lease begins only once the last one has lapsed, reports and all.
            self.lapse();
            self.used = 0;
            self.returning = 0;
            self.lease = grant.lease;
            self.deadline = Nanos(0);
        }
        self.asked = false;
        self.waiting = 0;
        self.deny_until = grant.deny_until;
        self.left = grant.left;
        self.left_at = now;
        if grant.granted > 0 || grant.deadline > self.deadline {
            self.deadline = self.deadline.max(grant.deadline);
            self.granted_at = now;
        }
        if grant.granted == 0 {
            return;
        }
        self.last_granted = grant.granted;
        self.keep = grant.keep;
        if now >= self.deadline {
            self.used = self.used.saturating_add(grant.granted);
        } else if grant.spacing == Nanos(0) && grant.not_before <= now {
            self.tokens = self.tokens.saturating_add(grant.granted);
            self.low_water = grant.granted / if self.is_small() { 1 } else { 4 };
        } else {
            assert!(self.run.count == 0, "asked for tokens before the last slot had come");
            let (at, spacing) = (grant.not_before, grant.spacing);
            self.run = Run { count: u64::from(grant.granted), at, spacing };
            self.low_water = if self.is_small() { grant.granted } else { 0 };
        }
    }
}
