//! One rate bucket at the authority.
//!
//! `level` counts nano-tokens (a token per second is one nano-token per nanosecond), so that
//! accrual is exact. Below one token the future is granted: tokens that may be spent only once
//! they have accrued, and `level` goes negative by them. The bound: in any span, what is spent
//! was on lease at its start, left at its start, or accrued inside; so with
//! `level + outstanding <= burst` always, no more than `burst + rate·t` is ever admitted.

#[cfg(test)]
use super::audit::Books;
use super::audit::{Audit, Planted};
use super::{HOLDER_MEMORY, TOKEN};
use crate::lease::{LONG_LEASE, LeaseCall, RateAnswer, RateAsk, Status, is_small, lease_span};
use crate::limits::{AUTHORITY_DEMAND_MAX, AUTHORITY_RATE_MAX, AUTHORITY_RTT_MAX, HOLDERS_MAX};
use crate::units::{BucketId, Nanos};

/// What a holder waits where every token is on lease and none reported spent.
const ALL_ON_LEASE_DENY: Nanos = Nanos::from_ms(10);
/// What a holder of a revoked bucket waits.
const REVOKED_DENY: Nanos = Nanos::from_s(1);
/// No lease is shorter.
const TTL_MIN: Nanos = Nanos::from_ms(100);
/// Leases may be long while so many times what all holders want is no more than the rate.
const FAR_BELOW: u64 = 3;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Bucket {
    /// When the authority that it belongs to was opened.
    pub(super) open_at: Option<Nanos>,
    pub(super) rate_per_s: u64,
    pub(super) burst: u64,
    pub revoked: bool,
    pub(super) level: i128,
    pub(super) outstanding: u64,
    pub(super) last: Nanos,
    pub(super) last_lease: u64,
    pub(super) holders: Vec<RateHolder>,
    pub audit: Audit,
}

#[derive(Clone, Debug)]
pub(super) struct RateHolder {
    pub(super) id: u128,
    /// Only what remains of a lease from before a decrease, until it lapses.
    pub(super) ended: bool,
    pub(super) seq: u64,
    pub(super) lease: u64,
    pub(super) outstanding: u64,
    /// The lease is a long one, and can be recalled.
    pub(super) long: bool,
    pub(super) expires_at: Nanos,
    pub(super) called_at: Nanos,
    /// Counts as one that wants tokens until then.
    pub(super) active_until: Nanos,
    /// Since when it has asked, got nothing and spent nothing.
    pub(super) put_off_since: Option<Nanos>,
    pub(super) demand_per_s: u64,
    pub(super) reply: RateAnswer,
    pub(super) replied_at: Nanos,
}

/// An answer that grants nothing.
pub(super) fn denied(bucket: BucketId, deny_for: Nanos) -> RateAnswer {
    RateAnswer {
        bucket,
        status: Status::Denied,
        lease: 0,
        granted: 0,
        not_before: Nanos(0),
        spacing: Nanos(0),
        ttl: Nanos(0),
        long: false,
        deny_for,
        left: 0,
        holders: 0,
    }
}

/// The plan's rate and burst, as far as they are counted with.
pub(super) fn plan_of(ask: &RateAsk) -> (u64, u64) {
    (ask.rate_per_s.clamp(1, AUTHORITY_RATE_MAX), ask.burst.clamp(1, AUTHORITY_RATE_MAX))
}

/// How long so many nano-tokens take to accrue, in whole microseconds.
fn time_to_accrue(nano_tokens: i128, rate_per_s: u128) -> Nanos {
    let us = nano_tokens.max(0).unsigned_abs().div_ceil(rate_per_s * 1_000);
    Nanos::from_us(us as u64)
}

impl Bucket {
    /// Full, or as full as it can be if it was empty at that instant.
    pub(super) fn new((rate_per_s, burst): (u64, u64), open_at: Option<Nanos>, now: Nanos) -> Self {
        let full = i128::from(burst) * TOKEN;
        let level = open_at.map_or(full, |empty_at| {
            full.min(i128::from(rate_per_s) * i128::from(now.since(empty_at).0))
        });
        let mut audit = Audit::default();
        audit.book(|books| (books.given, books.burst) = (level, burst));
        Self {
            open_at,
            rate_per_s,
            burst,
            revoked: false,
            level,
            outstanding: 0,
            last: now,
            last_lease: 0,
            holders: Vec::new(),
            audit,
        }
    }

    /// Is it from before a loss of memory?
    pub(super) fn is_lost(&self, open_at: Option<Nanos>) -> bool {
        self.open_at != open_at
    }

    /// Does the call. `recalled` is told which holders are to give back what they have not spent.
    pub(super) fn call(
        &mut self,
        call: &LeaseCall,
        ask: &RateAsk,
        now: Nanos,
        recalled: impl FnMut(u128),
    ) -> RateAnswer {
        self.advance(now);
        let now = self.last;
        let place = match self.place_of(call, ask, now) {
            Ok(place) => place,
            Err(answer) => return answer,
        };
        self.settle(call.holder, ask);
        let is_cut = self.configure(ask);
        let span = lease_span(self.rate_per_s, self.burst);
        let rtt = ask.rtt.min(AUTHORITY_RTT_MAX);
        let ttl = Nanos(2 * span.0 + 2 * rtt.0).max(TTL_MIN);
        let holder = &mut self.holders[place];
        holder.seq = call.seq;
        holder.called_at = now;
        holder.demand_per_s = ask.demand_per_s.clamp(1, AUTHORITY_DEMAND_MAX);
        if ask.want > 0 || holder.outstanding > 0 {
            holder.active_until = now.after(ttl);
        } else if holder.put_off_since.is_none() {
            holder.active_until = now;
        }
        let mut answer = if self.revoked && !self.audit.has(Planted::RevokedInVain) {
            RateAnswer { status: Status::Revoked, ..denied(ask.bucket, REVOKED_DENY) }
        } else if ask.want == 0 {
            RateAnswer { status: Status::Done, ..denied(ask.bucket, Nanos(0)) }
        } else {
            self.grant(place, ask, span)
        };
        if ask.want > 0 && answer.granted == 0 {
            // It keeps its turn for as long as it is told to stay away.
            let holder = &mut self.holders[place];
            holder.put_off_since.get_or_insert(now);
            holder.active_until = now.after(answer.deny_for).after(ttl);
        }
        if is_cut || !self.is_met(ask, &answer) {
            self.recall(Some(call.holder), recalled);
        }
        self.lengthen(place, ask, &mut answer);
        self.lease_out(place, &mut answer, ttl);
        answer
    }

    /// Did the caller get all that it wants, to be spent at once?
    fn is_met(&self, ask: &RateAsk, answer: &RateAnswer) -> bool {
        answer.granted >= ask.want.min(self.burst) && answer.spacing == Nanos(0)
    }

    /// Calls long leases back, but the caller's, which hears of it by its answer.
    pub(super) fn recall(&self, caller: Option<u128>, recalled: impl FnMut(u128)) {
        let others = self.holders.iter().filter(|holder| Some(holder.id) != caller);
        let long = others.filter(|holder| holder.long && holder.outstanding > 0);
        long.map(|holder| holder.id).for_each(recalled);
    }

    /// Makes the caller's lease a long one, and grants what it will need meanwhile, where that is
    /// nobody's loss: all together want far less than accrues, and half of the burst stays here for
    /// whoever else comes.
    fn lengthen(&mut self, place: usize, ask: &RateAsk, answer: &mut RateAnswer) {
        let holder = &self.holders[place];
        if ask.want == 0 {
            answer.long = holder.long && holder.outstanding > 0 && !self.revoked;
        } else if ask.long_want > 0 && !is_small(self.rate_per_s, self.burst) {
            let is_calm = self.demand().saturating_mul(FAR_BELOW) <= self.rate_per_s
                && self.put_off_before(place) == 0;
            answer.long = is_calm && answer.granted > 0 && self.is_met(ask, answer);
        }
        self.holders[place].long = answer.long;
        if answer.long && ask.want > 0 {
            let kept = self.outstanding + answer.granted;
            let whole = u64::try_from(self.level.div_euclid(TOKEN)).unwrap_or(0);
            let spare = (self.burst / 2).saturating_sub(kept).min(whole - answer.granted);
            answer.granted += ask.long_want.saturating_sub(answer.granted).min(spare);
        }
    }

    /// What all that want tokens lately want, each at least one.
    fn demand(&self) -> u64 {
        let active = self.holders.iter().filter(|holder| holder.active_until > self.last);
        active.map(|holder| holder.demand_per_s).sum()
    }

    /// Accrues up to `now`, stopping at each expiry on the way: expiring first and accruing the
    /// whole span afterwards would credit time in which the expired tokens filled the bucket.
    fn advance(&mut self, now: Nanos) {
        let now = now.max(self.last);
        if self.audit.has(Planted::RetroactiveAccrual) {
            while let Some(place) = self.first_to_expire(now) {
                self.expire(place);
            }
        }
        while let Some(place) = self.first_to_expire(now) {
            let at = self.holders[place].expires_at;
            self.accrue(at);
            self.expire(place);
        }
        self.accrue(now);
    }

    fn first_to_expire(&self, now: Nanos) -> Option<usize> {
        let on_lease = self.holders.iter().enumerate().filter(|(_, holder)| holder.outstanding > 0);
        on_lease
            .filter(|(_, holder)| holder.expires_at <= now)
            .min_by_key(|(_, holder)| holder.expires_at)
            .map(|(place, _)| place)
    }

    fn accrue(&mut self, until: Nanos) {
        let span = until.since(self.last);
        let room =
            i128::from(self.burst) * TOKEN - i128::from(self.outstanding) * TOKEN - self.level;
        let accrued = (i128::from(self.rate_per_s) * i128::from(span.0)).min(room.max(0));
        self.level += accrued;
        self.audit.book(|books| books.accrued += accrued);
        self.last = self.last.max(until);
    }

    fn expire(&mut self, place: usize) {
        let holder = &mut self.holders[place];
        self.outstanding -= holder.outstanding;
        self.audit.book(|books| books.burned += holder.outstanding);
        if self.audit.has(Planted::NoBurn) {
            self.level += i128::from(holder.outstanding) * TOKEN;
        }
        holder.outstanding = 0;
        holder.lease = 0;
    }

    /// Where the caller stands in `holders`, or the answer if the call is not to be done.
    fn place_of(
        &mut self,
        call: &LeaseCall,
        ask: &RateAsk,
        now: Nanos,
    ) -> Result<usize, RateAnswer> {
        self.holders.retain(|holder| !holder.ended || holder.outstanding > 0);
        if let Some(place) = self.place_of_holder(call.holder) {
            if self.audit.has(Planted::NoDedupe) {
                return Ok(place);
            }
            let holder = &self.holders[place];
            if call.seq == holder.seq {
                return Err(holder.repeated(now));
            }
            if call.seq < holder.seq {
                let stale = denied(ask.bucket, Nanos(0));
                return Err(RateAnswer { status: Status::Stale, ..stale });
            }
            return Ok(place);
        }
        self.holders.retain(|holder| !holder.is_forgettable(now));
        if self.holders.len() >= HOLDERS_MAX {
            return Err(denied(ask.bucket, ALL_ON_LEASE_DENY));
        }
        self.holders.push(RateHolder {
            id: call.holder,
            ended: false,
            seq: 0,
            lease: 0,
            outstanding: 0,
            long: false,
            expires_at: Nanos(0),
            called_at: now,
            active_until: now,
            put_off_since: None,
            demand_per_s: 1,
            reply: denied(ask.bucket, Nanos(0)),
            replied_at: now,
        });
        Ok(self.holders.len() - 1)
    }

    fn place_of_holder(&self, id: u128) -> Option<usize> {
        self.holders.iter().position(|holder| holder.id == id && !holder.ended)
    }

    /// A changed plan. A decrease binds once what is on lease has lapsed: so it ends the leases,
    /// which could be renewed for ever; then it says so.
    fn configure(&mut self, ask: &RateAsk) -> bool {
        let (rate_per_s, burst) = plan_of(ask);
        if (rate_per_s, burst) == (self.rate_per_s, self.burst) {
            return false;
        }
        let is_cut = rate_per_s < self.rate_per_s || burst < self.burst;
        if is_cut {
            self.end_leases();
        }
        self.rate_per_s = rate_per_s;
        self.burst = burst;
        let room = i128::from(burst) - i128::from(self.outstanding);
        let least = -self.debt_max();
        let level = self.level.clamp(least, room.max(0) * TOKEN);
        let gained = level - self.level;
        self.audit.book(|books| {
            books.given += gained;
            books.burst = books.burst.max(burst);
        });
        self.level = level;
        is_cut
    }

    fn end_leases(&mut self) {
        for place in 0..self.holders.len() {
            let holder = &mut self.holders[place];
            if holder.outstanding > 0 && !holder.ended {
                let rest = RateHolder { ended: true, active_until: Nanos(0), ..holder.clone() };
                holder.outstanding = 0;
                holder.lease = 0;
                holder.long = false;
                self.holders.push(rest);
            }
        }
    }

    /// The caller's report, if it speaks of a lease that it has. What comes back of one from before
    /// a decrease is burned: there may be no room for it.
    fn settle(&mut self, id: u128, ask: &RateAsk) {
        let mut holders = self.holders.iter_mut();
        let Some(holder) = holders.find(|it| it.id == id && it.lease != 0 && it.lease == ask.lease)
        else {
            return;
        };
        let (used, returned) = match holder.ended {
            true => (ask.used.saturating_add(ask.returned), 0),
            false => (ask.used, ask.returned),
        };
        if self.audit.has(Planted::UnheardReports) {
            return;
        }
        let used = used.min(holder.outstanding);
        let returned = returned.min(holder.outstanding - used);
        holder.outstanding -= used + returned;
        if used > 0 {
            holder.put_off_since = None;
        }
        self.outstanding -= used + returned;
        self.level += i128::from(returned) * TOKEN;
        self.audit.book(|books| {
            books.used += used;
            books.returned += returned;
        });
    }

    fn debt_max(&self) -> i128 {
        let span = lease_span(self.rate_per_s, self.burst);
        i128::from(self.rate_per_s) * i128::from(span.0)
    }

    fn grant(&mut self, place: usize, ask: &RateAsk, span: Nanos) -> RateAnswer {
        let nothing = denied(ask.bucket, Nanos(0));
        let room = self.burst.saturating_sub(self.outstanding);
        if room == 0 {
            let one = Nanos::from_us(1_000_000 / self.rate_per_s);
            let deny_for = one.max(ALL_ON_LEASE_DENY).min(span);
            return RateAnswer { status: Status::AllOnLease, deny_for, ..nothing };
        }
        let before_it = self.put_off_before(place);
        if before_it >= room {
            // Whoever spends the only token would be the first to ask for the next one, for ever.
            return RateAnswer { deny_for: ALL_ON_LEASE_DENY, ..nothing };
        }
        let room = room - before_it;
        let count = self.active();
        let is_last = place > 0 && place + 1 == self.holders.len();
        if self.audit.has(Planted::LeftOut) && is_last {
            return RateAnswer { deny_for: ALL_ON_LEASE_DENY, ..nothing };
        }
        let whole = u64::try_from(self.level.div_euclid(TOKEN)).unwrap_or(0);
        let whole = whole.saturating_sub(before_it);
        let debt_max = self.debt_max();
        let ahead = (debt_max / TOKEN / i128::from(count)).max(1) as u64;
        // Sharing out the last few among several would take a call for each.
        if whole >= if count == 1 { 1 } else { ahead } {
            let granted = ask.want.min(self.share(place, whole, count)).min(room);
            return RateAnswer { status: Status::Done, granted, ..nothing };
        }
        let debt = -self.level;
        let rate = i128::from(self.rate_per_s).unsigned_abs();
        if debt > debt_max {
            return RateAnswer { deny_for: time_to_accrue(debt - debt_max, rate), ..nothing };
        }
        if i128::from(before_it) > (debt_max - debt) / TOKEN {
            return RateAnswer { deny_for: ALL_ON_LEASE_DENY, ..nothing };
        }
        let rate = if self.audit.has(Planted::OverGrant) { 2 * rate } else { rate };
        RateAnswer {
            status: Status::Done,
            granted: ask.want.min(ahead).min(room),
            not_before: time_to_accrue(TOKEN - self.level, rate),
            spacing: Nanos((u128::from(count) * TOKEN.unsigned_abs()).div_ceil(rate) as u64),
            ..nothing
        }
    }

    /// Holders that want tokens lately.
    fn active(&self) -> u64 {
        let active = self.holders.iter().filter(|holder| holder.active_until > self.last);
        (active.count() as u64).max(1)
    }

    /// Holders that have waited for longer than this one, want tokens and have none.
    fn put_off_before(&self, place: usize) -> u64 {
        let since = self.holders[place].put_off_since.unwrap_or(self.last);
        let others = self.holders.iter();
        let others = others.filter(|it| it.active_until > self.last && it.outstanding == 0);
        others.filter(|holder| holder.put_off_since.is_some_and(|at| at < since)).count() as u64
    }

    /// The caller's part of the whole tokens that are left.
    fn share(&self, place: usize, whole: u64, count: u64) -> u64 {
        if count == 1 {
            return whole;
        }
        let demand = u128::from(self.demand());
        let mine = u128::from(self.holders[place].demand_per_s);
        let by_demand = u128::from(whole) * mine / demand.max(1);
        (by_demand as u64).max(whole / (2 * count)).max(1)
    }

    /// Books the answer's tokens on the caller's lease and keeps the answer.
    fn lease_out(&mut self, place: usize, answer: &mut RateAnswer, ttl: Nanos) {
        let now = self.last;
        let ttl = if answer.long && answer.granted > 0 { ttl.max(LONG_LEASE) } else { ttl };
        let active = self.active();
        self.level -= i128::from(answer.granted) * TOKEN;
        self.outstanding += answer.granted;
        self.audit.book(|books| books.granted += answer.granted);
        let holder = &mut self.holders[place];
        if holder.outstanding == 0 {
            // One that holds nothing ends here, and not when it would have lapsed.
            holder.lease = 0;
        }
        holder.outstanding += answer.granted;
        if holder.outstanding > 0 {
            if holder.lease == 0 {
                // By the clock, so that a bucket which was forgotten repeats no lease's number.
                self.last_lease = now.us().max(self.last_lease + 1);
                holder.lease = self.last_lease;
                holder.expires_at = Nanos(0);
            }
            // The lease outlives its last token's slot by all that the clocks may differ.
            let slots = answer.spacing.0.saturating_mul(answer.granted.saturating_sub(1));
            let last_slot = answer.not_before.after(Nanos(slots)).0.div_ceil(1_000);
            let margin = Nanos::from_us(last_slot / 32);
            let expires_at = now.after(ttl).after(Nanos::from_us(last_slot)).after(margin);
            holder.expires_at = holder.expires_at.max(expires_at);
            answer.lease = holder.lease;
            answer.ttl = holder.expires_at.since(now);
        }
        answer.left =
            self.level.div_euclid(TOKEN).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        answer.holders = active;
        holder.reply = *answer;
        holder.replied_at = now;
    }

    /// Is it as if it had never been seen?
    pub(super) fn is_forgettable(&mut self, now: Nanos) -> bool {
        self.advance(now);
        let now = self.last;
        !self.revoked
            && self.outstanding == 0
            && self.level == i128::from(self.burst) * TOKEN
            && self.holders.iter().all(|holder| holder.is_forgettable(now))
    }
}

/// What the simulation looks at.
#[cfg(test)]
impl Bucket {
    pub(super) fn probe(&mut self, now: Nanos) -> Books {
        self.advance(now);
        Books { level: self.level, outstanding: self.outstanding, ..self.audit.books }
    }

    pub(super) fn probe_holder(&self, id: u128, now: Nanos) -> u64 {
        let live = self.holders.iter().filter(|holder| holder.expires_at > now.max(self.last));
        live.filter(|holder| holder.id == id).map(|holder| holder.outstanding).sum()
    }
}

impl RateHolder {
    /// The kept answer with its durations as they are now.
    fn repeated(&self, now: Nanos) -> RateAnswer {
        let age = now.since(self.replied_at);
        RateAnswer {
            not_before: self.reply.not_before.since(age),
            ttl: self.reply.ttl.since(age),
            deny_for: self.reply.deny_for.since(age),
            ..self.reply
        }
    }

    fn is_forgettable(&self, now: Nanos) -> bool {
        self.outstanding == 0 && now >= self.called_at.after(HOLDER_MEMORY)
    }
}
