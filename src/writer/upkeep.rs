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
                return ledger.maintain();
            }
        }
        let room = ledger.room()?;
        let seconds = self.lasts_s(room, now);
        metrics.disk_full_s.set(seconds.map_or(0, |s| i64::try_from(s).unwrap_or(i64::MAX)));
        metrics.ledger_bytes.set(i64::try_from(room.used_bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    /// In how many seconds the disk is full if the ledger goes on as since the first look; `None`:
    /// it has not grown, has not been looked at for long enough, or nobody knows its disk.
    fn lasts_s(&mut self, room: Room, now: Nanos) -> Option<u64> {
        let (first_at, first_bytes) = *self.first.get_or_insert((now, room.used_bytes));
        let span = now.since(first_at);
        let grown = room.used_bytes.checked_sub(first_bytes).filter(|grown| *grown > 0)?;
        let span_s = span.0 / 1_000_000_000;
        let free_bytes = room.free_bytes?;
        (span >= GROWTH_OVER).then(|| {
            let seconds = u128::from(free_bytes) * u128::from(span_s) / u128::from(grown);
            u64::try_from(seconds).unwrap_or(u64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::channels::Settled;
    use crate::journal::tests::record;
    use crate::metrics::Metrics;
    use crate::store::{Advance, Batch, FILE_NAME, Origin};

    #[test]
    fn the_disk_lasts_for_what_is_free_at_the_rate_of_growth() {
        let mut upkeep = Upkeep::default();
        let room = |used_bytes| Room { used_bytes, free_bytes: Some(1_000) };
        assert_eq!(upkeep.lasts_s(room(100), Nanos::from_s(0)), None);
        assert_eq!(upkeep.lasts_s(room(150), Nanos::from_s(599)), None, "too soon to tell");
        assert_eq!(upkeep.lasts_s(room(200), Nanos::from_s(1_000)), Some(10_000));
        assert_eq!(upkeep.lasts_s(room(100), Nanos::from_s(2_000)), None, "it does not grow");
    }

    #[test]
    fn the_log_stays_small_while_old_records_go_and_no_call_comes() {
        const BATCHES: u64 = 60;
        const ROWS: u64 = 4_000;
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.tune().unwrap();
        let origins = [Origin { journal_id: 1, instance_id: 2 }];
        for batch in 0..BATCHES {
            let seqs = batch * ROWS..(batch + 1) * ROWS;
            let advances = [Advance { origin: 0, next_seq: seqs.end, closed: false }];
            let settled = |seq| {
                let record = record(u128::from(seq) << 64);
                Settled { shard: 0, seq, prev_end: seq, record, request_id: None }
            };
            let records: Vec<Settled> = seqs.map(settled).collect();
            let (origins, records) = (&origins, &records);
            let batch = Batch { origins, records, recovered: &[], advances: &advances };
            assert_eq!(ledger.write(&batch).unwrap().rows, ROWS);
            ledger.maintain().unwrap();
        }
        let log = dir.path().join(format!("{FILE_NAME}-wal"));
        let (mut upkeep, metrics) = (Upkeep::default(), Metrics::new(1));
        let (mut now, mut largest_bytes) = (Nanos::from_s(1_000), 0);
        for _slice in 0..=BATCHES * ROWS / 1_000 {
            upkeep.run(&mut ledger, 30, (now, 400 * DAY_US), &metrics.writer).unwrap();
            now = now.after(SLICE_EVERY);
            largest_bytes = largest_bytes.max(log.metadata().unwrap().len());
        }
        assert_eq!(ledger.totals_before(i64::MAX).unwrap().records, 0);
        assert!(largest_bytes < 48 * MIB, "{} MiB", largest_bytes / MIB);
    }
}
