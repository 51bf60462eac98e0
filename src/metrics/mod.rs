//! What the process counts about itself. Each counter has one thread that adds to it and any
//! number that read: an addition is a relaxed load and store on a line that no other thread
//! writes, and a scrape sums the shards.
//!
//! Never a lock, never an allocation outside of a scrape, never a key or a consumer as a label.

mod page;

use shard::record::{Outcome, Usage};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Services counted apart; those past it share the label `other`. A deleted service keeps its place
/// until the process ends, so creating and deleting services uses these up too; a restart frees
/// the places of those deleted.
pub(crate) const SERVICES_MAX: usize = 1_024;
/// Plans counted apart, those deleted since the start among them; those past it share the label
/// `other`.
pub(crate) const PLANS_MAX: usize = 256;
/// HTTP statuses counted apart: 100 to 599; anything else is `other`.
const STATUSES: usize = 500;
/// Upper bounds of `http_request_duration_seconds`, microseconds: Prometheus's own and, for
/// model calls, some more at both ends.
const DURATION_BOUNDS_US: [u64; 16] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
];
/// Upper bounds of `tollgate_overhead_seconds`, microseconds.
const OVERHEAD_BOUNDS_US: [u64; 16] =
    [5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 1_000_000];
const DIRECTIONS: [&str; 3] = ["input", "cached", "output"];

/// A sum that one thread adds to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only ever from the counter's own thread.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that one thread sets.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the level; only ever from the gauge's own thread.
    pub(crate) fn set(&self, level: i64) {
        self.0.store(level, Relaxed);
    }
    /// The level.
    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Counts of values by size, microseconds; one thread adds.
#[derive(Debug, Default)]
struct Histogram {
    counts: [Counter; 17],
    sum_us: Counter,
}

impl Histogram {
    fn add(&self, bounds_us: &[u64; 16], value_us: u64) {
        self.counts[bounds_us.partition_point(|bound| *bound < value_us)].add(1);
        self.sum_us.add(value_us);
    }
}

/// What a request was for, as far as metrics tell requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Endpoint {
    /// `/api/v1/consume/{service_id}`
    Consume,
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/models`
    Models,
    /// `/api/v1/account`
    Account,
    /// `/healthz`
    Healthz,
    /// `/readyz`
    Readyz,
    /// Anything else, requests without a readable head included.
    Other,
}

impl Endpoint {
    /// Every endpoint, in order of its number.
    pub(crate) const ALL: [Self; 11] = [
        Self::Consume,
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Models,
        Self::Account,
        Self::Healthz,
        Self::Readyz,
        Self::Other,
    ];

    /// The label's value.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Models => "models",
            Self::Account => "account",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
            Self::Other => "other",
        }
    }
}

#[derive(Debug, Default)]
struct EndpointCounts {
    statuses: Box<[Counter]>,
    durations: Histogram,
}

/// How far a call had come when its upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Opening a connection.
    Connect,
    /// Agreeing on keys, and checking the upstream's certificate.
    Tls,
    /// Sending the request.
    Send,
    /// Waiting for the answer's head.
    Head,
    /// Reading the answer's body.
    Body,
}

impl Phase {
    /// All, in order.
    const ALL: [Self; 5] = [Self::Connect, Self::Tls, Self::Send, Self::Head, Self::Body];

    /// As it stands in metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

#[derive(Debug, Default)]
struct ServiceCounts {
    outcomes: [Counter; Outcome::ALL.len()],
    /// By whether they were streamed.
    unreported: [Counter; 2],
    tokens: [Counter; DIRECTIONS.len()],
    strays: Counter,
    /// By [`Phase`].
    faults: [Counter; Phase::ALL.len()],
}

#[derive(Debug, Default)]
struct PlanCounts {
    rate_limited: Counter,
    quota_exceeded: Counter,
}

/// One shard's counters. Aligned so that no two shards share a line (nor a prefetched pair).
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct ShardMetrics {
    endpoints: [EndpointCounts; Endpoint::ALL.len()],
    services: Box<[ServiceCounts]>,
    plans: Box<[PlanCounts]>,
    overheads: Histogram,
    /// Wants posted to control, of rate and of quota.
    pub lease_wants: Counter,
    /// Records appended to the journal.
    pub journal_records: Counter,
    /// Bytes appended to the journal.
    pub journal_bytes: Counter,
    /// Messages that found their channel full: they are sent again, or read from the journal.
    pub channel_full: Counter,
    /// Requests refused because the journal had no room.
    pub journal_full: Counter,
    /// Records on stable storage; added to by the thread that syncs this shard's journal.
    pub journal_synced: Counter,
    /// Syncs of the journal that failed.
    pub journal_sync_failures: Counter,
    /// Upstream connections kept for the next call.
    pub pool_idle: Gauge,
    /// Client connections.
    pub open_connections: Gauge,
    /// Requests admitted and not settled.
    pub permits_open: Gauge,
    /// Permits that the deadline sweep had to settle: bugs.
    pub permits_leaked: Counter,
    /// Calls whose reported tokens were cut to the largest count that is billed.
    pub tokens_clamped: Counter,
    /// Verdicts on valid keys in the cache.
    pub keys_cached: Gauge,
}

impl ShardMetrics {
    fn new() -> Self {
        Self {
            endpoints: std::array::from_fn(|_| EndpointCounts {
                statuses: zeroes(STATUSES + 1),
                durations: Histogram::default(),
            }),
            services: zeroes(SERVICES_MAX + 1),
            plans: zeroes(PLANS_MAX + 1),
            overheads: Histogram::default(),
            lease_wants: Counter::default(),
            journal_records: Counter::default(),
            journal_bytes: Counter::default(),
            channel_full: Counter::default(),
            journal_full: Counter::default(),
            journal_synced: Counter::default(),
            journal_sync_failures: Counter::default(),
            pool_idle: Gauge::default(),
            open_connections: Gauge::default(),
            permits_open: Gauge::default(),
            permits_leaked: Counter::default(),
            tokens_clamped: Counter::default(),
            keys_cached: Gauge::default(),
        }
    }

    /// A request has been answered, refusals included.
    pub(crate) fn request(&self, endpoint: Endpoint, status: u16, duration_us: u64) {
        let counts = &self.endpoints[endpoint as usize];
        let slot = usize::from(status).wrapping_sub(100).min(STATUSES);
        counts.statuses[slot].add(1);
        counts.durations.add(&DURATION_BOUNDS_US, duration_us);
    }

    /// An admitted request has been settled.
    pub(crate) fn consumption(&self, service: u32, outcome: Outcome, usage: &Usage) {
        let counts = &self.services[(service as usize).min(SERVICES_MAX)];
        counts.outcomes[outcome as usize].add(1);
        let tokens = [usage.input_tokens, usage.cached_tokens, usage.output_tokens];
        for (counter, n) in counts.tokens.iter().zip(tokens) {
            counter.add(u64::from(n));
        }
    }

    /// A whole answer, or stream, came without usage or with a part of it only.
    pub(crate) fn usage_unreported(&self, service: u32, streamed: bool) {
        let counts = &self.services[(service as usize).min(SERVICES_MAX)];
        counts.unreported[usize::from(streamed)].add(1);
    }

    /// An upstream of this service failed a call that had come so far.
    pub(crate) fn upstream_fault(&self, service: u32, phase: Phase) {
        self.services[(service as usize).min(SERVICES_MAX)].faults[phase as usize].add(1);
    }

    /// An upstream of this service sent bytes that belong to no answer.
    pub(crate) fn stray(&self, service: u32) {
        self.services[(service as usize).min(SERVICES_MAX)].strays.add(1);
    }

    /// A request was refused by its plan's rate.
    pub(crate) fn rate_limited(&self, plan: u32) {
        self.plans[(plan as usize).min(PLANS_MAX)].rate_limited.add(1);
    }

    /// A request was refused by its plan's quota.
    pub(crate) fn quota_exceeded(&self, plan: u32) {
        self.plans[(plan as usize).min(PLANS_MAX)].quota_exceeded.add(1);
    }

    /// The time that an admitted request took besides its upstream's.
    pub(crate) fn overhead(&self, overhead_us: u64) {
        self.overheads.add(&OVERHEAD_BOUNDS_US, overhead_us);
    }
}

/// Counters of the thread `control`.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ControlMetrics {
    /// Calls made to the authority.
    pub authority_calls: Counter,
    /// 1 while keys go on without the authority.
    pub authority_lost: Gauge,
    /// Connections to the store's servers.
    pub store_connections: Gauge,
    /// How far the store's replica is behind, plus one; 0 and less: nobody knows, or there is none.
    pub replica_lag_us: Gauge,
    /// Keys looked at and found valid.
    pub verified_granted: Counter,
    /// Keys looked at, or known without looking, and refused.
    pub verified_refused: Counter,
    /// Keys granted from the instance's cache.
    pub verified_cached: Counter,
    /// Keys not looked at: over a budget, or the queue was full.
    pub verified_busy: Counter,
}

/// Counters of the thread `writer`.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WriterMetrics {
    /// Rows committed to the ledger.
    pub rows: Counter,
    /// Transactions committed.
    pub batches: Counter,
    /// Transactions that failed and were tried again.
    pub failures: Counter,
    /// Rows that the channel dropped and the journal gave.
    pub rows_from_files: Counter,
    /// Records that the ledger refused, in `usage_dlq`.
    pub refused: Counter,
    /// Sums of the ledger found at the largest integer, where they stop.
    pub saturated: Counter,
    /// Stretches of a journal that could not be read back.
    pub gaps: Counter,
    /// In how many seconds the ledger's disk is full, as it grows; 0: nobody can tell.
    pub disk_full_s: Gauge,
    /// What the ledger takes.
    pub ledger_bytes: Gauge,
    /// Age of the oldest record of the last batch when it was committed, microseconds.
    pub lag_us: Gauge,
}

/// All counters of a process.
#[derive(Debug)]
pub(crate) struct Metrics {
    shards: Box<[ShardMetrics]>,
    /// Of `control`.
    pub control: ControlMetrics,
    /// Of `writer`.
    pub writer: WriterMetrics,
}

impl Metrics {
    /// Zeroes for `shards` shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardMetrics::new()).collect(),
            control: ControlMetrics::default(),
            writer: WriterMetrics::default(),
        }
    }

    /// The counters of one shard.
    pub(crate) fn shard(&self, shard: usize) -> &ShardMetrics {
        &self.shards[shard]
    }
}

fn zeroes<T: Default>(n: usize) -> Box<[T]> {
    (0..n).map(|_| T::default()).collect()
}
