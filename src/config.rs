//! The one configuration struct, validated once. Every table of the TOML file is a struct here,
//! every key a field with its default; units come last in the names.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How many shards to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per core, less the writer's where there are four or more.
    Auto,
    /// This many.
    Exactly(u16),
}

/// What a finished response survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// kill -9: the record is in the page cache.
    #[default]
    Process,
    /// Power loss: the record is on stable storage.
    Disk,
}

/// Where limits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityUrl {
    /// In this process.
    Embedded,
}

/// Where the catalog and the ledger are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// SQLite in `data_dir`.
    Embedded,
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
    /// Connections that one shard keeps open; further ones are closed at once.
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
    /// A connection without a request is closed after this.
    pub idle_timeout_ms: u64,
    /// A client that takes no byte of an answer for this long has left.
    pub write_timeout_ms: u64,
    /// From SIGTERM to the end, at most.
    pub drain_timeout_ms: u64,
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// To open a connection.
    pub connect_timeout_ms: u64,
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
}

/// `[usage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageConfig {
    /// See [`Durability`].
    pub durability: Durability,
    /// Size of one journal segment.
    pub segment_bytes: u64,
    /// Space that one shard's journal may take while the store is away; past it 503 `journal_full`.
    pub journal_max_bytes: u64,
    /// Rows of one transaction at most.
    pub batch_rows: usize,
    /// Age of a record at which a batch is written although it is not full.
    pub batch_age_ms: u64,
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
    /// Failed verifications per minute and client address that may cost an Argon2.
    pub failures_per_minute_per_address: u32,
    /// The same per key id.
    pub failures_per_minute_per_key: u32,
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[authority] url`
    pub authority_url: AuthorityUrl,
    /// `[authority] when_lost`
    pub when_lost: shard::catalog::WhenLost,
    /// `[store] url`
    pub store_url: StoreUrl,
    /// `[usage]`
    pub usage: UsageConfig,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[keys]`
    pub keys: Keys,
    /// `[admin] token`; `None`: made at the first start and kept in `data_dir/admin.token`.
    pub admin_token: Option<String>,
}
