//! The catalog's tables against a real SQLite file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::ledger::SqliteLedger;
use super::turns::take_turn;
use super::usage::{month_costs, month_tokens, sums};
use super::{consumers, file, keys, plans, services};
use crate::channels::Settled;
use crate::store::batch::{Advance, Batch, Origin};
use crate::store::error::CatalogError;
use crate::store::rows::{ConsumerChange, Digest, NewKey, NewService, Page, ServiceRow};
use crate::store::usage::{By, MonthOfConsumer, SumSpan};
use rusqlite::Connection;
use shard::catalog::{PriceModel, TokenPrices};
use shard::record::{Record, Usage};
use shard::units::{BucketId, ConsumerId, KeyId, NanoUsd, Period, PlanId, ServiceId};
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

/// The newest version of a service's price.
fn newest(row: ServiceRow) -> u32 {
    row.prices.iter().map(|row| row.price.version).max().unwrap()
}

fn new_service(id: u64, name: &str) -> NewService {
    NewService {
        id: ServiceId(id),
        name: name.to_owned(),
        base_url: "http://127.0.0.1:1".to_owned(),
        default_path: "/v1/chat/completions".to_owned(),
        credential: None,
        enabled: true,
        price: PriceModel::PerToken(TokenPrices::default()),
        effective_at_unix_us: 5,
    }
}

#[test]
fn a_new_store_has_the_contracts_plans_and_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let list = |store: &Store| {
        let rows = store.run_here(|db| plans::list(db, Page::EVERYTHING)).unwrap();
        rows.into_iter().map(|row| row.plan).collect::<Vec<_>>()
    };
    let first = list(&Store::open(dir.path()));
    let terms: Vec<_> = first
        .iter()
        .map(|plan| (&*plan.name, plan.rate_per_s, plan.burst, plan.quota_tokens))
        .collect();
    assert_eq!(
        terms,
        [
            ("basic", 10, 10, 100_000),
            ("premium", 100, 100, 10_000_000),
            ("enterprise", 1_000, 1_000, 1_000_000_000),
        ]
    );
    assert_eq!(list(&Store::open(dir.path())), first);
}

#[test]
fn names_are_taken_once_and_lists_are_paged_in_order_of_creation() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store
        .run_here(|db| {
            for (id, name) in [(9, "z"), (3, "a"), (5, "m")] {
                services::insert(db, &new_service(id, name))?;
            }
            let again = services::insert(db, &new_service(6, "a")).err();
            assert!(matches!(again, Some(CatalogError::Duplicate)));
            let page = services::list(db, Page { limit: 2, after: 0 })?;
            let names: Vec<&str> = page.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, ["z", "a"]);
            let rest = services::list(db, Page { limit: 2, after: page[1].place })?;
            assert_eq!(rest.len(), 1);
            assert!(matches!(services::get(db, ServiceId(1)).err(), Some(CatalogError::Missing)));
            Ok(())
        })
        .unwrap();
}

#[test]
fn prices_are_versions_in_order_of_their_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    let versions = store
        .run_here(|db| {
            services::insert(db, &new_service(1, "a"))?;
            let free = PriceModel::PerToken(TokenPrices::default());
            assert_eq!(newest(services::add_price(db, ServiceId(1), &free, 9)?), 2);
            assert_eq!(newest(services::add_price(db, ServiceId(1), &free, 7)?), 3);
            assert_eq!(newest(services::add_price(db, ServiceId(1), &free, 9)?), 4);
            let missing = services::add_price(db, ServiceId(2), &free, 9).err();
            assert!(matches!(missing, Some(CatalogError::Missing)));
            Ok(services::get(db, ServiceId(1))?.prices)
        })
        .unwrap();
    let versions: Vec<u32> = versions.iter().map(|row| row.price.version).collect();
    assert_eq!(versions, [1, 3, 2, 4]);
}

#[test]
fn sums_are_apart_by_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    let (one, two) = (ConsumerId(1), ConsumerId(2));
    let (chat, flat) = (ServiceId(7), ServiceId(8));
    store
        .run_here(move |db| {
            for (consumer, service, day, tokens) in [
                (one, chat, "2026-10-31", 1),
                (one, chat, "2026-11-01", 10),
                (one, flat, "2026-11-02", 100),
                (two, chat, "2026-11-02", 1_000),
            ] {
                db.execute(
                    "INSERT INTO usage_daily
                     VALUES (?1, ?2, ?3, substr(?3, 1, 7), 2, ?4, 0, ?4, ?4, 0)",
                    (consumer.to_string(), service.to_string(), day, tokens),
                )?;
            }
            let tokens = |by: &[By], span: &SumSpan| {
                let rows = sums(db, by, span, 100, 0).unwrap();
                rows.into_iter().map(|sum| (sum.group, sum.input_tokens)).collect::<Vec<_>>()
            };
            let all = SumSpan::default();
            assert_eq!(tokens(&[], &all), [(vec![], 1_111)]);
            let by_consumer = [(vec![one.to_string()], 111), (vec![two.to_string()], 1_000)];
            assert_eq!(tokens(&[By::Consumer], &all), by_consumer);
            let november = SumSpan {
                from_day: Some("2026-11-01".to_owned()),
                to_day: Some("2026-11-02".to_owned()),
                ..SumSpan::default()
            };
            let days = [
                (vec!["2026-11-01".to_owned(), chat.to_string()], 10),
                (vec!["2026-11-02".to_owned(), chat.to_string()], 1_000),
                (vec!["2026-11-02".to_owned(), flat.to_string()], 100),
            ];
            assert_eq!(tokens(&[By::Day, By::Service], &november), days);
            assert_eq!(sums(db, &[By::Day], &all, 1, 1)?[0].group, ["2026-11-01"]);
            let period = Period(202_611);
            let month = |service| MonthOfConsumer { consumer: one, service, period };
            assert_eq!(month_tokens(db, month(None))?, 220);
            assert_eq!(month_tokens(db, month(Some(chat)))?, 20);
            let costs = month_costs(db, one, period)?;
            let costs: Vec<_> = costs.iter().map(|it| (it.cost, it.calls, it.tokens)).collect();
            assert_eq!(costs, [(NanoUsd(10), 2, 20), (NanoUsd(100), 2, 200)]);
            Ok(())
        })
        .unwrap();
}

fn new_key(id: u64, consumer: u64, service: Option<u64>) -> NewKey {
    NewKey {
        id: KeyId(id),
        consumer: ConsumerId(consumer),
        bucket: BucketId(id),
        name: None,
        secret_hash: "x".to_owned(),
        digest: Digest { key_name: [1; 8], digest: [2; 32] },
        services: service.map(|id| [ServiceId(id)].into()),
        expires_at_unix_us: None,
    }
}

#[test]
fn what_is_used_stays_and_what_is_deleted_is_used_by_nobody_any_more() {
    fn in_use<T>(refused: Result<T, CatalogError>) -> String {
        match refused.err() {
            Some(CatalogError::InUse(by)) => by,
            other => format!("{other:?}"),
        }
    }
    fn deleted<T>(refused: Result<T, CatalogError>) -> &'static str {
        match refused.err() {
            Some(CatalogError::Deleted(field)) => field,
            _ => "nothing",
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store
        .run_here(|db| {
            let plan = plans::find(db, "basic")?.unwrap_or(PlanId(0));
            for id in 1..=5 {
                consumers::insert(db, ConsumerId(id), &format!("c{id}"), plan)?;
            }
            services::insert(db, &new_service(8, "s"))?;
            let first = keys::insert(db, &new_key(1, 1, Some(8)))?;
            keys::insert(db, &new_key(2, 1, None))?;
            assert_eq!(in_use(plans::delete(db, plan)), "consumers c1, c2, c3 and 2 more");
            let (one, two) = (KeyId(1), KeyId(2));
            let both = format!("keys {one}, {two}");
            assert_eq!(in_use(consumers::delete(db, ConsumerId(1))), both);
            assert_eq!(in_use(services::delete(db, ServiceId(8))), format!("key {one}"));

            // A key ends, and so does a revoked one.
            keys::rotate(db, first.id, &new_key(3, 1, Some(8)), Some(1))?;
            assert_eq!(in_use(services::delete(db, ServiceId(8))), format!("key {}", KeyId(3)));
            keys::revoke(db, KeyId(3))?;
            keys::revoke(db, two)?;
            assert_eq!(services::delete(db, ServiceId(8))?.name, "s");
            assert_eq!(consumers::delete(db, ConsumerId(1))?.name, "c1");
            (2..=5).try_for_each(|id| consumers::delete(db, ConsumerId(id)).map(drop))?;
            assert_eq!(&*plans::delete(db, plan)?.plan.name, "basic");

            // Whoever had looked them up before.
            assert_eq!(deleted(consumers::insert(db, ConsumerId(6), "c6", plan)), "plan");
            assert_eq!(deleted(keys::insert(db, &new_key(4, 1, None))), "consumer_id");
            let premium = plans::find(db, "premium")?.unwrap_or(PlanId(0));
            consumers::insert(db, ConsumerId(7), "c1", premium)?;
            assert_eq!(deleted(keys::insert(db, &new_key(4, 7, Some(8)))), "services");
            let renamed = ConsumerChange { name: Some("x".to_owned()), plan: None };
            let missing = consumers::update(db, ConsumerId(1), &renamed).err();
            assert!(matches!(missing, Some(CatalogError::Missing)));
            let missing = services::add_price(db, ServiceId(8), &new_service(8, "s").price, 9);
            assert!(matches!(missing.err(), Some(CatalogError::Missing)));

            services::insert(db, &new_service(9, "s"))?;
            let again = services::insert(db, &new_service(10, "s")).err();
            assert!(matches!(again, Some(CatalogError::Duplicate)));
            assert_eq!(services::list(db, Page::EVERYTHING)?.len(), 1);
            assert_eq!(services::every_price(db)?.len(), 2);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_rotated_key_ends_no_later_than_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store
        .run_here(|db| {
            let plan = plans::find(db, "basic")?.unwrap_or(PlanId(0));
            consumers::insert(db, ConsumerId(1), "c", plan)?;
            services::insert(db, &new_service(3, "s"))?;
            let key = |id, expires_at_unix_us| NewKey {
                bucket: BucketId(4),
                expires_at_unix_us,
                ..new_key(id, 1, Some(3))
            };
            let first = keys::insert(db, &key(1, Some(50)))?;
            assert_eq!(first.services.as_deref(), Some(&[ServiceId(3)][..]));
            let [old, _] = keys::rotate(db, first.id, &key(2, None), Some(70))?;
            assert_eq!(old.expires_at_unix_us, Some(50));
            let [old, new] = keys::rotate(db, first.id, &key(3, None), Some(30))?;
            assert_eq!((old.expires_at_unix_us, new.expires_at_unix_us), (Some(30), None));
            let [old, _] = keys::rotate(db, first.id, &key(5, None), None)?;
            assert!(old.revoked_at.is_some());
            let living = keys::unrevoked(db, Page::EVERYTHING)?;
            let living: Vec<u64> = living.iter().map(|row| row.id.0).collect();
            assert_eq!(living, [2, 3, 5]);
            assert_eq!(keys::list(db, Some(ConsumerId(1)), Page::EVERYTHING)?.len(), 4);
            assert_eq!(keys::list(db, Some(ConsumerId(2)), Page::EVERYTHING)?.len(), 0);
            assert_eq!(keys::list(db, None, Page { limit: 1, after: 2 })?[0].id.0, 3);
            Ok(())
        })
        .unwrap();
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
fn bounds_with_a_time_of_day_cut_their_days_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path());
    store.run_here(ledger_of(4, 24)).unwrap();
    let calls = |span: SumSpan| {
        let summed = store.run_here(move |db| sums(db, &[], &span, 1, 0)).unwrap();
        let sum = &summed[0];
        assert_eq!((sum.input_tokens, sum.cost.0), (sum.calls, sum.calls * 3));
        sum.calls
    };
    let day = |text: &str| Some(format!("2026-11-{text}"));
    let from = |text| SumSpan { from_instant: instant(text), ..SumSpan::default() };
    let before = |text| SumSpan { before_instant: instant(text), ..SumSpan::default() };
    assert_eq!(calls(SumSpan::default()), 96);
    assert_eq!(calls(from("01T01:00:00")), 95);
    assert_eq!(calls(from("02T12:30:00")), 11 + 48);
    assert_eq!(calls(before("02T12:00:00")), 24 + 12);
    let both = |first, last| SumSpan { before_instant: instant(last), ..from(first) };
    assert_eq!(calls(both("01T23:00:00", "03T00:00:01")), 1 + 24 + 1);
    assert_eq!(calls(both("02T10:00:00", "02T12:00:00")), 2);
    assert_eq!(calls(SumSpan { to_day: day("02"), ..from("02T20:00:00") }), 4);
    assert_eq!(calls(SumSpan { from_day: day("02"), ..before("03T02:00:00") }), 24 + 2);
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
    // A shorter time to keep that is made longer again brings nothing back.
    assert!(!ledger.drop_before(0).unwrap());
    assert!(summed(from("02T12:00:00")).is_err());
}
