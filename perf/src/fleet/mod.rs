//! Three instances that are one gateway, on a Redis and a Postgres: how often Redis is asked, how
//! fast the ledger takes records, and what an outage of the store costs those who call meanwhile.

mod keys;
pub mod stores;

use crate::figures::Figures;
use crate::load::{self, Outcome, Script, Shape};
use crate::measure::Extent;
use crate::process::{pause, read, until};
use crate::servers::{Gateway, LOAD_CORE, Place, Server, Setting};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use stores::{Postgres, Redis};

const INSTANCES: usize = 3;
const CHAT: &str = "/v1/chat/completions";
const CONNECTIONS: u32 = 8;
/// A Redis that is new grants nothing for seven seconds.
const GRANTS_WITHIN: Duration = Duration::from_secs(20);
/// Calls a second of all the many keys together, over so many connections.
const MANY_CONNECTIONS: u32 = 200;

/// Everything that runs.
struct Fleet {
    instances: Vec<Gateway>,
    redis: Redis,
    postgres: Postgres,
    _upstream: Server,
    _folders: Vec<Place>,
}

/// Runs all of it. `keys`: how many of them call once a second.
pub fn run(place: &Place, program: &Path, extent: Extent, keys: usize) -> Result<Figures, String> {
    let mut fleet = Fleet::start(place, program)?;
    let mut figures = Figures::default();
    let bench = fleet.script(place, "bench")?;
    let (enterprise, basic) = (fleet.script(place, "enterprise")?, fleet.script(place, "basic")?);
    for plan in [&bench, &enterprise, &basic] {
        fleet.wait_for_tokens(plan)?;
    }
    let many = fleet.many_keys(place, keys)?;
    for round in 0..extent.rounds {
        eprintln!("round {} of {}", round + 1, extent.rounds);
        let asked = |calls: f64, of: u64| calls / of.max(1) as f64;
        let (calls, outcomes) = fleet.load(&bench, 1, CONNECTIONS, extent.span_s)?;
        figures.note("redis calls: one key at full speed", "tollgate", "/call", {
            asked(calls, admitted(&outcomes))
        });
        let (calls, outcomes) = fleet.load(&enterprise, INSTANCES, CONNECTIONS, extent.span_s)?;
        figures.note("redis calls: 1 000/s over three", "tollgate", "/call", {
            asked(calls, admitted(&outcomes))
        });
        let (calls, outcomes) = fleet.load(&basic, INSTANCES, CONNECTIONS, extent.span_s)?;
        let refused = outcomes.iter().map(|it| it.refused).sum::<u64>();
        figures.note("redis calls: a refusal", "tollgate", "/call", asked(calls, refused));
        figures.note("redis calls: refusals", "tollgate", "calls/s", per_s(refused, &outcomes));
    }
    fleet.many(&many, extent, &mut figures)?;
    let done = fleet.outage(&bench, extent, &mut figures);
    let done = done.and_then(|()| fleet.copy(place, &mut figures));
    if done.is_err() {
        eprint!("{}", figures.table());
    }
    done.map(|()| figures)
}

fn admitted(outcomes: &[Outcome]) -> u64 {
    outcomes.iter().map(|it| it.requests - it.refused).sum()
}

fn per_s(calls: u64, outcomes: &[Outcome]) -> f64 {
    let longest_us = outcomes.iter().map(|it| it.span_us).max().unwrap_or(1);
    calls as f64 * 1e6 / longest_us as f64
}

impl Fleet {
    fn start(place: &Place, program: &Path) -> Result<Self, String> {
        let redis = Redis::start(place)?;
        let postgres = Postgres::start(place)?;
        let upstream = Server::floor(place, ("upstream", LOAD_CORE), "answer", None)?;
        let stores =
            [("TOLLGATE_AUTHORITY__URL", redis.url()), ("TOLLGATE_STORE__URL", postgres.url())];
        let (mut instances, mut folders) = (Vec::<Gateway>::new(), Vec::new());
        for name in ["instance-0", "instance-1", "instance-2"] {
            let own = place.within(name)?;
            let setting = Setting { env: &stores, beside: instances.first() };
            instances.push(Gateway::start_with(&own, program, upstream.address, &setting)?);
            folders.push(own);
        }
        Ok(Self { instances, redis, postgres, _upstream: upstream, _folders: folders })
    }

    fn script(&self, place: &Place, plan: &str) -> Result<Script, String> {
        Script::post(&place.path, plan, CHAT, self.instances[0].demo_text("keys", plan)?)
    }

    fn wait_for_tokens(&self, script: &Script) -> Result<(), String> {
        let shape = Shape { core: LOAD_CORE, connections: 1, span_s: 1 };
        for instance in &self.instances {
            until("tokens", GRANTS_WITHIN, || {
                let outcome = load::run(instance.server.address, script, shape)?;
                Ok((outcome.refused < outcome.requests).then_some(()))
            })?;
        }
        Ok(())
    }

    fn many_keys(&self, place: &Place, count: usize) -> Result<Script, String> {
        let first = &self.instances[0];
        let token = first.demo["admin_token"].as_str().unwrap_or_default();
        let keys = keys::make(first.admin, token, "premium", count)?;
        // Each connection waits so long between two calls that all of them make `count` a second.
        let between_ms = u64::from(MANY_CONNECTIONS) * 1_000 / count.max(1) as u64;
        let script = Script::many(&place.path, "many", CHAT, &keys, between_ms)?;
        // Every shard comes to know every key.
        let shape = Shape { core: LOAD_CORE, connections: MANY_CONNECTIONS, span_s: 4 };
        load::run(first.server.address, &script, shape)?;
        Ok(script)
    }

    /// Puts a load on so many instances at once: how often Redis was asked for it.
    fn load(
        &self,
        script: &Script,
        instances: usize,
        connections: u32,
        span_s: u32,
    ) -> Result<(f64, Vec<Outcome>), String> {
        let before = self.redis.calls()?;
        let shape = Shape { core: LOAD_CORE, connections, span_s };
        let outcomes = std::thread::scope(|scope| {
            let loads: Vec<_> = self.instances[..instances]
                .iter()
                .map(|it| scope.spawn(|| load::run(it.server.address, script, shape)))
                .collect();
            let ended = loads.into_iter().map(|it| it.join().map_err(|_| "a load died")?);
            ended.collect::<Result<Vec<_>, String>>()
        })?;
        Ok(((self.redis.calls()? - before) as f64, outcomes))
    }

    /// All keys together in one load without a break: a lease of a quiet key lasts for seconds, so
    /// its calls are counted over many of them, and after the first ones.
    fn many(&self, script: &Script, extent: Extent, figures: &mut Figures) -> Result<(), String> {
        eprintln!("many keys");
        let (warm_up_s, span_s) = (15, 20);
        let whole_s = warm_up_s + span_s * extent.rounds as u32 + 2;
        let shape = Shape { core: LOAD_CORE, connections: MANY_CONNECTIONS, span_s: whole_s };
        let server = self.instances[0].server.address;
        std::thread::scope(|scope| {
            let load = scope.spawn(|| load::run(server, script, shape));
            pause(Duration::from_secs(u64::from(warm_up_s)));
            for _ in 0..extent.rounds {
                let before = (self.redis.calls()?, self.settled()?, Instant::now());
                pause(Duration::from_secs(u64::from(span_s)));
                let (calls, settled) = (self.redis.calls()?, self.settled()?);
                let answers = (settled - before.1) as f64;
                let calls = (calls - before.0) as f64 / answers.max(1.0);
                figures.note("redis calls: many keys, 1/s each", "tollgate", "/call", calls);
                let per_s = answers / before.2.elapsed().as_secs_f64();
                figures.note("redis calls: many keys' calls", "tollgate", "calls/s", per_s);
            }
            load.join().map_err(|_| "a load died".to_owned())?.map(drop)
        })
    }

    fn settled(&self) -> Result<u64, String> {
        self.instances.iter().map(Gateway::answered).sum()
    }

    /// The store is away while calls go on; then how fast the journals drain, and what callers see
    /// of it.
    fn outage(
        &mut self,
        bench: &Script,
        extent: Extent,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let first = self.instances[0].server.address;
        self.postgres.wait_for_rows(self.settled()?)?;
        for round in 0..extent.rounds {
            eprintln!("outage {} of {}", round + 1, extent.rounds);
            let shape = Shape { core: LOAD_CORE, connections: CONNECTIONS, span_s: extent.span_s };
            let calm = load::run(first, bench, shape)?;
            figures.note("outage: p99 before", "tollgate", "us", calm.p99_us);
            self.postgres.wait_for_rows(self.settled()?)?;
            let before = self.settled()?;
            self.postgres.stop()?;
            let long = Shape { span_s: 4 * extent.span_s, ..shape };
            load::run(first, bench, long)?;
            let filled = self.settled()? - before;
            self.postgres.begin()?;
            let begun = Instant::now();
            self.postgres.wait_for_rows(self.settled()?)?;
            let rows_per_s = filled as f64 / begun.elapsed().as_secs_f64();
            figures.note("outage: rows drained", "tollgate", "rows/s", rows_per_s);
            // The same with callers: a second outage of the same length, drained beside them.
            self.postgres.stop()?;
            load::run(first, bench, long)?;
            self.postgres.begin()?;
            let drained = load::run(first, bench, shape)?;
            figures.note("outage: p99 while draining", "tollgate", "us", drained.p99_us);
            figures.note("outage: p99 while draining, to before", "tollgate", "ratio", {
                drained.p99_us / calm.p99_us
            });
            self.postgres.wait_for_rows(self.settled()?)?;
        }
        Ok(())
    }

    /// psql's own copy of the same rows into the same table, for comparison.
    fn copy(&self, place: &Place, figures: &mut Figures) -> Result<(), String> {
        let file = place.path.join("postgres/rows.bin");
        let columns = self.postgres.sql(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 'usage_rows'::regclass AND attnum > 0 AND NOT attisdropped",
        )?;
        let rows = 200_000;
        let out = format!(
            "\\copy (SELECT {columns} FROM usage_rows LIMIT {rows}) TO '{}' (FORMAT binary)",
            file.display()
        );
        self.postgres.sql(&out)?;
        for _ in 0..3 {
            let back =
                format!("\\copy usage_rows ({columns}) FROM '{}' (FORMAT binary)", file.display());
            let begun = Instant::now();
            self.postgres.sql(&back)?;
            let rows_per_s = f64::from(rows) / begun.elapsed().as_secs_f64();
            figures.note("ledger: psql's copy of such rows", "psql", "rows/s", rows_per_s);
            pause(Duration::from_millis(200));
        }
        self.batches(place, figures)
    }

    /// The writer's transactions by themselves, by the benchmark that has its code.
    fn batches(&self, place: &Place, figures: &mut Figures) -> Result<(), String> {
        self.postgres.sql("CREATE DATABASE bench")?;
        let url = self.postgres.url().replace("/tollgate", "/bench");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let log = place.path.join("bench.log");
        let output = Command::new("cargo")
            .current_dir(&root)
            .args(["bench", "--quiet", "--bench", "parts", "--", "into Postgres"])
            .env("TOLLGATE_BENCH_POSTGRES", url)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {said}", log.display()));
        }
        for (rows, what) in [
            (100, "ledger: a batch of 100 rows"),
            (1_000, "ledger: a batch of 1 000 rows"),
            (4_096, "ledger: a batch of 4 096 rows"),
            (16_384, "ledger: a batch of 16 384 rows"),
        ] {
            let path = format!("target/criterion/writer/batch of {rows} into Postgres/new");
            let text = read(&root.join(path).join("estimates.json"))?;
            let estimates: serde_json::Value =
                serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let ns = estimates["median"]["point_estimate"].as_f64().ok_or("no median")?;
            figures.note(what, "tollgate", "ms", ns / 1e6);
            let rows_per_s = f64::from(rows) * 1e9 / ns;
            match rows {
                4_096 => {
                    figures.note("ledger: rows of one writer", "tollgate", "rows/s", rows_per_s)
                }
                16_384 => {
                    let what = "ledger: rows of one writer, 16 384 at once";
                    figures.note(what, "tollgate", "rows/s", rows_per_s);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
