//! What the lease loop has to read in the ledger: months that begin. One read is under way at a
//! time, and what is asked for meanwhile goes with the next: at the change of the month ten
//! thousand consumers cost a few reads, and never more than one place in the queue.

use super::admin_state::AdminState;
use super::leases::MonthToRead;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Months of one read. It takes a few milliseconds, so that accounts have their turn in between.
const BATCH_MAX: usize = 1_024;

/// Months that could not be read are read again after this.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// See the module. What waits is bounded by the pool's months.
#[derive(Debug, Default)]
pub(crate) struct LedgerReads {
    waiting: VecDeque<MonthToRead>,
    is_under_way: bool,
}

impl LedgerReads {
    /// The authority does not know this month.
    pub(crate) fn add_seed(&mut self, month: MonthToRead) {
        self.waiting.push_back(month);
    }

    /// What to read now, if anything: then [`LedgerReads::done`] is called when it has been read.
    pub(crate) fn next(&mut self) -> Option<Vec<MonthToRead>> {
        if self.is_under_way || self.waiting.is_empty() {
            return None;
        }
        self.is_under_way = true;
        let count = self.waiting.len().min(BATCH_MAX);
        Some(self.waiting.drain(..count).collect())
    }

    /// The batch has been read, or could not be.
    pub(crate) fn done(&mut self) {
        self.is_under_way = false;
    }
}

/// The ledger's answer.
pub(crate) struct LedgerAnswer {
    pub(crate) batch: Vec<MonthToRead>,
    /// Tokens of each month of the batch, in its order; `None`: they could not be read.
    pub(crate) tokens: Option<Vec<u64>>,
}

/// Reads the batch, all months as they are at one moment, and gives the loop what it brought.
pub(crate) async fn answer_months(
    state: Arc<AdminState>,
    batch: Vec<MonthToRead>,
    reads: flume::Sender<LedgerAnswer>,
) {
    let read = state.store.months(batch.clone()).await;
    if let Err(failure) = &read {
        tracing::error!(%failure, "months of the ledger were not read");
        tokio::time::sleep(READ_AGAIN_AFTER).await;
    }
    // The loop has ended where it takes no answer.
    let _ = reads.send_async(LedgerAnswer { batch, tokens: read.ok() }).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::units::{ConsumerId, Period};

    #[test]
    fn ten_thousand_months_are_a_few_reads_one_at_a_time() {
        let mut reads = LedgerReads::default();
        assert_eq!(reads.next(), None);
        reads.add_seed((ConsumerId(0), Period(202_612)));
        let first = reads.next().map(|batch| batch.len());
        for consumer in 1..=10_000 {
            reads.add_seed((ConsumerId(consumer), Period(202_612)));
            assert_eq!(reads.next(), None, "one is under way");
        }
        let (mut count, mut months) = (1, first.unwrap_or_default());
        reads.done();
        while let Some(batch) = reads.next() {
            count += 1;
            months += batch.len();
            reads.done();
        }
        assert_eq!((count, months), (1 + 10, 10_001));
    }
}
