//! What goes wrong, and the calm after it.

use super::*;
use crate::lease::QUARANTINE;

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let instance = self.random.within(0, self.instances.len() as u64 - 1) as usize;
        let span = Nanos(self.random.within(1_000_000, 900_000_000));
        if self.random.chance(self.scenario.crash_percent) {
            self.crash(instance, span);
        }
        if self.random.chance(self.scenario.pause_percent) {
            let until = self.now.after(span);
            self.instances[instance].stopped_until = until;
        }
        if self.random.chance(self.scenario.cut_percent) {
            let until = self.now.after(span);
            self.instances[instance].cut_until = until;
        }
        if self.scenario.fails_over && self.random.chance(20) {
            let (authority, watched) = (self.authority.clone(), self.watched.clone());
            let at = self.now.after(span).min(self.scenario.faults_for);
            self.at(at, Event::Promote(Box::new(Replica { authority, watched })));
        }
        if self.random.chance(10) {
            let step = self.random.within(1_000_000, 2_000_000_000) as i64;
            if self.scenario.steps_back && self.random.chance(50) {
                self.authority_stepped -= step;
            } else if self.scenario.steps_forward {
                self.authority_stepped += step;
                self.ideals.iter_mut().for_each(Ideal::allow_step);
            }
        }
    }

    /// It has missed what was written since it was copied, and knows that it may have.
    pub(super) fn promote(&mut self, replica: Replica) {
        for (budget, month) in self.months.iter_mut().enumerate() {
            let consumer = ConsumerId(budget as u64);
            let on_lease = self.authority.probe_quota(consumer, PERIOD).map_or(0, |it| it.2);
            month.forgotten += on_lease;
        }
        (self.authority, self.watched) = (replica.authority, replica.watched);
        self.totals.failovers += 1;
        if self.planted == Planted::NoFence {
            return;
        }
        let now = self.authority_now();
        self.authority.fence(now);
        self.watched.fence(now);
        // What it did for a call whose answer got lost it has forgotten with the rest.
        self.debited.clear();
    }

    pub(super) fn crash(&mut self, instance: usize, down_for: Nanos) {
        let old = &self.instances[instance];
        let (life, drift_ppm) = (old.life + 1, old.drift_ppm);
        for (month, reserved) in self.months.iter_mut().zip(&old.reserved) {
            month.reserved -= reserved;
            month.lost += reserved;
        }
        let mut fresh = self.instance(instance, life, drift_ppm);
        fresh.stopped_until = self.now.after(down_for);
        self.instances[instance] = fresh;
        for caller in 0..self.callers.len() {
            if self.scenario.callers[caller].instance == instance && self.callers[caller].parked {
                self.next_call(caller, Nanos(0));
            }
        }
    }

    pub(super) fn change(&mut self, budget: usize) {
        let rate_per_s = self.random.pick(&[1, 10, 100, 1_000]);
        let burst = self.random.within(1, 2 * rate_per_s);
        let (rtt, fast_ppm) = (self.scenario.rtt, self.scenario.drift_ppm);
        let longest = self.lease_max[budget].max(lease_max(rate_per_s, burst, rtt));
        // The change is known where the next want arrives; only then do old leases run out.
        let binds_from = self.scenario.faults_for.after(Nanos(3 * longest.0));
        let binds_from = binds_from.after(self.long_lease_max);
        self.plans[budget].rate_per_s = rate_per_s;
        self.plans[budget].burst = burst;
        self.lease_max[budget] = longest;
        self.long_lease_max = self.long_lease_max.max(longest);
        self.ideals[budget].change(rate_per_s, burst, fast_ppm, binds_from);
    }

    pub(super) fn revoke(&mut self, budget: usize) {
        let now = self.authority_now();
        self.authority.revoke(BucketId(budget as u64), now);
        self.watched.revoke(BucketId(budget as u64), now);
        self.carry_recalls();
        if self.authority.probe(BucketId(budget as u64), self.authority_now()).is_some() {
            let stepped_back = if self.scenario.steps_back { u64::MAX / 2 } else { 0 };
            let longest = self.long_lease_max.after(Nanos(stepped_back));
            self.revoked_from[budget] = Some(self.now.after(longest));
        }
    }

    /// The faults stop; what they left behind lapses; then the measured time begins.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        for instance in &mut self.instances {
            instance.stopped_until = instance.stopped_until.min(self.now);
            instance.cut_until = self.now;
        }
        let longest = self.lease_max.iter().max().copied().unwrap_or_default();
        // A clock that was set back stands still until it has caught up: that is no calm yet.
        let behind = Nanos((-self.authority_stepped).max(0).unsigned_abs());
        let at = self.now.after(Nanos(3 * longest.0)).after(Nanos::from_ms(500)).after(behind);
        // A recall that got lost is not made up for before the lease ends.
        let mut at = at.after(self.long_lease_max);
        if self.scenario.fails_over {
            at = at.after(QUARANTINE).after(Nanos(QUARANTINE.0 / 50));
        }
        self.at(at, Event::Measure);
    }
}
