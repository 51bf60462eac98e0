//! The store's promises, the same in whatever database it lies: each test runs on every one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod catalog;
mod ledger;
mod places;
mod postgres;
#[path = "../../../tests/e2e/support/postgres.rs"]
#[expect(dead_code, reason = "no test of the store kills its server")]
mod server;

use super::{
    Advance, Batch, Catalog, Ledger, LedgerError, NewService, Origin, ServiceRow, StoreLocation,
    Written,
};
use crate::channels::Settled;
use crate::config::PostgresUrl;
use crate::store::location::PostgresServer;
use server::Database;
use shard::catalog::{PriceModel, TokenPrices};
use shard::record::Record;
use shard::units::{ConsumerId, ServiceId};
use tempfile::TempDir;

/// Writes each test once for every database.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&super::super::TestStore::sqlite()) })*
        }
        mod postgres {
            $(#[test] fn $name() { super::$name(&super::super::TestStore::postgres()) })*
        }
    };
}
use on_every_store;

/// An empty store, gone at the end of the test.
pub(super) enum TestStore {
    Sqlite(TempDir),
    Postgres(Database),
}

impl TestStore {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(super) fn postgres() -> Self {
        Self::Postgres(Database::create())
    }

    pub(super) fn location(&self) -> StoreLocation {
        match self {
            Self::Sqlite(dir) => StoreLocation::from(dir.path()),
            Self::Postgres(database) => server_at(&database.url),
        }
    }

    fn catalog(&self) -> Catalog {
        Catalog::open(self.location()).unwrap()
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger::open(self.location()).unwrap()
    }
}

fn server_at(url: &str) -> StoreLocation {
    let url = PostgresUrl::parse(url).unwrap();
    StoreLocation::Postgres(PostgresServer { disk_bytes: Some(1 << 40), ..PostgresServer::at(url) })
}

/// Waits for an operation.
fn done<T>(operation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(operation)
}

const ORIGINS: [Origin; 1] = [Origin { journal_id: 1, instance_id: 2 }];

fn settled(seq: u64, record: Record) -> Settled {
    Settled { shard: 0, seq, prev_end: seq, record, request_id: None }
}

/// Writes records of one journal, all that come behind the last ones.
pub(super) fn write(ledger: &mut Ledger, records: &[Settled]) -> Result<Written, LedgerError> {
    let next_seq = records.last().map_or(0, |last| last.seq + 1);
    let advances = [Advance { origin: 0, next_seq, closed: false }];
    ledger.write(&Batch { origins: &ORIGINS, records, recovered: &[], advances: &advances })
}

/// So many calls of now by so many consumers, each with one input token.
pub(super) fn numbered_calls(count: u64, consumers: u64) -> Vec<Settled> {
    let call =
        |n| settled(n, Record { consumer: ConsumerId(1 + n % consumers), ..postgres::call(n) });
    (1..=count).map(call).collect()
}

pub(super) use postgres::query;

/// The newest version of a service's price.
pub(super) fn newest(row: ServiceRow) -> u32 {
    row.prices.iter().map(|row| row.price.version).max().unwrap()
}

/// A service, with a price from the beginning on.
pub(super) fn new_service(id: u64, name: &str) -> NewService {
    NewService {
        id: ServiceId(id),
        name: name.to_owned(),
        base_url: "http://127.0.0.1:1".to_owned(),
        default_path: "/v1/chat/completions".to_owned(),
        credential: None,
        enabled: true,
        price: PriceModel::PerToken(TokenPrices::default()),
        effective_at_unix_us: 5,
    }
}
