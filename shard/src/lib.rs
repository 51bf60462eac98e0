//! The pure state of one core of Tollgate, and of the authority that cores lease from.
//!
//! Time comes in as an argument; there is no clock, socket, thread, lock or randomness here, so
//! that every history can be replayed from a seed. A request goes through [`Shard`] as `identify`,
//! `admit`, `settle`. What it needs from control leaves by `poll_action`, and what control answers
//! comes in by `handle`; `handle` and `poll_ready` say whom to wake.

#![warn(unreachable_pub)]

pub mod authority;
pub mod bucket;
pub mod catalog;
mod clock_table;
pub mod key_cache;
pub mod known_ids;
pub mod lease;
pub mod limits;
pub mod message;
pub mod month_places;
pub mod permit;
pub mod pool;
pub mod price;
pub mod quota;
pub mod record;
pub mod service_months;
pub mod units;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use key_cache::{Caller, Identity};
pub use permit::Permit;

use bucket::{Buckets, Take};
use catalog::{Catalog, Plan, PriceVersion, Service};
use key_cache::{KeyCache, fingerprint};
use limits::OUTBOX_MAX;
use message::{KEY_TEXT_BYTES, KeyDigest, ToControl, ToShard};
use month_places::MonthOnService;
use permit::{Permits, Terms};
use price::PlaceBounds;
use quota::{Quotas, Reserve};
use record::Usage;
use service_months::ServiceMonths;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use units::{BucketId, ConsumerId, Moment, NanoUsd, Nanos, Period};

/// What a shard is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Its number, from 0.
    pub shard: u16,
    /// A permit open for longer was leaked. Longer than any request may take.
    pub permit_deadline: Nanos,
}

/// What a request asks to be admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Index into `Catalog::services`.
    pub service: u32,
    /// Tokens that it may use; counts as at least 1.
    pub reserve_tokens: u64,
    /// Use of more than is reserved is ruled out, so the month's last tokens may be given too.
    pub strict: bool,
    /// It has waited for [`WaitFor::Rate`] before: it counts as demand only once.
    pub retry: bool,
}

/// The answer to an [`Ask`]. Unless `Admitted`, nothing was taken.
#[must_use = "an admitted request is settled, whatever becomes of it"]
#[derive(Debug)]
pub enum Admission {
    /// Go on; settle the permit in the end.
    Admitted(Permit),
    /// Park until `handle` or `poll_ready` names this, or `lease::PARK` is over, then ask again.
    Wait(WaitFor),
    /// No.
    Refused(Refusal),
}

/// What a parked request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitFor {
    /// A verdict on the key whose digest begins with these eight bytes.
    Key(u64),
    /// Tokens of a rate bucket.
    Rate(BucketId),
    /// Tokens of a consumer's month.
    Quota(ConsumerId),
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The key was forgotten (revoked, changed, lapsed or displaced) since it was identified:
    /// identify again.
    CallerForgotten,
    /// The key may not use the service.
    ServiceNotAllowed,
    /// The plan's rate.
    RateLimited {
        /// When to try again.
        retry_after: Nanos,
    },
    /// The month's tokens are spent.
    QuotaExhausted {
        /// To the end of the month.
        retry_after: Nanos,
    },
    /// A bound of this shard is reached.
    Overloaded,
}

/// What a call costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced {
    /// Rounded once, half to even; `None`: it depends on the place that the ledger will give to the
    /// call in the consumer's month, and where that will be is not certain here.
    pub cost: Option<NanoUsd>,
    /// Version of the service's price that holds for the call.
    pub price_version: u32,
}

/// What the `x-ratelimit-…` headers tell the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsView {
    /// Requests that the full bucket holds.
    pub limit_requests: u64,
    /// Requests that it holds now, as far as this shard knows.
    pub remaining_requests: u64,
    /// Until it is full again.
    pub reset_requests: Nanos,
    /// Tokens of the month.
    pub limit_tokens: u64,
    /// Tokens left of them, as far as this shard knows.
    pub remaining_tokens: u64,
    /// To the end of the month.
    pub reset_tokens: Nanos,
}

/// The state of one core.
pub struct Shard {
    shard: u16,
    catalog: Catalog,
    keys: KeyCache,
    buckets: Buckets,
    quotas: Quotas,
    permits: Permits,
    service_months: ServiceMonths,
    /// That of the last admission.
    month: units::Month,
    outbox: VecDeque<ToControl>,
}

impl Shard {
    /// A shard that knows no key and holds nothing.
    pub fn new(config: ShardConfig, catalog: Arc<Catalog>) -> Self {
        Self {
            shard: config.shard,
            catalog: Arc::unwrap_or_clone(catalog),
            keys: KeyCache::new(),
            buckets: Buckets::new(config.shard),
            quotas: Quotas::new(config.shard),
            permits: Permits::new(config.permit_deadline),
            service_months: ServiceMonths::default(),
            month: units::Month::of(0),
            outbox: VecDeque::new(),
        }
    }

    /// Calls admitted from now on have `deadline` to be settled in.
    pub fn set_permit_deadline(&mut self, deadline: Nanos) {
        self.permits.allow(deadline);
    }

    /// What is for sale.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Who calls with the key of this digest?
    pub fn identify(&mut self, digest: &KeyDigest, now: Nanos) -> Identity {
        match self.keys.identify(digest, now) {
            Identity::Wait { verify: true } if self.outbox.len() == OUTBOX_MAX => Identity::Busy,
            Identity::Suspect(caller) if self.outbox.len() == OUTBOX_MAX => Identity::Known(caller),
            identity => identity,
        }
    }

    /// Asks control about a key. Only right after `identify` said `Wait { verify: true }` or
    /// `Suspect`.
    pub fn verify(
        &mut self,
        digest: KeyDigest,
        text: [u8; KEY_TEXT_BYTES],
        peer: IpAddr,
        now: Nanos,
    ) {
        assert!(self.outbox.len() < OUTBOX_MAX, "identify found room");
        self.keys.asked(digest, now);
        self.outbox.push_back(ToControl::Verify { shard: self.shard, digest, text, peer });
    }

    /// May the caller's key use the service with this index? False too if it was forgotten.
    pub fn may_use(&self, caller: &Caller, service: u32) -> bool {
        self.keys.may_use(caller, self.service(service).id)
    }

    /// Admits, refuses or asks for patience. All or nothing: whatever can say no is asked before
    /// the first thing is taken, and the rate, which is asked by taking, is taken last.
    pub fn admit(&mut self, caller: &Caller, ask: &Ask, at: Moment) -> Admission {
        match self.try_admit(caller, ask, at) {
            Ok(permit) => Admission::Admitted(permit),
            Err(answer) => answer,
        }
    }

    /// Ends a call: prices what it used and gives back what it did not. A permit that the deadline
    /// sweep closed, and charged its reservation, is priced all the same.
    pub fn settle(&mut self, permit: Permit, usage: &Usage, at: Moment) -> Priced {
        let terms = permit.terms;
        let (reserved, used) = if self.permits.close(&permit) {
            (terms.reserved_tokens, usage.total())
        } else {
            (0, usage.total().saturating_sub(terms.reserved_tokens))
        };
        let PriceVersion { version, model, .. } = price_of(&self.catalog, &terms);
        let mut bounds = PlaceBounds::ANY;
        let depends = model.depends_on_month();
        if depends || !self.service_months.is_empty() {
            let Terms { consumer, service_id: service, period, .. } = terms;
            let month = MonthOnService { consumer, service, period };
            if depends {
                let used_most = self.quotas.used_most(consumer, period);
                bounds = self.service_months.place(month, usage.total(), used_most);
            } else {
                self.service_months.pass(month, usage.total());
            }
        }
        self.quotas.settle(terms.consumer, terms.period, reserved, used, at.now);
        Priced { cost: price::certain_price(model, usage, bounds), price_version: *version }
    }

    /// What the caller has left.
    pub fn limits(&self, caller: &Caller, at: Moment) -> LimitsView {
        let plan = &self.catalog.plans[caller.plan as usize];
        let month = self.month.or_of(at.unix_us);
        let bucket = self.buckets.view(caller.bucket, plan.rate_per_s, plan.burst, at.now);
        let quota = self.quotas.view(caller.consumer, month.period, plan.quota_tokens);
        LimitsView {
            limit_requests: plan.burst,
            remaining_requests: bucket.remaining,
            reset_requests: bucket.reset,
            limit_tokens: plan.quota_tokens,
            remaining_tokens: quota.remaining,
            reset_tokens: month.left(at.unix_us),
        }
    }

    /// Takes a message from control; returns whom to wake, except rate buckets, which `poll_ready`
    /// names. Messages that are for the gateway itself (`Counted`, `Account`, `Synced`,
    /// `SyncFailed`, `Drain`) are ignored.
    pub fn handle(&mut self, message: ToShard, now: Nanos) -> Option<WaitFor> {
        match message {
            ToShard::Catalog(change) => {
                self.catalog.apply(&change);
                None
            }
            ToShard::Verdict { digest, verdict } => {
                self.keys.answered(digest, verdict, now);
                Some(WaitFor::Key(fingerprint(&digest)))
            }
            ToShard::Forget { key } => {
                self.keys.forget(key);
                None
            }
            ToShard::ForgetConsumer { consumer } => {
                self.keys.forget_consumer(consumer);
                None
            }
            ToShard::Rate(grant) => {
                self.buckets.on_grant(grant, now);
                None
            }
            ToShard::Quota(grant) => {
                self.quotas.on_grant(grant, now);
                Some(WaitFor::Quota(grant.consumer))
            }
            ToShard::RecallRate { bucket } => {
                self.buckets.on_recall(bucket, now);
                None
            }
            ToShard::RecallQuota { consumer, period } => {
                self.quotas.on_recall(consumer, period, now);
                None
            }
            ToShard::Counted { .. }
            | ToShard::Account { .. }
            | ToShard::Synced { .. }
            | ToShard::SyncFailed
            | ToShard::Drain => None,
        }
    }

    /// The next rate bucket whose parked requests are to try again: after `handle` and after
    /// `on_timeout`.
    pub fn poll_ready(&mut self) -> Option<WaitFor> {
        self.buckets.poll_ready().map(WaitFor::Rate)
    }

    /// The next message for control.
    pub fn poll_action(&mut self) -> Option<ToControl> {
        if let Some(message) = self.outbox.pop_front() {
            return Some(message);
        }
        if let Some(want) = self.buckets.poll_want() {
            return Some(ToControl::Rate(want));
        }
        self.quotas.poll_want().map(ToControl::Quota)
    }

    /// When to call `on_timeout`.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let timeouts =
            [self.buckets.poll_timeout(), self.quotas.poll_timeout(), self.permits.poll_timeout()];
        timeouts.into_iter().flatten().min()
    }

    /// Does what was due by `now`: among others, charges leaked permits their reservations.
    pub fn on_timeout(&mut self, now: Nanos) {
        self.buckets.on_timeout(now);
        self.quotas.on_timeout(now);
        let quotas = &mut self.quotas;
        self.permits.sweep(now, |leaked| {
            let permit::Leaked { consumer, period, reserved_tokens } = leaked;
            quotas.settle(consumer, period, reserved_tokens, reserved_tokens, now);
        });
    }

    /// Gives back every unspent token: the shard is draining.
    pub fn release_all(&mut self, now: Nanos) {
        self.buckets.release_all(now);
        self.quotas.release_all();
    }

    /// Requests admitted and not settled.
    pub fn open_permits(&self) -> usize {
        self.permits.open_count()
    }

    #[cfg(test)]
    pub(crate) fn admitted_total(&self) -> u64 {
        self.permits.opened_total()
    }

    /// Permits that nobody settled in time: bugs of ours.
    pub fn leaked_total(&self) -> u64 {
        self.permits.leaked_total()
    }

    /// Valid keys remembered.
    pub fn keys_cached(&self) -> usize {
        self.keys.len()
    }

    fn service(&self, index: u32) -> &Service {
        &self.catalog.services[index as usize]
    }

    fn try_admit(&mut self, caller: &Caller, ask: &Ask, at: Moment) -> Result<Permit, Admission> {
        if !self.keys.is_current(caller, at.now) {
            return Err(Admission::Refused(Refusal::CallerForgotten));
        }
        self.month = self.month.or_of(at.unix_us);
        let service = self.service(ask.service);
        if !self.keys.may_use(caller, service.id) {
            return Err(Admission::Refused(Refusal::ServiceNotAllowed));
        }
        if !self.permits.has_room() {
            return Err(Admission::Refused(Refusal::Overloaded));
        }
        let terms = Terms {
            key: caller.key,
            consumer: caller.consumer,
            service: ask.service,
            service_id: service.id,
            period: self.month.period,
            price_version: service.price_at(at.unix_us).version,
            reserved_tokens: 0,
            admitted_at_unix_us: at.unix_us,
        };
        let reserved_tokens = self.reservable(caller, ask, terms.period, at)?;
        self.take_rate(caller, ask.retry, at.now)?;
        self.quotas.reserve(caller.consumer, terms.period, reserved_tokens);
        Ok(self.permits.open(Terms { reserved_tokens, ..terms }, at.now))
    }

    /// Tokens that may be set aside for the call; takes nothing.
    fn reservable(
        &mut self,
        caller: &Caller,
        ask: &Ask,
        period: Period,
        at: Moment,
    ) -> Result<u64, Admission> {
        let Caller { consumer, plan, .. } = *caller;
        // Zero tokens could always be had, even of a month that is spent.
        let tokens = ask.reserve_tokens.max(1);
        match self.quotas.check(consumer, plan, period, tokens, ask.strict, at.now) {
            Reserve::Reserved { tokens } => Ok(tokens),
            Reserve::Wait => Err(Admission::Wait(WaitFor::Quota(consumer))),
            Reserve::NoRoom => Err(Admission::Refused(Refusal::Overloaded)),
            Reserve::Exhausted => {
                let retry_after = self.month.left(at.unix_us);
                Err(Admission::Refused(Refusal::QuotaExhausted { retry_after }))
            }
        }
    }

    fn take_rate(&mut self, caller: &Caller, retry: bool, now: Nanos) -> Result<(), Admission> {
        let Plan { rate_per_s, burst, .. } = self.catalog.plans[caller.plan as usize];
        match self.buckets.take(caller.bucket, caller.plan, rate_per_s, burst, retry, now) {
            Take::Taken => Ok(()),
            Take::Wait => Err(Admission::Wait(WaitFor::Rate(caller.bucket))),
            Take::Denied { retry_after } => {
                Err(Admission::Refused(Refusal::RateLimited { retry_after }))
            }
        }
    }
}

/// The price fixed at admission. Catalogs keep old versions; should one lack it, the price that
/// held then is the next best, and the record names it.
fn price_of<'a>(catalog: &'a Catalog, terms: &Terms) -> &'a PriceVersion {
    let service = &catalog.services[terms.service as usize];
    let fixed = service.prices.iter().rev().find(|price| price.version == terms.price_version);
    fixed.unwrap_or_else(|| service.price_at(terms.admitted_at_unix_us))
}
