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
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Keys that are refused and not, or not yet, known to the store's rows: more than Redis tells of.
const REFUSED_MAX: usize = 65_536;

/// A key that is not revoked in the store.
#[derive(PartialEq, Eq)]
struct DirectoryKey {
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
    /// Refused, whatever the store's rows say of them: it is about to keep that, or was away.
    refused: HashSet<KeyId>,
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
            refused: HashSet::new(),
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
            self.refused.remove(&row.id);
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
        let of_row = row.digest.filter(is_ours).map(|digest| digest.digest);
        DirectoryKey {
            secret_hash: Arc::clone(&row.secret_hash),
            // One that is on its way to the store holds too: a key's secret never changes.
            digest: of_row.or_else(|| self.keys.get(&row.id)?.digest),
            consumer: row.consumer,
            bucket: row.bucket,
            expires_at_unix_us: row.expires_at_unix_us,
            services: row.services.clone(),
        }
    }

    /// From now on the key is granted nothing, whatever else becomes of its row, also where that
    /// comes later. Was it granted anything until now?
    pub(crate) fn revoke(&mut self, id: KeyId) -> bool {
        let is_here = self.keys.contains_key(&id);
        let has_room = is_here || self.refused.len() < REFUSED_MAX;
        has_room && self.refused.insert(id) && is_here
    }

    /// The living keys of a bucket. Looks at all keys: revocations are rare.
    pub(crate) fn keys_of(&self, bucket: BucketId) -> Vec<KeyId> {
        let is_of = |(id, key): &(&KeyId, &DirectoryKey)| {
            key.bucket == bucket && !self.refused.contains(id)
        };
        self.keys.iter().filter(is_of).map(|(id, _)| *id).collect()
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
        self.keys.get(&id).filter(|_| !self.refused.contains(&id))
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

    /// Another instance has made and revoked it, and the store has kept the one and not the other.
    #[test]
    fn a_key_that_was_revoked_before_its_row_came_is_refused() {
        let mut directory = directory_with_key(KeyId(1), "h");
        assert!(!directory.revoke(KeyId(2)));
        directory.set_key(&key_row(KeyId(2), "h"));
        assert!(directory.grant(KeyId(2), Moment::default()).is_none());
        assert!(directory.grant(KeyId(1), Moment::default()).is_some());
    }

    /// So a change by another instance hashes no key twice.
    #[test]
    fn a_row_without_the_digest_does_not_take_it_away() {
        let mut directory = directory_with_key(KeyId(1), "h");
        directory.set_digest(KeyId(1), [7; 32]);
        let row = key_row(KeyId(1), "h");
        assert!(directory.has_key(&row));
        directory.set_key(&row);
        assert!(matches!(directory.check(KeyId(1), Moment::default()), Some(Check::Digest(_))));
    }
}
