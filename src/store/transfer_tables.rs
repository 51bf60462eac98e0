//! What lies in both stores, table by table, and how its values stand in each.

/// How a value of SQLite's stands in Postgres.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// As it is.
    Same,
    /// An identity: characters there, an integer here.
    Id,
    /// A JSON list of them, and an array.
    Ids,
    /// 16 bytes, and a `uuid`.
    Uuid,
    /// Bytes.
    Bytes,
    /// Microseconds since 1970, and a `timestamptz`.
    UnixUs,
    /// `YYYY-MM`, and the integer `YYYYMM`.
    Month,
}

/// A table that is in both stores.
pub(super) struct TransferTable {
    pub(super) name: &'static str,
    /// What orders its rows in SQLite.
    pub(super) key: &'static str,
    /// Its columns in Postgres, and the form of each.
    pub(super) columns: &'static [(&'static str, Form)],
    /// Columns of integers that are added up on both sides.
    pub(super) sums: &'static [&'static str],
}

/// What a table's rows come to: how many they are, and sums of some columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableSums {
    pub(super) rows: u64,
    pub(super) sums: Vec<i128>,
}

use Form::{Bytes, Id, Ids, Month, Same, UnixUs, Uuid};

/// The one that is too large to be read for a digest.
pub(super) const LARGEST: &str = "usage_rows";

/// All of them; what is referred to comes first. `usage_monthly` is made of `usage_daily`.
pub(super) const TABLES: &[TransferTable] = &[
    TransferTable {
        name: "plans",
        key: "place",
        columns: &[
            ("place", Same),
            ("id", Id),
            ("name", Same),
            ("rate_per_s", Same),
            ("burst", Same),
            ("quota_tokens", Same),
            ("when_lost", Same),
            ("created_at", Same),
            ("deleted_at", Same),
            ("changed", Same),
        ],
        sums: &["place", "rate_per_s", "burst", "quota_tokens"],
    },
    TransferTable {
        name: "consumers",
        key: "place",
        columns: &[
            ("place", Same),
            ("id", Id),
            ("name", Same),
            ("plan_id", Id),
            ("created_at", Same),
            ("deleted_at", Same),
            ("changed", Same),
        ],
        sums: &["place"],
    },
    TransferTable {
        name: "services",
        key: "place",
        columns: &[
            ("place", Same),
            ("id", Id),
            ("name", Same),
            ("base_url", Same),
            ("default_path", Same),
            ("credential_sealed", Bytes),
            ("enabled", Same),
            ("created_at", Same),
            ("deleted_at", Same),
            ("changed", Same),
        ],
        sums: &["place", "octet_length(credential_sealed)"],
    },
    TransferTable {
        name: "prices",
        key: "service_id, version",
        columns: &[
            ("service_id", Id),
            ("version", Same),
            ("effective_at_unix_us", Same),
            ("price", Same),
            ("created_at", Same),
        ],
        sums: &["version", "effective_at_unix_us"],
    },
    TransferTable {
        name: "keys",
        key: "place",
        columns: &[
            ("place", Same),
            ("id", Id),
            ("consumer_id", Id),
            ("bucket_id", Id),
            ("name", Same),
            ("secret_hash", Same),
            ("services", Ids),
            ("expires_at_unix_us", Same),
            ("revoked_at", Same),
            ("created_at", Same),
            ("digest", Bytes),
            ("changed", Same),
        ],
        sums: &["place", "expires_at_unix_us", "octet_length(secret_hash)", "octet_length(digest)"],
    },
    TransferTable {
        name: "usage_instances",
        key: "number",
        columns: &[("number", Same), ("instance_id", Same)],
        sums: &["number"],
    },
    TransferTable {
        name: "usage_rows",
        key: "record_id",
        columns: &[
            ("record_id", Uuid),
            ("occurred_at", UnixUs),
            ("request_id", Same),
            ("consumer_id", Id),
            ("key_id", Id),
            ("service_id", Id),
            ("status", Same),
            ("outcome", Same),
            ("input_tokens", Same),
            ("cached_tokens", Same),
            ("output_tokens", Same),
            ("price_version", Same),
            ("cost_nanousd", Same),
            ("attempts", Same),
            ("latency_us", Same),
            ("ttft_us", Same),
            ("overhead_us", Same),
            ("instance", Same),
            ("month_place", Same),
        ],
        sums: &[
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "cost_nanousd",
            "price_version",
            "status",
            "attempts",
            "outcome",
            "month_place",
        ],
    },
    TransferTable {
        name: "usage_daily",
        key: "consumer_id, service_id, day",
        columns: &[
            ("consumer_id", Id),
            ("service_id", Id),
            ("day", Same),
            ("period", Month),
            ("calls", Same),
            ("input_tokens", Same),
            ("cached_tokens", Same),
            ("output_tokens", Same),
            ("cost_nanousd", Same),
        ],
        sums: &["calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanousd"],
    },
    TransferTable {
        name: "usage_fees",
        key: "consumer_id, service_id, period",
        columns: &[
            ("consumer_id", Id),
            ("service_id", Id),
            ("period", Month),
            ("due_at", Same),
            ("price_version", Same),
            ("fee_nanousd", Same),
        ],
        sums: &["price_version", "fee_nanousd"],
    },
    TransferTable {
        name: "ingest_watermark",
        key: "journal_id",
        columns: &[("journal_id", Same), ("next_seq", Same), ("closed", Same)],
        sums: &["next_seq"],
    },
    TransferTable {
        name: "usage_retention",
        key: "only_row",
        columns: &[("only_row", Same), ("kept_from_us", Same)],
        sums: &["kept_from_us"],
    },
    TransferTable {
        name: "usage_dlq",
        key: "journal_id, seq",
        columns: &[
            ("journal_id", Same),
            ("seq", Same),
            ("reason", Same),
            ("slot", Bytes),
            ("request_id", Same),
        ],
        sums: &["seq", "octet_length(slot)"],
    },
];
