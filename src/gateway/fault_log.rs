//! How many lines a shard may log on upstreams' faults: a host that is down fails every call. What
//! is left out is counted, and the count is told by the next line, or when its second is over.

use shard::units::Nanos;
use std::cell::Cell;

/// Lines in a second.
const LINES_PER_S_MAX: u32 = 20;

/// How many faults may still be logged, and how many were not.
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    second_began: Cell<Nanos>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl FaultLog {
    /// May a line be written now? Then, how many were left out before it.
    pub(super) fn line(&self, now: Nanos) -> Option<u64> {
        if self.is_over(now) {
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

    /// Tells how many were left out, if no line has told it and their second is over.
    pub(super) fn flush(&self, now: Nanos) {
        if self.is_over(now) {
            self.flush_all();
        }
    }

    /// Tells how many were left out, if no line has told it: none will.
    pub(super) fn flush_all(&self) {
        let left_out = self.left_out.take();
        if left_out > 0 {
            tracing::warn!(left_out, "upstreams failed more calls than were logged");
        }
    }

    fn is_over(&self, now: Nanos) -> bool {
        now.since(self.second_began.get()) >= Nanos::from_s(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_told_by_the_next_line_or_when_its_second_is_over() {
        let (log, begun) = (FaultLog::default(), Nanos::from_s(10));
        let fill = |now| {
            (0..LINES_PER_S_MAX).for_each(|_| assert!(log.line(now).is_some()));
            assert_eq!((log.line(now), log.line(now)), (None, None));
        };
        fill(begun);
        log.flush(begun.after(Nanos::from_ms(999)));
        assert_eq!(log.left_out.get(), 2, "its second is not over");
        let next = begun.after(Nanos::from_s(1));
        assert_eq!(log.line(next), Some(2));
        (1..LINES_PER_S_MAX).for_each(|_| assert_eq!(log.line(next), Some(0)));
        assert_eq!(log.line(next), None);
        log.flush(next.after(Nanos::from_s(1)));
        assert_eq!(log.left_out.get(), 0, "no line came, and it is told");
        fill(next.after(Nanos::from_s(2)));
        log.flush_all();
        assert_eq!(log.left_out.get(), 0, "nothing is kept at the end");
    }
}
