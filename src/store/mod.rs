//! The store: the one place that knows in what database catalog and ledger lie. Whoever reads or
//! writes them calls an operation by its name; SQL stands in the folder of its database alone.
//!
//! Store lost: nothing in here waits for it or tries again. Each operation says that it did not
//! happen, and its caller decides: what is in memory goes on serving, journals spool.

mod batch;
mod catalog;
mod credentials;
mod day_sums;
mod error;
mod in_use;
mod known_prices;
mod ledger;
mod location;
mod migrations;
mod postgres;
mod price_text;
mod refused;
mod rows;
mod snapshot;
mod sqlite;
#[cfg(test)]
mod tests;
mod texts;
mod transfer;
mod transfer_tables;
mod usage;

pub use batch::{Advance, Batch, Dead, Origin, Written};
pub(crate) use catalog::Catalog;
pub(crate) use credentials::Credentials;
pub(crate) use error::CatalogError;
pub use error::{LedgerError, StoreError};
pub use ledger::Ledger;
pub use location::{PostgresServer, StoreLocation};
pub(crate) use postgres::split as split_by_consumer;
pub(crate) use price_text::to_json as price_to_json;
pub(crate) use rows::{
    CatalogNews, CatalogWatch, ConsumerChange, ConsumerRow, Digest, KeyName, KeyNames, KeyRow,
    Loaded, NewKey, NewService, Page, PlanChange, PlanRow, PriceRow, ServiceChange, ServiceRow,
    new_id, when_lost_name, when_lost_of,
};
pub(crate) use snapshot::{confirm as confirm_snapshot, write as write_snapshot};
pub use sqlite::FILE_NAME;
#[cfg(test)]
pub(crate) use sqlite::open_file;
pub(crate) use transfer::{Transferred, transfer};
pub(crate) use usage::{By, RECORD_COLUMNS, RecordTotals, Room, Sum, SumSpan};
