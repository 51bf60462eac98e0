//! Instructions that the pure parts of a call take, counted by valgrind: the same on a busy machine
//! as on an idle one, so that a change of one percent shows. `perf/run instructions` runs it and
//! compares with `perf/instructions.txt`.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod counted;
mod messages;
mod prompt;
mod record;
mod warm;

use counted::{PARTS, Part};
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

/// A larger change from the baseline is an error.
const CHANGE_MAX: f64 = 0.02;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--part", name] => {
            let part = PARTS.iter().find(|part| part.name == name).unwrap();
            (part.run)(part.ops);
            ExitCode::SUCCESS
        }
        ["--renew"] => renew(),
        [] => compare(),
        _ => {
            eprintln!("instructions [--renew]; see perf/run --help");
            ExitCode::from(2)
        }
    }
}

fn baseline() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/instructions.txt")
}

/// What the counts depend on besides the sources.
fn circumstances() -> String {
    let said = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output();
        output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
    };
    format!("{}; {}", said("rustc", "--version"), said("valgrind", "--version"))
}

fn renew() -> ExitCode {
    let mut text = format!(
        "# Instructions per operation; perf/run instructions --renew\n\
         # {}\n",
        circumstances()
    );
    for part in PARTS {
        let _ = writeln!(text, "{:<36} {:>12.1}", part.name, count(part));
    }
    std::fs::write(baseline(), &text).unwrap();
    print!("{text}");
    ExitCode::SUCCESS
}

fn compare() -> ExitCode {
    let text = std::fs::read_to_string(baseline()).unwrap_or_default();
    let circumstances = circumstances();
    if !text.contains(&circumstances) {
        println!("the baseline was counted elsewhere; here: {circumstances}");
    }
    println!("{:<36} {:>12} {:>12} {:>9}", "instructions of one", "baseline", "now", "change");
    let mut all_hold = true;
    for part in PARTS {
        let line = text.lines().find_map(|line| line.strip_prefix(part.name));
        let before = line.and_then(|rest| rest.trim().parse::<f64>().ok());
        let now = count(part);
        let change = before.map(|before| now / before - 1.0);
        let holds = change.is_some_and(|change| change.abs() <= CHANGE_MAX);
        all_hold &= holds;
        let [before, change] = [
            before.map_or("none".to_owned(), |before| format!("{before:.1}")),
            change.map_or(String::new(), |change| format!("{:+.2} %", change * 100.0)),
        ];
        let mark = if holds { "" } else { "  CHANGED" };
        println!("{:<36} {before:>12} {now:>12.1} {change:>9}{mark}", part.name);
    }
    if all_hold {
        return ExitCode::SUCCESS;
    }
    println!("If that is intended: perf/run instructions --renew, and say why in the commit.");
    ExitCode::FAILURE
}

/// Instructions of one operation: this program, run once more for this part under valgrind, which
/// counts within [`counted::counted`] only.
fn count(part: &Part) -> f64 {
    // The place of things in memory must not differ from run to run: no environment, no random
    // addresses.
    let output = Command::new("setarch")
        .args(["-R", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*counted::counted*")
        .arg(std::env::current_exe().unwrap())
        .args(["--part", part.name])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output();
    let said = match &output {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let collected = collected.and_then(|(_, count)| count.trim().parse::<f64>().ok());
    assert!(collected.is_some(), "valgrind counts nothing of {}: {said}", part.name);
    collected.unwrap_or(0.0) / part.ops as f64
}
