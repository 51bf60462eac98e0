//! An instance's lease of one consumer's month.

use super::{CallInFlight, NEVER, PoolConfig, forget_at};
use crate::catalog::{Plan, WhenLost};
use crate::lease::{PARK, QUOTA_IDLE, QuotaAnswer, QuotaAsk, Status};
use crate::message::{QuotaGrant, QuotaWant, ToShard};
use crate::units::{ConsumerId, Nanos, Period};
use std::collections::VecDeque;

/// An answer that the authority could not give is asked for again after this long.
const ASK_AGAIN_AFTER: Nanos = Nanos::from_ms(5);
/// The same where the authority is known to need some seconds.
const FENCED_AGAIN_AFTER: Nanos = Nanos::from_ms(100);
/// Where calls cost something, tokens gone sooner than this are followed by twice as many.
const STOCK_GROWS_BELOW: Nanos = Nanos::from_s(20);
/// Those that lasted longer than this are followed by half as many.
const STOCK_SHRINKS_ABOVE: Nanos = Nanos::from_s(60);
/// And what no shard has asked about for so long goes back, while the month has plenty.
const STOCK_IDLE: Nanos = Nanos::from_s(10);

#[derive(Debug)]
pub(super) struct QuotaLease {
    limit: u64,
    /// Tokens that no shard holds.
    slack: u64,
    /// Unreported.
    consumed: u64,
    /// Unreported; a part of `consumed`.
    overrun: u64,
    /// By shard: granted, not returned, not consumed.
    held: Vec<HeldQuota>,
    pending: VecDeque<QuotaWaiter>,
    /// Another instance is short: what is free goes back at once.
    recalled: bool,
    flight: Option<CallInFlight<QuotaAsk>>,
    call_wanted: bool,
    next_call_at: Nanos,
    left: u64,
    last_granted: u64,
    granted_at: Nanos,
    /// Calls cost something: none is made for what can be done without.
    spares_calls: bool,
    last_word: Nanos,
    /// A shard waits for an answer for so long.
    patience: Nanos,
    when_lost: Option<WhenLost>,
    /// What may still be granted while the authority is out of reach, once that has been looked at.
    spare: Option<u64>,
    /// Consumed, and reported only here while it was.
    owed: u64,
    /// Nobody has used a token of the month, and there is nobody but the one shard here.
    alone: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct HeldQuota {
    tokens: u64,
    recalled: bool,
}

#[derive(Clone, Copy, Debug)]
struct QuotaWaiter {
    shard: u16,
    want: u64,
    need: u64,
    least: u64,
    since: Nanos,
    /// The call in flight, or one already answered, was made for it too.
    asked: bool,
    /// The other shards have been asked too.
    recalled: bool,
}

impl QuotaLease {
    pub(super) fn new(plan: &Plan, shards: u16, now: Nanos) -> Self {
        Self {
            limit: plan.quota_tokens,
            slack: 0,
            consumed: 0,
            overrun: 0,
            held: vec![HeldQuota::default(); usize::from(shards)],
            pending: VecDeque::new(),
            recalled: false,
            flight: None,
            call_wanted: false,
            next_call_at: now,
            left: 0,
            last_granted: 0,
            granted_at: now,
            spares_calls: false,
            last_word: now,
            patience: PARK,
            when_lost: plan.when_lost,
            spare: None,
            owed: 0,
            alone: false,
        }
    }

    /// The month has had no token used, and nobody else will be given one.
    pub(super) fn is_alone(&mut self) {
        self.alone = self.held.len() == 1;
    }

    /// What the month has left by the authority's last word, less what it does not know of yet.
    pub(super) fn left(&self) -> u64 {
        self.left.saturating_sub(self.overrun)
    }

    /// Granted by the authority, and neither settled nor given back, as far as is known here.
    fn on_lease(&self) -> u64 {
        self.held.iter().map(|held| held.tokens).fold(self.slack, u64::saturating_add)
    }

    /// Books a shard's report and notes its want.
    pub(super) fn on_word(&mut self, word: &QuotaWant, plan: &Plan, now: Nanos) {
        self.last_word = now;
        self.alone &= word.consumed == 0;
        self.consumed = self.consumed.saturating_add(word.consumed);
        self.slack = self.slack.saturating_add(word.returned);
        // What a call used over what its shard held is taken from what is free here, now or once
        // another shard gives it back; until then from what the month has left.
        self.overrun = self.overrun.saturating_add(word.overrun);
        let covered = self.overrun.min(self.slack);
        self.slack -= covered;
        self.overrun -= covered;
        if let Some(held) = self.held.get_mut(usize::from(word.shard)) {
            let used = word.consumed.saturating_sub(word.overrun);
            let gone = used.saturating_add(word.returned);
            held.tokens = held.tokens.saturating_sub(gone);
            held.recalled &= word.want > 0;
        }
        if word.want == 0 {
            return;
        }
        (self.limit, self.when_lost) = (plan.quota_tokens, plan.when_lost);
        self.pending.retain(|pending| pending.shard != word.shard);
        self.pending.push_back(QuotaWaiter {
            shard: word.shard,
            want: word.want,
            need: word.need.min(word.want),
            least: word.least.min(word.need),
            since: now,
            asked: false,
            recalled: false,
        });
    }

    /// Answers the shards that can be answered, recalls what others hold if it has to, and sees
    /// whether a call is wanted.
    pub(super) fn serve(
        &mut self,
        key: (ConsumerId, Period),
        now: Nanos,
        out: &mut VecDeque<(u16, ToShard)>,
    ) {
        while let Some(pending) = self.pending.front().copied() {
            let target = self.slice(&pending);
            let enough = self.slack >= pending.need.max(1);
            let may_wait = now < pending.since.after(self.patience);
            if self.slack < target && may_wait && (!pending.asked || self.flight.is_some()) {
                let is_low = !enough || self.slack < self.last_granted / 4;
                self.call_wanted |= !pending.asked && (is_low || !self.spares_calls);
                if !enough {
                    return;
                }
            }
            if self.slack < pending.need && may_wait {
                if let Some(first) = self.pending.front_mut().filter(|first| !first.recalled) {
                    first.recalled = true;
                    self.recall_shards(key, Some(pending.shard), out);
                }
                let mut held = self.held.iter().enumerate();
                if held.any(|(at, held)| held.recalled && at != usize::from(pending.shard)) {
                    return;
                }
            }
            self.pending.pop_front();
            // What serves nobody there stays here: with what comes back it may serve somebody.
            let granted = if self.slack < pending.least { 0 } else { self.slack.min(target) };
            self.slack -= granted;
            if let Some(held) = self.held.get_mut(usize::from(pending.shard)) {
                held.tokens = held.tokens.saturating_add(granted);
            }
            let (consumer, period) = key;
            let others = self.held.iter().enumerate().map(|(shard, held)| {
                if shard == usize::from(pending.shard) { 0 } else { held.tokens }
            });
            let left = others.fold(self.left().saturating_add(self.slack), u64::saturating_add);
            let exhausted = granted < pending.need && may_wait;
            let (free, alone) = (self.left().saturating_add(self.slack), self.alone);
            let grant = QuotaGrant { consumer, period, granted, left, alone, exhausted, free };
            out.push_back((pending.shard, ToShard::Quota(grant)));
        }
        self.call_wanted |= self.recalled && self.slack > 0;
    }

    /// Another instance is short: gives back what is free, the shards' part of it when they have.
    pub(super) fn recall(&mut self, key: (ConsumerId, Period), out: &mut VecDeque<(u16, ToShard)>) {
        self.recalled = true;
        self.recall_shards(key, None, out);
    }

    /// Half of an even share while there is plenty; near the end no more than is needed.
    fn slice(&self, pending: &QuotaWaiter) -> u64 {
        let free = self.slack.saturating_add(self.left());
        let plenty = if self.has_plenty() { free / (2 * self.held.len().max(1) as u64) } else { 0 };
        pending.want.min(plenty).max(pending.need)
    }

    fn has_plenty(&self) -> bool {
        self.slack.saturating_add(self.left()) > self.limit / 50
    }

    /// What should last until the next call but one, where calls cost something: it spares a quiet
    /// month most of its calls. Near the end of a month nothing is put by.
    fn stock(&self, now: Nanos) -> u64 {
        if !self.spares_calls || !self.has_plenty() {
            return 0;
        }
        let lasted = now.since(self.granted_at);
        if lasted < STOCK_GROWS_BELOW {
            self.last_granted.saturating_mul(2)
        } else if lasted > STOCK_SHRINKS_ABOVE {
            self.last_granted / 2
        } else {
            self.last_granted
        }
    }

    fn idle_at(&self, call_gap: Nanos) -> Nanos {
        let stays = call_gap > Nanos(0) && self.has_plenty();
        self.last_word.after(if stays { STOCK_IDLE } else { QUOTA_IDLE })
    }

    /// Has the shards give back what they have free, but for one that asks itself.
    fn recall_shards(
        &mut self,
        (consumer, period): (ConsumerId, Period),
        asker: Option<u16>,
        out: &mut VecDeque<(u16, ToShard)>,
    ) {
        for (shard, held) in self.held.iter_mut().enumerate() {
            if asker != Some(shard as u16) && held.tokens > 0 && !held.recalled {
                held.recalled = true;
                out.push_back((shard as u16, ToShard::RecallQuota { consumer, period }));
            }
        }
    }

    /// The call to send now: the one in flight again, or a new one.
    pub(super) fn call(
        &mut self,
        (consumer, period): (ConsumerId, Period),
        next_seq: &mut u64,
        config: &PoolConfig,
        now: Nanos,
    ) -> Option<CallInFlight<QuotaAsk>> {
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
        let idle = self.pending.is_empty();
        self.spares_calls = config.call_gap > Nanos(0);
        self.patience = config.patience();
        // A caller may ask for 2⁶⁴ - 1 tokens, on each shard: more than there are is still more
        // than there are.
        let sum =
            |of: fn(&QuotaWaiter) -> u64| self.pending.iter().map(of).fold(0, u64::saturating_add);
        let (want, need) = (sum(|pending| pending.want), sum(|pending| pending.need));
        let needy = self.pending.iter().filter(|pending| pending.need > 0);
        let least = needy.map(|pending| pending.least).min().unwrap_or(0);
        self.left = self.left();
        self.overrun = 0;
        let is_short = need > self.slack.saturating_add(self.left);
        if idle || self.recalled || is_short {
            // Of a month that is short nobody keeps a rest: who asks next finds all of them.
            self.slack = 0;
        }
        self.recalled &= self.held.iter().any(|held| held.recalled);
        let [want, need, least] = [want, need, least].map(|of| of.saturating_sub(self.slack));
        let want = if want > 0 { want.max(self.stock(now)) } else { 0 };
        let ask = QuotaAsk {
            consumer,
            period,
            limit: (!idle).then_some(self.limit),
            want,
            need,
            least,
            consumed: core::mem::take(&mut self.consumed),
            held: self.on_lease(),
        };
        for pending in &mut self.pending {
            pending.asked = true;
        }
        self.call_wanted = false;
        self.next_call_at = now.after(config.call_gap);
        let mut flight = CallInFlight::new(*next_seq, ask);
        *next_seq += 1;
        flight.send(config.rtt, now);
        self.flight = Some(flight);
        Some(flight)
    }

    /// Takes the answer to the call in flight; false if it answers none.
    pub(super) fn on_answer(&mut self, seq: u64, answer: &QuotaAnswer, now: Nanos) -> bool {
        match &mut self.flight {
            Some(flight) if flight.seq == seq => {
                // Where nothing was done the same call comes again.
                let again_after = match answer.status {
                    Status::NeedSeed | Status::Denied => ASK_AGAIN_AFTER,
                    Status::Fenced => FENCED_AGAIN_AFTER,
                    _ => Nanos(0),
                };
                if again_after > Nanos(0) {
                    flight.repeat_at = now.after(again_after);
                    return true;
                }
            }
            _ => return false,
        }
        self.flight = None;
        self.slack = self.slack.saturating_add(answer.granted);
        self.left = answer.left;
        if answer.granted > 0 {
            (self.last_granted, self.granted_at) = (answer.granted, now);
        }
        true
    }

    /// What the key does while the authority is out of reach; `None`: what most do.
    pub(super) fn when_lost(&self) -> Option<WhenLost> {
        self.when_lost
    }

    /// What may still be granted while it is; `of_left` says how much at first.
    pub(super) fn spare(&mut self, of_left: impl Fn(u64) -> u64) -> u64 {
        let left = self.left();
        *self.spare.get_or_insert_with(|| of_left(left))
    }

    /// A call was answered here, and not by the authority, which has to hear of it later.
    pub(super) fn answered_here(&mut self, consumed: u64, granted: u64) {
        self.owed = self.owed.saturating_add(consumed);
        self.spare = self.spare.map(|spare| spare.saturating_sub(granted));
        self.next_call_at = Nanos(0);
    }

    /// The authority is back: is there anything that it has to hear?
    pub(super) fn report_again(&mut self) -> bool {
        self.spare = None;
        self.consumed = self.consumed.saturating_add(core::mem::take(&mut self.owed));
        self.holds()
    }

    /// Wants a call that gives everything back if no shard has asked for a while.
    pub(super) fn return_if_idle(&mut self, call_gap: Nanos, now: Nanos) {
        if self.holds() && self.is_quiet() && now >= self.idle_at(call_gap) {
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
    pub(super) fn due(&self, call_gap: Nanos) -> Nanos {
        if let Some(pending) = self.pending.front() {
            return pending.since.after(self.patience);
        }
        if !self.is_quiet() {
            return NEVER;
        }
        if self.holds() {
            self.idle_at(call_gap)
        } else if self.owed > 0 || self.held.iter().any(|held| held.tokens != 0) {
            NEVER
        } else {
            forget_at(self.last_word)
        }
    }

    /// Does it hold nothing, and has it not been used for long?
    pub(super) fn is_forgettable(&self, now: Nanos) -> bool {
        !self.holds()
            && self.owed == 0
            && self.is_quiet()
            && self.held.iter().all(|held| held.tokens == 0)
            && now >= forget_at(self.last_word)
    }

    fn holds(&self) -> bool {
        self.slack > 0 || self.consumed > 0
    }

    fn is_quiet(&self) -> bool {
        self.flight.is_none() && self.pending.is_empty() && !self.call_wanted
    }
}
