//! Identities, times and months as text, written into fixed buffers so that a row costs no
//! allocation.

use shard::units::{DAY_US, Period, id_to_text};
use std::str;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// Text of fixed length.
pub(super) struct FixedText<const N: usize>([u8; N]);

impl<const N: usize> FixedText<N> {
    /// The text.
    pub(super) fn as_str(&self) -> &str {
        // Only ASCII is ever written below.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// `0192…-…`, a UUID's text.
pub(super) fn uuid(id: u128) -> FixedText<{ Hyphenated::LENGTH }> {
    let mut text = [0; Hyphenated::LENGTH];
    Uuid::from_u128(id).hyphenated().encode_lower(&mut text);
    FixedText(text)
}

/// An identity's 12 characters.
pub(super) fn id(id: u64) -> FixedText<12> {
    FixedText(id_to_text(id))
}

/// `2026-11`.
pub(super) fn period(period: Period) -> FixedText<7> {
    FixedText(period.to_text())
}

/// `2026-11-23T20:18:00.123456Z`, RFC 3339 in UTC.
pub(super) fn time(unix_us: i64) -> FixedText<27> {
    let month = Period::of(unix_us);
    let day = unix_us.saturating_sub(month.starts_at_unix_us()).div_euclid(DAY_US);
    let us = unix_us.rem_euclid(DAY_US) as u64;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    text[..7].copy_from_slice(&month.to_text());
    digits(&mut text[8..10], day as u64 + 1);
    digits(&mut text[11..13], us / 3_600_000_000);
    digits(&mut text[14..16], us / 60_000_000 % 60);
    digits(&mut text[17..19], us / 1_000_000 % 60);
    digits(&mut text[20..26], us % 1_000_000);
    FixedText(text)
}

fn digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_months_read_as_the_contract_says() {
        for (unix_us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_465_080_123_456, "2026-11-23T20:18:00.123456Z"),
        ] {
            assert_eq!(time(unix_us).as_str(), text);
            assert_eq!(period(Period::of(unix_us)).as_str(), &text[..7]);
        }
        assert_eq!(id(1).as_str(), "000000000001");
        assert_eq!(uuid(1).as_str(), "00000000-0000-0000-0000-000000000001");
    }
}
