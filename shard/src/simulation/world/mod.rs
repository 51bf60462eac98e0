//! The scheduler: true time, everybody's clock, the network and the callers of one history.

mod callers;
mod checks;
mod faults;
mod pushes;

use super::oracle::{Ideal, Month, OnePlace, Totals, lease_max, long_lease_max};
use super::scenario::{Random, Scenario};
use crate::authority::{Authority, LeaseAnswer, LeaseCall, LeaseReply, Planted, Status};
use crate::bucket::{Buckets, Take};
use crate::catalog::{Plan, WhenLost};
use crate::lease::{LeaseAsk, LeaseKey, PARK, Recall};
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
    /// The authority calls a lease back.
    Recalled {
        instance: usize,
        life: u64,
        key: LeaseKey,
    },
    /// It has had the time to come back.
    GivenBack {
        instance: usize,
        life: u64,
        bucket: BucketId,
        told_at: Nanos,
    },
    Fault,
    /// The replica takes the authority's place, as it was some time ago.
    Promote(Box<Replica>),
    Change {
        budget: usize,
    },
    Revoke {
        budget: usize,
    },
    Calm,
    Measure,
}

/// An authority as it was, and the one that is watched.
#[derive(Debug)]
struct Replica {
    authority: Authority,
    watched: Authority,
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

pub(super) struct World {
    scenario: Scenario,
    planted: Planted,
    /// Leaves the ideal bucket out, to see what the other checks find alone.
    blind: bool,
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
    /// No lease lasts longer once what was quiet has been called back.
    lease_max: Vec<Nanos>,
    /// Nor one whose recall got lost longer than this.
    long_lease_max: Nanos,
    debited: BTreeSet<(u128, u64)>,
    calm: bool,
    measuring: bool,
    calm_admitted: Vec<u64>,
    calm_ideal: Vec<OnePlace>,
    /// By budget and instance: the last admission, or when the measured time began.
    served_at: Vec<Vec<Nanos>>,
    calm_calls: u64,
    totals: Totals,
}

impl World {
    pub(super) fn new(seed: u64, scenario: Scenario, planted: Planted) -> Self {
        let mut random = Random::new(seed ^ 0xabcd_ef01);
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
        let lease_max: Vec<Nanos> =
            plans.iter().map(|plan| lease_max(plan.rate_per_s, plan.burst, scenario.rtt)).collect();
        let longest = lease_max.iter().max().copied().unwrap_or_default();
        let mut world = Self {
            long_lease_max: long_lease_max(scenario.recallable, scenario.rtt).max(longest),
            authority_drift_ppm: drift(&mut random),
            now: Nanos(0),
            events: BTreeMap::new(),
            next_event: 0,
            authority: Authority::new(None),
            watched: Authority::new(None),
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
            calm_ideal: vec![OnePlace::default(); plans.len()],
            served_at: vec![vec![Nanos(0); scenario.shards.len()]; plans.len()],
            calm_calls: 0,
            totals: Totals::default(),
            plans,
            planted,
            blind: false,
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

    /// The same history, with nobody looking at the ideal bucket.
    pub(super) fn without_the_ideal(self) -> Self {
        Self { blind: true, ..self }
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
            recallable: self.scenario.recallable,
            when_lost: WhenLost::Closed,
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

    pub(super) fn run(mut self) -> Result<Totals, String> {
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
                let empty = OnePlace::at(at);
                self.calm_ideal.fill(empty);
                self.served_at.iter_mut().for_each(|holders| holders.fill(at));
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
            | Event::Recalled { instance, .. }
            | Event::GivenBack { instance, .. }
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
            Event::ToPool { instance, life, word } => self.hear_word(instance, life, word)?,
            Event::ToShard { instance, life, shard, message } => {
                self.hear_message(instance, life, shard, message)?;
            }
            Event::Call { instance, call } => self.call(instance, call)?,
            Event::Reply { instance, reply } => {
                let now = self.local(instance);
                self.instances[instance].pool.on_reply(reply, now);
            }
            Event::Wake { instance, life } => self.wake(instance, life)?,
            Event::Recalled { instance, life, key } => self.hear_recall(instance, life, key),
            Event::GivenBack { instance, life, bucket, told_at } => {
                self.check_given_back(instance, life, bucket, told_at)?;
            }
            Event::Fault => self.fault(),
            Event::Promote(replica) => self.promote(*replica),
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

    fn hear_word(&mut self, instance: usize, life: u64, word: Word) -> Result<(), String> {
        let now = self.local(instance);
        if self.instances[instance].life != life {
            return Ok(());
        }
        self.totals.words += 1;
        self.totals.calm_words += u64::from(self.measuring);
        let pool = &mut self.instances[instance].pool;
        match word {
            Word::Rate(want) => pool.on_rate(want, &self.plans[want.plan as usize], now),
            Word::Quota(want) => pool.on_quota(want, &self.plans[want.plan as usize], now),
        }
        Ok(())
    }

    fn hear_message(
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
            ToShard::RecallRate { bucket } => state.buckets.on_recall(bucket, now),
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
            let of_rate = matches!(call.ask, LeaseAsk::Rate(_));
            self.calm_calls += u64::from(self.measuring && of_rate);
            self.totals.calm_month_calls += u64::from(self.measuring && !of_rate);
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
        if let (LeaseAsk::Quota(ask), LeaseAnswer::Quota(answer)) = (&call.ask, &reply.answer)
            && answer.status == Status::NeedSeed
        {
            // Control reads the ledger, which has all that was settled, and calls again.
            let consumed = self.months[ask.consumer.0 as usize].consumed;
            self.authority.seed_quota((ask.consumer, ask.period), consumed);
            self.watched.seed_quota((ask.consumer, ask.period), consumed);
            reply = self.authority.call(&call, now);
            self.watched.call(&call, now);
        }
        if self.debits(&call) > before && !self.debited.insert((call.holder, call.seq)) {
            return Err(format!("dedupe: call {} of {} debited twice", call.seq, call.holder));
        }
        self.carry_recalls();
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
}
