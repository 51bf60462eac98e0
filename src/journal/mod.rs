//! The usage journal: one per shard and process start, in `journal/<id>/000001.tgj`, ….
//!
//! What sits in a channel dies with the process, so a shard appends each request here, when it is
//! admitted (PENDING) and when it is settled (POST), before the answer's last byte leaves. What
//! was appended is in the page cache and survives the process; under `durability = disk` a syncer
//! puts it onto stable storage first. The writer brings POSTs into the store and deletes the
//! segments behind its watermark; after a crash the next start does the same from the files, and
//! bills requests that have a PENDING and no POST.
//!
//! Failure stances. Disk full: shows when a segment is allocated, never as SIGBUS; admissions are
//! refused (`JournalFull`) until there is room, settlements always have theirs. Sync failed: the
//! file is never synced again; the records in doubt move to a new segment; if that fails too,
//! nothing is admitted any more. Torn end: it is cut off and counted. Damage elsewhere: whole slots
//! are taken, lost ones are reported by their sequence numbers, the file is kept in
//! `journal/quarantine/`.

mod append;
pub mod format;
pub mod fuzz;
mod lock;
mod mapped;
mod preallocator;
pub mod quarantine;
pub mod scan;
mod shared;
mod source;
pub mod sync;
#[cfg(test)]
pub(crate) mod tests;

pub use append::{Journal, JournalFull, Open, Rescue};
pub use format::Pending;
pub use lock::{DataDirLock, JournalLock, LockError, lock, lock_journal};
pub use preallocator::{PreallocatorHandle, spawn as spawn_preallocator};
pub use shared::{JournalShared, Segment, SyncState};

/// The journals' directory inside `data_dir`.
pub(crate) const DIR_NAME: &str = "journal";
/// Damaged segments' directory inside [`DIR_NAME`].
pub(crate) const QUARANTINE_NAME: &str = "quarantine";
