//! One shard's slices of consumers' months.
//!
//! A call reserves what it may use at most, and settles what it did use: the rest is free again,
//! an overrun is taken from what is free here, and beyond that from what the month has left. It
//! must never promise a token twice, nor lose count of one that was used.

use crate::lease::{FORGET_AFTER, QUOTA_IDLE};
use crate::limits::QUOTAS_MAX;
use crate::message::{QuotaGrant, QuotaWant};
use crate::units::{ConsumerId, Nanos, Period};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A slice that was reserved sooner than this is followed by one of twice its size.
const SLICE_GROWS_BELOW: Nanos = Nanos::from_s(1);
/// A slice that lasted longer than this is followed by one of half its size.
const SLICE_SHRINKS_ABOVE: Nanos = Nanos::from_s(4);
/// For this long, calls that the month has no tokens for are refused without asking.
const EXHAUSTED_FOR: Nanos = Nanos::from_ms(100);

/// Whether a call's tokens can be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Yes, this many.
    Reserved {
        /// What to pass to [`Quotas::reserve`].
        tokens: u64,
    },
    /// Park the call; try again after the next grant for the month.
    Wait,
    /// The month has fewer left.
    Exhausted,
    /// The table is full of months in use.
    NoRoom,
}

/// What a caller is told about its month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaView {
    /// Tokens left, as far as is known here.
    pub remaining: u64,
}

type QuotaKey = (ConsumerId, Period);

/// See the module.
#[derive(Debug)]
pub struct Quotas {
    shard: u16,
    entries: HashMap<QuotaKey, QuotaEntry, FixedState>,
    wants: VecDeque<(QuotaKey, QuotaMessage)>,
    /// When to look for idle tokens: each month that holds or awaits something, once.
    idle: VecDeque<(Nanos, QuotaKey)>,
    /// When to look whether it can be forgotten: each month, once.
    quiet: VecDeque<(Nanos, QuotaKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuotaMessage {
    Want,
    Report,
}

#[derive(Debug, Default)]
struct QuotaEntry {
    /// Free tokens.
    slack: u64,
    reserved: u64,
    consumed: u64,
    /// Settled since the month was first asked for, reported or not.
    settled: u64,
    /// Nobody else has used a token of the month, nor is anybody given one.
    alone: bool,
    /// Part of `consumed` that no grant covers.
    overrun: u64,
    returning: u64,
    /// What calls have waited for since the last grant.
    waiting: u64,
    /// Fewer than these serve none of those calls.
    least: u64,
    slice: u64,
    last_granted: u64,
    granted_at: Nanos,
    last_use: Nanos,
    /// When control last said that it had no more, it said how much was free: until this instant
    /// no more than `slack` and `elsewhere` is.
    exhausted_until: Nanos,
    /// What was free then, and what was given back since.
    elsewhere: u64,
    left: u64,
    plan: u32,
    /// A want is posted or unanswered.
    asked: bool,
    reporting: bool,
    in_idle: bool,
}

impl Quotas {
    /// No month yet.
    pub fn new(shard: u16) -> Self {
        Self {
            shard,
            entries: HashMap::default(),
            wants: VecDeque::new(),
            idle: VecDeque::new(),
            quiet: VecDeque::new(),
        }
    }

    /// Could `tokens` be reserved now? Takes nothing; asks for more where they are short.
    /// `strict`: nothing less will do; else whatever the month has left will.
    pub fn check(
        &mut self,
        consumer: ConsumerId,
        plan: u32,
        period: Period,
        tokens: u64,
        strict: bool,
        now: Nanos,
    ) -> Reserve {
        let key = (consumer, period);
        let Some(entry) = entry_of(&mut self.entries, &mut self.quiet, key, now) else {
            return Reserve::NoRoom;
        };
        entry.last_use = now;
        entry.plan = plan;
        let reserve = entry.check(tokens, strict, now);
        let low = entry.slack.saturating_sub(tokens) < entry.last_granted / 4;
        if reserve == Reserve::Wait || low && now >= entry.exhausted_until {
            entry.ask(key, &mut self.wants, now);
        }
        entry.watch(key, &mut self.idle, now);
        reserve
    }

    /// Reserves what [`Self::check`] has just found.
    pub fn reserve(&mut self, consumer: ConsumerId, period: Period, tokens: u64) {
        if let Some(entry) = self.entries.get_mut(&(consumer, period)) {
            assert!(tokens <= entry.slack, "reserved more than was found");
            entry.slack -= tokens;
            entry.reserved = entry.reserved.saturating_add(tokens);
        }
    }

    /// Ends a reservation with what the call did use. A month that is not here any more, while
    /// the table is full of others, is left to the ledger.
    pub fn settle(
        &mut self,
        consumer: ConsumerId,
        period: Period,
        reserved: u64,
        actual: u64,
        now: Nanos,
    ) {
        let key = (consumer, period);
        // A reservation keeps its month; a call that the sweep has charged may come much later.
        if reserved == 0 && actual == 0 {
            return;
        }
        let Some(entry) = entry_of(&mut self.entries, &mut self.quiet, key, now) else { return };
        assert!(reserved <= entry.reserved, "settled more than was reserved");
        entry.reserved -= reserved;
        let free = entry.slack.saturating_add(reserved);
        let overrun = actual.saturating_sub(free);
        entry.slack = free.saturating_sub(actual);
        entry.overrun = entry.overrun.saturating_add(overrun);
        entry.left = entry.left.saturating_sub(overrun);
        entry.consumed = entry.consumed.saturating_add(actual);
        entry.settled = entry.settled.saturating_add(actual);
        entry.last_use = now;
        entry.watch(key, &mut self.idle, now);
    }

    /// Tokens left of the month's `quota_tokens`, for the headers of an answer.
    pub fn view(&self, consumer: ConsumerId, period: Period, quota_tokens: u64) -> QuotaView {
        let remaining = self
            .entries
            .get(&(consumer, period))
            .map_or(quota_tokens, |entry| entry.left.saturating_add(entry.slack).min(quota_tokens));
        QuotaView { remaining }
    }

    /// Tokens that anybody has used of the month, at most; `None`: that is not known here.
    pub(crate) fn used_most(&self, consumer: ConsumerId, period: Period) -> Option<u64> {
        let entry = self.entries.get(&(consumer, period))?;
        entry.alone.then_some(entry.settled)
    }

    /// Control's answer to a want. All parked calls of the month are to try again.
    pub(crate) fn on_grant(&mut self, grant: QuotaGrant, now: Nanos) {
        let key = (grant.consumer, grant.period);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.asked = false;
        (entry.waiting, entry.least) = (0, 0);
        entry.alone |= grant.alone;
        entry.slack = entry.slack.saturating_add(grant.granted);
        entry.left = grant.left.saturating_sub(entry.overrun);
        entry.elsewhere = 0;
        if grant.granted > 0 {
            entry.last_granted = grant.granted;
            entry.granted_at = now;
        }
        entry.exhausted_until = Nanos(0);
        if grant.exhausted {
            entry.exhausted_until = now.after(EXHAUSTED_FOR);
            entry.elsewhere = grant.free;
            entry.last_granted = 0;
        }
        entry.watch(key, &mut self.idle, now);
    }

    /// Another shard is short: gives back what is free, even if that is nothing.
    pub(crate) fn on_recall(&mut self, consumer: ConsumerId, period: Period, now: Nanos) {
        let key = (consumer, period);
        // If there is no room, nobody answers: the asker waits as long as its call is parked, no
        // longer.
        let Some(entry) = entry_of(&mut self.entries, &mut self.quiet, key, now) else { return };
        entry.give_back();
        entry.report(key, &mut self.wants);
        entry.watch(key, &mut self.idle, now);
    }

    /// The next word to send to control, if any.
    pub(crate) fn poll_want(&mut self) -> Option<QuotaWant> {
        while let Some((key, word)) = self.wants.pop_front() {
            if let Some(entry) = self.entries.get_mut(&key) {
                return Some(entry.word(self.shard, key, word));
            }
        }
        None
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let idle = self.idle.front().map(|(at, _)| *at);
        let quiet = self.quiet.front().map(|(at, _)| *at);
        [idle, quiet].into_iter().flatten().min()
    }

    /// Reports, gives back what lies idle, forgets the unused.
    pub fn on_timeout(&mut self, now: Nanos) {
        while self.idle.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.idle.pop_front() else { break };
            self.look_for_idleness(key, now);
        }
        while self.quiet.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.quiet.pop_front() else { break };
            let unused = |entry: &QuotaEntry| now >= entry.last_use.after(FORGET_AFTER);
            forget_if(&mut self.entries, &mut self.quiet, key, now.after(FORGET_AFTER), unused);
        }
    }

    /// Gives everything back that is not reserved: the shard stops.
    pub fn release_all(&mut self) {
        let mut keys: Vec<QuotaKey> = self.entries.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.give_back();
                if entry.consumed > 0 || entry.returning > 0 {
                    entry.report(key, &mut self.wants);
                }
            }
        }
    }

    fn look_for_idleness(&mut self, key: QuotaKey, now: Nanos) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.in_idle = false;
        if !entry.asked {
            if now >= entry.last_use.after(QUOTA_IDLE) {
                entry.give_back();
            }
            if entry.consumed > 0 || entry.returning > 0 {
                entry.report(key, &mut self.wants);
            }
        }
        entry.watch(key, &mut self.idle, now);
    }
}

/// The entry of a month, made if need be; `None` where the table is full of months in use.
fn entry_of<'a>(
    entries: &'a mut HashMap<QuotaKey, QuotaEntry, FixedState>,
    quiet: &mut VecDeque<(Nanos, QuotaKey)>,
    key: QuotaKey,
    now: Nanos,
) -> Option<&'a mut QuotaEntry> {
    if entries.len() >= QUOTAS_MAX && !entries.contains_key(&key) {
        let (at, oldest) = quiet.pop_front()?;
        forget_if(entries, quiet, oldest, at, |_| true);
        if entries.len() >= QUOTAS_MAX {
            return None;
        }
    }
    Some(entries.entry(key).or_insert_with(|| {
        quiet.push_back((now.after(FORGET_AFTER), key));
        QuotaEntry::default()
    }))
}

/// Drops a month that holds and awaits nothing, or looks at it again at `again_at`.
fn forget_if(
    entries: &mut HashMap<QuotaKey, QuotaEntry, FixedState>,
    quiet: &mut VecDeque<(Nanos, QuotaKey)>,
    key: QuotaKey,
    again_at: Nanos,
    old_enough: impl Fn(&QuotaEntry) -> bool,
) {
    match entries.get(&key) {
        Some(entry) if entry.is_empty() && old_enough(entry) => {
            entries.remove(&key);
        }
        Some(_) => quiet.push_back((again_at, key)),
        None => {}
    }
}

impl QuotaEntry {
    /// Is there nothing to spend, to report or to wait for?
    const fn is_empty(&self) -> bool {
        self.slack == 0
            && self.reserved == 0
            && self.consumed == 0
            && self.returning == 0
            && !self.asked
            && !self.reporting
    }

    fn check(&mut self, tokens: u64, strict: bool, now: Nanos) -> Reserve {
        let free = self.slack;
        let told = now < self.exhausted_until;
        let exhausted = told
            && if strict {
                tokens > free.saturating_add(self.elsewhere)
            } else {
                self.elsewhere == 0
            };
        if free >= tokens {
            Reserve::Reserved { tokens }
        } else if !exhausted {
            self.waiting = self.waiting.saturating_add(tokens);
            let least = if strict { tokens } else { 1 };
            self.least = if self.least == 0 { least } else { self.least.min(least) };
            Reserve::Wait
        } else if free > 0 && !strict {
            Reserve::Reserved { tokens: free }
        } else {
            Reserve::Exhausted
        }
    }

    /// Has the month looked at for idle tokens, if there is anything to give back or to report.
    fn watch(&mut self, key: QuotaKey, idle: &mut VecDeque<(Nanos, QuotaKey)>, now: Nanos) {
        if !self.in_idle && (self.slack > 0 || self.consumed > 0) {
            self.in_idle = true;
            idle.push_back((now.after(QUOTA_IDLE), key));
        }
    }

    /// Posts a want for a slice that should last a while.
    fn ask(&mut self, key: QuotaKey, wants: &mut VecDeque<(QuotaKey, QuotaMessage)>, now: Nanos) {
        if self.asked {
            return;
        }
        let lasted = now.since(self.granted_at);
        self.slice = if lasted < SLICE_GROWS_BELOW {
            self.last_granted.saturating_mul(2)
        } else if lasted > SLICE_SHRINKS_ABOVE {
            self.last_granted / 2
        } else {
            self.last_granted
        };
        self.asked = true;
        wants.push_back((key, QuotaMessage::Want));
    }

    fn report(&mut self, key: QuotaKey, wants: &mut VecDeque<(QuotaKey, QuotaMessage)>) {
        if !self.reporting {
            self.reporting = true;
            wants.push_back((key, QuotaMessage::Report));
        }
    }

    fn give_back(&mut self) {
        self.returning = self.returning.saturating_add(self.slack);
        self.elsewhere = self.elsewhere.saturating_add(self.slack);
        self.left = self.left.saturating_add(self.slack);
        self.slack = 0;
    }

    fn word(&mut self, shard: u16, (consumer, period): QuotaKey, word: QuotaMessage) -> QuotaWant {
        let (want, need, least) = match word {
            QuotaMessage::Report => {
                self.reporting = false;
                (0, 0, 0)
            }
            QuotaMessage::Want if self.waiting > self.slack => {
                // What is too little for a call here makes up with what lies elsewhere.
                self.give_back();
                (self.waiting.max(self.slice), self.waiting, self.least)
            }
            QuotaMessage::Want => (self.slice.max(1), 0, 0),
        };
        QuotaWant {
            shard,
            consumer,
            plan: self.plan,
            period,
            want,
            need,
            least,
            consumed: core::mem::take(&mut self.consumed),
            overrun: core::mem::take(&mut self.overrun),
            returned: core::mem::take(&mut self.returning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSUMER: ConsumerId = ConsumerId(1);
    const PERIOD: Period = Period(202_611);

    #[test]
    fn what_is_settled_late_is_still_counted() {
        let mut quotas = Quotas::new(0);
        // The sweep has charged the reservation long ago, and the month was forgotten since.
        quotas.settle(CONSUMER, PERIOD, 0, 70, Nanos::from_s(1));
        quotas.settle(CONSUMER, PERIOD, 0, 0, Nanos::from_s(1));
        quotas.on_timeout(Nanos::from_s(3));
        let word = quotas.poll_want();
        assert_eq!(word.map(|word| (word.want, word.consumed, word.overrun)), Some((0, 70, 70)));
        assert_eq!(quotas.poll_want(), None);
        quotas.on_timeout(Nanos::from_s(30));
        assert_eq!((quotas.entries.len(), quotas.poll_timeout()), (0, None));
    }

    #[test]
    fn recalls_of_an_unknown_month_are_answered_once() {
        let mut quotas = Quotas::new(0);
        for _ in 0..1_000 {
            quotas.on_recall(CONSUMER, PERIOD, Nanos(1));
        }
        assert_eq!(quotas.poll_want().map(|word| (word.want, word.returned)), Some((0, 0)));
        assert_eq!(quotas.poll_want(), None);
    }

    #[test]
    fn a_full_table_is_not_a_spent_month() {
        let mut quotas = Quotas::new(0);
        for consumer in 0..QUOTAS_MAX as u64 {
            let reserve = quotas.check(ConsumerId(consumer), 0, PERIOD, 1, true, Nanos(1));
            assert_eq!(reserve, Reserve::Wait);
        }
        let one_more = ConsumerId(QUOTAS_MAX as u64);
        assert_eq!(quotas.check(one_more, 0, PERIOD, 1, true, Nanos(1)), Reserve::NoRoom);
    }
}
