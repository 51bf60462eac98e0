//! A price on the command line: flags in USD per million tokens, or the API's own JSON.

use super::CommandError;
use super::input::{count, nanousd, text_or_file};
use serde_json::{Value, json};

/// One of four ways to give a price.
#[derive(clap::Args)]
#[command(next_help_heading = "Price (one of; amounts in USD per 1,000,000 tokens)")]
#[group(skip)]
pub(super) struct PriceFlags {
    /// Every token at the same price, e.g. 2.50,10,1.25 (cached input: as input if left out)
    #[arg(long, value_name = "IN,OUT[,CACHED]", value_parser = token_prices,
        conflicts_with_all = ["tier", "fee", "price_json"])]
    per_token: Option<TokenPricesArg>,
    /// A step of a graduated price, e.g. 1M:3,15 or, for the last one, rest:1.80,9; repeated
    #[arg(long, value_name = "UP_TO:IN,OUT", value_parser = tier,
        conflicts_with_all = ["fee", "price_json"])]
    tier: Vec<TierArg>,
    /// A subscription's monthly fee in USD
    #[arg(long, value_name = "USD", value_parser = nanousd, conflicts_with = "price_json",
        requires_all = ["allowance", "overage"])]
    fee: Option<u64>,
    /// Tokens a month that the fee covers, e.g. 5M
    #[arg(long, value_name = "TOKENS", value_parser = count, requires = "fee")]
    allowance: Option<u64>,
    /// What tokens past the allowance cost
    #[arg(long, value_name = "IN,OUT[,CACHED]", value_parser = token_prices, requires = "fee")]
    overage: Option<TokenPricesArg>,
    /// The admin API's price object (nano-USD), or @FILE, or @- for stdin
    #[arg(long, value_name = "JSON")]
    price_json: Option<String>,
}

/// Nano-USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TokenPricesArg {
    input: u64,
    cached_input: u64,
    output: u64,
}

impl TokenPricesArg {
    fn to_json(self) -> Value {
        json!({
            "kind": "per_token",
            "input_nanousd_per_mtok": self.input,
            "cached_input_nanousd_per_mtok": self.cached_input,
            "output_nanousd_per_mtok": self.output,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TierArg {
    up_to_tokens: Option<u64>,
    input: u64,
    output: u64,
}

impl PriceFlags {
    /// The API's price object; `None`: no flag was given.
    fn given(&self) -> Result<Option<Value>, CommandError> {
        if let Some(prices) = self.per_token {
            return Ok(Some(prices.to_json()));
        }
        if let (Some(fee), Some(allowance), Some(overage)) =
            (self.fee, self.allowance, self.overage)
        {
            return Ok(Some(json!({
                "kind": "subscription",
                "fee_nanousd": fee,
                "allowance_tokens": allowance,
                "overage": overage.to_json(),
            })));
        }
        if let Some(given) = &self.price_json {
            let text = text_or_file(given).map_err(CommandError::WrongUse)?;
            return match serde_json::from_str(&text) {
                Ok(price @ Value::Object(_)) => Ok(Some(price)),
                Ok(_) => Err(CommandError::WrongUse("--price-json: not an object".to_string())),
                Err(error) => Err(CommandError::WrongUse(format!("--price-json: {error}"))),
            };
        }
        match self.tier.is_empty() {
            true => Ok(None),
            false => tiered(&self.tier).map(Some).map_err(CommandError::WrongUse),
        }
    }
}

impl PriceFlags {
    /// The API's price object, which there has to be.
    pub(super) fn required(&self) -> Result<Value, CommandError> {
        self.given()?.ok_or_else(|| {
            let ways = "--per-token, --tier, --fee with --allowance and --overage, or --price-json";
            CommandError::WrongUse(format!("a price is needed: {ways}"))
        })
    }
}

fn token_prices(text: &str) -> Result<TokenPricesArg, String> {
    let amounts = text.split(',').map(nanousd).collect::<Result<Vec<_>, _>>()?;
    match amounts[..] {
        [input, output] => Ok(TokenPricesArg { input, cached_input: input, output }),
        [input, output, cached_input] => Ok(TokenPricesArg { input, cached_input, output }),
        _ => Err("give two amounts, IN,OUT, or three, IN,OUT,CACHED".to_string()),
    }
}

fn tier(text: &str) -> Result<TierArg, String> {
    let allowed = "give UP_TO:IN,OUT, such as 1M:3,15, or rest:IN,OUT";
    let (reach, amounts) = text.split_once(':').ok_or(allowed)?;
    let up_to_tokens = match reach {
        "rest" => None,
        reach => Some(count(reach)?),
    };
    match amounts.split(',').map(nanousd).collect::<Result<Vec<_>, _>>()?[..] {
        [input, output] => Ok(TierArg { up_to_tokens, input, output }),
        _ => Err(allowed.to_string()),
    }
}

fn tiered(tiers: &[TierArg]) -> Result<Value, String> {
    let ascending =
        tiers.windows(2).all(|pair| match (pair[0].up_to_tokens, pair[1].up_to_tokens) {
            (Some(lower), Some(upper)) => lower < upper,
            (Some(_), None) => true,
            (None, _) => false,
        });
    if !ascending || tiers.last().is_none_or(|last| last.up_to_tokens.is_some()) {
        return Err("--tier: the steps have to ascend, and the last to be rest:IN,OUT".to_string());
    }
    let tiers = tiers.iter().map(|tier| {
        json!({
            "up_to_tokens": tier.up_to_tokens,
            "input_nanousd_per_mtok": tier.input,
            "output_nanousd_per_mtok": tier.output,
        })
    });
    Ok(json!({"kind": "tiered", "tiers": tiers.collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::PriceFlags;
    use crate::cli::CommandError;
    use crate::cli::render::describe_price;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        price: PriceFlags,
    }

    fn parse(line: &str) -> Option<Result<Option<Value>, CommandError>> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Some(Line::try_parse_from(words).ok()?.price.given())
    }

    fn price(line: &str) -> Value {
        parse(line).unwrap().unwrap().unwrap()
    }

    #[test]
    fn per_token_has_cached_input_or_takes_the_inputs_price() {
        let expected = |cached: u64| {
            json!({"kind": "per_token", "input_nanousd_per_mtok": 2_500_000_000_u64,
                "cached_input_nanousd_per_mtok": cached,
                "output_nanousd_per_mtok": 10_000_000_000_u64})
        };
        assert_eq!(price("--per-token 2.50,10,1.25"), expected(1_250_000_000));
        assert_eq!(price("--per-token 2.50,10"), expected(2_500_000_000));
    }

    #[test]
    fn tiers_become_steps() {
        assert_eq!(
            price("--tier 1M:3,15 --tier rest:1.8,9"),
            json!({"kind": "tiered", "tiers": [
                {"up_to_tokens": 1_000_000, "input_nanousd_per_mtok": 3_000_000_000_u64,
                    "output_nanousd_per_mtok": 15_000_000_000_u64},
                {"up_to_tokens": null, "input_nanousd_per_mtok": 1_800_000_000_u64,
                    "output_nanousd_per_mtok": 9_000_000_000_u64}]})
        );
        for line in [
            "--tier 1M:3,15",
            "--tier rest:3,15 --tier 1M:1,1",
            "--tier 2M:3,15 --tier 1M:1,1 --tier rest:1,1",
            "--tier 1M:3,15 --tier 1M:3,15 --tier rest:1,1",
            "--tier rest:1,1 --tier rest:1,1",
        ] {
            assert!(matches!(parse(line), Some(Err(CommandError::WrongUse(_)))), "{line}");
        }
    }

    #[test]
    fn a_subscription_needs_its_three_parts() {
        let full = price("--fee 20 --allowance 5M --overage 1,4,0.5");
        assert_eq!(full["fee_nanousd"], 20_000_000_000_u64);
        assert_eq!(full["allowance_tokens"], 5_000_000);
        assert_eq!(full["overage"]["kind"], "per_token");
        assert_eq!(full["overage"]["cached_input_nanousd_per_mtok"], 500_000_000);
        for line in ["--fee 20", "--fee 20 --allowance 5M", "--allowance 5M", "--overage 1,4"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn json_is_passed_on() {
        let text = r#"{"kind":"per_token","input_nanousd_per_mtok":1}"#;
        assert_eq!(
            price(&format!("--price-json {text}")),
            json!({"kind": "per_token",
            "input_nanousd_per_mtok": 1})
        );
        for line in ["--price-json {", "--price-json 5", "--price-json @/no/such/file"] {
            assert!(matches!(parse(line), Some(Err(CommandError::WrongUse(_)))), "{line}");
        }
    }

    #[test]
    fn there_is_one_price_or_none() {
        assert_eq!(parse(""), Some(Ok(None)));
        for line in [
            "--per-token 1,2 --tier rest:1,1",
            "--per-token 1,2 --price-json {}",
            "--per-token 1",
            "--per-token 1,2,3,4",
            "--per-token one,two",
            "--tier 1,2",
            "--tier 1M:1",
            "--tier last:1,2",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_price_is_told_in_a_few_words() {
        for (line, expected) in [
            ("--per-token 2.50,10,1.25", "2.5 in, 10 out, 1.25 cached"),
            ("--per-token 2.50,10", "2.5 in, 10 out"),
            ("--tier 1M:3,15 --tier rest:1,9", "to 1,000,000: 3 in, 15 out; rest: 1 in, 9 out"),
            (
                "--fee 20 --allowance 5M --overage 1,4",
                "20 a month for 5,000,000 tokens; then 1 in, 4 out",
            ),
        ] {
            assert_eq!(describe_price(&price(line)).as_deref(), Some(expected));
        }
        assert_eq!(describe_price(&json!({"kind": "auction"})), None);
    }
}
