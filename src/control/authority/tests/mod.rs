//! Instances that lease from one real Redis: together they keep to the plan, whatever happens to
//! the server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deployments;
mod redis_group;

use super::redis_server::RedisServer;
use super::{ChosenAuthority, Event, RedisAddress};
use crate::clock;
use crate::config::RedisUrl;
use crate::control::leases::Leases;
use crate::control::shard_senders::ShardSenders;
use crate::metrics::ControlMetrics;
use shard::catalog::{Catalog, Plan, WhenLost};
use shard::lease::{
    LONG_LEASE, LeaseAnswer, LeaseAsk, LeaseCall, LeaseKey, LeaseReply, RateAnswer, RateAsk, Status,
};
use shard::message::{QuotaWant, RateWant, ToShard};
use shard::units::{BucketId, ConsumerId, KeyId, Nanos, Period, PlanId};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::oneshot;

const RATE: u64 = 1_000;
const BURST: u64 = 100;
const QUOTA: u64 = 5_000;

/// An instance with one shard: it spends what it is granted, at once.
struct Instance {
    leases: Leases,
    events: flume::Receiver<Event>,
    senders: ShardSenders,
    mail: flume::Receiver<ToShard>,
    metrics: ControlMetrics,
    catalog: Catalog,
    lease: u64,
    used: u32,
    /// Instants at which its tokens may be spent, one each.
    slots: Vec<Nanos>,
    spent_at: Vec<Nanos>,
    deny_until: Nanos,
    asked_at: Option<Nanos>,
    tokens: u64,
    exhausted: bool,
    /// Months that it was asked to read.
    read: u32,
    revoked: Vec<BucketId>,
}

/// A Redis of this URL.
fn address(url: &str) -> RedisAddress {
    RedisAddress::new(&RedisUrl::parse(url).unwrap(), None).unwrap()
}

impl Instance {
    fn new(server: &RedisServer, holder: u128) -> Self {
        Self::at(address(&server.url()), holder)
    }

    fn at(at: RedisAddress, holder: u128) -> Self {
        let (authority, events) = ChosenAuthority::redis(at, holder);
        let (to_shard, mail) = flume::unbounded();
        let plan = Plan {
            id: PlanId(1),
            name: "p".into(),
            rate_per_s: RATE,
            burst: BURST,
            quota_tokens: QUOTA,
            when_lost: None,
        };
        Self {
            leases: Leases::new(holder, 1, WhenLost::Closed, authority),
            events,
            senders: ShardSenders::new(vec![to_shard]),
            mail,
            metrics: ControlMetrics::default(),
            catalog: Catalog::new(1, vec![plan], Vec::new()),
            lease: 0,
            used: 0,
            slots: Vec::new(),
            spent_at: Vec::new(),
            deny_until: Nanos(0),
            asked_at: None,
            tokens: 0,
            exhausted: false,
            read: 0,
            revoked: Vec::new(),
        }
    }

    /// What it does while Redis is out of reach.
    fn when_lost(mut self, when_lost: WhenLost) -> Self {
        let mut plan = self.catalog.plans[0].clone();
        plan.when_lost = Some(when_lost);
        self.catalog = Catalog::new(1, vec![plan], Vec::new());
        self
    }

    fn rate_want(&mut self, want: u32) -> RateWant {
        let used = std::mem::take(&mut self.used);
        RateWant {
            shard: 0,
            bucket: BucketId(1),
            plan: 0,
            lease: self.lease,
            want,
            need: want.min(1),
            demand: want.max(used),
            used,
            returned: 0,
        }
    }

    /// One turn of control's loop: asks for tokens whenever it has none.
    fn turn(&mut self) {
        let now = clock::now();
        for event in self.events.try_iter().collect::<Vec<_>>() {
            self.leases.on_event(event, now);
        }
        self.revoked.extend(self.leases.take_revoked());
        self.spend(now);
        if self.slots.is_empty() && self.asked_at.is_none() && now >= self.deny_until {
            self.asked_at = Some(now);
            let want = self.rate_want(20);
            self.leases.on_rate(want, &self.catalog, now);
        }
        for month in self.leases.advance(now, &self.senders, &self.metrics) {
            self.read += 1;
            self.leases.on_seed(month, Some(1_000), now);
        }
        for message in self.mail.try_iter().collect::<Vec<_>>() {
            self.hear(&message, now);
        }
    }

    fn hear(&mut self, message: &ToShard, now: Nanos) {
        match message {
            ToShard::Rate(grant) => {
                self.asked_at = None;
                if grant.lease != self.lease {
                    self.slots.clear();
                    self.lease = grant.lease;
                }
                self.deny_until = grant.deny_until;
                let slot = |place: u64| grant.not_before.after(Nanos(grant.spacing.0 * place));
                self.slots.extend((0..u64::from(grant.granted)).map(slot));
                self.spend(now);
            }
            ToShard::Quota(grant) => {
                self.tokens += grant.granted;
                self.exhausted = grant.exhausted;
            }
            _ => {}
        }
    }

    fn spend(&mut self, now: Nanos) {
        let before = self.slots.len();
        self.slots.retain(|slot| *slot > now);
        let spent = before - self.slots.len();
        self.used += spent as u32;
        self.spent_at.extend(std::iter::repeat_n(now, spent));
    }

    fn want_quota(&mut self, need: u64) {
        let want = QuotaWant {
            shard: 0,
            consumer: ConsumerId(1),
            plan: 0,
            period: Period(202_611),
            want: need,
            need,
            least: need,
            consumed: 0,
            returned: 0,
            overrun: 0,
        };
        self.leases.on_quota(want, &self.catalog, clock::now());
    }
}

/// Turns all of them until `done`, for so long at most.
async fn turn_until(
    instances: &mut [Instance],
    span: Duration,
    done: impl Fn(&[Instance]) -> bool,
) -> bool {
    let until = clock::now().after(Nanos::from_us(span.as_micros() as u64));
    let mut turns = tokio::time::interval(Duration::from_millis(1));
    while clock::now() < until {
        if done(instances) {
            return true;
        }
        instances.iter_mut().for_each(Instance::turn);
        turns.tick().await;
    }
    done(instances)
}

/// The most that was spent over what an ideal bucket would have admitted.
fn over_the_plan(instances: &[Instance]) -> f64 {
    let mut spent: Vec<u64> =
        instances.iter().flat_map(|it| it.spent_at.iter().map(|at| at.0)).collect();
    spent.sort_unstable();
    let (mut level, mut last, mut worst) = (BURST as f64, 0, 0f64);
    for at in spent {
        level = (level + (at - last) as f64 * RATE as f64 / 1e9).min(BURST as f64) - 1.0;
        last = at;
        worst = worst.max(-level);
    }
    worst
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(30);

fn any_spent(instances: &[Instance]) -> bool {
    instances.iter().all(|it| !it.spent_at.is_empty())
}

#[test]
fn three_instances_keep_to_one_plan() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..4).map(|id| Instance::new(&server, id)).collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        let from = clock::now();
        turn_until(&mut instances, Duration::from_secs(2), |_| false).await;
        assert!(over_the_plan(&instances) <= 0.0, "{}", over_the_plan(&instances));
        let spent = instances.iter().flat_map(|it| &it.spent_at).filter(|at| **at > from).count();
        let span_s = clock::now().since(from).0 as f64 / 1e9;
        let calls: u64 = instances.iter().map(|it| it.metrics.authority_calls.get()).sum();
        println!("{spent} spent of {:.0}, {calls} calls", RATE as f64 * span_s);
    });
}

#[test]
fn a_month_ends_to_the_token_over_instances() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..4).map(|id| Instance::new(&server, id)).collect();
        for need in [1_200, 1_300, 1_500] {
            let place = (need % 7) as usize % 3;
            let before = instances[place].tokens;
            instances[place].want_quota(need);
            let served = |all: &[Instance]| all[place].tokens >= before + need;
            while !turn_until(&mut instances, Duration::from_millis(300), served).await {
                // A new Redis grants after its quarantine; a shard asks again, as a caller would.
                instances[place].want_quota(need);
            }
        }
        assert_eq!(instances.iter().map(|it| it.tokens).sum::<u64>(), QUOTA - 1_000);
        let until = clock::now().after(Nanos::from_s(PATIENCE.as_secs()));
        while !instances[0].exhausted {
            assert!(clock::now() < until, "nobody says that the month is spent");
            // An answer that is late says nothing; a shard asks again then too.
            instances[0].want_quota(1);
            turn_until(&mut instances, Duration::from_millis(300), |all| all[0].exhausted).await;
        }
        assert_eq!(instances.iter().map(|it| it.read).sum::<u32>(), 1, "the ledger is asked once");
    });
}

/// Both are granted some after this.
async fn served_again(instances: &mut [Instance]) -> bool {
    let before: Vec<_> = instances.iter().map(|it| it.spent_at.len()).collect();
    let served =
        |all: &[Instance]| all.iter().zip(&before).all(|(it, before)| it.spent_at.len() > *before);
    turn_until(instances, PATIENCE, served).await
}

#[test]
fn a_redis_that_forgets_all_grants_nothing_twice() {
    let mut server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..3).map(|id| Instance::new(&server, id)).collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        server.restart();
        turn_until(&mut instances, Duration::from_secs(1), |_| false).await;
        assert!(served_again(&mut instances).await, "nobody was granted any after the restart");
        turn_until(&mut instances, Duration::from_millis(500), |_| false).await;
        assert!(over_the_plan(&instances) <= 0.0, "{}", over_the_plan(&instances));
    });
}

#[test]
fn a_silent_redis_is_waited_for_by_nobody() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..3).map(|id| Instance::new(&server, id)).collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        server.pause();
        // Past the bound for an answer: the connection is given up, and another one is tried.
        turn_until(&mut instances, Duration::from_secs(1), |_| false).await;
        server.resume();
        assert!(served_again(&mut instances).await, "nobody was granted any afterwards");
        assert!(over_the_plan(&instances) <= 0.0, "{}", over_the_plan(&instances));
    });
}

#[test]
fn a_script_that_is_forgotten_is_made_known_again() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..3).map(|id| Instance::new(&server, id)).collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        let mut other = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut other).unwrap();
        turn_until(&mut instances, Duration::from_millis(100), |_| false).await;
        assert!(served_again(&mut instances).await, "nobody was granted any afterwards");
        assert!(over_the_plan(&instances) <= 0.0, "{}", over_the_plan(&instances));
    });
}

/// As the script asks for it, and by whoever else speaks its language.
#[test]
fn what_redis_says_unasked_is_heard_in_its_order() {
    let server = RedisServer::start();
    let holder = 0x0a0b;
    runtime().block_on(async {
        let at = address(&server.url());
        let (mut authority, events) = ChosenAuthority::redis(at, holder);
        assert!(!authority.is_recallable(clock::now()), "nothing is heard yet");
        while !authority.is_recallable(clock::now()) {
            authority.on_event(events.recv_async().await.unwrap());
        }
        let (key, bucket) = (KeyId(7), BucketId(u64::MAX));
        let mut other = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let mut publish = |channel: &str, text: &str| {
            redis::cmd("PUBLISH").arg(channel).arg(text).query::<u64>(&mut other).unwrap()
        };
        let channel = "tollgate:recall:00000000000000000000000000000a0b";
        assert_eq!(publish(channel, "no number"), 1);
        assert_eq!(publish(channel, &bucket.0.to_string()), 1);
        assert_eq!(publish(channel, "7:202611"), 1);
        let (told, others_told) = oneshot::channel();
        authority.tell_revoked(key, told);
        let (mut recalled, mut month, mut revoked) = (false, None, false);
        while !(recalled && month.is_some() && revoked) {
            match events.recv_async().await.unwrap() {
                Event::Recalled(LeaseKey::Rate(named)) => recalled = named == bucket,
                Event::Recalled(named) => month = Some(named),
                Event::Revoked(named) => revoked = named == [key],
                event => drop(authority.on_event(event)),
            }
        }
        assert_eq!(month, Some(LeaseKey::Quota(ConsumerId(7), Period(202_611))));
        assert!(others_told.await.unwrap());
    });
}

/// Whoever reaches Redis later, or is there and hears nothing, reads it.
#[test]
fn a_revocation_that_nobody_heard_is_read() {
    const KEYS: u64 = 3_000;
    let server = RedisServer::start();
    runtime().block_on(async {
        let revoked = async |authority: &mut ChosenAuthority, events: &flume::Receiver<Event>| {
            let mut revoked = HashSet::new();
            while revoked.len() < KEYS as usize {
                match events.recv_async().await.unwrap() {
                    Event::Revoked(keys) => revoked.extend(keys),
                    event => drop(authority.on_event(event)),
                }
            }
            revoked
        };
        let (mut first, heard_by_first) = ChosenAuthority::redis(address(&server.url()), 1);
        while !first.is_recallable(clock::now()) {
            first.on_event(heard_by_first.recv_async().await.unwrap());
        }
        server.command("ACL SETUSER default -publish");
        for key in 0..KEYS {
            let (told, others_told) = oneshot::channel();
            first.tell_revoked(KeyId(key), told);
            assert!(others_told.await.unwrap(), "it is kept although it cannot be said");
        }
        let all: HashSet<KeyId> = (0..KEYS).map(KeyId).collect();
        assert_eq!(revoked(&mut first, &heard_by_first).await, all);
        let (mut late, heard_by_late) = ChosenAuthority::redis(address(&server.url()), 2);
        assert_eq!(revoked(&mut late, &heard_by_late).await, all);
        server.command("ACL SETUSER default -xadd");
        let (told, others_told) = oneshot::channel();
        first.tell_revoked(KeyId(KEYS), told);
        assert!(!others_told.await.unwrap(), "nobody knows");
        assert_eq!(first.lost_at(), None);
    });
}

/// A holder's way to Redis without a pool, which asks what the test wants.
struct Holder {
    id: u128,
    authority: ChosenAuthority,
    events: flume::Receiver<Event>,
    calls: u64,
}

impl Holder {
    fn new(server: &RedisServer, id: u128) -> Self {
        let at = address(&server.url());
        let (authority, events) = ChosenAuthority::redis(at, id);
        Self { id, authority, events, calls: 0 }
    }

    /// The answer to a call for tokens, as soon as Redis grants any at all.
    async fn ask(&mut self, want: u64, long_want: u64) -> RateAnswer {
        loop {
            self.calls += 1;
            let ask = LeaseAsk::Rate(RateAsk {
                bucket: BucketId(1),
                rate_per_s: RATE,
                burst: BURST,
                lease: 0,
                want,
                long_want,
                demand_per_s: 1,
                used: 0,
                returned: 0,
                rtt: Nanos::from_ms(1),
            });
            let call = LeaseCall { holder: self.id, seq: self.calls, sent_at: clock::now(), ask };
            if let Some(answer) = self.answer(&call).await
                && answer.status == Status::Done
            {
                return answer;
            }
        }
    }

    /// `None`: the connection is not there yet.
    async fn answer(&mut self, call: &LeaseCall) -> Option<RateAnswer> {
        self.authority.call(call, clock::now());
        self.authority.send();
        loop {
            let event = tokio::time::timeout(Duration::from_millis(50), self.events.recv_async());
            let (answered, _) = self.authority.on_event(event.await.ok()?.unwrap());
            for (_, LeaseReply { seq, answer, .. }) in answered {
                if let (LeaseAnswer::Rate(answer), true) = (answer, seq == call.seq) {
                    return Some(answer);
                }
            }
        }
    }
}

#[test]
fn a_long_lease_is_called_back_by_whoever_wants_more_than_is_left() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let (mut quiet, mut hungry) = (Holder::new(&server, 1), Holder::new(&server, 2));
        quiet.ask(1, 0).await;
        // It fills, from empty at the quarantine's end, beside that token.
        while quiet.ask(0, 0).await.left < BURST as i64 - 1 {}
        let long = quiet.ask(1, BURST).await;
        assert!(long.long && long.ttl >= LONG_LEASE, "{long:?}");
        assert_eq!(long.granted, BURST / 2 - 1, "half of the burst is left for others");
        let little = hungry.ask(10, 0).await;
        let recalled = |event| matches!(event, Event::Recalled(_));
        assert_eq!((little.granted, quiet.events.try_iter().any(recalled)), (10, false));
        assert!(hungry.ask(BURST, 0).await.granted < BURST);
        let recalled = async {
            while !matches!(
                quiet.events.recv_async().await.unwrap(),
                Event::Recalled(LeaseKey::Rate(BucketId(1)))
            ) {}
        };
        tokio::time::timeout(Duration::from_secs(5), recalled).await.unwrap();
    });
}

/// The connection that stays silent is not taken for one that has nothing to say.
#[test]
fn a_silent_redis_recalls_nothing() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let at = address(&server.url());
        let (mut authority, events) = ChosenAuthority::redis(at, 1);
        while !authority.is_recallable(clock::now()) {
            authority.on_event(events.recv_async().await.unwrap());
        }
        server.pause();
        let paused_at = clock::now();
        while authority.is_recallable(clock::now()) {
            let event = tokio::time::timeout(Duration::from_millis(10), events.recv_async()).await;
            if let Ok(event) = event {
                authority.on_event(event.unwrap());
            }
        }
        assert!(clock::now().since(paused_at) < Nanos::from_s(1));
        server.resume();
        while !authority.is_recallable(clock::now()) {
            authority.on_event(events.recv_async().await.unwrap());
        }
    });
}

/// Neither a push nor the store has to tell of it.
#[test]
fn a_revoked_bucket_is_heard_of_by_the_next_lease() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let mut instances: Vec<_> = (1..4).map(|id| Instance::new(&server, id)).collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        instances[0].leases.revoke(BucketId(1));
        let heard = |all: &[Instance]| all.iter().all(|it| it.revoked.contains(&BucketId(1)));
        assert!(turn_until(&mut instances, PATIENCE, heard).await, "not all heard");
        // These shards know no keys: what is on lease they spend until it lapses.
        turn_until(&mut instances, Duration::from_secs(1), |_| false).await;
        let spent: usize = instances.iter().map(|it| it.spent_at.len()).sum();
        turn_until(&mut instances, Duration::from_millis(500), |_| false).await;
        assert_eq!(instances.iter().map(|it| it.spent_at.len()).sum::<usize>(), spent);
    });
}

#[test]
fn degraded_instances_go_on_at_half_of_the_rate_without_redis() {
    let server = RedisServer::start();
    runtime().block_on(async {
        let instances = (1..3).map(|id| Instance::new(&server, id).when_lost(WhenLost::Degraded));
        let mut instances: Vec<_> = instances.collect();
        assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
        turn_until(&mut instances, Duration::from_millis(500), |_| false).await;
        server.pause();
        let lost = |all: &[Instance]| all.iter().all(|it| it.metrics.authority_lost.get() == 1);
        assert!(turn_until(&mut instances, PATIENCE, lost).await, "nobody noticed");
        let from = clock::now();
        turn_until(&mut instances, Duration::from_secs(2), |_| false).await;
        let spent = instances.iter().flat_map(|it| &it.spent_at).filter(|at| **at > from).count();
        let half = clock::now().since(from).0 as f64 / 1e9 * RATE as f64 / 2.0;
        assert!((spent as f64) < half + BURST as f64, "{spent} of {half}");
        assert!((spent as f64) > half * 0.5, "{spent} of {half}");
        server.resume();
        let found = |all: &[Instance]| all.iter().all(|it| it.metrics.authority_lost.get() == 0);
        assert!(
            turn_until(&mut instances, PATIENCE, found).await,
            "nobody noticed that it is back"
        );
        assert!(served_again(&mut instances).await, "nobody was granted any afterwards");
    });
}
