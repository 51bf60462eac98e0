//! Where the time of the shard's thread goes: perf samples it under load, inferno draws the
//! flamegraph, and a text says the same for reading: kernel by purpose, self time, inclusive time,
//! and system calls and ring operations per call.
//!
//! perf's software clock is used, because virtual machines give their guests no cycle counter.

use crate::http;
use crate::load::{self, Script, Shape};
use crate::process::pause;
use crate::profile::Profile;
use crate::servers::{Gateway, LOAD_CORE, Place, SHARD, Server};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const FREQUENCY_HZ: &str = "1999";
const CONNECTIONS: u32 = 64;
/// System calls are counted for so long, apart from the sampling: counting slows them down.
const COUNTED_S: u32 = 2;
/// The load begins this much before what looks at it, and goes on for as long after.
const MARGIN_S: u32 = 1;
const COUNTED_EVENTS: &str = "syscalls:sys_enter_*,io_uring:io_uring_submit_req,\
                              io_uring:io_uring_poll_arm,sched:sched_switch";

/// Which load is looked at, and for how long.
pub struct View<'a> {
    /// `relay` or `refusal`.
    pub load: &'a str,
    /// Length of the sampling.
    pub span_s: u32,
}

/// Samples, counts, and writes `NAME.svg` and `NAME.txt` into `folder`.
pub fn run(place: &Place, program: &Path, folder: &Path, view: &View<'_>) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let upstream = Server::floor(place, ("upstream", LOAD_CORE), "answer", None)?;
    let gateway = Gateway::start(place, program, upstream.address)?;
    let plan = if view.load == "refusal" { "basic" } else { "bench" };
    let key = gateway.demo_text("keys", plan)?;
    let script = Script::post(&place.path, "flame", "/v1/chat/completions", key)?;
    let shard = gateway.server.process.thread(SHARD)?.to_string();
    let data = place.path.join("perf.data");
    let mut record = Command::new("perf");
    record.args(["record", "-e", "cpu-clock", "-F", FREQUENCY_HZ, "--call-graph", "fp"]);
    record.args(["-t", &shard, "-o"]).arg(&data).arg("--");
    let mut stat = Command::new("perf");
    stat.args(["stat", "-x", ",", "-e", COUNTED_EVENTS, "-t", &shard, "--"]);
    // A first load warms up.
    under_load(&gateway, &script, 1, &mut Command::new("env"))?;
    let us_per_call = under_load(&gateway, &script, view.span_s, &mut record)?.us_per_call;
    let counted = under_load(&gateway, &script, COUNTED_S, &mut stat)?;
    let mut show = Command::new("perf");
    let (stacks, _) = said(show.args(["script", "-F", "ip,sym,dso", "-i"]).arg(&data))?;
    let profile = Profile::read(&stacks);
    let text = profile.text(us_per_call) + &per_call(&counted.counts, counted.calls);
    let at = |ending: &str| folder.join(format!("{}.{ending}", view.load));
    fs::write(at("txt"), &text).map_err(|error| error.to_string())?;
    draw(&profile.folded(), &at("svg"))?;
    print!("{text}");
    eprintln!("\n{}\n{}", at("txt").display(), at("svg").display());
    Ok(())
}

/// Prints how many requests the gateway at this admin address answers in a span. perf samples for
/// as long as this runs.
pub fn look(admin: &str, span_s: &str) -> Result<(), String> {
    let admin = admin.parse().map_err(|_| format!("{admin} is no address"))?;
    let span_s = span_s.parse().map_err(|_| format!("{span_s} is no number"))?;
    let before = requests(admin)?;
    pause(Duration::from_secs(span_s));
    println!("{}", requests(admin)? - before);
    Ok(())
}

fn requests(admin: SocketAddr) -> Result<u64, String> {
    let page = http::get(admin, "/metrics", "")?;
    let samples = page.lines().filter(|line| line.starts_with("http_requests_total{"));
    Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

struct Looked {
    us_per_call: f64,
    /// Requests while the command looked, and what it said on stderr.
    calls: f64,
    counts: String,
}

/// Runs a command that looks at the shard's thread for `span_s` seconds while it is under load.
fn under_load(
    gateway: &Gateway,
    script: &Script,
    span_s: u32,
    look: &mut Command,
) -> Result<Looked, String> {
    let process = &gateway.server.process;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    look.arg(own).args(["look", &gateway.admin.to_string(), &span_s.to_string()]);
    let shape = Shape { core: LOAD_CORE, connections: CONNECTIONS, span_s: span_s + 2 * MARGIN_S };
    let before_us = process.thread_cpu_us(SHARD)?;
    let (outcome, looked) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load::run(gateway.server.address, script, shape));
        pause(Duration::from_secs(MARGIN_S.into()));
        let looked = said(look);
        (load.join(), looked)
    });
    let outcome = outcome.map_err(|_| "the load failed".to_owned())??;
    let spent_us = (process.thread_cpu_us(SHARD)? - before_us) as f64;
    let (calls, counts) = looked?;
    let calls = calls.lines().find_map(|line| line.parse().ok()).unwrap_or(0.0);
    Ok(Looked { us_per_call: spent_us / outcome.requests as f64, calls, counts })
}

/// What a command says on stdout and stderr, if it ends well.
fn said(command: &mut Command) -> Result<(String, String), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok((stdout, stderr)) } else { Err(format!("perf: {stderr}")) }
}

/// perf stat's counts, as lines of how often each happened in a call.
fn per_call(counts: &str, calls: f64) -> String {
    let mut rows: Vec<(f64, &str)> = counts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let count = fields.next()?.parse::<f64>().ok().filter(|count| *count > 0.0)?;
            Some((count, fields.nth(1)?))
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let lines = rows.iter().map(|(count, name)| format!("{:10.4}  {name}\n", count / calls));
    format!("\n== per call, over {calls:.0} calls\n{}", lines.collect::<String>())
}

fn draw(folded: &str, path: &Path) -> Result<(), String> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut inferno = Command::new("inferno-flamegraph")
        .args(["--title", "The shard's thread", "--countname", "samples"])
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .map_err(|error| format!("inferno-flamegraph: {error}"))?;
    if let Some(mut stdin) = inferno.stdin.take() {
        stdin.write_all(folded.as_bytes()).map_err(|error| error.to_string())?;
    }
    let status = inferno.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err("inferno-flamegraph failed".to_owned()) }
}
