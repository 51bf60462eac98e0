//! One consumer's month at the authority: what is spent, and who holds how much of the rest.
//!
//! A lease of a month never lapses: a holder that died keeps what it held until the ledger is
//! read again. What no grant covers is counted as consumed and lessens what is left.

#[cfg(test)]
use super::Planted;
use super::{HOLDER_MEMORY, QUOTA_MEMORY};
use crate::lease::{LeaseCall, QuotaAnswer, QuotaAsk, Status};
use crate::limits::HOLDERS_MAX;
use crate::units::Nanos;

#[derive(Debug, Default)]
pub struct ConsumerMonth {
    seeded: bool,
    limit: u64,
    consumed: u64,
    called_at: Nanos,
    holders: Vec<QuotaHolder>,
    #[cfg(test)]
    pub planted: Planted,
    #[cfg(test)]
    pub granted: u64,
}

#[derive(Debug)]
struct QuotaHolder {
    id: u128,
    seq: u64,
    /// Granted, not returned, not consumed.
    balance: u64,
    called_at: Nanos,
    reply: QuotaAnswer,
}

/// An answer that grants nothing.
pub fn refused(ask: &QuotaAsk, status: Status) -> QuotaAnswer {
    QuotaAnswer { consumer: ask.consumer, period: ask.period, status, granted: 0, left: 0 }
}

impl ConsumerMonth {
    pub fn seed(&mut self, consumed_tokens: u64) {
        if !self.seeded {
            self.seeded = true;
            self.consumed = consumed_tokens;
        }
    }

    pub fn call(&mut self, call: &LeaseCall, ask: &QuotaAsk, now: Nanos) -> QuotaAnswer {
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
            self.limit = limit;
        }
        let holder = &mut self.holders[place];
        holder.seq = call.seq;
        holder.called_at = now;
        let gone = ask.consumed.saturating_sub(ask.overrun).saturating_add(ask.returned);
        holder.balance = holder.balance.saturating_sub(gone);
        self.consumed = self.consumed.saturating_add(ask.consumed);
        let granted = self.grant(ask);
        #[cfg(test)]
        {
            self.granted = self.granted.saturating_add(granted);
        }
        let holder = &mut self.holders[place];
        holder.balance = holder.balance.saturating_add(granted);
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

    /// Half of an even share while there is plenty; near the end no more than is needed.
    fn grant(&self, ask: &QuotaAsk) -> u64 {
        let left = self.left();
        let plenty =
            if left > self.limit / 50 { left / (2 * self.holders.len().max(1) as u64) } else { 0 };
        ask.want.min(plenty).max(ask.need).min(left)
    }

    /// Tokens neither spent nor on lease.
    fn left(&self) -> u64 {
        let balances = self.holders.iter().map(|holder| holder.balance);
        let on_lease = balances.fold(0, u64::saturating_add);
        self.limit.saturating_sub(self.consumed).saturating_sub(on_lease)
    }

    pub fn is_forgettable(&self, now: Nanos) -> bool {
        now >= self.called_at.after(QUOTA_MEMORY)
            && self.holders.iter().all(|holder| holder.balance == 0)
    }

    /// Limit, consumed, on lease.
    #[cfg(test)]
    pub fn probe(&self) -> (u64, u64, u64) {
        let on_lease = self.holders.iter().map(|holder| holder.balance).sum();
        (self.limit, self.consumed, on_lease)
    }
}
