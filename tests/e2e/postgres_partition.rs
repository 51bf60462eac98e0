//! Splitting a ledger by consumer while instances serve.

use crate::support::fleet::{Caller, Fleet};
use crate::support::instance::Instance;
use crate::support::process;
use std::process::Output;

fn split(config: &str, parts: &str) -> (Output, String) {
    let output = process::run(&["store", "partition", "--by-consumer", parts, "--config", config]);
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn a_ledger_is_split_by_consumer_while_instances_serve() {
    let fleet = Fleet::start(2);
    let (key, model, url, dir) = fleet.first(|first: &Instance| {
        let url = first.store_url().unwrap().to_owned();
        (first.key("bench").to_owned(), first.model("tiered").to_owned(), url, first.data_dir())
    });
    fleet.served(&key);
    let path = dir.join("split.toml");
    std::fs::write(&path, format!("[store]\nurl = \"{url}\"\n")).unwrap();
    let config = path.to_str().unwrap();
    let caller = Caller::new(&key, &model);
    fleet.under_load(2, &caller, || {
        fleet.answers(200);
        let (output, said) = split(config, "4");
        assert!(output.status.success(), "{said}");
        for table in ["usage_daily", "usage_monthly", "usage_fees", "usage_rows_2"] {
            assert!(said.contains(&format!("split: {table}")), "{said}");
        }
        assert!(said.contains("records and sums are in 4 parts, by consumer\n"), "{said}");
        fleet.answers(200);
    });
    fleet.balance_books(false);
    // Of every month there is, and of each table of sums.
    let parts = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relispartition
         AND relname ~ '^usage_(rows_\\d{4}_\\d{2}|daily|monthly|fees)_\\d+$'";
    let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'p'
         AND relname ~ '^usage_(rows_\\d{4}_\\d{2}|daily|monthly|fees)$'";
    let count = |sql: &str| fleet.sql(sql)[0][0].parse::<u64>().unwrap();
    assert!(count(tables) > 4);
    assert_eq!(count(parts), 4 * count(tables));
    assert_eq!(fleet.sql("SELECT count(*) FROM usage_rows_default"), [["0"]]);

    let (again, said) = split(config, "4");
    assert!(again.status.success() && !said.contains("split: "), "{said}");
    let (other, said) = split(config, "8");
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains("it is split into 4 parts already"), "{said}");
    assert_eq!(count(parts), 4 * count(tables));
}

#[test]
fn only_a_ledger_in_postgres_can_be_split() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate.toml");
    std::fs::write(&path, "").unwrap();
    let (output, said) = split(path.to_str().unwrap(), "4");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the store is embedded"), "{said}");
    let help = process::run(&["store", "partition", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Instances go on meanwhile"), "{help}");
}
