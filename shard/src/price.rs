//! What the tokens of one call cost. Exact integers throughout: tokens times nano-USD per
//! 1 000 000 tokens, summed, then divided and rounded once, half to even, per record.
//!
//! A call's tokens lie in the consumer's month one after the other: uncached input, cached input,
//! output. So cached tokens are the last of the input, and an allowance covers the dearer ones
//! first. A subscription's fee is part of no record.

use crate::catalog::{PriceModel, Tier, TokenPrices};
use crate::record::Usage;
use crate::units::NanoUsd;

/// Prices are per this many tokens.
pub(crate) const TOKENS_PER_PRICE: u64 = 1_000_000;

/// Tokens of the month on the service that the ledger will have before a call's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceBounds {
    /// At least so many.
    pub least: u64,
    /// At most so many; `None`: there may be any number more.
    pub most: Option<u64>,
}

impl PlaceBounds {
    /// Nothing is known.
    pub const ANY: Self = Self { least: 0, most: None };
}

/// Why a price model cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceFault {
    /// A tiered price without a tier.
    NoTiers,
    /// The tier with this index does not end after the one before it, or covers no token.
    TierDoesNotAscend(usize),
    /// The tier with this index has no end and is not the last.
    TierWithoutEnd(usize),
    /// The last tier has an end: tokens past it would have no price.
    LastTierEnds,
    /// In the tier with this index cached input has a price of its own.
    CachedInputInTier(usize),
}

impl PriceModel {
    /// Does every token have a price, and only one?
    pub fn check(&self) -> Result<(), PriceFault> {
        let Self::Tiered(tiers) = self else { return Ok(()) };
        let mut reached = 0;
        for (index, tier) in tiers.iter().enumerate() {
            if tier.prices.cached_input_nanousd_per_mtok != tier.prices.input_nanousd_per_mtok {
                return Err(PriceFault::CachedInputInTier(index));
            }
            let last = index + 1 == tiers.len();
            match tier.up_to_tokens {
                None if last => return Ok(()),
                None => return Err(PriceFault::TierWithoutEnd(index)),
                Some(end) if end <= reached => return Err(PriceFault::TierDoesNotAscend(index)),
                Some(_) if last => return Err(PriceFault::LastTierEnds),
                Some(end) => reached = end,
            }
        }
        Err(PriceFault::NoTiers)
    }
}

/// The price of `usage` where `month_tokens_before` tokens were settled before it in its month on
/// its service. Rounds half to even; stops at the largest amount.
pub fn price(model: &PriceModel, usage: &Usage, month_tokens_before: u64) -> NanoUsd {
    round(numerator(model, usage, month_tokens_before))
}

/// The price of `usage` wherever within `bounds` it stands in its month; `None` where that decides.
pub fn certain_price(model: &PriceModel, usage: &Usage, bounds: PlaceBounds) -> Option<NanoUsd> {
    let PlaceBounds { least, most } = bounds;
    let end = most.map_or(u64::MAX, |most| most.saturating_add(usage.total()));
    // Between two neighbouring steps every place has the same price.
    let is_between = |step: u64| least < step && step < end;
    let is_certain = most == Some(least)
        || usage.total() == 0
        || match model {
            PriceModel::PerToken(_) => true,
            PriceModel::Tiered(tiers) => {
                !tiers.iter().filter_map(|tier| tier.up_to_tokens).any(is_between)
            }
            PriceModel::Subscription { allowance_tokens, .. } => !is_between(*allowance_tokens),
        };
    is_certain.then(|| price(model, usage, least))
}

/// The exact price in millionths of a nano-USD. Cannot overflow: a call has fewer than 2³³ tokens
/// and a price fewer than 2⁶⁴ nano-USD.
pub fn numerator(model: &PriceModel, usage: &Usage, month_tokens_before: u64) -> u128 {
    let mut parts = parts(usage);
    match model {
        PriceModel::PerToken(prices) => cost(&parts, prices),
        PriceModel::Tiered(tiers) => tiered(tiers, parts, month_tokens_before),
        PriceModel::Subscription { allowance_tokens, overage, .. } => {
            let _covered = take(&mut parts, allowance_tokens.saturating_sub(month_tokens_before));
            cost(&parts, overage)
        }
    }
}

/// Tokens in the order of their places: uncached input, cached input, output.
type TokenParts = [u64; 3];

fn parts(usage: &Usage) -> TokenParts {
    let cached = usage.cached_tokens.min(usage.input_tokens);
    [(usage.input_tokens - cached).into(), cached.into(), usage.output_tokens.into()]
}

fn cost(parts: &TokenParts, prices: &TokenPrices) -> u128 {
    u128::from(parts[0]) * u128::from(prices.input_nanousd_per_mtok)
        + u128::from(parts[1]) * u128::from(prices.cached_input_nanousd_per_mtok)
        + u128::from(parts[2]) * u128::from(prices.output_nanousd_per_mtok)
}

/// Takes up to `room` tokens off the front.
fn take(parts: &mut TokenParts, mut room: u64) -> TokenParts {
    parts.each_mut().map(|part| {
        let taken = room.min(*part);
        *part -= taken;
        room -= taken;
        taken
    })
}

fn tiered(tiers: &[Tier], mut parts: TokenParts, month_tokens_before: u64) -> u128 {
    let mut sum = 0;
    let mut place = month_tokens_before;
    for tier in tiers {
        let Some(end) = tier.up_to_tokens else {
            return sum + cost(&parts, &tier.prices);
        };
        let taken = take(&mut parts, end.saturating_sub(place));
        sum += cost(&taken, &tier.prices);
        if parts == [0; 3] {
            return sum;
        }
        place = place.max(end);
    }
    assert!(parts == [0; 3], "tiers passed PriceModel::check, so the last has no end");
    sum
}

fn round(numerator: u128) -> NanoUsd {
    // Nearly every record fits 64 bits, where the division by a constant is a multiplication.
    let (quotient, rest) = match u64::try_from(numerator) {
        Ok(small) => (u128::from(small / TOKENS_PER_PRICE), small % TOKENS_PER_PRICE),
        Err(_) => {
            let per = u128::from(TOKENS_PER_PRICE);
            (numerator / per, (numerator % per) as u64)
        }
    };
    let half = TOKENS_PER_PRICE / 2;
    let up = rest > half || (rest == half && quotient % 2 == 1);
    NanoUsd(i64::try_from(quotient + u128::from(up)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn usage(input_tokens: u32, cached_tokens: u32, output_tokens: u32) -> Usage {
        Usage { input_tokens, cached_tokens, output_tokens, estimated: false }
    }

    fn prices(input: u64, cached: u64, output: u64) -> TokenPrices {
        TokenPrices {
            input_nanousd_per_mtok: input,
            cached_input_nanousd_per_mtok: cached,
            output_nanousd_per_mtok: output,
        }
    }

    fn any_prices(max: u64) -> impl Strategy<Value = TokenPrices> {
        (0..=max, 0..=max, 0..=max)
            .prop_map(|(input, cached, output)| prices(input, cached, output))
    }

    /// Models whose steps lie within the first hundred tokens of a month.
    fn any_model(price_max: u64) -> impl Strategy<Value = PriceModel> {
        let tiers = (
            proptest::collection::btree_set(1..100u64, 0..5),
            proptest::collection::vec(any_prices(price_max), 6),
        )
            .prop_map(|(ends, prices)| {
                let ends = ends.into_iter().map(Some).chain([None]);
                let tier = |(up_to_tokens, mut prices): (Option<u64>, TokenPrices)| {
                    prices.cached_input_nanousd_per_mtok = prices.input_nanousd_per_mtok;
                    Tier { up_to_tokens, prices }
                };
                PriceModel::Tiered(ends.zip(prices).map(tier).collect())
            });
        prop_oneof![
            any_prices(price_max).prop_map(PriceModel::PerToken),
            tiers,
            (0..100u64, any_prices(price_max), any::<u64>()).prop_map(
                |(allowance_tokens, overage, fee_nanousd)| PriceModel::Subscription {
                    fee_nanousd,
                    allowance_tokens,
                    overage,
                }
            ),
        ]
    }

    /// Token by token, each asked for its own price: shares nothing with the code above.
    fn naive(model: &PriceModel, usage: &Usage, before: u64) -> u128 {
        let uncached = usage.input_tokens - usage.cached_tokens;
        let total = usage.input_tokens + usage.output_tokens;
        let of = |prices: &TokenPrices, token: u32| {
            if token < uncached {
                prices.input_nanousd_per_mtok
            } else if token < usage.input_tokens {
                prices.cached_input_nanousd_per_mtok
            } else {
                prices.output_nanousd_per_mtok
            }
        };
        let each = (0..total).map(|token| {
            let place = before + u64::from(token) + 1;
            u128::from(match model {
                PriceModel::PerToken(prices) => of(prices, token),
                PriceModel::Tiered(tiers) => {
                    let holds = |tier: &&Tier| tier.up_to_tokens.is_none_or(|end| place <= end);
                    of(&tiers.iter().find(holds).unwrap().prices, token)
                }
                PriceModel::Subscription { allowance_tokens, .. } if place <= *allowance_tokens => {
                    0
                }
                PriceModel::Subscription { overage, .. } => of(overage, token),
            })
        });
        each.sum()
    }

    proptest! {
        #[test]
        fn agrees_with_counting_token_by_token(
            model in any_model(u64::MAX),
            (input, cached, output) in (0..60u32, 0..60u32, 0..60u32),
            before in 0..120u64,
        ) {
            let usage = usage(input, cached.min(input), output);
            prop_assert_eq!(model.check(), Ok(()));
            prop_assert_eq!(numerator(&model, &usage, before), naive(&model, &usage, before));
        }

        #[test]
        fn calls_split_in_order_cost_the_same(
            model in any_model(1 << 40),
            (uncached, cached, output) in (0..60u32, 0..60u32, 0..60u32),
            cuts in proptest::collection::btree_set(0..180u32, 0..6),
            before in 0..120u64,
        ) {
            let total = uncached + cached + output;
            let cuts = cuts.into_iter().filter(|cut| *cut < total).chain([total]);
            let within = |from: u32, to: u32, start: u32, len: u32| {
                to.clamp(start, start + len) - from.clamp(start, start + len)
            };
            let (mut from, mut sum) = (0, 0);
            for to in cuts {
                let fresh = within(from, to, 0, uncached);
                let old = within(from, to, uncached, cached);
                let made = within(from, to, uncached + cached, output);
                let piece = usage(fresh + old, old, made);
                sum += numerator(&model, &piece, before + u64::from(from));
                from = to;
            }
            let whole = usage(uncached + cached, cached, output);
            prop_assert_eq!(sum, numerator(&model, &whole, before));
        }

        #[test]
        fn rounds_to_the_nearest_and_ties_to_even(numerator in any::<u128>(), small: bool) {
            let numerator = if small { numerator >> 70 } else { numerator >> 30 };
            let rounded = round(numerator).0;
            let error = |candidate: u128| (candidate * 1_000_000).abs_diff(numerator);
            if rounded < i64::MAX {
                let rounded = rounded as u128;
                prop_assert!(error(rounded) <= 500_000);
                prop_assert!(error(rounded) < 500_000 || rounded.is_multiple_of(2));
            } else {
                prop_assert!(numerator >= (i64::MAX as u128) * 1_000_000 - 500_000);
            }
        }

        #[test]
        fn never_overflows(model in any_model(u64::MAX), cached: u32, before: u64) {
            let usage = usage(u32::MAX, cached, u32::MAX);
            prop_assert!(price(&model, &usage, before).0 >= 0);
        }
    }

    #[test]
    fn ties_go_to_the_even_neighbour() {
        for (numerator, rounded) in [
            (0, 0),
            (499_999, 0),
            (500_000, 0),
            (500_001, 1),
            (1_499_999, 1),
            (1_500_000, 2),
            (2_500_000, 2),
            (u128::from(u64::MAX) * 500_000, i64::MAX),
        ] {
            assert_eq!(round(numerator), NanoUsd(rounded), "{numerator}");
        }
    }

    #[test]
    fn the_allowance_covers_input_first_and_cached_input_last_of_it() {
        let model = PriceModel::Subscription {
            fee_nanousd: 7,
            allowance_tokens: 100,
            overage: prices(1_000_000, 10_000, 2_000_000),
        };
        let usage = usage(50, 20, 30);
        assert_eq!(price(&model, &usage, 0), NanoUsd(0));
        assert_eq!(price(&model, &usage, 60), NanoUsd(60), "40 of 50 input tokens are free");
        assert_eq!(numerator(&model, &usage, 60), 10 * 10_000 + 30 * 2_000_000);
        assert_eq!(numerator(&model, &usage, 90), 20 * 1_000_000 + 20 * 10_000 + 60_000_000);
    }

    #[test]
    fn a_call_across_a_tier_pays_each_tokens_own_price() {
        let tier = |up_to_tokens, input, output| Tier {
            up_to_tokens,
            prices: prices(input, input, output),
        };
        let tiers = [tier(Some(10), 3_000_000, 5_000_000), tier(None, 1_000_000, 2_000_000)];
        let model = PriceModel::Tiered(Box::new(tiers));
        assert_eq!(price(&model, &usage(8, 0, 4), 0), NanoUsd(8 * 3 + 2 * 5 + 2 * 2));
        assert_eq!(price(&model, &usage(8, 8, 4), 10), NanoUsd(8 + 4 * 2));
        assert_eq!(price(&model, &usage(8, 0, 4), u64::MAX), NanoUsd(8 + 4 * 2));
    }

    #[test]
    fn a_bad_model_is_named() {
        let tier = |up_to_tokens| Tier { up_to_tokens, prices: prices(1, 1, 2) };
        let check = |tiers: &[Tier]| PriceModel::Tiered(tiers.into()).check();
        assert_eq!(check(&[]), Err(PriceFault::NoTiers));
        assert_eq!(check(&[tier(Some(0)), tier(None)]), Err(PriceFault::TierDoesNotAscend(0)));
        let flat = [tier(Some(5)), tier(Some(5)), tier(None)];
        assert_eq!(check(&flat), Err(PriceFault::TierDoesNotAscend(1)));
        assert_eq!(check(&[tier(None), tier(None)]), Err(PriceFault::TierWithoutEnd(0)));
        assert_eq!(check(&[tier(Some(5))]), Err(PriceFault::LastTierEnds));
        let cached = Tier { up_to_tokens: None, prices: prices(2, 1, 2) };
        assert_eq!(check(&[cached]), Err(PriceFault::CachedInputInTier(0)));
        assert_eq!(check(&[tier(Some(5)), tier(None)]), Ok(()));
    }
}
