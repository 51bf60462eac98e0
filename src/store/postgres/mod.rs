//! The store in Postgres: the catalog by a few connections of control's, on a thread of their own,
//! the ledger by a connection of its writer's. All SQL is in here.

mod blocking;
mod catalog;
mod columns;
mod consumers;
mod copy;
mod credentials;
mod errors;
mod keys;
mod lane;
mod ledger;
mod news;
mod partitions;
mod plans;
mod records;
mod refused;
mod replica;
mod schema;
#[cfg(test)]
mod schema_tests;
mod services;
mod session;
mod split;
#[cfg(test)]
mod split_tests;
mod sums;
mod tls;
mod transfer_target;
mod usage;
mod write;

pub(crate) use catalog::PostgresCatalog;
pub(crate) use credentials::PostgresCredentials;
pub(super) use ledger::PostgresLedger;
pub(crate) use split::split;
pub(super) use transfer_target::TransferTarget;

/// What an operation of the catalog, or a report, answers.
type Done<T> = Result<T, crate::store::error::CatalogError>;
