//! The authority: who may spend how much, over all instances. Embedded it runs inside control;
//! a Redis script does the same steps on the same words.
//!
//! Its own clock alone accrues and expires; it never runs back. A call is done once, whatever the
//! network does to it: the last answer to each holder is kept and repeated. It must never let
//! the tokens of a bucket that are left and those on lease together pass the burst, nor the
//! tokens of a month that are spent and on lease together pass the quota.

mod audit;
mod quota;
mod rate;
mod text;

#[cfg(test)]
pub(crate) use audit::Planted;

pub use crate::lease::{LeaseAnswer, LeaseAsk, LeaseCall, LeaseReply, QuotaAsk, RateAsk, Status};
use crate::lease::{LeaseKey, QUARANTINE, QuotaAnswer, RateAnswer, Recall};
use crate::limits::{AUTHORITY_BUCKETS_MAX, AUTHORITY_QUOTAS_MAX};
use crate::units::{BucketId, ConsumerId, Nanos, Period};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Nano-tokens, in which buckets count, to a token.
const TOKEN: i128 = 1_000_000_000;
/// A holder's last answer is kept for this long: a call that is under way for longer is lost.
const HOLDER_MEMORY: Nanos = Nanos::from_s(60);
/// A month without calls and without leases is forgotten after this long.
const QUOTA_MEMORY: Nanos = Nanos::from_s(3_600);
/// A full table is searched for entries to forget at most this often.
const SWEEP_EVERY: Nanos = Nanos::from_s(10);
/// What a holder waits that the full table has no room for.
const NO_ROOM_DENY: Nanos = Nanos::from_s(1);

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Authority {
    /// Tokens may have been spent before this instant that it knows nothing of: a bucket that it
    /// sees for the first time is taken as having been empty then, and nothing is granted before
    /// it. `None`: a new bucket is full.
    open_at: Option<Nanos>,
    buckets: HashMap<BucketId, rate::Bucket, FixedState>,
    quotas: HashMap<(ConsumerId, Period), quota::ConsumerMonth, FixedState>,
    sweep_at: Nanos,
    /// Not more than a bucket or a month has holders, since somebody asks after each call.
    recalls: VecDeque<Recall>,
    #[cfg(test)]
    pub(crate) planted: Planted,
}

impl Authority {
    /// An authority that has seen nothing: every month has to be seeded. `empty_at`: tokens may
    /// have been spent before that instant.
    pub fn new(empty_at: Option<Nanos>) -> Self {
        Self {
            open_at: empty_at,
            buckets: HashMap::default(),
            quotas: HashMap::default(),
            sweep_at: Nanos(0),
            recalls: VecDeque::new(),
            #[cfg(test)]
            planted: Planted::Nothing,
        }
    }

    /// Does a call, or repeats its answer.
    pub fn call(&mut self, call: &LeaseCall, now: Nanos) -> LeaseReply {
        let answer = match &call.ask {
            LeaseAsk::Rate(ask) => LeaseAnswer::Rate(self.rate(call, ask, now)),
            LeaseAsk::Quota(ask) => LeaseAnswer::Quota(self.quota(call, ask, now)),
        };
        LeaseReply { holder: call.holder, seq: call.seq, sent_at: call.sent_at, answer }
    }

    /// The next lease that the calls so far have called back, if any.
    pub fn poll_recall(&mut self) -> Option<Recall> {
        self.recalls.pop_front()
    }

    /// Tells what the month has consumed by the ledger. Without effect once the month is known.
    pub fn seed_quota(&mut self, (consumer, period): (ConsumerId, Period), consumed_tokens: u64) {
        let month = self.quotas.get_mut(&(consumer, period));
        if let Some(month) = month.filter(|month| !month.is_lost(self.open_at)) {
            month.seed(consumed_tokens);
        }
    }

    /// Grants nothing of the bucket any more. What is on lease may be spent until it lapses.
    pub fn revoke(&mut self, bucket_id: BucketId, now: Nanos) {
        let open_at = self.open_at;
        let new = || rate::Bucket::new((1, 1), open_at, now);
        let bucket = self.buckets.entry(bucket_id).or_insert_with(new);
        if bucket.is_lost(open_at) {
            *bucket = new();
        }
        bucket.revoked = true;
        let recalls = &mut self.recalls;
        bucket.recall(None, |holder| {
            recalls.push_back(Recall { holder, key: LeaseKey::Rate(bucket_id) })
        });
    }

    /// From `now` on it may have forgotten what it granted. It waits until that has lapsed, and
    /// then begins anew: every bucket is empty, and every month has to be seeded.
    pub fn fence(&mut self, now: Nanos) {
        self.open_at = Some(now.after(QUARANTINE));
    }

    /// How long it grants nothing yet.
    fn closed_for(&self, now: Nanos) -> Option<Nanos> {
        let wait = self.open_at.map_or(Nanos(0), |open_at| open_at.since(now));
        (wait > Nanos(0)).then_some(wait)
    }

    fn rate(&mut self, call: &LeaseCall, ask: &RateAsk, now: Nanos) -> RateAnswer {
        if let Some(wait) = self.closed_for(now) {
            return RateAnswer { status: Status::Fenced, ..rate::denied(ask.bucket, wait) };
        }
        if self.buckets.len() >= AUTHORITY_BUCKETS_MAX && !self.buckets.contains_key(&ask.bucket) {
            self.sweep(now);
            if self.buckets.len() >= AUTHORITY_BUCKETS_MAX {
                return rate::denied(ask.bucket, NO_ROOM_DENY);
            }
        }
        let new = || rate::Bucket::new(rate::plan_of(ask), self.open_at, now);
        let bucket = self.buckets.entry(ask.bucket).or_insert_with(new);
        if bucket.is_lost(self.open_at) {
            *bucket = new();
        }
        #[cfg(test)]
        {
            bucket.audit.planted = self.planted;
        }
        let recalls = &mut self.recalls;
        bucket.call(call, ask, now, |holder| {
            recalls.push_back(Recall { holder, key: LeaseKey::Rate(ask.bucket) });
        })
    }

    fn quota(&mut self, call: &LeaseCall, ask: &QuotaAsk, now: Nanos) -> QuotaAnswer {
        if self.closed_for(now).is_some() {
            return quota::refused(ask, Status::Fenced);
        }
        let key = (ask.consumer, ask.period);
        if self.quotas.len() >= AUTHORITY_QUOTAS_MAX && !self.quotas.contains_key(&key) {
            self.sweep(now);
            if self.quotas.len() >= AUTHORITY_QUOTAS_MAX {
                return quota::refused(ask, Status::Denied);
            }
        }
        let new = || quota::ConsumerMonth::new(self.open_at);
        let month = self.quotas.entry(key).or_insert_with(new);
        if month.is_lost(self.open_at) {
            *month = new();
        }
        #[cfg(test)]
        {
            month.planted = self.planted;
        }
        let recalls = &mut self.recalls;
        month.call(call, ask, now, |holder| {
            let key = LeaseKey::Quota(ask.consumer, ask.period);
            recalls.push_back(Recall { holder, key });
        })
    }

    /// Forgets what can be forgotten without loss.
    fn sweep(&mut self, now: Nanos) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(SWEEP_EVERY);
        self.buckets.retain(|_, bucket| !bucket.is_forgettable(now));
        self.quotas.retain(|_, month| !month.is_forgettable(now));
    }
}

/// What the simulation looks at.
#[cfg(test)]
impl Authority {
    pub(crate) fn probe(&mut self, bucket: BucketId, now: Nanos) -> Option<audit::Books> {
        self.buckets.get_mut(&bucket).map(|bucket| bucket.probe(now))
    }

    pub(crate) fn probe_closed(&self, now: Nanos) -> bool {
        self.closed_for(now).is_some()
    }

    pub(crate) fn probe_granted(&self, bucket: BucketId) -> u64 {
        self.buckets.get(&bucket).map_or(0, |bucket| bucket.audit.books.granted)
    }

    pub(crate) fn probe_holder(&self, bucket: BucketId, holder: u128, now: Nanos) -> u64 {
        self.buckets.get(&bucket).map_or(0, |bucket| bucket.probe_holder(holder, now))
    }

    pub(crate) fn probe_quota_granted(&self, consumer: ConsumerId, period: Period) -> u64 {
        self.quotas.get(&(consumer, period)).map_or(0, |month| month.granted)
    }

    pub(crate) fn probe_quota(
        &self,
        consumer: ConsumerId,
        period: Period,
    ) -> Option<(u64, u64, u64)> {
        self.quotas.get(&(consumer, period)).map(quota::ConsumerMonth::probe)
    }
}
