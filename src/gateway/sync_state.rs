//! How much of the shard's journal is on the disk, and the wait until a record is.

use super::park::{Parking, Spot};
use crate::net;
use crate::wire::error::ApiError;
use std::cell::Cell;
use std::time::Duration;

/// What the syncer has told so far.
#[derive(Debug, Default)]
pub(super) struct SyncProgress {
    /// No record below this is unsynced.
    next_seq: Cell<u64>,
    has_failed: Cell<bool>,
}

impl SyncProgress {
    /// All records below `next_seq` are on the disk.
    pub(super) fn synced(&self, parking: &Parking, next_seq: u64) {
        self.next_seq.set(self.next_seq.get().max(next_seq));
        parking.wake(Spot::Sync);
    }

    /// The journal can no longer be synced.
    pub(super) fn failed(&self, parking: &Parking) {
        self.has_failed.set(true);
        parking.wake(Spot::Sync);
    }

    /// Returns once the record `seq` is on the disk.
    ///
    /// # Errors
    /// `overloaded` if it is not within `patience`, `journal_full` if it never will be.
    pub(super) async fn wait(
        &self,
        parking: &Parking,
        patience: Duration,
        seq: u64,
    ) -> Result<(), ApiError> {
        let synced = async {
            while self.next_seq.get() <= seq && !self.has_failed.get() {
                parking.wait(Spot::Sync).await;
            }
        };
        net::within(patience, synced).await;
        match (self.next_seq.get() > seq, self.has_failed.get()) {
            (true, _) => Ok(()),
            (false, true) => Err(ApiError::JournalFull),
            (false, false) => Err(ApiError::Overloaded),
        }
    }
}
