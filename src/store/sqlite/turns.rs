//! Turns at writing, among the threads of this process.

use std::sync::{Condvar, Mutex, PoisonError};

/// Writers of this process take turns in the order in which they ask. SQLite's own lock goes to
/// whoever looks first when it is free: one that writes without end would always be that one.
static TURNS: Turns =
    Turns { numbers: Mutex::new(Numbers { next: 0, now: 0 }), changed: Condvar::new() };

struct Turns {
    numbers: Mutex<Numbers>,
    changed: Condvar,
}

struct Numbers {
    next: u64,
    now: u64,
}

/// A turn at writing, until it is dropped. Nobody takes a second one meanwhile.
#[must_use = "the turn is over when this is dropped"]
pub(super) struct WriteTurn(());

/// Waits for a turn at writing.
pub(super) fn take_turn() -> WriteTurn {
    let mut numbers = TURNS.numbers.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = numbers.next;
    numbers.next += 1;
    while numbers.now != mine {
        numbers = TURNS.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
    }
    WriteTurn(())
}

impl Drop for WriteTurn {
    fn drop(&mut self) {
        TURNS.numbers.lock().unwrap_or_else(PoisonError::into_inner).now += 1;
        TURNS.changed.notify_all();
    }
}
