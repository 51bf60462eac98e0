//! Measures the gateway as a whole: CPU per call, calls per second, latency and memory, side by
//! side with nginx and with two floors, in one run on one machine. `perf/run` starts it.
//!
//! It knows the gateway only from outside, as a user does, and ends only what it started.

mod count;
mod figures;
mod flame;
mod fleet;
mod floor;
mod http;
mod load;
mod measure;
mod process;
mod profile;
mod servers;

use figures::Figures;
use flame::View;
use measure::Extent;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use servers::Place;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Ten thousand idle connections, each with one to the upstream in a floor, and some.
const OPEN_FILES_MIN: u64 = 12_000;
const FULL: Extent = Extent { rounds: 5, span_s: 4 };
const QUICK: Extent = Extent { rounds: 2, span_s: 2 };
/// That call once a second, in a fleet.
const KEYS: usize = 10_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["floor", rest @ ..] => serve_floor(rest),
        ["flame", rest @ ..] => draw_flame(rest),
        ["count", rest @ ..] => count::run(rest, &folders()),
        ["fleet", rest @ ..] => measure_fleet(rest),
        ["look", admin, span_s] => flame::look(admin, span_s),
        _ => measure_all(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("perf: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve_floor(args: &[&str]) -> Result<(), String> {
    let address = |text: &str| text.parse().map_err(|_| format!("{text} is no address"));
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
    let listen = |at: &str| TcpListener::bind(at).map_err(|error| format!("{at}: {error}"));
    let ended = match args {
        ["answer", room, at] => floor::answer::serve(&listen(at)?, number(room)?),
        ["relay", room, at, to] => floor::relay::serve(&listen(at)?, address(to)?, number(room)?),
        ["monoio", room, at, to] => {
            floor::monoio_relay::serve(listen(at)?, address(to)?, number(room)?)
        }
        _ => return Err("floor: answer, relay or monoio, with room for so many bytes".to_owned()),
    };
    ended.map_err(|error| format!("a floor fails: {error}"))
}

fn draw_flame(args: &[&str]) -> Result<(), String> {
    let (load, rest) = match args {
        [load @ ("relay" | "refusal"), rest @ ..] => (*load, rest),
        rest => ("relay", rest),
    };
    let span_s = match rest {
        [] => Ok(8),
        ["--seconds", span_s] => span_s.parse().map_err(|_| format!("{span_s} is no number")),
        _ => Err("flame [relay|refusal] [--seconds N]; see perf/run --help".to_owned()),
    };
    let (_, target) = folders();
    let view = View { load, span_s: span_s? };
    let program = target.join("profiling/tollgate");
    flame::run(&Place::new(&target)?, &program, &target.join("perf"), &view)
}

/// This crate's folder, and cargo's target folder.
fn folders() -> (&'static Path, PathBuf) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    (folder, folder.parent().unwrap_or(folder).join("target"))
}

fn measure_all(args: &[&str]) -> Result<(), String> {
    let mode = if args.contains(&"--quick") { "quick" } else { "full" };
    show(args, mode, measure::run)
}

fn measure_fleet(args: &[&str]) -> Result<(), String> {
    let (mode, keys) =
        if args.contains(&"--quick") { ("fleet, quick", KEYS / 10) } else { ("fleet", KEYS) };
    show(args, mode, |place, program, extent| fleet::run(place, program, extent, keys))
}

fn show(
    args: &[&str],
    mode: &str,
    measure: impl FnOnce(&Place, &Path, Extent) -> Result<Figures, String>,
) -> Result<(), String> {
    let given = |name: &str| args.contains(&name);
    let (folder, target) = folders();
    let known = ["--json", "--quick", "--record"];
    if let Some(unknown) = args.iter().find(|arg| !known.contains(arg)) {
        return Err(format!("{unknown} is unknown; see perf/run --help"));
    }
    let program: PathBuf = target.join("release/tollgate");
    raise_open_files()?;
    let extent = if given("--quick") { QUICK } else { FULL };
    let place = Place::new(&target)?;
    let figures = measure(&place, &program, extent)?;
    let lines = figures.lines(&figures::circumstances(mode));
    if given("--record") {
        figures::record(&folder.join("results.ndjson"), &lines)?;
    }
    if given("--json") {
        lines.iter().for_each(|line| println!("{line}"));
    } else {
        print!("{}", figures.table());
    }
    Ok(())
}

/// As many open files as this host allows; what is started inherits it.
fn raise_open_files() -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if maximum.is_some_and(|maximum| maximum < OPEN_FILES_MIN) {
        return Err(format!("ulimit -Hn is {maximum:?}, {OPEN_FILES_MIN} are needed"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| format!("open files: {error}"))
}
