//! The prices that a ledger has come across. A price never changes, so each is read once.

use shard::catalog::PriceModel;
use shard::month_places::{MonthOnService, MonthPlaces, NoPlace, PlacedCost};
use shard::record::{Outcome, Record};
use shard::units::ServiceId;
use std::collections::{BTreeSet, HashMap};

/// Prices kept; past it all are read anew.
const PRICES_MAX: usize = 65_536;

/// A service and the version of its price.
pub(super) type PriceName = (ServiceId, u32);

fn name_of(record: &Record) -> PriceName {
    (record.service, record.price_version)
}

/// The prices of these records, each once. Neighbours mostly share theirs.
pub(super) fn names_of<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeSet<PriceName> {
    let (mut names, mut last) = (BTreeSet::new(), None);
    for name in records.into_iter().map(name_of) {
        if last != Some(name) {
            names.insert(name);
            last = Some(name);
        }
    }
    names
}

/// See the module. What is not in it is not in the store either, once a transaction has read what
/// its records lacked.
#[derive(Default)]
pub(super) struct KnownPrices(HashMap<PriceName, PriceModel>);

impl KnownPrices {
    /// Which of these prices are to be read.
    pub(super) fn missing(&mut self, names: &BTreeSet<PriceName>) -> BTreeSet<PriceName> {
        if self.0.len() >= PRICES_MAX {
            self.0.clear();
        }
        names.iter().filter(|name| !self.0.contains_key(name)).copied().collect()
    }

    /// Takes in a price.
    pub(super) fn learn(&mut self, name: PriceName, model: PriceModel) {
        self.0.insert(name, model);
    }

    /// The record's.
    fn of(&self, record: &Record) -> Option<&PriceModel> {
        self.0.get(&name_of(record))
    }

    /// The months that decide on these records' costs, in the order in which everybody locks them.
    /// `names`: of their prices.
    pub(super) fn months<'a>(
        &self,
        names: &BTreeSet<PriceName>,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> BTreeSet<MonthOnService> {
        let depends = |name| self.0.get(name).is_some_and(PriceModel::depends_on_month);
        let depending: Vec<PriceName> =
            names.iter().filter(|name| depends(name)).copied().collect();
        if depending.is_empty() {
            return BTreeSet::new();
        }
        let is_due = |it: &&Record| depending.contains(&name_of(it));
        records.into_iter().filter(is_due).map(MonthOnService::of).collect()
    }

    /// What the ledger writes of the record's price. A price that is not in the store, which can't
    /// be, leaves what the shard made of it.
    pub(super) fn cost(
        &self,
        record: &Record,
        places: &MonthPlaces,
    ) -> Result<PlacedCost, NoPlace> {
        let as_settled = PlacedCost { cost: record.cost, month_place: None };
        if places.is_empty() && record.outcome != Outcome::Recovered {
            return Ok(as_settled);
        }
        self.of(record).map_or(Ok(as_settled), |model| places.price(record, model))
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
