//! Where in its consumer's month on a service a call will come to stand, as far as one shard can
//! tell for certain. The ledger places records in the order in which it takes them in; of that
//! order a shard knows only that its own records keep theirs. So what it has settled itself comes
//! before a call of now. What others have used may come before it too, and so may what they are yet
//! to use, if the store is away meanwhile: no slice and no quota bounds that. Only where no other
//! shard is given a token of the month is the place known, or nearly.

use crate::limits::SERVICE_MONTHS_MAX;
use crate::month_places::MonthOnService;
use crate::price::PlaceBounds;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

#[derive(Clone, Copy, Debug)]
struct SoFar {
    /// Settled here.
    own: u64,
    /// What others have before them, at most.
    others_most: Option<u64>,
}

/// The months that this shard has settled calls of on services whose prices depend on it.
#[derive(Debug, Default)]
pub struct ServiceMonths(HashMap<MonthOnService, SoFar, FixedState>);

impl ServiceMonths {
    /// The place of a call that depends on it, and that is settled now. `used_most`: tokens that
    /// the consumer has used on all services in this month, at most, if all were used here.
    pub fn place(
        &mut self,
        month: MonthOnService,
        tokens: u64,
        used_most: Option<u64>,
    ) -> PlaceBounds {
        if self.0.len() >= SERVICE_MONTHS_MAX && !self.0.contains_key(&month) {
            // A month that begins anew here is only less certain.
            self.0.clear();
        }
        let new = SoFar { own: 0, others_most: used_most };
        let so_far = self.0.entry(month).or_insert(new);
        let least = so_far.own;
        so_far.own = so_far.own.saturating_add(tokens);
        PlaceBounds { least, most: so_far.others_most.map(|others| others.saturating_add(least)) }
    }

    /// A call whose price does not depend on it takes its place all the same.
    pub fn pass(&mut self, month: MonthOnService, tokens: u64) {
        if let Some(so_far) = self.0.get_mut(&month) {
            so_far.own = so_far.own.saturating_add(tokens);
        }
    }

    /// Is no month counted?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::month_places::MonthPlaces;
    use crate::month_places::tests::{NOVEMBER_US, model};
    use crate::price::certain_price;
    use crate::record::{Record, Usage};
    use crate::units::{ConsumerId, Period, ServiceId};
    use proptest::prelude::*;

    /// A call: on which service, by which price, of how many tokens, and whether it is another
    /// shard's, whose record the ledger takes in at some other time.
    fn any_call() -> impl Strategy<Value = (u64, u32, u32, bool)> {
        (0..2u64, 1..4u32, 0..30u32, any::<bool>())
    }

    fn record((service, price_version, tokens, _): (u64, u32, u32, bool)) -> Record {
        Record {
            occurred_at_unix_us: NOVEMBER_US,
            consumer: ConsumerId(1),
            service: ServiceId(service),
            price_version,
            usage: Usage { input_tokens: tokens, ..Usage::default() },
            ..Record::default()
        }
    }

    proptest! {
        /// Whatever a shard calls certain is what the ledger makes of it.
        #[test]
        fn a_cost_that_is_told_is_the_ledgers(
            calls in proptest::collection::vec(any_call(), 1..40),
            is_alone: bool,
            before in 0..60u64,
        ) {
            let (mut shard, mut ledger) = (ServiceMonths::default(), MonthPlaces::default());
            for service in 0..2 {
                let month = MonthOnService::of(&record((service, 1, 0, false)));
                // Alone from the month's first token on, or behind what others have used.
                ledger.begin(month, if is_alone { 0 } else { before });
            }
            let mut used = 0;
            for call in calls {
                let (record, model) = (record(call), model(call.1));
                let placed = ledger.price(&record, &model).unwrap();
                ledger.add(&record);
                if !is_alone && call.3 {
                    continue;
                }
                let (month, tokens) = (MonthOnService::of(&record), record.usage.total());
                if model.depends_on_month() {
                    let bounds = shard.place(month, tokens, is_alone.then_some(used));
                    if let Some(cost) = certain_price(&model, &record.usage, bounds) {
                        prop_assert_eq!(cost, placed.cost);
                    }
                    let place = placed.month_place.unwrap();
                    prop_assert!(bounds.least <= place);
                    prop_assert!(bounds.most.is_none_or(|most| most >= place));
                } else {
                    shard.pass(month, tokens);
                }
                used += tokens;
            }
        }
    }

    fn month(consumer: u64) -> MonthOnService {
        let (service, period) = (ServiceId(1), Period(202_611));
        MonthOnService { consumer: ConsumerId(consumer), service, period }
    }

    #[test]
    fn alone_from_the_first_token_on_every_cost_is_told() {
        let mut months = ServiceMonths::default();
        let usage = Usage { input_tokens: 30, ..Usage::default() };
        let told: Vec<i64> = (0..6)
            .map(|_| {
                let bounds = months.place(month(1), 30, Some(0));
                certain_price(&model(2), &usage, bounds).unwrap().0
            })
            .collect();
        assert_eq!(told, [210, 20 * 7 + 10 * 5, 150, 150, 60, 60]);
    }

    #[test]
    fn beside_others_a_cost_is_told_in_the_last_tier_only() {
        let mut months = ServiceMonths::default();
        let usage = Usage { input_tokens: 30, ..Usage::default() };
        let told: Vec<Option<i64>> = (0..6)
            .map(|_| {
                let bounds = months.place(month(1), 30, None);
                certain_price(&model(2), &usage, bounds).map(|cost| cost.0)
            })
            .collect();
        assert_eq!(told, [None, None, None, None, Some(60), Some(60)]);
    }

    #[test]
    fn a_full_table_begins_anew() {
        let mut months = ServiceMonths::default();
        for consumer in 0..=SERVICE_MONTHS_MAX as u64 {
            months.place(month(consumer), 5, Some(0));
        }
        assert_eq!(months.0.len(), 1);
        let bounds = months.place(month(0), 5, Some(5));
        assert_eq!(bounds, PlaceBounds { least: 0, most: Some(5) });
    }
}
