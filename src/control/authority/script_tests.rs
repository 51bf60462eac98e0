//! One protocol, two machines: the script in a real Redis and the authority of `shard` are driven
//! with the same random histories, and every answer and what is kept after it are compared.
//!
//! The script is the one that ships but for three lines: the clock and the replication id are what
//! the history says, and what it publishes is kept.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::script::{self, ScriptAsk};
use crate::control::authority::redis_server::RedisServer;
use fastrand::Rng;
use redis::{Client, Connection, Value};
use shard::authority::Authority;
use shard::lease::{
    LONG_LEASE, LeaseAnswer, LeaseAsk, LeaseCall, LeaseKey, QUARANTINE, QuotaAsk, RateAsk, Recall,
};
use shard::limits;
use shard::units::{BucketId, ConsumerId, Nanos, Period};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

const HISTORIES: u64 = 1_000;
const STEPS: usize = 80;
const BUCKETS: u64 = 2;
const HOLDERS: u128 = 4;
/// All keys of a history are of one group, whatever their own would be.
const GROUP: u8 = 7;
const PERIOD: Period = Period(202_611);
const CLOCK: &str =
    "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end\n";
const LINEAGE: &str = "local function lineage() return redis.call('INFO', 'replication')\
                       :match('master_replid:(%x+)') end\n";
const PUBLISH: &str = "redis.pcall('PUBLISH', channel, text)";
const KEPT: &str = "redis.call('RPUSH', 'told', channel .. ' ' .. text)";

const PLANS: [(u64, u64); 13] = [
    (10, 10),
    (100, 100),
    (1_000, 1_000),
    (10_000_000, 10_000_000),
    (1, 1),
    (1_000, 2),
    (7, 3),
    (2_000, 400),
    (1_000_000_000, 1_000_000_000),
    (1, 1_000_000_000),
    (1_000_000_000, 1),
    (u64::MAX, u64::MAX),
    (0, 0),
];

/// What is kept, as `shard::authority` tells it; nothing from before a loss of memory.
const TELL: &str = r"
local function text(...)
  local words = {}
  for place, number in ipairs({...}) do
    words[place] = type(number) == 'string' and number or string.format('%.0f', number)
  end
  return table.concat(words, ' ') .. '\n'
end
local function one(is) return is and 1 or 0 end
local packed = redis.call('GET', KEYS[2])
local s = packed and cmsgpack.unpack(packed)
if not s or s.open_at ~= cmsgpack.unpack(redis.call('GET', KEYS[1])).open_at then return '' end
assert(redis.call('PTTL', KEYS[1]) > 0 and redis.call('PTTL', KEYS[2]) > 0)
if ARGV[1] == 'month' then
  local lines = { text(one(s.seeded), s.limit, s.consumed, s.called_at) }
  for _, h in ipairs(s.holders) do
    lines[#lines + 1] = text(h.id, h.seq, h.balance, h.called_at, unpack(h.reply))
  end
  return table.concat(lines)
end
local lines = {
  text(s.rate, s.burst, one(s.revoked), s.level, s.outstanding, s.last, s.last_lease),
}
for _, h in ipairs(s.holders) do
  local a = h.answer
  lines[#lines + 1] = text(
    h.id, one(h.ended), h.seq, h.lease, h.outstanding, one(h.long), h.expires_at, h.called_at,
    h.active_until, h.put_off_since or -1, h.demand, h.answered_at, a.status, a.lease, a.granted,
    a.not_before, a.spacing_ns, a.ttl, one(a.long), a.deny_for, a.left, a.holders)
end
return table.concat(lines)
";

/// Faults in the script, each with the line as it should be.
const FAULTS: [(&str, &str); 19] = [
    ("if ask.seq == holder.seq then", "if false then"),
    ("ttl = max(answer.ttl - age, 0)", "ttl = answer.ttl"),
    ("    accrue(bucket, first.expires_at)\n", ""),
    ("first.outstanding, first.lease = 0, 0", "first.outstanding = 0"),
    ("bucket.level = bucket.level + returned * TOKEN", "bucket.level = bucket.level + TOKEN"),
    ("local is_cut = ask.rate < bucket.rate or ask.burst < bucket.burst", "local is_cut = false"),
    ("ceil((debt - debt_max) / bucket.rate)", "floor((debt - debt_max) / bucket.rate)"),
    ("if month and not month.seeded then", "if month then"),
    ("seq, month.called_at, held", "seq, month.called_at, 0"),
    ("state and state.open_at == open_at", "state"),
    ("publish('tollgate:recall:' .. holder.id, bucket_id)", ""),
    ("if is_cut or not is_met(bucket, ask, answer) then", "if is_cut then"),
    ("answer.long = is_calm and", "answer.long ="),
    ("spare = min(max(spare, 0), whole - answer.granted)", "spare = whole - answer.granted"),
    ("used, returned = used + returned, 0", ""),
    ("if granted < least then", "if false then"),
    ("if granted < need then", "if granted < least then"),
    ("holder.id ~= holder_id and holder.balance > 0", "holder.id ~= holder_id"),
    ("  if holder.outstanding == 0 then\n    -- One", "  if false then\n    -- One"),
];

/// The script with a clock and a past of the test's.
fn script_of_the_test() -> String {
    let mut text = script::TEXT.to_owned();
    for (line, key, reader) in [(CLOCK, "now", "tonumber"), (LINEAGE, "lineage", "")] {
        assert_eq!(text.matches(line).count(), 1, "the script has no line {line}");
        let with =
            format!("local function {key}() return {reader}(redis.call('GET', '{key}')) end\n");
        text = text.replace(line, &with);
    }
    assert_eq!(text.matches(PUBLISH).count(), 1, "the script has no line {PUBLISH}");
    text.replace(PUBLISH, KEPT)
}

/// Both machines.
struct Pair {
    redis: Connection,
    script: String,
    tell: String,
    authority: Authority,
    now_us: u64,
    random: Rng,
    /// Which plan is the first bucket's, as a rule; the second one has the next.
    plan: u64,
    /// The last two calls of each holder on each bucket, and on the month.
    calls: Vec<[Option<LeaseCall>; 2]>,
    leases: Vec<u64>,
    held: Vec<u64>,
    seq: u64,
    told: String,
}

impl Pair {
    fn new(mut redis: Connection, script: &str, seed: u64) -> Self {
        redis::cmd("FLUSHDB").exec(&mut redis).unwrap();
        let mut load = |text: &str| -> String {
            redis::cmd("SCRIPT").arg("LOAD").arg(text).query(&mut redis).unwrap()
        };
        let (script, tell) = (load(script), load(TELL));
        let places = HOLDERS as usize * (BUCKETS as usize + 1);
        let mut pair = Self {
            redis,
            script,
            tell,
            authority: Authority::new(None),
            now_us: 1_795_000_000_000_000,
            random: Rng::with_seed(seed),
            plan: seed,
            calls: vec![[None; 2]; places],
            leases: vec![0; places],
            held: vec![0; places],
            seq: 0,
            told: String::new(),
        };
        pair.lose_memory();
        pair
    }

    fn now(&self) -> Nanos {
        Nanos::from_us(self.now_us)
    }

    /// A restart or a promotion.
    fn lose_memory(&mut self) {
        let lineage = self.random.u64(..).to_string();
        redis::cmd("SET").arg("lineage").arg(lineage).exec(&mut self.redis).unwrap();
        self.authority.fence(self.now());
        self.both(&[]);
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..2 => self.lose_memory(),
            2..5 => self.now_us -= self.random.u64(..3_000_000),
            5..45 => {
                let most_us = [10, 1_000, 50_000, 300_000, 2_000_000, 8_000_000, 90_000_000_000];
                let most_us = most_us[self.random.usize(..most_us.len())];
                self.now_us += self.random.u64(..most_us);
            }
            45..48 => {
                let bucket = BucketId(self.random.u64(..BUCKETS));
                self.both(&[ScriptAsk::Revoke(bucket)]);
            }
            48..56 => {
                let tokens = self.number();
                self.both(&[ScriptAsk::Seed { consumer: ConsumerId(5), period: PERIOD, tokens }]);
            }
            _ => {
                let asks: Vec<_> = (0..self.random.usize(1..4)).map(|_| self.ask()).collect();
                self.both(&asks);
            }
        }
    }

    /// Mostly small.
    fn number(&mut self) -> u64 {
        match self.random.u32(..20) {
            0 => u64::MAX,
            1 => (1 << 53) - 1,
            2 => self.random.u64(..),
            3..8 => 0,
            8..14 => self.random.u64(..20),
            _ => self.random.u64(..2_000_000),
        }
    }

    /// A new call, the last one again, or one from before it.
    fn ask(&mut self) -> ScriptAsk {
        let holder = self.random.u128(..HOLDERS);
        let on = self.random.u64(..=BUCKETS);
        let place = (holder as usize) * (BUCKETS as usize + 1) + on as usize;
        let repeated = match self.random.u32(..10) {
            0 | 1 => self.calls[place][0],
            2 => self.calls[place][1],
            _ => None,
        };
        if let Some(call) = repeated {
            return ScriptAsk::Call(call);
        }
        self.seq += 1;
        let ask = if on == BUCKETS {
            LeaseAsk::Quota(self.quota_ask(place))
        } else {
            LeaseAsk::Rate(self.rate_ask(BucketId(on), place))
        };
        let call = LeaseCall { holder, seq: self.seq, sent_at: Nanos(0), ask };
        self.calls[place] = [Some(call), self.calls[place][0]];
        ScriptAsk::Call(call)
    }

    fn rate_ask(&mut self, bucket: BucketId, place: usize) -> RateAsk {
        // Most histories stay with a plan for long.
        let plan =
            if self.random.u32(..25) == 0 { self.random.u64(..) } else { self.plan + bucket.0 };
        let (rate_per_s, burst) = PLANS[(plan % PLANS.len() as u64) as usize];
        let held = self.held[place];
        let used = if self.random.bool() { self.random.u64(..=held) } else { 0 };
        let returned = if self.random.u32(..4) == 0 { self.random.u64(..=held - used) } else { 0 };
        self.held[place] -= used + returned;
        let rtt_max_us = if self.random.bool() { 3_000 } else { 900_000 };
        RateAsk {
            bucket,
            rate_per_s,
            burst,
            lease: if self.random.u32(..12) == 0 { self.number() } else { self.leases[place] },
            want: self.number(),
            long_want: if self.random.bool() { self.number() } else { 0 },
            demand_per_s: self.number(),
            used: if self.random.u32(..30) == 0 { self.number() } else { used },
            returned: if self.random.u32(..30) == 0 { self.number() } else { returned },
            rtt: Nanos::from_us(self.random.u64(..rtt_max_us)),
        }
    }

    fn quota_ask(&mut self, place: usize) -> QuotaAsk {
        let want = self.number();
        let consumed =
            if self.random.u32(..9) == 0 { self.number() } else { self.random.u64(..99) };
        self.held[place] = self.held[place].saturating_sub(consumed);
        let need = if self.random.bool() { 0 } else { self.number().min(want) };
        QuotaAsk {
            consumer: ConsumerId(5),
            period: PERIOD,
            limit: (self.random.u32(..4) != 0).then(|| self.number()),
            want,
            need,
            least: if self.random.bool() { need } else { self.random.u64(..=need) },
            consumed,
            held: self.held[place],
        }
    }

    /// Does the asks on both, and compares.
    fn both(&mut self, asks: &[ScriptAsk]) {
        // One call of the script is one holder's.
        let holder = asks.iter().find_map(|ask| match ask {
            ScriptAsk::Call(call) => Some(call.holder),
            _ => None,
        });
        let holder = holder.unwrap_or(1);
        let mine = |ask: &&ScriptAsk| match ask {
            ScriptAsk::Call(call) => call.holder == holder,
            _ => true,
        };
        let asks: Vec<ScriptAsk> = asks.iter().filter(mine).copied().collect();
        let _ = writeln!(self.told, "at {} us: {asks:?}", self.now_us);
        let mut line = redis::pipe();
        line.cmd("SET").arg("now").arg(self.now_us).ignore();
        line.add_command(script::command(&self.script, holder, GROUP, &asks));
        for bucket in (0..BUCKETS).map(BucketId) {
            let key = script::bucket_key(GROUP, bucket);
            line.cmd("EVALSHA").arg(&self.tell).arg(2).arg(script::marker_key(GROUP)).arg(key);
            line.arg("bucket");
        }
        let key = script::month_key(GROUP, ConsumerId(5), PERIOD);
        line.cmd("EVALSHA").arg(&self.tell).arg(2).arg(script::marker_key(GROUP)).arg(key);
        line.arg("month");
        line.cmd("LRANGE").arg("told").arg(0).arg(-1).cmd("DEL").arg("told").ignore();
        let (answers, told_0, told_1, month, recalls): (
            Value,
            String,
            String,
            String,
            Vec<String>,
        ) = line.query(&mut self.redis).unwrap();
        let answers = script::answers(&asks, &answers);
        assert_eq!(answers.len(), asks.len());
        let own: Vec<_> = asks.iter().map(|ask| self.own(ask)).collect();
        assert_eq!(answers, own, "the script's answers, and the authority's");
        let own = std::iter::from_fn(|| self.authority.poll_recall());
        let told = |Recall { holder, key }| {
            let name = match key {
                LeaseKey::Rate(bucket) => bucket.0.to_string(),
                LeaseKey::Quota(consumer, period) => script::month_name(consumer, period),
            };
            format!("tollgate:recall:{holder:032x} {name}")
        };
        assert_eq!(recalls, own.map(told).collect::<Vec<_>>(), "recalls by the script, and here");
        for (told, bucket) in [(told_0, BucketId(0)), (told_1, BucketId(1))] {
            let own = self.authority.bucket_text(bucket).unwrap_or_default();
            assert_eq!(told, own, "{bucket:?} in Redis, and here");
        }
        let own = self.authority.month_text(ConsumerId(5), PERIOD).unwrap_or_default();
        assert_eq!(month, own, "the month in Redis, and here");
    }

    fn own(&mut self, ask: &ScriptAsk) -> Option<LeaseAnswer> {
        let now = self.now();
        match ask {
            ScriptAsk::Call(call) => {
                let answer = self.authority.call(call, now).answer;
                self.learn(call, &answer);
                Some(answer)
            }
            ScriptAsk::Seed { consumer, period, tokens } => {
                self.authority.seed_quota((*consumer, *period), *tokens);
                None
            }
            ScriptAsk::Revoke(bucket) => {
                self.authority.revoke(*bucket, now);
                None
            }
        }
    }

    /// What the holder makes of the answer to its last call.
    fn learn(&mut self, call: &LeaseCall, answer: &LeaseAnswer) {
        let on = match call.ask {
            LeaseAsk::Rate(ask) => ask.bucket.0,
            LeaseAsk::Quota(_) => BUCKETS,
        };
        let place = call.holder as usize * (BUCKETS as usize + 1) + on as usize;
        if self.calls[place][0].is_none_or(|last| last.seq != call.seq) {
            return;
        }
        match answer {
            LeaseAnswer::Rate(answer) if answer.lease != 0 => {
                if self.leases[place] != answer.lease {
                    self.held[place] = 0;
                }
                self.leases[place] = answer.lease;
                self.held[place] = self.held[place].saturating_add(answer.granted);
            }
            LeaseAnswer::Rate(_) => {}
            LeaseAnswer::Quota(answer) => {
                self.held[place] = self.held[place].saturating_add(answer.granted);
            }
        }
    }
}

/// Plays a history; what it did up to where the machines differ, if they do.
fn play(client: &Client, script: &str, seed: u64) -> Result<(), String> {
    let mut pair = Pair::new(client.get_connection().unwrap(), script, seed);
    let played = catch_unwind(AssertUnwindSafe(|| (0..STEPS).for_each(|_| pair.step())));
    played.map_err(|_| pair.told)
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_script_and_the_core_answer_alike() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let seeds = match from_environment("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("SEEDS").unwrap_or(HISTORIES),
    };
    let script = script_of_the_test();
    for seed in seeds {
        if let Err(told) = play(&client, &script, seed) {
            panic!(
                "{told}replay it: SEED={seed} cargo test --lib the_script_and_the_core_answer_alike"
            );
        }
    }
}

#[test]
fn every_fault_planted_in_the_script_is_found() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let script = script_of_the_test();
    for (right, wrong) in FAULTS {
        assert_eq!(script.matches(right).count(), 1, "the script has no line {right}");
        let script = script.replace(right, wrong);
        let found = (0..HISTORIES).any(|seed| play(&client, &script, seed).is_err());
        assert!(found, "nobody noticed: {wrong}");
    }
}

#[test]
fn the_script_and_the_core_have_the_same_bounds() {
    let bounds = [
        ("RATE_MAX", limits::AUTHORITY_RATE_MAX),
        ("DEMAND_MAX", limits::AUTHORITY_DEMAND_MAX),
        ("TOKENS_MAX", limits::AUTHORITY_TOKENS_MAX),
        ("HOLDERS_MAX", limits::HOLDERS_MAX as u64),
        ("RTT_MAX_US", limits::AUTHORITY_RTT_MAX.us()),
        ("QUARANTINE_US", QUARANTINE.us()),
        ("LONG_LEASE_US", LONG_LEASE.us()),
    ];
    for (name, value) in bounds {
        let line = format!("local {name} = {value}\n");
        assert!(script::TEXT.contains(&line), "the script has no line {line}");
    }
}
