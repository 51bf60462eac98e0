//! Budgets of failed verifications, so that a stranger cannot buy Argon2 work: so many a minute,
//! saved up for a minute at the most. A failure is charged when it is known, so a budget may be
//! overdrawn by what was under way (bounded by the verifier's queue); the debt is paid first.

use shard::units::Nanos;
use std::collections::HashMap;
use std::hash::Hash;

const MINUTE: Nanos = Nanos::from_s(60);
/// Names with failures that are remembered. Each costs an Argon2, so they do not come faster
/// than they are forgotten; where they do, an arbitrary one goes.
const NAMES_MAX: usize = 65_536;

/// One budget for each name (an address, a key id).
pub(crate) struct Failures<N> {
    per_minute: u32,
    /// When each name's budget will be whole again.
    whole_at: HashMap<N, Nanos>,
}

impl<N: Copy + Eq + Hash> Failures<N> {
    /// Nobody has failed.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute, whole_at: HashMap::new() }
    }

    /// From now on, so many a minute.
    pub(crate) fn set_budget(&mut self, per_minute: u32) {
        self.per_minute = per_minute;
    }

    /// May `name` fail once more?
    pub(crate) fn may_fail(&self, name: N, now: Nanos) -> bool {
        let spent = self.whole_at.get(&name).map_or(Nanos(0), |whole_at| whole_at.since(now));
        spent.0.saturating_add(self.price().0) <= MINUTE.0
    }

    /// `name` has failed.
    pub(crate) fn charge(&mut self, name: N, now: Nanos) {
        if self.whole_at.len() >= NAMES_MAX && !self.whole_at.contains_key(&name) {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            if self.whole_at.len() >= NAMES_MAX {
                let unlucky = self.whole_at.keys().next().copied();
                unlucky.map(|unlucky| self.whole_at.remove(&unlucky));
            }
        }
        let price = self.price();
        let whole_at = self.whole_at.entry(name).or_insert(now);
        *whole_at = (*whole_at).max(now).after(price);
    }

    fn price(&self) -> Nanos {
        Nanos(MINUTE.0.checked_div(u64::from(self.per_minute)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_failures_and_no_more() {
        let (mut failures, now) = (Failures::new(3), Nanos::from_s(1_000));
        for _ in 0..3 {
            assert!(failures.may_fail(1, now));
            failures.charge(1, now);
        }
        assert!(!failures.may_fail(1, now));
        assert!(failures.may_fail(2, now));
        assert!(!failures.may_fail(1, now.after(Nanos(Nanos::from_s(20).0 - 1))));
        assert!(failures.may_fail(1, now.after(Nanos::from_s(20))));
        failures.charge(1, now);
        assert!(!failures.may_fail(1, now.after(Nanos::from_s(20))), "debt is paid first");
    }

    #[test]
    fn nothing_is_allowed_where_none_may_fail() {
        assert!(!Failures::new(0).may_fail(1, Nanos(0)));
    }

    #[test]
    fn names_are_bounded() {
        let mut failures = Failures::new(1);
        for name in 0..NAMES_MAX as u32 + 10 {
            failures.charge(name, Nanos(0));
        }
        assert_eq!(failures.whole_at.len(), NAMES_MAX);
        assert!(!failures.may_fail(NAMES_MAX as u32 + 9, Nanos(0)));
        failures.charge(0, Nanos::from_s(61));
        assert!(failures.whole_at.len() <= NAMES_MAX);
    }
}
