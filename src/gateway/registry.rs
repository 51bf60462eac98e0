//! What is open of one kind on a shard, for whoever looks at all of it now and then. Nothing has to
//! be taken out of it: what only the registry still holds is closed, and forgotten.

use std::cell::RefCell;
use std::rc::Rc;

/// Room for this many is made at once.
const ROOM_MIN: usize = 64;

/// Everything that is open of one kind.
pub(super) struct Registry<T>(RefCell<Vec<Rc<T>>>);

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Registry<T> {
    /// Adds one, which is open for as long as somebody else holds it.
    pub(super) fn add(&self, one: T) -> Rc<T> {
        let one = Rc::new(one);
        let mut all = self.0.borrow_mut();
        if all.len() == all.capacity() {
            // However many come and go between two looks: room is for twice those still open.
            all.retain(is_open);
            let room = all.len().max(ROOM_MIN);
            all.reserve(room);
        }
        all.push(Rc::clone(&one));
        one
    }

    /// Looks at each that is open, and forgets the others. `look` must not add any.
    pub(super) fn each(&self, mut look: impl FnMut(&Rc<T>)) {
        self.0.borrow_mut().retain(|one| {
            let is_open = is_open(one);
            if is_open {
                look(one);
            }
            is_open
        });
    }
}

fn is_open<T>(one: &Rc<T>) -> bool {
    Rc::strong_count(one) > 1
}

#[cfg(test)]
mod tests {
    use super::{ROOM_MIN, Registry};

    /// Room after this many were open at once, `rounds` times, without a look between.
    fn room_after(rounds: usize, at_once: usize) -> usize {
        let registry = Registry::default();
        for _ in 0..rounds {
            let _open: Vec<_> = (0..at_once).map(|one| registry.add(one)).collect();
        }
        registry.0.borrow().capacity()
    }

    #[test]
    fn room_is_for_what_is_open_only() {
        assert!(room_after(40, 50) <= 4 * ROOM_MIN);
        assert!(room_after(4, 500) >= 500);
    }

    #[test]
    fn what_nobody_else_holds_is_forgotten() {
        let registry = Registry::default();
        let (open, closed) = (registry.add(1), registry.add(2));
        drop(closed);
        let mut seen = Vec::new();
        registry.each(|one| seen.push(**one));
        assert_eq!(seen, [*open]);
        assert_eq!(registry.0.borrow().len(), 1);
    }
}
