//! One consumer's month at the authority: what is spent, and who holds how much of the rest.
//!
//! A lease of a month never lapses: a holder that died keeps what it held until the ledger is
//! read again. What no grant covers is counted as consumed and lessens what is left.

#[cfg(test)]
use super::Planted;
use super::{HOLDER_MEMORY, QUOTA_MEMORY};
use crate::lease::{LeaseCall, QuotaAnswer, QuotaAsk, Status};
use crate::limits::{AUTHORITY_TOKENS_MAX, HOLDERS_MAX};
use crate::units::Nanos;

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct ConsumerMonth {
    /// When the authority that it belongs to was opened.
    pub(super) open_at: Option<Nanos>,
    pub(super) seeded: bool,
    pub(super) limit: u64,
    pub(super) consumed: u64,
    pub(super) called_at: Nanos,
    pub(super) holders: Vec<QuotaHolder>,
    #[cfg(test)]
    pub planted: Planted,
    #[cfg(test)]
    pub granted: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct QuotaHolder {
    pub(super) id: u128,
    pub(super) seq: u64,
    /// On lease by the holder's last report, and what was granted then.
    pub(super) balance: u64,
    pub(super) called_at: Nanos,
    pub(super) reply: QuotaAnswer,
}

/// An answer that grants nothing.
pub(super) fn refused(ask: &QuotaAsk, status: Status) -> QuotaAnswer {
    QuotaAnswer { consumer: ask.consumer, period: ask.period, status, granted: 0, left: 0 }
}

impl ConsumerMonth {
    pub(super) fn new(open_at: Option<Nanos>) -> Self {
        Self { open_at, ..Self::default() }
    }

    /// Is it from before a loss of memory?
    pub(super) fn is_lost(&self, open_at: Option<Nanos>) -> bool {
        self.open_at != open_at
    }

    pub(super) fn seed(&mut self, consumed_tokens: u64) {
        if !self.seeded {
            self.seeded = true;
            self.consumed = consumed_tokens.min(AUTHORITY_TOKENS_MAX);
        }
    }

    /// Does the call. `recalled` is told which holders are to give back what they have free.
    pub(super) fn call(
        &mut self,
        call: &LeaseCall,
        ask: &QuotaAsk,
        now: Nanos,
        recalled: impl FnMut(u128),
    ) -> QuotaAnswer {
        self.called_at = self.called_at.max(now);
        let now = self.called_at;
        if !self.seeded {
            return refused(ask, Status::NeedSeed);
        }
        let place = match self.place_of(call, ask, now) {
            Ok(place) => place,
            Err(answer) => return answer,
        };
        if let Some(limit) = ask.limit {
            self.limit = limit.min(AUTHORITY_TOKENS_MAX);
        }
        let holder = &mut self.holders[place];
        holder.seq = call.seq;
        holder.called_at = now;
        holder.balance = ask.held.min(AUTHORITY_TOKENS_MAX);
        self.consumed = self.consumed.saturating_add(ask.consumed).min(AUTHORITY_TOKENS_MAX);
        let granted = self.grant(ask);
        if granted < ask.need && !self.grants_parts() {
            let others = self.holders.iter().filter(|it| it.id != call.holder && it.balance > 0);
            others.map(|holder| holder.id).for_each(recalled);
        }
        #[cfg(test)]
        {
            self.granted = self.granted.saturating_add(granted);
        }
        let holder = &mut self.holders[place];
        holder.balance = holder.balance.saturating_add(granted).min(AUTHORITY_TOKENS_MAX);
        let left = self.left();
        let answer = QuotaAnswer { granted, left, ..refused(ask, Status::Done) };
        self.holders[place].reply = answer;
        answer
    }

    fn place_of(
        &mut self,
        call: &LeaseCall,
        ask: &QuotaAsk,
        now: Nanos,
    ) -> Result<usize, QuotaAnswer> {
        if let Some(place) = self.holders.iter().position(|holder| holder.id == call.holder) {
            #[cfg(test)]
            if self.planted == Planted::NoDedupe {
                return Ok(place);
            }
            let holder = &self.holders[place];
            if call.seq == holder.seq {
                return Err(holder.reply);
            }
            if call.seq < holder.seq {
                return Err(refused(ask, Status::Stale));
            }
            return Ok(place);
        }
        self.holders
            .retain(|holder| holder.balance != 0 || now < holder.called_at.after(HOLDER_MEMORY));
        if self.holders.len() >= HOLDERS_MAX {
            return Err(refused(ask, Status::Denied));
        }
        let reply = refused(ask, Status::Done);
        let holder = QuotaHolder { id: call.holder, seq: 0, balance: 0, called_at: now, reply };
        self.holders.push(holder);
        Ok(self.holders.len() - 1)
    }

    /// Half of an even share while there is plenty; near the end no more than is needed, and
    /// nothing that would be of no use: of two who hold a part each neither is served.
    fn grant(&self, ask: &QuotaAsk) -> u64 {
        let left = self.left();
        let plenty =
            if left > self.limit / 50 { left / (2 * self.holders.len().max(1) as u64) } else { 0 };
        let granted = ask.want.min(plenty).max(ask.need).min(left);
        if granted < ask.least && !self.grants_parts() { 0 } else { granted }
    }

    #[cfg(test)]
    fn grants_parts(&self) -> bool {
        self.planted == Planted::PartsOfCalls
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "nothing is planted outside of tests")]
    const fn grants_parts(&self) -> bool {
        false
    }

    /// Tokens neither spent nor on lease.
    fn left(&self) -> u64 {
        #[cfg(test)]
        if self.planted == Planted::LeasedTwice {
            return self.limit.saturating_sub(self.consumed);
        }
        let balances = self.holders.iter().map(|holder| holder.balance);
        let on_lease = balances.fold(0, u64::saturating_add).min(AUTHORITY_TOKENS_MAX);
        self.limit.saturating_sub(self.consumed).saturating_sub(on_lease)
    }

    pub(super) fn is_forgettable(&self, now: Nanos) -> bool {
        now >= self.called_at.after(QUOTA_MEMORY)
            && self.holders.iter().all(|holder| holder.balance == 0)
    }

    /// Limit, consumed, on lease.
    #[cfg(test)]
    pub(super) fn probe(&self) -> (u64, u64, u64) {
        let on_lease = self.holders.iter().map(|holder| holder.balance).sum();
        (self.limit, self.consumed, on_lease)
    }
}
