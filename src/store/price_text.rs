//! A price as JSON: what the store keeps, and what the admin API shows. What was ever written
//! stays readable.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shard::catalog::{PriceModel, Tier, TokenPrices};

/// Largest amount in a price, nano-USD: a million dollars. Prices from before
/// [`shard::limits::PRICE_NANOUSD_MAX`] reach as far.
const AMOUNT_NANOUSD_MAX: u64 = 1_000_000_000_000_000;

/// The whole text.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Stored {
    PerToken(Prices),
    Tiered { tiers: Vec<StoredTier> },
    Subscription { fee_nanousd: Amount, allowance_tokens: u64, overage: Overage },
}

#[derive(Serialize, Deserialize)]
struct Prices {
    input_nanousd_per_mtok: Amount,
    cached_input_nanousd_per_mtok: Option<Amount>,
    output_nanousd_per_mtok: Amount,
}

/// Says `per_token` too.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Overage {
    PerToken(Prices),
}

#[derive(Serialize, Deserialize)]
struct StoredTier {
    up_to_tokens: Option<u64>,
    input_nanousd_per_mtok: Amount,
    output_nanousd_per_mtok: Amount,
}

/// At most [`AMOUNT_NANOUSD_MAX`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
struct Amount(u64);

impl TryFrom<u64> for Amount {
    type Error = &'static str;

    fn try_from(nanousd: u64) -> Result<Self, &'static str> {
        if nanousd <= AMOUNT_NANOUSD_MAX { Ok(Self(nanousd)) } else { Err("too large an amount") }
    }
}

impl From<Amount> for u64 {
    fn from(amount: Amount) -> Self {
        amount.0
    }
}

/// The text of a price, with its names in the alphabet's order.
pub(super) fn write(model: &PriceModel) -> String {
    to_json(model).to_string()
}

/// A price as JSON.
pub(crate) fn to_json(model: &PriceModel) -> Value {
    let stored = match model {
        PriceModel::PerToken(prices) => Stored::PerToken(Prices::of(prices)),
        PriceModel::Tiered(tiers) => {
            Stored::Tiered { tiers: tiers.iter().map(StoredTier::of).collect() }
        }
        PriceModel::Subscription { fee_nanousd, allowance_tokens, overage } => {
            Stored::Subscription {
                fee_nanousd: Amount(*fee_nanousd),
                allowance_tokens: *allowance_tokens,
                overage: Overage::PerToken(Prices::of(overage)),
            }
        }
    };
    serde_json::to_value(stored).unwrap_or_default()
}

/// What [`write()`] wrote, however long ago.
pub(super) fn read(text: &str) -> Option<PriceModel> {
    Some(match serde_json::from_str(text).ok()? {
        Stored::PerToken(prices) => PriceModel::PerToken(prices.read()),
        Stored::Tiered { tiers } => {
            PriceModel::Tiered(tiers.into_iter().map(StoredTier::read).collect())
        }
        Stored::Subscription { fee_nanousd, allowance_tokens, overage } => {
            let Overage::PerToken(overage) = overage;
            let (fee_nanousd, overage) = (fee_nanousd.0, overage.read());
            PriceModel::Subscription { fee_nanousd, allowance_tokens, overage }
        }
    })
}

impl Prices {
    fn of(prices: &TokenPrices) -> Self {
        Self {
            input_nanousd_per_mtok: Amount(prices.input_nanousd_per_mtok),
            cached_input_nanousd_per_mtok: Some(Amount(prices.cached_input_nanousd_per_mtok)),
            output_nanousd_per_mtok: Amount(prices.output_nanousd_per_mtok),
        }
    }

    fn read(self) -> TokenPrices {
        let input = self.input_nanousd_per_mtok;
        TokenPrices {
            input_nanousd_per_mtok: input.0,
            cached_input_nanousd_per_mtok: self.cached_input_nanousd_per_mtok.unwrap_or(input).0,
            output_nanousd_per_mtok: self.output_nanousd_per_mtok.0,
        }
    }
}

impl StoredTier {
    fn of(tier: &Tier) -> Self {
        Self {
            up_to_tokens: tier.up_to_tokens,
            input_nanousd_per_mtok: Amount(tier.prices.input_nanousd_per_mtok),
            output_nanousd_per_mtok: Amount(tier.prices.output_nanousd_per_mtok),
        }
    }

    fn read(self) -> Tier {
        let input_nanousd_per_mtok = self.input_nanousd_per_mtok.0;
        let prices = TokenPrices {
            input_nanousd_per_mtok,
            cached_input_nanousd_per_mtok: input_nanousd_per_mtok,
            output_nanousd_per_mtok: self.output_nanousd_per_mtok.0,
        };
        Tier { up_to_tokens: self.up_to_tokens, prices }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As versions so far have written them: these bytes are in stores.
    const TEXTS: [&str; 3] = [
        concat!(
            r#"{"cached_input_nanousd_per_mtok":2,"input_nanousd_per_mtok":1,"#,
            r#""kind":"per_token","output_nanousd_per_mtok":3}"#
        ),
        concat!(
            r#"{"kind":"tiered","tiers":[{"input_nanousd_per_mtok":5,"#,
            r#""output_nanousd_per_mtok":6,"up_to_tokens":10},{"input_nanousd_per_mtok":1,"#,
            r#""output_nanousd_per_mtok":2,"up_to_tokens":null}]}"#
        ),
        concat!(
            r#"{"allowance_tokens":8,"fee_nanousd":9,"kind":"subscription","overage":"#,
            r#"{"cached_input_nanousd_per_mtok":1,"input_nanousd_per_mtok":1,"#,
            r#""kind":"per_token","output_nanousd_per_mtok":3}}"#
        ),
    ];

    #[test]
    fn what_is_in_stores_reads_and_is_written_as_it_was() {
        for text in TEXTS {
            assert_eq!(read(text).as_ref().map(write).as_deref(), Some(text));
        }
        let largest = TEXTS[0].replace(":3}", ":1000000000000000}");
        assert!(read(&largest).is_some());
        for text in ["", "{}", "7", r#"{"kind":"free"}"#, &largest.replace("0}", "1}")] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
