//! Permits: proof that a request was admitted, and the table of those not yet settled.
//!
//! A permit cannot be made, copied or changed outside this crate, and settling takes it by value,
//! so no call is settled twice. One that is never settled (a bug of ours) is found by the deadline
//! sweep, which hands out its reservation to be charged and counts it.

use crate::limits::PERMITS_MAX;
use crate::units::{ConsumerId, KeyId, Nanos, Period, ServiceId};

/// What a request was admitted to and on which terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub key: KeyId,
    pub consumer: ConsumerId,
    pub service: u32,
    pub service_id: ServiceId,
    pub period: Period,
    pub price_version: u32,
    pub reserved_tokens: u64,
    pub admitted_at_unix_us: i64,
}

/// One admitted request. Settle it, whatever becomes of the request.
#[must_use = "an admitted request is settled, whatever becomes of it"]
#[derive(Debug)]
pub struct Permit {
    slot: u32,
    serial: u64,
    deadline: Nanos,
    pub(crate) terms: Terms,
}

impl Permit {
    /// With which key.
    pub fn key(&self) -> KeyId {
        self.terms.key
    }
    /// Who pays.
    pub fn consumer(&self) -> ConsumerId {
        self.terms.consumer
    }
    /// Index into `Catalog::services`.
    pub fn service(&self) -> u32 {
        self.terms.service
    }
    /// For which service.
    pub fn service_id(&self) -> ServiceId {
        self.terms.service_id
    }
    /// The month that the call counts in: that of admission.
    pub fn period(&self) -> Period {
        self.terms.period
    }
    /// Version of the service's price that holds for the call.
    pub fn price_version(&self) -> u32 {
        self.terms.price_version
    }
    /// Tokens of the month set aside for the call.
    pub fn reserved_tokens(&self) -> u64 {
        self.terms.reserved_tokens
    }
    /// Admission, wall time, microseconds since 1970.
    pub fn admitted_at_unix_us(&self) -> i64 {
        self.terms.admitted_at_unix_us
    }
}

/// The reservation of a permit that nobody settled in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaked {
    pub consumer: ConsumerId,
    pub period: Period,
    pub reserved_tokens: u64,
}

struct PermitSlot {
    serial: u64,
    deadline: Nanos,
    /// What to charge while the permit is open.
    open: Option<Leaked>,
}

/// The sweep runs at most this many times in the time that a permit has.
const SWEEPS_PER_DEADLINE: u64 = 16;

/// The open permits of one shard.
pub(crate) struct Permits {
    allowed: Nanos,
    slots: Vec<PermitSlot>,
    free: Vec<u32>,
    opened_total: u64,
    leaked_total: u64,
    sweep_at: Option<Nanos>,
    swept_at: Nanos,
}

impl Permits {
    /// No permit; each will be open for at most `allowed`.
    pub(crate) fn new(allowed: Nanos) -> Self {
        assert!(allowed.0 >= SWEEPS_PER_DEADLINE, "a permit needs time to be used");
        let (slots, free, swept_at) = (Vec::new(), Vec::new(), Nanos(0));
        Self { allowed, slots, free, opened_total: 0, leaked_total: 0, sweep_at: None, swept_at }
    }

    /// Permits opened from now on will be open for at most `allowed`.
    pub(crate) fn allow(&mut self, allowed: Nanos) {
        assert!(allowed.0 >= SWEEPS_PER_DEADLINE, "a permit needs time to be used");
        self.allowed = allowed;
    }

    /// Permits neither settled nor leaked.
    pub(crate) fn open_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[cfg(test)]
    pub(crate) fn opened_total(&self) -> u64 {
        self.opened_total
    }

    /// Permits that were not settled in time.
    pub(crate) fn leaked_total(&self) -> u64 {
        self.leaked_total
    }

    /// May one more be opened?
    pub(crate) fn has_room(&self) -> bool {
        self.open_count() < PERMITS_MAX
    }

    /// Opens one. The caller has asked `has_room`.
    pub(crate) fn open(&mut self, terms: Terms, now: Nanos) -> Permit {
        assert!(self.has_room());
        self.opened_total += 1;
        let (serial, deadline) = (self.opened_total, now.after(self.allowed));
        let Terms { consumer, period, reserved_tokens, .. } = terms;
        let open = Some(Leaked { consumer, period, reserved_tokens });
        let entry = PermitSlot { serial, deadline, open };
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
        self.sweep_at.get_or_insert(deadline);
        Permit { slot, serial, deadline, terms }
    }

    /// Closes the permit; false if the sweep has closed it, and charged it, before.
    pub(crate) fn close(&mut self, permit: &Permit) -> bool {
        let slot = &mut self.slots[permit.slot as usize];
        if slot.serial == permit.serial && slot.open.take().is_some() {
            self.free.push(permit.slot);
            return true;
        }
        assert!(permit.deadline <= self.swept_at, "only the sweep closes a permit unasked");
        false
    }

    /// When to call `sweep`.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        self.sweep_at
    }

    /// Closes every permit whose time is up and gives its reservation to `charge`. Looks at all
    /// open permits, seldom: about once in the time that a permit has.
    pub(crate) fn sweep(&mut self, now: Nanos, mut charge: impl FnMut(Leaked)) {
        if self.sweep_at.is_none_or(|sweep_at| now < sweep_at) {
            return;
        }
        self.swept_at = now;
        let mut earliest = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if now < slot.deadline {
                if slot.open.is_some() {
                    earliest = Some(earliest.unwrap_or(slot.deadline).min(slot.deadline));
                }
            } else if let Some(leaked) = slot.open.take() {
                self.free.push(index as u32);
                self.leaked_total += 1;
                charge(leaked);
            }
        }
        let next = now.after(Nanos(self.allowed.0 / SWEEPS_PER_DEADLINE));
        self.sweep_at = earliest.map(|earliest| earliest.max(next));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn terms(reserved_tokens: u64) -> Terms {
        Terms {
            key: KeyId(1),
            consumer: ConsumerId(2),
            service: 0,
            service_id: ServiceId(3),
            period: Period(202_611),
            price_version: 1,
            reserved_tokens,
            admitted_at_unix_us: 0,
        }
    }

    const ALLOWED: Nanos = Nanos(1_600);

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open,
        Close(usize),
        Leak(usize),
        Pass(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Open),
            3 => any::<usize>().prop_map(Step::Close),
            1 => any::<usize>().prop_map(Step::Leak),
            3 => (0..400u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Every permit is closed exactly once: settled by its holder or charged by the sweep, at
        /// its deadline or at most a sixteenth of its time later.
        #[test]
        fn each_is_closed_exactly_once(steps in proptest::collection::vec(any_step(), 0..300)) {
            let (mut permits, mut now) = (Permits::new(ALLOWED), Nanos(0));
            let mut held: Vec<Permit> = Vec::new();
            let mut deadlines: HashMap<u64, Nanos> = HashMap::new();
            let (mut settled, mut opened) = (0u64, 0u64);
            let mut charged = Vec::new();
            for step in steps {
                match step {
                    Step::Open => {
                        opened += 1;
                        deadlines.insert(opened, now.after(ALLOWED));
                        held.push(permits.open(terms(opened), now));
                    }
                    Step::Close(at) if !held.is_empty() => {
                        let permit = held.swap_remove(at % held.len());
                        let open = deadlines.remove(&permit.reserved_tokens()).is_some();
                        prop_assert_eq!(permits.close(&permit), open);
                        settled += u64::from(open);
                    }
                    Step::Leak(at) if !held.is_empty() => {
                        drop(held.swap_remove(at % held.len()));
                    }
                    Step::Close(_) | Step::Leak(_) => {}
                    Step::Pass(span) => {
                        let until = now.after(Nanos(span));
                        while let Some(at) = permits.poll_timeout().filter(|at| *at <= until) {
                            now = now.max(at);
                            permits.sweep(now, |leaked| charged.push((now, leaked)));
                        }
                        now = until;
                    }
                }
                for (at, leaked) in charged.drain(..) {
                    let deadline = deadlines.remove(&leaked.reserved_tokens).unwrap();
                    prop_assert!(deadline <= at && at <= deadline.after(Nanos(100)));
                }
                prop_assert_eq!(permits.open_count(), deadlines.len());
                prop_assert_eq!(
                    settled + permits.leaked_total() + deadlines.len() as u64,
                    opened
                );
                prop_assert!(permits.poll_timeout().is_some() || deadlines.is_empty());
            }
        }
    }

    #[test]
    fn the_table_is_bounded_and_its_slots_are_used_again() {
        let mut permits = Permits::new(ALLOWED);
        let mut held: Vec<Permit> =
            (0..PERMITS_MAX).map(|_| permits.open(terms(1), Nanos(0))).collect();
        assert!(!permits.has_room());
        assert!(permits.close(&held.pop().unwrap()));
        assert!(permits.has_room());
        let _again = permits.open(terms(1), Nanos(0));
        assert_eq!(permits.slots.len(), PERMITS_MAX);
    }

    #[test]
    #[should_panic(expected = "only the sweep closes a permit unasked")]
    fn a_permit_of_another_table_is_a_bug() {
        let (mut ours, mut theirs) = (Permits::new(ALLOWED), Permits::new(ALLOWED));
        let permit = theirs.open(terms(1), Nanos(0));
        let own = ours.open(terms(1), Nanos(0));
        ours.close(&own);
        ours.close(&permit);
    }
}
