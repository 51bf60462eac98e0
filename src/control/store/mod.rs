//! The catalog's and the ledger's tables as control uses them. One connection behind a lock,
//! always on a blocking thread: the lease loop never waits for SQLite.
//!
//! Store lost: what is in memory goes on serving; changes and sums are refused.

pub(crate) mod consumers;
pub(crate) mod keys;
pub(crate) mod plans;
pub(crate) mod services;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use crate::clock;
use crate::control::time_text;
use crate::sqlite::StoreError;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Row};
use shard::units::{ID_MAX, id_from_text};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a read or a change did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another object has the name.
    Duplicate,
    /// The object does not exist.
    Missing,
    /// SQLite, the host's randomness or the blocking thread failed.
    Internal(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("another object has the name"),
            Self::Missing => f.write_str("the object does not exist"),
            Self::Internal(cause) => f.write_str(cause),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::QueryReturnedNoRows => Self::Missing,
            Error::SqliteFailure(cause, _)
                if cause.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE =>
            {
                Self::Duplicate
            }
            _ => Self::Internal(format!("the store (SQLite) failed: {error}")),
        }
    }
}

/// One page of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Rows at most.
    pub(crate) limit: u32,
    /// Rows made after the one with this place.
    pub(crate) after: i64,
}

impl Page {
    /// All rows.
    pub(crate) const EVERYTHING: Self = Self { limit: u32::MAX, after: 0 };
}

/// The connection.
#[derive(Clone)]
pub(crate) struct Store(Arc<Mutex<Connection>>);

impl Store {
    /// Opens the store, migrated; a new one gets the contract's plans.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let mut connection = crate::sqlite::open(data_dir)?;
        plans::seed(&mut connection)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `work` on a blocking thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.clone();
        let joined = tokio::task::spawn_blocking(move || store.run_here(work)).await;
        joined.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())))
    }

    /// Runs `work` on this thread, which may wait.
    pub(crate) fn run_here<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A new identity: 60 random bits.
pub(crate) fn new_id() -> Result<u64, Failure> {
    match getrandom::u64() {
        Ok(bits) => Ok(bits & ID_MAX),
        Err(error) => Err(Failure::Internal(format!("the host gave no randomness: {error}"))),
    }
}

/// `created_at` of a row made now.
fn created_now() -> String {
    time_text::rfc3339(clock::unix_us())
}

/// SQLite's integers are signed; what the API takes in fits.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// No row of ours holds a negative count.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Reads an identity; the tables hold none that is not one.
fn id_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let text: String = row.get(column)?;
    id_from_text(text.as_bytes()).ok_or_else(|| unreadable(column, "not an identity"))
}

fn unreadable(column: usize, cause: &str) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, cause.into())
}
