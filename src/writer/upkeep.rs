//! What the writer does for the ledger while no record waits: it drops those that have been kept
//! for `usage.keep_days`, slice by slice, and looks how long the disk will last.

use crate::metrics::WriterMetrics;
use crate::store::{Ledger, LedgerError, Room};
use shard::units::{DAY_US, Nanos};

/// From one look at the ledger to the next.
const LOOK_EVERY: Nanos = Nanos::from_s(60);
/// From one slice of records that are dropped to the next: live records go first.
const SLICE_EVERY: Nanos = Nanos::from_ms(20);
/// How fast the ledger grows is told by no shorter stretch than this.
const GROWTH_OVER: Nanos = Nanos::from_s(600);

/// When there is something to do, and how fast the ledger grows.
#[derive(Default)]
pub(super) struct Upkeep {
    due: Nanos,
    first: Option<(Nanos, u64)>,
}

impl Upkeep {
    /// Does what is due at `now`, which is `unix_us` by the wall clock. `keep_days` 0: for ever.
    pub(super) fn run(
        &mut self,
        ledger: &mut Ledger,
        keep_days: u32,
        (now, unix_us): (Nanos, i64),
        metrics: &WriterMetrics,
    ) -> Result<(), LedgerError> {
        if now < self.due {
            return Ok(());
        }
        self.due = now.after(LOOK_EVERY);
        if keep_days > 0 {
            // Whole days, so that the reports of whole days need no record.
            let today = unix_us.div_euclid(DAY_US);
            if ledger.drop_before((today - i64::from(keep_days)) * DAY_US)? {
                self.due = now.after(SLICE_EVERY);
                return Ok(());
            }
        }
        if let Some(room) = ledger.room()? {
            let seconds = self.lasts_s(room, now);
            metrics.disk_full_s.set(seconds.map_or(0, |s| i64::try_from(s).unwrap_or(i64::MAX)));
        }
        Ok(())
    }

    /// In how many seconds the disk is full if the ledger goes on as since the first look; `None`:
    /// it has not grown, or has not been looked at for long enough.
    fn lasts_s(&mut self, room: Room, now: Nanos) -> Option<u64> {
        let (first_at, first_bytes) = *self.first.get_or_insert((now, room.used_bytes));
        let span = now.since(first_at);
        let grown = room.used_bytes.checked_sub(first_bytes).filter(|grown| *grown > 0)?;
        let span_s = span.0 / 1_000_000_000;
        (span >= GROWTH_OVER).then(|| {
            let seconds = u128::from(room.free_bytes) * u128::from(span_s) / u128::from(grown);
            u64::try_from(seconds).unwrap_or(u64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_lasts_for_what_is_free_at_the_rate_of_growth() {
        let mut upkeep = Upkeep::default();
        let room = |used_bytes| Room { used_bytes, free_bytes: 1_000 };
        assert_eq!(upkeep.lasts_s(room(100), Nanos::from_s(0)), None);
        assert_eq!(upkeep.lasts_s(room(150), Nanos::from_s(599)), None, "too soon to tell");
        assert_eq!(upkeep.lasts_s(room(200), Nanos::from_s(1_000)), Some(10_000));
        assert_eq!(upkeep.lasts_s(room(100), Nanos::from_s(2_000)), None, "it does not grow");
    }
}
