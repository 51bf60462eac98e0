//! The catalog's tables against a real SQLite file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::ledger::SqliteLedger;
use super::turns::take_turn;
use super::usage::{has_records, sums};
use super::{file, plans, services};
use crate::channels::Settled;
use crate::store::batch::{Advance, Batch, Origin};
use crate::store::error::CatalogError;
use crate::store::tests::{new_service, newest};
use crate::store::transfer_tables::TABLES;
use crate::store::usage::{By, SumSpan};
use rusqlite::Connection;
use shard::catalog::{PriceModel, TokenPrices};
use shard::record::{Record, Usage};
use shard::units::{ConsumerId, KeyId, NanoUsd, ServiceId};
use std::cell::RefCell;
use std::path::Path;

/// A store by one connection, without lanes.
struct Store(RefCell<Connection>);

impl Store {
    fn open(dir: &Path) -> Self {
        let mut connection = file::open(dir).unwrap();
        plans::seed(&mut connection).unwrap();
        Self(RefCell::new(connection))
    }

    fn run_here<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        work(&mut self.0.borrow_mut())
    }
}

/// A ledger of whole days, each with `per_day` records and their daily sums.
fn ledger_of(days: u32, per_day: u32) -> impl FnOnce(&mut Connection) -> Result<(), CatalogError> {
    move |db| {
        let transaction = db.transaction()?;
        let sql = format!(
            "INSERT INTO usage_instances VALUES (1, 'i');
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n
                 WHERE i + 1 < {total})
             INSERT INTO usage_rows SELECT CAST(printf('%08d', i) AS BLOB),
                 (1793491200 + i * 86400 / {per_day}) * 1000000, 'q', 'consumer', 'key',
                 'service', 200, 0, 0, 1, 0, 2, 0, 1, 3, 1, 1, 1, 1, 1 FROM n;
             INSERT INTO usage_places SELECT record_id, 0 FROM usage_rows;
             INSERT INTO usage_daily SELECT consumer_id, service_id, substr(occurred_at, 1, 10),
                 period, count(*), sum(input_tokens), 0, sum(output_tokens), sum(cost_nanousd), 0
             FROM usage_records GROUP BY 3;",
            total = days * per_day,
        );
        transaction.execute_batch(&sql)?;
        Ok(transaction.commit()?)
    }
}

fn instant(text: &str) -> Option<String> {
    Some(format!("2026-11-{text}.000000Z"))
}

#[test]
fn a_time_of_day_reads_no_record_of_the_days_between() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store.run_here(ledger_of(30, 1_000)).unwrap();
    let summed = store.run_here(|db| {
        // Each look is a hundred steps of SQLite's; a scan of all records takes 300 000 and more.
        let looks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = std::sync::Arc::clone(&looks);
        let is_over = move || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            false
        };
        db.progress_handler(100, Some(is_over))?;
        let (from_instant, before_instant) = (instant("01T23:50:00"), instant("30T00:10:00"));
        let span = SumSpan { from_instant, before_instant, ..SumSpan::default() };
        let summed = sums(db, &[By::Day], &span, 100, 0)?;
        Ok((summed.len(), looks.load(std::sync::atomic::Ordering::Relaxed)))
    });
    let (days, looks) = summed.unwrap();
    assert_eq!(days, 30);
    assert!(looks < 100, "{looks} × 100 steps");
}

/// What writes between the first read of a change and its first write used to fail it.
#[test]
fn changes_of_prices_take_their_turn_with_the_ledgers_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store.run_here(|db| services::insert(db, &new_service(1, "a"))).unwrap();
    let mut ledger = file::open(dir.path()).unwrap();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = std::sync::Arc::clone(&is_over);
    let writer = std::thread::spawn(move || {
        let mut batches = 0;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            let _turn = take_turn();
            let transaction = ledger.transaction().unwrap();
            let insert = "INSERT INTO ingest_watermark VALUES (?1, 1, 0)
                          ON CONFLICT (journal_id) DO UPDATE SET next_seq = next_seq + 1";
            transaction.execute(insert, ["j"]).unwrap();
            transaction.commit().unwrap();
            batches += 1;
        }
        batches
    });
    for version in 2..12 {
        let free = PriceModel::PerToken(TokenPrices::default());
        let added = store.run_here(move |db| {
            let _turn = take_turn();
            services::add_price(db, ServiceId(1), &free, 9)
        });
        assert_eq!(newest(added.unwrap()), version);
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0);
}

#[test]
fn a_record_takes_at_most_150_bytes_with_its_indexes() {
    const ROWS: u32 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = SqliteLedger::open(dir.path()).unwrap();
    let pages = |ledger: &SqliteLedger| -> i64 {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        ledger.connection().query_row(sql, (), |row| row.get(0)).unwrap()
    };
    let empty = pages(&ledger);
    let origins = [Origin { journal_id: 1, instance_id: 2 }];
    let settled = |n: u32| {
        let begun_us = 1_795_465_080_000_000 + u64::from(n) * 900;
        let random = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 54;
        let record = Record {
            record_id: u128::from(begun_us / 1_000) << 80 | 7 << 76 | random,
            occurred_at_unix_us: begun_us as i64 + 40,
            consumer: ConsumerId(u64::MAX >> 5),
            key: KeyId(u64::MAX >> (5 + n % 3)),
            service: ServiceId(u64::MAX >> 6),
            status: 200,
            streamed: true,
            usage: Usage { input_tokens: 1_500, output_tokens: 400, ..Usage::default() },
            price_version: 3,
            cost: NanoUsd(1_234_567 + i64::from(n)),
            attempts: 1,
            latency_us: 2_300_000,
            ttft_us: 310_000,
            overhead_us: 25,
            ..Record::default()
        };
        Settled { shard: 0, seq: n.into(), prev_end: n.into(), record, request_id: None }
    };
    for first in (0..ROWS).step_by(4_000) {
        let records: Vec<Settled> = (first..first + 4_000).map(settled).collect();
        let next_seq = u64::from(first) + 4_000;
        let advances = [Advance { origin: 0, next_seq, closed: false }];
        let batch =
            Batch { origins: &origins, records: &records, recovered: &[], advances: &advances };
        assert_eq!(ledger.write(&batch).unwrap().rows, 4_000);
    }
    let bytes = (pages(&ledger) - empty) / i64::from(ROWS);
    assert!((100..=150).contains(&bytes), "{bytes} bytes a record");
}

#[test]
fn what_was_kept_for_long_enough_goes_and_its_sums_by_day_stay() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).run_here(ledger_of(4, 1_500)).unwrap();
    let mut ledger = SqliteLedger::open(dir.path()).unwrap();
    let third_us = 1_793_491_200_000_000 + 2 * 86_400_000_000;
    let totals = ledger.totals_before(third_us).unwrap();
    assert_eq!((totals.records, totals.tokens, totals.cost_nanousd), (3_000, 9_000, 9_000));
    let mut slices = 1;
    while ledger.drop_before(third_us).unwrap() {
        slices += 1;
    }
    assert_eq!(slices, 4, "three of 1 000 records and a look that finds none");
    assert_eq!(ledger.totals_before(i64::MAX).unwrap().records, 3_000);
    let places = "SELECT count(*) FROM usage_places";
    let places = ledger.connection().query_row(places, (), |row| row.get::<_, i64>(0));
    assert_eq!(places, Ok(3_000));
    let store = Store::open(dir.path());
    let summed = |span: SumSpan| {
        store.run_here(move |db| sums(db, &[], &span, 1, 0)).map(|summed| summed[0].calls)
    };
    assert_eq!(summed(SumSpan::default()).unwrap(), 6_000);
    let from = |text| SumSpan { from_instant: instant(text), ..SumSpan::default() };
    assert_eq!(summed(from("03T12:00:00")).unwrap(), 2_250);
    for (span, what) in [
        (from("02T12:00:00"), "the second day's records are gone"),
        (SumSpan { before_instant: instant("01T00:00:01"), ..SumSpan::default() }, "the first's"),
    ] {
        let refused = summed(span);
        assert!(
            matches!(&refused, Err(CatalogError::Dropped(day)) if day == "2026-11-03"),
            "{what}"
        );
    }
    while ledger.drop_before(i64::MAX).unwrap() {}
    assert_eq!(ledger.totals_before(i64::MAX).unwrap().records, 0);
    assert!(store.run_here(|db| has_records(db)).unwrap(), "calls were admitted all the same");
    // A shorter time to keep that is made longer again brings nothing back.
    assert!(!ledger.drop_before(0).unwrap());
    assert!(summed(from("02T12:00:00")).is_err());
}

#[test]
fn no_table_and_no_column_is_left_behind_by_a_transfer() {
    /// Columns that another one tells there, or that are empty; the list of migrations stays, and
    /// places are a column there.
    const OTHERWISE: [&str; 5] =
        ["occurred_at_us", "cost_carry", "credential_header", "streamed", "estimated"];
    let dir = tempfile::tempdir().unwrap();
    let db = super::file::open(dir.path()).unwrap();
    let columns = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT IN ('schema_migrations', 'usage_places')";
    let mut select = db.prepare(columns).unwrap();
    let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let there: Vec<(String, String)> =
        select.query_map((), pair).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(there.len() > 80, "{}", there.len());
    for (table, column) in &there {
        let goes = TABLES
            .iter()
            .any(|it| it.name == table && it.columns.iter().any(|(name, _)| name == column));
        assert!(goes || OTHERWISE.contains(&&**column), "{table}.{column}");
    }
}
