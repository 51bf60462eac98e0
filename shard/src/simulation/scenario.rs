//! What a seed stands for.

use crate::units::Nanos;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
    /// From `low` to `high`, both included.
    pub(super) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0, from.len() as u64 - 1) as usize]
    }
}

/// A bucket, its plan and its consumer's month.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub rate_per_s: u64,
    pub burst: u64,
    pub quota_tokens: u64,
    pub tokens_per_call: u64,
    pub strict: bool,
}

/// Someone who calls with one key, one call at a time, on one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub instance: usize,
    pub shard: usize,
    pub budget: usize,
    /// Of a call.
    pub tokens: u64,
    /// Between an answer and the next call.
    pub think: Nanos,
    /// Waits as long as a refusal says.
    pub patient: bool,
    /// Falls silent for a while now and then.
    pub in_bursts: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub shards: Vec<u16>,
    pub budgets: Vec<Budget>,
    pub callers: Vec<Caller>,
    pub rtt: Nanos,
    pub call_gap: Nanos,
    /// Leases may be long: the authority can call them back.
    pub recallable: bool,
    /// Calls for a lease that get lost on their way to its holder.
    pub push_drop_percent: u64,
    /// Callers want little until then.
    pub quiet_until: Nanos,
    pub drop_percent: u64,
    pub repeat_percent: u64,
    pub delay_percent: u64,
    pub delay_max: Nanos,
    pub crash_percent: u64,
    pub pause_percent: u64,
    pub cut_percent: u64,
    pub steps_back: bool,
    pub steps_forward: bool,
    pub drift_ppm: u64,
    /// A replica that has missed the last writes takes the authority's place.
    pub fails_over: bool,
    pub revokes: bool,
    pub changes_plan: bool,
    /// Between two calls of a caller while it is measured; `None`: so little that all of them want
    /// more than there is.
    pub pace: Option<Nanos>,
    pub faults_for: Nanos,
    pub calm_for: Nanos,
}

impl Scenario {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let shards: Vec<u16> =
            (0..random.within(1, 3)).map(|_| random.within(1, 4) as u16).collect();
        let small_quota = random.chance(30);
        let budgets: Vec<Budget> =
            (0..random.within(1, 2)).map(|_| budget(random, small_quota)).collect();
        let callers = callers(random, &shards, &budgets);
        let embedded = shards.len() == 1 && random.chance(40);
        let faulty = !embedded && random.chance(80);
        let mut percent = |of: u64, most: u64| {
            if faulty && random.chance(of) { random.within(1, most) } else { 0 }
        };
        let (drop_percent, repeat_percent) = (percent(60, 40), percent(60, 40));
        let (delay_percent, crash_percent) = (percent(60, 40), percent(40, 30));
        let (pause_percent, cut_percent) = (percent(30, 30), percent(40, 30));
        let (steps_back, steps_forward) = (percent(10, 1) > 0, percent(10, 1) > 0);
        let recallable = embedded || random.chance(60);
        let push_drop_percent = if faulty { random.pick(&[0, 0, 30, 100]) } else { 0 };
        let quiet_ms = if recallable { random.pick(&[0, 0, 500, 4_000]) } else { 0 };
        let fails_over = faulty && random.chance(15);
        let slowest = budgets.iter().map(|budget| budget.rate_per_s).min().unwrap_or(1);
        Self {
            rtt: if embedded { Nanos(0) } else { Nanos(random.within(100_000, 8_000_000)) },
            call_gap: if embedded { Nanos(0) } else { Nanos::from_ms(random.pick(&[0, 2, 10])) },
            recallable,
            push_drop_percent,
            quiet_until: Nanos::from_ms(quiet_ms),
            drop_percent,
            repeat_percent,
            delay_percent,
            delay_max: Nanos::from_ms(random.pick(&[5, 50, 400])),
            crash_percent,
            pause_percent,
            cut_percent,
            steps_back,
            steps_forward,
            drift_ppm: random.pick(&[0, 0, 100, 4_000]),
            fails_over,
            revokes: !fails_over && random.chance(10),
            changes_plan: random.chance(10),
            pace: None,
            faults_for: Nanos::from_ms(quiet_ms + random.within(500, 2_500)),
            calm_for: Nanos::from_ms((80_000 / slowest).clamp(2_000, 20_000)),
            shards,
            budgets,
            callers,
        }
    }
}

impl Scenario {
    /// Nothing goes wrong, and every shard has callers that call again at once.
    pub(super) fn steady(rate_per_s: u64, burst: u64, shards: &[u16], per_shard: usize) -> Self {
        let budget = Budget {
            rate_per_s,
            burst,
            quota_tokens: 1_000_000_000_000,
            tokens_per_call: 1,
            strict: false,
        };
        let mut callers = Vec::new();
        for (instance, count) in shards.iter().enumerate() {
            for shard in 0..usize::from(*count) {
                callers.extend((0..per_shard).map(|_| Caller {
                    instance,
                    shard,
                    budget: 0,
                    tokens: 1,
                    think: Nanos(100_000),
                    patient: false,
                    in_bursts: false,
                }));
            }
        }
        let embedded = shards.len() == 1;
        Self {
            shards: shards.to_vec(),
            budgets: vec![budget],
            callers,
            rtt: if embedded { Nanos(0) } else { Nanos::from_ms(1) },
            call_gap: if embedded { Nanos(0) } else { Nanos::from_ms(10) },
            recallable: true,
            push_drop_percent: 0,
            quiet_until: Nanos(0),
            drop_percent: 0,
            repeat_percent: 0,
            delay_percent: 0,
            delay_max: Nanos(0),
            crash_percent: 0,
            pause_percent: 0,
            cut_percent: 0,
            steps_back: false,
            steps_forward: false,
            drift_ppm: 0,
            fails_over: false,
            revokes: false,
            changes_plan: false,
            pace: None,
            faults_for: Nanos::from_ms(300),
            calm_for: Nanos::from_s(if rate_per_s == 1 { 50 } else { 10 }),
        }
    }
}

fn budget(random: &mut Random, small_quota: bool) -> Budget {
    let rate_per_s = random.pick(&[1, 5, 10, 10, 50, 100, 100, 400, 1_000, 2_000]);
    let burst = match random.within(0, 4) {
        0 => random.within(1, 4),
        1 => (rate_per_s / 5).max(1),
        2 => rate_per_s * 4,
        _ => rate_per_s,
    };
    let tokens_per_call = random.within(1, 2_000);
    let quota_tokens =
        if small_quota { tokens_per_call * random.within(0, 400) } else { 1_000_000_000_000 };
    Budget { rate_per_s, burst, quota_tokens, tokens_per_call, strict: random.chance(50) }
}

fn callers(random: &mut Random, shards: &[u16], budgets: &[Budget]) -> Vec<Caller> {
    let mut callers = Vec::new();
    for (budget, terms) in budgets.iter().enumerate() {
        // Together from half of the rate to eight times as much, on some of the shards.
        let count = random.within(1, 10);
        let load_percent = random.within(50, 800);
        let per_caller = terms.rate_per_s * load_percent / 100 / count;
        for _ in 0..count {
            let instance = random.within(0, shards.len() as u64 - 1) as usize;
            let shard = random.within(0, u64::from(shards[instance]) - 1) as usize;
            let think = Nanos((1_000_000_000 / per_caller.max(1)).min(1_000_000_000));
            callers.push(Caller {
                instance,
                shard,
                budget,
                tokens: terms.tokens_per_call,
                think,
                patient: random.chance(20),
                in_bursts: random.chance(30),
            });
        }
    }
    callers
}
