//! When the write-ahead log is copied into the store's file.

use super::turns::take_turn;
use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The write-ahead log is copied into the file whenever so many pages (32 MiB) have been added to
/// it. A copy costs each page a second write, and two syncs.
const CHECKPOINT_PAGES: i32 = 2048;

/// The checkpoints of a store, made by the connection that writes most. SQLite's own come within
/// a commit: whoever waits for a turn, a revocation for one, would wait for a copy of 32 MiB too.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Pages in the log after the connection's last commit.
    pages: Arc<AtomicI32>,
    tried_at_pages: i32,
}

impl Checkpoints {
    /// From now on `connection` makes checkpoints in [`Self::run_if_due`] and not on its own.
    pub(super) fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let pages = Arc::clone(&self.pages);
        connection.wal_hook(Some(move |_: &mut Wal, count| {
            pages.store(count, Ordering::Relaxed);
            Ok(())
        }))
    }

    /// Copies the log if it has grown enough; to be called without a turn. The first pass lets
    /// others write meanwhile. The second has only what they wrote to copy (and what a reader kept
    /// the first one from), and nobody adds to it: a log that has been copied to its end is begun
    /// anew by the next write, once no reader stands in it.
    pub(super) fn run_if_due(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.tried_at_pages {
            self.tried_at_pages = 0;
        }
        // A long read keeps the log from being begun anew; then each try waits for more pages.
        if pages - self.tried_at_pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        let pass = || match connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            // A change of the catalog is at it: not now.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            done => done.map(|_| true),
        };
        if pass()? {
            self.tried_at_pages = pages;
            let _turn = take_turn();
            pass()?;
        }
        Ok(())
    }
}
