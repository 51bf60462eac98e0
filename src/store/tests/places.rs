//! Places in a month, and the costs that follow from them, over many transactions.

use super::ledger::dead;
use super::{Advance, Batch, Origin, TestStore, done, new_service, on_every_store, settled};
use crate::channels::{RequestId, Settled};
use crate::store::{Ledger, Written};
use shard::catalog::{PriceModel, Tier, TokenPrices};
use shard::record::{Outcome, Record, Usage};
use shard::units::{ConsumerId, Period, ServiceId};

on_every_store! {
    a_month_has_no_gap_and_no_overlap_in_whatever_order_batches_come
    what_the_ledger_refuses_takes_no_place
    records_by_a_price_without_places_move_the_others_on
    the_dead_are_priced_behind_their_batch
    writers_at_once_wait_for_each_other_and_never_in_a_circle
}

/// 2026-11-01T00:00:00Z
const NOVEMBER_US: i64 = 1_793_491_200_000_000;
const SERVICE: u64 = 7;
const JOURNALS: [Origin; 2] =
    [Origin { journal_id: 1, instance_id: 1 }, Origin { journal_id: 2, instance_id: 2 }];

fn prices(nanousd: u64) -> TokenPrices {
    TokenPrices {
        input_nanousd_per_mtok: nanousd * 1_000_000,
        cached_input_nanousd_per_mtok: nanousd * 1_000_000,
        output_nanousd_per_mtok: nanousd * 1_000_000,
    }
}

/// A store whose service has version 1 with tiers and version 2 per token.
fn priced(store: &TestStore) -> Ledger {
    let tier = |up_to_tokens, nanousd| Tier { up_to_tokens, prices: prices(nanousd) };
    let tiers = [tier(Some(100), 7), tier(Some(250), 5), tier(None, 2)];
    let mut service = new_service(SERVICE, "tiered");
    service.price = PriceModel::Tiered(Box::new(tiers));
    let db = store.catalog();
    done(db.insert_service(service)).unwrap();
    done(db.add_price(ServiceId(SERVICE), PriceModel::PerToken(prices(11)), 9)).unwrap();
    store.ledger()
}

/// What the token behind `place` others costs by version 1.
fn price_at(place: u64) -> u64 {
    match place {
        0..100 => 7,
        100..250 => 5,
        _ => 2,
    }
}

fn call(shard: u16, seq: u64, consumer: u64, tokens: u32) -> Settled {
    let record = Record {
        record_id: u128::from(shard) << 64 | u128::from(seq),
        occurred_at_unix_us: NOVEMBER_US + seq as i64,
        period: Period(202_611),
        consumer: ConsumerId(consumer),
        service: ServiceId(SERVICE),
        price_version: 1,
        usage: Usage { input_tokens: tokens, ..Usage::default() },
        ..Record::default()
    };
    Settled { shard, ..settled(seq, record) }
}

fn write(ledger: &mut Ledger, records: &[Settled], recovered: &[Settled]) -> Written {
    let ends = [0, 1].map(|shard| {
        let mine = records.iter().filter(|it| it.shard == shard);
        mine.map(|it| it.seq + 1).max().unwrap_or(0)
    });
    let advance = |(origin, next_seq)| Advance { origin, next_seq, closed: false };
    let advances: Vec<Advance> = ends.into_iter().enumerate().map(advance).collect();
    ledger.write(&Batch { origins: &JOURNALS, records, recovered, advances: &advances }).unwrap()
}

/// Place, tokens and cost of a consumer's records that have a place, in its order.
fn placed(store: &TestStore, consumer: u64) -> Vec<[u64; 3]> {
    let select = |rows: &str, place: &str, id: &str| {
        format!(
            "SELECT {place}, input_tokens + output_tokens, cost_nanousd FROM {rows}
             WHERE consumer_id = {id} AND {place} IS NOT NULL ORDER BY 1, 2"
        )
    };
    match store {
        TestStore::Sqlite(_) => {
            let Ledger::Sqlite(ledger) = store.ledger() else { panic!("not SQLite") };
            let rows = "usage_rows JOIN usage_places USING (record_id)";
            let sql = select(rows, "month_place", &format!("'{}'", ConsumerId(consumer)));
            let mut select = ledger.connection().prepare(&sql).unwrap();
            let rows = select.query_map((), |row| {
                let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
                Ok([number(0)?, number(1)?, number(2)?])
            });
            rows.unwrap().collect::<Result<_, _>>().unwrap()
        }
        TestStore::Postgres(database) => {
            let place = "nullif(month_place, '')::bigint";
            let sql = select("usage_rows", place, &consumer.to_string());
            let rows = super::server::query(&database.url, &sql);
            let row =
                |row: &Vec<String>| [0, 1, 2].map(|column: usize| row[column].parse().unwrap());
            rows.unwrap().iter().map(row).collect()
        }
    }
}

/// One behind the other from zero on, each token at its own price; how many tokens.
fn check(placed: &[[u64; 3]]) -> u64 {
    let mut next = 0;
    for [place, tokens, cost] in placed {
        assert_eq!(*place, next, "{placed:?}");
        next += tokens;
        assert_eq!(*cost, (*place..next).map(price_at).sum::<u64>(), "{placed:?}");
    }
    next
}

fn sum(store: &TestStore, consumer: u64) -> (u64, u64) {
    let db = store.catalog();
    let months = done(db.month_costs(ConsumerId(consumer), Period(202_611))).unwrap();
    months.iter().fold((0, 0), |sum, it| (sum.0 + it.tokens, sum.1 + it.cost.0 as u64))
}

fn a_month_has_no_gap_and_no_overlap_in_whatever_order_batches_come(store: &TestStore) {
    let mut ledger = priced(store);
    // Two instances of the same service, each with a connection of its own.
    let mut other = store.ledger();
    let of = |shard, seqs: std::ops::Range<u64>| {
        seqs.map(|seq| call(shard, seq, 1 + seq % 2, 3 + seq as u32 % 11)).collect::<Vec<_>>()
    };
    let first = of(1, 20..40);
    assert_eq!(write(&mut ledger, &first, &[]).rows, 20);
    assert_eq!(write(&mut other, &of(0, 0..15), &[]).rows, 15);
    // Written again after doubt, with more behind it.
    let again = write(&mut ledger, &of(0, 0..30), &[]);
    assert_eq!((again.rows, again.skipped), (15, 15));
    assert_eq!(write(&mut other, &first, &[]).skipped, 20);
    assert_eq!(write(&mut other, &of(1, 40..60), &[]).rows, 20);
    for consumer in [1, 2] {
        let placed = placed(store, consumer);
        let tokens = check(&placed);
        assert!(placed.len() == 35 && tokens > 250, "{placed:?}");
        let cost = placed.iter().map(|[.., cost]| cost).sum();
        assert_eq!(sum(store, consumer), (tokens, cost));
    }
}

fn what_the_ledger_refuses_takes_no_place(store: &TestStore) {
    let mut ledger = priced(store);
    let mut records: Vec<Settled> = (1..=9).map(|seq| call(0, seq, 1, 40)).collect();
    // SQLite has its id already, and Postgres has no place for its request's name.
    records[4].record.record_id = records[1].record.record_id;
    records[4].request_id = RequestId::new(b"a\0b");
    let written = write(&mut ledger, &records, &[]);
    assert_eq!((written.rows, written.refused), (8, 1));
    let placed = placed(store, 1);
    assert_eq!((placed.len(), check(&placed)), (8, 320));
    assert_eq!(sum(store, 1).0, 320);
}

fn records_by_a_price_without_places_move_the_others_on(store: &TestStore) {
    let mut ledger = priced(store);
    let mut records: Vec<Settled> = (0..6).map(|seq| call(0, seq, 1, 30)).collect();
    let (flat, made) = (2, shard::units::NanoUsd(4));
    for at in [0, 3] {
        // As the shard priced it.
        (records[at].record.price_version, records[at].record.cost) = (flat, made);
    }
    write(&mut ledger, &records[..2], &[]);
    write(&mut ledger, &records, &[]);
    let costs = |place: u64| (place..place + 30).map(price_at).sum::<u64>();
    let expected = [30, 60, 120, 150].map(|place| [place, 30, costs(place)]);
    assert_eq!(placed(store, 1), expected);
    let all = expected.iter().map(|[.., cost]| cost).sum::<u64>();
    assert_eq!(sum(store, 1), (180, all + 8));
}

fn the_dead_are_priced_behind_their_batch(store: &TestStore) {
    let mut ledger = priced(store);
    // What nobody can buy any more was bought before.
    done(store.catalog().delete_service(ServiceId(SERVICE))).unwrap();
    let died = |seq, price_version| {
        let mut it = call(0, seq, 1, 60);
        (it.record.outcome, it.record.price_version) = (Outcome::Recovered, price_version);
        it
    };
    let records = [call(0, 5, 1, 70), call(0, 6, 1, 20)];
    let recovered = [died(1, 1), died(2, 2), died(3, 1)];
    let written = write(&mut ledger, &records, &recovered);
    assert_eq!((written.rows, written.recovered), (5, 3));
    let again = write(&mut ledger, &records, &recovered);
    assert_eq!((again.rows, again.skipped), (0, 5));
    let costs = |place: u64, tokens| (place..place + tokens).map(price_at).sum::<u64>();
    let expected = [(0, 70), (70, 20), (90, 60), (210, 60)];
    let expected = expected.map(|(place, tokens)| [place, tokens, costs(place, tokens)]);
    assert_eq!(placed(store, 1), expected);
    let all = expected.iter().map(|[.., cost]| cost).sum::<u64>();
    assert_eq!(sum(store, 1), (270, all + 60 * 11), "the one by the token is priced here too");
}

/// Whatever a damaged journal says of a record, its writer goes on.
#[test]
fn a_month_that_the_ledger_cannot_hold_stops_nobody() {
    let store = TestStore::postgres();
    let mut ledger = priced(&store);
    let records = [call(0, 1, 1, 5), call(0, 2, u64::MAX, 5), call(0, 3, 1, 5)];
    let written = write(&mut ledger, &records, &[]);
    assert_eq!((written.rows, written.refused), (2, 1));
    assert_eq!(check(&placed(&store, 1)), 10);
    let reason = &dead(&ledger)[0].reason;
    assert!(reason.contains("a month that the ledger cannot hold"), "{reason}");
}

/// Two writers who share their consumers: what the one has places for, the other has not, and each
/// waits for the other. Now and then all of a batch does without, or a record is refused.
fn writers_at_once_wait_for_each_other_and_never_in_a_circle(store: &TestStore) {
    const BATCHES: u64 = 24;
    const ROWS: u64 = 40;
    drop(priced(store));
    done(store.catalog().insert_service(new_service(8, "flat"))).unwrap();
    let batch = |shard: u16, number: u64| -> Vec<Settled> {
        let seqs = number * ROWS..(number + 1) * ROWS;
        let mut records: Vec<_> = seqs.map(|seq| call(shard, seq, seq % 8, 3)).collect();
        let all_flat = number.is_multiple_of(3);
        for it in &mut records {
            let is_other = (it.record.consumer.0 + u64::from(shard)).is_multiple_of(2);
            if all_flat && is_other {
                it.record.service = ServiceId(8);
            } else if all_flat || is_other {
                it.record.price_version = 2;
            }
        }
        if number % 8 == 7 {
            records[20].record.record_id = records[2].record.record_id;
            records[20].request_id = RequestId::new(b"a\0b");
        }
        records
    };
    std::thread::scope(|scope| {
        for shard in [0, 1] {
            scope.spawn(move || {
                let mut ledger = store.ledger();
                for number in 0..BATCHES {
                    let mut records = batch(shard, number);
                    // Of its own journal alone: else the watermarks would keep them apart.
                    records.iter_mut().for_each(|it| it.shard = 0);
                    let origins = &JOURNALS[usize::from(shard)..][..1];
                    let next_seq = (number + 1) * ROWS;
                    let advances = &[Advance { origin: 0, next_seq, closed: false }];
                    let batch = Batch { origins, records: &records, recovered: &[], advances };
                    let written = ledger.write(&batch).unwrap();
                    assert_eq!(written.refused, u64::from(number % 8 == 7));
                }
            });
        }
    });
    for consumer in 0..8 {
        let (mut next, mut holes) = (0, 0);
        for [place, tokens, cost] in placed(store, consumer) {
            assert!(place >= next, "{place} overlaps {next}");
            holes += place - next;
            next = place + tokens;
            assert_eq!(cost, (place..next).map(price_at).sum::<u64>());
        }
        assert!(holes > 0, "those without a place move the others on");
    }
}
