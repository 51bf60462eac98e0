//! What the rows of a batch add to each day's sums, gathered before the store hears of it.

use shard::record::Record;
use shard::units::{ConsumerId, DAY_US, ServiceId};
use std::collections::HashMap;

/// One day of a consumer on a service; days since 1970.
pub(super) type Day = (ConsumerId, ServiceId, i64);

/// What the rows of a batch add.
#[derive(Default)]
pub(super) struct DaySums(HashMap<Day, DaySum>);

#[derive(Default)]
pub(super) struct DaySum {
    pub(super) calls: i64,
    pub(super) input_tokens: i64,
    pub(super) cached_tokens: i64,
    pub(super) output_tokens: i64,
    pub(super) cost_nanousd: i128,
    /// The versions of the price that were used, each with its first call's time.
    pub(super) prices: Vec<(u32, i64)>,
}

impl DaySums {
    /// Takes a row in.
    pub(super) fn count(&mut self, record: &Record) {
        let day = record.occurred_at_unix_us.div_euclid(DAY_US);
        let sum = self.0.entry((record.consumer, record.service, day)).or_default();
        sum.calls += 1;
        sum.input_tokens += i64::from(record.usage.input_tokens);
        sum.cached_tokens += i64::from(record.usage.cached_tokens);
        sum.output_tokens += i64::from(record.usage.output_tokens);
        sum.cost_nanousd += i128::from(record.cost.0);
        if sum.prices.iter().all(|(version, _)| *version != record.price_version) {
            sum.prices.push((record.price_version, record.occurred_at_unix_us));
        }
    }

    /// Empties it.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Day, DaySum)> {
        self.0.drain()
    }
}
