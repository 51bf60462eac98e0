//! A ledger that is split by consumer, and what its questions read then.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::split::split;
use super::sums::{upsert_days, upsert_months};
use super::usage::{MONTH_COSTS, MONTHS};
use crate::store::StoreLocation;
use crate::store::tests::{TestStore, numbered_calls, query, write};
use shard::units::{ConsumerId, DAY_US};
use std::collections::BTreeSet;

/// Which parts of a table a statement reads.
fn parts_read(store: &TestStore, table: &str, sql: &str) -> BTreeSet<String> {
    let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}");
    let lines = query(store, &explain).into_iter().map(|row| row[0].clone());
    let part = |line: String| {
        let is_read = line.contains("Scan") && !line.contains("never executed");
        let words = line.split(' ').filter(|word| word.starts_with(table));
        words.filter(|_| is_read).map(str::to_owned).next()
    };
    lines.filter_map(part).map(|name| name.replace("_consumer_id_idx", "")).collect()
}

/// Which parts of a table a statement writes to. What EXPLAIN shows of an upsert is the table as a
/// whole: a row finds its part as it comes. That part is locked then, and no other.
fn parts_written(store: &TestStore, table: &str, sql: &str) -> BTreeSet<String> {
    let locked = format!(
        "BEGIN; {sql}; SELECT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation
             WHERE pid = pg_backend_pid() AND mode = 'RowExclusiveLock' AND relkind = 'r'
                 AND relname ~ '^{table}_\\d+$'; ROLLBACK"
    );
    query(store, &locked).into_iter().map(|mut row| row.remove(0)).collect()
}

#[test]
fn a_question_about_a_consumer_reads_one_part() {
    let store = TestStore::postgres();
    let StoreLocation::Postgres(server) = store.location() else { panic!("not Postgres") };
    let mut ledger = store.ledger();
    let records = numbered_calls(2_000, 50);
    write(&mut ledger, &records[..1_000]).unwrap();
    let sums = "SELECT count(*), sum(input_tokens), (SELECT sum(calls) FROM usage_daily),
        (SELECT sum(input_tokens) FROM usage_monthly) FROM usage_rows";
    let before = query(&store, sums);
    let mut told = Vec::new();
    split(&server, 4, |table| told.push(table.to_owned())).unwrap();
    assert!(told.len() > 6 && told[0] == "usage_daily", "{told:?}");
    assert_eq!(query(&store, sums), before);
    split(&server, 4, |table| panic!("{table} was split already")).unwrap();
    let refused = split(&server, 8, |_| {}).unwrap_err().to_string();
    assert!(refused.contains("4 parts already"), "{refused}");
    // The connection from before goes on.
    assert_eq!(write(&mut ledger, &records).unwrap().rows, 1_000);
    query(&store, "ANALYZE");
    let defaults = "SELECT count(*) FROM usage_rows_default";
    assert_eq!(query(&store, defaults), [["0"]]);

    let at = records[7].record.occurred_at_unix_us;
    let (ConsumerId(consumer), id) = (records[7].record.consumer, records[7].record.record_id);
    let month = records[7].record.period.0.to_string();
    let with = |sql: &str, [one, two]: [&str; 2]| sql.replace("$1", one).replace("$2", two);
    let consumer_text = consumer.to_string();
    let account = with(MONTH_COSTS, [&consumer_text, &month]);
    assert_eq!(parts_read(&store, "usage_monthly", &account).len(), 1);
    let arrays = [format!("'{{{consumer}}}'"), format!("'{{{month}}}'")];
    let quota = with(MONTHS, [&arrays[0], &arrays[1]]);
    assert_eq!(parts_read(&store, "usage_monthly", &quota).len(), 1);
    let record = format!(
        "SELECT 1 FROM usage_rows WHERE record_id = '{}' AND consumer_id = {consumer}
             AND occurred_at = 'epoch'::timestamptz + {at} * interval '1 microsecond'",
        uuid::Uuid::from_u128(id)
    );
    assert_eq!(parts_read(&store, "usage_rows", &record).len(), 1);
    let usage = format!("SELECT sum(calls) FROM usage_daily WHERE consumer_id = {consumer}");
    assert_eq!(parts_read(&store, "usage_daily", &usage).len(), 1);
    let day = (at / DAY_US).to_string();
    for (table, upsert, key) in
        [("usage_daily", upsert_days(), &day), ("usage_monthly", upsert_months(), &month)]
    {
        // Of the consumer's one more call, as the ledger adds it.
        let values = [&consumer_text, "2", key, "1", "5", "0", "7", "9"];
        let upsert = (1..).zip(values).fold(upsert, |sql, (at, value)| {
            sql.replace(&format!("${at}::"), &format!("'{{{value}}}'::"))
        });
        assert_eq!(parts_read(&store, table, &upsert).len(), 0, "no part is searched for its row");
        assert_eq!(parts_written(&store, table, &upsert).len(), 1, "{table}");
    }
}
