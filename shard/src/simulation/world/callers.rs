//! The callers: each with one key on one shard, one call at a time.

use super::*;

impl World {
    pub(super) fn try_call(
        &mut self,
        caller: usize,
        retry: bool,
        ticket: u64,
    ) -> Result<(), String> {
        let who = self.scenario.callers[caller];
        let state = &mut self.callers[caller];
        if ticket != state.ticket || retry != state.parked {
            return Ok(());
        }
        let Plan { rate_per_s, burst, .. } = self.plans[who.budget];
        if self.measuring && !retry {
            self.calm_ideal[who.budget].request(rate_per_s, burst, self.now);
        }
        let (tokens, strict) = (who.tokens, self.scenario.budgets[who.budget].strict);
        let (bucket, consumer) = (BucketId(who.budget as u64), ConsumerId(who.budget as u64));
        let now = self.local(who.instance);
        let plan = who.budget as u32;
        let instance = &mut self.instances[who.instance];
        let shard = &mut instance.shards[who.shard];
        let reserve = shard.quotas.check(consumer, plan, PERIOD, tokens, strict, now);
        let state = &mut self.callers[caller];
        let (mut deny_for, mut admitted) = (None, None);
        match reserve {
            Reserve::Wait => {}
            Reserve::Exhausted | Reserve::NoRoom => {
                self.totals.exhausted += 1;
                deny_for = Some(Nanos::from_ms(20));
            }
            Reserve::Reserved { tokens } => {
                let counted = core::mem::replace(&mut state.counted, true);
                match shard.buckets.take(bucket, plan, rate_per_s, burst, counted, now) {
                    Take::Taken => {
                        shard.quotas.reserve(consumer, PERIOD, tokens);
                        admitted = Some(tokens);
                    }
                    Take::Wait => {}
                    Take::Denied { retry_after } => deny_for = Some(retry_after),
                }
            }
        }
        if deny_for.is_none() && admitted.is_none() {
            // The second time around it has waited for as long as a request may.
            let first = !core::mem::replace(&mut state.parked, true);
            if first {
                state.ticket += 1;
                let ticket = state.ticket;
                shard.parked.push(caller);
                self.at(self.now.after(PARK), Event::Try { caller, retry: true, ticket });
                return Ok(());
            }
            if !retry || shard.parked.contains(&caller) {
                return Ok(());
            }
            deny_for = Some(Nanos(0));
        }
        if let Some(tokens) = admitted {
            self.admit(caller, tokens)?;
        } else {
            self.totals.denied += 1;
            self.totals.calm_denied += u64::from(self.measuring);
        }
        self.next_call(caller, deny_for.unwrap_or_default());
        Ok(())
    }

    pub(super) fn next_call(&mut self, caller: usize, deny_for: Nanos) {
        let who = self.scenario.callers[caller];
        let shard = &mut self.instances[who.instance].shards[who.shard];
        shard.parked.retain(|parked| *parked != caller);
        let state = &mut self.callers[caller];
        *state = CallerState { ticket: state.ticket + 1, ..CallerState::default() };
        let ticket = state.ticket;
        let mut wait = Nanos(self.random.within(who.think.0 / 2, who.think.0 * 3 / 2));
        if who.patient {
            wait = wait.max(deny_for.after(Nanos(1_000)));
        }
        if let (true, Some(pace)) = (self.calm, self.scenario.pace) {
            wait = Nanos(self.random.within(pace.0 * 9 / 10, pace.0 * 11 / 10));
        } else if self.calm {
            // Everybody wants more than there is, so that what there is must be used.
            let terms = &self.plans[who.budget];
            let callers = self.scenario.callers.iter().filter(|c| c.budget == who.budget).count();
            let pace = callers as u64 * 500_000_000 / terms.rate_per_s;
            let most = pace.clamp(100_000, 20_000_000);
            wait = Nanos(self.random.within(most / 4, most));
        } else if self.now < self.scenario.quiet_until {
            wait = Nanos(wait.0 * 20).min(Nanos::from_s(1));
        } else if who.in_bursts && self.random.chance(3) {
            wait = wait.after(Nanos(self.random.within(0, 800_000_000)));
        }
        self.at(self.now.after(wait), Event::Try { caller, retry: false, ticket });
    }

    pub(super) fn admit(&mut self, caller: usize, reserved: u64) -> Result<(), String> {
        let who = self.scenario.callers[caller];
        let budget = who.budget;
        self.totals.admitted += 1;
        let ideal = self.ideals[budget].admit(self.now);
        if !self.blind {
            ideal?;
        }
        if self.revoked_from[budget].is_some_and(|from| self.now > from) {
            return Err(format!("revoked: budget {budget} was spent after its last lease"));
        }
        if self.measuring {
            self.calm_admitted[budget] += 1;
            self.check_served(budget, who.instance)?;
            self.served_at[budget][who.instance] = self.now;
        }
        let instance = &mut self.instances[who.instance];
        instance.reserved[budget] += reserved;
        self.months[budget].reserved += reserved;
        self.months[budget].check()?;
        let strict = self.scenario.budgets[budget].strict;
        let most = if strict { reserved } else { reserved * 5 / 4 };
        let actual = self.random.within(0, most);
        let life = self.instances[who.instance].life;
        let at = self.now.after(Nanos(self.random.within(0, 60_000_000)));
        let (instance, shard) = (who.instance, who.shard);
        self.at(at, Event::Settle { instance, life, shard, budget, reserved, actual });
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        instance: usize,
        life: u64,
        shard: usize,
        budget: usize,
        reserved: u64,
        actual: u64,
    ) -> Result<(), String> {
        if self.instances[instance].life != life {
            return Ok(());
        }
        let now = self.local(instance);
        let month = &mut self.months[budget];
        month.reserved -= reserved;
        month.consumed += actual;
        month.overrun += actual.saturating_sub(reserved);
        month.check()?;
        let instance = &mut self.instances[instance];
        instance.reserved[budget] -= reserved;
        let consumer = ConsumerId(budget as u64);
        instance.shards[shard].quotas.settle(consumer, PERIOD, reserved, actual, now);
        Ok(())
    }

    pub(super) fn retry_parked(
        &mut self,
        instance: usize,
        shard: usize,
        budget: u64,
    ) -> Result<(), String> {
        let parked = self.instances[instance].shards[shard].parked.clone();
        for caller in parked {
            if self.scenario.callers[caller].budget as u64 == budget {
                self.try_call(caller, true, self.callers[caller].ticket)?;
            }
        }
        Ok(())
    }
}
