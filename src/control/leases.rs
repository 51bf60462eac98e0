//! The instance's pool of leases, and what goes between it and the authority. A month that the
//! authority does not know is read from the ledger first; until then its calls stay unanswered, as
//! if on the way.

use super::authority::{Answered, ChosenAuthority, Event};
use super::shard_senders::ShardSenders;
use crate::metrics::ControlMetrics;
use shard::catalog::{Catalog, WhenLost};
use shard::lease::{LeaseAnswer, LeaseAsk, LeaseCall, Recall, Status};
use shard::message::{QuotaWant, RateWant};
use shard::pool::{Pool, PoolConfig};
use shard::units::{BucketId, ConsumerId, KeyId, Nanos, Period};
use std::collections::HashMap;
use tokio::sync::oneshot;

/// How long a call of the authority in Redis is taken to last until one is measured.
const FIRST_ROUND_TRIP: Nanos = Nanos::from_ms(2);
/// Least time between two calls of it about one bucket, whatever is asked of us.
const CALL_GAP: Nanos = Nanos::from_ms(10);

/// A connection that is back before this was never lost.
const LOST_AFTER: Nanos = Nanos::from_ms(200);

/// A month whose consumption the ledger has to tell.
pub(crate) type MonthToRead = (ConsumerId, Period);

/// See the module.
pub(crate) struct Leases {
    pool: Pool,
    authority: ChosenAuthority,
    /// The authority is out of reach, and has been for long enough to go on without it.
    is_lost: bool,
    /// Buckets that the authority has called revoked.
    revoked: Vec<BucketId>,
    /// Months that have to be read.
    unknown: Vec<MonthToRead>,
    /// Months being read, each with the call that waits for it.
    seeding: HashMap<MonthToRead, LeaseCall>,
}

impl Leases {
    /// No leases. `holder` names the process and is never used again.
    pub(crate) fn new(
        holder: u128,
        shards: u16,
        when_lost: WhenLost,
        authority: ChosenAuthority,
    ) -> Self {
        let (rtt, call_gap) = match &authority {
            // No network, so no round trip and nothing to be spared.
            ChosenAuthority::Embedded(_) => (Nanos(0), Nanos(0)),
            ChosenAuthority::Redis(_) => (FIRST_ROUND_TRIP, CALL_GAP),
        };
        Self {
            pool: Pool::new(PoolConfig {
                holder,
                shards,
                rtt,
                call_gap,
                recallable: false,
                when_lost,
            }),
            authority,
            is_lost: false,
            revoked: Vec::new(),
            unknown: Vec::new(),
            seeding: HashMap::new(),
        }
    }

    /// A shard's word on a bucket; [`Leases::advance`] answers.
    pub(crate) fn on_rate(&mut self, want: RateWant, catalog: &Catalog, now: Nanos) {
        if let Some(plan) = catalog.plans.get(want.plan as usize) {
            self.pool.on_rate(want, plan, now);
        }
    }

    /// A shard's word on a month; [`Leases::advance`] answers.
    pub(crate) fn on_quota(&mut self, want: QuotaWant, catalog: &Catalog, now: Nanos) {
        if let Some(plan) = catalog.plans.get(want.plan as usize) {
            self.pool.on_quota(want, plan, now);
        }
    }

    /// The instance ends: what it holds of months is for the others.
    pub(crate) fn give_back_months(&mut self, now: Nanos) {
        self.pool.give_back_months(now);
    }

    /// Has the authority to hear, or to answer, anything about a month? One that is out of reach
    /// cannot.
    pub(crate) fn has_month_calls(&self) -> bool {
        self.authority.lost_at().is_none() && self.pool.has_month_calls()
    }

    /// No token of the month is in the ledger, which no other instance writes to. Before
    /// [`Leases::on_seed`].
    pub(crate) fn is_alone_in(&mut self, month: MonthToRead) {
        self.pool.is_alone_in(month);
    }

    /// The ledger's word on a month that [`Leases::advance`] asked for. `None`: it could not be
    /// read; the pool repeats its call, and the question comes again.
    pub(crate) fn on_seed(&mut self, month: MonthToRead, tokens: Option<u64>, now: Nanos) {
        let Some(call) = self.seeding.remove(&month) else { return };
        if let Some(tokens) = tokens {
            self.authority.seed_quota(month, tokens);
            self.call(&call, now);
        }
    }

    /// What has come from Redis; [`Leases::advance`] goes on from there.
    pub(crate) fn on_event(&mut self, event: Event, now: Nanos) {
        if let Event::Recalled(key) = event {
            return self.pool.on_recall(key, now);
        }
        let (answered, round_trip) = self.authority.on_event(event);
        if let Some(round_trip) = round_trip {
            self.pool.on_round_trip(round_trip);
        }
        answered.into_iter().for_each(|answered| self.on_answer(answered, now));
    }

    /// From now on the authority grants nothing of the bucket, to nobody.
    pub(crate) fn revoke(&mut self, bucket: BucketId) {
        self.authority.revoke(bucket);
    }

    /// Buckets of which the authority grants nothing any more, by its last answers.
    pub(crate) fn take_revoked(&mut self) -> Vec<BucketId> {
        std::mem::take(&mut self.revoked)
    }

    /// Tells other instances that the key is refused from now on; `told` hears whether they know.
    pub(crate) fn tell_revoked(&self, key: KeyId, told: oneshot::Sender<bool>) {
        self.authority.tell_revoked(key, told);
    }

    fn call(&mut self, call: &LeaseCall, now: Nanos) {
        if let Some(reply) = self.authority.call(call, now) {
            self.on_answer((*call, reply), now);
        }
        while let Some(Recall { key, .. }) = self.authority.poll_recall() {
            self.pool.on_recall(key, now);
        }
    }

    fn on_answer(&mut self, (call, reply): Answered, now: Nanos) {
        match reply.answer {
            LeaseAnswer::Quota(answer) if answer.status == Status::NeedSeed => {
                let month = (answer.consumer, answer.period);
                if self.seeding.insert(month, call).is_none() {
                    self.unknown.push(month);
                }
            }
            LeaseAnswer::Rate(answer) if answer.status == Status::Revoked => {
                self.revoked.push(answer.bucket);
                self.pool.on_reply(reply, now);
            }
            _ => self.pool.on_reply(reply, now),
        }
    }

    /// When [`Leases::advance`] has something to do that no message brings about.
    pub(crate) fn timeout(&self) -> Option<Nanos> {
        let lost_at = self.authority.lost_at().filter(|_| !self.is_lost);
        let go_on_at = lost_at.map(|at| at.after(LOST_AFTER));
        [self.pool.poll_timeout(), go_on_at].into_iter().flatten().min()
    }

    /// Goes on without the authority, or with it again.
    fn see_whether_lost(&mut self, now: Nanos, metrics: &ControlMetrics) {
        let lost_at = self.authority.lost_at();
        let is_lost = lost_at.is_some_and(|at| now >= at.after(LOST_AFTER));
        if is_lost == self.is_lost {
            return;
        }
        self.is_lost = is_lost;
        metrics.authority_lost.set(i64::from(is_lost));
        if is_lost {
            tracing::error!("keys go on without the authority, as their plans say (when_lost)");
            self.pool.on_lost(now);
        } else {
            tracing::info!("keys have their limits from the authority again");
            self.pool.on_found(now);
        }
    }

    /// Does all that is due and answers the shards; months that the ledger must tell come back.
    pub(crate) fn advance(
        &mut self,
        now: Nanos,
        senders: &ShardSenders,
        metrics: &ControlMetrics,
    ) -> Vec<MonthToRead> {
        self.see_whether_lost(now, metrics);
        self.pool.set_recallable(self.authority.is_recallable(now), now);
        self.pool.on_timeout(now);
        while let Some(call) = self.pool.poll_call(now) {
            metrics.authority_calls.add(1);
            if !self.is_being_read(&call) {
                self.call(&call, now);
            }
        }
        self.authority.send();
        while let Some((shard, message)) = self.pool.poll_shard() {
            senders.tell(shard, message);
        }
        std::mem::take(&mut self.unknown)
    }

    /// Is it about a month that the ledger is being asked for?
    fn is_being_read(&self, call: &LeaseCall) -> bool {
        match call.ask {
            LeaseAsk::Rate(_) => false,
            LeaseAsk::Quota(ask) => self.seeding.contains_key(&(ask.consumer, ask.period)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::catalog::Plan;
    use shard::message::{QuotaGrant, ToShard};
    use shard::units::PlanId;

    const MONTH: MonthToRead = (ConsumerId(1), Period(202_611));

    fn catalog() -> Catalog {
        let plan = Plan {
            id: PlanId(1),
            name: "p".into(),
            rate_per_s: 10,
            burst: 10,
            quota_tokens: 100,
            when_lost: None,
        };
        Catalog::new(1, vec![plan], Vec::new())
    }

    fn quota_want(need: u64) -> QuotaWant {
        QuotaWant {
            shard: 0,
            consumer: MONTH.0,
            plan: 0,
            period: MONTH.1,
            want: need,
            need,
            least: need,
            consumed: 0,
            returned: 0,
            overrun: 0,
        }
    }

    fn quota_grant(inbox: &flume::Receiver<ToShard>) -> Option<QuotaGrant> {
        match inbox.try_recv() {
            Ok(ToShard::Quota(grant)) => Some(grant),
            _ => None,
        }
    }

    #[test]
    fn rate_is_granted_in_the_same_turn() {
        let (to_shard, inbox) = flume::unbounded();
        let (senders, metrics) = (ShardSenders::new(vec![to_shard]), ControlMetrics::default());
        let (mut leases, now) = (
            Leases::new(1, 1, WhenLost::Closed, ChosenAuthority::embedded(None)),
            Nanos::from_s(100),
        );
        let want = RateWant {
            shard: 0,
            bucket: BucketId(1),
            plan: 0,
            lease: 0,
            want: 1,
            need: 1,
            demand: 1,
            used: 0,
            returned: 0,
        };
        leases.on_rate(want, &catalog(), now);
        assert!(leases.advance(now, &senders, &metrics).is_empty());
        let granted = match inbox.try_recv() {
            Ok(ToShard::Rate(grant)) => grant.granted,
            _ => 0,
        };
        assert!(granted >= 1);
        assert_eq!(metrics.authority_calls.get(), 1);
        assert!(leases.timeout().is_some());
    }

    #[test]
    fn a_month_goes_on_where_the_ledger_says() {
        let (to_shard, inbox) = flume::unbounded();
        let (senders, metrics) = (ShardSenders::new(vec![to_shard]), ControlMetrics::default());
        let (mut leases, now) = (
            Leases::new(1, 1, WhenLost::Closed, ChosenAuthority::embedded(None)),
            Nanos::from_s(100),
        );
        leases.on_quota(quota_want(10), &catalog(), now);
        assert_eq!(leases.advance(now, &senders, &metrics), [MONTH]);
        assert_eq!(quota_grant(&inbox), None);
        leases.on_seed(MONTH, Some(85), now);
        assert!(leases.advance(now, &senders, &metrics).is_empty());
        let grant = quota_grant(&inbox);
        assert!(grant.is_some_and(|grant| grant.granted >= 10 && !grant.exhausted), "{grant:?}");
        leases.on_quota(quota_want(10), &catalog(), now);
        assert!(leases.advance(now, &senders, &metrics).is_empty());
        assert!(quota_grant(&inbox).is_some_and(|grant| grant.granted < 10 && grant.exhausted));
    }

    #[test]
    fn a_month_that_could_not_be_read_is_asked_for_again() {
        let (to_shard, inbox) = flume::unbounded();
        let (senders, metrics) = (ShardSenders::new(vec![to_shard]), ControlMetrics::default());
        let (mut leases, now) = (
            Leases::new(1, 1, WhenLost::Closed, ChosenAuthority::embedded(None)),
            Nanos::from_s(100),
        );
        leases.on_quota(quota_want(10), &catalog(), now);
        assert_eq!(leases.advance(now, &senders, &metrics), [MONTH]);
        leases.on_seed(MONTH, None, now);
        let later = now.after(Nanos::from_ms(50));
        assert_eq!(leases.advance(later, &senders, &metrics), [MONTH]);
        let even_later = later.after(Nanos::from_s(1));
        assert!(leases.advance(even_later, &senders, &metrics).is_empty(), "one read at a time");
        drop(inbox);
    }
}
