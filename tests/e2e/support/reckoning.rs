//! What calls cost, reckoned token by token from what the ledger says of them: a second opinion
//! that shares nothing with the gateway.

use super::ledger::PlacedRow;
use serde_json::{Value, json};

/// Tokens of a call: input, cached of them, output.
pub type Tokens = (u64, u64, u64);

/// Nano-USD per million: input, cached input, output.
pub type Prices = [u64; 3];

/// Half to even, once.
fn rounded(numerator: u128) -> u64 {
    let (whole, rest) = (numerator / 1_000_000, numerator % 1_000_000);
    let up = rest > 500_000 || rest == 500_000 && whole % 2 == 1;
    (whole + u128::from(up)).try_into().unwrap()
}

/// Each token for itself, by its place in the month: uncached input, cached input, output.
pub fn cost(tokens: Tokens, before: u64, price_at: impl Fn(u64) -> Prices) -> u64 {
    let (input, cached, output) = tokens;
    let kinds = [(input - cached, 0), (cached, 1), (output, 2)];
    let in_order = kinds.iter().flat_map(|(count, kind)| (0..*count).map(move |_| *kind));
    rounded(in_order.zip(before..).map(|(kind, place)| u128::from(price_at(place)[kind])).sum())
}

/// Replays a month in the ledger's order: its rows stand one behind the other from the first token
/// on, and each was billed what its tokens cost there. Its tokens, and what they cost.
pub fn replay(rows: &[PlacedRow], price_at: impl Fn(u64) -> Prices) -> (u64, u64) {
    let (mut next, mut sum) = (0, 0);
    for row in rows {
        assert_eq!(row.place, next, "a gap or an overlap at {row:?}");
        assert_eq!(row.cost_nanousd, cost(row.tokens, next, &price_at), "{row:?}");
        next += row.tokens.0 + row.tokens.2;
        sum += row.cost_nanousd;
    }
    (next, sum)
}

/// A tier as the API takes it.
pub fn tier(up_to: Option<u64>, input: u64, output: u64) -> Value {
    json!({
        "up_to_tokens": up_to,
        "input_nanousd_per_mtok": input,
        "output_nanousd_per_mtok": output,
    })
}
