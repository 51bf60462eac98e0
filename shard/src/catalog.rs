//! What is for sale and on which terms: plans, services, prices. An immutable snapshot; control
//! builds a new one at each change and hands every shard the same `Arc`.

use crate::units::{PlanId, ServiceId};
use std::net::SocketAddr;

/// What a key may do while the authority is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenLost {
    /// Spend the leases held, then refuse.
    Closed,
    /// Half of the safe rate.
    #[default]
    Degraded,
    /// Admit without limit.
    Open,
}

/// A token bucket's rate and burst, and a month's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Identity.
    pub id: PlanId,
    /// Unique name, a label in metrics.
    pub name: Box<str>,
    /// Requests per second that the bucket refills by; at least 1.
    pub rate_per_s: u64,
    /// Requests that the bucket holds; at least 1.
    pub burst: u64,
    /// Tokens per calendar month (UTC).
    pub quota_tokens: u64,
    /// Stance while the authority is lost; `None`: the instance's.
    pub when_lost: Option<WhenLost>,
}

/// Prices of one tier or of a whole `per_token` model, nano-USD per 1 000 000 tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenPrices {
    /// Uncached input.
    pub input_nanousd_per_mtok: u64,
    /// Input that the upstream served from its cache. In a tier: the same as input.
    pub cached_input_nanousd_per_mtok: u64,
    /// Output.
    pub output_nanousd_per_mtok: u64,
}

/// One step of a graduated price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The month's tokens (input and output) up to which, inclusive, the tier reaches;
    /// `None` in the last.
    pub up_to_tokens: Option<u64>,
    /// What a token inside it costs.
    pub prices: TokenPrices,
}

/// How a service is priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceModel {
    /// Every token at the same price.
    PerToken(TokenPrices),
    /// Marginal: each token by its place in the consumer's month on the service, input before
    /// output. Tiers ascend; the last has no end.
    Tiered(Box<[Tier]>),
    /// A monthly fee (not part of any record) with an allowance of tokens, then `overage`.
    Subscription {
        /// The month's fee, nano-USD.
        fee_nanousd: u64,
        /// Tokens of the month (input and output, input first) that cost nothing more.
        allowance_tokens: u64,
        /// What each token past the allowance costs.
        overage: TokenPrices,
    },
}

impl PriceModel {
    /// Does the price of a token depend on its place in the consumer's month?
    pub const fn depends_on_month(&self) -> bool {
        !matches!(self, Self::PerToken(_))
    }
}

/// A price with the time from which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceVersion {
    /// Counts from 1 for each service.
    pub version: u32,
    /// Wall time, microseconds since 1970.
    pub effective_at_unix_us: i64,
    /// The terms.
    pub model: PriceModel,
}

/// A service of the marketplace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Identity, as in `/api/v1/consume/{service_id}`.
    pub id: ServiceId,
    /// Unique; the model name in request bodies. Never changes.
    pub name: Box<str>,
    /// `host[:port]` of the upstream, for its `Host` header and for its pool.
    pub authority: Box<str>,
    /// Addresses that `authority` resolved to; tried in order.
    pub addrs: Box<[SocketAddr]>,
    /// Path prefix of `base_url` without a trailing slash: `` or `/v2`.
    pub base_path: Box<str>,
    /// Path used where the caller named none, e.g. `/v1/chat/completions`.
    pub default_path: Box<str>,
    /// A whole header line without its line end, e.g. `authorization: Bearer sk-…`.
    pub credential_header: Option<Box<str>>,
    /// Ascending by `effective_at_unix_us`; never empty.
    pub prices: Box<[PriceVersion]>,
    /// Where false, calls answer 404 `service_not_found`.
    pub enabled: bool,
}

impl Service {
    /// The price that holds at `unix_us`: the latest begun, or the first if none has.
    pub fn price_at(&self, unix_us: i64) -> &PriceVersion {
        let begun = self.prices.partition_point(|price| price.effective_at_unix_us <= unix_us);
        &self.prices[begun.saturating_sub(1)]
    }
}

/// All plans and services at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Grows with each change.
    pub version: u64,
    /// Indexed by the shard's `plan` index. A plan keeps its index for the process's life.
    pub plans: Vec<Plan>,
    /// Indexed by the shard's `service` index. A service keeps its index for the process's life.
    pub services: Vec<Service>,
    by_name: Vec<u32>,
    by_id: Vec<u32>,
}

impl Catalog {
    /// A snapshot with its two indexes built.
    pub fn new(version: u64, plans: Vec<Plan>, services: Vec<Service>) -> Self {
        let mut by_name: Vec<u32> = (0..services.len() as u32).collect();
        let mut by_id = by_name.clone();
        by_name.sort_by(|a, b| services[*a as usize].name.cmp(&services[*b as usize].name));
        by_id.sort_by_key(|index| services[*index as usize].id);
        Self { version, plans, services, by_name, by_id }
    }

    /// Index of the service that answers to the model `name`.
    pub fn service_by_name(&self, name: &[u8]) -> Option<u32> {
        let at = self
            .by_name
            .binary_search_by(|index| self.services[*index as usize].name.as_bytes().cmp(name));
        at.ok().map(|at| self.by_name[at])
    }

    /// Index of the service with this id.
    pub fn service_by_id(&self, id: ServiceId) -> Option<u32> {
        let at = self.by_id.binary_search_by_key(&id, |index| self.services[*index as usize].id);
        at.ok().map(|at| self.by_id[at])
    }

    /// Index of the plan with this id.
    pub fn plan_by_id(&self, id: PlanId) -> Option<u32> {
        self.plans.iter().position(|plan| plan.id == id).map(|at| at as u32)
    }
}
