use crate::message::*;
use crate::units::*;
use std::collections::*;
pub enum Take {
    Taken,
    Wait,
    Denied { retry_after: Nanos },
}
pub struct BucketView {
    pub remaining: u64,
    pub reset: Nanos,
}
pub struct Buckets {
    shard: u16,
    t: HashMap<BucketId, (u64, Nanos)>,
    w: Vec<RateWant>,
}
impl Buckets {
    pub fn new(shard: u16) -> Self {
        Self { shard, t: HashMap::new(), w: vec![] }
    }
    pub fn take(
        &mut self,
        bucket: BucketId,
        plan: u32,
        _r: u64,
        _b: u64,
        _retry: bool,
        now: Nanos,
    ) -> Take {
        let e = self.t.entry(bucket).or_default();
        if e.0 > 0 {
            e.0 -= 1;
            return Take::Taken;
        }
        if now < e.1 {
            return Take::Denied { retry_after: e.1.since(now) };
        }
        self.w.push(RateWant {
            shard: self.shard,
            bucket,
            plan,
            want: 1,
            demand: 1,
            used: 0,
            returned: 0,
        });
        Take::Wait
    }
    pub fn view(&self, b: BucketId, _r: u64, _bu: u64, _n: Nanos) -> BucketView {
        BucketView { remaining: self.t.get(&b).map_or(0, |e| e.0), reset: Nanos(0) }
    }
    pub fn on_grant(&mut self, g: RateGrant, _n: Nanos) {
        let e = self.t.entry(g.bucket).or_default();
        e.0 += g.granted as u64;
        e.1 = g.deny_until;
    }
    pub fn poll_want(&mut self) -> Option<RateWant> {
        self.w.pop()
    }
    pub fn poll_timeout(&self) -> Option<Nanos> {
        None
    }
    pub fn on_timeout(&mut self, _n: Nanos) {}
    pub fn release_all(&mut self, _n: Nanos) {}
}
