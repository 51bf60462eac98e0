//! What the writer gives to the ledger, and what is read of it.

use super::{ORIGINS, TestStore, done, on_every_store, settled, write};
use crate::channels::Settled;
use crate::store::usage::{By, Sum, SumSpan};
use crate::store::{Advance, Batch, Catalog, CatalogError, Dead, LedgerError, RecordTotals};
use shard::record::{Record, Usage};
use shard::units::{ConsumerId, KeyId, NanoUsd, Period, ServiceId};

on_every_store! {
    what_is_below_the_watermark_is_skipped
    sums_are_apart_by_what_was_asked
    bounds_with_a_time_of_day_cut_their_days_exactly
    months_are_read_in_the_order_that_they_were_asked_for
    records_of_before_a_month_are_given_out_and_dropped
}

/// 2026-11-01T00:00:00Z
const NOVEMBER_US: i64 = 1_793_491_200_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// A call that costs three times its tokens.
fn call(consumer: u64, service: u64, at_unix_us: i64, tokens: u32) -> Record {
    Record {
        record_id: at_unix_us as u128 * 1_000 + u128::from(tokens),
        occurred_at_unix_us: at_unix_us,
        period: Period::of(at_unix_us),
        consumer: ConsumerId(consumer),
        key: KeyId(1),
        service: ServiceId(service),
        status: 200,
        usage: Usage { input_tokens: tokens, output_tokens: tokens, ..Usage::default() },
        cost: NanoUsd(i64::from(tokens) * 3),
        ..Record::default()
    }
}

fn numbered(records: impl IntoIterator<Item = Record>) -> Vec<Settled> {
    records.into_iter().zip(1..).map(|(record, seq)| settled(seq, record)).collect()
}

fn sums(db: &Catalog, by: &[By], span: SumSpan) -> Vec<Sum> {
    done(db.sums(by.to_vec(), span, 100, 0)).unwrap()
}

fn what_is_below_the_watermark_is_skipped(store: &TestStore) {
    let mut ledger = store.ledger();
    assert_eq!(ledger.watermark(1), Ok((0, false)));
    let records = numbered((1..=10).map(|n| call(1, 2, NOVEMBER_US, n)));
    assert_eq!(write(&mut ledger, &records[..6]).unwrap().rows, 6);
    assert_eq!(ledger.watermark(1), Ok((7, false)));
    let written = write(&mut ledger, &records).unwrap();
    assert_eq!((written.rows, written.skipped), (4, 6));
    let batch = |closed| Batch {
        origins: &ORIGINS,
        records: &[],
        recovered: &[],
        advances: if closed {
            &[Advance { origin: 0, next_seq: 3, closed: true }]
        } else {
            &[Advance { origin: 0, next_seq: 20, closed: false }]
        },
    };
    ledger.write(&batch(true)).unwrap();
    assert_eq!(ledger.watermark(1), Ok((11, true)), "it never goes back");
    ledger.write(&batch(false)).unwrap();
    assert_eq!(store.ledger().watermark(1), Ok((20, true)));
    let sum = &sums(&store.catalog(), &[], SumSpan::default())[0];
    assert_eq!((sum.calls, sum.input_tokens, sum.cost), (10, 55, NanoUsd(165)));
    assert!(store.catalog().has_records().unwrap());
}

fn sums_are_apart_by_what_was_asked(store: &TestStore) {
    let mut ledger = store.ledger();
    let day = 24 * HOUR_US;
    write(
        &mut ledger,
        &numbered([
            call(1, 7, NOVEMBER_US - 1, 1),
            call(1, 7, NOVEMBER_US, 10),
            call(1, 8, NOVEMBER_US + day, 100),
            call(2, 7, NOVEMBER_US + day, 1_000),
        ]),
    )
    .unwrap();
    let db = store.catalog();
    let tokens = |by: &[By], span: &SumSpan| {
        let rows = sums(&db, by, span.clone());
        rows.into_iter().map(|sum| (sum.group, sum.input_tokens)).collect::<Vec<_>>()
    };
    let (one, two) = (ConsumerId(1), ConsumerId(2));
    let (chat, flat) = (ServiceId(7), ServiceId(8));
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
    let second = done(db.sums(vec![By::Day], all, 1, 1)).unwrap();
    assert_eq!(second[0].group, ["2026-11-01"]);
    let costs = done(db.month_costs(one, Period(202_611))).unwrap();
    let costs: Vec<_> = costs.iter().map(|it| (it.cost, it.calls, it.tokens)).collect();
    assert_eq!(costs, [(NanoUsd(30), 1, 20), (NanoUsd(300), 1, 200)]);
}

fn bounds_with_a_time_of_day_cut_their_days_exactly(store: &TestStore) {
    let hours = (0..96).map(|hour| call(1, 2, NOVEMBER_US + hour * HOUR_US, 1));
    write(&mut store.ledger(), &numbered(hours)).unwrap();
    let db = store.catalog();
    let calls = |span: SumSpan| {
        let sum = &sums(&db, &[], span)[0];
        assert_eq!((sum.input_tokens, sum.cost.0), (sum.calls, sum.calls * 3));
        sum.calls
    };
    let instant = |text: &str| Some(format!("2026-11-{text}.000000Z"));
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

fn months_are_read_in_the_order_that_they_were_asked_for(store: &TestStore) {
    let records = numbered([
        call(1, 7, NOVEMBER_US, 10),
        call(1, 8, NOVEMBER_US, 100),
        call(3, 7, NOVEMBER_US, 1),
        call(1, 7, NOVEMBER_US - 1, 9),
    ]);
    write(&mut store.ledger(), &records).unwrap();
    let november = Period(202_611);
    let months = [(3, november), (2, november), (1, november), (1, Period(202_610))];
    let months = months.map(|(consumer, period)| (ConsumerId(consumer), period)).to_vec();
    assert_eq!(done(store.catalog().months(months)).unwrap(), [2, 0, 220, 18]);
}

fn records_of_before_a_month_are_given_out_and_dropped(store: &TestStore) {
    let mut ledger = store.ledger();
    // This month's partition and the last one's are made at a start.
    let this_month_us = Period::of(crate::clock::unix_us()).starts_at_unix_us();
    let old = numbered([
        call(1, 7, this_month_us - 2, 10),
        call(2, 7, this_month_us - 1, 20),
        call(1, 7, this_month_us, 40),
    ]);
    write(&mut ledger, &old).unwrap();
    let mut given = Vec::new();
    let take = |columns: &[String], totals| {
        given.push((columns[0].clone(), totals));
        Ok::<(), ()>(())
    };
    ledger.each_record_before(this_month_us, take).unwrap().unwrap();
    let ids: Vec<&str> = given.iter().map(|(id, _)| &**id).collect();
    let id = |at: usize| uuid::Uuid::from_u128(old[at].record.record_id).to_string();
    assert_eq!(ids, [id(0), id(1)]);
    let totals = ledger.totals_before(this_month_us).unwrap();
    assert_eq!((totals.records, totals.tokens, totals.cost_nanousd), (2, 60, 90));
    assert_eq!(given[1].1, RecordTotals { records: 1, tokens: 40, cost_nanousd: 60 });

    while ledger.drop_before(this_month_us).unwrap() {}
    assert_eq!(ledger.totals_before(i64::MAX / 2).unwrap().records, 1);
    let db = store.catalog();
    assert_eq!(sums(&db, &[], SumSpan::default())[0].calls, 3, "sums stay");
    let cut = SumSpan {
        from_instant: Some("2020-01-01T06:00:00.000000Z".to_owned()),
        ..SumSpan::default()
    };
    let dropped = done(db.sums(vec![], cut, 1, 0)).err();
    assert!(matches!(dropped, Some(CatalogError::Dropped(_))), "{dropped:?}");
}

#[test]
fn what_sqlite_may_take_later_is_told_from_what_it_never_takes() {
    let store = TestStore::sqlite();
    let mut ledger = store.ledger();
    let records = numbered((1..=2_000).map(|n| call(1, 2, NOVEMBER_US, n)));
    let mut write = |sql: &str| {
        let crate::store::Ledger::Sqlite(sqlite) = &ledger else { panic!("not SQLite") };
        sqlite.connection().execute_batch(sql).unwrap();
        super::write(&mut ledger, &records)
    };
    let full = write("PRAGMA max_page_count = 1;");
    assert!(
        matches!(&full, Err(LedgerError::Unavailable(why)) if why.contains("full")),
        "{full:?}"
    );
    // Nothing that could be kept aside: no record is at fault.
    let refused = write(
        "PRAGMA max_page_count = 1000000;
         CREATE TEMP TRIGGER refuses BEFORE INSERT ON main.ingest_watermark
         BEGIN SELECT RAISE(ABORT, 'never'); END;",
    );
    assert_eq!(refused, Err(LedgerError::Row("never".to_owned())));
    let written = write("DROP TRIGGER refuses;").unwrap();
    assert_eq!((written.rows, written.skipped, written.refused), (2_000, 0, 0));
    assert_eq!(ledger.watermark(1), Ok((2_001, false)));
}

/// What the ledger keeps aside.
pub(super) fn dead(ledger: &crate::store::Ledger) -> Vec<Dead> {
    let mut all = Vec::new();
    let take = |dead| {
        all.push(dead);
        Ok::<(), LedgerError>(())
    };
    ledger.each_refused(take).unwrap();
    all
}
