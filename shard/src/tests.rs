//! A whole shard against a control that the test plays: who is known, what is taken, what a call
//! costs.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use crate::catalog::{Catalog, Item, Plan, PriceModel, PriceVersion, Service, Tier, TokenPrices};
use crate::limits::{KEY_TTL, VERIFIES_MAX};
use crate::message::{KeyDigest, KeyGrant, QuotaGrant, RateGrant, ToControl, ToShard, Verdict};
use crate::record::Usage;
use crate::units::{
    BucketId, ConsumerId, KeyId, Moment, NanoUsd, Nanos, Period, PlanId, ServiceId,
};
use crate::{Admission, Ask, Caller, Identity, Permit, Refusal, Shard, ShardConfig, WaitFor};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// 2026-11-30 23:00:00 UTC: an hour before the month's end.
const UNIX_US: i64 = 1_796_079_600_000_000;
const PERIOD: Period = Period(202_611);
const FLAT: u32 = 0;
const TIERED: u32 = 1;

fn at(now: Nanos) -> Moment {
    Moment { now, unix_us: UNIX_US }
}

fn flat(version: u32, effective_at_unix_us: i64, nanousd_per_tok: u64) -> PriceVersion {
    let prices = TokenPrices {
        input_nanousd_per_mtok: nanousd_per_tok * 1_000_000,
        cached_input_nanousd_per_mtok: nanousd_per_tok * 1_000_000,
        output_nanousd_per_mtok: nanousd_per_tok * 1_000_000,
    };
    PriceVersion { version, effective_at_unix_us, model: PriceModel::PerToken(prices) }
}

/// 3 nano-USD a token for the first hundred of a month, then 1.
fn tiered() -> PriceVersion {
    let tier = |up_to_tokens, nanousd: u64| Tier {
        up_to_tokens,
        prices: TokenPrices {
            input_nanousd_per_mtok: nanousd * 1_000_000,
            cached_input_nanousd_per_mtok: nanousd * 1_000_000,
            output_nanousd_per_mtok: nanousd * 1_000_000,
        },
    };
    let model = PriceModel::Tiered([tier(Some(100), 3), tier(None, 1)].into());
    PriceVersion { version: 1, effective_at_unix_us: 0, model }
}

fn service(id: u64, prices: Vec<PriceVersion>) -> Service {
    Service {
        id: ServiceId(id),
        name: format!("model-{id}").into(),
        authority: "upstream".into(),
        is_tls: false,
        addrs: Box::new([]),
        base_path: "".into(),
        default_path: "/".into(),
        credential_header: None,
        prices: prices.into(),
        enabled: true,
        deleted: false,
    }
}

fn catalog(version: u64, flat_prices: Vec<PriceVersion>) -> Arc<Catalog> {
    let plan = Plan {
        id: PlanId(1),
        name: "basic".into(),
        rate_per_s: 10,
        burst: 1_000,
        quota_tokens: 100_000,
        when_lost: None,
    };
    let services = vec![service(10, flat_prices), service(11, vec![tiered()])];
    Arc::new(Catalog::new(version, vec![plan], services))
}

fn new_shard() -> Shard {
    let config = ShardConfig { shard: 3, permit_deadline: Nanos::from_s(60) };
    Shard::new(config, catalog(1, vec![flat(1, 0, 2)]))
}

fn digest(number: u64) -> KeyDigest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
    digest
}

fn verdict(key: u64, services: Option<Arc<[ServiceId]>>) -> ToShard {
    let grant = KeyGrant {
        key: KeyId(key),
        consumer: ConsumerId(7),
        bucket: BucketId(9),
        plan: 0,
        expires_at: None,
        services,
    };
    ToShard::Verdict { digest: digest(key), verdict: Verdict::Granted(Box::new(grant)) }
}

fn known(shard: &mut Shard, key: u64, now: Nanos) -> Caller {
    match shard.identify(&digest(key), now) {
        Identity::Known(caller) => caller,
        other => panic!("{other:?}"),
    }
}

fn rate(granted: u32) -> ToShard {
    ToShard::Rate(RateGrant {
        bucket: BucketId(9),
        lease: 1,
        granted,
        not_before: Nanos(0),
        spacing: Nanos(0),
        deadline: Nanos(u64::MAX),
        keep: false,
        deny_until: Nanos(0),
        left: 0,
    })
}

fn quota(granted: u64) -> ToShard {
    let consumer = ConsumerId(7);
    ToShard::Quota(QuotaGrant {
        consumer,
        period: PERIOD,
        granted,
        left: 0,
        alone: false,
        exhausted: false,
        free: 0,
    })
}

fn ask(service: u32, reserve_tokens: u64) -> Ask {
    Ask { service, reserve_tokens, strict: true, retry: false }
}

fn usage(input_tokens: u32, output_tokens: u32) -> Usage {
    Usage { input_tokens, output_tokens, ..Usage::default() }
}

fn admitted(admission: Admission) -> Permit {
    match admission {
        Admission::Admitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// A shard that knows key 1, has asked for rate and quota, and has spent what it got.
fn poor_shard(now: Nanos) -> (Shard, Caller) {
    let mut shard = new_shard();
    shard.handle(verdict(1, None), now);
    let caller = known(&mut shard, 1, now);
    let waits = shard.admit(&caller, &ask(FLAT, 1), at(now));
    assert!(matches!(waits, Admission::Wait(WaitFor::Quota(ConsumerId(7)))));
    assert_eq!(shard.handle(quota(1), now), Some(WaitFor::Quota(ConsumerId(7))));
    let waits = shard.admit(&caller, &ask(FLAT, 1), at(now));
    assert!(matches!(waits, Admission::Wait(WaitFor::Rate(BucketId(9)))));
    shard.handle(rate(1), now);
    assert_eq!(shard.poll_ready(), Some(WaitFor::Rate(BucketId(9))));
    assert_eq!(shard.poll_ready(), None);
    let permit = admitted(shard.admit(&caller, &ask(FLAT, 1), at(now)));
    shard.settle(permit, &usage(1, 0), at(now));
    (shard, caller)
}

/// The same, and it holds plenty.
fn rich_shard(now: Nanos) -> (Shard, Caller) {
    let (mut shard, caller) = poor_shard(now);
    shard.handle(rate(100), now);
    shard.handle(quota(10_000), now);
    (shard, caller)
}

#[test]
fn an_unknown_key_is_asked_about_once_and_then_known() {
    let (mut shard, now) = (new_shard(), Nanos::from_s(1));
    assert_eq!(shard.identify(&digest(1), now), Identity::Wait { verify: true });
    shard.verify(digest(1), [b'k'; 48], PEER, now);
    assert_eq!(shard.identify(&digest(1), now), Identity::Wait { verify: false });
    match shard.poll_action() {
        Some(ToControl::Verify { shard: 3, digest: asked, text, peer }) => {
            assert_eq!((asked, text, peer), (digest(1), [b'k'; 48], PEER));
        }
        other => panic!("{other:?}"),
    }
    assert!(shard.poll_action().is_none());
    let wake = shard.handle(verdict(1, None), now);
    assert_eq!(wake, Some(WaitFor::Key(crate::key_cache::fingerprint(&digest(1)))));
    assert_eq!(known(&mut shard, 1, now).consumer, ConsumerId(7));
    let lapsed = now.after(KEY_TTL);
    assert_eq!(shard.identify(&digest(1), lapsed), Identity::Wait { verify: true });
}

#[test]
fn a_busy_verifier_is_an_answer_and_not_an_endless_wait() {
    let (mut shard, now) = (new_shard(), Nanos::from_s(1));
    shard.verify(digest(1), [b'k'; 48], PEER, now);
    shard.handle(ToShard::Verdict { digest: digest(1), verdict: Verdict::Busy }, now);
    assert_eq!(shard.identify(&digest(1), now), Identity::Busy);
    let later = now.after(Nanos::from_ms(100));
    assert_eq!(shard.identify(&digest(1), later), Identity::Wait { verify: true });
}

#[test]
fn what_the_key_may_not_use_is_refused_and_takes_nothing() {
    let now = Nanos::from_s(1);
    let (mut shard, _) = rich_shard(now);
    shard.handle(verdict(2, Some([ServiceId(11)].into())), now);
    let caller = known(&mut shard, 2, now);
    assert!(!shard.may_use(&caller, FLAT) && shard.may_use(&caller, TIERED));
    let before = shard.limits(&caller, at(now));
    let refused = shard.admit(&caller, &ask(FLAT, 5), at(now));
    assert!(matches!(refused, Admission::Refused(Refusal::ServiceNotAllowed)));
    assert_eq!(shard.limits(&caller, at(now)), before);
}

#[test]
fn a_key_forgotten_between_identify_and_admit_is_not_admitted() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = rich_shard(now);
    shard.handle(ToShard::Forget { key: KeyId(1) }, now);
    let refused = shard.admit(&caller, &ask(FLAT, 5), at(now));
    assert!(matches!(refused, Admission::Refused(Refusal::CallerForgotten)));
    shard.handle(verdict(1, None), now);
    let refused = shard.admit(&caller, &ask(FLAT, 5), at(now));
    assert!(matches!(refused, Admission::Refused(Refusal::CallerForgotten)), "the old proof");
    let caller = known(&mut shard, 1, now);
    let permit = admitted(shard.admit(&caller, &ask(FLAT, 5), at(now)));
    assert_eq!(permit.reserved_tokens(), 5);
}

/// Asks until it waits for rate or is told no; answers how often it was admitted.
fn admit_all(shard: &mut Shard, caller: &Caller, tokens: u64, now: Nanos) -> Vec<Permit> {
    let mut permits = Vec::new();
    while let Admission::Admitted(permit) = shard.admit(caller, &ask(FLAT, tokens), at(now)) {
        permits.push(permit);
    }
    permits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever waits or is refused has taken nothing: what was granted is all there in the end.
    #[test]
    fn only_admission_takes(
        requests in 1..20u32,
        tokens in 1..50u64,
        attempts in 1..10usize,
        rate_first: bool,
    ) {
        let now = Nanos::from_s(1);
        let (mut shard, caller) = poor_shard(now);
        let month = tokens * u64::from(requests);
        let (first, second) = match rate_first {
            true => (rate(requests), quota(month)),
            false => (quota(month), rate(requests)),
        };
        shard.handle(first, now);
        for _ in 0..attempts {
            let waits = matches!(
                (rate_first, shard.admit(&caller, &ask(FLAT, tokens), at(now))),
                (true, Admission::Wait(WaitFor::Quota(ConsumerId(7))))
                    | (false, Admission::Wait(WaitFor::Rate(BucketId(9))))
            );
            prop_assert!(waits);
        }
        prop_assert_eq!(shard.open_permits(), 0);
        shard.handle(second, now);
        let permits = admit_all(&mut shard, &caller, tokens, now);
        prop_assert_eq!(permits.len(), requests as usize);
        let reserved: u64 = permits.iter().map(Permit::reserved_tokens).sum();
        prop_assert_eq!(reserved, month);
        prop_assert_eq!(shard.open_permits(), permits.len());
        for permit in permits {
            shard.settle(permit, &usage(1, 0), at(now));
        }
        prop_assert_eq!(shard.open_permits(), 0);
        prop_assert_eq!(shard.admitted_total(), 1 + u64::from(requests));
        prop_assert_eq!(shard.leaked_total(), 0);
    }

    /// However keys are asked about, answered for and forgotten: `Known` needs a verdict that is
    /// younger than the last word to forget.
    #[test]
    fn a_forgotten_key_is_known_only_by_a_new_verdict(
        steps in proptest::collection::vec((0..5u64, 0..4u8), 0..120),
    ) {
        let (mut shard, now) = (new_shard(), Nanos::from_s(1));
        let mut granted = HashSet::new();
        for (key, step) in steps {
            match step {
                0 => {
                    let is_known = matches!(shard.identify(&digest(key), now), Identity::Known(_));
                    prop_assert_eq!(is_known, granted.contains(&key));
                }
                1 => {
                    shard.handle(verdict(key, None), now);
                    granted.insert(key);
                }
                2 => {
                    shard.handle(ToShard::Forget { key: KeyId(key) }, now);
                    granted.remove(&key);
                }
                _ if key == 0 => {
                    shard.handle(ToShard::ForgetConsumer { consumer: ConsumerId(7) }, now);
                    granted.clear();
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_shard_that_is_alone_in_a_month_tells_what_its_places_cost() {
    let (mut shard, now) = (new_shard(), Nanos::from_s(1));
    shard.handle(verdict(1, None), now);
    let caller = known(&mut shard, 1, now);
    let ToShard::Quota(grant) = quota(1_000) else { panic!("no grant") };
    let waits = shard.admit(&caller, &ask(TIERED, 1), at(now));
    assert!(matches!(waits, Admission::Wait(WaitFor::Quota(_))));
    shard.handle(ToShard::Quota(QuotaGrant { alone: true, ..grant }), now);
    let waits = shard.admit(&caller, &ask(TIERED, 1), at(now));
    assert!(matches!(waits, Admission::Wait(WaitFor::Rate(_))));
    shard.handle(rate(100), now);
    let cost = |shard: &mut Shard, service, tokens, used| {
        let permit = admitted(shard.admit(&caller, &ask(service, tokens), at(now)));
        shard.settle(permit, &usage(used, 0), at(now)).cost
    };
    assert_eq!(cost(&mut shard, TIERED, 60, 60), Some(NanoUsd(180)));
    assert_eq!(cost(&mut shard, FLAT, 50, 50), Some(NanoUsd(100)), "on another service");
    // Also where a call uses more than it has reserved, and with one in flight.
    let slow = admitted(shard.admit(&caller, &ask(TIERED, 500), at(now)));
    assert_eq!(cost(&mut shard, TIERED, 10, 60), Some(NanoUsd(40 * 3 + 20)));
    assert_eq!(shard.settle(slow, &usage(7, 0), at(now)).cost, Some(NanoUsd(7)));
}

#[test]
fn a_call_counts_in_the_month_of_its_admission() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = rich_shard(now);
    let last = Moment { now, unix_us: 1_796_083_199_999_999 };
    let next = Moment { now, unix_us: 1_796_083_200_000_000 };
    let left = shard.limits(&caller, last).remaining_tokens;
    let permit = admitted(shard.admit(&caller, &ask(TIERED, 40), last));
    assert_eq!((permit.period(), shard.limits(&caller, last).reset_tokens), (PERIOD, Nanos(1_000)));
    // The new month is a month of its own.
    let (december, whole) = (Period(202_612), Nanos(31 * 86_400 * 1_000_000_000));
    let waits = shard.admit(&caller, &ask(TIERED, 40), next);
    assert!(matches!(waits, Admission::Wait(WaitFor::Quota(_))), "{waits:?}");
    let granted = QuotaGrant {
        consumer: ConsumerId(7),
        period: december,
        granted: 40,
        left: 99_960,
        alone: false,
        exhausted: false,
        free: 99_960,
    };
    shard.handle(ToShard::Quota(granted), now);
    let fresh = admitted(shard.admit(&caller, &ask(TIERED, 40), next));
    assert_eq!((fresh.period(), shard.limits(&caller, next).reset_tokens), (december, whole));
    for permit in [permit, fresh] {
        // What other shards use may come before it; a call of no tokens stands nowhere.
        assert_eq!(shard.settle(permit, &usage(20, 10), next).cost, None);
    }
    let permit = admitted(shard.admit(&caller, &ask(TIERED, 10), last));
    assert_eq!(shard.settle(permit, &usage(0, 0), next).cost, Some(NanoUsd(0)));
    assert_eq!(shard.limits(&caller, last).remaining_tokens, left - 30);
    assert_eq!(shard.limits(&caller, next).remaining_tokens, 100_000 - 30);
}

#[test]
fn the_price_is_that_of_admission_whatever_the_catalog_becomes() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = rich_shard(now);
    let permit = admitted(shard.admit(&caller, &ask(FLAT, 5), at(now)));
    let dearer = service(10, vec![flat(1, 0, 2), flat(2, UNIX_US, 50)]);
    let change = shard.catalog().change_to(Item::Service(Arc::new(dearer)));
    assert!(change.is_some());
    change.map(|change| shard.handle(ToShard::Catalog(Arc::new(change)), now));
    let priced = shard.settle(permit, &usage(3, 1), at(now));
    assert_eq!((priced.cost, priced.price_version), (Some(NanoUsd(8)), 1));
    let permit = admitted(shard.admit(&caller, &ask(FLAT, 5), at(now)));
    let priced = shard.settle(permit, &usage(3, 1), at(now));
    assert_eq!((priced.cost, priced.price_version), (Some(NanoUsd(200)), 2));
}

#[test]
fn a_leaked_permit_is_charged_its_reservation_and_counted() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = rich_shard(now);
    let before = shard.limits(&caller, at(now)).remaining_tokens;
    drop(admitted(shard.admit(&caller, &ask(FLAT, 40), at(now))));
    let late = admitted(shard.admit(&caller, &ask(FLAT, 2), at(now)));
    let deadline = now.after(Nanos::from_s(60));
    assert!(shard.poll_timeout().is_some_and(|timeout| timeout <= deadline));
    shard.on_timeout(deadline);
    assert_eq!((shard.open_permits(), shard.leaked_total()), (0, 2));
    assert_eq!(shard.limits(&caller, at(deadline)).remaining_tokens, before - 42);
    assert_eq!(shard.settle(late, &usage(5, 0), at(deadline)).cost, Some(NanoUsd(10)));
    assert_eq!(shard.limits(&caller, at(deadline)).remaining_tokens, before - 42 - 3);
}

#[test]
fn a_call_that_reserves_nothing_still_needs_a_token_of_the_month() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = poor_shard(now);
    let waits = shard.admit(&caller, &ask(FLAT, 0), at(now));
    assert!(matches!(waits, Admission::Wait(WaitFor::Quota(_))));
}

#[test]
fn unspent_reservation_comes_back() {
    let now = Nanos::from_s(1);
    let (mut shard, caller) = rich_shard(now);
    let before = shard.limits(&caller, at(now));
    let permit = admitted(shard.admit(&caller, &ask(FLAT, 40), at(now)));
    shard.settle(permit, &usage(10, 5), at(now));
    let after = shard.limits(&caller, at(now));
    assert_eq!(after.remaining_tokens, before.remaining_tokens - 15);
    assert_eq!(after.limit_tokens, 100_000);
    assert_eq!((after.limit_requests, after.reset_tokens), (1_000, Nanos::from_s(3_600)));
}

#[test]
fn a_flood_of_keys_fills_no_more_than_its_bound() {
    let (mut shard, now) = (new_shard(), Nanos::from_s(1));
    let mut turned_away = 0;
    for number in 0..2 * VERIFIES_MAX as u64 {
        match shard.identify(&digest(number), now) {
            Identity::Wait { verify: true } => shard.verify(digest(number), [0; 48], PEER, now),
            Identity::Busy => turned_away += 1,
            other => panic!("{other:?}"),
        }
    }
    let posted = std::iter::from_fn(|| shard.poll_action()).count();
    assert_eq!((posted, turned_away), (VERIFIES_MAX, VERIFIES_MAX));
}
