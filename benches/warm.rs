//! A shard whose keys, tokens and months are at hand, with a control that always says yes: for
//! benches and the test of allocations. It has no clock; all happens at one instant.

use shard::catalog::{
    Catalog, Plan, PriceModel, PriceVersion, Service, Tier, TokenPrices, WhenLost,
};
use shard::key_cache::{Caller, Identity};
use shard::message::{
    KEY_TEXT_BYTES, KeyDigest, KeyGrant, QuotaGrant, RateGrant, ToControl, ToShard, Verdict,
};
use shard::permit::Permit;
use shard::record::Usage;
use shard::units::{BucketId, ConsumerId, KeyId, Moment, Nanos, PlanId, ServiceId};
use shard::{Admission, Ask, Priced, Refusal, Shard, ShardConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Index of the service priced per token.
pub const PER_TOKEN: u32 = 0;
/// Index of the service with graduated prices.
pub const TIERED: u32 = 1;
/// Index of the service with a monthly fee.
pub const SUBSCRIPTION: u32 = 2;
/// The only instant.
pub const AT: Moment = Moment { now: Nanos::from_s(1_000), unix_us: 1_795_000_000_000_000 };
/// What a call used.
pub const USAGE: Usage =
    Usage { input_tokens: 1_700, cached_tokens: 300, output_tokens: 160, estimated: false };

const FAR: Nanos = Nanos(u64::MAX / 2);
const SPENT_PLAN: u32 = 1;

/// The shard, and the digests of two keys: one with tokens, one without.
pub struct Warm {
    shard: Shard,
    rich: KeyDigest,
    spent: KeyDigest,
}

impl Warm {
    /// With both keys verified and every service called once.
    pub fn new() -> Self {
        let config = ShardConfig { shard: 0, permit_deadline: FAR };
        let shard = Shard::new(config, Arc::new(catalog()));
        let mut warm = Self { shard, rich: [1; 32], spent: [2; 32] };
        for digest in [warm.rich, warm.spent] {
            assert!(matches!(warm.shard.identify(&digest, AT.now), Identity::Wait { .. }));
            let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
            warm.shard.verify(digest, [b'x'; KEY_TEXT_BYTES], peer, AT.now);
            warm.answer();
        }
        for service in [PER_TOKEN, TIERED, SUBSCRIPTION] {
            let permit = warm.decide(service);
            let _ = warm.settle(permit);
        }
        assert!(warm.refuse());
        warm
    }

    /// Identifies the key that has tokens.
    pub fn caller(&mut self) -> Option<Caller> {
        known(&mut self.shard, &self.rich)
    }

    /// Identifies, admits and reserves.
    #[expect(clippy::panic, reason = "there is no call without its permit")]
    pub fn decide(&mut self, service: u32) -> Permit {
        for _ in 0..4 {
            let Some(caller) = self.caller() else { break };
            match self.shard.admit(&caller, &ask(service), AT) {
                Admission::Admitted(permit) => return permit,
                Admission::Wait(_) => self.answer(),
                Admission::Refused(_) => break,
            }
        }
        panic!("the rich key is not admitted");
    }

    /// Prices the call and refunds what it left.
    pub fn settle(&mut self, permit: Permit) -> Priced {
        let priced = self.shard.settle(permit, &USAGE, AT);
        self.answer();
        priced
    }

    /// Identifies, and is refused by the rate.
    pub fn refuse(&mut self) -> bool {
        for _ in 0..4 {
            let Some(caller) = known(&mut self.shard, &self.spent) else { return false };
            match self.shard.admit(&caller, &ask(PER_TOKEN), AT) {
                Admission::Refused(Refusal::RateLimited { .. }) => return true,
                _ => self.answer(),
            }
        }
        false
    }

    /// Plays control: grants everything except the spent plan's rate.
    fn answer(&mut self) {
        while let Some(word) = self.shard.poll_action() {
            let answer = match word {
                ToControl::Verify { digest, .. } => {
                    ToShard::Verdict { digest, verdict: Verdict::Granted(Box::new(grant(digest))) }
                }
                ToControl::Rate(want) if want.want > 0 => {
                    let is_spent = want.plan == SPENT_PLAN;
                    ToShard::Rate(RateGrant {
                        bucket: want.bucket,
                        lease: 1,
                        granted: if is_spent { 0 } else { 1_000_000_000 },
                        not_before: Nanos(0),
                        spacing: Nanos(0),
                        deadline: FAR,
                        keep: false,
                        deny_until: if is_spent { FAR } else { Nanos(0) },
                        left: 0,
                    })
                }
                ToControl::Quota(want) if want.want > 0 => ToShard::Quota(QuotaGrant {
                    consumer: want.consumer,
                    period: want.period,
                    granted: 1 << 50,
                    left: 1 << 50,
                    alone: false,
                    exhausted: false,
                    free: 1 << 50,
                }),
                _ => continue,
            };
            let _ = self.shard.handle(answer, AT.now);
        }
    }
}

fn known(shard: &mut Shard, digest: &KeyDigest) -> Option<Caller> {
    match shard.identify(digest, AT.now) {
        Identity::Known(caller) => Some(caller),
        _ => None,
    }
}

const fn ask(service: u32) -> Ask {
    Ask { service, reserve_tokens: 1_041, strict: false, retry: false }
}

fn grant(digest: KeyDigest) -> KeyGrant {
    let number = u64::from(digest[0]);
    KeyGrant {
        key: KeyId(number),
        consumer: ConsumerId(number),
        bucket: BucketId(number),
        plan: u32::from(digest[0]) - 1,
        expires_at: None,
        services: None,
    }
}

/// Prices as the demo asks for.
pub fn models() -> [PriceModel; 3] {
    let prices = |input: u64, cached: u64, output: u64| TokenPrices {
        input_nanousd_per_mtok: input * 1_000_000_000,
        cached_input_nanousd_per_mtok: cached * 1_000_000_000,
        output_nanousd_per_mtok: output * 1_000_000_000,
    };
    let tier = |up_to_tokens, price| Tier { up_to_tokens, prices: prices(price, price, 5 * price) };
    [
        PriceModel::PerToken(prices(3, 1, 10)),
        PriceModel::Tiered(
            [tier(Some(1_000_000), 3), tier(Some(10_000_000), 2), tier(None, 1)].into(),
        ),
        PriceModel::Subscription {
            fee_nanousd: 20_000_000_000,
            allowance_tokens: 5_000_000,
            overage: prices(1, 1, 4),
        },
    ]
}

fn catalog() -> Catalog {
    let plan = |id, name: &str| Plan {
        id: PlanId(id),
        name: name.into(),
        rate_per_s: 10_000_000,
        burst: 10_000_000,
        quota_tokens: 1 << 52,
        when_lost: Some(WhenLost::Closed),
    };
    let services = models().into_iter().enumerate().map(|(index, model)| Service {
        id: ServiceId(index as u64),
        name: format!("demo-{index}").into(),
        authority: "127.0.0.1:9000".into(),
        is_tls: false,
        addrs: [].into(),
        base_path: "".into(),
        default_path: "/v1/chat/completions".into(),
        credential_header: None,
        prices: [PriceVersion { version: 1, effective_at_unix_us: 0, model }].into(),
        enabled: true,
        deleted: false,
    });
    Catalog::new(1, vec![plan(1, "rich"), plan(2, "spent")], services.collect())
}
