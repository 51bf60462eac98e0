//! Keeps a snapshot of the store in the data directory, from which the next start goes on should
//! the store be away by then. What needs none, an embedded store, gets none.

use super::admin_state::AdminState;
use crate::clock;
use crate::store::{CatalogError, confirm_snapshot, write_snapshot};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// From one snapshot to the next.
const EVERY: Duration = Duration::from_secs(5);
/// What a large one takes is a small part of the time.
const PAUSE_PER_TIME_TAKEN: u32 = 20;
/// What the last one may take: the process is about to end.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Runs for as long as its thread.
pub(super) async fn keep(state: Arc<AdminState>, data_dir: PathBuf) {
    let Some(store) = state.store.identity() else { return };
    let (mut written, mut has_failed) = (None, false);
    loop {
        let begun = clock::now();
        match keep_one(&state, &data_dir, &store, written).await {
            Ok(seen) => (written, has_failed) = (seen, false),
            // Whoever follows the changes tells that the store is away.
            Err(KeepError::Store(_)) => {}
            Err(KeepError::File(error)) if !has_failed => {
                tracing::error!(%error, "no snapshot of the store: without it no start");
                has_failed = true;
            }
            Err(KeepError::File(_)) => {}
        }
        let took = Duration::from_nanos(clock::now().since(begun).0);
        sleep(EVERY.max(took * PAUSE_PER_TIME_TAKEN)).await;
    }
}

/// One more before the end.
pub(super) async fn keep_last(state: &AdminState, data_dir: PathBuf) {
    let Some(store) = state.store.identity() else { return };
    // Where it does not come to its end, the one before is there.
    let _ = timeout(LAST_WITHIN, keep_one(state, &data_dir, &store, None)).await;
}

enum KeepError {
    Store(#[expect(dead_code, reason = "told elsewhere")] CatalogError),
    File(io::Error),
}

/// Writes one if something has changed after `written`; up to which change it reaches.
async fn keep_one(
    state: &AdminState,
    data_dir: &Path,
    store: &str,
    written: Option<i64>,
) -> Result<Option<i64>, KeepError> {
    let taken = state.store.snapshot(written).await.map_err(KeepError::Store)?;
    let (data_dir, store) = (data_dir.to_owned(), store.to_owned());
    let file = tokio::task::spawn_blocking(move || match taken {
        None => confirm_snapshot(&data_dir).map(|()| written),
        Some(snapshot) => {
            let seen = snapshot.seen;
            write_snapshot(&data_dir, &store, snapshot).map(|()| Some(seen))
        }
    });
    file.await.map_err(io::Error::other).and_then(|done| done).map_err(KeepError::File)
}
