//! Waits for what another process does, up to a deadline. The one place where a test pauses.

use std::time::{Duration, Instant};

/// Longer than anything takes that works, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `look` finds as soon as it finds something; fails after [`PATIENCE`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// The same with a deadline that is itself part of the promise.
pub fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a client does that has been refused: it leaves the machine to the others for a moment.
pub fn breathe() {
    std::thread::sleep(Duration::from_millis(2));
}
