//! Keeps a snapshot of the store in the data directory, from which the next start goes on should
//! the store be away by then. What needs none, an embedded store, gets none.

use super::admin_state::AdminState;
use crate::clock;
use crate::store::{confirm_snapshot, write_snapshot};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// From one snapshot to the next.
const EVERY: Duration = Duration::from_secs(5);
/// What a large one takes is a small part of the time.
const PAUSE_PER_TIME_TAKEN: u32 = 20;
/// What the last one may take: the process is about to end.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Snapshots {
    state: Arc<AdminState>,
    data_dir: PathBuf,
    /// Names the store; `None`: it needs no snapshot.
    store: Option<String>,
    /// Up to which change the file reaches. One at a time writes it.
    written: Mutex<Option<i64>>,
}

impl Snapshots {
    pub(super) fn of(state: &Arc<AdminState>, data_dir: PathBuf) -> Arc<Self> {
        let (state, store) = (Arc::clone(state), state.store.identity());
        Arc::new(Self { state, data_dir, store, written: Mutex::default() })
    }

    /// Runs for as long as its thread, or not at all.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut has_failed = false;
        while self.store.is_some() {
            let begun = clock::now();
            let kept = self.keep_one().await;
            if let Err(error) = &kept
                && !has_failed
            {
                tracing::error!(%error, "no snapshot of the store: without it no start");
            }
            has_failed = kept.is_err();
            let took = Duration::from_nanos(clock::now().since(begun).0);
            sleep(EVERY.max(took * PAUSE_PER_TIME_TAKEN)).await;
        }
    }

    /// One more before the end.
    pub(super) async fn keep_last(&self) {
        // Where it does not come to its end, the one before is there.
        let _ = timeout(LAST_WITHIN, self.keep_one()).await;
    }

    /// Writes one if something has changed since the last one.
    async fn keep_one(&self) -> io::Result<()> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let mut written = self.written.lock().await;
        // Whoever follows the changes tells that the store is away.
        let Ok(taken) = self.state.store.snapshot(*written).await else { return Ok(()) };
        let data_dir = self.data_dir.clone();
        let seen = taken.as_ref().map(|snapshot| snapshot.seen);
        let file = tokio::task::spawn_blocking(move || match taken {
            None => confirm_snapshot(&data_dir),
            Some(snapshot) => write_snapshot(&data_dir, &store, snapshot),
        });
        file.await.map_err(io::Error::other)??;
        *written = seen.or(*written);
        Ok(())
    }
}
