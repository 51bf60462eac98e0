//! The store in SQLite: one file, the catalog by four lanes of threads, the ledger by a connection
//! of its writer's. All SQL is in here.

mod catalog;
mod checkpoints;
mod columns;
mod consumers;
mod credentials;
mod errors;
mod file;
mod in_use;
mod keys;
mod lane;
mod ledger;
mod plans;
mod records;
mod refused;
mod retention;
mod services;
mod sums;
#[cfg(test)]
mod tests;
mod transfer_source;
mod turns;
mod usage;
mod wide;

pub(crate) use catalog::SqliteCatalog;
pub(crate) use credentials::SqliteCredentials;
pub use file::FILE_NAME;
#[cfg(test)]
pub(crate) use file::open as open_file;
pub(super) use ledger::SqliteLedger;
pub(super) use transfer_source::TransferSource;
