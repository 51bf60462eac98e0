//! The catalog's and the ledger's tables as control uses them, over four lanes, each a thread with
//! a connection of its own: changes, the lease loop's reads, the admin API's lists, its reports.
//! None waits for another (WAL: readers and the one that writes work side by side), and the lease
//! loop waits for none of them.
//!
//! What is deleted keeps its row, with `deleted_at`: the ledger names and prices its calls by it.
//! Nobody else sees it, and its name is free.

use super::lane::Lane;
use super::turns::take_turn;
use super::{consumers, file, keys, plans, services, usage};
use crate::store::error::{CatalogError, StoreError};
use crate::store::rows::{
    CatalogNews, ConsumerChange, ConsumerRow, Digest, KeyRow, Loaded, NewKey, NewService, Page,
    PlanChange, PlanRow, ServiceChange, ServiceRow,
};
use crate::store::usage::{By, ServiceMonth, Sum, SumSpan};
use rusqlite::Connection;
use shard::catalog::{Plan, PriceModel};
use shard::units::{ConsumerId, KeyId, Nanos, Period, PlanId, ServiceId};
use std::path::Path;

type Done<T> = Result<T, CatalogError>;

/// Jobs that wait in a lane; reports, of which each may take [`REPORT_WITHIN`], fewer.
const WAITING_MAX: usize = 1_024;
const REPORTS_WAITING_MAX: usize = 16;
/// What a report may take; one that whole days suffice for takes milliseconds.
const REPORT_WITHIN: Nanos = Nanos::from_s(10);

/// The lanes.
#[derive(Clone)]
pub(crate) struct SqliteCatalog {
    changes: Lane,
    ledger: Lane,
    lists: Lane,
    reports: Lane,
}

impl SqliteCatalog {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let mut connection = file::open(data_dir)?;
        plans::seed(&mut connection)?;
        let reads = |name, waiting_max| {
            Lane::start(name, file::open_for_reading(data_dir)?, waiting_max)
                .map_err(StoreError::Thread)
        };
        Ok(Self {
            changes: Lane::start("store-changes", connection, WAITING_MAX)
                .map_err(StoreError::Thread)?,
            ledger: reads("store-ledger", WAITING_MAX)?,
            lists: reads("store-lists", WAITING_MAX)?,
            reports: reads("store-reports", REPORTS_WAITING_MAX)?,
        })
    }

    /// Carries out a change, after those before it. It happens even if nobody waits for it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Done<T> + Send + 'static,
    ) -> Done<T> {
        let in_turn = move |db: &mut Connection| {
            let _turn = take_turn();
            work(db)
        };
        self.changes.run(in_turn).await
    }

    /// Reads an object or a page of them.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Done<T> + Send + 'static,
    ) -> Done<T> {
        self.lists.run_within(REPORT_WITHIN, work).await
    }

    pub(crate) fn load(&self) -> Done<Loaded> {
        self.changes.run_here(|db| {
            Ok(Loaded {
                keys: keys::count(db)?,
                plans: plans::list(db, Page::EVERYTHING)?,
                services: services::list(db, Page::EVERYTHING)?,
                consumers: consumers::list(db, Page::EVERYTHING)?,
            })
        })
    }

    pub(crate) fn load_keys(&self, page: Page) -> Done<Vec<KeyRow>> {
        self.changes.run_here(move |db| keys::unrevoked(db, page))
    }

    pub(crate) fn has_records(&self) -> Done<bool> {
        self.changes.run_here(|db| usage::has_records(db))
    }

    pub(crate) async fn plan(&self, id: PlanId) -> Done<PlanRow> {
        self.read(move |db| plans::get(db, id)).await
    }

    pub(crate) async fn plans(&self, page: Page) -> Done<Vec<PlanRow>> {
        self.read(move |db| plans::list(db, page)).await
    }

    pub(crate) async fn find_plan(&self, text: String) -> Done<Option<PlanId>> {
        self.read(move |db| plans::find(db, &text)).await
    }

    pub(crate) async fn insert_plan(&self, plan: Plan) -> Done<PlanRow> {
        self.change(move |db| plans::insert(db, &plan)).await
    }

    pub(crate) async fn update_plan(&self, id: PlanId, change: PlanChange) -> Done<PlanRow> {
        self.change(move |db| plans::update(db, id, change)).await
    }

    pub(crate) async fn delete_plan(&self, id: PlanId) -> Done<PlanRow> {
        self.change(move |db| plans::delete(db, id)).await
    }

    pub(crate) async fn consumer(&self, id: ConsumerId) -> Done<ConsumerRow> {
        self.read(move |db| consumers::get(db, id)).await
    }

    pub(crate) async fn consumers(&self, page: Page) -> Done<Vec<ConsumerRow>> {
        self.read(move |db| consumers::list(db, page)).await
    }

    pub(crate) async fn insert_consumer(
        &self,
        id: ConsumerId,
        name: String,
        plan: PlanId,
    ) -> Done<ConsumerRow> {
        self.change(move |db| consumers::insert(db, id, &name, plan)).await
    }

    pub(crate) async fn update_consumer(
        &self,
        id: ConsumerId,
        change: ConsumerChange,
    ) -> Done<ConsumerRow> {
        self.change(move |db| consumers::update(db, id, &change)).await
    }

    pub(crate) async fn delete_consumer(&self, id: ConsumerId) -> Done<ConsumerRow> {
        self.change(move |db| consumers::delete(db, id)).await
    }

    pub(crate) async fn key(&self, id: KeyId) -> Done<KeyRow> {
        self.read(move |db| keys::get(db, id)).await
    }

    pub(crate) async fn keys(&self, of: Option<ConsumerId>, page: Page) -> Done<Vec<KeyRow>> {
        self.read(move |db| keys::list(db, of, page)).await
    }

    pub(crate) async fn insert_key(&self, key: NewKey) -> Done<KeyRow> {
        self.change(move |db| keys::insert(db, &key)).await
    }

    pub(crate) async fn rotate_key(
        &self,
        old: KeyId,
        successor: NewKey,
        old_ends_at_unix_us: Option<i64>,
    ) -> Done<[KeyRow; 2]> {
        self.change(move |db| keys::rotate(db, old, &successor, old_ends_at_unix_us)).await
    }

    pub(crate) async fn revoke_key(&self, id: KeyId) -> Done<(KeyRow, bool)> {
        self.change(move |db| keys::revoke(db, id)).await
    }

    pub(crate) async fn set_digests(&self, digests: Vec<(KeyId, Digest)>) -> Done<()> {
        self.change(move |db| keys::set_digests(db, &digests)).await
    }

    pub(crate) async fn service(&self, id: ServiceId) -> Done<ServiceRow> {
        self.read(move |db| services::get(db, id)).await
    }

    pub(crate) async fn services(&self, page: Page) -> Done<Vec<ServiceRow>> {
        self.read(move |db| services::list(db, page)).await
    }

    pub(crate) async fn insert_service(&self, new: NewService) -> Done<ServiceRow> {
        self.change(move |db| services::insert(db, &new)).await
    }

    pub(crate) async fn update_service(
        &self,
        id: ServiceId,
        change: ServiceChange,
    ) -> Done<ServiceRow> {
        self.change(move |db| services::update(db, id, &change)).await
    }

    pub(crate) async fn delete_service(&self, id: ServiceId) -> Done<ServiceRow> {
        self.change(move |db| services::delete(db, id)).await
    }

    pub(crate) async fn add_price(
        &self,
        id: ServiceId,
        price: PriceModel,
        effective_at_unix_us: i64,
    ) -> Done<ServiceRow> {
        self.change(move |db| services::add_price(db, id, &price, effective_at_unix_us)).await
    }

    /// No other instance changes anything.
    pub(crate) async fn news_after(&self, seen: i64) -> Done<(i64, Vec<CatalogNews>)> {
        Ok((seen, Vec::new()))
    }

    pub(crate) async fn sums(
        &self,
        by: Vec<By>,
        span: SumSpan,
        limit: u32,
        offset: i64,
    ) -> Done<Vec<Sum>> {
        let sums = move |db: &mut Connection| usage::sums(db, &by, &span, limit, offset);
        self.reports.run_within(REPORT_WITHIN, sums).await
    }

    pub(crate) async fn months(&self, months: Vec<(ConsumerId, Period)>) -> Done<Vec<u64>> {
        self.ledger.run(move |db| usage::months(db, &months)).await
    }

    pub(crate) async fn month_costs(
        &self,
        consumer: ConsumerId,
        period: Period,
    ) -> Done<Vec<ServiceMonth>> {
        self.ledger.run(move |db| usage::month_costs(db, consumer, period)).await
    }
}
