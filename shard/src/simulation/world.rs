//! The scheduler: true time, everybody's clock, the network and the callers of one history.

use super::oracle::{Ideal, Month, Totals, lease_max};
use super::scenario::{Random, Scenario};
use crate::authority::{Authority, AuthorityConfig, LeaseCall, LeaseReply, Planted};
use crate::bucket::{Buckets, Take};
use crate::catalog::Plan;
use crate::lease::{Ask, PARK};
use crate::message::{QuotaWant, RateWant, ToShard};
use crate::pool::{Pool, PoolConfig};
use crate::quota::{Quotas, Reserve};
use crate::units::{BucketId, ConsumerId, Nanos, Period, PlanId};
use std::collections::{BTreeMap, BTreeSet};

const PERIOD: Period = Period(202_611);
const EVENTS_MAX: u64 = 2_000_000;

#[derive(Debug)]
enum Event {
    /// A caller calls, or a parked call tries again.
    Try {
        caller: usize,
        retry: bool,
        ticket: u64,
    },
    Settle {
        instance: usize,
        life: u64,
        shard: usize,
        budget: usize,
        reserved: u64,
        actual: u64,
    },
    ToPool {
        instance: usize,
        life: u64,
        word: Word,
    },
    ToShard {
        instance: usize,
        life: u64,
        shard: usize,
        message: ToShard,
    },
    Call {
        instance: usize,
        call: LeaseCall,
    },
    Reply {
        instance: usize,
        reply: LeaseReply,
    },
    Wake {
        instance: usize,
        life: u64,
    },
    Fault,
    Change {
        budget: usize,
    },
    Revoke {
        budget: usize,
    },
    Calm,
    Measure,
}

#[derive(Debug)]
enum Word {
    Rate(RateWant),
    Quota(QuotaWant),
}

struct Shard {
    buckets: Buckets,
    quotas: Quotas,
    parked: Vec<usize>,
    /// FIFO channels: nothing arrives before what was sent earlier.
    to_pool_at: Nanos,
    from_pool_at: Nanos,
}

struct Instance {
    life: u64,
    pool: Pool,
    shards: Vec<Shard>,
    drift_ppm: i64,
    offset: u64,
    stopped_until: Nanos,
    cut_until: Nanos,
    wake_at: Nanos,
    reserved: Vec<u64>,
}

#[derive(Clone, Copy, Default)]
struct CallerState {
    ticket: u64,
    counted: bool,
    parked: bool,
}

pub struct World {
    scenario: Scenario,
    planted: Planted,
    random: Random,
    now: Nanos,
    events: BTreeMap<(Nanos, u64), Event>,
    next_event: u64,
    authority: Authority,
    /// Does the same calls, and looks at its buckets at every moment in between.
    watched: Authority,
    authority_drift_ppm: i64,
    authority_stepped: i64,
    instances: Vec<Instance>,
    callers: Vec<CallerState>,
    plans: Vec<Plan>,
    ideals: Vec<Ideal>,
    months: Vec<Month>,
    revoked_from: Vec<Option<Nanos>>,
    lease_max: Vec<Nanos>,
    debited: BTreeSet<(u128, u64)>,
    calm: bool,
    measuring: bool,
    calm_admitted: Vec<u64>,
    calm_calls: u64,
    totals: Totals,
}

impl World {
    pub fn new(seed: u64, scenario: Scenario, planted: Planted) -> Self {
        let mut random = Random::new(seed ^ 0xabcd_ef01);
        let config = AuthorityConfig { rtt: scenario.rtt };
        let drift_ppm = scenario.drift_ppm;
        let drift = |random: &mut Random| random.within(0, 2 * drift_ppm) as i64 - drift_ppm as i64;
        let plans: Vec<Plan> = scenario
            .budgets
            .iter()
            .enumerate()
            .map(|(index, budget)| Plan {
                id: PlanId(index as u64),
                name: "plan".into(),
                rate_per_s: budget.rate_per_s,
                burst: budget.burst,
                quota_tokens: budget.quota_tokens,
                when_lost: None,
            })
            .collect();
        let ideals = plans
            .iter()
            .map(|plan| Ideal::new(plan.rate_per_s, plan.burst, scenario.drift_ppm))
            .collect();
        let months = plans
            .iter()
            .map(|plan| Month { limit: plan.quota_tokens, ..Month::default() })
            .collect();
        let lease_max =
            plans.iter().map(|plan| lease_max(plan.rate_per_s, plan.burst, scenario.rtt)).collect();
        let mut world = Self {
            authority_drift_ppm: drift(&mut random),
            now: Nanos(0),
            events: BTreeMap::new(),
            next_event: 0,
            authority: Authority::new(config),
            watched: Authority::new(config),
            authority_stepped: 0,
            instances: Vec::new(),
            callers: vec![CallerState::default(); scenario.callers.len()],
            ideals,
            months,
            revoked_from: vec![None; plans.len()],
            lease_max,
            debited: BTreeSet::new(),
            calm: false,
            measuring: false,
            calm_admitted: vec![0; plans.len()],
            calm_calls: 0,
            totals: Totals::default(),
            plans,
            planted,
            random,
            scenario,
        };
        world.authority.planted = planted;
        world.watched.planted = planted;
        for index in 0..world.scenario.shards.len() {
            let drift_ppm = drift(&mut world.random);
            let fresh = world.instance(index, 1, drift_ppm);
            world.instances.push(fresh);
        }
        world.plan_events();
        world
    }

    fn plan_events(&mut self) {
        let faults_for = self.scenario.faults_for;
        for caller in 0..self.callers.len() {
            let at = Nanos(self.random.within(0, 200_000_000));
            self.at(at, Event::Try { caller, retry: false, ticket: 0 });
        }
        let mut at = Nanos(0);
        while at < faults_for {
            at = at.after(Nanos(self.random.within(5_000_000, 150_000_000)));
            self.at(at, Event::Fault);
        }
        let budgets = self.plans.len() as u64;
        if self.scenario.changes_plan {
            let at = Nanos(self.random.within(0, faults_for.0));
            let budget = self.random.within(0, budgets - 1) as usize;
            self.at(at, Event::Change { budget });
        }
        if self.scenario.revokes {
            let at = Nanos(self.random.within(0, faults_for.0));
            let budget = self.random.within(0, budgets - 1) as usize;
            self.at(at, Event::Revoke { budget });
        }
        self.at(faults_for, Event::Calm);
    }

    fn instance(&mut self, index: usize, life: u64, drift_ppm: i64) -> Instance {
        let shards = self.scenario.shards[index];
        let mut pool = Pool::new(PoolConfig {
            holder: u128::from(life) << 64 | index as u128,
            shards,
            rtt: self.scenario.rtt,
            call_gap: self.scenario.call_gap,
        });
        pool.planted = self.planted;
        let shards = (0..shards).map(|shard| Shard {
            buckets: Buckets::new(shard),
            quotas: Quotas::new(shard),
            parked: Vec::new(),
            to_pool_at: Nanos(0),
            from_pool_at: Nanos(0),
        });
        Instance {
            life,
            pool,
            shards: shards.collect(),
            drift_ppm,
            offset: self.random.within(0, 1 << 40),
            stopped_until: Nanos(0),
            cut_until: Nanos(0),
            wake_at: Nanos(u64::MAX),
            reserved: vec![0; self.plans.len()],
        }
    }

    pub fn run(mut self) -> Result<Totals, String> {
        let mut done = 0;
        while let Some(((at, _), event)) = self.events.pop_first() {
            done += 1;
            if done > EVENTS_MAX {
                return Err(format!(
                    "still busy after {EVENTS_MAX} events at {at:?}, in {event:?}"
                ));
            }
            self.now = at;
            if matches!(event, Event::Measure) {
                if self.measuring {
                    self.judge_calm()?;
                    return Ok(self.totals);
                }
                self.measuring = true;
                let calm_for = self.scenario.calm_for;
                self.at(at.after(calm_for), Event::Measure);
                continue;
            }
            self.step(event)?;
        }
        Err("the callers went silent".into())
    }

    fn at(&mut self, at: Nanos, event: Event) {
        self.events.insert((at.max(self.now), self.next_event), event);
        self.next_event += 1;
    }

    fn local(&self, instance: usize) -> Nanos {
        let Instance { drift_ppm, offset, .. } = self.instances[instance];
        let drift = self.now.0 as i64 * drift_ppm / 1_000_000;
        Nanos((self.now.0 + offset).saturating_add_signed(drift))
    }

    /// The authority's clock, which may be stepped.
    fn authority_now(&self) -> Nanos {
        let drift = self.now.0 as i64 * self.authority_drift_ppm / 1_000_000;
        let base = self.now.0 + (1 << 41);
        Nanos(base.saturating_add_signed(drift).saturating_add_signed(self.authority_stepped))
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let instance = match &event {
            Event::Try { caller, .. } => Some(self.scenario.callers[*caller].instance),
            Event::Settle { instance, .. }
            | Event::ToPool { instance, .. }
            | Event::ToShard { instance, .. }
            | Event::Reply { instance, .. }
            | Event::Wake { instance, .. } => Some(*instance),
            _ => None,
        };
        if let Some(instance) = instance {
            let stopped_until = self.instances[instance].stopped_until;
            if stopped_until > self.now {
                self.at(stopped_until, event);
                return Ok(());
            }
        }
        match event {
            Event::Try { caller, retry, ticket } => self.try_call(caller, retry, ticket)?,
            Event::Settle { instance, life, shard, budget, reserved, actual } => {
                self.settle(instance, life, shard, budget, reserved, actual)?;
            }
            Event::ToPool { instance, life, word } => self.to_pool(instance, life, word)?,
            Event::ToShard { instance, life, shard, message } => {
                self.to_shard(instance, life, shard, message)?;
            }
            Event::Call { instance, call } => self.call(instance, call)?,
            Event::Reply { instance, reply } => {
                let now = self.local(instance);
                self.instances[instance].pool.on_reply(reply, now);
            }
            Event::Wake { instance, life } => self.wake(instance, life)?,
            Event::Fault => self.fault(),
            Event::Change { budget } => self.change(budget),
            Event::Revoke { budget } => self.revoke(budget),
            Event::Calm => self.calm_down(),
            Event::Measure => {}
        }
        if let Some(instance) = instance {
            self.flush(instance)?;
        }
        Ok(())
    }

    fn try_call(&mut self, caller: usize, retry: bool, ticket: u64) -> Result<(), String> {
        let who = self.scenario.callers[caller];
        let state = &mut self.callers[caller];
        if ticket != state.ticket || retry != state.parked {
            return Ok(());
        }
        let Plan { rate_per_s, burst, .. } = self.plans[who.budget];
        let terms = &self.scenario.budgets[who.budget];
        let (tokens, strict) = (terms.tokens_per_call, terms.strict);
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
            Reserve::Exhausted => {
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
        }
        self.next_call(caller, deny_for.unwrap_or_default());
        Ok(())
    }

    fn next_call(&mut self, caller: usize, deny_for: Nanos) {
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
        if self.calm {
            // Everybody wants more than there is, so that what there is must be used.
            let terms = &self.plans[who.budget];
            let callers = self.scenario.callers.iter().filter(|c| c.budget == who.budget).count();
            let pace = callers as u64 * 500_000_000 / terms.rate_per_s;
            wait = Nanos(self.random.within(pace / 4, pace).clamp(50_000, 20_000_000));
        } else if who.in_bursts && self.random.chance(3) {
            wait = wait.after(Nanos(self.random.within(0, 800_000_000)));
        }
        self.at(self.now.after(wait), Event::Try { caller, retry: false, ticket });
    }

    fn admit(&mut self, caller: usize, reserved: u64) -> Result<(), String> {
        let who = self.scenario.callers[caller];
        let budget = who.budget;
        self.totals.admitted += 1;
        self.ideals[budget].admit(self.now)?;
        if self.revoked_from[budget].is_some_and(|from| self.now > from) {
            return Err(format!("budget {budget} spent after its lease was revoked"));
        }
        if self.measuring {
            self.calm_admitted[budget] += 1;
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

    fn settle(
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

    fn to_pool(&mut self, instance: usize, life: u64, word: Word) -> Result<(), String> {
        let now = self.local(instance);
        if self.instances[instance].life != life {
            return Ok(());
        }
        self.totals.words += 1;
        let pool = &mut self.instances[instance].pool;
        match word {
            Word::Rate(want) => pool.on_rate(want, &self.plans[want.plan as usize], now),
            Word::Quota(want) => pool.on_quota(want, &self.plans[want.plan as usize], now),
        }
        Ok(())
    }

    fn to_shard(
        &mut self,
        instance: usize,
        life: u64,
        shard: usize,
        message: ToShard,
    ) -> Result<(), String> {
        let now = self.local(instance);
        if self.instances[instance].life != life {
            return Ok(());
        }
        let state = &mut self.instances[instance].shards[shard];
        match message {
            ToShard::Rate(grant) => state.buckets.on_grant(grant, now),
            ToShard::Quota(grant) => {
                state.quotas.on_grant(grant, now);
                self.retry_parked(instance, shard, grant.consumer.0)?;
            }
            ToShard::RecallQuota { consumer, period } => {
                state.quotas.on_recall(consumer, period, now);
            }
            _ => {}
        }
        Ok(())
    }

    fn retry_parked(&mut self, instance: usize, shard: usize, budget: u64) -> Result<(), String> {
        let parked = self.instances[instance].shards[shard].parked.clone();
        for caller in parked {
            if self.scenario.callers[caller].budget as u64 == budget {
                self.try_call(caller, true, self.callers[caller].ticket)?;
            }
        }
        Ok(())
    }

    fn wake(&mut self, instance: usize, life: u64) -> Result<(), String> {
        let now = self.local(instance);
        let state = &mut self.instances[instance];
        if state.life != life || self.now < state.wake_at {
            return Ok(());
        }
        state.wake_at = Nanos(u64::MAX);
        state.pool.on_timeout(now);
        for shard in &mut state.shards {
            shard.buckets.on_timeout(now);
            shard.quotas.on_timeout(now);
        }
        self.check_on_lease(instance)
    }

    /// Carries everything that an instance has to say, and sets its alarm.
    fn flush(&mut self, instance: usize) -> Result<(), String> {
        for shard in 0..self.instances[instance].shards.len() {
            while let Some(bucket) = self.instances[instance].shards[shard].buckets.poll_ready() {
                self.retry_parked(instance, shard, bucket.0)?;
            }
        }
        let now = self.local(instance);
        let life = self.instances[instance].life;
        for shard in 0..self.instances[instance].shards.len() {
            loop {
                let state = &mut self.instances[instance].shards[shard];
                let word = match state.buckets.poll_want() {
                    Some(want) => Word::Rate(want),
                    None => match state.quotas.poll_want() {
                        Some(want) => Word::Quota(want),
                        None => break,
                    },
                };
                let at = self.now.after(Nanos(self.random.within(1_000, 100_000)));
                let state = &mut self.instances[instance].shards[shard];
                state.to_pool_at = state.to_pool_at.max(at);
                let at = state.to_pool_at;
                self.at(at, Event::ToPool { instance, life, word });
            }
        }
        while let Some(call) = self.instances[instance].pool.poll_call(now) {
            self.totals.calls += 1;
            self.calm_calls += u64::from(self.measuring && matches!(call.ask, Ask::Rate(_)));
            if self.scenario.rtt == Nanos(0) {
                self.call(instance, call)?;
            } else {
                self.send(instance, |call| Event::Call { instance, call }, call);
            }
        }
        while let Some((shard, message)) = self.instances[instance].pool.poll_shard() {
            let at = self.now.after(Nanos(self.random.within(1_000, 100_000)));
            let shard = usize::from(shard);
            let state = &mut self.instances[instance].shards[shard];
            state.from_pool_at = state.from_pool_at.max(at);
            let at = state.from_pool_at;
            self.at(at, Event::ToShard { instance, life, shard, message });
        }
        self.set_alarm(instance);
        Ok(())
    }

    fn set_alarm(&mut self, instance: usize) {
        let state = &self.instances[instance];
        let shards = state.shards.iter();
        let due = shards
            .flat_map(|shard| [shard.buckets.poll_timeout(), shard.quotas.poll_timeout()])
            .chain([state.pool.poll_timeout()])
            .flatten()
            .min();
        let Some(due) = due else { return };
        // Timers of real event loops are late rather than early.
        let wait = due.since(self.local(instance)).0;
        let late = self.random.within(1_000, 1_000_000);
        let at = self.now.after(Nanos(wait + wait / 200 + late));
        let state = &mut self.instances[instance];
        if at < state.wake_at {
            state.wake_at = at;
            let life = state.life;
            self.at(at, Event::Wake { instance, life });
        }
    }

    /// The network: each way half of the round trip, or worse.
    fn send<T: Copy>(&mut self, instance: usize, event: impl Fn(T) -> Event, message: T) {
        let mut copies = 1;
        if !self.calm {
            if self.instances[instance].cut_until > self.now {
                return;
            }
            if self.random.chance(self.scenario.drop_percent) {
                copies -= 1;
            }
            if self.random.chance(self.scenario.repeat_percent) {
                copies += 1;
            }
        }
        for _ in 0..copies {
            let half = self.scenario.rtt.0 / 2;
            let mut delay = Nanos(self.random.within(half / 2, half));
            if !self.calm && self.random.chance(self.scenario.delay_percent) {
                delay = Nanos(self.random.within(delay.0, delay.0 + self.scenario.delay_max.0));
            }
            self.at(self.now.after(delay), event(message));
        }
    }

    fn call(&mut self, instance: usize, call: LeaseCall) -> Result<(), String> {
        let now = self.authority_now();
        let before = self.debits(&call);
        let mut reply = self.authority.call(&call, now);
        self.watched.call(&call, now);
        if let Ask::Quota(ask) = &call.ask {
            // Control reads the ledger, which is empty, and calls again.
            self.authority.seed_quota(ask.consumer, ask.period, 0);
            self.watched.seed_quota(ask.consumer, ask.period, 0);
            reply = self.authority.call(&call, now);
            self.watched.call(&call, now);
        }
        if self.debits(&call) > before && !self.debited.insert((call.holder, call.seq)) {
            return Err(format!("dedupe: call {} of {} debited twice", call.seq, call.holder));
        }
        self.check_authority(now)?;
        for other in 0..self.instances.len() {
            self.check_on_lease(other)?;
        }
        if self.scenario.rtt == Nanos(0) {
            let now = self.local(instance);
            self.instances[instance].pool.on_reply(reply, now);
        } else {
            self.send(instance, |reply| Event::Reply { instance, reply }, reply);
        }
        Ok(())
    }

    fn debits(&self, call: &LeaseCall) -> u64 {
        match &call.ask {
            Ask::Rate(ask) => self.authority.probe_granted(ask.bucket),
            Ask::Quota(ask) => self.authority.probe_quota_granted(ask.consumer, ask.period),
        }
    }

    /// Conservation, `L + O <= B`, and accrual that does not depend on who looks when.
    fn check_authority(&mut self, now: Nanos) -> Result<(), String> {
        for budget in 0..self.plans.len() {
            let bucket = BucketId(budget as u64);
            let state = self.authority.probe(bucket, now);
            if !self.scenario.steps_back && state != self.watched.probe(bucket, now) {
                let watched = self.watched.probe(bucket, now);
                return Err(format!("accrual: {state:?} lazily, {watched:?} watched"));
            }
            if let Some(fault) = state.and_then(|state| state.fault()) {
                return Err(fault);
            }
            let consumer = ConsumerId(budget as u64);
            if let Some((limit, consumed, on_lease)) = self.authority.probe_quota(consumer, PERIOD)
                && i128::from(consumed) + on_lease
                    > i128::from(limit) + i128::from(self.months[budget].overrun)
            {
                return Err(format!("quota: {consumed} + {on_lease} of {limit} at the authority"));
            }
        }
        Ok(())
    }

    /// What an instance could still spend is on lease at the authority.
    fn check_on_lease(&mut self, instance: usize) -> Result<(), String> {
        let at_authority = self.authority_now();
        if self.scenario.steps_forward {
            return Ok(());
        }
        let now = self.local(instance);
        for budget in 0..self.plans.len() {
            let bucket = BucketId(budget as u64);
            let holder = u128::from(self.instances[instance].life) << 64 | instance as u128;
            self.watched.probe(bucket, at_authority);
            let state = &self.instances[instance];
            let shards = state.shards.iter();
            let unspent: u64 = shards.map(|shard| shard.buckets.probe(bucket, now)).sum::<u64>()
                + state.pool.probe(bucket, now);
            let on_lease = self.watched.probe_holder(bucket, holder);
            if unspent > on_lease {
                return Err(format!(
                    "lease: instance {instance} could spend {unspent}, on lease are {on_lease}"
                ));
            }
        }
        Ok(())
    }

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let instance = self.random.within(0, self.instances.len() as u64 - 1) as usize;
        let span = Nanos(self.random.within(1_000_000, 900_000_000));
        if self.random.chance(self.scenario.crash_percent) {
            self.crash(instance, span);
        }
        if self.random.chance(self.scenario.pause_percent) {
            let until = self.now.after(span);
            self.instances[instance].stopped_until = until;
        }
        if self.random.chance(self.scenario.cut_percent) {
            let until = self.now.after(span);
            self.instances[instance].cut_until = until;
        }
        if self.random.chance(10) {
            let step = self.random.within(1_000_000, 2_000_000_000) as i64;
            if self.scenario.steps_back && self.random.chance(50) {
                self.authority_stepped -= step;
            } else if self.scenario.steps_forward {
                self.authority_stepped += step;
                self.ideals.iter_mut().for_each(Ideal::allow_burst);
            }
        }
    }

    fn crash(&mut self, instance: usize, down_for: Nanos) {
        let old = &self.instances[instance];
        let (life, drift_ppm) = (old.life + 1, old.drift_ppm);
        for (month, reserved) in self.months.iter_mut().zip(&old.reserved) {
            month.reserved -= reserved;
            month.lost += reserved;
        }
        let mut fresh = self.instance(instance, life, drift_ppm);
        fresh.stopped_until = self.now.after(down_for);
        self.instances[instance] = fresh;
        for caller in 0..self.callers.len() {
            if self.scenario.callers[caller].instance == instance && self.callers[caller].parked {
                self.next_call(caller, Nanos(0));
            }
        }
    }

    fn change(&mut self, budget: usize) {
        let rate_per_s = self.random.pick(&[1, 10, 100, 1_000]);
        let burst = self.random.within(1, 2 * rate_per_s);
        let (rtt, fast_ppm) = (self.scenario.rtt, self.scenario.drift_ppm);
        let longest = self.lease_max[budget].max(lease_max(rate_per_s, burst, rtt));
        // The change is known where the next want arrives; only then do old leases run out.
        let binds_from = self.scenario.faults_for.after(Nanos(3 * longest.0));
        self.plans[budget].rate_per_s = rate_per_s;
        self.plans[budget].burst = burst;
        self.lease_max[budget] = longest;
        self.ideals[budget].change(rate_per_s, burst, fast_ppm, binds_from);
    }

    fn revoke(&mut self, budget: usize) {
        self.authority.revoke(BucketId(budget as u64));
        self.watched.revoke(BucketId(budget as u64));
        if self.authority.probe(BucketId(budget as u64), self.authority_now()).is_some() {
            let stepped_back = if self.scenario.steps_back { u64::MAX / 2 } else { 0 };
            let longest = self.lease_max[budget].after(Nanos(stepped_back));
            self.revoked_from[budget] = Some(self.now.after(longest));
        }
    }

    /// The faults stop; what they left behind lapses; then the measured time begins.
    fn calm_down(&mut self) {
        self.calm = true;
        // A clock that was set back stands still until it has caught up: that is no calm.
        self.authority_stepped = self.authority_stepped.max(0);
        for instance in &mut self.instances {
            instance.stopped_until = instance.stopped_until.min(self.now);
            instance.cut_until = self.now;
        }
        let longest = self.lease_max.iter().max().copied().unwrap_or_default();
        let at = self.now.after(Nanos(3 * longest.0)).after(Nanos::from_ms(500));
        self.at(at, Event::Measure);
    }

    /// Liveness, use of what there is, and the number of calls.
    fn judge_calm(&mut self) -> Result<(), String> {
        let calm_s = self.scenario.calm_for.0 as f64 / 1e9;
        for (budget, plan) in self.plans.iter().enumerate() {
            let month = &self.months[budget];
            let spent = month.limit < 1_000_000_000_000;
            if self.revoked_from[budget].is_some() || spent || plan.burst * 5 < plan.rate_per_s {
                continue;
            }
            let fair = plan.rate_per_s as f64 * calm_s;
            let admitted = self.calm_admitted[budget] as f64;
            if admitted < 0.95 * fair - 3.0 {
                return Err(format!(
                    "use: budget {budget} ({}/s, {}) admitted {admitted} of {fair}",
                    plan.rate_per_s, plan.burst
                ));
            }
        }
        if self.scenario.call_gap > Nanos(0) {
            let instances = self.instances.len() as f64;
            let gaps = calm_s * 1e9 / self.scenario.call_gap.0 as f64;
            let most = (gaps + 2.0) * instances * self.plans.len() as f64;
            if self.calm_calls as f64 > most {
                return Err(format!("calls: {} of at most {most}", self.calm_calls));
            }
        }
        Ok(())
    }
}
