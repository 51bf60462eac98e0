//! The store in SQLite.

pub mod ledger;
pub mod refused;
pub(crate) mod row;
mod sums;
