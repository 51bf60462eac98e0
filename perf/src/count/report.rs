//! What is said at the end: a table for people, lines for `results.ndjson`.

use super::estimate::{Ratio, median};
use super::instructions::Instructions;
use super::load::CONNECTIONS;
use super::turns::{Cost, Costs};
use serde_json::{Value, json};
use std::fmt::Write;

type Part = (&'static str, fn(&Cost) -> f64);

const PARTS: [Part; 4] = [
    ("shard's thread", |cost| cost.shard),
    ("writer's thread", |cost| cost.writer),
    ("the rest", |cost| cost.rest),
    ("process", Cost::whole),
];

pub struct Report<'a> {
    /// The two programs' names.
    pub names: [&'a str; 2],
    /// Calls of one turn.
    pub calls: usize,
    /// CPU time, in microseconds per call: of the two programs, then of those beside them.
    pub costs: Vec<Costs>,
    /// Instructions per call.
    pub instructions: Option<Instructions>,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// The run had priority over all else.
    pub is_first: bool,
}

/// One row: one measure of two neighbours.
struct Row {
    what: String,
    unit: &'static str,
    who: [String; 2],
    medians: [f64; 2],
    ratio: Ratio,
}

/// The second program's cost, to the first one's.
pub fn ratio_of_processes(costs: &[Costs]) -> Ratio {
    let whole = |at: usize| costs[at].turns.iter().map(Cost::whole).collect::<Vec<f64>>();
    Ratio::of(&whole(1), &whole(0))
}

impl Row {
    fn of(
        what: String,
        unit: &'static str,
        (first, second): (&str, &str),
        of: fn(&Cost) -> f64,
        costs: [&[Cost]; 2],
    ) -> Self {
        let [under, over] = costs.map(|costs| costs.iter().map(of).collect::<Vec<f64>>());
        Self {
            what,
            unit,
            who: [first.to_owned(), second.to_owned()],
            medians: [median(&under), median(&over)],
            ratio: Ratio::of(&over, &under),
        }
    }
}

impl Report<'_> {
    /// The two programs' turns.
    fn turns(&self) -> [&[Cost]; 2] {
        [&self.costs[0].turns, &self.costs[1].turns]
    }

    fn rows(&self) -> Vec<Row> {
        let (names, [a, b]) = ((self.names[0], self.names[1]), self.turns());
        let mut rows: Vec<Row> = PARTS
            .iter()
            .map(|(part, of)| Row::of(format!("cpu: {part}"), "us/call", names, *of, [a, b]))
            .collect();
        for rival in &self.costs[2..] {
            let (what, who) = ("cpu: process".to_owned(), (rival.name, names.1));
            rows.push(Row::of(what, "us/call", who, Cost::whole, [&rival.turns, b]));
        }
        if let Some(Instructions::Counted([a, b])) = &self.instructions {
            rows.extend(PARTS.iter().map(|(part, of)| {
                Row::of(format!("instructions: {part}"), "per call", names, *of, [a, b])
            }));
        }
        rows
    }

    /// For people.
    pub fn table(&self) -> String {
        let (turns, calls, bytes) = (self.turns()[0].len(), self.calls, self.body_bytes);
        let mut table = format!(
            "{turns} turns of {calls} calls, {CONNECTIONS} connections, bodies of {bytes} bytes\n\
             {:<30} {:<14} {:<14} {:>10} {:>10} {:>8} {:>8}\n",
            "what", "first", "second", "first", "second", "ratio", "spread"
        );
        for Row { what, unit, who: [first, second], medians, ratio } in self.rows() {
            let what = format!("{what}, {unit}");
            let [under, over] = medians.map(|median| format!("{median:.2}"));
            let spread = format!("±{:.1} %", ratio.spread() / ratio.mean * 100.0);
            let _ = writeln!(
                table,
                "{what:<30} {first:<14} {second:<14} {under:>10} {over:>10} {:>8.3} {spread:>8}",
                ratio.mean
            );
        }
        if let Some(Instructions::NotHere(why)) = &self.instructions {
            let _ = writeln!(table, "instructions: not counted on this host ({why})");
        }
        if !self.is_first {
            table += "priority: as all else; with the right to raise it, the spread is smaller\n";
        }
        table
    }

    /// For machines.
    pub fn lines(&self, circumstances: &Value) -> Vec<Value> {
        let line = |row: &Row| {
            let mut line = circumstances.clone();
            line["what"] = json!(format!("count: {}", row.what));
            line["unit"] = json!(row.unit);
            line["first"] = json!(row.who[0]);
            line["second"] = json!(row.who[1]);
            line["first_median"] = json!(rounded(row.medians[0]));
            line["second_median"] = json!(rounded(row.medians[1]));
            line["ratio"] = json!(rounded(row.ratio.mean));
            line["ratio_low"] = json!(rounded(row.ratio.low));
            line["ratio_high"] = json!(rounded(row.ratio.high));
            line["turns"] = json!(self.turns()[0].len());
            line["calls"] = json!(self.calls);
            line["body_bytes"] = json!(self.body_bytes);
            line
        };
        self.rows().iter().map(line).collect()
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
