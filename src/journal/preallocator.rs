//! The preallocator: one thread that makes every shard's next segment ready, faults its pages in
//! ahead of the appender and gives them back behind it, so that a shard makes no system call for
//! it.
//!
//! Space is allocated here, so a full disk shows here: the segment is tried again after a pause
//! until there is room, and meanwhile the shard refuses admissions. Never deletes anything.

use super::format::BLOCK_BYTES;
use super::mapped::{self, PagesWriter};
use super::shared::{JournalShared, Segment, SyncState};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Pages are faulted in and given back by windows of this many bytes: two of the current segment
/// and one of the next are in memory.
pub(super) const WINDOW_BYTES: usize = 512 * 1024;
/// Jobs that wait for the preallocator. A dropped window costs the appender page faults only.
const JOBS_MAX: usize = 1024;
/// Pause before a segment that could not be prepared is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) enum SegmentJob {
    /// Prepare segment `no` and hand it over.
    Prepare { journal: Arc<JournalShared>, no: u32, to: Sender<Prepared> },
    /// The appender has begun this window.
    Window { segment: Arc<Segment>, window: usize },
    /// The appender has left the segment.
    Leave { segment: Arc<Segment> },
}

/// A segment ready to be begun.
pub(super) struct Prepared {
    pub segment: Arc<Segment>,
    pub writer: PagesWriter,
}

/// The way to the preallocator. Its thread ends when the last handle is gone.
#[derive(Clone)]
pub struct PreallocatorHandle {
    jobs: Sender<SegmentJob>,
}

impl PreallocatorHandle {
    /// False: the preallocator is busy; ask again.
    pub(super) fn send(&self, job: SegmentJob) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

/// Starts the preallocator. One serves all shards.
pub fn spawn() -> io::Result<PreallocatorHandle> {
    let (jobs, inbox) = bounded(JOBS_MAX);
    std::thread::Builder::new().name("preallocator".into()).spawn(move || run(&inbox))?;
    Ok(PreallocatorHandle { jobs })
}

fn run(inbox: &Receiver<SegmentJob>) {
    // At most one per journal, because a journal asks for one segment at a time.
    let mut waiting = Vec::new();
    loop {
        let job = if waiting.is_empty() {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(RETRY_PAUSE)
        };
        match job {
            Ok(SegmentJob::Prepare { journal, no, to }) => waiting.push((journal, no, to, false)),
            Ok(SegmentJob::Window { segment, window }) => turn_window(&segment, window),
            Ok(SegmentJob::Leave { segment }) => {
                // Advice only: the next deletion unmaps it anyway.
                let _ = segment.pages.release(0, usize::MAX);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let is_wanted = |it: &JournalShared| !it.has_ended() && it.sync_state() != SyncState::Lost;
        waiting.retain(|(journal, ..)| is_wanted(journal));
        waiting.retain_mut(|(journal, no, to, told)| match prepare(journal, *no) {
            Ok(Some(prepared)) => {
                discard_if_refused(journal, to.try_send(prepared).err());
                false
            }
            Ok(None) => true,
            Err(error) => {
                if !std::mem::replace(told, true) {
                    let dir = journal.dir.display();
                    tracing::error!(%dir, %error, "journal segment not prepared; will try again");
                }
                true
            }
        });
    }
}

fn discard_if_refused(
    journal: &JournalShared,
    refused: Option<crossbeam_channel::TrySendError<Prepared>>,
) {
    if let Some(refused) = refused {
        let _ = std::fs::remove_file(&refused.into_inner().segment.path);
        journal.bytes.fetch_sub(journal.segment_bytes, Ordering::Relaxed);
    }
}

fn turn_window(segment: &Segment, window: usize) {
    // Advice only: without it the appender faults its pages in by itself.
    let _ = segment.pages.populate((window + 1) * WINDOW_BYTES, WINDOW_BYTES);
    if let Some(behind) = window.checked_sub(1) {
        let _ = segment.pages.release(behind * WINDOW_BYTES, WINDOW_BYTES);
    }
}

/// Creates segment `no`, allocated and mapped; `None` if the journal may not grow now.
pub(super) fn prepare(journal: &JournalShared, no: u32) -> io::Result<Option<Prepared>> {
    let bytes = journal.segment_bytes;
    if journal.bytes().saturating_add(bytes) > journal.bytes_max {
        return Ok(None);
    }
    let path = journal.dir.join(format!("{no:06}.tgj"));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    let made = allocate(&file, bytes)
        .and_then(|()| if journal.on_disk { sync_new(&file, &journal.dir) } else { Ok(()) })
        .and_then(|()| mapped::map(&file, bytes));
    let (pages, writer) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    };
    // Advice only, as above.
    let _ = pages.populate(0, WINDOW_BYTES);
    journal.bytes.fetch_add(bytes, Ordering::Relaxed);
    let segment = Arc::new(Segment {
        no,
        path,
        file,
        pages,
        first_seq: AtomicU64::new(u64::MAX),
        end_seq: AtomicU64::new(u64::MAX),
        opens: AtomicU32::new(0),
        held: AtomicBool::new(false),
        poisoned: AtomicBool::new(false),
    });
    Ok(Some(Prepared { segment, writer }))
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            // This file system can't promise space: writing zeros is the next best.
            let zeros = [0; BLOCK_BYTES];
            (0..bytes / BLOCK_BYTES as u64)
                .try_for_each(|block| file.write_all_at(&zeros, block * BLOCK_BYTES as u64))
        }
        other => Ok(other?),
    }
}

fn sync_new(file: &File, dir: &Path) -> io::Result<()> {
    file.sync_all()?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
