//! What control knows by heart: the catalog, the consumers and the living keys. Kept in step with
//! the store by those who change it: first the store, then the book, then the shards are told.
//!
//! Verdicts are made from the book at the moment they are sent, never kept: a key that has left
//! the book cannot come back by a verification that was under way.

use super::store::keys::KeyRow;
use shard::catalog::{Catalog, CatalogChange};
use shard::message::KeyGrant;
use shard::units::{BucketId, ConsumerId, KeyId, Moment, Nanos, PlanId, ServiceId};
use std::collections::HashMap;
use std::sync::Arc;

/// A key that is not revoked.
struct Key {
    secret_hash: Arc<str>,
    consumer: ConsumerId,
    bucket: BucketId,
    expires_at_unix_us: Option<i64>,
    services: Option<Arc<[ServiceId]>>,
}

/// A consumer.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its plan.
    pub(crate) plan: PlanId,
}

/// See the module. No `Debug`: it holds hashes of secrets.
#[derive(Default)]
pub(crate) struct Book {
    catalog: Catalog,
    consumers: HashMap<ConsumerId, Consumer>,
    keys: HashMap<KeyId, Key>,
}

impl Book {
    /// The catalog as the shards have it, or will before anything sent after this.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Begins with this catalog.
    pub(crate) fn set_catalog(&mut self, catalog: Catalog) {
        self.catalog = catalog;
    }

    /// Takes the step that the shards have been told of.
    pub(crate) fn apply(&mut self, change: &CatalogChange) {
        self.catalog.apply(change);
    }

    /// One consumer.
    pub(crate) fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        self.consumers.get(&id)
    }

    /// Takes over a new or changed consumer; answers what it was before.
    pub(crate) fn set_consumer(&mut self, id: ConsumerId, consumer: Consumer) -> Option<Consumer> {
        self.consumers.insert(id, consumer)
    }

    /// Takes over a new or changed key; a revoked one is forgotten.
    pub(crate) fn set_key(&mut self, row: &KeyRow) {
        if row.revoked_at.is_some() {
            self.keys.remove(&row.id);
            return;
        }
        let key = Key {
            secret_hash: Arc::clone(&row.secret_hash),
            consumer: row.consumer,
            bucket: row.bucket,
            expires_at_unix_us: row.expires_at_unix_us,
            services: row.services.clone(),
        };
        self.keys.insert(row.id, key);
    }

    /// What the key's secret must match, if the key could be granted now.
    pub(crate) fn secret_hash(&self, id: KeyId, at: Moment) -> Option<Arc<str>> {
        let key = self.keys.get(&id)?;
        expires_at(key, at)?;
        Some(Arc::clone(&key.secret_hash))
    }

    /// What the key may do now, its secret having matched; `None`: nothing any more.
    pub(crate) fn grant(&self, id: KeyId, at: Moment) -> Option<KeyGrant> {
        let key = self.keys.get(&id)?;
        let plan = self.catalog.plan_by_id(self.consumers.get(&key.consumer)?.plan)?;
        Some(KeyGrant {
            key: id,
            consumer: key.consumer,
            bucket: key.bucket,
            plan,
            expires_at: expires_at(key, at)?,
            services: key.services.clone(),
        })
    }
}

/// The key's end on the shards' clock, if it has one; outer `None`: it has passed.
fn expires_at(key: &Key, at: Moment) -> Option<Option<Nanos>> {
    let Some(expires_at_unix_us) = key.expires_at_unix_us else {
        return Some(None);
    };
    let left_us = u64::try_from(expires_at_unix_us.saturating_sub(at.unix_us)).ok()?;
    (left_us > 0).then(|| Some(at.now.after(Nanos(left_us.saturating_mul(1_000)))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shard::catalog::Plan;

    /// A book with the plan 1, its consumer 1 and a key of theirs.
    pub(crate) fn book_with_key(id: KeyId, secret_hash: &str) -> Book {
        let mut book = Book::default();
        let plan = Plan {
            id: PlanId(1),
            name: "p".into(),
            rate_per_s: 1,
            burst: 1,
            quota_tokens: 1,
            when_lost: None,
        };
        book.set_catalog(Catalog::new(1, vec![plan], Vec::new()));
        book.set_consumer(ConsumerId(1), Consumer { name: "c".into(), plan: PlanId(1) });
        book.set_key(&key_row(id, secret_hash));
        book
    }

    /// A key of the consumer 1.
    pub(crate) fn key_row(id: KeyId, secret_hash: &str) -> KeyRow {
        KeyRow {
            place: 1,
            id,
            consumer: ConsumerId(1),
            bucket: BucketId(1),
            name: None,
            secret_hash: secret_hash.into(),
            services: None,
            expires_at_unix_us: None,
            revoked_at: None,
            created_at: String::new(),
        }
    }

    #[test]
    fn an_end_in_wall_time_becomes_one_on_the_shards_clock() {
        let mut book = book_with_key(KeyId(1), "h");
        let mut row = key_row(KeyId(1), "h");
        row.expires_at_unix_us = Some(2_000);
        book.set_key(&row);
        let grant = |unix_us| book.grant(KeyId(1), Moment { now: Nanos(10), unix_us });
        assert_eq!(grant(1_999).and_then(|grant| grant.expires_at), Some(Nanos(1_010)));
        assert_eq!(grant(2_000), None);
        assert_eq!(grant(3_000), None);
    }

    #[test]
    fn a_revoked_key_is_gone() {
        let mut book = book_with_key(KeyId(1), "h");
        let at = Moment::default();
        assert!(book.grant(KeyId(1), at).is_some());
        let mut row = key_row(KeyId(1), "h");
        row.revoked_at = Some("now".to_owned());
        book.set_key(&row);
        assert_eq!((book.grant(KeyId(1), at), book.secret_hash(KeyId(1), at)), (None, None));
    }
}
