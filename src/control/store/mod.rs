//! The catalog's and the ledger's tables as control uses them, over four lanes, each a thread with
//! a connection of its own: changes, the lease loop's reads, the admin API's lists, its reports.
//! None waits for another (WAL: readers and the one that writes work side by side), and the lease
//! loop waits for none of them.
//!
//! What is deleted keeps its row, with `deleted_at`: the ledger names and prices its calls by it.
//! Nobody else sees it, and its name is free.
//!
//! Store lost: what is in memory goes on serving; changes and sums are refused.

pub(crate) mod consumers;
pub(crate) mod credentials;
pub(crate) mod keys;
mod lane;
pub(crate) mod plans;
pub(crate) mod services;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use crate::clock;
use crate::sqlite::{self, StoreError};
use crate::wire::time_text;
use lane::Lane;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, ErrorCode, Params, Row};
use shard::units::{ID_MAX, Nanos, id_from_text};
use std::fmt;
use std::path::Path;

/// Jobs that wait in a lane; reports, of which each may take [`REPORT_WITHIN`], fewer.
const WAITING_MAX: usize = 1_024;
const REPORTS_WAITING_MAX: usize = 16;
/// What a report may take; one that whole days suffice for takes milliseconds.
const REPORT_WITHIN: Nanos = Nanos::from_s(10);

/// Why a read or a change did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another object has the name.
    Duplicate,
    /// The object does not exist.
    Missing,
    /// The object cannot go: this uses it.
    InUse(String),
    /// What the named field stands for was there when it was looked up, and is deleted now.
    Deleted(&'static str),
    /// As many others wait as may.
    Busy,
    /// It took longer than it may.
    TooSlow,
    /// SQLite, the host's randomness or a thread failed.
    Internal(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("another object has the name"),
            Self::Missing => f.write_str("the object does not exist"),
            Self::InUse(by) => write!(f, "it is in use by {by}"),
            Self::Deleted(field) => write!(f, "what {field} names is deleted"),
            Self::Busy => f.write_str("too many others wait for the store"),
            Self::TooSlow => f.write_str("it took longer than it may"),
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
            Error::SqliteFailure(cause, _) if cause.code == ErrorCode::OperationInterrupted => {
                Self::TooSlow
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

/// The lanes.
#[derive(Clone)]
pub(crate) struct Store {
    changes: Lane,
    ledger: Lane,
    lists: Lane,
    reports: Lane,
}

impl Store {
    /// Opens the store, migrated; a new one gets the contract's plans.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let mut connection = sqlite::open(data_dir)?;
        plans::seed(&mut connection)?;
        let reads = |name, waiting_max| {
            Lane::start(name, sqlite::open_for_reading(data_dir)?, waiting_max)
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
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let in_turn = move |db: &mut Connection| {
            let _turn = sqlite::take_turn();
            work(db)
        };
        self.changes.run(in_turn).await
    }

    /// Reads what the shards wait for.
    pub(crate) async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.ledger.run(work).await
    }

    /// Reads an object or a page of them.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.lists.run_within(REPORT_WITHIN, work).await
    }

    /// Reads what may take long: it ends when its time is over or nobody waits for it any more.
    pub(crate) async fn report<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.reports.run_within(REPORT_WITHIN, work).await
    }

    /// A change or a read for which this thread may wait: at the start.
    pub(crate) fn run_here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.changes.run_here(work)
    }
}

/// Of those that use an object, a refusal names so many and counts the rest.
const USERS_NAMED: usize = 3;

/// Refuses to let an object go that `users`, a query for their names, finds in use. Changes come
/// one after another: nobody begins to use it between this and its deletion.
fn refuse_used(
    connection: &Connection,
    kind: &str,
    users: &str,
    values: impl Params,
) -> Result<(), Failure> {
    let query = format!("SELECT *, count(*) OVER () FROM ({users}) LIMIT {USERS_NAMED}");
    let mut statement = connection.prepare(&query)?;
    let mut rows = statement.query(values)?;
    let (mut names, mut count) = (Vec::<String>::new(), 0);
    while let Some(row) = rows.next()? {
        names.push(row.get(0)?);
        count = row.get(1)?;
    }
    let plural = if count > 1 { "s" } else { "" };
    let more = match count - names.len() as i64 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match names.is_empty() {
        true => Ok(()),
        false => Err(Failure::InUse(format!("{kind}{plural} {}{more}", names.join(", ")))),
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
