//! The way of a recall from the authority to the lease's holder, which may lose it.

use super::*;

/// By then a lease that was called back has been given back.
const GIVEN_BACK_AFTER: Nanos = Nanos::from_ms(30);

impl World {
    pub(super) fn carry_recalls(&mut self) {
        while self.watched.poll_recall().is_some() {}
        while let Some(Recall { holder, key }) = self.authority.poll_recall() {
            let (instance, life) = (holder as u64 as usize, (holder >> 64) as u64);
            let is_cut = self.instances[instance].cut_until > self.now;
            if !self.calm && (is_cut || self.random.chance(self.scenario.push_drop_percent)) {
                continue;
            }
            let half = self.scenario.rtt.0 / 2;
            let mut delay = Nanos(self.random.within(half / 2, half));
            if !self.calm && self.random.chance(self.scenario.delay_percent) {
                delay = Nanos(self.random.within(delay.0, delay.0 + self.scenario.delay_max.0));
            }
            self.at(self.now.after(delay), Event::Recalled { instance, life, key });
        }
    }

    pub(super) fn hear_recall(&mut self, instance: usize, life: u64, key: LeaseKey) {
        let now = self.local(instance);
        if self.instances[instance].life != life {
            return;
        }
        self.totals.recalls += 1;
        self.instances[instance].pool.on_recall(key, now);
        if let LeaseKey::Rate(bucket) = key {
            let at = self.now.after(GIVEN_BACK_AFTER);
            self.at(at, Event::GivenBack { instance, life, bucket, told_at: now });
        }
    }

    pub(super) fn check_given_back(
        &mut self,
        instance: usize,
        life: u64,
        bucket: BucketId,
        told_at: Nanos,
    ) -> Result<(), String> {
        let now = self.local(instance);
        let state = &self.instances[instance];
        let kept_since = state.pool.probe_long(bucket, now).filter(|since| *since <= told_at);
        if state.life == life && kept_since.is_some() {
            return Err(format!(
                "recall: instance {instance} keeps {bucket:?}, told at {told_at:?}"
            ));
        }
        Ok(())
    }
}
