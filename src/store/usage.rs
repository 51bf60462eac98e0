//! What is asked of the ledger's sums, and what they answer.

use super::error::CatalogError;
use crate::wire::time_text::{day, parse_day};
use shard::units::NanoUsd;

/// What sums are apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Consumer,
    Service,
    Day,
}

impl By {
    /// Its column, where the day is `day`.
    pub(super) const fn column(self, day: &'static str) -> &'static str {
        match self {
            Self::Consumer => "consumer_id",
            Self::Service => "service_id",
            Self::Day => day,
        }
    }
}

/// The span of a sum, as text that the ledger's columns compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SumSpan {
    /// Days from this one, `YYYY-MM-DD`.
    pub(crate) from_day: Option<String>,
    /// Days up to this one, inclusive.
    pub(crate) to_day: Option<String>,
    /// Instants from this one. The days that it or `before_instant` cuts are summed from their
    /// records, the whole ones between from their daily sums.
    pub(crate) from_instant: Option<String>,
    /// Instants before this one; as above.
    pub(crate) before_instant: Option<String>,
}

impl SumSpan {
    /// The days that its bounds cut: they are summed from their records.
    pub(super) fn cut_days(&self) -> [Option<&str>; 2] {
        [&self.from_instant, &self.before_instant]
            .map(|instant| instant.as_deref().map(|text| text.get(..10).unwrap_or(text)))
    }

    /// Refused where it cuts a day of before `kept_from_us`, whose records were dropped.
    pub(super) fn refuse_dropped(&self, kept_from_us: i64) -> Result<(), CatalogError> {
        let mut cut = self.cut_days().into_iter().flatten().filter_map(parse_day);
        match cut.any(|day_us| day_us < kept_from_us) {
            true => Err(CatalogError::Dropped(day(kept_from_us))),
            false => Ok(()),
        }
    }
}

/// The columns of a record, in the order of the contract.
pub(crate) const RECORD_COLUMNS: [&str; 22] = [
    "record_id",
    "occurred_at",
    "period",
    "request_id",
    "consumer_id",
    "key_id",
    "service_id",
    "model",
    "status",
    "outcome",
    "streamed",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "tokens_source",
    "price_version",
    "cost_nanousd",
    "attempts",
    "latency_us",
    "ttft_us",
    "overhead_us",
    "instance_id",
];

/// What records come to. No sum of them overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordTotals {
    pub(crate) records: u64,
    /// Input and output together.
    pub(crate) tokens: u128,
    pub(crate) cost_nanousd: u128,
}

/// How much room the ledger takes and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) used_bytes: u64,
    /// `None`: nobody can tell.
    pub(crate) free_bytes: Option<u64>,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    /// The values of what was asked `by`, in that order.
    pub(crate) group: Vec<String>,
    /// What the consumers and services of `group` are, or were, called.
    pub(crate) names: Vec<Option<String>>,
    pub(crate) calls: i64,
    pub(crate) input_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cost: NanoUsd,
    /// Monthly fees that fell due, apart from `cost`.
    pub(crate) fees: NanoUsd,
}

/// A consumer's month on one service.
pub(crate) struct ServiceMonth {
    pub(crate) cost: NanoUsd,
    /// The month's fee, where its first call there made one due.
    pub(crate) fee: NanoUsd,
    pub(crate) calls: u64,
    pub(crate) tokens: u64,
}
