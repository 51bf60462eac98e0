//! A bounded table that forgets what was least used: a hash index over slots, with one bit per
//! slot (CLOCK). Grows on demand up to its capacity and then allocates no more. Every filling of
//! a slot has a serial number, so that what was found once can be found again without hashing,
//! and is never mistaken for what took its place.

use hashbrown::HashTable;

/// What a table is keyed by.
pub(crate) trait TableKey: Copy {
    /// Well mixed in all its bits.
    fn hash(&self) -> u64;
    /// Is `other` the same? In constant time where the key is secret.
    fn is(&self, other: &Self) -> bool;
}

/// Slots looked at for an unused one before a used one has to go.
const CLOCK_STEPS_MAX: usize = 64;

/// Where an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TablePlace {
    slot: u32,
    serial: u64,
}

struct TableSlot<K, V> {
    key: K,
    serial: u64,
    referenced: bool,
    value: Option<V>,
}

/// See the module.
pub(crate) struct ClockTable<K, V> {
    capacity: usize,
    index: HashTable<u32>,
    slots: Vec<TableSlot<K, V>>,
    free: Vec<u32>,
    hand: usize,
    serial: u64,
}

impl<K: TableKey, V> ClockTable<K, V> {
    /// An empty table that will hold up to `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0 && u32::try_from(capacity).is_ok());
        let (index, slots, free) = (HashTable::new(), Vec::new(), Vec::new());
        Self { capacity, index, slots, free, hand: 0, serial: 0 }
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The entry of `key`, marked as used.
    pub(crate) fn get(&mut self, key: &K) -> Option<(TablePlace, &mut V)> {
        let slots = &self.slots;
        let slot = *self.index.find(key.hash(), |slot| slots[*slot as usize].key.is(key))?;
        let entry = &mut self.slots[slot as usize];
        entry.referenced = true;
        Some((TablePlace { slot, serial: entry.serial }, entry.value.as_mut()?))
    }

    /// The entry found at `place`, unless it has left or been replaced since.
    pub(crate) fn at(&self, place: TablePlace) -> Option<&V> {
        let entry = self.slots.get(place.slot as usize)?;
        if entry.serial == place.serial { entry.value.as_ref() } else { None }
    }

    /// Puts `value` under `key`, in place of what was there; where the table is full, an entry
    /// that has not been used lately goes.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        if self.len() == self.capacity {
            let slot = self.least_used();
            self.vacate(slot);
        }
        self.serial += 1;
        let entry = TableSlot { key, serial: self.serial, referenced: false, value: Some(value) };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(key.hash(), slot, |slot| slots[*slot as usize].key.hash());
        assert!(self.len() <= self.capacity);
    }

    /// Takes the entry of `key` out.
    pub(crate) fn remove(&mut self, key: &K) {
        let slots = &self.slots;
        let found = self.index.find(key.hash(), |slot| slots[*slot as usize].key.is(key));
        if let Some(slot) = found.copied() {
            self.vacate(slot);
        }
    }

    /// Takes out every entry for which `keep` is false. Looks at all of them.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].value.as_ref().is_some_and(|value| !keep(value)) {
                self.vacate(slot as u32);
            }
        }
    }

    fn least_used(&mut self) -> u32 {
        for _ in 0..CLOCK_STEPS_MAX {
            let entry = &mut self.slots[self.hand];
            if !entry.referenced {
                break;
            }
            entry.referenced = false;
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let slot = self.hand as u32;
        self.hand = (self.hand + 1) % self.slots.len();
        slot
    }

    fn vacate(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        assert!(entry.value.take().is_some(), "only a filled slot is vacated");
        let found = self.index.find_entry(entry.key.hash(), |other| *other == slot);
        let indexed = found.map(|found| found.remove()).is_ok();
        assert!(indexed, "a filled slot is in the index");
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    impl TableKey for u8 {
        /// Collides on purpose.
        fn hash(&self) -> u64 {
            u64::from(*self % 4) << 57
        }
        fn is(&self, other: &Self) -> bool {
            self == other
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u8, u32),
        Get(u8),
        Remove(u8),
        RetainEven,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..24u8, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            3 => (0..24u8).prop_map(Step::Get),
            1 => (0..24u8).prop_map(Step::Remove),
            1 => Just(Step::RetainEven),
        ]
    }

    proptest! {
        /// What the table holds is what was put there last; it is never over its capacity; a place
        /// finds its own entry or nothing.
        #[test]
        fn holds_only_what_was_put_there(
            steps in proptest::collection::vec(any_step(), 0..200),
            capacity in 1..12usize,
        ) {
            let mut table = ClockTable::new(capacity);
            let mut model = HashMap::new();
            let mut places: Vec<(TablePlace, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        table.insert(key, value);
                        model.insert(key, value);
                        let (place, held) = table.get(&key).unwrap();
                        prop_assert_eq!(*held, value);
                        places.push((place, value));
                    }
                    Step::Get(key) => {
                        if let Some((_, value)) = table.get(&key) {
                            prop_assert_eq!(Some(&*value), model.get(&key));
                        }
                    }
                    Step::Remove(key) => {
                        table.remove(&key);
                        model.remove(&key);
                        prop_assert!(table.get(&key).is_none());
                    }
                    Step::RetainEven => {
                        table.retain(|value| value % 2 == 0);
                        model.retain(|_, value| *value % 2 == 0);
                        for key in 0..24 {
                            prop_assert!(table.get(&key).is_none_or(|(_, value)| *value % 2 == 0));
                        }
                    }
                }
                prop_assert!(table.len() <= capacity);
                prop_assert!(table.slots.len() <= capacity);
                for (place, value) in &places {
                    prop_assert!(table.at(*place).is_none_or(|held| held == value));
                }
            }
        }
    }

    #[test]
    fn what_is_used_stays_longer_than_what_is_not() {
        let mut table = ClockTable::new(8);
        for key in 0..8 {
            table.insert(key, ());
        }
        table.get(&0);
        for key in 8..15 {
            table.insert(key, ());
        }
        assert!(table.get(&0).is_some());
        assert!(table.get(&1).is_none());
    }
}
