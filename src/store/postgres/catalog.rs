//! The catalog's and the ledger's tables as control uses them, over lanes, each a connection of its
//! own: changes, the lease loop's reads, the admin API's lists, its reports. None waits for
//! another, unless there are to be fewer connections. They live on a thread of their own.
//!
//! Changes come one after another, over all instances: each begins by taking the one lock that
//! they have in common. A change whose commit was not answered may have been made all the same;
//! whoever asked is told that the store is away, and sees by a read which it was.

use super::Done;
use super::lane::{PostgresLane, Work};
use super::session::{self, Access, Session};
use super::{consumers, credentials, keys, news, plans, replica, schema, services, usage};
use crate::store::error::StoreError;
use crate::store::location::PostgresServer;
use crate::store::rows::{
    CatalogNews, CatalogWatch, ConsumerChange, ConsumerRow, Digest, KeyRow, Loaded, NewKey,
    NewService, Page, PlanChange, PlanRow, ServiceChange, ServiceRow,
};
use crate::store::snapshot::Snapshot;
use crate::store::usage::{By, ServiceMonth, Sum, SumSpan};
use shard::catalog::{Plan, PriceModel};
use shard::units::{ConsumerId, KeyId, Period, PlanId, ServiceId};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};

/// Work that waits for a lane; reports, of which each may take [`WITHIN`], fewer.
const WAITING_MAX: usize = 1_024;
const REPORTS_WAITING_MAX: usize = 16;
/// What any work may take, waiting for its turn included.
const WITHIN: Duration = Duration::from_secs(10);

/// The lanes.
#[derive(Clone)]
pub(crate) struct PostgresCatalog {
    changes: Arc<PostgresLane>,
    ledger: Arc<PostgresLane>,
    /// Single objects, and what changed.
    reads: Arc<PostgresLane>,
    /// Where there is a replica, these two are there.
    lists: Arc<PostgresLane>,
    reports: Arc<PostgresLane>,
    has_replica: bool,
    runtime: Handle,
    /// All changes up to this one are in what was loaded.
    pub(in crate::store) seen_at_start: i64,
    told: flume::Receiver<()>,
    /// The thread ends when the last clone is dropped.
    _thread: flume::Sender<()>,
}

impl PostgresCatalog {
    pub(crate) fn open(server: &PostgresServer) -> Result<Self, StoreError> {
        let away = Self::open_away(server)?;
        let changes = away.changes.clone();
        let (answer, answered) = flume::bounded(1);
        away.runtime.spawn(async move {
            let opened = match open(changes.access()).await {
                Ok((session, seen)) => {
                    changes.begin_with(session).await;
                    Ok(seen)
                }
                Err(failure) => Err(failure),
            };
            answer.send(opened)
        });
        let ended = |_| Err(StoreError::Failed("the store's thread has ended".into()));
        let seen_at_start = answered.recv().unwrap_or_else(ended)?;
        Ok(Self { seen_at_start, ..away })
    }

    /// The same without a word to the server: each lane connects when it is first used.
    pub(crate) fn open_away(server: &PostgresServer) -> Result<Self, StoreError> {
        let access = Access::new(server, WITHIN)?;
        let (thread, ended) = flume::bounded::<()>(1);
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(StoreError::Thread)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("store-postgres".to_owned())
            .spawn(move || runtime.block_on(async { _ = ended.recv_async().await }))
            .map_err(StoreError::Thread)?;
        // One that is not taken stands for all that come until it is.
        let (notified, told) = flume::bounded(1);
        let for_changes = Access { notified: Some(notified), ..access.clone() };
        let lane =
            |access: &Access, waiting_max| PostgresLane::new(access.clone(), WITHIN, waiting_max);
        let replica = Access::to_replica(server, WITHIN)?;
        let connections_max = server.connections_max;
        let changes = PostgresLane::new(for_changes, WITHIN, WAITING_MAX);
        // What shards wait for waits for nobody. The others share where there are too few.
        let reads = if connections_max > 2 { lane(&access, WAITING_MAX) } else { changes.clone() };
        let lists = replica.as_ref().map(|at| lane(at, WAITING_MAX));
        let lists = lists.unwrap_or_else(|| reads.clone());
        let reports = match &replica {
            Some(at) => lane(at, REPORTS_WAITING_MAX),
            None if connections_max > 3 => lane(&access, REPORTS_WAITING_MAX),
            None => reads.clone(),
        };
        Ok(Self {
            ledger: lane(&access, WAITING_MAX),
            has_replica: replica.is_some(),
            changes,
            reads,
            lists,
            reports,
            runtime: handle,
            seen_at_start: 0,
            told,
            _thread: thread,
        })
    }

    /// Carries out a change, after those before it, wholly or not at all. It happens even if
    /// nobody waits for it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Done<T> {
        let in_transaction = self.changes.run(&self.runtime, move |db| {
            Box::pin(async move {
                db.batch(&schema::begin_change()).await?;
                let done = work(db).await;
                let end = if done.is_ok() { "NOTIFY tollgate_catalog; COMMIT" } else { "ROLLBACK" };
                db.batch(end).await?;
                done
            })
        });
        in_transaction.await
    }

    /// Reads an object, as it is now.
    async fn read<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Done<T> {
        self.reads.run_for_caller(&self.runtime, work).await
    }

    /// Reads a page of objects, as a replica has them by now.
    async fn list<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Done<T> {
        self.lists.run_for_caller(&self.runtime, work).await
    }

    async fn report<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Done<T> {
        self.reports.run_for_caller(&self.runtime, work).await
    }

    /// Reads what shards wait for.
    async fn read_ledger<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Done<T> {
        self.ledger.run(&self.runtime, work).await
    }

    pub(crate) fn watch(&self) -> CatalogWatch {
        CatalogWatch { seen: self.seen_at_start, told: self.told.clone() }
    }

    pub(crate) fn load(&self) -> Done<Loaded> {
        self.changes.run_here(&self.runtime, |db| Box::pin(load(db)))
    }

    /// Connections of this process to the servers.
    pub(crate) fn connections(&self) -> i64 {
        session::open_count()
    }

    /// How far the replica is behind, in microseconds; `None`: there is none.
    pub(crate) async fn replica_lag_us(&self) -> Done<Option<i64>> {
        if !self.has_replica {
            return Ok(None);
        }
        let position = self.read(|db| Box::pin(replica::position(db))).await?;
        let lag =
            self.list(move |db| Box::pin(async move { replica::lag_us(db, &position).await }));
        lag.await.map(Some)
    }

    /// Names the store, whoever asks it, and its schema.
    pub(crate) fn identity(&self) -> String {
        let config = &self.changes.access().config;
        let place = (config.get_hosts(), config.get_ports(), config.get_dbname());
        format!("{place:?} {}", schema::version())
    }

    /// All that an instance knows by heart, at one moment; `None`: nothing has changed after the
    /// change `seen`.
    pub(crate) async fn snapshot(&self, seen: Option<i64>) -> Done<Option<Snapshot>> {
        self.read(move |db| Box::pin(snapshot(db, seen))).await
    }

    pub(crate) fn load_keys(&self, page: Page) -> Done<Vec<KeyRow>> {
        self.changes.run_here(&self.runtime, move |db| Box::pin(keys::unrevoked(db, page)))
    }

    pub(crate) fn has_records(&self) -> Done<bool> {
        self.changes.run_here(&self.runtime, |db| Box::pin(usage::has_records(db)))
    }
}

async fn load(db: &Session) -> Done<Loaded> {
    Ok(Loaded {
        keys: keys::count(db).await?,
        plans: plans::list(db, Page::EVERYTHING).await?,
        services: services::list(db, Page::EVERYTHING).await?,
        consumers: consumers::list(db, Page::EVERYTHING).await?,
    })
}

async fn snapshot(db: &Session, seen: Option<i64>) -> Done<Option<Snapshot>> {
    db.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let last = news::last(db).await?;
    let taken = match seen == Some(last) {
        true => None,
        false => {
            let (loaded, keys) = (load(db).await?, keys::unrevoked(db, Page::EVERYTHING).await?);
            let key_names = credentials::key_names(db).await?;
            Some(Snapshot { seen: last, key_names, loaded, keys })
        }
    };
    db.batch("COMMIT").await?;
    Ok(taken)
}

async fn open(access: &Access) -> Result<(Session, i64), StoreError> {
    let session = schema::open(access).await?;
    // What is loaded from here on is no older.
    let seen = news::last(&session).await;
    let seen = seen.map_err(|failure| StoreError::Failed(failure.to_string()))?;
    Ok((session, seen))
}

/// Writes each operation as a method that gives its work to a lane.
macro_rules! operations {
    ($($lane:ident $name:ident($($arg:ident: $type:ty),*) -> $answer:ty
        { |$db:ident| $work:expr })*) => {
        impl PostgresCatalog {
            $(pub(crate) async fn $name(&self, $($arg: $type),*) -> Done<$answer> {
                self.$lane(move |$db| Box::pin(async move { $work.await })).await
            })*
        }
    };
}

operations! {
    read plan(id: PlanId) -> PlanRow { |db| plans::get(db, id) }
    list plans(page: Page) -> Vec<PlanRow> { |db| plans::list(db, page) }
    read find_plan(text: String) -> Option<PlanId> { |db| plans::find(db, &text) }
    change insert_plan(plan: Plan) -> PlanRow { |db| plans::insert(db, &plan) }
    change update_plan(id: PlanId, change: PlanChange) -> PlanRow {
        |db| plans::update(db, id, change)
    }
    change delete_plan(id: PlanId) -> PlanRow { |db| plans::delete(db, id) }

    read consumer(id: ConsumerId) -> ConsumerRow { |db| consumers::get(db, id) }
    list consumers(page: Page) -> Vec<ConsumerRow> { |db| consumers::list(db, page) }
    change insert_consumer(id: ConsumerId, name: String, plan: PlanId) -> ConsumerRow {
        |db| consumers::insert(db, id, &name, plan)
    }
    change update_consumer(id: ConsumerId, change: ConsumerChange) -> ConsumerRow {
        |db| consumers::update(db, id, &change)
    }
    change delete_consumer(id: ConsumerId) -> ConsumerRow { |db| consumers::delete(db, id) }

    read key(id: KeyId) -> KeyRow { |db| keys::get(db, id) }
    list keys(of: Option<ConsumerId>, page: Page) -> Vec<KeyRow> { |db| keys::list(db, of, page) }
    change insert_key(key: NewKey) -> KeyRow { |db| keys::insert(db, &key) }
    change rotate_key(old: KeyId, successor: NewKey, old_ends_at_unix_us: Option<i64>)
        -> [KeyRow; 2]
    {
        |db| keys::rotate(db, old, &successor, old_ends_at_unix_us)
    }
    change revoke_key(id: KeyId) -> (KeyRow, bool) { |db| keys::revoke(db, id) }
    change set_digests(digests: Vec<(KeyId, Digest)>) -> () {
        |db| keys::set_digests(db, &digests)
    }

    read service(id: ServiceId) -> ServiceRow { |db| services::get(db, id) }
    list services(page: Page) -> Vec<ServiceRow> { |db| services::list(db, page) }
    change insert_service(new: NewService) -> ServiceRow { |db| services::insert(db, &new) }
    change update_service(id: ServiceId, change: ServiceChange) -> ServiceRow {
        |db| services::update(db, id, &change)
    }
    change delete_service(id: ServiceId) -> ServiceRow { |db| services::delete(db, id) }
    change add_price(id: ServiceId, price: PriceModel, effective_at_unix_us: i64) -> ServiceRow {
        |db| services::add_price(db, id, &price, effective_at_unix_us)
    }

    read news_after(seen: i64) -> (i64, Vec<CatalogNews>) { |db| news::after(db, seen) }
    report sums(by: Vec<By>, span: SumSpan, limit: u32, offset: i64) -> Vec<Sum> {
        |db| usage::sums(db, &by, &span, limit, offset)
    }
    read_ledger months(months: Vec<(ConsumerId, Period)>) -> Vec<u64> {
        |db| usage::months(db, &months)
    }
    read_ledger month_costs(consumer: ConsumerId, period: Period) -> Vec<ServiceMonth> {
        |db| usage::month_costs(db, consumer, period)
    }
}
