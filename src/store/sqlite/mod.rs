//! The store in SQLite.

mod ledger;
mod refused;
mod row;
mod sums;

pub use ledger::SqliteLedger;
