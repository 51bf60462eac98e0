//! What only a server can do to its callers.

use super::ledger::dead;
use super::{TestStore, done, settled, write};
use crate::channels::RequestId;
use crate::store::{Catalog, CatalogError, Ledger, LedgerError, Page, PostgresServer};
use crate::store::{RECORD_COLUMNS, StoreLocation, SumSpan};
use shard::record::{Record, Usage};
use shard::units::{ConsumerId, NanoUsd, Nanos, Period, ServiceId};

fn database(store: &TestStore) -> &super::Database {
    match store {
        TestStore::Postgres(database) => database,
        TestStore::Sqlite(_) => panic!("not Postgres"),
    }
}

/// Does `sql` in the store's database.
pub(in crate::store) fn query(store: &TestStore, sql: &str) -> Vec<Vec<String>> {
    super::server::query(&database(store).url, sql).unwrap()
}

fn now_us() -> i64 {
    crate::clock::unix_us()
}

pub(super) fn call(n: u64) -> Record {
    Record {
        record_id: n.into(),
        occurred_at_unix_us: now_us(),
        period: Period::of(now_us()),
        consumer: ConsumerId(1),
        service: ServiceId(2),
        usage: Usage { input_tokens: 1, ..Usage::default() },
        ..Record::default()
    }
}

#[test]
fn instances_that_start_at_once_make_one_schema() {
    let store = TestStore::postgres();
    let location = store.location();
    let opened: Vec<_> = (0..4)
        .map(|_| {
            let location = location.clone();
            std::thread::spawn(move || {
                let catalog = Catalog::open(location.clone()).unwrap();
                Ledger::open(location).unwrap();
                done(catalog.plans(Page::EVERYTHING)).unwrap().len()
            })
        })
        .collect();
    for opened in opened {
        assert_eq!(opened.join().unwrap(), 3, "each finds the plans, once");
    }
    let applied = query(&store, "SELECT name FROM schema_migrations ORDER BY name");
    let names = [
        "0001_create_catalog",
        "0002_create_usage",
        "0003_narrow_usage_indexes",
        "0004_place_usage",
        "0005_transfer_from_embedded",
        "0006_split_by_consumer",
        "0007_name_secrets",
        "0008_pack_usage",
    ];
    assert_eq!(applied, names.map(|name| [name]));
}

#[test]
fn a_store_of_another_program_is_refused() {
    let store = TestStore::postgres();
    drop(store.catalog());
    let refusal = |sql: &str| {
        query(&store, sql);
        Ledger::open(store.location()).err().unwrap().to_string()
    };
    let newer = refusal("INSERT INTO schema_migrations VALUES ('9999_later', 'x')");
    assert!(newer.contains("9999_later"), "{newer}");
    let other = refusal(
        "DELETE FROM schema_migrations WHERE name = '9999_later';
         UPDATE schema_migrations SET checksum = 'x' WHERE name = '0002_create_usage'",
    );
    assert!(other.contains("0002_create_usage"), "{other}");
}

#[test]
fn records_go_into_their_month_and_strays_move_once_it_has_a_partition() {
    let store = TestStore::postgres();
    let mut ledger = store.ledger();
    let stray = Record { occurred_at_unix_us: 1, period: Period(197_001), ..call(2) };
    write(&mut ledger, &[settled(1, call(1)), settled(2, stray)]).unwrap();
    let count = |table: &str| query(&store, &format!("SELECT count(*) FROM {table}"));
    let month = format!("usage_rows_{}", Period::of(now_us()).to_string().replace('-', "_"));
    assert_eq!(
        (count(&month), count("usage_rows_default")),
        (vec![vec!["1".into()]], vec![vec!["1".into()]])
    );
    // As if nobody had made this month's ahead.
    query(
        &store,
        &format!(
            "BEGIN; ALTER TABLE usage_rows DETACH PARTITION {month};
         INSERT INTO usage_rows SELECT * FROM {month}; DROP TABLE {month}; COMMIT"
        ),
    );
    assert_eq!(count("usage_rows_default"), [["2"]]);
    drop(store.ledger());
    assert_eq!(count(&month), [["1"]]);
    assert_eq!(count("usage_rows"), [["2"]]);
}

#[test]
fn a_row_takes_no_more_than_150_bytes_with_its_indexes() {
    const ROWS: u64 = 50_000;
    // As few calls of each, in no order, as a million calls by 300 000 are.
    const CONSUMERS: u64 = 15_000;
    let store = TestStore::postgres();
    let mut ledger = store.ledger();
    for from in (1..=ROWS).step_by(10_000) {
        let mix = |n: u64, shift: u32, by: u64| (n ^ n >> shift).wrapping_mul(by);
        let scattered = |n: u64| {
            let mixed = mix(mix(n, 30, 0xbf58_476d_1ce4_e5b9), 27, 0x94d0_49bb_1331_11eb);
            (mixed ^ mixed >> 31) % CONSUMERS
        };
        let call = |n| Record { consumer: ConsumerId(scattered(n)), ..call(n) };
        let records: Vec<_> = (from..from + 10_000).map(|n| settled(n, call(n))).collect();
        write(&mut ledger, &records).unwrap();
    }
    let size = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('usage_rows')
                WHERE isleaf AND pg_relation_size(relid) > 0";
    let bytes: u64 = query(&store, size)[0][0].parse().unwrap();
    assert!(bytes <= ROWS * 150, "{} bytes a row", bytes / ROWS);
}

#[test]
fn records_are_given_out_as_the_view_shows_them() {
    let store = TestStore::postgres();
    let mut ledger = store.ledger();
    done(store.catalog().insert_service(super::new_service(2, "chat"))).unwrap();
    let usage = Usage { input_tokens: 5, cached_tokens: 3, output_tokens: 7, estimated: true };
    let full =
        Record { status: 504, streamed: true, usage, price_version: 3, attempts: 2, ..call(1) };
    let other = Record { service: ServiceId(9), cost: NanoUsd(11), ..call(2) };
    let mut records = [settled(1, full), settled(2, other)];
    records[1].request_id = RequestId::new(b"mine");
    write(&mut ledger, &records).unwrap();
    let mut given = Vec::new();
    let take = |columns: &[String], _| {
        given.push(columns.to_vec());
        Ok::<(), ()>(())
    };
    ledger.each_record_before(i64::MAX / 4, take).unwrap().unwrap();
    let columns = RECORD_COLUMNS.join(", ").replace("streamed", "streamed::integer");
    let shown = query(&store, &format!("SELECT {columns} FROM usage_records ORDER BY record_id"));
    assert_eq!(given, shown);
    let room = ledger.room().unwrap();
    assert!(room.used_bytes > 1 << 20 && room.free_bytes == Some((1 << 40) - room.used_bytes));
}

#[test]
fn control_holds_no_more_connections_than_it_may() {
    for (connections_max, held) in [(2, "2"), (3, "3"), (4, "4"), (9, "4")] {
        let store = TestStore::postgres();
        let StoreLocation::Postgres(server) = store.location() else { panic!("not Postgres") };
        let server = PostgresServer { connections_max, ..server };
        let catalog = Catalog::open(StoreLocation::Postgres(server)).unwrap();
        done(async {
            let plans = catalog.plans(Page::EVERYTHING).await.unwrap();
            catalog.plan(plans[0].plan.id).await.unwrap();
            catalog.month_costs(ConsumerId(1), Period(202_611)).await.unwrap();
            catalog.sums(Vec::new(), SumSpan::default(), 1, 0).await.unwrap();
        });
        let count = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'tollgate'";
        // The one that brought the schema up to date may still be about to end.
        let until = crate::clock::now().after(Nanos::from_s(10));
        while query(&store, count) != [[held]] {
            assert!(crate::clock::now() < until, "{:?} of {connections_max}", query(&store, count));
        }
    }
}

#[test]
fn a_poisoned_record_is_kept_aside_and_the_others_go_in() {
    let store = TestStore::postgres();
    let mut ledger = store.ledger();
    query(
        &store,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
         CREATE TRIGGER refuses BEFORE INSERT ON usage_rows FOR EACH ROW
             WHEN (NEW.input_tokens = 77) EXECUTE FUNCTION refuse()",
    );
    let mut records: Vec<_> = (1..=1_000).map(|n| settled(n, call(n))).collect();
    records[300].record.usage.input_tokens = 77;
    records[301].request_id = RequestId::new(b"a\0b");
    records[999].record.usage.output_tokens = u32::MAX;
    let written = write(&mut ledger, &records).unwrap();
    assert_eq!((written.rows, written.refused), (997, 3));
    assert_eq!((ledger.watermark(1), ledger.count_refused()), (Ok((1_001, false)), Ok(3)));
    let dead = dead(&ledger);
    let told: Vec<(i64, &str)> = dead.iter().map(|it| (it.seq, &*it.reason)).collect();
    assert_eq!((told[0], told[1].0), ((301, "not this one"), 302));
    assert!(told[1].1.contains("0x00"), "{told:?}");
    assert_eq!(told[2], (1_000, "output_tokens is out of range: 4294967295"));
    assert_eq!(dead[0].record, Some(records[300].record));
    let sums = "SELECT calls, input_tokens FROM usage_daily";
    assert_eq!(query(&store, sums), [["997", "997"]]);
}

#[test]
fn what_a_server_may_take_later_is_no_poison() {
    let store = TestStore::postgres();
    let mut ledger = store.ledger();
    let records: Vec<_> = (1..=10).map(|n| settled(n, call(n))).collect();
    query(
        &store,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'disk full'; END $$;
         CREATE TRIGGER refuses BEFORE INSERT ON usage_rows FOR EACH ROW
             EXECUTE FUNCTION refuse()",
    );
    let full = write(&mut ledger, &records);
    assert_eq!(full, Err(LedgerError::Unavailable("disk full".to_owned())));
    query(&store, "DROP TRIGGER refuses ON usage_rows");
    assert_eq!(write(&mut ledger, &records).unwrap().rows, 10);
    assert_eq!(ledger.count_refused(), Ok(0));
}

#[test]
fn a_lost_connection_is_found_again_and_loses_nothing() {
    let store = TestStore::postgres();
    let (mut ledger, catalog) = (store.ledger(), store.catalog());
    let records: Vec<_> = (1..=10).map(|n| settled(n, call(n))).collect();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    write(&mut ledger, &records[..3]).unwrap();
    query(&store, cut);
    // Whoever was cut off hears of it once, or not at all.
    let written = write(&mut ledger, &records).or_else(|_| write(&mut ledger, &records)).unwrap();
    assert_eq!((written.rows, written.skipped), (7, 3));
    let plans = || done(catalog.plans(Page::EVERYTHING));
    let plans = plans().or_else(|_| plans()).unwrap();
    assert_eq!(plans.len(), 3);
}

#[test]
fn a_server_that_is_away_is_told_from_an_answer() {
    let store = TestStore::postgres();
    let catalog = store.catalog();
    let name = query(&store, "SELECT current_database()")[0][0].clone();
    let elsewhere = database(&store).url.replace(&name, "postgres");
    let drop_it = format!("DROP DATABASE {name} WITH (FORCE)");
    super::server::query(&elsewhere, &drop_it).unwrap();
    for _ in 0..3 {
        let away = done(catalog.plans(Page::EVERYTHING)).err();
        assert!(matches!(away, Some(CatalogError::Away(_))), "{away:?}");
    }
}
