//! Promises to callers, with the authority embedded and every message delivered at once.

use crate::authority::{Authority, LeaseAnswer, LeaseReply, Status};
use crate::bucket::{Buckets, Take};
use crate::catalog::{Plan, WhenLost};
use crate::limits::AUTHORITY_TOKENS_MAX;
use crate::message::ToShard;
use crate::pool::{Pool, PoolConfig};
use crate::quota::{Quotas, Reserve};
use crate::units::{BucketId, ConsumerId, Nanos, Period, PlanId};
use proptest::prelude::*;

const BUCKET: BucketId = BucketId(7);
const CONSUMER: ConsumerId = ConsumerId(9);
const PERIOD: Period = Period(202_611);

struct House {
    authority: Authority,
    pool: Pool,
    shards: Vec<(Buckets, Quotas)>,
    plan: Plan,
    now: Nanos,
    messages: u64,
    consumed_before: u64,
}

impl House {
    fn new(shards: u16, rate_per_s: u64, burst: u64, quota_tokens: u64) -> Self {
        let config = PoolConfig {
            holder: 1,
            shards,
            rtt: Nanos(0),
            call_gap: Nanos(0),
            recallable: true,
            when_lost: WhenLost::Closed,
        };
        let when_lost = None;
        Self {
            authority: Authority::new(None),
            pool: Pool::new(config),
            shards: (0..shards).map(|shard| (Buckets::new(shard), Quotas::new(shard))).collect(),
            plan: Plan {
                id: PlanId(1),
                name: "plan".into(),
                rate_per_s,
                burst,
                quota_tokens,
                when_lost,
            },
            now: Nanos::from_s(100),
            messages: 0,
            consumed_before: 0,
        }
    }

    /// Delivers until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let before = self.messages;
            for (buckets, quotas) in &mut self.shards {
                while let Some(want) = buckets.poll_want() {
                    self.messages += 1;
                    self.pool.on_rate(want, &self.plan, self.now);
                }
                while let Some(want) = quotas.poll_want() {
                    self.messages += 1;
                    self.pool.on_quota(want, &self.plan, self.now);
                }
            }
            while let Some(call) = self.pool.poll_call(self.now) {
                let mut reply = self.authority.call(&call, self.now);
                if let LeaseReply { answer: LeaseAnswer::Quota(answer), .. } = &reply
                    && answer.status == Status::NeedSeed
                {
                    let seed = self.consumed_before;
                    self.authority.seed_quota((answer.consumer, answer.period), seed);
                    reply = self.authority.call(&call, self.now);
                }
                self.pool.on_reply(reply, self.now);
            }
            while let Some((shard, message)) = self.pool.poll_shard() {
                self.messages += 1;
                let (buckets, quotas) = &mut self.shards[usize::from(shard)];
                match message {
                    ToShard::Rate(grant) => buckets.on_grant(grant, self.now),
                    ToShard::RecallRate { bucket } => buckets.on_recall(bucket, self.now),
                    ToShard::Quota(grant) => quotas.on_grant(grant, self.now),
                    ToShard::RecallQuota { consumer, period } => {
                        quotas.on_recall(consumer, period, self.now);
                    }
                    other => unreachable!("not the pool's: {other:?}"),
                }
            }
            if self.messages == before {
                return;
            }
        }
    }

    fn wait(&mut self, span: Nanos) {
        let until = self.now.after(span);
        loop {
            let shards = self.shards.iter();
            let due = shards
                .flat_map(|(buckets, quotas)| [buckets.poll_timeout(), quotas.poll_timeout()])
                .chain([self.pool.poll_timeout()])
                .flatten()
                .min();
            self.now = due.unwrap_or(until).clamp(self.now, until);
            for (buckets, quotas) in &mut self.shards {
                buckets.on_timeout(self.now);
                quotas.on_timeout(self.now);
            }
            self.pool.on_timeout(self.now);
            self.settle();
            if self.now == until {
                return;
            }
        }
    }

    fn try_take(&mut self, shard: usize, retry: bool) -> Take {
        let Plan { rate_per_s, burst, .. } = self.plan;
        self.shards[shard].0.take(BUCKET, 0, rate_per_s, burst, retry, self.now)
    }

    /// A call that may be parked until the grant comes.
    fn take(&mut self, shard: usize) -> Take {
        let mut take = self.try_take(shard, false);
        for _ in 0..3 {
            if take == Take::Wait {
                self.settle();
                take = self.try_take(shard, true);
            }
        }
        take
    }

    fn remaining(&self, shard: usize) -> u64 {
        let Plan { rate_per_s, burst, .. } = self.plan;
        self.shards[shard].0.view(BUCKET, rate_per_s, burst, self.now).remaining
    }

    fn reserve(&mut self, shard: usize, tokens: u64, strict: bool) -> Reserve {
        let mut reserve = Reserve::Wait;
        for _ in 0..4 {
            let quotas = &mut self.shards[shard].1;
            reserve = quotas.check(CONSUMER, 0, PERIOD, tokens, strict, self.now);
            if let Reserve::Reserved { tokens } = reserve {
                quotas.reserve(CONSUMER, PERIOD, tokens);
                return reserve;
            }
            self.settle();
        }
        reserve
    }

    /// Strict calls on several shards, all under way before anybody hears of one.
    fn reserve_at_once(&mut self, calls: &[(usize, u64)]) -> Vec<Reserve> {
        let mut reserves = vec![Reserve::Wait; calls.len()];
        for _ in 0..10 {
            for ((shard, tokens), reserve) in calls.iter().zip(&mut reserves) {
                if *reserve == Reserve::Wait {
                    let quotas = &mut self.shards[*shard].1;
                    *reserve = quotas.check(CONSUMER, 0, PERIOD, *tokens, true, self.now);
                    if let Reserve::Reserved { tokens } = *reserve {
                        quotas.reserve(CONSUMER, PERIOD, tokens);
                    }
                }
            }
            self.settle();
            self.wait(Nanos::from_ms(1));
        }
        reserves
    }

    fn consume(&mut self, shard: usize, reserved: u64, actual: u64) {
        let now = self.now;
        self.shards[shard].1.settle(CONSUMER, PERIOD, reserved, actual, now);
    }

    fn left(&self, shard: usize) -> u64 {
        self.shards[shard].1.view(CONSUMER, PERIOD, self.plan.quota_tokens).remaining
    }
}

#[test]
fn a_fresh_burst_is_there_at_once_on_all_shards() {
    let mut house = House::new(2, 10, 10, 0);
    let mut waiting: Vec<usize> = (0..10).map(|call| call % 2).collect();
    for shard in &waiting {
        assert_eq!(house.try_take(*shard, false), Take::Wait);
    }
    for _ in 0..10 {
        house.settle();
        waiting.retain(|shard| match house.try_take(*shard, true) {
            Take::Taken => false,
            Take::Wait => true,
            Take::Denied { .. } => unreachable!("refused with tokens left"),
        });
    }
    assert_eq!(waiting, []);
    let Take::Denied { retry_after } = house.take(0) else { unreachable!("an eleventh") };
    assert!(retry_after > Nanos::from_ms(90) && retry_after < Nanos::from_ms(110));
    assert_eq!((house.remaining(0), house.take(1)), (0, house.take(0)));
    house.wait(retry_after);
    assert_eq!(house.take(1), Take::Taken, "the refusal did not keep its word");
}

#[test]
fn a_restart_brings_no_second_burst() {
    let mut house = House::new(2, 10, 10, 0);
    let mut ideal = super::oracle::Ideal::new(10, 10, 0);
    for pause_ms in [0, 150, 700, 3_000] {
        for _ in 0..40 {
            house.wait(Nanos::from_ms(20));
            while house.take(0) == Take::Taken {
                assert_eq!(ideal.admit(house.now), Ok(()));
            }
        }
        // Killed: what it held and what it knew is gone.
        let (plan, now) = (house.plan, house.now.after(Nanos::from_ms(pause_ms)));
        house = House::new(2, plan.rate_per_s, plan.burst, 0);
        (house.authority, house.now) = (Authority::new(Some(now)), now);
    }
    house.wait(Nanos::from_ms(250));
    assert_eq!((house.take(0), house.take(1)), (Take::Taken, Take::Taken));
    assert!(matches!(house.take(0), Take::Denied { .. }));
    house.wait(Nanos::from_s(2));
    let taken = (0..20).filter(|_| house.take(0) == Take::Taken).count();
    assert_eq!(taken, 10);
}

#[test]
fn what_remains_is_told_exactly() {
    let mut house = House::new(2, 10, 10, 0);
    assert_eq!(house.remaining(0), 10);
    for left in (0..10).rev() {
        assert_eq!(house.take(0), Take::Taken);
        assert_eq!(house.remaining(0), left);
    }
    house.wait(Nanos::from_s(2));
    assert_eq!((house.take(1), house.remaining(1)), (Take::Taken, 9));
    let view = house.shards[1].0.view(BUCKET, 10, 10, house.now);
    assert_eq!(view.reset, Nanos::from_ms(100));
}

#[test]
fn what_other_shards_hold_remains() {
    for (shards, rate, burst) in [(2, 1, 1_000), (3, 1, 100), (4, 1, 10)] {
        let mut house = House::new(shards, rate, burst, 0);
        let shards = usize::from(shards);
        let mut told = vec![burst; shards];
        for call in 0..burst {
            let shard = call as usize % shards;
            assert_eq!(house.take(shard), Take::Taken, "{call} of {burst}");
            let (before, left) = (told[shard], burst - 1 - call);
            told[shard] = house.remaining(shard);
            // It may have missed what the others used since its last word: a slice or so.
            assert!((left..=left + burst / 8).contains(&told[shard]), "{told:?}, not {left}");
            assert!(told[shard] < before, "{before}, and then {told:?}");
        }
        for (shard, told) in told.iter_mut().enumerate() {
            assert!(matches!(house.take(shard), Take::Denied { .. }));
            *told = house.remaining(shard);
        }
        assert_eq!(told, vec![0; shards]);
    }
}

#[test]
fn nothing_remains_where_a_call_is_refused() {
    let mut house = House::new(2, 1_000, 1_000, 0);
    let mut refused = 0;
    for call in 0..20_000 {
        house.wait(Nanos(300_000));
        if let Take::Denied { .. } = house.take(call % 2) {
            refused += 1;
            assert_eq!(house.remaining(call % 2), 0);
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn idle_tokens_leave_a_shard_for_the_others() {
    let mut house = House::new(2, 100, 100, 0);
    for _ in 0..20 {
        assert_eq!(house.take(0), Take::Taken);
    }
    house.wait(Nanos::from_ms(50));
    let mut taken = 0;
    while house.take(1) == Take::Taken {
        taken += 1;
    }
    assert!((80..=85).contains(&taken), "{taken} of what the other shard left");
}

#[test]
fn a_large_budget_costs_few_messages_and_never_waits() {
    let mut house = House::new(2, 10_000_000, 10_000_000, 0);
    let mut waits_late = 0;
    let mut messages_at = 0;
    for turn in 0..300_000 {
        house.now = house.now.after(Nanos(10_000));
        let shard = turn % 2;
        if house.try_take(shard, false) == Take::Wait {
            waits_late += u64::from(turn > 100_000);
            house.settle();
            assert_eq!(house.try_take(shard, true), Take::Taken);
        }
        if turn % 100 == 0 {
            house.wait(Nanos(0));
        }
        if turn == 100_000 {
            messages_at = house.messages;
        }
    }
    let per_s = (house.messages - messages_at) / 2;
    assert!(waits_late == 0 && per_s <= 40, "{waits_late} waits, {per_s} messages a second");
}

#[test]
fn a_changed_plan_is_followed() {
    let mut house = House::new(1, 1, 1, 0);
    assert_eq!(house.take(0), Take::Taken);
    assert!(matches!(house.take(0), Take::Denied { .. }));
    house.plan.rate_per_s = 1_000;
    house.plan.burst = 1_000;
    // The next word tells of the change; a larger bucket fills from there on.
    house.take(0);
    house.wait(Nanos::from_s(2));
    let taken = (0..2_000).filter(|_| house.take(0) == Take::Taken).count();
    assert!((990..=1_000).contains(&taken), "{taken} of the larger plan");
    house.plan.rate_per_s = 1;
    house.plan.burst = 2;
    house.take(0);
    house.wait(Nanos::from_s(5));
    let taken = (0..2_000).filter(|_| house.take(0) == Take::Taken).count();
    assert!((1..=2).contains(&taken), "{taken} of the smaller plan");
}

#[test]
fn a_decrease_binds_although_calls_go_on() {
    let mut house = House::new(3, 2_000, 8_000, 0);
    let mut ideal = super::oracle::Ideal::new(10, 1, 0);
    for turn in 0..1_400 {
        // Slower afterwards, so that what is held would last for seconds.
        house.wait(Nanos::from_ms(if turn < 1_000 { 1 } else { 15 }));
        if turn == 1_000 {
            house.plan.rate_per_s = 10;
            house.plan.burst = 1;
        }
        if house.take(turn % 3) == Take::Taken && turn > 1_150 {
            assert_eq!(ideal.admit(house.now), Ok(()));
        }
    }
}

#[test]
fn a_stopping_shard_gives_everything_back() {
    let mut house = House::new(2, 1_000, 1_000, 1_000_000);
    for _ in 0..100 {
        house.now = house.now.after(Nanos::from_ms(1));
        assert_eq!(house.take(0), Take::Taken);
        assert_eq!(house.reserve(0, 100, true), Reserve::Reserved { tokens: 100 });
        house.consume(0, 100, 10);
    }
    let now = house.now;
    house.shards[0].0.release_all(now);
    house.shards[0].1.release_all();
    house.settle();
    assert_eq!(house.reserve(1, 999_000, true), Reserve::Reserved { tokens: 999_000 });
    assert_eq!(house.reserve(1, 1, true), Reserve::Exhausted);
}

#[test]
fn a_month_is_spent_to_its_last_token() {
    let mut house = House::new(2, 10, 10, 1_000);
    house.consumed_before = 100;
    assert_eq!(house.reserve(0, 300, true), Reserve::Reserved { tokens: 300 });
    assert_eq!(house.left(0), 600);
    house.consume(0, 300, 200);
    assert_eq!(house.left(0), 700);
    // The other shard needs what the first has free.
    assert_eq!(house.reserve(1, 700, true), Reserve::Reserved { tokens: 700 });
    assert_eq!(house.reserve(0, 1, false), Reserve::Exhausted);
    house.consume(1, 700, 650);
    house.wait(Nanos::from_ms(150));
    assert_eq!(house.reserve(0, 60, true), Reserve::Exhausted);
    house.wait(Nanos::from_ms(150));
    assert_eq!(house.reserve(0, 60, false), Reserve::Reserved { tokens: 50 });
    // An overrun is a debt: it comes out of a larger quota first.
    house.consume(0, 50, 80);
    house.plan.quota_tokens = 1_100;
    house.wait(Nanos::from_ms(150));
    assert_eq!(house.reserve(0, 71, true), Reserve::Exhausted);
    house.wait(Nanos::from_ms(150));
    assert_eq!(house.reserve(0, 70, true), Reserve::Reserved { tokens: 70 });
}

/// Of calls that ask for half of the largest quota each, the month has enough for one.
#[test]
fn sums_of_what_is_asked_for_do_not_wrap_around() {
    let half = AUTHORITY_TOKENS_MAX / 2 + 1;
    let mut house = House::new(2, 10, 10, AUTHORITY_TOKENS_MAX);
    let reserves = house.reserve_at_once(&[(0, half), (1, half)]);
    let served = Reserve::Reserved { tokens: half };
    assert_eq!(reserves.iter().filter(|reserve| **reserve == served).count(), 1, "{reserves:?}");
    let mut house = House::new(2, 10, 10, 1_000);
    let reserves = house.reserve_at_once(&[(0, u64::MAX), (1, u64::MAX), (1, 600)]);
    assert_eq!(reserves[..2], [Reserve::Exhausted; 2]);
    assert_eq!(reserves[2], Reserve::Reserved { tokens: 600 });
}

#[test]
fn what_other_shards_hold_of_a_month_remains() {
    let mut house = House::new(3, 10, 10, 5_000);
    let (mut told, mut used) = ([5_000; 3], [0; 3]);
    for call in 0..390 {
        let shard = call % 7 % 3;
        let left = 5_000 - used.iter().sum::<u64>();
        let Reserve::Reserved { tokens } = house.reserve(shard, 100, false) else {
            panic!("{left} are left")
        };
        house.consume(shard, tokens, 12);
        used[shard] += 12;
        let (before, left) = (told[shard], left - 12);
        told[shard] = house.left(shard);
        // It may have missed what the others used since its last word.
        let missed: u64 = used.iter().sum::<u64>() - used[shard];
        assert!((left..=left + missed).contains(&told[shard]), "{told:?}, not {left}");
        assert!(told[shard] < before, "{before}, and then {told:?}");
    }
}

#[test]
fn a_refused_call_keeps_no_smaller_one_out() {
    let mut house = House::new(2, 10, 10, 1_000);
    assert_eq!(house.reserve(1, 400, true), Reserve::Reserved { tokens: 400 });
    assert_eq!(house.reserve(0, 700, true), Reserve::Exhausted);
    assert_eq!(house.reserve(0, 601, true), Reserve::Exhausted);
    let messages = house.messages;
    assert_eq!(house.reserve(0, 601, true), Reserve::Exhausted);
    assert_eq!(house.messages, messages, "a refusal that is certain costs no message");
    // What shard 0 has heard of goes to shard 1, but for a hundred.
    assert_eq!(house.reserve(1, 500, true), Reserve::Reserved { tokens: 500 });
    assert_eq!(house.reserve(0, 101, true), Reserve::Exhausted);
    assert_eq!(house.reserve(0, 100, true), Reserve::Reserved { tokens: 100 });
    assert_eq!(house.reserve(1, 1, false), Reserve::Exhausted);
}

/// Small and large alike, and what lies at the edge of the type.
fn any_size() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 1u64..5_000,
        2 => any::<u64>().prop_map(|number| number.max(1)),
        1 => (0u64..1_000).prop_map(|less| u64::MAX - less),
        1 => (0u64..1_000).prop_map(|more| (1 << 63) + more),
    ]
}

/// A record's two counts of tokens have 32 bits each.
fn any_usage() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..6_000, 0u64..1 << 33]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_month_ends_to_the_token_on_any_shard(
        quota in 1u64..5_000,
        calls in prop::collection::vec((0usize..3, 1u64..900, any::<bool>()), 1..60),
    ) {
        let mut house = House::new(3, 10, 10, quota);
        let mut left = quota;
        for (shard, tokens, strict) in calls {
            match house.reserve(shard, tokens, strict) {
                Reserve::Reserved { tokens: reserved } => {
                    let fits = if strict { tokens } else { tokens.min(left) };
                    prop_assert_eq!(reserved, fits);
                    house.consume(shard, reserved, reserved);
                    left -= reserved;
                }
                Reserve::Exhausted => prop_assert!(left == 0 || strict && tokens > left),
                Reserve::Wait | Reserve::NoRoom => prop_assert!(false, "still waiting"),
            }
        }
    }

    /// Whatever callers ask for and upstreams report: never more is promised than there is, and a
    /// call alone is served if it fits.
    #[test]
    fn no_number_is_too_large_for_a_month(
        quota in any_size(),
        rounds in prop::collection::vec(
            (prop::collection::vec((0usize..3, any_size()), 1..4), any_usage(), 0u64..3_000),
            1..12,
        ),
    ) {
        let quota = quota.min(AUTHORITY_TOKENS_MAX);
        let mut house = House::new(3, 10, 10, quota);
        let mut left = quota;
        for (calls, actual, pause_ms) in rounds {
            let reserves = house.reserve_at_once(&calls);
            let mut promised = 0u128;
            for reserve in &reserves {
                match reserve {
                    Reserve::Reserved { tokens } => promised += u128::from(*tokens),
                    // Two large calls may take what is free from each other until both give up.
                    Reserve::Exhausted | Reserve::Wait => {}
                    Reserve::NoRoom => prop_assert!(false, "no room"),
                }
            }
            prop_assert!(promised <= u128::from(left), "{promised} of {left}");
            if let [(_, tokens)] = calls[..] {
                prop_assert_eq!(promised > 0, tokens <= left, "{:?} of {}", reserves, left);
            }
            for ((shard, _), reserve) in calls.iter().zip(reserves) {
                if let Reserve::Reserved { tokens } = reserve {
                    house.consume(*shard, tokens, actual);
                    left = left.saturating_sub(actual);
                }
            }
            // What a call used over its reservation is known once all have reported.
            house.wait(Nanos::from_ms(2_200 + pause_ms));
        }
    }

    #[test]
    fn no_number_is_too_large_for_a_bucket(
        rate in any_size(),
        burst in any_size(),
        calls in prop::collection::vec((0usize..3, 0u64..400_000_000), 1..60),
    ) {
        let mut house = House::new(3, rate, burst, 0);
        let mut ideal = super::oracle::Ideal::new(rate, burst, 0);
        for (shard, pause_ns) in calls {
            house.wait(Nanos(pause_ns));
            if house.take(shard) == Take::Taken {
                prop_assert_eq!(ideal.admit(house.now), Ok(()));
            }
            prop_assert!(house.remaining(shard) <= burst);
        }
    }

    #[test]
    fn one_shard_in_order_is_told_its_month_exactly(
        quota in 1u64..200_000,
        calls in prop::collection::vec(
            (1u64..5_000, 0u64..6_000, any::<bool>(), 0u64..3_000),
            1..60,
        ),
    ) {
        let mut house = House::new(2, 10, 10, quota);
        let mut consumed = 0u64;
        for (tokens, actual, strict, pause_ms) in calls {
            let left = quota.saturating_sub(consumed);
            match house.reserve(0, tokens, strict) {
                Reserve::Reserved { tokens: reserved } => {
                    prop_assert!(reserved <= left);
                    prop_assert!(reserved == tokens || !strict && reserved == left);
                    prop_assert_eq!(house.left(0), left - reserved);
                    house.consume(0, reserved, actual);
                    consumed += actual;
                    prop_assert_eq!(house.left(0), quota.saturating_sub(consumed));
                }
                Reserve::Exhausted => prop_assert!(left == 0 || strict && tokens > left),
                Reserve::Wait | Reserve::NoRoom => prop_assert!(false, "still waiting"),
            }
            house.wait(Nanos::from_ms(pause_ms));
        }
    }

    #[test]
    fn no_span_admits_more_than_burst_and_rate(
        rate in 1u64..2_000,
        burst in 1u64..2_000,
        calls in prop::collection::vec((0usize..3, 0u64..40_000_000), 1..400),
    ) {
        let mut house = House::new(3, rate, burst, 0);
        let mut ideal = super::oracle::Ideal::new(rate, burst, 0);
        for (shard, pause_ns) in calls {
            house.wait(Nanos(pause_ns));
            for _ in 0..5 {
                if house.take(shard) == Take::Taken {
                    let admitted = ideal.admit(house.now);
                    prop_assert!(admitted.is_ok(), "{:?}", admitted);
                }
            }
        }
    }
}
