//! The catalog's objects as the store keeps them, and what a change sets.

use super::error::CatalogError;
use shard::catalog::{Plan, PriceModel, PriceVersion, WhenLost};
use shard::message::KeyDigest;
use shard::units::{BucketId, ConsumerId, ID_MAX, KeyId, PlanId, ServiceId};
use std::sync::Arc;

/// One page of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Rows at most.
    pub(crate) limit: u32,
    /// Rows made after the one with this place.
    pub(crate) after: i64,
}

impl Page {
    /// All rows.
    pub(crate) const EVERYTHING: Self = Self { limit: u32::MAX, after: 0 };
}

/// A new identity: 60 random bits.
pub(crate) fn new_id() -> Result<u64, CatalogError> {
    match getrandom::u64() {
        Ok(bits) => Ok(bits & ID_MAX),
        Err(error) => Err(CatalogError::Internal(format!("the host gave no randomness: {error}"))),
    }
}

/// A plan's row.
#[derive(Clone, Debug)]
pub(crate) struct PlanRow {
    pub(crate) place: i64,
    pub(crate) plan: Plan,
    pub(crate) created_at: String,
}

/// The plans that a new store comes with: the contract's, part 4.
pub(super) fn contract_plans() -> Result<Vec<Plan>, CatalogError> {
    let terms = [
        ("basic", 10, 100_000),
        ("premium", 100, 10_000_000),
        ("enterprise", 1_000, 1_000_000_000),
    ];
    let plan = |(name, rate, quota_tokens): (&str, u64, u64)| {
        let (id, name) = (PlanId(new_id()?), name.into());
        Ok(Plan { id, name, rate_per_s: rate, burst: rate, quota_tokens, when_lost: None })
    };
    terms.into_iter().map(plan).collect()
}

/// What a change of a plan sets; `None` leaves a column as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlanChange {
    pub(crate) rate_per_s: Option<u64>,
    pub(crate) burst: Option<u64>,
    pub(crate) quota_tokens: Option<u64>,
    pub(crate) when_lost: Option<Option<WhenLost>>,
}

/// The word for a stance, in the store and to callers.
pub(crate) const fn when_lost_name(when_lost: WhenLost) -> &'static str {
    match when_lost {
        WhenLost::Closed => "closed",
        WhenLost::Degraded => "degraded",
        WhenLost::Open => "open",
    }
}

/// The stance of that word.
pub(crate) fn when_lost_of(name: &str) -> Option<WhenLost> {
    [WhenLost::Closed, WhenLost::Degraded, WhenLost::Open]
        .into_iter()
        .find(|when_lost| when_lost_name(*when_lost) == name)
}

/// A consumer's row, with its plan's name.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerRow {
    pub(crate) place: i64,
    pub(crate) id: ConsumerId,
    pub(crate) name: String,
    pub(crate) plan: PlanId,
    pub(crate) plan_name: String,
    pub(crate) created_at: String,
}

/// What a change of a consumer sets; `None` leaves a column as it is.
pub(crate) struct ConsumerChange {
    pub(crate) name: Option<String>,
    pub(crate) plan: Option<PlanId>,
}

/// A key's row. No `Debug`: it holds the secret's hash.
#[derive(Clone)]
pub(crate) struct KeyRow {
    pub(crate) place: i64,
    pub(crate) id: KeyId,
    pub(crate) consumer: ConsumerId,
    pub(crate) bucket: BucketId,
    pub(crate) name: Option<String>,
    pub(crate) secret_hash: Arc<str>,
    /// Once it has been verified.
    pub(crate) digest: Option<Digest>,
    pub(crate) services: Option<Arc<[ServiceId]>>,
    pub(crate) expires_at_unix_us: Option<i64>,
    pub(crate) revoked_at: Option<String>,
    pub(crate) created_at: String,
}

/// A key to be made. No `Debug`: it holds the secret's hash.
pub(crate) struct NewKey {
    pub(crate) id: KeyId,
    pub(crate) consumer: ConsumerId,
    pub(crate) bucket: BucketId,
    pub(crate) name: Option<String>,
    pub(crate) secret_hash: String,
    pub(crate) digest: Digest,
    pub(crate) services: Option<Arc<[ServiceId]>>,
    pub(crate) expires_at_unix_us: Option<i64>,
}

/// A service's row with its prices.
pub(crate) struct ServiceRow {
    pub(crate) place: i64,
    pub(crate) id: ServiceId,
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) default_path: String,
    /// The upstream's credential as `vault` sealed it.
    pub(crate) credential: Option<Vec<u8>>,
    pub(crate) enabled: bool,
    pub(crate) created_at: String,
    /// Ascending by time, then by version; never empty.
    pub(crate) prices: Vec<PriceRow>,
}

/// A price and when it was made.
#[derive(Clone, Debug)]
pub(crate) struct PriceRow {
    pub(crate) price: PriceVersion,
    pub(crate) created_at: String,
}

/// A service to be made.
pub(crate) struct NewService {
    pub(crate) id: ServiceId,
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) default_path: String,
    /// The upstream's credential as `vault` sealed it.
    pub(crate) credential: Option<Vec<u8>>,
    pub(crate) enabled: bool,
    pub(crate) price: PriceModel,
    pub(crate) effective_at_unix_us: i64,
}

/// What a change of a service sets; `None` leaves a column as it is.
#[derive(Default)]
pub(crate) struct ServiceChange {
    pub(crate) base_url: Option<String>,
    pub(crate) default_path: Option<String>,
    pub(crate) credential: Option<Option<Vec<u8>>>,
    pub(crate) enabled: Option<bool>,
}

/// Tells keys apart without giving them away.
pub(crate) type KeyName = [u8; 8];

/// A verified API key's keyed digest: who sends a text with this digest has the key. Under
/// another digest key it says nothing.
#[derive(Clone, Copy)]
pub(crate) struct Digest {
    pub(crate) key_name: KeyName,
    pub(crate) digest: KeyDigest,
}

impl Digest {
    /// As a column of the store.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [&self.key_name[..], &self.digest].concat()
    }

    /// From a column of the store.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key_name, digest) = bytes.split_first_chunk()?;
        Some(Self { key_name: *key_name, digest: digest.try_into().ok()? })
    }
}

/// All that control knows by heart, but for the keys.
pub(crate) struct Loaded {
    /// How many keys there are, revoked ones too.
    pub(crate) keys: usize,
    pub(crate) plans: Vec<PlanRow>,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) consumers: Vec<ConsumerRow>,
}

/// Something of the catalog that may have changed, been made or been deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatalogNews {
    Plan(PlanId),
    Service(ServiceId),
    Consumer(ConsumerId),
    Key(KeyId),
}

/// How to follow what other instances change.
pub(crate) struct CatalogWatch {
    /// All up to this change is in what was loaded.
    pub(crate) seen: i64,
    /// Told when there may be more.
    pub(crate) told: flume::Receiver<()>,
}

/// Names of the keys under which a store that instances share keeps what is secret. A name tells
/// nothing of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyNames {
    /// Of the digests of API keys.
    pub(crate) digest: KeyName,
    /// Of upstream credentials.
    pub(crate) encryption: KeyName,
}

/// A service's upstream credential as `vault` sealed it.
pub(crate) struct SealedCredential {
    pub(crate) service: ServiceId,
    pub(crate) service_name: String,
    pub(crate) sealed: Vec<u8>,
}
