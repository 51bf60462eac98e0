//! Where records stand in their consumers' months on a service, and what they cost there. The
//! ledger asks, in the transaction that adds the records: whoever comes first there has the first
//! place, whichever process or shard settled it, so the places of a month have no gap and no
//! overlap. Nobody else prices by a place.

use crate::catalog::PriceModel;
use crate::price::price;
use crate::record::{Outcome, Record};
use crate::units::{ConsumerId, NanoUsd, Period, ServiceId};
use core::fmt;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// A consumer's month on a service: that of the call's beginning, by which the ledger adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonthOnService {
    /// Whose month.
    pub consumer: ConsumerId,
    /// On which service.
    pub service: ServiceId,
    /// Which month.
    pub period: Period,
}

impl MonthOnService {
    /// The record's.
    pub fn of(record: &Record) -> Self {
        let Record { consumer, service, .. } = *record;
        Self { consumer, service, period: Period::of(record.occurred_at_unix_us) }
    }
}

/// What the ledger writes of a record's price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedCost {
    /// Rounded once, half to even.
    pub cost: NanoUsd,
    /// Tokens of the month before the record's own, where its price depends on them.
    pub month_place: Option<u64>,
}

/// The record's price depends on its place, and nobody has said how far its month has come. The
/// ledger reads the months of all records before it prices one, so this is a record that names a
/// month which no ledger can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its price depends on a month that the ledger cannot hold")
    }
}

/// How far each month has come, the records of one transaction included.
#[derive(Clone, Debug, Default)]
pub struct MonthPlaces(HashMap<MonthOnService, u64, FixedState>);

impl MonthPlaces {
    /// Is no month counted?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts a month from here on: so many tokens of it are in the ledger.
    pub fn begin(&mut self, month: MonthOnService, tokens: u64) {
        self.0.insert(month, tokens);
    }

    /// What the record costs if it comes next. A price that does not depend on the month is the
    /// shard's work; only a record whose process died before that is priced here.
    pub fn price(&self, record: &Record, model: &PriceModel) -> Result<PlacedCost, NoPlace> {
        if model.depends_on_month() {
            let before = *self.0.get(&MonthOnService::of(record)).ok_or(NoPlace)?;
            let cost = price(model, &record.usage, before);
            return Ok(PlacedCost { cost, month_place: Some(before) });
        }
        let cost = match record.outcome {
            Outcome::Recovered => price(model, &record.usage, 0),
            _ => record.cost,
        };
        Ok(PlacedCost { cost, month_place: None })
    }

    /// The record is in: whatever it was priced by, the next one comes behind it.
    pub fn add(&mut self, record: &Record) {
        if self.is_empty() {
            return;
        }
        if let Some(tokens) = self.0.get_mut(&MonthOnService::of(record)) {
            *tokens = tokens.saturating_add(record.usage.total());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::catalog::{Tier, TokenPrices};
    use crate::record::Usage;
    use proptest::prelude::*;

    pub(crate) const NOVEMBER_US: i64 = 1_793_491_200_000_000;
    const DECEMBER_US: i64 = NOVEMBER_US + 30 * 86_400_000_000;

    fn prices(nanousd: u64) -> TokenPrices {
        TokenPrices {
            input_nanousd_per_mtok: nanousd * 1_000_000,
            cached_input_nanousd_per_mtok: nanousd * 1_000_000,
            output_nanousd_per_mtok: nanousd * 1_000_000,
        }
    }

    /// By version: 1 is per token, 2 has tiers, 3 an allowance. Whole nano-USD a token, so that
    /// costs add up.
    pub(crate) fn model(version: u32) -> PriceModel {
        let tier = |up_to_tokens, nanousd| Tier { up_to_tokens, prices: prices(nanousd) };
        match version {
            1 => PriceModel::PerToken(prices(11)),
            2 => {
                let tiers = [tier(Some(50), 7), tier(Some(120), 5), tier(None, 2)];
                PriceModel::Tiered(Box::new(tiers))
            }
            _ => PriceModel::Subscription {
                fee_nanousd: 1,
                allowance_tokens: 80,
                overage: prices(3),
            },
        }
    }

    /// The price of the one token behind `place` others.
    fn of_token(version: u32, place: u64) -> i64 {
        match (version, place) {
            (1, _) => 11,
            (2, 0..50) => 7,
            (2, 50..120) => 5,
            (2, _) => 2,
            (_, 0..80) => 0,
            _ => 3,
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let month = prop_oneof![Just(NOVEMBER_US), Just(DECEMBER_US - 1), Just(DECEMBER_US)];
        (0..2u64, 0..2u64, month, 1..4u32, (0..40u32, 0..40u32), any::<bool>()).prop_map(
            |(consumer, service, at_us, price_version, (input_tokens, output_tokens), died)| {
                let cost = i64::from(input_tokens + output_tokens) * 11;
                Record {
                    occurred_at_unix_us: at_us,
                    consumer: ConsumerId(consumer),
                    service: ServiceId(service),
                    price_version,
                    usage: Usage { input_tokens, output_tokens, ..Usage::default() },
                    outcome: if died { Outcome::Recovered } else { Outcome::Completed },
                    cost: NanoUsd(if died || price_version > 1 { 0 } else { cost }),
                    ..Record::default()
                }
            },
        )
    }

    proptest! {
        /// Cut into transactions anywhere, the records of a month stand one behind the other, and
        /// each costs what its tokens cost one by one.
        #[test]
        fn a_month_has_no_gap_and_no_overlap(
            records in proptest::collection::vec(any_record(), 0..60),
            cuts in proptest::collection::btree_set(0..60usize, 0..6),
        ) {
            // What a ledger would have added up, as the naive reckoning does.
            let mut ledger: Vec<(MonthOnService, u64)> = Vec::new();
            let mut places = MonthPlaces::default();
            for (at, record) in records.iter().enumerate() {
                let month = MonthOnService::of(record);
                let known = ledger.iter().position(|(of, _)| *of == month);
                let known = known.unwrap_or_else(|| {
                    ledger.push((month, 0));
                    ledger.len() - 1
                });
                if at == 0 || cuts.contains(&at) {
                    places = MonthPlaces::default();
                    for record in &records[at..] {
                        let month = MonthOnService::of(record);
                        let tokens = ledger.iter().find(|(of, _)| *of == month);
                        places.begin(month, tokens.map_or(0, |(_, tokens)| *tokens));
                    }
                }
                let place = ledger[known].1;
                let priced = places.price(record, &model(record.price_version)).unwrap();
                places.add(record);
                ledger[known].1 += record.usage.total();
                let tokens = place..ledger[known].1;
                let cost = tokens.map(|token| of_token(record.price_version, token)).sum();
                prop_assert_eq!(priced.cost, NanoUsd(cost));
                let depends = record.price_version > 1;
                prop_assert_eq!(priced.month_place, depends.then_some(place));
            }
        }
    }

    #[test]
    fn only_months_that_were_begun_are_counted() {
        let mut places = MonthPlaces::default();
        let record = Record {
            usage: Usage { input_tokens: 5, ..Usage::default() },
            occurred_at_unix_us: NOVEMBER_US,
            price_version: 2,
            ..Record::default()
        };
        places.add(&record);
        assert!(places.is_empty());
        assert_eq!(places.price(&record, &model(2)), Err(NoPlace));
        places.begin(MonthOnService::of(&record), u64::MAX - 2);
        places.add(&record);
        let place = places.price(&record, &model(2)).unwrap().month_place;
        assert_eq!(place.unwrap(), u64::MAX, "it stops there");
    }

    #[test]
    fn what_the_shard_priced_stays_as_it_is() {
        let record = Record { cost: NanoUsd(5), ..Record::default() };
        let priced = MonthPlaces::default().price(&record, &model(1));
        assert_eq!(priced, Ok(PlacedCost { cost: NanoUsd(5), month_place: None }));
    }
}
