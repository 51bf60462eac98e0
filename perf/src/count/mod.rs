//! What a call costs, exactly enough to see one percent: two programs side by side, in many short
//! turns of a fixed number of calls. Each turn of one has a turn of the other as its neighbour, so
//! that whatever else the machine does falls on both; CPU time is the kernel's count for each
//! thread, read only while the program rests.

mod estimate;
mod instructions;
mod load;
#[path = "../../../benches/prompt.rs"]
mod prompt;
mod report;
mod turns;

use crate::figures;
use crate::load::REQUEST_BODY;
use crate::servers::Place;
use report::Report;
use rustix::process::{setpriority_process, setsid};
use std::fs;
use std::path::{Path, PathBuf};
use turns::{Bench, Costs};

/// Ahead of all but the kernel's own threads, so that builds beside a run wait, and not the run.
const NICE: i32 = -20;
const SITTING_TURNS: usize = 100;
const SITTINGS_MIN: usize = 3;
/// No more turns are needed once the ratio of the two processes is known so well.
const SPREAD_MAX: f64 = 0.008;
const BODY_BYTES_MAX: usize = 8 << 20;

/// One of the two programs.
pub struct Program {
    /// A commit, or whatever the figures shall call it.
    pub name: String,
    path: PathBuf,
}

/// What runs besides the two programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// nginx and a bare relay, which take turns too.
    Rivals,
    /// A Redis and a Postgres, on which the second program stands.
    Servers,
}

/// What is asked for.
struct Options {
    programs: Vec<Program>,
    turns: usize,
    body: String,
    beside: Beside,
    json: bool,
    record: bool,
}

/// Runs it: `NAME=PROGRAM NAME=PROGRAM [OPTION…]`.
pub fn run(args: &[&str], (folder, target): &(&Path, PathBuf)) -> Result<(), String> {
    let options = Options::read(args)?;
    let is_first = come_first();
    let (mut calls, mut costs, mut instructions) = (None, Vec::<Costs>::new(), None);
    // Each sitting starts everything anew: where a program's memory happens to lie must not pass
    // for a difference.
    for sitting in 1..=options.turns.div_ceil(SITTING_TURNS) {
        let place = Place::new(target)?;
        let Options { programs, body, beside, .. } = &options;
        let mut bench = Bench::start(&place, programs, body, *beside, calls)?;
        if costs.is_empty() {
            (calls, costs) = (Some(bench.calls()), bench.no_costs());
            instructions = Some(instructions::count(&mut bench)?);
        }
        bench.turns(SITTING_TURNS.min(options.turns), &mut costs)?;
        bench.balance()?;
        let ratio = report::ratio_of_processes(&costs);
        let turns = sitting * SITTING_TURNS;
        eprintln!("{turns} turns: {:.3} ±{:.1} %", ratio.mean, ratio.spread() * 100.0);
        if sitting >= SITTINGS_MIN && ratio.spread() <= SPREAD_MAX {
            break;
        }
    }
    let names = [&options.programs[0].name[..], &options.programs[1].name];
    let calls = calls.unwrap_or_default();
    let body_bytes = options.body.len();
    let report = Report { names, calls, costs, instructions, body_bytes, is_first };
    let lines = report.lines(&figures::circumstances("count"));
    if options.record {
        figures::record(&folder.join("results.ndjson"), &lines)?;
    }
    if options.json {
        lines.iter().for_each(|line| println!("{line}"));
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// Raises the priority, which what is started inherits. Not everyone may; the turns are in pairs
/// all the same.
fn come_first() -> bool {
    // Where the kernel groups processes by session (sched_autogroup), the group's rank is what
    // counts. A session of its own has nobody else in it.
    let group = Path::new("/proc/self/autogroup");
    let rank = || setsid().is_ok() && fs::write(group, NICE.to_string()).is_ok();
    (!group.exists() || rank()) && setpriority_process(None, NICE).is_ok()
}

impl Options {
    fn read(args: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            programs: Vec::new(),
            turns: 1_000,
            body: REQUEST_BODY.to_owned(),
            beside: Beside::Nothing,
            json: false,
            record: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || {
                let given = args.next().and_then(|given| given.parse::<usize>().ok());
                given.ok_or_else(|| format!("{arg} wants a number; see perf/run --help"))
            };
            match *arg {
                "--turns" => options.turns = number()?.max(4),
                "--body-bytes" => options.body = prompt::body(number()?.min(BODY_BYTES_MAX)),
                "--beside" => options.beside = Beside::Rivals,
                "--servers" => options.beside = Beside::Servers,
                "--json" => options.json = true,
                "--record" => options.record = true,
                program => {
                    let known = program.split_once('=');
                    let (name, path) = known
                        .ok_or_else(|| format!("{program} is unknown; see perf/run --help"))?;
                    options.programs.push(Program { name: name.to_owned(), path: path.into() });
                }
            }
        }
        if options.programs.len() == 2 { Ok(options) } else { Err("two programs".to_owned()) }
    }
}
