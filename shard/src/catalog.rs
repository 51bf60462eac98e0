//! What is for sale and on which terms: plans, services, prices. Control and every shard keep a
//! catalog of their own, begin with the same one and make the same changes in the same order: a
//! change costs what has changed, however much else is for sale.

use crate::units::{PlanId, ServiceId};
use std::net::SocketAddr;
use std::sync::Arc;

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
    /// The model name in request bodies, unique among the living. Never changes.
    pub name: Box<str>,
    /// `host[:port]` of the upstream, for its `Host` header and for its pool.
    pub authority: Box<str>,
    /// It is called over TLS.
    pub is_tls: bool,
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
    /// Deleted for good: it is not `enabled`, and is found neither by name nor by id.
    pub deleted: bool,
}

impl Service {
    /// What is left of it once it is deleted: the calls that have begun find it by its index, end,
    /// and are priced.
    pub fn as_deleted(&self) -> Self {
        let (addrs, credential_header) = (Box::default(), None);
        Self { addrs, credential_header, enabled: false, deleted: true, ..self.clone() }
    }

    /// The host of its `authority`, without the port; an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        }
    }

    /// The price that holds at `unix_us`: the latest begun, or the first if none has.
    pub fn price_at(&self, unix_us: i64) -> &PriceVersion {
        let begun = self.prices.partition_point(|price| price.effective_at_unix_us <= unix_us);
        &self.prices[begun.saturating_sub(1)]
    }
}

/// One new or changed plan or service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A plan.
    Plan(Plan),
    /// A service.
    Service(Arc<Service>),
}

/// One step from a catalog to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogChange {
    /// The version of the catalog after it.
    pub version: u64,
    /// The item's index; one past the last: it is new.
    pub index: u32,
    /// What is at the index from now on.
    pub item: Item,
}

/// All plans and services at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Grows by one with each change.
    pub version: u64,
    /// Indexed by the shard's `plan` index. A plan keeps its index for the process's life.
    pub plans: Vec<Plan>,
    /// Indexed by the shard's `service` index. A service keeps its index for the process's life.
    pub services: Vec<Arc<Service>>,
    by_name: Vec<u32>,
    by_id: Vec<u32>,
}

impl Catalog {
    /// A catalog with its two indexes built; no service in it is deleted.
    pub fn new(version: u64, plans: Vec<Plan>, services: Vec<Service>) -> Self {
        let mut by_name: Vec<u32> = (0..services.len() as u32).collect();
        let mut by_id = by_name.clone();
        by_name.sort_by(|a, b| services[*a as usize].name.cmp(&services[*b as usize].name));
        by_id.sort_by_key(|index| services[*index as usize].id);
        let services = services.into_iter().map(Arc::new).collect();
        Self { version, plans, services, by_name, by_id }
    }

    /// The step to a catalog with `item` in it; `None`: it is there already.
    pub fn change_to(&self, item: Item) -> Option<CatalogChange> {
        let (index, is_there) = match &item {
            Item::Plan(plan) => {
                let index = self.plan_by_id(plan.id);
                (index, index.is_some_and(|index| self.plans[index as usize] == *plan))
            }
            Item::Service(service) => {
                let index = self.index_of(service.id);
                (index, index.is_some_and(|index| self.services[index as usize] == *service))
            }
        };
        if is_there {
            return None;
        }
        let next = match &item {
            Item::Plan(_) => self.plans.len(),
            Item::Service(_) => self.services.len(),
        };
        Some(CatalogChange { version: self.version + 1, index: index.unwrap_or(next as u32), item })
    }

    /// Takes the step.
    pub fn apply(&mut self, change: &CatalogChange) {
        assert!(change.version == self.version + 1, "changes come one by one, in their order");
        self.version = change.version;
        let index = change.index as usize;
        match &change.item {
            Item::Plan(plan) if index < self.plans.len() => {
                assert!(self.plans[index].id == plan.id, "indexes last");
                self.plans[index] = plan.clone();
            }
            Item::Plan(plan) => {
                assert!(index == self.plans.len(), "indexes have no gap");
                self.plans.push(plan.clone());
            }
            Item::Service(service) if index < self.services.len() => {
                assert!(self.services[index].id == service.id, "indexes last");
                assert!(self.services[index].name == service.name, "names never change");
                assert!(service.deleted || !self.services[index].deleted, "deleted for good");
                if service.deleted {
                    self.by_name.retain(|named| *named != change.index);
                }
                self.services[index] = Arc::clone(service);
            }
            Item::Service(service) => {
                assert!(index == self.services.len(), "indexes have no gap");
                self.push(Arc::clone(service), change.index);
            }
        }
    }

    /// A new service takes its place in the two indexes.
    fn push(&mut self, service: Arc<Service>, index: u32) {
        let services = &self.services;
        let by_name = |at: &u32| services[*at as usize].name.cmp(&service.name);
        let (Ok(at) | Err(at)) = self.by_name.binary_search_by(by_name);
        self.by_name.insert(at, index);
        let id = service.id;
        let (Ok(at) | Err(at)) =
            self.by_id.binary_search_by_key(&id, |at| services[*at as usize].id);
        self.by_id.insert(at, index);
        self.services.push(service);
    }

    /// Index of the service that answers to the model `name`.
    pub fn service_by_name(&self, name: &[u8]) -> Option<u32> {
        let at = self
            .by_name
            .binary_search_by(|index| self.services[*index as usize].name.as_bytes().cmp(name));
        at.ok().map(|at| self.by_name[at])
    }

    /// Index of the service with this id, unless it is deleted.
    pub fn service_by_id(&self, id: ServiceId) -> Option<u32> {
        self.index_of(id).filter(|index| !self.services[*index as usize].deleted)
    }

    fn index_of(&self, id: ServiceId) -> Option<u32> {
        let at = self.by_id.binary_search_by_key(&id, |index| self.services[*index as usize].id);
        at.ok().map(|at| self.by_id[at])
    }

    /// Index of the plan with this id.
    pub fn plan_by_id(&self, id: PlanId) -> Option<u32> {
        self.plans.iter().position(|plan| plan.id == id).map(|at| at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(id: u64, name: &str) -> Service {
        let price = PriceVersion {
            version: 1,
            effective_at_unix_us: 0,
            model: PriceModel::PerToken(TokenPrices::default()),
        };
        Service {
            id: ServiceId(id),
            name: name.into(),
            authority: "a".into(),
            is_tls: false,
            addrs: Box::default(),
            base_path: "".into(),
            default_path: "/".into(),
            credential_header: None,
            prices: [price].into(),
            enabled: true,
            deleted: false,
        }
    }

    fn take(catalog: &mut Catalog, service: Service) -> u32 {
        let change = catalog.change_to(Item::Service(Arc::new(service))).unwrap_or_else(|| {
            unreachable!("it is new or changed");
        });
        catalog.apply(&change);
        change.index
    }

    #[test]
    fn a_catalog_made_step_by_step_is_the_one_made_at_once() {
        let names = ["m", "z", "a", "q", "b", "y"];
        let ids = [3, 1, 9, 4, 7, 2];
        let all = || ids.iter().zip(names).map(|(id, name)| service(*id, name));
        let mut grown = Catalog::new(0, Vec::new(), all().take(2).collect());
        for (place, service) in all().enumerate().skip(2) {
            assert_eq!(take(&mut grown, service), place as u32);
        }
        assert_eq!(grown, Catalog::new(4, Vec::new(), all().collect()));
        for (place, name) in names.into_iter().enumerate() {
            assert_eq!(grown.service_by_name(name.as_bytes()), Some(place as u32));
            assert_eq!(grown.service_by_id(ServiceId(ids[place])), Some(place as u32));
        }
    }

    #[test]
    fn a_change_leaves_all_else_where_it_is() {
        let mut catalog = Catalog::new(7, Vec::new(), vec![service(1, "a"), service(2, "b")]);
        let other = Arc::clone(&catalog.services[0]);
        assert_eq!(catalog.change_to(Item::Service(Arc::new(service(2, "b")))), None);
        let off = Service { enabled: false, ..service(2, "b") };
        assert_eq!(take(&mut catalog, off), 1);
        assert!(Arc::ptr_eq(&catalog.services[0], &other));
        assert_eq!((catalog.version, catalog.services[1].enabled), (8, false));
    }

    #[test]
    fn a_deleted_service_keeps_its_index_and_its_price_but_not_its_name() {
        let all = ["a", "b", "c"].iter().zip(1..).map(|(name, id)| service(id, name));
        let mut catalog = Catalog::new(0, Vec::new(), all.collect());
        let secret = Service { credential_header: Some("x: y".into()), ..service(2, "b") };
        assert_eq!(take(&mut catalog, secret.clone()), 1);
        assert_eq!(take(&mut catalog, secret.as_deleted()), 1);
        assert_eq!(
            (catalog.service_by_name(b"b"), catalog.service_by_id(ServiceId(2))),
            (None, None)
        );
        assert_eq!(catalog.change_to(Item::Service(Arc::new(secret.as_deleted()))), None);
        assert_eq!(catalog.services[1].prices, secret.prices);
        assert!(!catalog.services[1].enabled && catalog.services[1].credential_header.is_none());

        assert_eq!(take(&mut catalog, service(4, "b")), 3);
        assert_eq!(catalog.service_by_name(b"b"), Some(3));
        assert_eq!(catalog.service_by_name(b"a"), Some(0));
        assert_eq!(catalog.service_by_name(b"c"), Some(2));
        assert_eq!(catalog.service_by_id(ServiceId(4)), Some(3));
    }
}
