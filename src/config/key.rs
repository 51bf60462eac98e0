//! The table of settings: each key's name, bounds, meaning and place. A key that is not here
//! does not exist; a key that is here can be set in the file and in the environment, is checked,
//! and stands in the example with its default.

use super::Config;
use super::field::{Field, Range, without_password};
use Reload::{Live, Restart};
use std::fmt;

/// When a changed value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// From SIGHUP on.
    Live,
    /// From the next start on.
    Restart,
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "SIGHUP",
            Self::Restart => "restart",
        })
    }
}

/// One setting.
pub(super) struct SettingKey {
    /// Its table in the file.
    pub table: &'static str,
    /// Its name in the table.
    pub name: &'static str,
    /// Never shown in an error or a log.
    pub secret: bool,
    /// Bounds, where it is an integer.
    pub range: Range,
    /// When a change of it counts.
    pub reload: Reload,
    /// What it means; a line end starts a new comment line of the example.
    pub doc: &'static str,
    /// Its place.
    pub field: fn(&mut Config) -> &mut dyn Field,
    /// Copies the setting's value from the second to the first.
    pub copy: fn(&mut Config, &Config),
}

impl SettingKey {
    /// `section.key`
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.table, self.name)
    }

    /// The value as TOML, unless nobody may see it; `None`: it is not set.
    pub(super) fn shown(&self, config: &mut Config) -> Option<String> {
        let value = (self.field)(config).render()?;
        Some(if self.secret { "(not shown)".to_string() } else { without_password(&value) })
    }

    /// `TOLLGATE_SECTION__KEY`
    pub(super) fn variable(&self) -> String {
        format!("TOLLGATE_{}__{}", self.table, self.name).to_ascii_uppercase()
    }
}

/// The file's tables in the example's order, each with what it is about.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("server", "Addresses, threads, and what a client may send and how slowly."),
    ("authority", "Who counts rates and quotas."),
    ("store", "Where plans, consumers, keys, services, prices and usage are kept."),
    ("usage", "How each call's record gets into the store, and what it survives on the way."),
    ("upstream", "How patient the gateway is with model services."),
    ("keys", "What it costs to see an API key for the first time, and who may cause that cost."),
    (
        "secrets",
        "Keys of what the store keeps secret: 32 random bytes each, in files of mode 0600.",
    ),
    ("log", "What the program says about itself on stderr."),
    ("admin", "The control plane."),
];

/// Executors of one instance.
pub(super) const SHARDS: Range = (1, 1024);
/// A day, the longest of all timeouts.
const MS: Range = (1, 86_400_000);
/// For settings that are not integers.
const ANY: Range = (0, u64::MAX);

macro_rules! keys {
    ($($table:ident {
        $($name:ident: $reload:expr, $range:expr, $($place:ident).+, $doc:literal;)*
    })*) => {
        /// Every setting, in the example's order.
        pub(crate) const KEYS: &[SettingKey] = &[$($(SettingKey {
            table: stringify!($table),
            name: stringify!($name),
            secret: false,
            range: $range,
            reload: $reload,
            doc: $doc,
            field: |config| &mut config.$($place).+,
            copy: |to, from| to.$($place).+.clone_from(&from.$($place).+),
        },)*)* TOKEN, HOSTS];
    };
}

/// The one secret.
const TOKEN: SettingKey = SettingKey {
    table: "admin",
    name: "token",
    secret: true,
    range: ANY,
    reload: Live,
    doc: "The bearer token of the admin API. Left out: the first start makes one and keeps it in\n\
          data_dir/admin.token, readable by its owner only.",
    field: |config| &mut config.admin_token,
    copy: |to, from| to.admin_token.clone_from(&from.admin_token),
};

const HOSTS: SettingKey = SettingKey {
    table: "admin",
    name: "hosts",
    secret: false,
    range: ANY,
    reload: Live,
    doc: "Names by which the admin port may be called, besides localhost and addresses. Another\n\
          name in Host is refused: it may be one that a web page has bound to this address.",
    field: |config| &mut config.admin_hosts,
    copy: |to, from| to.admin_hosts.clone_from(&from.admin_hosts),
};

keys! {
    server {
        listen: Restart, ANY, server.listen,
            "Where callers connect. \"0.0.0.0:3000\" takes calls from other machines.";
        admin_listen: Restart, ANY, server.admin_listen,
            "Where the admin API and /metrics are. Keep it off public networks.";
        shards: Restart, SHARDS, server.shards,
            "Executors. \"auto\": one per core, less the writer's where there are four or more.";
        data_dir: Restart, ANY, server.data_dir,
            "Where the embedded store, the journals and the admin token are kept.";
        max_connections: Live, (1, 1_000_000), server.max_connections,
            "Connections that one shard keeps open; further ones are told 503, or closed where\n\
             many come at once. Fewer where the bound on open files leaves no room for as many\n\
             calls.";
        max_head_bytes: Live, (1024, 1 << 20), server.max_head_bytes,
            "Request line and headers together; past it 431.";
        max_uri_bytes: Live, (64, 1 << 20), server.max_uri_bytes,
            "Request target; past it 414.";
        max_headers: Live, (8, 1000), server.max_headers,
            "Header lines of a request; past it 431.";
        max_body_bytes: Live, (1024, 1 << 30), server.max_body_bytes,
            "Request body; past it 413.";
        head_timeout_ms: Live, MS, server.head_timeout_ms,
            "From a request's first byte to the last of its headers; past it 408.";
        body_timeout_ms: Live, MS, server.body_timeout_ms,
            "Between two reads of a request's body; past it 408.";
        body_total_timeout_ms: Live, MS, server.body_total_timeout_ms,
            "The whole of a request's body, however steadily it trickles in; past it 408.";
        idle_timeout_ms: Live, MS, server.idle_timeout_ms,
            "A connection without a request is closed after this.";
        write_timeout_ms: Live, MS, server.write_timeout_ms,
            "A client that takes no byte of its answer for this long has left.";
        drain_timeout_ms: Live, MS, server.drain_timeout_ms,
            "From SIGTERM to the end, at most: calls in flight have this long to finish.";
    }
    authority {
        url: Restart, ANY, authority_url,
            "\"embedded\": this process counts by itself.\n\
             \"redis://[[user]:password@]host[:port][/database]\": a Redis 7 server that all\n\
             instances share counts for all. It needs a store that they share as well.\n\
             \"redis-cluster://[[user]:password@]host[:port],host[:port]\": a Redis Cluster that\n\
             these are a part of.\n\
             \"redis-sentinel://[[user]:password@]host[:port],host[:port]/NAME\": the server that\n\
             these Sentinels call the master of that name; user and password are its own, and\n\
             are told to Sentinels that ask for some.\n\
             With rediss in place of redis all of it is encrypted (TLS).";
        ca_file: Restart, ANY, authority_ca_file,
            "Authorities (PEM) that are trusted for the certificates of Redis, in place of the\n\
             public ones.";
        when_lost: Restart, ANY, when_lost,
            "While the authority is out of reach: \"closed\" spends what was granted and then\n\
             refuses, \"degraded\" goes on at half of the safe rate, \"open\" admits every call.\n\
             A plan may say otherwise for its keys.";
    }
    store {
        url: Restart, ANY, store.url,
            "\"embedded\": SQLite, in data_dir/tollgate.db.\n\
             \"postgres://user[:password]@host/database[?sslmode=verify-full]\": Postgres 15 or\n\
             later, for any number of instances; the user may create tables in it. sslmode:\n\
             \"disable\" never encrypts. \"prefer\" (or none) encrypts where the server offers\n\
             it, whoever it is. \"verify-ca\" always encrypts, and the server's certificate has\n\
             to be of a trusted authority; \"verify-full\" and \"require\": and of that host.";
        ca_file: Restart, ANY, store.ca_file,
            "Authorities (PEM) trusted for the store's certificate, beside the public ones.";
        read_url: Restart, ANY, store.read_url,
            "A replica of the Postgres server: the admin API's lists and reports are read there.\n\
             How far it is behind: tollgate_store_replica_lag_seconds. Left out: there is none.";
        connections_max: Restart, (2, 1024), store.connections_max,
            "Connections of the admin API and of what shards ask for, to each server; the writer\n\
             has one more. They are four: with 3 lists wait for reports, with 2 for changes too.";
        disk_bytes: Restart, (0, 1 << 60), store.disk_bytes,
            "What the disk of a Postgres server holds, which no query tells: without it nobody\n\
             can say in how many days it is full. 0: not known. Of an embedded store it is known.";
    }
    usage {
        durability: Restart, ANY, usage.durability,
            "What a call's record has survived by the time its response ends: \"process\": \
             kill -9;\n\"disk\": power loss too.";
        sync_timeout_ms: Live, MS, usage.sync_timeout_ms,
            "With \"disk\": how long a response waits for its record; past it 503.";
        segment_bytes: Restart, (1 << 16, 1 << 30), usage.segment_bytes,
            "Size of one file of a journal.";
        journal_max_bytes: Restart, (1 << 17, 1 << 44), usage.journal_max_bytes,
            "What one shard's journal may take while the store is away; past it 503 journal_full.";
        batch_rows: Live, (1, 65_536), usage.batch_rows,
            "Records of one transaction, at most.";
        batch_age_ms: Live, (1, 60_000), usage.batch_age_ms,
            "A batch is written when its oldest record is this old, full or not.";
        keep_days: Live, (0, 36_500), usage.keep_days,
            "Days that a call's record is kept for; then it is dropped, and only its day's sums\n\
             stay (in Postgres once all of its month is due). 0: for ever.";
        default_reserve_tokens: Live, (1, 1 << 24), usage.default_reserve_tokens,
            "Tokens held back from the quota for the answer to a call without max_tokens, until\n\
             the true number is known.";
    }
    upstream {
        connect_timeout_ms: Live, MS, upstream.connect_timeout_ms,
            "To open a connection.";
        tls_timeout_ms: Live, MS, upstream.tls_timeout_ms,
            "Then, with https, for its TLS handshake.";
        first_byte_timeout_ms: Live, MS, upstream.first_byte_timeout_ms,
            "From the request's last byte to the answer's first; past it 504.";
        idle_timeout_ms: Live, MS, upstream.idle_timeout_ms,
            "Between two reads of the answer, and for sending the request.";
        total_timeout_ms: Live, MS, upstream.total_timeout_ms,
            "The whole call.";
        pool_idle_max: Live, (0, 65_536), upstream.pool_idle_max,
            "Idle connections kept per shard and service.";
        pool_idle_timeout_ms: Live, MS, upstream.pool_idle_timeout_ms,
            "An idle connection is closed after this. Below the service's own limit.";
        max_head_bytes: Live, (1024, 1 << 20), upstream.max_head_bytes,
            "Status line and headers of an answer; past it 502.";
        ca_file: Restart, ANY, upstream.ca_file,
            "Certificates of authorities (PEM) that may vouch for https services, beside the\n\
             public ones.";
    }
    keys {
        argon2_memory_kib: Live, (8, 1 << 22), keys.argon2_memory_kib,
            "Memory of one Argon2id hash.";
        argon2_passes: Live, (1, 64), keys.argon2_passes,
            "Its passes.";
        verifier_threads: Restart, (1, 64), keys.verifier_threads,
            "Threads that hash, apart from the shards.";
        verifier_queue_max: Restart, (1, 65_536), keys.verifier_queue_max,
            "Keys that wait for them; past it 503 overloaded.";
        failures_per_minute_per_address: Live, (1, 1_000_000), keys.failures_per_minute_per_address,
            "Wrong secrets per minute that a client address may try for one key id; past it 503.\n\
             The right one of a key that was verified before is let in whatever others try.";
        failures_per_minute_per_key: Live, (1, 1_000_000), keys.failures_per_minute_per_key,
            "The same from all addresses together.";
    }
    secrets {
        digest_key_file: Restart, ANY, secrets.digest_key_file,
            "Under which the store keeps digests of verified API keys, so that a restart verifies\n\
             none anew. Left out: the first start makes data_dir/digest.key.";
        encryption_key_file: Restart, ANY, secrets.encryption_key_file,
            "Under which the store keeps upstream credentials. Left out: the first start makes\n\
             data_dir/encryption.key; whoever has both can read them. `tollgate secrets rotate`.";
    }
    log {
        level: Live, ANY, log.level,
            "error, warn, info, debug, trace or off, for all or by part:\n\
             \"warn,tollgate::writer=debug\". --log-level and TOLLGATE_LOG win over it.";
        format: Restart, ANY, log.format,
            "How lines are written to stderr: \"text\" or \"json\". --log-format wins over it.";
    }
}
