//! Upstream credentials where they rest, for whoever has the store to itself: a start, which seals
//! what an earlier version kept in the clear, and a rotation of their key. This thread waits.

use super::error::{CatalogError, StoreError};
use super::location::StoreLocation;
use super::postgres::PostgresCredentials;
use super::rows::{KeyNames, SealedCredential};
use super::sqlite::SqliteCredentials;
use shard::units::ServiceId;

/// The credentials, in one of the databases that a store can be in.
pub(crate) enum Credentials {
    /// The embedded file.
    Sqlite(SqliteCredentials),
    /// A Postgres server.
    Postgres(Box<PostgresCredentials>),
}

impl Credentials {
    /// Opens the store and brings its schema up to date.
    pub(crate) fn open(at: impl Into<StoreLocation>) -> Result<Self, StoreError> {
        match at.into() {
            StoreLocation::Embedded(data_dir) => {
                SqliteCredentials::open(&data_dir).map(Self::Sqlite)
            }
            StoreLocation::Postgres(server) => {
                PostgresCredentials::open(&server).map(|store| Self::Postgres(Box::new(store)))
            }
        }
    }

    /// Those of services that an earlier version kept in the clear.
    pub(crate) fn plain(&self) -> Result<Vec<(ServiceId, String)>, CatalogError> {
        match self {
            Self::Sqlite(store) => store.plain(),
            // None was ever kept there in the clear.
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// All that are sealed.
    pub(crate) fn sealed(&self) -> Result<Vec<SealedCredential>, CatalogError> {
        match self {
            Self::Sqlite(store) => store.sealed(),
            Self::Postgres(store) => store.sealed(),
        }
    }

    /// The keys that all instances on the store need; `None`: none has said it yet, or there is
    /// only one.
    pub(crate) fn key_names(&self) -> Result<Option<KeyNames>, CatalogError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(store) => store.key_names(),
        }
    }

    /// Lets these be the keys that all instances need, unless others are. Answers which are.
    pub(crate) fn agree(&self, ours: KeyNames) -> Result<KeyNames, CatalogError> {
        match self {
            Self::Sqlite(_) => Ok(ours),
            Self::Postgres(store) => store.agree(ours),
        }
    }

    /// Sets the credentials of services, `None`: it has none any more, and the keys that all
    /// instances need from now on: all of it or nothing. What the credentials were is gone from the
    /// tables, and from the file once [`Self::scrub`] has been called.
    pub(crate) fn replace(
        &mut self,
        credentials: &[(ServiceId, Option<Vec<u8>>)],
        keys: KeyNames,
    ) -> Result<(), CatalogError> {
        match self {
            Self::Sqlite(store) => store.replace(credentials),
            Self::Postgres(store) => store.replace(credentials, keys),
        }
    }

    /// Removes what the file still holds of credentials that were replaced, by this process or an
    /// earlier one.
    pub(crate) fn scrub(&self) -> Result<(), CatalogError> {
        match self {
            Self::Sqlite(store) => store.scrub(),
            Self::Postgres(store) => store.scrub(),
        }
    }
}
