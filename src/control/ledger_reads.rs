//! What the lease loop has to read in the ledger: months that begin. One read is under way at a
//! time, and what is asked for meanwhile goes with the next: at the change of the month ten
//! thousand consumers cost a few reads, and never more than one place in the queue.

use super::admin_state::AdminState;
use super::leases::MonthToRead;
use super::months::WordPlace;
use crate::store::{self, Catalog, CatalogError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Months of one read. It takes a few milliseconds, so that accounts have their turn in between.
const BATCH_MAX: usize = 1_024;

/// Months that could not be read are read again after this.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Months that are read together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MonthsToRead {
    /// For the authority.
    pub(crate) seeds: Vec<MonthToRead>,
    /// For prices that depend on the month.
    pub(crate) places: Vec<WordPlace>,
}

/// See the module. What waits is bounded by the pool's months and by `Months`.
#[derive(Debug, Default)]
pub(crate) struct LedgerReads {
    seeds: VecDeque<MonthToRead>,
    places: VecDeque<WordPlace>,
    is_under_way: bool,
}

impl LedgerReads {
    /// The authority does not know this month.
    pub(crate) fn add_seed(&mut self, month: MonthToRead) {
        self.seeds.push_back(month);
    }

    /// A shard does not know this place.
    pub(crate) fn add_place(&mut self, place: WordPlace) {
        self.places.push_back(place);
    }

    /// What to read now, if anything: then [`LedgerReads::done`] is called when it has been read.
    pub(crate) fn next(&mut self) -> Option<MonthsToRead> {
        if self.is_under_way || self.seeds.is_empty() && self.places.is_empty() {
            return None;
        }
        self.is_under_way = true;
        let seeds = self.seeds.len().min(BATCH_MAX);
        let places = self.places.len().min(BATCH_MAX);
        Some(MonthsToRead {
            seeds: self.seeds.drain(..seeds).collect(),
            places: self.places.drain(..places).collect(),
        })
    }

    /// The batch has been read, or could not be.
    pub(crate) fn done(&mut self) {
        self.is_under_way = false;
    }
}

/// Tokens of each month of the batch, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Of [`MonthsToRead::seeds`].
    pub(crate) seeds: Vec<u64>,
    /// Of [`MonthsToRead::places`].
    pub(crate) places: Vec<u64>,
    /// How far the ledger reaches into each shard's journal.
    pub(crate) reached: Arc<[u64]>,
}

/// The ledger's answer; `None`: it could not be read.
pub(crate) struct LedgerAnswer {
    pub(crate) batch: MonthsToRead,
    pub(crate) tokens: Option<Tokens>,
}

/// Reads the batch and gives the loop what it brought.
pub(crate) async fn answer_months(
    state: Arc<AdminState>,
    batch: MonthsToRead,
    journals: Arc<[u128]>,
    reads: flume::Sender<LedgerAnswer>,
) {
    let read = read(&state.store, &batch, journals).await;
    if let Err(failure) = &read {
        tracing::error!(%failure, "months of the ledger were not read");
        tokio::time::sleep(READ_AGAIN_AFTER).await;
    }
    // The loop has ended where it takes no answer.
    let _ = reads.send_async(LedgerAnswer { batch, tokens: read.ok() }).await;
}

/// Reads the batch: all months as they are at one moment. `journals` are the shards' own.
async fn read(
    catalog: &Catalog,
    batch: &MonthsToRead,
    journals: Arc<[u128]>,
) -> Result<Tokens, CatalogError> {
    let seed = |(consumer, period): &MonthToRead| {
        let (consumer, period) = (*consumer, *period);
        store::MonthOfConsumer { consumer, service: None, period }
    };
    let place = |WordPlace { consumer, service, period }: &WordPlace| {
        let (consumer, service, period) = (*consumer, Some(*service), *period);
        store::MonthOfConsumer { consumer, service, period }
    };
    let months = batch.seeds.iter().map(seed).chain(batch.places.iter().map(place)).collect();
    let used = catalog.months(months, journals).await?;
    let mut seeds = used.tokens;
    let places = seeds.split_off(batch.seeds.len());
    Ok(Tokens { seeds, places, reached: used.reached })
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
        let first = reads.next().map(|batch| batch.seeds.len());
        for consumer in 1..=10_000 {
            reads.add_seed((ConsumerId(consumer), Period(202_612)));
            assert_eq!(reads.next(), None, "one is under way");
        }
        let (mut count, mut months) = (1, first.unwrap_or_default());
        reads.done();
        while let Some(batch) = reads.next() {
            count += 1;
            months += batch.seeds.len();
            reads.done();
        }
        assert_eq!((count, months), (1 + 10, 10_001));
    }
}
