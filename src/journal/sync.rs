//! The syncer of one journal under `durability = disk`: a thread that puts what the shard has
//! appended onto stable storage and tells it so. One sync serves every record that came in while
//! the last one ran.
//!
//! A failed sync is never tried again on that file: the kernel may have marked its pages clean. The
//! shard moves the records in doubt, from its own memory, to a new segment. If that one fails
//! before its first good sync, the journal is lost for this process: no caller is told that its
//! record is safe, and nothing more is admitted.

use super::shared::{JournalShared, Segment, SyncState};
use crossbeam_channel::RecvTimeoutError;
use shard::message::ToShard;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause after which a shard that could not yet move its records is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Starts the syncer. It ends when the journal does.
pub fn spawn(
    journal: Arc<JournalShared>,
    to_shard: flume::Sender<ToShard>,
) -> io::Result<JoinHandle<()>> {
    let name = format!("journal-sync-{}", journal.shard);
    std::thread::Builder::new().name(name).spawn(move || {
        let wake = &journal.sync_wake.1;
        while !journal.has_ended() {
            let woken = match journal.sync_state() {
                SyncState::Failed => wake.recv_timeout(ASK_AGAIN),
                _ => wake.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            if let Some(word) = step(&journal) {
                // A shard that has ended needs no word.
                let _ = to_shard.send(word);
            }
        }
    })
}

/// One round; returns what the shard is to be told.
pub(super) fn step(journal: &JournalShared) -> Option<ToShard> {
    let state = journal.sync_state();
    if matches!(state, SyncState::Failed | SyncState::Lost) {
        return Some(ToShard::SyncFailed);
    }
    if !journal.sync_wanted.swap(false, Ordering::AcqRel) {
        return None;
    }
    let (synced, appended) = (journal.synced(), journal.appended());
    for segment in journal.segments() {
        if segment.end_seq.load(Ordering::Acquire) <= synced
            || segment.poisoned.load(Ordering::Acquire)
        {
            continue;
        }
        if let Err(error) = sync(journal, &segment) {
            let path = segment.path.display();
            tracing::error!(%path, %error, "journal segment not synced; moving its records");
            segment.poisoned.store(true, Ordering::Release);
            journal.sync_failures.fetch_add(1, Ordering::Relaxed);
            journal.set_sync_state(match state {
                SyncState::Fine => SyncState::Failed,
                _ => SyncState::Lost,
            });
            return Some(ToShard::SyncFailed);
        }
    }
    journal.synced.store(appended, Ordering::Release);
    if state == SyncState::Moved {
        journal.set_sync_state(SyncState::Fine);
    }
    Some(ToShard::Synced { next_seq: appended })
}

fn sync(journal: &JournalShared, segment: &Segment) -> io::Result<()> {
    #[cfg(test)]
    {
        let left = journal.syncs_to_fail.load(Ordering::Relaxed);
        if left > 0 {
            journal.syncs_to_fail.store(left - 1, Ordering::Relaxed);
            return Err(io::Error::other("planted"));
        }
    }
    #[cfg(not(test))]
    let _ = journal;
    segment.file.sync_data()
}
