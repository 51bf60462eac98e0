//! What instances grant together while the authority is out of reach.

use super::*;
use crate::authority::Authority;
use crate::units::PlanId;
use proptest::prelude::*;

const BUCKET: BucketId = BucketId(1);
const MONTH: (ConsumerId, Period) = (ConsumerId(1), Period(202_611));
const CONSUMED_BEFORE: u64 = 1_000;

/// Instances with one shard each, whose callers want whatever they can get.
struct Fleet {
    plan: Plan,
    pools: Vec<Pool>,
    /// By instance: the lease that its shard has, tokens of it that are not reported, and when it
    /// may ask again.
    shards: Vec<(u64, u32, Nanos)>,
    authority: Option<Authority>,
    now: Nanos,
    tokens: u64,
    month: u64,
}

impl Fleet {
    fn new(instances: u64, rate_per_s: u64, burst: u64, when_lost: Option<WhenLost>) -> Self {
        let config = |holder| PoolConfig {
            holder: u128::from(holder),
            shards: 1,
            rtt: Nanos::from_ms(1),
            call_gap: Nanos::from_ms(10),
            recallable: false,
            when_lost: WhenLost::Closed,
        };
        let plan = Plan {
            id: PlanId(1),
            name: "p".into(),
            rate_per_s,
            burst,
            quota_tokens: 1_000_000,
            when_lost,
        };
        Self {
            plan,
            pools: (0..instances).map(|holder| Pool::new(config(holder))).collect(),
            shards: vec![(0, 0, Nanos(0)); instances as usize],
            authority: Some(Authority::new(None)),
            now: Nanos::from_s(1_000),
            tokens: 0,
            month: 0,
        }
    }

    fn lose(&mut self) {
        self.authority = None;
        let now = self.now;
        self.pools.iter_mut().for_each(|pool| pool.on_lost(now));
    }

    /// Every millisecond each instance asks for all that it may have.
    fn run(&mut self, span_ms: u64) {
        for _ in 0..span_ms {
            self.now = self.now.after(Nanos::from_ms(1));
            (0..self.pools.len()).for_each(|instance| self.turn(instance));
        }
    }

    fn turn(&mut self, instance: usize) {
        let (now, (lease, used, ask_at)) = (self.now, self.shards[instance]);
        if now >= ask_at {
            let want = self.plan.burst.clamp(1, 50) as u32;
            let want = RateWant {
                shard: 0,
                bucket: BUCKET,
                plan: 0,
                lease,
                want,
                need: if self.plan.when_lost == Some(WhenLost::Open) { want } else { 1 },
                demand: want,
                used,
                returned: 0,
            };
            self.shards[instance].1 = 0;
            self.pools[instance].on_rate(want, &self.plan, now);
        }
        self.settle(instance);
    }

    fn settle(&mut self, instance: usize) {
        let now = self.now;
        self.pools[instance].on_timeout(now);
        while let Some(call) = self.pools[instance].poll_call(now) {
            let Some(authority) = &mut self.authority else { continue };
            let mut reply = authority.call(&call, now);
            if let LeaseAnswer::Quota(answer) = reply.answer
                && answer.status == crate::lease::Status::NeedSeed
            {
                authority.seed_quota(MONTH, CONSUMED_BEFORE);
                reply = authority.call(&call, now);
            }
            self.pools[instance].on_reply(reply, now);
        }
        while let Some((_, message)) = self.pools[instance].poll_shard() {
            match message {
                ToShard::Rate(grant) => {
                    self.tokens += u64::from(grant.granted);
                    let last = u64::from(grant.granted.saturating_sub(1));
                    let last = grant.not_before.after(Nanos(grant.spacing.0 * last));
                    let ask_at = grant.deny_until.max(last);
                    self.shards[instance] = (grant.lease, grant.granted, ask_at);
                }
                ToShard::Quota(grant) => self.month += grant.granted,
                _ => {}
            }
        }
    }

    fn want_month(&mut self, instance: usize, need: u64, consumed: u64) {
        let (consumer, period) = MONTH;
        let want = QuotaWant {
            shard: 0,
            consumer,
            plan: 0,
            period,
            want: need,
            need,
            least: need,
            consumed,
            returned: 0,
            overrun: 0,
        };
        self.pools[instance].on_quota(want, &self.plan, self.now);
        self.settle(instance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// All together half of the plan's rate, and little less.
    #[test]
    fn degraded_instances_share_half_of_the_rate(
        instances in 1u64..6,
        rate in 100u64..5_000,
        burst in 50u64..2_000,
    ) {
        let mut fleet = Fleet::new(instances, rate, burst, Some(WhenLost::Degraded));
        fleet.run(1_500);
        fleet.lose();
        let before = fleet.tokens;
        fleet.run(5_000);
        let granted = fleet.tokens - before;
        // What was on lease, and slots that a grant is ahead of.
        let most = burst + rate / 2 * 5 + rate / 8 + instances;
        prop_assert!(granted <= most, "{granted} of {most}");
        prop_assert!(granted >= rate / 2 * 4, "{granted} of {} in five seconds", rate / 2 * 5);
    }

    /// Nothing but what was granted before.
    #[test]
    fn closed_instances_spend_what_they_hold(instances in 1u64..6, rate in 100u64..5_000) {
        let mut fleet = Fleet::new(instances, rate, 100, None);
        fleet.run(1_500);
        fleet.lose();
        let before = fleet.tokens;
        fleet.run(3_000);
        prop_assert!(fleet.tokens - before <= 100 + rate / 4, "{}", fleet.tokens - before);
    }
}

#[test]
fn open_instances_grant_whatever_is_asked_for() {
    let mut fleet = Fleet::new(2, 10, 10, Some(WhenLost::Open));
    fleet.run(1_500);
    fleet.lose();
    let before = fleet.tokens;
    fleet.run(1_000);
    assert!(fleet.tokens - before >= 15_000, "{} in a second", fleet.tokens - before);
}

#[test]
fn an_authority_that_is_back_is_asked_again_and_told_what_it_missed() {
    let mut fleet = Fleet::new(2, 100, 100, Some(WhenLost::Degraded));
    fleet.run(1_500);
    (0..2).for_each(|instance| fleet.want_month(instance, 1_000, 0));
    let authority = fleet.authority.take();
    let now = fleet.now;
    fleet.pools.iter_mut().for_each(|pool| pool.on_lost(now));
    // Half of each one's part of what was left: 998 000 or so.
    (0..20).for_each(|_| {
        fleet.run(100);
        fleet.want_month(0, 50_000, 40_000);
    });
    let left = 1_000_000 - CONSUMED_BEFORE;
    assert!((left / 5..=left / 4 + 2_000).contains(&fleet.month), "{}", fleet.month);
    fleet.authority = authority;
    let now = fleet.now;
    fleet.pools.iter_mut().for_each(|pool| pool.on_found(now));
    let before = fleet.tokens;
    fleet.run(3_000);
    assert!(fleet.tokens - before > 250, "the whole rate again: {}", fleet.tokens - before);
    let told = fleet.authority.as_ref().and_then(|it| it.month_text(MONTH.0, MONTH.1));
    let consumed = told.as_ref().and_then(|told| told.split(' ').nth(2)?.parse::<u64>().ok());
    assert_eq!(consumed, Some(CONSUMED_BEFORE + 20 * 40_000), "{told:?}");
}

/// Whoever calls one after the other has the burst at once, however small his first wants were.
#[test]
fn a_new_keys_first_calls_wait_for_no_gap() {
    let mut fleet = Fleet::new(1, 1_000, 1_000, None);
    for call in 0..20 {
        fleet.now = fleet.now.after(Nanos::from_ms(1));
        let (lease, used, _) = fleet.shards[0];
        let want = RateWant {
            shard: 0,
            bucket: BUCKET,
            plan: 0,
            lease,
            want: 1,
            need: 1,
            demand: 1,
            used,
            returned: 0,
        };
        fleet.pools[0].on_rate(want, &fleet.plan, fleet.now);
        fleet.settle(0);
        assert_eq!(fleet.tokens, call + 1, "the call is answered in its turn");
    }
}
