//! Where consumers' months stand on services whose price depends on it: for each, the one word
//! that all shards share. The only state of a shard that another thread writes; a call adds its
//! tokens with one relaxed `fetch_add` and is priced from what was there, so that graduated prices
//! are exact over all shards without a message per call.

use crate::clock_table::{ClockTable, TableKey};
use crate::limits::{MONTH_RETRY, MONTHS_MAX};
use crate::units::{ConsumerId, Nanos, Period, ServiceId};
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A consumer's month on a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MonthKey {
    pub consumer: ConsumerId,
    pub service: ServiceId,
    pub period: Period,
}

impl TableKey for MonthKey {
    fn hash(&self) -> u64 {
        FixedState::with_seed(0).hash_one(self)
    }
    fn is(&self, other: &Self) -> bool {
        self == other
    }
}

/// What is known of a month.
#[derive(Clone, Debug)]
pub(crate) enum KnownMonth {
    /// Its word.
    Known(Arc<AtomicU64>),
    /// Control is being asked, and is not asked again before this instant.
    Asked(Nanos),
}

/// The months that one shard holds.
pub(crate) struct Months {
    table: ClockTable<MonthKey, KnownMonth>,
}

impl Months {
    pub(crate) fn new() -> Self {
        Self { table: ClockTable::new(MONTHS_MAX) }
    }

    /// What is known of the month; `None`: ask control, then say so to `asked`.
    pub(crate) fn find(&mut self, key: MonthKey, now: Nanos) -> Option<KnownMonth> {
        match self.table.get(&key)?.1 {
            KnownMonth::Asked(again_at) if *again_at <= now => None,
            month => Some(month.clone()),
        }
    }

    /// The month's word, if it is here.
    pub(crate) fn word(&mut self, key: &MonthKey) -> Option<Arc<AtomicU64>> {
        match self.table.get(key)?.1 {
            KnownMonth::Known(tokens) => Some(Arc::clone(tokens)),
            KnownMonth::Asked(_) => None,
        }
    }

    /// Notes that control is being asked.
    pub(crate) fn asked(&mut self, key: MonthKey, now: Nanos) {
        self.table.insert(key, KnownMonth::Asked(now.after(MONTH_RETRY)));
    }

    /// Takes control's answer.
    pub(crate) fn learned(&mut self, key: MonthKey, tokens: Arc<AtomicU64>) {
        self.table.insert(key, KnownMonth::Known(tokens));
    }
}
