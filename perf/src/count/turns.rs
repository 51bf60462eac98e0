//! The turns: who runs when, and what each of them cost.

use super::load::{Group, Load};
use super::{Beside, Program};
use crate::fleet::stores::{Postgres, Redis};
use crate::measure::{ROWS, rows};
use crate::process::{Process, pause, until};
use crate::servers::{Gateway, LOAD_CORE, Place, SERVER_CORE, SHARD, Server, Setting};
use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use std::time::Duration;

/// Short, so that little changes between neighbours, and long against the writer's batches.
const TURN_US: f64 = 100_000.0;
const WARM_UP_CALLS: usize = 4_096;
/// A little longer than a Redis grants nothing.
const QUARANTINE: Duration = Duration::from_secs(8);
const WRITER: &str = "writer";
/// Longer than the writer waits for more records before it writes a batch.
const BATCH_AGE: Duration = Duration::from_millis(60);
/// At rest, a program's timers take less than `REST_NS_MAX` of this span.
const REST: Duration = Duration::from_millis(10);
const REST_NS_MAX: u64 = 300_000;
const REST_PATIENCE: Duration = Duration::from_secs(20);
/// Room for what a message has besides its body.
const HEAD_BYTES: usize = 8 * 1_024;

/// What one turn cost, per call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The shard's thread.
    pub shard: f64,
    /// The writer's thread.
    pub writer: f64,
    /// All other threads.
    pub rest: f64,
}

impl Cost {
    /// The whole process.
    pub fn whole(&self) -> f64 {
        self.shard + self.writer + self.rest
    }

    /// Adds what a thread of this name took.
    pub fn add(&mut self, thread: &str, cost: f64) {
        match thread {
            SHARD => self.shard += cost,
            WRITER => self.writer += cost,
            _ => self.rest += cost,
        }
    }
}

/// What the turns of one cost, in order of time.
pub struct Costs {
    /// Its server's name.
    pub name: &'static str,
    /// Turn by turn.
    pub turns: Vec<Cost>,
}

/// A server that takes turns.
pub struct Contestant {
    runs: Runs,
    group: Group,
    calls: u64,
}

enum Runs {
    Gateway(Box<Gateway>, Place),
    Rival(Server),
}

impl Contestant {
    fn name(&self) -> &'static str {
        self.server().name
    }

    fn server(&self) -> &Server {
        match &self.runs {
            Runs::Gateway(gateway, _) => &gateway.server,
            Runs::Rival(server) => server,
        }
    }

    /// Waits until it has nothing left to do.
    fn rest(&self) -> Result<(), String> {
        let process = &self.server().process;
        if let Runs::Gateway(..) = self.runs {
            pause(BATCH_AGE);
        }
        until("a program to rest", REST_PATIENCE, || {
            let before = cpu_ns(process)?;
            pause(REST);
            Ok((cpu_ns(process)? - before < REST_NS_MAX).then_some(()))
        })
    }
}

fn cpu_ns(process: &Process) -> Result<u64, String> {
    Ok(process.threads_cpu_ns()?.iter().map(|(_, ns)| ns).sum())
}

/// All that runs.
pub struct Bench {
    load: Load,
    contestants: Vec<Contestant>,
    calls: usize,
    _upstream: Server,
    _beside: Option<Place>,
    /// Of the second program. They outlive it.
    stores: Option<(Redis, Postgres)>,
}

impl Bench {
    /// Starts everything and warms it up. A turn has `calls` calls; `None`: as many as fit into it.
    pub fn start(
        place: &Place,
        programs: &[Program],
        body: &str,
        beside: Beside,
        calls: Option<usize>,
    ) -> Result<Self, String> {
        let room = body.len() + HEAD_BYTES;
        let upstream = Server::roomy_floor(place, ("upstream", LOAD_CORE), "answer", None, room)?;
        let stores = match beside {
            Beside::Servers => Some((Redis::start(place)?, Postgres::start(place)?)),
            _ => None,
        };
        let mut runs = Vec::new();
        for (program, name) in programs.iter().zip(["a", "b"]) {
            let own = place.within(name)?;
            let env = stores.iter().filter(|_| name == "b").flat_map(|(redis, postgres)| {
                [("TOLLGATE_AUTHORITY__URL", redis.url()), ("TOLLGATE_STORE__URL", postgres.url())]
            });
            let setting = Setting { env: &env.collect::<Vec<_>>(), beside: None };
            let gateway = Gateway::start_with(&own, &program.path, upstream.address, &setting)?;
            runs.push(Runs::Gateway(Box::new(gateway), own));
        }
        if stores.is_some() {
            // A Redis that is new grants nothing for seven seconds.
            pause(QUARANTINE);
        }
        let mut beside_place = None;
        if beside == Beside::Rivals {
            let own = place.within("beside")?;
            runs.push(Runs::Rival(Server::nginx(&own, upstream.address)?));
            let (raw, to) = (("raw", SERVER_CORE), Some(upstream.address));
            runs.push(Runs::Rival(Server::roomy_floor(&own, raw, "relay", to, room)?));
            beside_place = Some(own);
        }
        // Pinned last: whatever is started later would inherit it.
        let mut core = CpuSet::new();
        core.set(LOAD_CORE);
        let pinned = sched_setaffinity(Some(gettid()), &core);
        pinned.map_err(|error| format!("cannot be pinned: {error}"))?;
        let mut load = Load::new(room)?;
        let mut contestants = Vec::new();
        for runs in runs {
            let (server, key) = match &runs {
                Runs::Gateway(gateway, _) => (&gateway.server, gateway.demo_text("keys", "bench")?),
                Runs::Rival(server) => (server, "none"),
            };
            let group = load.open(server.address, request(key, body).as_bytes())?;
            contestants.push(Contestant { runs, group, calls: 0 });
        }
        let _beside = beside_place;
        let calls_at_first = WARM_UP_CALLS;
        let mut bench =
            Self { load, contestants, calls: calls_at_first, _upstream: upstream, _beside, stores };
        let fitting = bench.warm_up()?;
        bench.calls = calls.unwrap_or(fitting);
        Ok(bench)
    }

    /// How many calls fit into a turn.
    fn warm_up(&mut self) -> Result<usize, String> {
        let mut longest_us: f64 = 0.0;
        for at in 0..self.contestants.len() {
            self.turn(at)?;
            longest_us = longest_us.max(self.calls_us(at)?);
            self.contestants[at].rest()?;
        }
        Ok((TURN_US / longest_us * WARM_UP_CALLS as f64) as usize)
    }

    /// Calls of one turn.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// No costs yet: one entry for each contestant, the two programs first.
    pub fn no_costs(&self) -> Vec<Costs> {
        let names = self.contestants.iter().map(|it| it.name());
        names.map(|name| Costs { name, turns: Vec::new() }).collect()
    }

    fn calls_us(&mut self, at: usize) -> Result<f64, String> {
        let contestant = &mut self.contestants[at];
        contestant.calls += self.calls as u64;
        self.load.run(contestant.group, self.calls)
    }

    /// One turn of the contestant at `at`.
    fn turn(&mut self, at: usize) -> Result<Cost, String> {
        let before = self.contestants[at].server().process.threads_cpu_ns()?;
        self.calls_us(at)?;
        self.contestants[at].rest()?;
        let after = self.contestants[at].server().process.threads_cpu_ns()?;
        let mut cost = Cost::default();
        for (thread, ns) in after {
            let known = before.iter().find(|(known, _)| known.id == thread.id);
            let spent = ns - known.map_or(0, |(_, ns)| *ns);
            cost.add(&thread.name, spent as f64 / 1e3 / self.calls as f64);
        }
        Ok(cost)
    }

    /// So many turns of each, neighbours in changing order.
    pub fn turns(&mut self, turns: usize, costs: &mut [Costs]) -> Result<(), String> {
        let count = self.contestants.len();
        for turn in 0..turns {
            for place in 0..count {
                let at = if turn % 2 == 0 { place } else { count - 1 - place };
                costs[at].turns.push(self.turn(at)?);
            }
        }
        Ok(())
    }

    /// Calls each program for one turn while `look` watches it; returns what `look` found, with the
    /// number of calls.
    pub fn watched<T>(
        &mut self,
        program: usize,
        look: impl FnOnce(Pid) -> Result<T, String>,
    ) -> Result<(T, usize), String> {
        let process = &self.contestants[program].server().process;
        let looking = look(process.pid())?;
        self.calls_us(program)?;
        self.contestants[program].rest()?;
        Ok((looking, self.calls))
    }

    /// Every call that was made is a row of its program's ledger, whole and priced.
    pub fn balance(self) -> Result<(), String> {
        for (place, contestant) in self.contestants.into_iter().enumerate() {
            let Runs::Gateway(gateway, _place) = contestant.runs else { continue };
            let Gateway { server, ledger, .. } = *gateway;
            server.process.end()?;
            let rows = match &self.stores {
                Some((_, postgres)) if place == 1 => {
                    postgres.sql(ROWS)?.parse().map_err(|_| "no count of rows")?
                }
                _ => rows(&ledger)?,
            };
            let calls = contestant.calls;
            if rows != calls {
                return Err(format!("the books do not balance: {rows} rows of {calls} calls"));
            }
        }
        Ok(())
    }
}

fn request(key: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: perf\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
