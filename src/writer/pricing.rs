//! The price of a record whose process died before it could price it, by the store's catalog.

use crate::store::Ledger;
use shard::price::price;
use shard::record::Record;
use shard::units::NanoUsd;

/// Prices a record. The second argument is the tokens of the consumer's month on the service so
/// far.
pub(crate) type Pricer = Box<dyn Fn(&Record, u64) -> NanoUsd>;

/// Prices records by what the store has now; one whose price is not there is free.
pub(crate) fn pricer(ledger: &Ledger) -> Result<Pricer, String> {
    let prices = ledger.prices().map_err(|error| error.to_string())?;
    Ok(Box::new(move |record, before| {
        let price_of_it = prices.get(&(record.service, record.price_version));
        price_of_it.map_or(NanoUsd(0), |model| price(model, &record.usage, before))
    }))
}
