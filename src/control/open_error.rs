//! Why control cannot start, in the words that the operator reads.

use crate::store::{CatalogError, StoreError};
use std::fmt;
use std::io;

/// Why control cannot start.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// A file or a thread.
    Io(io::Error),
    /// The store.
    Store(StoreError),
    /// What is in the store.
    Catalog(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "control cannot start: {error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Catalog(cause) => write!(f, "the catalog cannot be read: {cause}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CatalogError> for OpenError {
    fn from(failure: CatalogError) -> Self {
        Self::Catalog(failure.to_string())
    }
}
