//! What control knows by heart: the catalog, the consumers and the living keys. Kept in step with
//! the store and the shards by those who change it, in the order that `admin_state.rs` says.
//!
//! Verdicts are made from the directory at the moment they are sent, and never kept: a verification
//! that is under way cannot bring back a key that has left the directory.

use crate::store::{Digest, KeyName, KeyRow};
use shard::catalog::{Catalog, CatalogChange};
use shard::known_ids::KnownIds;
use shard::message::{KeyDigest, KeyGrant};
use shard::units::{BucketId, ConsumerId, KeyId, Moment, Nanos, PlanId, ServiceId};
use std::collections::HashMap;
use std::sync::Arc;

/// A key that is not revoked in the store.
#[derive(PartialEq, Eq)]
struct DirectoryKey {
    /// It is refused already; the store is about to keep that.
    is_revoked: bool,
    secret_hash: Arc<str>,
    digest: Option<KeyDigest>,
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

/// What a key's text is checked against. No `Debug`: it holds a secret's hash.
pub(crate) enum Check {
    /// The digest of the right text, which was verified before.
    Digest(KeyDigest),
    /// The Argon2id hash.
    Hash(Arc<str>),
}

/// See the module. No `Debug`: it holds hashes of secrets.
pub(crate) struct Directory {
    known_ids: Arc<KnownIds>,
    digest_key_name: KeyName,
    catalog: Catalog,
    consumers: HashMap<ConsumerId, Consumer>,
    keys: HashMap<KeyId, DirectoryKey>,
}

impl Directory {
    /// Without entries. Digests under other keys than the named one are as good as none.
    pub(crate) fn new(known_ids: KnownIds, digest_key_name: KeyName) -> Self {
        Self {
            known_ids: Arc::new(known_ids),
            digest_key_name,
            catalog: Catalog::default(),
            consumers: HashMap::new(),
            keys: HashMap::new(),
        }
    }

    /// The ids of all keys that are or were here, for the shards to look into.
    pub(crate) fn known_ids(&self) -> Arc<KnownIds> {
        Arc::clone(&self.known_ids)
    }

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

    /// Forgets a consumer and its keys, of which none is alive.
    pub(crate) fn remove_consumer(&mut self, id: ConsumerId) {
        self.consumers.remove(&id);
        self.keys.retain(|_, key| key.consumer != id);
    }

    /// Takes over a new or changed key; a revoked one is forgotten.
    pub(crate) fn set_key(&mut self, row: &KeyRow) {
        if row.revoked_at.is_some() {
            self.keys.remove(&row.id);
            return;
        }
        self.keys.insert(row.id, self.key_of(row));
        self.known_ids.insert(row.id);
    }

    /// Is this what is known of the key already?
    pub(crate) fn has_key(&self, row: &KeyRow) -> bool {
        match self.keys.get(&row.id) {
            Some(known) => row.revoked_at.is_none() && *known == self.key_of(row),
            None => row.revoked_at.is_some(),
        }
    }

    fn key_of(&self, row: &KeyRow) -> DirectoryKey {
        let is_ours = |digest: &Digest| digest.key_name == self.digest_key_name;
        DirectoryKey {
            is_revoked: self.keys.get(&row.id).is_some_and(|key| key.is_revoked),
            secret_hash: Arc::clone(&row.secret_hash),
            digest: row.digest.filter(is_ours).map(|digest| digest.digest),
            consumer: row.consumer,
            bucket: row.bucket,
            expires_at_unix_us: row.expires_at_unix_us,
            services: row.services.clone(),
        }
    }

    /// From now on the key is granted nothing, whatever else becomes of its row. Was it until now?
    pub(crate) fn revoke(&mut self, id: KeyId) -> bool {
        let key = self.keys.get_mut(&id);
        key.is_some_and(|key| !std::mem::replace(&mut key.is_revoked, true))
    }

    /// The living keys of a bucket. Looks at all keys: revocations are rare.
    pub(crate) fn keys_of(&self, bucket: BucketId) -> Vec<KeyId> {
        let is_of = |key: &DirectoryKey| key.bucket == bucket && !key.is_revoked;
        self.keys.iter().filter(|(_, key)| is_of(key)).map(|(id, _)| *id).collect()
    }

    /// The key's text was verified: what the store is to keep of it, if the key is still here.
    pub(crate) fn set_digest(&mut self, id: KeyId, digest: KeyDigest) -> Option<Digest> {
        self.keys.get_mut(&id)?.digest = Some(digest);
        Some(Digest { key_name: self.digest_key_name, digest })
    }

    /// What the key's text must match, if the key could be granted now.
    pub(crate) fn check(&self, id: KeyId, at: Moment) -> Option<Check> {
        let key = self.living(id)?;
        expires_at(key, at)?;
        Some(match key.digest {
            Some(digest) => Check::Digest(digest),
            None => Check::Hash(Arc::clone(&key.secret_hash)),
        })
    }

    /// What the key may do now, its secret having matched; `None`: nothing any more.
    pub(crate) fn grant(&self, id: KeyId, at: Moment) -> Option<KeyGrant> {
        let key = self.living(id)?;
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

    fn living(&self, id: KeyId) -> Option<&DirectoryKey> {
        self.keys.get(&id).filter(|key| !key.is_revoked)
    }
}

/// When the key expires on the shards' clock, if ever. Outer `None`: it has expired.
fn expires_at(key: &DirectoryKey, at: Moment) -> Option<Option<Nanos>> {
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

    /// A directory with the plan 1, its consumer 1 and a key of theirs.
    pub(crate) fn directory_with_key(id: KeyId, secret_hash: &str) -> Directory {
        let mut directory = Directory::new(KnownIds::with_room_for(0), [0; 8]);
        let plan = Plan {
            id: PlanId(1),
            name: "p".into(),
            rate_per_s: 1,
            burst: 1,
            quota_tokens: 1,
            when_lost: None,
        };
        directory.set_catalog(Catalog::new(1, vec![plan], Vec::new()));
        directory.set_consumer(ConsumerId(1), Consumer { name: "c".into(), plan: PlanId(1) });
        directory.set_key(&key_row(id, secret_hash));
        directory
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
            digest: None,
            services: None,
            expires_at_unix_us: None,
            revoked_at: None,
            created_at: String::new(),
        }
    }

    #[test]
    fn an_end_in_wall_time_becomes_one_on_the_shards_clock() {
        let mut directory = directory_with_key(KeyId(1), "h");
        let mut row = key_row(KeyId(1), "h");
        row.expires_at_unix_us = Some(2_000);
        directory.set_key(&row);
        let grant = |unix_us| directory.grant(KeyId(1), Moment { now: Nanos(10), unix_us });
        assert_eq!(grant(1_999).and_then(|grant| grant.expires_at), Some(Nanos(1_010)));
        assert_eq!(grant(2_000), None);
        assert_eq!(grant(3_000), None);
    }

    #[test]
    fn a_revoked_key_is_gone() {
        let mut directory = directory_with_key(KeyId(1), "h");
        let at = Moment::default();
        assert!(directory.grant(KeyId(1), at).is_some());
        let mut row = key_row(KeyId(1), "h");
        row.revoked_at = Some("now".to_owned());
        directory.set_key(&row);
        assert!(directory.grant(KeyId(1), at).is_none() && directory.check(KeyId(1), at).is_none());
    }

    #[test]
    fn the_keys_of_a_deleted_consumer_go_with_it() {
        let mut directory = directory_with_key(KeyId(1), "h");
        let mut other = key_row(KeyId(2), "h");
        other.consumer = ConsumerId(2);
        directory.set_key(&other);
        directory.remove_consumer(ConsumerId(1));
        let at = Moment::default();
        assert!(directory.check(KeyId(1), at).is_none());
        assert!(directory.check(KeyId(2), at).is_some(), "another consumer's key stays");
    }

    #[test]
    fn a_change_under_way_does_not_bring_a_revoked_key_back() {
        let mut directory = directory_with_key(KeyId(1), "h");
        let at = Moment::default();
        assert!(directory.revoke(KeyId(1)) && !directory.revoke(KeyId(1)));
        assert!(directory.grant(KeyId(1), at).is_none() && directory.check(KeyId(1), at).is_none());
        directory.set_key(&key_row(KeyId(1), "h"));
        assert!(directory.grant(KeyId(1), at).is_none() && directory.check(KeyId(1), at).is_none());
    }
}
