//! The store: the ledger of settled records, below whoever reads and writes it.

pub mod sqlite;
