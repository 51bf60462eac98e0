//! Why the store did not do what it was asked.

use std::fmt;
use std::io;

/// Why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The database's own word.
    Failed(String),
    /// It cannot be reached, or not for now.
    Away(String),
    /// An applied migration is not the one that this program carries.
    MigrationChanged(String),
    /// The store was made by a newer program.
    FromTheFuture(String),
    /// A thread that works on it could not be started.
    Thread(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(error) => write!(f, "a thread of the store did not start: {error}"),
            Self::Failed(why) | Self::Away(why) => f.write_str(why),
            Self::MigrationChanged(name) => write!(
                f,
                "migration {name} was applied to this store with another text; start the program \
                 that made the store, or restore a backup"
            ),
            Self::FromTheFuture(name) => write!(
                f,
                "the store has migration {name}, which this program does not know; start the \
                 newer program that made it"
            ),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why a read or a change of the catalog, or a report, did not happen.
#[derive(Debug)]
pub(crate) enum CatalogError {
    /// Another object has the name.
    Duplicate,
    /// The object does not exist.
    Missing,
    /// The object cannot go: this uses it.
    InUse(String),
    /// What the named field stands for was there when it was looked up, and is deleted now.
    Deleted(&'static str),
    /// It needs records of before this day (`YYYY-MM-DD`), which were dropped.
    Dropped(String),
    /// As many others wait as may.
    Busy,
    /// It took longer than it may.
    TooSlow,
    /// The store cannot be reached, or not for now. A change may have been made all the same.
    Away(String),
    /// The store, the host's randomness or a thread failed.
    Internal(String),
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("another object has the name"),
            Self::Missing => f.write_str("the object does not exist"),
            Self::InUse(by) => write!(f, "it is in use by {by}"),
            Self::Deleted(field) => write!(f, "what {field} names is deleted"),
            Self::Dropped(day) => write!(f, "the records of before {day} were dropped"),
            Self::Busy => f.write_str("too many others wait for the store"),
            Self::TooSlow => f.write_str("it took longer than it may"),
            Self::Away(cause) | Self::Internal(cause) => f.write_str(cause),
        }
    }
}

/// Why a store was not copied.
#[derive(Debug)]
pub(crate) struct TransferError(pub(crate) String);

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreError> for TransferError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// Why the ledger did not do what it was asked; nothing of it was done. The text is the store's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerError {
    /// The store refuses what it was given, and always will.
    Row(String),
    /// The store is busy, full or failing: the same may go in later.
    Unavailable(String),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Row(why) | Self::Unavailable(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for LedgerError {}
