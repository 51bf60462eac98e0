//! What the ledger takes in and what it answers, in whatever database it lies.

use crate::channels::Settled;
use shard::record::Record;

/// A journal as the ledger names it.
pub struct Origin {
    /// Its id.
    pub journal_id: u128,
    /// The process that wrote it.
    pub instance_id: u128,
}

/// How far a journal gets with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Index of the journal's origin.
    pub origin: usize,
    /// All before it is in.
    pub next_seq: u64,
    /// There will be nothing more.
    pub closed: bool,
}

/// What goes into the ledger in one transaction. What a record costs is settled there: where its
/// price depends on the month by the place that it gets, and where its process died by its price.
pub struct Batch<'a> {
    /// The journals that it comes from.
    pub origins: &'a [Origin],
    /// Settled records, each with the index of its origin as `shard`. Those below their journal's
    /// watermark are in already and are skipped.
    pub records: &'a [Settled],
    /// Calls that died with their process: each goes in behind `records`, and only if its id is not
    /// in yet.
    pub recovered: &'a [Settled],
    /// Where the journals' watermarks move to.
    pub advances: &'a [Advance],
}

/// What a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows added, recovered ones included.
    pub rows: u64,
    /// Of those, the recovered ones.
    pub recovered: u64,
    /// Records that were in already.
    pub skipped: u64,
    /// Records that the ledger refused, now in `usage_dlq`.
    pub refused: u64,
    /// Sums of the ledger that stand at the largest integer.
    pub saturated: u64,
}

/// A record that the ledger refused and keeps aside.
pub struct Dead {
    /// The journal that it came by.
    pub journal_id: String,
    /// Its place there.
    pub seq: i64,
    /// Why the ledger refused it.
    pub reason: String,
    /// The caller's name of the call.
    pub request_id: String,
    /// What it says; `None`: it is not readable.
    pub record: Option<Record>,
}
