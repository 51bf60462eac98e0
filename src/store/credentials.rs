//! Upstream credentials where they rest, for whoever has the store to itself: a start, which seals
//! what an earlier version kept in the clear, and a rotation of their key. This thread waits.

use super::error::{CatalogError, StoreError};
use super::rows::SealedCredential;
use super::sqlite::SqliteCredentials;
use shard::units::ServiceId;
use std::path::Path;

/// The credentials, in one of the databases that a store can be in.
pub(crate) enum Credentials {
    /// The embedded file.
    Sqlite(SqliteCredentials),
}

impl Credentials {
    /// Opens the store in `data_dir` and brings its schema up to date.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        SqliteCredentials::open(data_dir).map(Self::Sqlite)
    }

    /// Those of services that an earlier version kept in the clear.
    pub(crate) fn plain(&self) -> Result<Vec<(ServiceId, String)>, CatalogError> {
        match self {
            Self::Sqlite(store) => store.plain(),
        }
    }

    /// All that are sealed.
    pub(crate) fn sealed(&self) -> Result<Vec<SealedCredential>, CatalogError> {
        match self {
            Self::Sqlite(store) => store.sealed(),
        }
    }

    /// Sets the credentials of services, `None`: it has none any more. What they were is gone from
    /// the tables, and from the file once [`Self::scrub`] has been called.
    pub(crate) fn replace(
        &mut self,
        credentials: &[(ServiceId, Option<Vec<u8>>)],
    ) -> Result<(), CatalogError> {
        match self {
            Self::Sqlite(store) => store.replace(credentials),
        }
    }

    /// Removes what the file still holds of credentials that were replaced, by this process or an
    /// earlier one.
    pub(crate) fn scrub(&self) -> Result<(), CatalogError> {
        match self {
            Self::Sqlite(store) => store.scrub(),
        }
    }
}
