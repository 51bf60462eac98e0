//! What the threads around one journal share: the shard that appends, the preallocator of segments,
//! the syncer, the writer that deletes them, and whoever scrapes metrics.
//!
//! The shard only loads and stores atomics here, but for one short lock per segment. Each word
//! has one owner who stores it; the docs name it.

use super::mapped::Pages;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One segment's file. Its slots carry `first_seq`, `first_seq + 1`, …
pub struct Segment {
    /// From 1.
    pub no: u32,
    /// Where it lies.
    pub path: PathBuf,
    /// Open for reading and syncing.
    pub file: File,
    /// Its mapping.
    pub pages: Arc<Pages>,
    /// Sequence number of its first slot; set by the shard when it begins the segment.
    pub first_seq: AtomicU64,
    /// One past its last slot's; `u64::MAX` while the shard writes it.
    pub end_seq: AtomicU64,
    /// Admitted requests whose PENDING is in it and whose POST is not yet anywhere.
    pub opens: AtomicU32,
    /// Kept until the journal is closed, because its content may be needed although the
    /// watermark has passed it.
    pub held: AtomicBool,
    /// A sync of it failed: it is never synced again.
    pub poisoned: AtomicBool,
}

/// How syncing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SyncState {
    /// As it should.
    Fine = 0,
    /// A sync failed; the shard is to move what was not synced to a new segment.
    Failed = 1,
    /// Moved; the new segment has not been synced yet.
    Moved = 2,
    /// The second sync failed as well: nothing is admitted any more.
    Lost = 3,
}

/// One journal, as every thread sees it.
pub struct JournalShared {
    /// Names its directory and its watermark.
    pub id: u128,
    /// The shard that appends.
    pub shard: u16,
    /// The process.
    pub instance_id: u128,
    /// Its directory.
    pub dir: PathBuf,
    /// Size of its segments.
    pub segment_bytes: u64,
    /// What all of them together may take.
    pub bytes_max: u64,
    /// It is to survive power loss, not only the process's end.
    pub on_disk: bool,
    pub(super) appended: AtomicU64,
    pub(super) post_end: AtomicU64,
    pub(super) synced: AtomicU64,
    ingested: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) full: AtomicBool,
    pub(super) ended: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) sync_wanted: AtomicBool,
    pub(super) sync_state: AtomicU8,
    pub(super) sync_failures: AtomicU64,
    pub(super) sync_wake: (Sender<()>, Receiver<()>),
    segments: Mutex<VecDeque<Arc<Segment>>>,
    #[cfg(test)]
    pub(super) syncs_to_fail: AtomicU32,
}

impl JournalShared {
    pub(super) fn new(
        id: u128,
        shard: u16,
        instance_id: u128,
        dir: PathBuf,
        segment_bytes: u64,
        bytes_max: u64,
        on_disk: bool,
    ) -> Self {
        Self {
            id,
            shard,
            instance_id,
            dir,
            segment_bytes,
            bytes_max,
            on_disk,
            appended: AtomicU64::new(0),
            post_end: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            ingested: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            full: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            sync_wanted: AtomicBool::new(false),
            sync_state: AtomicU8::new(SyncState::Fine as u8),
            sync_failures: AtomicU64::new(0),
            sync_wake: bounded(1),
            segments: Mutex::new(VecDeque::new()),
            #[cfg(test)]
            syncs_to_fail: AtomicU32::new(0),
        }
    }

    /// The sequence number that the next slot gets; all before it can be read from the files.
    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// One past the last settled record's sequence number.
    pub(crate) fn post_end(&self) -> u64 {
        self.post_end.load(Ordering::Acquire)
    }

    /// All before this sequence number is on stable storage (`durability = disk` only).
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// All settled records before this sequence number are in the store.
    pub(crate) fn ingested(&self) -> u64 {
        self.ingested.load(Ordering::Relaxed)
    }

    /// Sets [`JournalShared::ingested`]; for the writer alone.
    pub fn set_ingested(&self, next_seq: u64) {
        self.ingested.store(next_seq, Ordering::Relaxed);
    }

    /// Bytes of the segments on disk, the prepared one included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The last admission was refused for want of space.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The shard appends no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The shard has settled every request and appends no more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Syncs that failed so far.
    pub(crate) fn sync_failures(&self) -> u64 {
        self.sync_failures.load(Ordering::Relaxed)
    }

    /// How syncing goes.
    pub(crate) fn sync_state(&self) -> SyncState {
        match self.sync_state.load(Ordering::Acquire) {
            0 => SyncState::Fine,
            1 => SyncState::Failed,
            2 => SyncState::Moved,
            _ => SyncState::Lost,
        }
    }

    pub(super) fn set_sync_state(&self, state: SyncState) {
        self.sync_state.store(state as u8, Ordering::Release);
    }

    /// Wakes the syncer unless it has been woken already.
    pub(super) fn want_sync(&self) {
        if !self.sync_wanted.swap(true, Ordering::AcqRel) {
            // A full channel: a wake is under way.
            let _ = self.sync_wake.0.try_send(());
        }
    }

    /// The segments begun and not deleted, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.lock().iter().cloned().collect()
    }

    pub(super) fn begin(&self, segment: Arc<Segment>) {
        self.lock().push_back(segment);
    }

    /// Deletes the segments that nothing needs any more once all before `watermark` is in the
    /// store. Returns how many.
    pub fn delete_behind(&self, watermark: u64) -> usize {
        let mut segments = self.lock();
        let before = segments.len();
        segments.retain(|segment| {
            let needed = segment.end_seq.load(Ordering::Acquire) > watermark
                || segment.opens.load(Ordering::Acquire) > 0
                || segment.held.load(Ordering::Acquire);
            if needed {
                return true;
            }
            match fs::remove_file(&segment.path) {
                Ok(()) => {
                    self.bytes.fetch_sub(self.segment_bytes, Ordering::Relaxed);
                    false
                }
                Err(error) => {
                    tracing::warn!(path = %segment.path.display(), %error, "segment not deleted");
                    true
                }
            }
        });
        before - segments.len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        // Nothing under the lock can leave the list half changed.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
