//! Repeatable chance: what a call gets depends only on the seed and the call's number.

/// A number that depends on nothing but these three (splitmix64's mixing).
pub(super) const fn draw(seed: u64, number: u64, purpose: u64) -> u64 {
    let mut mixed = seed ^ purpose.wrapping_mul(0xD134_2543_DE82_EF95);
    mixed = mixed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
