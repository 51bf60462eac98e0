//! What control's loop and the admin API share: settings, store, directory, the way to the shards.
//!
//! A change is handed over as an operation of the store that has not begun; it begins when its turn
//! comes. A change of consumers or keys goes to the store, the directory, the shards, and then to
//! the answer. A change of plans or services tells the shards before the directory. A revocation
//! tells directory and shards before the store, which may be slow or full.
//!
//! Everything here runs on control's thread. The directory is locked for single steps and never
//! across an await.

use super::catalog;
use super::directory::{Consumer, Directory};
use super::names::HostNames;
use super::shard_senders::ShardSenders;
use super::upstream_url::host_port;
use super::vault::Vault;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{self, CatalogError, ConsumerRow, KeyRow, PlanRow, ServiceRow};
use shard::catalog::{Item, Service};
use shard::message::ToShard;
use shard::units::{BucketId, ConsumerId, KeyId, ServiceId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Argon2 hashes of new keys under way at once.
const HASHES_MAX: usize = 2;
/// A change of a service waits for its host's addresses this long; they may come later.
const ADDRS_WITHIN: Duration = Duration::from_millis(500);
/// Redis answers within half of this, or its connection is given up.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What can change while the instance runs.
pub(crate) struct Settings {
    pub(crate) config: Arc<Config>,
    pub(crate) admin_token: String,
}

/// What is refused from now on.
#[derive(Debug)]
pub(crate) enum Revoked {
    /// A key. Whoever asked for it hears whether other instances know.
    Key(KeyId, oneshot::Sender<bool>),
    /// A bucket that no key is left of.
    Bucket(BucketId),
}

/// A revocation that holds on this instance, and that the store has not kept.
pub(crate) struct NotKept {
    /// Why.
    pub(crate) failure: CatalogError,
    /// So do other instances, those too that reach Redis later.
    pub(crate) others_know: bool,
}

/// See the module.
pub(crate) struct AdminState {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: store::Catalog,
    pub(crate) senders: ShardSenders,
    pub(crate) vault: Vault,
    pub(crate) hashes: Arc<Semaphore>,
    /// What other instances are to be told of, by control's loop.
    revoked: flume::Sender<Revoked>,
    names: HostNames,
    directory: Mutex<Directory>,
    settings: Mutex<Arc<Settings>>,
    /// Held from the store to the shards, so that changes of one thing arrive in their order.
    people: tokio::sync::Mutex<()>,
    terms: tokio::sync::Mutex<()>,
}

impl AdminState {
    pub(crate) fn new(
        settings: Settings,
        metrics: Arc<Metrics>,
        store: store::Catalog,
        (directory, names): (Directory, HostNames),
        senders: ShardSenders,
        vault: Vault,
        revoked: flume::Sender<Revoked>,
    ) -> Self {
        Self {
            metrics,
            store,
            senders,
            vault,
            revoked,
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
            names,
            directory: Mutex::new(directory),
            settings: Mutex::new(Arc::new(settings)),
            people: tokio::sync::Mutex::new(()),
            terms: tokio::sync::Mutex::new(()),
        }
    }

    /// The directory, for one step.
    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on, these settings.
    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Carries out a change of a plan.
    pub(crate) async fn change_plan(
        &self,
        change: impl Future<Output = Result<PlanRow, CatalogError>> + Send,
    ) -> Result<PlanRow, CatalogError> {
        let _turn = self.terms.lock().await;
        let row = change.await?;
        self.publish(Item::Plan(row.plan.clone())).await;
        Ok(row)
    }

    /// Carries out a change of a service, and waits a moment for the addresses of a new host.
    pub(crate) async fn change_service(
        self: &Arc<Self>,
        change: impl Future<Output = Result<ServiceRow, CatalogError>> + Send,
    ) -> Result<ServiceRow, CatalogError> {
        let turn = self.terms.lock().await;
        let row = change.await?;
        let url = catalog::url_of(&row);
        let authority = url.host_port();
        let addrs = self.names.addrs(&authority);
        let is_known = !addrs.is_empty();
        let service = catalog::service(&row, url, addrs, self.vault.seal())?;
        self.publish(Item::Service(Arc::new(service))).await;
        let index = self.directory().catalog().service_by_id(row.id);
        index.into_iter().for_each(|index| self.names.uses(&authority, index));
        drop(turn);
        if !is_known {
            self.find(authority.clone());
            // Without them, calls of the service fail until they are there.
            let _ = tokio::time::timeout(ADDRS_WITHIN, self.names.ended(&authority)).await;
        }
        Ok(row)
    }

    /// Carries out the deletion of a service. A call that has begun ends as it would have.
    pub(crate) async fn delete_service(&self, id: ServiceId) -> Result<ServiceRow, CatalogError> {
        let _turn = self.terms.lock().await;
        let row = self.store.delete_service(id).await?;
        self.drop_service(id).await;
        Ok(row)
    }

    /// Another instance has deleted it.
    pub(crate) async fn forget_service(&self, id: ServiceId) {
        let _turn = self.terms.lock().await;
        self.drop_service(id).await;
    }

    /// Only with `terms` in hand.
    async fn drop_service(&self, id: ServiceId) {
        let index = self.directory().catalog().service_by_id(id);
        if let Some(index) = index {
            self.names.forget(index);
            let deleted = self.directory().catalog().services[index as usize].as_deleted();
            self.publish(Item::Service(Arc::new(deleted))).await;
        }
    }

    /// Looks up every host again, or those that have not been found.
    pub(crate) fn find_hosts(self: &Arc<Self>, all: bool) {
        for authority in self.names.hosts_to_find(all) {
            self.find(authority);
        }
    }

    fn find(self: &Arc<Self>, authority: String) {
        if self.names.begin(&authority) {
            let state = Arc::clone(self);
            tokio::spawn(async move {
                if state.names.look_up(&authority).await {
                    state.publish_addrs(&authority).await;
                }
                state.names.end(&authority);
            });
        }
    }

    async fn publish_addrs(&self, authority: &str) {
        let _turn = self.terms.lock().await;
        for index in self.names.services(authority) {
            let service = self.directory().catalog().services.get(index as usize).cloned();
            let is_there = |it: &Arc<Service>| host_port(&it.authority, it.is_tls) == authority;
            let Some(service) = service.filter(is_there) else { continue };
            let service = Service { addrs: self.names.addrs(authority), ..(*service).clone() };
            self.publish(Item::Service(Arc::new(service))).await;
        }
    }

    /// Brings shards and directory in step with what has changed; only with `terms` in hand. Shards
    /// first: no verdict may name a plan that its shard has not heard of.
    async fn publish(&self, item: Item) {
        let Some(change) = self.directory().catalog().change_to(item) else { return };
        let change = Arc::new(change);
        self.senders.tell_all(&ToShard::Catalog(Arc::clone(&change))).await;
        self.directory().apply(&change);
    }

    /// Carries out a change of a consumer. Its keys are forgotten where it had been known.
    pub(crate) async fn change_consumer(
        &self,
        change: impl Future<Output = Result<ConsumerRow, CatalogError>> + Send,
    ) -> Result<ConsumerRow, CatalogError> {
        let _turn = self.people.lock().await;
        let row = change.await?;
        let consumer = Consumer { name: row.name.as_str().into(), plan: row.plan };
        let old = self.directory().set_consumer(row.id, consumer);
        if old.is_some_and(|old| old.plan != row.plan) {
            self.senders.tell_all(&ToShard::ForgetConsumer { consumer: row.id }).await;
        }
        Ok(row)
    }

    /// Carries out the deletion of a consumer. None of its keys is alive by the store's clock, and
    /// none is from here on.
    pub(crate) async fn delete_consumer(
        &self,
        id: ConsumerId,
    ) -> Result<ConsumerRow, CatalogError> {
        let _turn = self.people.lock().await;
        let row = self.store.delete_consumer(id).await?;
        self.drop_consumer(id).await;
        Ok(row)
    }

    /// Another instance has deleted it.
    pub(crate) async fn forget_consumer(&self, id: ConsumerId) {
        let _turn = self.people.lock().await;
        self.drop_consumer(id).await;
    }

    /// Only with `people` in hand.
    async fn drop_consumer(&self, id: ConsumerId) {
        self.directory().remove_consumer(id);
        self.senders.tell_all(&ToShard::ForgetConsumer { consumer: id }).await;
    }

    /// Takes over what another instance has made of a key.
    pub(crate) async fn follow_key(&self, id: KeyId) -> Result<(), CatalogError> {
        let _turn = self.people.lock().await;
        let row = self.store.key(id).await?;
        if !self.directory().has_key(&row) {
            self.directory().set_key(&row);
            self.senders.tell_all(&ToShard::Forget { key: id }).await;
        }
        Ok(())
    }

    /// Carries out a change of keys: all of the rows that come back are forgotten by the shards.
    pub(crate) async fn change_keys<const N: usize>(
        &self,
        change: impl Future<Output = Result<[KeyRow; N], CatalogError>> + Send,
    ) -> Result<[KeyRow; N], CatalogError> {
        let _turn = self.people.lock().await;
        let rows = change.await?;
        for row in &rows {
            self.directory().set_key(row);
            self.senders.tell_all(&ToShard::Forget { key: row.id }).await;
        }
        Ok(rows)
    }

    /// Revokes a key. It is refused at once, here and wherever Redis tells of it, whatever the
    /// store takes to keep that; on a failure, until the processes end.
    pub(crate) async fn revoke_key(&self, id: KeyId) -> Result<KeyRow, NotKept> {
        self.refuse_key(id).await;
        let (told, others_told) = oneshot::channel();
        self.tell_others(Revoked::Key(id, told));
        // A key that was only being made was not in the directory yet: shards are told once more.
        let mut is_last = false;
        let revoke = async {
            let (row, last) = self.store.revoke_key(id).await?;
            is_last = last;
            Ok([row])
        };
        match self.change_keys(revoke).await {
            Ok([row]) => {
                if is_last {
                    self.tell_others(Revoked::Bucket(row.bucket));
                }
                Ok(row)
            }
            Err(failure) => {
                let told = tokio::time::timeout(TOLD_WITHIN, others_told).await;
                Err(NotKept { failure, others_know: matches!(told, Ok(Ok(true))) })
            }
        }
    }

    fn tell_others(&self, revoked: Revoked) {
        if let Err(full) = self.revoked.try_send(revoked) {
            let revoked = full.into_inner();
            tracing::warn!(?revoked, "other instances hear of a revocation from the store alone");
        }
    }

    /// From now on all keys of the bucket are refused: the authority says that it has none.
    pub(crate) async fn refuse_bucket(&self, bucket: BucketId) {
        let keys = self.directory().keys_of(bucket);
        for key in keys {
            self.refuse_key(key).await;
        }
    }

    /// From now on the key is refused, if it was not.
    pub(crate) async fn refuse_key(&self, id: KeyId) {
        let was_living = self.directory().revoke(id);
        if was_living {
            self.senders.tell_all(&ToShard::Forget { key: id }).await;
        }
    }
}
