//! Figures: what was measured, of whom, in which unit, over the rounds; the table for people and
//! the lines for `results.ndjson`.

use crate::process::read;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The figures that are aimed at. `true`: at most, else at least.
const REACH: &[(&str, &str, bool, f64)] = &[
    ("relay: cpu of the shard's thread", "tollgate", true, 9.5),
    ("relay: cpu of the process", "tollgate", true, 12.0),
    ("relay: cpu of the process, to nginx", "tollgate", true, 1.1),
    ("relay: calls", "tollgate", false, 75_000.0),
    ("refusal: cpu of the process", "tollgate", true, 4.5),
    ("latency added, p50", "tollgate", true, 14.0),
    ("latency added, p99", "tollgate", true, 40.0),
    ("memory: idle", "tollgate", true, 25.0),
    ("memory: under load", "tollgate", true, 40.0),
    ("memory: 10 000 idle connections add", "tollgate", true, 60.0),
    ("redis calls: one key at full speed", "tollgate", true, 0.000_5),
    ("redis calls: 1 000/s over three", "tollgate", true, 0.06),
    ("redis calls: a refusal", "tollgate", true, 0.000_8),
    ("redis calls: many keys, 1/s each", "tollgate", true, 0.25),
    ("outage: rows drained", "tollgate", false, 50_000.0),
    ("outage: p99 while draining, to before", "tollgate", true, 2.0),
    ("ledger: a batch of 100 rows", "tollgate", true, 3.0),
    ("ledger: a batch of 1 000 rows", "tollgate", true, 10.0),
    ("ledger: rows of one writer", "tollgate", false, 100_000.0),
];

struct Figure {
    what: &'static str,
    who: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

/// All figures of a run, in the order in which they first came.
#[derive(Default)]
pub struct Figures {
    all: Vec<Figure>,
}

impl Figures {
    /// Notes one round's value.
    pub fn note(&mut self, what: &'static str, who: &'static str, unit: &'static str, value: f64) {
        let known = self.all.iter_mut().find(|figure| figure.what == what && figure.who == who);
        match known {
            Some(figure) => figure.values.push(value),
            None => self.all.push(Figure { what, who, unit, values: vec![value] }),
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<38} {:<9} {:>9} {:>9} {:>9}  {:<7} {}\n",
            "what", "of whom", "median", "least", "most", "unit", "reach"
        );
        for figure in &self.all {
            let (median, least, most) = figure.spread();
            let reach = figure.reach().map_or(String::new(), |(bound, holds)| {
                format!("{bound} {}", if holds { "ok" } else { "MISSED" })
            });
            table += &format!(
                "{:<38} {:<9} {:>9} {:>9} {:>9}  {:<7} {reach}\n",
                figure.what,
                figure.who,
                short(median),
                short(least),
                short(most),
                figure.unit,
            );
        }
        table
    }

    /// For machines: one object per figure.
    pub fn lines(&self, circumstances: &Value) -> Vec<Value> {
        let line = |figure: &Figure| {
            let (median, least, most) = figure.spread();
            let mut line = circumstances.clone();
            line["what"] = json!(figure.what);
            line["who"] = json!(figure.who);
            line["unit"] = json!(figure.unit);
            line["median"] = json!(rounded(median));
            line["least"] = json!(rounded(least));
            line["most"] = json!(rounded(most));
            line["rounds"] = json!(figure.values.len());
            line
        };
        self.all.iter().map(line).collect()
    }
}

impl Figure {
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        (median, sorted[0], sorted[count - 1])
    }

    /// The bound in words, and whether the median keeps it.
    fn reach(&self) -> Option<(String, bool)> {
        let aimed = REACH.iter().find(|(what, who, ..)| *what == self.what && *who == self.who);
        let (_, _, at_most, bound) = *aimed?;
        let median = self.spread().0;
        let sign = if at_most { "<=" } else { ">=" };
        let holds = if at_most { median <= bound } else { median >= bound };
        Some((format!("{sign} {bound}"), holds))
    }
}

/// The machine, the kernel, the time and the commit.
pub fn circumstances(mode: &str) -> Value {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
    };
    let proc = |path: &str| read(Path::new(path)).unwrap_or_default();
    let cpuinfo = proc("/proc/cpuinfo");
    let models = || cpuinfo.lines().filter(|line| line.starts_with("model name"));
    let model = models().next().and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
    let changed = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { "+" };
    json!({
        "date": said("date", &["-u", "+%FT%TZ"]),
        "commit": said("git", &["rev-parse", "--short=12", "HEAD"]) + changed,
        "machine": format!("{model} x {}", models().count()),
        "kernel": said("uname", &["-r"]),
        "congestion": proc("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
        "mode": mode,
    })
}

/// Appends lines to a file.
pub fn record(path: &Path, lines: &[Value]) -> Result<(), String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let mut file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
    lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(|error| error.to_string())
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        0.1.. => 2,
        _ => 5,
    };
    format!("{value:.digits$}")
}

fn rounded(value: f64) -> f64 {
    let parts = if value.abs() < 0.1 { 1e6 } else { 1e3 };
    (value * parts).round() / parts
}
