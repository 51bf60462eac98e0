//! What a pool does that is told to give back what it has.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::authority::Authority;
use crate::lease::{RateAnswer, Recall, Status};
use crate::units::PlanId;

const BUCKET: BucketId = BucketId(1);
const MONTH: (ConsumerId, Period) = (ConsumerId(1), Period(202_611));
const START: Nanos = Nanos::from_s(1_000);

fn pool(holder: u128, shards: u16) -> Pool {
    Pool::new(PoolConfig {
        holder,
        shards,
        rtt: Nanos::from_ms(1),
        call_gap: Nanos::from_ms(10),
        recallable: true,
        when_lost: WhenLost::Closed,
    })
}

fn plan() -> Plan {
    Plan {
        id: PlanId(1),
        name: "p".into(),
        rate_per_s: 1_000,
        burst: 1_000,
        quota_tokens: 1_000,
        when_lost: None,
    }
}

fn rate_want() -> RateWant {
    RateWant {
        shard: 0,
        bucket: BUCKET,
        plan: 0,
        lease: 0,
        want: 2,
        need: 1,
        demand: 2,
        used: 0,
        returned: 0,
    }
}

/// The answer is older than the recall: repeated after it got lost, or slower on its way.
#[test]
fn a_lease_that_is_recalled_before_its_answer_comes_goes_back() {
    let (mut pool, mut authority, mut now) = (pool(1, 1), Authority::new(None), START);
    let call_and_reply = |pool: &mut Pool, authority: &mut Authority, now| {
        pool.on_rate(rate_want(), &plan(), now);
        let call = pool.poll_call(now).unwrap();
        authority.call(&call, now)
    };
    let reply = call_and_reply(&mut pool, &mut authority, now);
    pool.on_reply(reply, now);
    // By now it is known what the key wants.
    now = now.after(Nanos::from_ms(500));
    let reply = call_and_reply(&mut pool, &mut authority, now);
    let LeaseAnswer::Rate(RateAnswer { long, granted, lease, .. }) = reply.answer else {
        panic!("{reply:?}")
    };
    assert!(long && granted > 5, "{reply:?}");
    pool.on_recall(LeaseKey::Rate(BUCKET), now);
    now = now.after(Nanos::from_ms(20));
    pool.on_reply(reply, now);
    let to_shard: Vec<_> = std::iter::from_fn(|| pool.poll_shard()).collect();
    let Some((0, ToShard::Rate(grant))) = to_shard.last() else { panic!("{to_shard:?}") };
    assert!(grant.granted > 0 && !grant.keep, "{grant:?}");
    let LeaseAsk::Rate(ask) = pool.poll_call(now).unwrap().ask else { panic!("about a month") };
    let returned = granted - u64::from(grant.granted);
    assert_eq!((ask.lease, ask.want, ask.returned), (lease, 0, returned));
}

/// A word of the pool's only shard on the month, and the calls that it makes after it.
fn say(pool: &mut Pool, authority: &mut Authority, (need, returned): (u64, u64), now: Nanos) {
    let want = QuotaWant {
        shard: 0,
        consumer: MONTH.0,
        plan: 0,
        period: MONTH.1,
        want: need,
        need,
        least: need,
        consumed: 0,
        overrun: 0,
        returned,
    };
    pool.on_quota(want, &plan(), now);
    settle(pool, authority, now);
}

fn settle(pool: &mut Pool, authority: &mut Authority, now: Nanos) {
    while let Some(call) = pool.poll_call(now) {
        let mut reply = authority.call(&call, now);
        if matches!(reply.answer, LeaseAnswer::Quota(answer) if answer.status == Status::NeedSeed) {
            authority.seed_quota(MONTH, 0);
            reply = authority.call(&call, now);
        }
        pool.on_reply(reply, now);
    }
}

fn granted(pool: &mut Pool) -> (u64, bool) {
    match pool.poll_shard() {
        Some((0, ToShard::Quota(grant))) => (grant.granted, grant.exhausted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_that_ends_leaves_its_months_to_the_others() {
    let (mut one, mut other) = (pool(1, 1), pool(2, 1));
    let (authority, now) = (&mut Authority::new(None), START);
    say(&mut one, authority, (900, 0), now);
    assert_eq!(granted(&mut one), (900, false));
    say(&mut one, authority, (0, 300), now);
    assert!(!one.has_month_calls(), "it may come in useful");
    let later = now.after(Nanos::from_ms(20));
    one.give_back_months(later);
    assert!(one.has_month_calls());
    settle(&mut one, authority, later);
    assert!(!one.has_month_calls());
    say(&mut other, authority, (400, 0), later);
    assert_eq!(granted(&mut other), (400, false));
}

#[test]
fn what_is_free_of_a_month_comes_together_for_whoever_is_short() {
    let (mut one, mut other) = (pool(1, 1), pool(2, 1));
    let (authority, mut now) = (&mut Authority::new(None), START);
    say(&mut one, authority, (300, 0), now);
    assert_eq!(granted(&mut one), (300, false));
    say(&mut other, authority, (660, 0), now);
    assert_eq!(granted(&mut other), (660, false));
    // A part would be of no use, and the rest may be free elsewhere.
    now = now.after(Nanos::from_ms(20));
    say(&mut other, authority, (100, 0), now);
    assert_eq!(granted(&mut other), (0, true));
    let key = LeaseKey::Quota(MONTH.0, MONTH.1);
    let recalls = [authority.poll_recall(), authority.poll_recall()];
    assert_eq!(recalls, [Some(Recall { holder: 1, key }), None]);
    one.on_recall(key, now);
    let told = one.poll_shard();
    assert!(matches!(told, Some((0, ToShard::RecallQuota { .. }))), "{told:?}");
    // Its calls under way have reserved the others.
    say(&mut one, authority, (0, 60), now);
    now = now.after(Nanos::from_ms(20));
    say(&mut other, authority, (100, 0), now);
    assert_eq!(granted(&mut other), (100, false));
}
