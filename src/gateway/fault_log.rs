//! How many lines a shard may log on upstreams' faults: a host that is down fails every call.

use crate::clock;
use shard::units::Nanos;
use std::cell::Cell;

/// Lines in a second.
const LINES_PER_S_MAX: u32 = 20;

/// How many faults may still be logged, and how many were not.
#[derive(Debug, Default)]
pub struct FaultLog {
    second_began: Cell<Nanos>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl FaultLog {
    /// May a line be written now? Then, how many were left out before it.
    pub fn line(&self) -> Option<u64> {
        let now = clock::lately();
        if now.since(self.second_began.get()) >= Nanos::from_s(1) {
            self.second_began.set(now);
            self.lines.set(0);
        }
        if self.lines.get() == LINES_PER_S_MAX {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}
