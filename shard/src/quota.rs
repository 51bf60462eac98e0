use crate::message::*;
use crate::units::*;
use std::collections::*;
pub enum Reserve {
    Reserved { tokens: u64 },
    Wait,
    Exhausted,
}
pub struct QuotaView {
    pub remaining: u64,
}
pub struct Quotas {
    shard: u16,
    t: HashMap<(ConsumerId, Period), (u64, bool, u64)>,
    w: Vec<QuotaWant>,
}
impl Quotas {
    pub fn new(shard: u16) -> Self {
        Self { shard, t: HashMap::new(), w: vec![] }
    }
    pub fn check(
        &mut self,
        consumer: ConsumerId,
        plan: u32,
        period: Period,
        tokens: u64,
        _s: bool,
        _n: Nanos,
    ) -> Reserve {
        let e = self.t.entry((consumer, period)).or_default();
        if e.0 >= tokens {
            return Reserve::Reserved { tokens };
        }
        if e.1 {
            return Reserve::Exhausted;
        }
        self.w.push(QuotaWant {
            shard: self.shard,
            consumer,
            plan,
            period,
            want: tokens,
            need: tokens,
            consumed: 0,
            returned: 0,
        });
        Reserve::Wait
    }
    pub fn reserve(&mut self, c: ConsumerId, p: Period, t: u64) {
        let e = self.t.entry((c, p)).or_default();
        e.0 -= t;
        e.2 += t;
    }
    pub fn settle(&mut self, c: ConsumerId, p: Period, r: u64, a: u64, _n: Nanos) {
        let e = self.t.entry((c, p)).or_default();
        e.2 -= r;
        e.0 = e.0 + r - a;
    }
    pub fn view(&self, c: ConsumerId, p: Period, _q: u64) -> QuotaView {
        QuotaView { remaining: self.t.get(&(c, p)).map_or(0, |e| e.0) }
    }
    pub fn on_grant(&mut self, g: QuotaGrant, _n: Nanos) {
        let e = self.t.entry((g.consumer, g.period)).or_default();
        e.0 += g.granted;
        e.1 = g.exhausted;
    }
    pub fn on_recall(&mut self, _c: ConsumerId, _p: Period, _n: Nanos) {}
    pub fn poll_want(&mut self) -> Option<QuotaWant> {
        self.w.pop()
    }
    pub fn poll_timeout(&self) -> Option<Nanos> {
        None
    }
    pub fn on_timeout(&mut self, _n: Nanos) {}
    pub fn release_all(&mut self, _n: Nanos) {}
}
