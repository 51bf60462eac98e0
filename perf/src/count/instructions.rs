//! User-side instructions per call, where the host counts them: most virtual machines do not.

use super::turns::{Bench, Cost};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Output, Stdio};

const EVENT: &str = "instructions:u";
/// Turns of each program; instructions hardly vary.
const TURNS: usize = 5;

/// What was counted, or why nothing was.
pub enum Instructions {
    /// Each program's, turn by turn.
    Counted([Vec<Cost>; 2]),
    /// In perf's words.
    NotHere(String),
}

/// Counts, in turns of their own: counting is not free.
pub fn count(bench: &mut Bench) -> Result<Instructions, String> {
    let tried = Command::new("perf").args(["stat", "-x,", "-e", EVENT, "--", "true"]).output();
    match tried {
        Err(error) => return Ok(Instructions::NotHere(format!("perf: {error}"))),
        Ok(tried) => {
            let said = said(&tried);
            if let Err(why) = per_thread(&said) {
                return Ok(Instructions::NotHere(why));
            }
        }
    }
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (program, costs) in costs.iter_mut().enumerate() {
            let (perf, calls) = bench.watched(program, start)?;
            costs.push(end(perf, calls)?);
        }
    }
    Ok(Instructions::Counted(costs))
}

fn start(process: Pid) -> Result<Child, String> {
    let pid = process.as_raw_nonzero().to_string();
    Command::new("perf")
        .args(["stat", "-x,", "--per-thread", "-e", EVENT, "-p", &pid])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("perf: {error}"))
}

fn end(perf: Child, calls: usize) -> Result<Cost, String> {
    let ended = kill_process(Pid::from_child(&perf), Signal::INT);
    ended.map_err(|error| format!("perf: {error}"))?;
    let output = perf.wait_with_output().map_err(|error| format!("perf: {error}"))?;
    let mut cost = Cost::default();
    for (thread, count) in per_thread(&said(&output))? {
        cost.add(&thread, count / calls as f64);
    }
    Ok(cost)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The counts in `perf stat -x, --per-thread`'s lines: `NAME-ID,COUNT,UNIT,EVENT,…`, without the
/// first field where it counts a command.
fn per_thread(said: &str) -> Result<Vec<(String, f64)>, String> {
    let mut counts = Vec::new();
    for line in said.lines().filter(|line| line.contains(EVENT)) {
        let fields: Vec<&str> = line.split(',').collect();
        let event = fields.iter().position(|field| *field == EVENT);
        let count = event.and_then(|event| fields.get(event.checked_sub(2)?)).unwrap_or(&"");
        if *count == "<not counted>" {
            // A thread that did not run.
            continue;
        }
        let count = count.parse().map_err(|_| format!("{EVENT}: {count}"))?;
        let thread = fields[0].rsplit_once('-').map_or("", |(name, _)| name);
        counts.push((thread.to_owned(), count));
    }
    if counts.is_empty() { Err(said.trim().to_owned()) } else { Ok(counts) }
}

#[cfg(test)]
mod tests {
    use super::per_thread;

    #[test]
    fn counts_are_read_per_thread() {
        let said = "shard-0-17,123456,,instructions:u,8000,100.00,,\n\
                    preallocator-19,7,,instructions:u,8000,100.00,,\n\
                    control-20,<not counted>,,instructions:u,0,100.00,,\n";
        let counts = per_thread(said);
        let expected = [("shard-0".to_owned(), 123_456.0), ("preallocator".to_owned(), 7.0)];
        assert_eq!(counts, Ok(expected.to_vec()));
        let whole = per_thread("123456,,instructions:u,8000,100.00,,\n");
        assert_eq!(whole, Ok(vec![(String::new(), 123_456.0)]));
    }

    #[test]
    fn a_host_that_counts_none_says_so() {
        for said in [
            "<not supported>,,instructions:u,0,100.00,,\n",
            "shard-0-17,<not supported>,,instructions:u,0,100.00,,\n",
            "Error: No permission to enable instructions:u event.\n",
            "",
        ] {
            assert!(per_thread(said).is_err(), "{said}");
        }
    }
}
