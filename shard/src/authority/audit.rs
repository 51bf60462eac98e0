//! What the simulation knows of a bucket apart from the bucket's own state: every token that came
//! or went, and the fault that is planted in it. Outside of tests it holds nothing and does
//! nothing.

#[cfg(test)]
use super::TOKEN;

/// Faults to plant, one at a time, to show that the simulation finds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "faults are planted in tests only"))]
pub(crate) enum Planted {
    /// None.
    #[default]
    Nothing,
    /// A repeated call is done again.
    NoDedupe,
    /// Expired tokens are credited again.
    NoBurn,
    /// The holder counts deadlines from the answer's arrival.
    ReceiveTimeDeadlines,
    /// Leases are expired first, and then the whole span accrues.
    RetroactiveAccrual,
    /// Tokens that will accrue may be spent twice as soon: every sum is right, but not the time.
    OverGrant,
    /// Where several holders want tokens, the last one is always put off.
    LeftOut,
    /// The holder keeps a long lease that is recalled.
    DeafToRecalls,
    /// What holders say that they have spent or give back is not taken off their leases.
    UnheardReports,
    /// A month's tokens on lease are granted to others too.
    LeasedTwice,
    /// Of a month that is short parts are granted that are too little for a call, and nobody is to
    /// give back his.
    PartsOfCalls,
    /// The holder calls as often as it likes.
    NoGap,
    /// A revoked bucket is granted from.
    RevokedInVain,
    /// An authority that may have forgotten what it granted goes on at once.
    NoFence,
}

/// Every token that came or went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// What the bucket held at first, in nano-tokens, and what a change of plan gave or took.
    pub given: i128,
    pub accrued: i128,
    pub granted: u64,
    pub used: u64,
    pub returned: u64,
    pub burned: u64,
    pub level: i128,
    pub outstanding: u64,
    /// The largest burst that may still be on lease.
    pub burst: u64,
}

#[cfg(test)]
impl Books {
    /// What does not add up.
    pub(crate) fn fault(&self) -> Option<String> {
        let flow = i128::from(self.returned) - i128::from(self.granted);
        if self.level != self.given + self.accrued + flow * TOKEN {
            return Some(format!("conservation: tokens made or lost at the authority: {self:?}"));
        }
        let gone = self.used + self.returned + self.burned;
        if self.outstanding != self.granted - gone {
            return Some(format!("conservation: the lease does not add up: {self:?}"));
        }
        let bound = i128::from(self.burst) * TOKEN;
        if self.level + i128::from(self.outstanding) * TOKEN > bound {
            return Some(format!("L + O <= B is broken: {self:?}"));
        }
        None
    }
}

/// See the module.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Audit {
    #[cfg(test)]
    pub planted: Planted,
    #[cfg(test)]
    pub books: Books,
}

impl Audit {
    /// Books a change.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "there are no books"))]
    pub(super) fn book(&mut self, change: impl FnOnce(&mut Books)) {
        #[cfg(test)]
        change(&mut self.books);
        #[cfg(not(test))]
        drop(change);
    }

    /// Is this fault planted?
    #[cfg(test)]
    pub(super) fn has(&self, fault: Planted) -> bool {
        self.planted == fault
    }

    /// No fault is.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "nothing is planted outside of tests")]
    pub(super) const fn has(&self, _: Planted) -> bool {
        false
    }
}
