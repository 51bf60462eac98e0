//! Where the store is.

use crate::config::{CaFile, Config, PostgresUrl, StoreConfig, StoreUrl};
use std::path::{Path, PathBuf};

/// In which database the store lies, and where that is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// The embedded file, in this folder.
    Embedded(PathBuf),
    /// A Postgres server.
    Postgres(PostgresServer),
}

/// A Postgres server.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresServer {
    /// Where it is, as whom, and what it has to prove.
    pub url: PostgresUrl,
    /// Authorities that are trusted for its certificate, beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// A replica of it that lists and reports are read from.
    pub read_url: Option<PostgresUrl>,
    /// Connections of the catalog's to each of them, at most.
    pub connections_max: u32,
    /// What its disk holds, if that is known.
    pub disk_bytes: Option<u64>,
}

impl PostgresServer {
    /// The one of this URL, and no more than that.
    pub fn at(url: PostgresUrl) -> Self {
        Self { url, ca_file: None, read_url: None, connections_max: 4, disk_bytes: None }
    }
}

impl From<&Config> for StoreLocation {
    fn from(config: &Config) -> Self {
        let StoreConfig { url, ca_file, read_url, connections_max, disk_bytes } = &config.store;
        match url {
            StoreUrl::Embedded => Self::Embedded(config.server.data_dir.clone()),
            StoreUrl::Postgres(url) => Self::Postgres(PostgresServer {
                url: url.clone(),
                ca_file: ca_file.as_ref().map(|CaFile(path)| path.clone()),
                read_url: read_url.clone(),
                connections_max: *connections_max,
                disk_bytes: Some(*disk_bytes).filter(|bytes| *bytes > 0),
            }),
        }
    }
}

impl From<&Path> for StoreLocation {
    fn from(data_dir: &Path) -> Self {
        Self::Embedded(data_dir.to_owned())
    }
}
