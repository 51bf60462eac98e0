//! SQLite's errors, as the store's.

use super::refused::is_refusal;
use crate::store::error::{CatalogError, LedgerError, StoreError};
use rusqlite::{Error, ErrorCode};

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Failed(told(&error))
    }
}

impl From<Error> for CatalogError {
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
            _ => Self::Internal(told(&error)),
        }
    }
}

impl From<Error> for LedgerError {
    fn from(error: Error) -> Self {
        let why = error.to_string();
        if is_refusal(&error) { Self::Row(why) } else { Self::Unavailable(why) }
    }
}

fn told(error: &Error) -> String {
    format!("the store (SQLite) failed: {error}")
}
