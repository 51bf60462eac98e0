//! Where the store is.

use crate::config::{Config, StoreUrl};
use std::path::{Path, PathBuf};

/// In which database the store lies, and where that is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// The embedded file, in this folder.
    Embedded(PathBuf),
    /// A Postgres server, by a URL that may hold a password.
    Postgres(String),
}

impl From<&Config> for StoreLocation {
    fn from(config: &Config) -> Self {
        match &config.store_url {
            StoreUrl::Embedded => Self::Embedded(config.server.data_dir.clone()),
            StoreUrl::Postgres(url) => Self::Postgres(url.clone()),
        }
    }
}

impl From<&Path> for StoreLocation {
    fn from(data_dir: &Path) -> Self {
        Self::Embedded(data_dir.to_owned())
    }
}
