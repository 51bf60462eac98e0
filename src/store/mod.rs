//! The store: the one place that knows in what database catalog and ledger lie. Whoever reads or
//! writes them calls an operation by its name; SQL stands in the folder of its database alone.
//!
//! Store lost: nothing in here waits for it or tries again. Each operation says that it did not
//! happen, and its caller decides.

mod batch;
mod ledger;
mod sqlite;
#[cfg(test)]
mod tests;

pub use crate::sqlite::FILE_NAME;
pub use batch::{Advance, Batch, Dead, LedgerError, Origin, Price, Written};
pub use ledger::Ledger;
