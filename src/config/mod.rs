//! The one configuration struct, read and validated once, before anything starts. Units come last
//! in the names. What a key is called, what it may be and what it means is said in one table,
//! [`key::KEYS`], which reads the file, reads the environment, checks, and writes the example.
//!
//! It must never start with a setting it did not understand: an unknown key or a bad value is an
//! error that names the place, and all of them are reported at once.

mod authority_url;
mod ca_file;
mod example;
mod field;
mod key;
mod key_file;
mod log;
mod problem;
mod read;
mod reload;
mod store_url;

pub use authority_url::{AuthorityUrl, RedisKind, RedisUrl};
pub use ca_file::{CaFile, trusted_authorities};
pub use example::example;
pub use key::Reload;
pub use key_file::{DIGEST_KEY_FILE, ENCRYPTION_KEY_FILE, KEY_BYTES, KeyFile, read_key};
pub use log::{Log, LogFormat, LogLevel};
pub use problem::{ConfigErrors, Problem};
pub use reload::Change;
pub use store_url::{PostgresUrl, ServerProof, StoreUrl};

pub use field::TOKEN_CHARS_MIN;
use field::{Field as _, Given};
use shard::catalog::WhenLost;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How many shards to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per core, less the writer's where there are four or more.
    Auto,
    /// This many.
    Exactly(u16),
}

impl FromStr for Shards {
    type Err = String;

    /// `auto` or a number, as in the environment.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut shards = Self::Auto;
        shards.assign(&Given::Variable(text), key::SHARDS)?;
        Ok(shards)
    }
}

/// What a finished response survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// kill -9: the record is in the page cache.
    #[default]
    Process,
    /// Power loss: the record is on stable storage.
    Disk,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Data plane address.
    pub listen: SocketAddr,
    /// Control plane address.
    pub admin_listen: SocketAddr,
    /// Executors.
    pub shards: Shards,
    /// Where the store, the journals and the admin token are kept.
    pub data_dir: PathBuf,
    /// Connections that one shard keeps open; further ones are told so, or closed.
    pub max_connections: u32,
    /// Request line and headers together; past it 431.
    pub max_head_bytes: usize,
    /// Request target; past it 414.
    pub max_uri_bytes: usize,
    /// Header lines of a request; past it 431.
    pub max_headers: usize,
    /// Request body; past it 413.
    pub max_body_bytes: usize,
    /// From a request's first byte to its head's last; past it 408.
    pub head_timeout_ms: u64,
    /// Between two reads of a request's body; past it 408.
    pub body_timeout_ms: u64,
    /// The whole of a request's body; past it 408.
    pub body_total_timeout_ms: u64,
    /// A connection without a request is closed after this.
    pub idle_timeout_ms: u64,
    /// A client that takes no byte of an answer for this long has left.
    pub write_timeout_ms: u64,
    /// From SIGTERM to the end, at most.
    pub drain_timeout_ms: u64,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where the catalog and the ledger are kept.
    pub url: StoreUrl,
    /// Authorities that are trusted for a server's certificate, beside the public ones.
    pub ca_file: Option<CaFile>,
    /// A replica that the admin API's lists and reports are read from.
    pub read_url: Option<PostgresUrl>,
    /// Connections of the control plane's to each server, at most.
    pub connections_max: u32,
    /// What the disk of a Postgres server holds; 0: not known.
    pub disk_bytes: u64,
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// To open a connection.
    pub connect_timeout_ms: u64,
    /// For TLS on it.
    pub tls_timeout_ms: u64,
    /// From the request's last byte to the answer's first.
    pub first_byte_timeout_ms: u64,
    /// Between two reads of the answer.
    pub idle_timeout_ms: u64,
    /// The whole call.
    pub total_timeout_ms: u64,
    /// Idle connections kept per shard and upstream.
    pub pool_idle_max: usize,
    /// An idle connection is closed after this.
    pub pool_idle_timeout_ms: u64,
    /// An answer's head; past it 502.
    pub max_head_bytes: usize,
    /// Authorities that are trusted beside the public ones.
    pub ca_file: Option<CaFile>,
}

/// `[usage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageConfig {
    /// See [`Durability`].
    pub durability: Durability,
    /// With [`Durability::Disk`]: a response waits for its record this long; past it 503.
    pub sync_timeout_ms: u64,
    /// Size of one journal segment.
    pub segment_bytes: u64,
    /// Space that one shard's journal may take while the store is away; past it 503 `journal_full`.
    pub journal_max_bytes: u64,
    /// Rows of one transaction at most.
    pub batch_rows: usize,
    /// Age of a record at which a batch is written although it is not full.
    pub batch_age_ms: u64,
    /// Days that a call's record is kept for; 0: for ever.
    pub keep_days: u32,
    /// Tokens reserved for the answer of a call that names no `max_tokens`.
    pub default_reserve_tokens: u32,
}

/// `[keys]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Memory of one Argon2id hash (m), KiB.
    pub argon2_memory_kib: u32,
    /// Passes (t).
    pub argon2_passes: u32,
    /// Threads that verify.
    pub verifier_threads: usize,
    /// Verifications that wait; past it 503 `overloaded`.
    pub verifier_queue_max: usize,
    /// Wrong texts of one key id that one client address may send per minute.
    pub failures_per_minute_per_address: u32,
    /// The same from all addresses together.
    pub failures_per_minute_per_key: u32,
}

/// `[secrets]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Of the digests of verified keys; `None`: made in `data_dir`.
    pub digest_key_file: Option<KeyFile>,
    /// Of upstream credentials; `None`: made in `data_dir`.
    pub encryption_key_file: Option<KeyFile>,
}

/// The whole configuration. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[authority] url`
    pub authority_url: AuthorityUrl,
    /// `[authority] ca_file`
    pub authority_ca_file: Option<CaFile>,
    /// `[authority] when_lost`
    pub when_lost: WhenLost,
    /// `[store]`
    pub store: StoreConfig,
    /// `[usage]`
    pub usage: UsageConfig,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[keys]`
    pub keys: Keys,
    /// `[secrets]`
    pub secrets: Secrets,
    /// `[log]`
    pub log: Log,
    /// `[admin] token`; `None`: made at the first start and kept in `data_dir/admin.token`.
    pub admin_token: Option<String>,
    /// `[admin] hosts`
    pub admin_hosts: Hosts,
}

/// Host names in lower case, without ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<String>);

impl Default for Config {
    fn default() -> Self {
        Self {
            server: default_server(),
            authority_url: AuthorityUrl::Embedded,
            authority_ca_file: None,
            when_lost: WhenLost::Degraded,
            store: default_store(),
            usage: default_usage(),
            upstream: default_upstream(),
            keys: default_keys(),
            secrets: Secrets::default(),
            log: Log::default(),
            admin_token: None,
            admin_hosts: Hosts::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = self.clone();
        let mut map = f.debug_map();
        for key in key::KEYS {
            let shown = key.shown(&mut config).unwrap_or_default();
            map.entry(&format_args!("{}", key.path()), &format_args!("{shown}"));
        }
        map.finish()
    }
}

/// A setting that the file or the environment gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`
    pub path: String,
    /// As TOML; a secret is not shown.
    pub value: String,
    /// `FILE:LINE`, or the variable's name.
    pub origin: String,
    /// When a change of it counts.
    pub reload: Reload,
}

impl Config {
    /// The defaults, under the file's keys, under the environment's (`TOLLGATE_SECTION__KEY`).
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        read(path).map(|read| read.config)
    }
}

/// The settings that the file or the environment gives.
pub fn settings(path: Option<&Path>) -> Result<Vec<Setting>, ConfigErrors> {
    read(path).map(settings_of)
}

fn settings_of(read: read::ConfigRead) -> Vec<Setting> {
    let read::ConfigRead { mut config, origins } = read;
    let setting = |(at, origin): (usize, String)| {
        let key = &key::KEYS[at];
        let value = key.shown(&mut config).unwrap_or_default();
        Setting { path: key.path(), value, origin, reload: key.reload }
    };
    origins.into_iter().map(setting).collect()
}

fn read(path: Option<&Path>) -> Result<read::ConfigRead, ConfigErrors> {
    let file = path.map(read::read_file).transpose()?;
    let file = path.zip(file.as_deref());
    read::merge(file, std::env::vars_os())
}

fn default_server() -> Server {
    Server {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
        admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3001)),
        shards: Shards::Auto,
        data_dir: PathBuf::from("./tollgate-data"),
        max_connections: 65_536,
        max_head_bytes: 32 << 10,
        max_uri_bytes: 8 << 10,
        max_headers: 100,
        max_body_bytes: 16 << 20,
        head_timeout_ms: 10_000,
        body_timeout_ms: 30_000,
        body_total_timeout_ms: 120_000,
        idle_timeout_ms: 75_000,
        write_timeout_ms: 30_000,
        drain_timeout_ms: 30_000,
    }
}

fn default_store() -> StoreConfig {
    StoreConfig {
        url: StoreUrl::Embedded,
        ca_file: None,
        read_url: None,
        connections_max: 4,
        disk_bytes: 0,
    }
}

fn default_usage() -> UsageConfig {
    UsageConfig {
        durability: Durability::Process,
        sync_timeout_ms: 10_000,
        segment_bytes: 16 << 20,
        journal_max_bytes: 8 << 30,
        batch_rows: 4096,
        batch_age_ms: 50,
        keep_days: 0,
        default_reserve_tokens: 1024,
    }
}

fn default_upstream() -> Upstream {
    Upstream {
        connect_timeout_ms: 2_000,
        tls_timeout_ms: 5_000,
        first_byte_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
        total_timeout_ms: 600_000,
        pool_idle_max: 1024,
        pool_idle_timeout_ms: 60_000,
        max_head_bytes: 32 << 10,
        ca_file: None,
    }
}

/// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
fn default_keys() -> Keys {
    Keys {
        argon2_memory_kib: 19_456,
        argon2_passes: 2,
        verifier_threads: 2,
        verifier_queue_max: 512,
        failures_per_minute_per_address: 10,
        failures_per_minute_per_key: 30,
    }
}

#[cfg(test)]
mod tests;
