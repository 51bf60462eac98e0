//! The prices that a ledger has come across. A price never changes, so each is read once.

use shard::catalog::PriceModel;
use shard::month_places::{MonthOnService, MonthPlaces, PlacedCost};
use shard::record::{Outcome, Record};
use shard::units::ServiceId;
use std::collections::{BTreeSet, HashMap};

/// Prices kept; past it all are read anew.
const PRICES_MAX: usize = 65_536;

/// A service and the version of its price.
pub(super) type PriceName = (ServiceId, u32);

/// See the module. What is not in it is not in the store either, once a transaction has read what
/// its records lacked.
#[derive(Default)]
pub(super) struct KnownPrices(HashMap<PriceName, PriceModel>);

impl KnownPrices {
    /// Which prices of these records are to be read.
    pub(super) fn missing<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> BTreeSet<PriceName> {
        if self.0.len() >= PRICES_MAX {
            self.0.clear();
        }
        let names = records.into_iter().map(|it| (it.service, it.price_version));
        names.filter(|name| !self.0.contains_key(name)).collect()
    }

    /// Takes in a price.
    pub(super) fn learn(&mut self, name: PriceName, model: PriceModel) {
        self.0.insert(name, model);
    }

    /// The record's.
    fn of(&self, record: &Record) -> Option<&PriceModel> {
        self.0.get(&(record.service, record.price_version))
    }

    /// The months that decide on these records' costs, in the order in which everybody locks them.
    pub(super) fn months<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> BTreeSet<MonthOnService> {
        let depends = |it: &&Record| self.of(it).is_some_and(|model| model.depends_on_month());
        records.into_iter().filter(depends).map(MonthOnService::of).collect()
    }

    /// What the ledger writes of the record's price. A price that is not in the store, which can't
    /// be, leaves what the shard made of it.
    pub(super) fn cost(&self, record: &Record, places: &MonthPlaces) -> PlacedCost {
        let as_settled = PlacedCost { cost: record.cost, month_place: None };
        if places.is_empty() && record.outcome != Outcome::Recovered {
            return as_settled;
        }
        self.of(record).map_or(as_settled, |model| places.price(record, model))
    }

    /// The monthly fee of a subscription.
    pub(super) fn fee_nanousd(&self, name: PriceName) -> Option<i64> {
        match self.0.get(&name)? {
            PriceModel::Subscription { fee_nanousd, .. } => {
                Some(i64::try_from(*fee_nanousd).unwrap_or(i64::MAX))
            }
            _ => None,
        }
    }
}
