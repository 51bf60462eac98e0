//! Prices as callers of the API send them: read with every problem named by its field. They are
//! shown as the store writes them.

use super::body::BodyFields;
use super::error::FieldProblem;
use serde_json::Value;
use shard::catalog::{PriceModel, Tier, TokenPrices};
use shard::limits::PRICE_NANOUSD_MAX;

/// Largest fee, nano-USD: a million dollars.
const FEE_NANOUSD_MAX: u64 = 1_000_000_000_000_000;
/// Largest count of tokens; JSON readers that hold numbers as doubles keep it whole.
const TOKENS_MAX: u64 = (1 << 53) - 1;
/// Tiers of one price.
const TIERS_MAX: usize = 64;
const INPUT: &str = "input_nanousd_per_mtok";
const CACHED: &str = "cached_input_nanousd_per_mtok";
const OUTPUT: &str = "output_nanousd_per_mtok";

/// Reads a price; `path` is the name of the field that holds it.
pub(super) fn read(value: &Value, path: &str) -> Result<PriceModel, Vec<FieldProblem>> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let known: &[&str] = match kind {
        "per_token" => &["kind", INPUT, CACHED, OUTPUT],
        "tiered" => &["kind", "tiers"],
        "subscription" => &["kind", "fee_nanousd", "allowance_tokens", "overage"],
        _ => {
            let message = "must be \"per_token\", \"tiered\" or \"subscription\"";
            return Err(vec![FieldProblem::new(format!("{path}.kind"), message)]);
        }
    };
    let mut fields = BodyFields::nested(value, path, known)?;
    let model = match kind {
        "per_token" => PriceModel::PerToken(read_token_prices(&mut fields)),
        "tiered" => PriceModel::Tiered(read_tiers(&mut fields)),
        _ => read_subscription(&mut fields),
    };
    fields.finish().map(|()| model)
}

/// Cached input costs what input costs where no other price is named.
fn read_token_prices(fields: &mut BodyFields) -> TokenPrices {
    let input = fields.required_integer(INPUT, 0..=PRICE_NANOUSD_MAX);
    TokenPrices {
        input_nanousd_per_mtok: input,
        cached_input_nanousd_per_mtok: fields
            .integer(CACHED, 0..=PRICE_NANOUSD_MAX)
            .unwrap_or(input),
        output_nanousd_per_mtok: fields.required_integer(OUTPUT, 0..=PRICE_NANOUSD_MAX),
    }
}

fn read_tiers(fields: &mut BodyFields) -> Box<[Tier]> {
    let Some(Value::Array(values)) = fields.take("tiers") else {
        fields.problem("tiers", "must be a list of tiers");
        return Box::default();
    };
    if values.is_empty() || values.len() > TIERS_MAX {
        fields.problem("tiers", format!("must have 1 to {TIERS_MAX} tiers"));
        return Box::default();
    }
    let (mut tiers, mut below, last) = (Vec::with_capacity(values.len()), 0, values.len() - 1);
    for (place, value) in values.iter().enumerate() {
        let path = fields.path(&format!("tiers[{place}]"));
        let mut tier_fields =
            match BodyFields::nested(value, &path, &["up_to_tokens", INPUT, OUTPUT]) {
                Ok(tier_fields) => tier_fields,
                Err(problems) => {
                    fields.add(problems);
                    continue;
                }
            };
        let up_to_tokens = tier_fields.integer("up_to_tokens", 1..=TOKENS_MAX);
        match up_to_tokens {
            None if place != last => {
                tier_fields.problem("up_to_tokens", "may be null in the last tier only");
            }
            Some(_) if place == last => {
                tier_fields.problem("up_to_tokens", "must be null in the last tier");
            }
            Some(end) if end <= below => {
                tier_fields.problem("up_to_tokens", "must be above the tier before");
            }
            _ => {}
        }
        below = up_to_tokens.unwrap_or(below);
        let input = tier_fields.required_integer(INPUT, 0..=PRICE_NANOUSD_MAX);
        let output = tier_fields.required_integer(OUTPUT, 0..=PRICE_NANOUSD_MAX);
        let prices = TokenPrices {
            input_nanousd_per_mtok: input,
            cached_input_nanousd_per_mtok: input,
            output_nanousd_per_mtok: output,
        };
        tiers.push(Tier { up_to_tokens, prices });
        if let Err(problems) = tier_fields.finish() {
            fields.add(problems);
        }
    }
    tiers.into()
}

fn read_subscription(fields: &mut BodyFields) -> PriceModel {
    let fee_nanousd = fields.required_integer("fee_nanousd", 0..=FEE_NANOUSD_MAX);
    let allowance_tokens = fields.required_integer("allowance_tokens", 0..=TOKENS_MAX);
    let mut overage = TokenPrices::default();
    match fields.take("overage") {
        None => fields.problem("overage", "is required"),
        Some(value) => {
            let (path, known) = (fields.path("overage"), ["kind", INPUT, CACHED, OUTPUT]);
            if !matches!(value.get("kind"), None | Some(Value::Null))
                && value["kind"] != "per_token"
            {
                fields.problem("overage.kind", "must be \"per_token\" or left out");
            }
            let read = BodyFields::nested(&value, &path, &known).and_then(|mut inner| {
                overage = read_token_prices(&mut inner);
                inner.finish()
            });
            if let Err(problems) = read {
                fields.add(problems);
            }
        }
    }
    PriceModel::Subscription { fee_nanousd, allowance_tokens, overage }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::price_to_json;
    use serde_json::json;

    fn paths(value: &Value) -> Vec<String> {
        read(value, "price").err().into_iter().flatten().map(|problem| problem.field).collect()
    }

    #[test]
    fn each_kind_round_trips() {
        for price in [
            json!({"kind": "per_token", INPUT: 1, CACHED: 2, OUTPUT: 3}),
            json!({"kind": "tiered", "tiers": [
                {"up_to_tokens": 10, INPUT: 5, OUTPUT: 6},
                {"up_to_tokens": null, INPUT: 1, OUTPUT: 2}
            ]}),
            json!({"kind": "subscription", "fee_nanousd": 9, "allowance_tokens": 8,
                   "overage": {"kind": "per_token", INPUT: 1, CACHED: 1, OUTPUT: 3}}),
        ] {
            let model = read(&price, "price").ok();
            assert_eq!(model.as_ref().map(price_to_json), Some(price));
        }
    }

    #[test]
    fn prices_end_where_no_sum_can_overflow() {
        let price = |nanousd: u64| json!({"kind": "per_token", INPUT: nanousd, OUTPUT: 1});
        assert!(read(&price(PRICE_NANOUSD_MAX), "price").is_ok());
        assert_eq!(paths(&price(PRICE_NANOUSD_MAX + 1)), ["price.input_nanousd_per_mtok"]);
    }

    #[test]
    fn problems_carry_the_path_of_their_field() {
        for (price, path) in [
            (json!(7), "price.kind"),
            (json!({"kind": "free"}), "price.kind"),
            (json!({"kind": "per_token", INPUT: 1}), "price.output_nanousd_per_mtok"),
            (json!({"kind": "per_token", INPUT: -1, OUTPUT: 1}), "price.input_nanousd_per_mtok"),
            (json!({"kind": "per_token", INPUT: 1, OUTPUT: 1, "x": 1}), "price.x"),
            (json!({"kind": "tiered", "tiers": []}), "price.tiers"),
            (
                json!({"kind": "tiered", "tiers": [{"up_to_tokens": 5, INPUT: 1, OUTPUT: 1}]}),
                "price.tiers[0].up_to_tokens",
            ),
            (
                json!({"kind": "tiered", "tiers": [
                    {"up_to_tokens": 5, INPUT: 1, OUTPUT: 1},
                    {"up_to_tokens": 5, INPUT: 1, OUTPUT: 1},
                    {"up_to_tokens": null, INPUT: 1, OUTPUT: 1}
                ]}),
                "price.tiers[1].up_to_tokens",
            ),
            (
                json!({"kind": "subscription", "fee_nanousd": 1, "allowance_tokens": 1,
                       "overage": {INPUT: 1.5, OUTPUT: 1}}),
                "price.overage.input_nanousd_per_mtok",
            ),
        ] {
            assert_eq!(paths(&price), [path], "{price}");
        }
    }
}
