//! `tollgate usage`: metered usage and its cost, from the ledger, and the monthly fees apart from
//! it. Sums are exact.

use super::client::{AdminArgs, encoded};
use super::render::{self, csv_line, printable, thousands, usd};
use super::{CommandError, export};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Value, json};

/// What to report.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    tollgate usage --by consumer,service --from 2026-11-01 --to 2026-11-30\n  \
    tollgate usage --by day --csv > november.csv\n  \
    tollgate usage export ./tollgate-data --before 2026-11-01 --out until-october.csv"
)]
pub(super) struct UsageArgs {
    #[command(subcommand)]
    action: Option<UsageAction>,
    /// What to sum by
    #[arg(long, value_enum, value_delimiter = ',', default_value = "consumer,service")]
    by: Vec<GroupBy>,
    /// From this day on (UTC), such as 2026-11-01, or this instant, 2026-11-01T06:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to and with this day, or up to this instant
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Print CSV instead of a table; amounts in nano-USD and in USD
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(clap::Subcommand)]
enum UsageAction {
    /// Write the records of a store to a CSV file, offline or not, and verify it
    Export(export::ExportArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GroupBy {
    Consumer,
    Service,
    Day,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UsageRow {
    consumer_id: String,
    consumer: String,
    service_id: String,
    service: String,
    day: String,
    calls: u64,
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    cost_nanousd: u64,
    fees_nanousd: u64,
}

/// The report.
pub(super) fn run(args: &UsageArgs) -> Result<String, CommandError> {
    if let Some(UsageAction::Export(export)) = &args.action {
        return export::run(export);
    }
    let client = args.admin.client()?;
    let rows = client.list_with("usage", &query(args))?;
    if args.admin.json {
        return Ok(render::json(&json!({ "data": rows })));
    }
    let rows: Vec<UsageRow> = serde_json::from_value(Value::Array(rows))
        .map_err(|error| format!("the admin API answered with other rows than usage: {error}"))?;
    Ok(match args.csv {
        true => csv(&args.by, &rows),
        false => table(&args.by, &rows),
    })
}

fn query(args: &UsageArgs) -> String {
    let by: Vec<&str> = args.by.iter().map(|by| by.name()).collect();
    let mut query = format!("by={}", by.join(","));
    for (name, day) in [("from", &args.from), ("to", &args.to)] {
        if let Some(day) = day {
            query.push_str(&format!("&{name}={}", encoded(day)));
        }
    }
    query
}

impl GroupBy {
    const fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Service => "service",
            Self::Day => "day",
        }
    }

    fn of(self, row: &UsageRow) -> &str {
        let (id, name) = match self {
            Self::Consumer => (&row.consumer_id, &row.consumer),
            Self::Service => (&row.service_id, &row.service),
            Self::Day => return &row.day,
        };
        if name.is_empty() { id } else { name }
    }
}

fn table(by: &[GroupBy], rows: &[UsageRow]) -> String {
    let mut titles: Vec<String> = by.iter().map(|by| by.name().to_uppercase()).collect();
    titles.extend(
        ["CALLS", "INPUT", "CACHED", "OUTPUT", "COST (USD)", "FEES (USD)"].map(String::from),
    );
    let numbers = |numbers: [u128; 6]| {
        let [calls, input, cached, output, cost, fees] = numbers;
        let [calls, input, cached, output] = [calls, input, cached, output].map(thousands);
        [calls, input, cached, output, usd(cost), usd(fees)]
    };
    let mut lines: Vec<Vec<String>> = Vec::with_capacity(rows.len() + 1);
    let mut total = [0_u128; 6];
    for row in rows {
        let amounts = amounts(row).map(u128::from);
        for (sum, amount) in total.iter_mut().zip(amounts) {
            *sum = sum.saturating_add(amount);
        }
        let mut line: Vec<String> = by.iter().map(|by| printable(by.of(row))).collect();
        line.extend(numbers(amounts));
        lines.push(line);
    }
    if rows.len() > 1 {
        let mut line: Vec<String> = vec!["".to_string(); by.len()];
        if let Some(first) = line.first_mut() {
            *first = "total".to_string();
        }
        line.extend(numbers(total));
        lines.push(line);
    }
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    render::table(&titles, &lines)
}

fn csv(by: &[GroupBy], rows: &[UsageRow]) -> String {
    let mut titles = Vec::new();
    for by in by {
        match by {
            GroupBy::Consumer => titles.extend(["consumer_id", "consumer"]),
            GroupBy::Service => titles.extend(["service_id", "service"]),
            GroupBy::Day => titles.push("day"),
        }
    }
    titles.extend(["calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanousd"]);
    titles.extend(["cost_usd", "fees_nanousd", "fees_usd"]);
    let mut out = csv_line(titles);
    for row in rows {
        let mut line: Vec<String> = Vec::new();
        for by in by {
            match by {
                GroupBy::Consumer => line.extend([row.consumer_id.clone(), row.consumer.clone()]),
                GroupBy::Service => line.extend([row.service_id.clone(), row.service.clone()]),
                GroupBy::Day => line.push(row.day.clone()),
            }
        }
        let [counts @ .., cost, fees] = amounts(row);
        line.extend(counts.map(|count| count.to_string()));
        for amount in [cost, fees] {
            line.extend([amount.to_string(), usd(u128::from(amount)).replace(',', "")]);
        }
        out.push_str(&csv_line(line.iter().map(String::as_str)));
    }
    out
}

const fn amounts(row: &UsageRow) -> [u64; 6] {
    let UsageRow { calls, input_tokens, cached_tokens, output_tokens, .. } = *row;
    [calls, input_tokens, cached_tokens, output_tokens, row.cost_nanousd, row.fees_nanousd]
}

#[cfg(test)]
mod tests {
    use super::{GroupBy, UsageRow, csv, table};

    fn rows() -> Vec<UsageRow> {
        let row = |consumer: &str, calls, cost_nanousd| UsageRow {
            consumer_id: "c1".to_string(),
            consumer: consumer.to_string(),
            day: "2026-11-23".to_string(),
            calls,
            input_tokens: 1_200,
            cached_tokens: 200,
            output_tokens: 3_400,
            cost_nanousd,
            fees_nanousd: 20_000_000_000 * (calls / 1_000),
            ..UsageRow::default()
        };
        vec![row("Acme, \"Inc\"", 1_000, 1_234_000_000_001), row("", 1, 1)]
    }

    #[test]
    fn the_table_has_separators_exact_cost_and_a_total() {
        let expected = "\
┌─────────────┬────────────┬───────┬───────┬────────┬────────┬─────────────────┬──────────────┐
│ CONSUMER    ┆ DAY        ┆ CALLS ┆ INPUT ┆ CACHED ┆ OUTPUT ┆      COST (USD) ┆   FEES (USD) │
╞═════════════╪════════════╪═══════╪═══════╪════════╪════════╪═════════════════╪══════════════╡
│ Acme, \"Inc\" ┆ 2026-11-23 ┆ 1,000 ┆ 1,200 ┆    200 ┆  3,400 ┆ 1,234.000000001 ┆ 20.000000000 │
│ c1          ┆ 2026-11-23 ┆     1 ┆ 1,200 ┆    200 ┆  3,400 ┆     0.000000001 ┆  0.000000000 │
│ total       ┆            ┆ 1,001 ┆ 2,400 ┆    400 ┆  6,800 ┆ 1,234.000000002 ┆ 20.000000000 │
└─────────────┴────────────┴───────┴───────┴────────┴────────┴─────────────────┴──────────────┘
";
        assert_eq!(table(&[GroupBy::Consumer, GroupBy::Day], &rows()), expected);
    }

    #[test]
    fn one_row_is_its_own_total_and_none_is_an_empty_table() {
        assert!(!table(&[GroupBy::Day], &rows()[..1]).contains("total"));
        assert!(table(&[GroupBy::Day], &[]).contains("COST (USD)"));
    }

    #[test]
    fn csv_has_ids_names_and_both_units() {
        assert_eq!(
            csv(&[GroupBy::Consumer, GroupBy::Day], &rows()),
            "consumer_id,consumer,day,calls,input_tokens,cached_tokens,output_tokens,\
             cost_nanousd,cost_usd,fees_nanousd,fees_usd\r\n\
             c1,\"Acme, \"\"Inc\"\"\",2026-11-23,1000,1200,200,3400,1234000000001,\
             1234.000000001,20000000000,20.000000000\r\n\
             c1,,2026-11-23,1,1200,200,3400,1,0.000000001,0,0.000000000\r\n"
        );
    }
}
