//! A shard's core against a control that the test plays: nothing of an account is lost on the way,
//! whatever is full, closed or stuck.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::admitted::Admitted;
use super::call::{Beginning, CallId};
use super::core::{Core, Parts, ProcessState};
use super::mailbox;
use crate::channels::ShardChannels;
use crate::clock;
use crate::config::{Config, Durability, UsageConfig};
use crate::journal::tests::{config as usage_config, journal};
use crate::metrics::Metrics;
use crate::net;
use crate::wire::error::ApiError;
use shard::catalog::{Catalog, Plan, PriceModel, PriceVersion, Service, TokenPrices};
use shard::key_cache::{Caller, Identity};
use shard::message::{KeyGrant, QuotaGrant, RateGrant, ToControl, ToShard, Verdict};
use shard::record::{Outcome, Usage};
use shard::units::{BucketId, ConsumerId, KeyId, Nanos, Period, PlanId, ServiceId};
use shard::{Admission, Ask, Permit, Shard, ShardConfig};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

const DIGEST: [u8; 32] = [7; 32];

struct Fixture {
    core: Core,
    to_control: flume::Receiver<ToControl>,
    _to_shard: flume::Sender<ToShard>,
    _dir: TempDir,
}

fn catalog() -> Arc<Catalog> {
    let plan = Plan {
        id: PlanId(1),
        name: "basic".into(),
        rate_per_s: 10,
        burst: 10,
        quota_tokens: 1_000,
        when_lost: None,
    };
    let model = PriceModel::PerToken(TokenPrices::default());
    let service = Service {
        id: ServiceId(1),
        name: "model".into(),
        authority: "upstream".into(),
        is_tls: false,
        addrs: Box::new([]),
        base_path: "".into(),
        default_path: "/".into(),
        credential_header: None,
        prices: [PriceVersion { version: 1, effective_at_unix_us: 0, model }].into(),
        enabled: true,
        deleted: false,
    };
    Arc::new(Catalog::new(1, vec![plan], vec![service]))
}

/// A core whose channel to control takes `room` messages.
fn fixture(durability: Durability, room: usize) -> Fixture {
    let dir = TempDir::new().unwrap();
    let usage = UsageConfig { durability, sync_timeout_ms: 20, ..usage_config(4, 4) };
    let config = Config { usage, ..Config::default() };
    let journal = journal(dir.path(), &config.usage);
    let (to_control, from_shards) = flume::bounded(room);
    let (to_shard, from_control) = flume::bounded(1);
    let shard = ShardConfig { shard: 0, permit_deadline: Nanos::from_s(60) };
    let core = Core::new(Parts {
        index: 0,
        config: Arc::new(config),
        state: Arc::new(ProcessState { ready: AtomicBool::new(true), ..Default::default() }),
        digest_key: [0; 32],
        known_ids: Arc::new(shard::known_ids::KnownIds::with_room_for(0)),
        shard: Shard::new(shard, catalog()),
        journals: [journal.shared()].into(),
        journal,
        channels: ShardChannels {
            to_control,
            from_control,
            to_writer: crossbeam_channel::bounded(8).0,
        },
        metrics: Arc::new(Metrics::new(1)),
        tls: net::client_config(rustls::RootCertStore::empty()).unwrap(),
    });
    Fixture { core, to_control: from_shards, _to_shard: to_shard, _dir: dir }
}

/// A permit of ten tokens.
fn permit(core: &Core) -> (Permit, Caller) {
    let at = clock::moment_lately();
    let mut shard = core.shard.borrow_mut();
    let consumer = ConsumerId(7);
    let grant = KeyGrant {
        key: KeyId(1),
        consumer,
        bucket: BucketId(9),
        plan: 0,
        expires_at: None,
        services: None,
    };
    let verdict = Verdict::Granted(Box::new(grant));
    assert!(matches!(shard.identify(&DIGEST, at.now), Identity::Wait { verify: true }));
    shard.verify(DIGEST, [b'x'; 48], [127, 0, 0, 1].into(), at.now);
    shard.handle(ToShard::Verdict { digest: DIGEST, verdict }, at.now);
    let Identity::Known(caller) = shard.identify(&DIGEST, at.now) else { panic!("not known") };
    let ask = Ask { service: 0, reserve_tokens: 10, strict: true, retry: false };
    for _ in 0..3 {
        match shard.admit(&caller, &ask, at) {
            Admission::Admitted(permit) => return (permit, caller),
            Admission::Wait(_) => {}
            Admission::Refused(refusal) => panic!("{refusal:?}"),
        }
        let period = Period::of(at.unix_us);
        let (alone, exhausted, free) = (false, false, 990);
        let quota = QuotaGrant { consumer, period, granted: 10, left: 990, alone, exhausted, free };
        shard.handle(ToShard::Quota(quota), at.now);
        let rate = RateGrant {
            bucket: BucketId(9),
            lease: 1,
            granted: 5,
            not_before: Nanos(0),
            spacing: Nanos(0),
            deadline: at.now.after(Nanos::from_s(60)),
            keep: false,
            deny_until: Nanos(0),
            left: 5,
        };
        shard.handle(ToShard::Rate(rate), at.now);
    }
    panic!("neither admitted nor refused")
}

fn beginning() -> Beginning {
    Beginning { record_id: 1, request_id: CallId::ours(1), begun: clock::lately() }
}

#[test]
fn a_permit_that_meets_a_closed_journal_is_settled() {
    let Fixture { core, .. } = &fixture(Durability::Process, 8);
    let (permit, caller) = permit(core);
    core.journal.borrow_mut().take().unwrap().close();
    let error = Admitted::begin(core, permit, caller, (1, false), &beginning()).err();
    assert_eq!(error, Some(ApiError::Overloaded));
    assert_eq!(core.shard.borrow().open_permits(), 0);
}

#[test]
fn what_a_full_channel_did_not_take_is_posted_later() {
    let Fixture { core, to_control, .. } = &fixture(Durability::Process, 1);
    let months: BTreeSet<u64> = (0..5).collect();
    for month in &months {
        let (consumer, period) = (ConsumerId(*month), Period(202_611));
        core.shard.borrow_mut().handle(ToShard::RecallQuota { consumer, period }, clock::lately());
    }
    let mut posted = BTreeSet::new();
    for _ in 0..=months.len() {
        let is_all = mailbox::post(core);
        for message in to_control.drain() {
            let ToControl::Quota(want) = message else { panic!("{message:?}") };
            assert!(posted.insert(want.consumer.0), "posted twice");
        }
        assert!(!is_all || posted == months, "{posted:?} are not all");
    }
    assert_eq!(posted, months);
}

#[test]
fn a_disk_that_does_not_answer_ends_the_wait() {
    let durable = net::run(async {
        let Fixture { core, .. } = &fixture(Durability::Disk, 8);
        let (permit, caller) = permit(core);
        let begun = Admitted::begin(core, permit, caller, (1, false), &beginning());
        let bill = begun.unwrap().settle(core, 200, Outcome::Completed, &Usage::default());
        assert_eq!(core.shard.borrow().open_permits(), 0);
        // Nobody syncs here.
        core.durable(bill.seq).await
    });
    assert_eq!(durable.unwrap(), Err(ApiError::Overloaded));
}
