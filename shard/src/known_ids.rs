//! Which key ids the instance may know: a filter (Bloom's, in blocks of one cache line) that all
//! shards look into before they ask control about a key. A made-up id is refused by one probe of
//! it; an id that is there is never missed.
//!
//! Control writes, shards only read: a bit that is set stays set, so no shard misses an id that was
//! there before it looked. An id of a key that is gone stays until the next start, and about one
//! made-up id in a few hundred passes; both go on to control, which knows. More keys than there is
//! room for only make that fraction larger.

use crate::units::KeyId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of one block: a cache line.
const BLOCK_WORDS: usize = 8;
/// Bits of a block that an id sets.
const BITS: u32 = 4;
/// Bits of the filter for each id: at this, one made-up id in about 400 passes.
const BITS_PER_ID: usize = 16;
/// Room for keys that are made after the start: 524 288 (1 MiB).
const BLOCKS_MIN: usize = 1 << 14;
/// 33 million keys (64 MiB).
const BLOCKS_MAX: usize = 1 << 20;

/// See the module.
pub struct KnownIds {
    words: Box<[AtomicU64]>,
    /// Number of blocks, a power of two, less one.
    mask: usize,
}

impl KnownIds {
    /// An empty filter for `ids` and at least as many to come.
    pub fn with_room_for(ids: usize) -> Self {
        let bits = ids.saturating_mul(2 * BITS_PER_ID);
        let blocks = (bits / (64 * BLOCK_WORDS)).clamp(BLOCKS_MIN, BLOCKS_MAX).next_power_of_two();
        let words = (0..blocks * BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { words, mask: blocks - 1 }
    }

    /// From now on, `id` is known.
    pub fn insert(&self, id: KeyId) {
        for (word, bit) in self.places(id) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// False: no such key.
    pub fn may_have(&self, id: KeyId) -> bool {
        self.places(id).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// The words and their bits that stand for `id`, all in one block.
    fn places(&self, id: KeyId) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let mixed = mix(id.0);
        let block = (mixed >> 40) as usize & self.mask;
        let words = &self.words[block * BLOCK_WORDS..(block + 1) * BLOCK_WORDS];
        (0..BITS).map(move |number| {
            let place = mixed >> (9 * number) & 511;
            (&words[(place >> 6) as usize], 1 << (place & 63))
        })
    }
}

/// Spreads an id over all bits (SplitMix64's last step).
fn mix(id: u64) -> u64 {
    let id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^ (id >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids as they are made: 60 bits without a pattern.
    fn id(number: u64) -> KeyId {
        KeyId(mix(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 4)
    }

    #[test]
    fn an_id_that_is_there_is_never_missed_and_few_others_pass() {
        const IDS: u64 = 524_288;
        let ids = KnownIds::with_room_for(0);
        assert!((0..1_000).all(|number| !ids.may_have(id(number))));
        (0..IDS).for_each(|number| ids.insert(id(number)));
        assert!((0..IDS).all(|number| ids.may_have(id(number))));
        let passing = (IDS..2 * IDS).filter(|number| ids.may_have(id(*number))).count();
        assert!(passing < IDS as usize / 100, "{passing}");
    }

    #[test]
    fn its_memory_is_bounded_and_more_ids_than_room_are_still_all_there() {
        assert_eq!(KnownIds::with_room_for(usize::MAX).words.len(), BLOCKS_MAX * BLOCK_WORDS);
        let ids = KnownIds::with_room_for(0);
        assert_eq!(ids.words.len() * 8, 1 << 20);
        (0..2_000_000).for_each(|number| ids.insert(id(number)));
        assert!((0..2_000_000).all(|number| ids.may_have(id(number))));
    }
}
