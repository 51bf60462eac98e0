//! The catalog (plans, consumers, keys, services and their prices) and what is read of the ledger,
//! by named operations. A read ends with its caller and is bounded in time, but for those of
//! months, which leases wait for: they come to their end. A change is carried out even where nobody
//! waits for it any more, after those before it, and wholly or not at all.
//!
//! An operation does nothing until it is awaited for the first time.

use super::error::{CatalogError, StoreError};
use super::location::StoreLocation;
use super::postgres::PostgresCatalog;
use super::rows::{
    CatalogNews, CatalogWatch, ConsumerChange, ConsumerRow, Digest, KeyRow, Loaded, NewKey,
    NewService, Page, PlanChange, PlanRow, ServiceChange, ServiceRow,
};
use super::snapshot::{self, Snapshot};
use super::sqlite::SqliteCatalog;
use super::usage::{By, ServiceMonth, Sum, SumSpan};
use crate::config::Config;
use shard::catalog::{Plan, PriceModel};
use shard::units::{ConsumerId, KeyId, Period, PlanId, ServiceId};

/// The catalog, in one of the databases that a store can be in.
pub(crate) enum Catalog {
    /// The embedded file.
    Sqlite(SqliteCatalog),
    /// A Postgres server.
    Postgres(PostgresCatalog),
}

impl Catalog {
    /// Opens the store and brings its schema up to date; a new one gets the plans of the contract.
    pub(crate) fn open(at: impl Into<StoreLocation>) -> Result<Self, StoreError> {
        match at.into() {
            StoreLocation::Embedded(data_dir) => SqliteCatalog::open(&data_dir).map(Self::Sqlite),
            StoreLocation::Postgres(server) => PostgresCatalog::open(&server).map(Self::Postgres),
        }
    }

    /// A store that is away for now, and what was last written down of it in the data directory.
    pub(crate) fn from_snapshot(config: &Config) -> Result<(Self, Snapshot), String> {
        let StoreLocation::Postgres(server) = StoreLocation::from(config) else {
            return Err("an embedded store has no snapshot".to_owned());
        };
        let mut store = PostgresCatalog::open_away(&server).map_err(|error| error.to_string())?;
        let read = snapshot::read(&config.server.data_dir, &store.identity())?;
        store.seen_at_start = read.seen;
        Ok((Self::Postgres(store), read))
    }

    /// Is it of this process alone?
    pub(crate) const fn is_embedded(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Connections of this process to its servers.
    pub(crate) fn connections(&self) -> i64 {
        match self {
            Self::Sqlite(_) => 0,
            Self::Postgres(store) => store.connections(),
        }
    }

    /// How far the replica is behind that lists and reports are read from, in microseconds; `None`:
    /// there is none.
    pub(crate) async fn replica_lag_us(&self) -> Result<Option<i64>, CatalogError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(store) => store.replica_lag_us().await,
        }
    }

    /// What its snapshots are told by; `None`: it needs none.
    pub(crate) fn identity(&self) -> Option<String> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(store.identity()),
        }
    }

    /// What goes into a snapshot; `None`: nothing has changed after the change `seen`.
    pub(crate) async fn snapshot(
        &self,
        seen: Option<i64>,
    ) -> Result<Option<Snapshot>, CatalogError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(store) => store.snapshot(seen).await,
        }
    }

    /// Reads all but the keys, while this thread waits: for a start.
    pub(crate) fn load(&self) -> Result<Loaded, CatalogError> {
        match self {
            Self::Sqlite(store) => store.load(),
            Self::Postgres(store) => store.load(),
        }
    }

    /// Reads a page of the keys that are not revoked, while this thread waits: for a start.
    pub(crate) fn load_keys(&self, page: Page) -> Result<Vec<KeyRow>, CatalogError> {
        match self {
            Self::Sqlite(store) => store.load_keys(page),
            Self::Postgres(store) => store.load_keys(page),
        }
    }

    /// How to follow what other instances change; `None`: there are none.
    pub(crate) fn watch(&self) -> Option<CatalogWatch> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(store.watch()),
        }
    }

    /// Has any call ever been admitted? This thread waits: for a start.
    pub(crate) fn has_records(&self) -> Result<bool, CatalogError> {
        match self {
            Self::Sqlite(store) => store.has_records(),
            Self::Postgres(store) => store.has_records(),
        }
    }
}

/// Writes each operation as a method that hands it to the database's own.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Catalog {
            $($(#[$doc])*
            pub(crate) async fn $name(&self, $($arg: $type),*) -> Result<$answer, CatalogError> {
                match self {
                    Self::Sqlite(store) => store.$name($($arg),*).await,
                    Self::Postgres(store) => store.$name($($arg),*).await,
                }
            })*
        }
    };
}

operations! {
    /// One plan.
    plan(id: PlanId) -> PlanRow;
    /// One page of the plans.
    plans(page: Page) -> Vec<PlanRow>;
    /// The plan with this id or, if there is none, this name.
    find_plan(text: String) -> Option<PlanId>;
    /// A new plan.
    insert_plan(plan: Plan) -> PlanRow;
    /// Changes a plan.
    update_plan(id: PlanId, change: PlanChange) -> PlanRow;
    /// Deletes a plan that no consumer is on: answers what it was.
    delete_plan(id: PlanId) -> PlanRow;

    /// One consumer.
    consumer(id: ConsumerId) -> ConsumerRow;
    /// One page of the consumers.
    consumers(page: Page) -> Vec<ConsumerRow>;
    /// A new consumer.
    insert_consumer(id: ConsumerId, name: String, plan: PlanId) -> ConsumerRow;
    /// Changes a consumer's name, plan or both.
    update_consumer(id: ConsumerId, change: ConsumerChange) -> ConsumerRow;
    /// Deletes a consumer without living keys: answers what it was.
    delete_consumer(id: ConsumerId) -> ConsumerRow;

    /// One key.
    key(id: KeyId) -> KeyRow;
    /// One page of the keys, of one consumer if named.
    keys(of: Option<ConsumerId>, page: Page) -> Vec<KeyRow>;
    /// A new key.
    insert_key(key: NewKey) -> KeyRow;
    /// Makes `successor`, and lets the key `old` live until `old_ends_at_unix_us` at the most;
    /// `None`: it is revoked at once. Answers the old and the new row. Of a key that is revoked
    /// there is no successor.
    rotate_key(old: KeyId, successor: NewKey, old_ends_at_unix_us: Option<i64>) -> [KeyRow; 2];
    /// Revokes a key, for good. And is it the last of its bucket, in which no other can live from
    /// now on?
    revoke_key(id: KeyId) -> (KeyRow, bool);
    /// Keeps the digests of keys that have been verified.
    set_digests(digests: Vec<(KeyId, Digest)>) -> ();

    /// One service.
    service(id: ServiceId) -> ServiceRow;
    /// One page of the services.
    services(page: Page) -> Vec<ServiceRow>;
    /// A new service with its first price.
    insert_service(new: NewService) -> ServiceRow;
    /// Changes a service.
    update_service(id: ServiceId, change: ServiceChange) -> ServiceRow;
    /// Deletes a service that no living key is bound to, and drops its credential: answers what it
    /// was.
    delete_service(id: ServiceId) -> ServiceRow;
    /// A new version of a service's price: the highest of the row that comes back.
    add_price(id: ServiceId, price: PriceModel, effective_at_unix_us: i64) -> ServiceRow;

    /// What changed after the change `seen`, and the number to ask with the next time.
    news_after(seen: i64) -> (i64, Vec<CatalogNews>);

    /// Sums over `span`, ordered by their groups; `limit` of them after `offset`.
    sums(by: Vec<By>, span: SumSpan, limit: u32, offset: i64) -> Vec<Sum>;
    /// Tokens of each month, input and output together, all of them at one moment.
    months(months: Vec<(ConsumerId, Period)>) -> Vec<u64>;
    /// Cost and calls of a consumer's month, by service.
    month_costs(consumer: ConsumerId, period: Period) -> Vec<ServiceMonth>;
}
