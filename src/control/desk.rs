//! What the lease loop and the admin API share. A change of people goes in one order: the store,
//! the book, the shards, the answer; one of terms tells the shards before the book. Everything
//! runs on control's thread; the book's lock is held for single steps and never across an await.

use super::book::{Book, Consumer};
use super::catalog;
use super::post::Post;
use super::store::consumers::ConsumerRow;
use super::store::keys::KeyRow;
use super::store::{Failure, Store};
use super::vault::Vault;
use crate::config::Config;
use crate::metrics::Metrics;
use rusqlite::Connection;
use shard::message::ToShard;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Argon2 hashes of new keys under way at once.
const HASHES_MAX: usize = 2;

/// What can change while the instance runs.
pub(crate) struct Settings {
    pub(crate) config: Arc<Config>,
    pub(crate) admin_token: String,
}

/// See the module.
pub(crate) struct Desk {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Store,
    pub(crate) post: Post,
    pub(crate) vault: Vault,
    pub(crate) hashes: Semaphore,
    book: Mutex<Book>,
    settings: Mutex<Arc<Settings>>,
    /// Held from the store to the shards, so that changes of one thing arrive in their order.
    people: tokio::sync::Mutex<()>,
    terms: tokio::sync::Mutex<()>,
}

impl Desk {
    pub(crate) fn new(
        settings: Settings,
        metrics: Arc<Metrics>,
        store: Store,
        book: Book,
        post: Post,
        vault: Vault,
    ) -> Self {
        Self {
            metrics,
            store,
            post,
            vault,
            hashes: Semaphore::new(HASHES_MAX),
            book: Mutex::new(book),
            settings: Mutex::new(Arc::new(settings)),
            people: tokio::sync::Mutex::new(()),
            terms: tokio::sync::Mutex::new(()),
        }
    }

    /// The book, for one step.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on, these settings.
    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Brings book and shards in step with the plans and services of the store.
    pub(crate) async fn publish(&self, refresh_addrs: bool) -> Result<(), Failure> {
        let _turn = self.terms.lock().await;
        let old = self.book().catalog();
        let new = catalog::load(&self.store, self.vault.seal(), &old, refresh_addrs).await?;
        if new.version != old.version {
            let new = Arc::new(new);
            // Shards first: no verdict may name a plan that its shard has not heard of.
            self.post.tell_all(&ToShard::Catalog(Arc::clone(&new))).await;
            self.book().set_catalog(new);
        }
        Ok(())
    }

    /// Carries out a change of a consumer. Its keys are forgotten where it had been known.
    pub(crate) async fn change_consumer(
        &self,
        change: impl FnOnce(&mut Connection) -> Result<ConsumerRow, Failure> + Send + 'static,
    ) -> Result<ConsumerRow, Failure> {
        let _turn = self.people.lock().await;
        let row = self.store.change(change).await?;
        let consumer = Consumer { name: row.name.as_str().into(), plan: row.plan };
        let old = self.book().set_consumer(row.id, consumer);
        if old.is_some_and(|old| old.plan != row.plan) {
            self.post.tell_all(&ToShard::ForgetConsumer { consumer: row.id }).await;
        }
        Ok(row)
    }

    /// Carries out a change of keys: all of the rows that come back are forgotten by the shards.
    pub(crate) async fn change_keys<const N: usize>(
        &self,
        change: impl FnOnce(&mut Connection) -> Result<[KeyRow; N], Failure> + Send + 'static,
    ) -> Result<[KeyRow; N], Failure> {
        let _turn = self.people.lock().await;
        let rows = self.store.change(change).await?;
        for row in &rows {
            self.book().set_key(row);
            self.post.tell_all(&ToShard::Forget { key: row.id }).await;
        }
        Ok(rows)
    }
}
