//! The measurements: every server in every round, in changing order, each answer checked, and the
//! books balanced at the end.

use crate::figures::Figures;
use crate::floor::BODY;
use crate::http;
use crate::load::{self, Outcome, REQUEST_BODY, Script, Shape};
use crate::process::{Process, pause, until};
use crate::servers::{Gateway, LOAD_CORE, Place, SERVER_CORE, SHARD, Server};
use rusqlite::Connection;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const CONNECTIONS: u32 = 64;
const IDLE_CONNECTIONS: usize = 10_000;
/// Longer than the writer waits with a batch, so that CPU time is read after it is written.
const SETTLING: Duration = Duration::from_millis(200);
const CHAT: &str = "/v1/chat/completions";

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Extent {
    /// Rounds.
    pub rounds: usize,
    /// Length of one load.
    pub span_s: u32,
}

/// Everything that runs during a measurement.
struct Bench {
    gateway: Gateway,
    nginx: Server,
    raw: Server,
    monoio: Server,
    answer: Server,
    upstream: Server,
    scripts: Scripts,
    /// 200s of the gateway that were counted from outside, and loads that counted them.
    counted: u64,
    loads: u64,
}

struct Scripts {
    chat: Script,
    get: Script,
    refused: Script,
    fixed: Script,
}

/// Runs all of it.
pub fn run(place: &Place, program: &Path, extent: Extent) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let mut bench = Bench::start(place, program)?;
    pause(Duration::from_secs(1));
    bench.memory("memory: idle", &mut figures)?;
    bench.warm_up()?;
    for round in 0..extent.rounds {
        eprintln!("round {} of {}", round + 1, extent.rounds);
        bench.relays(round, extent.span_s, &mut figures)?;
        bench.gets(round, extent.span_s, &mut figures)?;
        bench.refusals(round, extent.span_s, &mut figures)?;
        bench.latencies(round, extent.span_s, &mut figures)?;
    }
    bench.memory("memory: under load", &mut figures)?;
    bench.idle_connections(&mut figures)?;
    bench.balance()?;
    Ok(figures)
}

impl Bench {
    fn start(place: &Place, program: &Path) -> Result<Self, String> {
        let upstream = Server::floor(place, ("upstream", LOAD_CORE), "answer", None)?;
        let to = Some(upstream.address);
        let gateway = Gateway::start(place, program, upstream.address)?;
        let bench_key = gateway.demo_text("keys", "bench")?;
        let service = gateway.demo_text("services", "per_token")?;
        let consume = format!("/api/v1/consume/{service}");
        let (folder, basic_key) = (&place.path, gateway.demo_text("keys", "basic")?);
        let scripts = Scripts {
            chat: Script::post(folder, "chat", CHAT, bench_key)?,
            get: Script::get(folder, "get", &consume, bench_key)?,
            refused: Script::post(folder, "refused", CHAT, basic_key)?,
            fixed: Script::post(folder, "fixed", "/static", bench_key)?,
        };
        Ok(Self {
            nginx: Server::nginx(place, upstream.address)?,
            raw: Server::floor(place, ("raw", SERVER_CORE), "relay", to)?,
            monoio: Server::floor(place, ("monoio", SERVER_CORE), "monoio", to)?,
            answer: Server::floor(place, ("answer", SERVER_CORE), "answer", None)?,
            gateway,
            upstream,
            scripts,
            counted: 0,
            loads: 0,
        })
    }

    fn is_gateway(&self, server: &Server) -> bool {
        server.name == self.gateway.server.name
    }

    fn warm_up(&mut self) -> Result<(), String> {
        let relays = [&self.gateway.server, &self.nginx, &self.raw, &self.monoio];
        let mut counted = 0;
        for server in relays {
            let outcome = whole(load::run(server.address, &self.scripts.chat, many(1))?)?;
            counted += if self.is_gateway(server) { outcome.requests } else { 0 };
        }
        self.count(counted);
        Ok(())
    }

    fn count(&mut self, answers: u64) {
        self.counted += answers;
        self.loads += 1;
    }

    fn relays(&mut self, round: usize, span_s: u32, figures: &mut Figures) -> Result<(), String> {
        let mut servers = [&self.gateway.server, &self.nginx, &self.raw, &self.monoio];
        let count = servers.len();
        servers.rotate_left(round % count);
        let (mut tollgate_us, mut nginx_us, mut counted) = (0.0, 0.0, 0);
        for server in servers {
            let thread = self.is_gateway(server).then_some(SHARD);
            let spent = spend(server, thread, &self.scripts.chat, span_s)?;
            whole(spent.outcome)?;
            if self.is_gateway(server) {
                counted = spent.outcome.requests;
                tollgate_us = spent.process_us;
                let what = "relay: cpu of the shard's thread";
                figures.note(what, server.name, "us/call", spent.thread_us);
            } else if server.name == "nginx" {
                nginx_us = spent.process_us;
            }
            let name = server.name;
            figures.note("relay: cpu of the process", name, "us/call", spent.process_us);
            figures.note("relay: calls", name, "calls/s", spent.calls_per_s);
            figures.note("relay: its core was busy", name, "share", spent.busy);
        }
        let what = "relay: cpu of the process, to nginx";
        figures.note(what, "tollgate", "ratio", tollgate_us / nginx_us);
        self.count(counted);
        Ok(())
    }

    fn gets(&mut self, round: usize, span_s: u32, figures: &mut Figures) -> Result<(), String> {
        let mut servers = [&self.gateway.server, &self.nginx];
        servers.rotate_left(round % 2);
        let mut counted = 0;
        for server in servers {
            let thread = self.is_gateway(server).then_some(SHARD);
            let spent = spend(server, thread, &self.scripts.get, span_s)?;
            whole(spent.outcome)?;
            let what = "bare GET: cpu of the process";
            figures.note(what, server.name, "us/call", spent.process_us);
            counted += if self.is_gateway(server) { spent.outcome.requests } else { 0 };
        }
        self.count(counted);
        Ok(())
    }

    fn refusals(&mut self, round: usize, span_s: u32, figures: &mut Figures) -> Result<(), String> {
        let Scripts { refused, fixed, .. } = &self.scripts;
        let mut servers =
            [(&self.gateway.server, refused), (&self.nginx, fixed), (&self.answer, fixed)];
        let count = servers.len();
        servers.rotate_left(round % count);
        let mut counted = 0;
        for (server, script) in servers {
            let thread = self.is_gateway(server).then_some(SHARD);
            let spent = spend(server, thread, script, span_s)?;
            let what = "refusal: cpu of the process";
            if self.is_gateway(server) {
                counted = refusals_only(spent.outcome, span_s)?;
                let what = "refusal: cpu of the shard's thread";
                figures.note(what, server.name, "us/call", spent.thread_us);
            } else {
                whole(spent.outcome)?;
            }
            figures.note(what, server.name, "us/call", spent.process_us);
        }
        self.count(counted);
        Ok(())
    }

    /// One connection, and everything on one core: elsewhere the wake-ups between two cores of a
    /// virtual machine take longer than all the rest.
    fn latencies(
        &mut self,
        round: usize,
        span_s: u32,
        figures: &mut Figures,
    ) -> Result<(), String> {
        self.upstream.process.move_to(SERVER_CORE)?;
        let shape = Shape { core: SERVER_CORE, connections: 1, span_s };
        let bare = whole(load::run(self.upstream.address, &self.scripts.chat, shape)?)?;
        figures.note("latency, p50", "upstream", "us", bare.p50_us);
        figures.note("latency, p99", "upstream", "us", bare.p99_us);
        let mut servers = [&self.gateway.server, &self.nginx, &self.raw];
        let count = servers.len();
        servers.rotate_left(round % count);
        let mut counted = 0;
        for server in servers {
            let outcome = whole(load::run(server.address, &self.scripts.chat, shape)?)?;
            counted += if self.is_gateway(server) { outcome.requests } else { 0 };
            figures.note("latency added, p50", server.name, "us", outcome.p50_us - bare.p50_us);
            figures.note("latency added, p99", server.name, "us", outcome.p99_us - bare.p99_us);
        }
        self.upstream.process.move_to(LOAD_CORE)?;
        self.count(counted);
        Ok(())
    }

    fn memory(&self, what: &'static str, figures: &mut Figures) -> Result<(), String> {
        for server in [&self.gateway.server, &self.nginx] {
            figures.note(what, server.name, "MB", megabytes(&server.process)?);
        }
        Ok(())
    }

    /// Connections that have made a call and may make another.
    fn idle_connections(&mut self, figures: &mut Figures) -> Result<(), String> {
        let mut counted = 0;
        for server in [&self.gateway.server, &self.nginx] {
            let key = self.gateway.demo_text("keys", "bench")?;
            let before = megabytes(&server.process)?;
            let connections = (0..IDLE_CONNECTIONS)
                .map(|_| call_once(server.address, key))
                .collect::<Result<Vec<_>, String>>()?;
            let added = megabytes(&server.process)? - before;
            figures.note("memory: 10 000 idle connections add", server.name, "MB", added);
            counted += if self.is_gateway(server) { connections.len() as u64 } else { 0 };
        }
        self.count(counted);
        Ok(())
    }

    /// Every 200 has its row, and what was counted from outside agrees but for the answers that
    /// were under way when a load ended.
    fn balance(self) -> Result<(), String> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let mut before = u64::MAX;
        let answered = until("the last answer", PATIENCE, || {
            let now = self.gateway.answered()?;
            let still = now == std::mem::replace(&mut before, now);
            Ok(still.then_some(now))
        })?;
        let Gateway { server, ledger, .. } = self.gateway;
        server.process.end()?;
        let rows = rows(&ledger)?;
        let under_way = self.loads * u64::from(CONNECTIONS);
        eprintln!("rows {rows}, 200s by the gateway {answered}, by the loads {}", self.counted);
        let agrees = (self.counted..=self.counted + under_way).contains(&answered);
        if rows == answered && agrees {
            return Ok(());
        }
        Err(format!(
            "the books do not balance: {rows} rows, {answered} answers of 200, {} counted by {} \
             loads",
            self.counted, self.loads
        ))
    }
}

struct Spent {
    outcome: Outcome,
    process_us: f64,
    thread_us: f64,
    calls_per_s: f64,
    busy: f64,
}

const fn many(span_s: u32) -> Shape {
    Shape { core: LOAD_CORE, connections: CONNECTIONS, span_s }
}

/// Puts the load on and reads what it cost the server.
fn spend(
    server: &Server,
    thread: Option<&str>,
    script: &Script,
    span_s: u32,
) -> Result<Spent, String> {
    let process = &server.process;
    let thread_us = || thread.map_or(Ok(0), |name| process.thread_cpu_us(name));
    let (process_before, thread_before) = (process.cpu_us()?, thread_us()?);
    let outcome = load::run(server.address, script, many(span_s))?;
    let busy_us = process.cpu_us()? - process_before;
    pause(SETTLING);
    let (process_us, thread_us) =
        (process.cpu_us()? - process_before, thread_us()? - thread_before);
    let calls = outcome.requests as f64;
    Ok(Spent {
        outcome,
        process_us: process_us as f64 / calls,
        thread_us: thread_us as f64 / calls,
        calls_per_s: calls * 1e6 / outcome.span_us as f64,
        busy: busy_us as f64 / outcome.span_us as f64,
    })
}

/// Nothing but 200s, each with the upstream's body.
fn whole(outcome: Outcome) -> Result<Outcome, String> {
    let least_bytes = outcome.requests * BODY.len() as u64;
    if outcome.refused > 0 || outcome.bytes < least_bytes {
        return Err(format!("not every answer was the upstream's: {outcome:?}"));
    }
    Ok(outcome)
}

/// All calls over the key's rate were refused; returns how many were not.
fn refusals_only(outcome: Outcome, span_s: u32) -> Result<u64, String> {
    /// Of the plan `basic`.
    const RATE_PER_S: u64 = 10;
    let admitted = outcome.requests - outcome.refused;
    let most = RATE_PER_S * (u64::from(span_s) + 3);
    if admitted > most {
        return Err(format!("{admitted} of a key's calls were admitted, {most} are its rate"));
    }
    Ok(admitted)
}

fn call_once(server: SocketAddr, key: &str) -> Result<TcpStream, String> {
    let mut stream = http::connect(server)?;
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: perf\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{REQUEST_BODY}",
        REQUEST_BODY.len()
    );
    let (head, body) = http::exchange(&mut stream, &request)?;
    if !head.starts_with("HTTP/1.1 200 ") || body != BODY {
        return Err(format!("a call brought {head}"));
    }
    Ok(stream)
}

fn megabytes(process: &Process) -> Result<f64, String> {
    Ok(process.resident_bytes()? as f64 / 1e6)
}

/// Counts the rows of the ledger, each of a call that was answered with 200 and metered as the
/// upstream said.
pub const ROWS: &str = "SELECT count(*) FROM usage_records WHERE status = 200
    AND outcome = 'completed' AND input_tokens = 17 AND output_tokens = 16
    AND tokens_source = 'reported'";

/// The same, of the embedded store.
pub fn rows(ledger: &Path) -> Result<u64, String> {
    let connection = Connection::open(ledger).map_err(|error| error.to_string())?;
    let count: Result<i64, _> = connection.query_row(ROWS, [], |row| row.get(0));
    count.map(i64::unsigned_abs).map_err(|error| error.to_string())
}
