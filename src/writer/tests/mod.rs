//! The writer's promise: whatever the channel, the store or the process does, every settled
//! record has exactly one row, and every request that died has one too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod histories;

use super::replay::{ReplayReport, replay};
use super::run::{NextStep, Writer};
use super::{WriterArgs, spawn};
use crate::channels::{self, ShardChannels};
use crate::config::UsageConfig;
use crate::journal::tests::{admit, config, journal, pending, record, until};
use crate::journal::{DIR_NAME, Journal, Open};
use crate::metrics::Metrics;
use crate::store::{FILE_NAME, Ledger, LedgerError};
use rusqlite::Connection;
use shard::record::{Outcome, Record, Usage};
use shard::units::{ConsumerId, KeyId, NanoUsd, Nanos, Period, ServiceId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    journal: Journal,
    shard: ShardChannels,
    writer: Writer,
    metrics: Arc<Metrics>,
}

const NOW: Nanos = Nanos::from_s(1_000);

fn bench(config: &UsageConfig) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir.path().join(DIR_NAME), config);
    let (mut shards, _, channels) = channels::open(1);
    let metrics = Arc::new(Metrics::new(1));
    let args = WriterArgs {
        ledger: Ledger::open(dir.path()).unwrap(),
        config: config.clone(),
        channels,
        journals: vec![journal.shared()],
        metrics: metrics.clone(),
    };
    let writer = Writer::new(args);
    Bench { dir, journal, shard: shards.remove(0), writer, metrics }
}

impl Bench {
    fn post(&mut self, open: Open, record: &Record, by_channel: bool) {
        let settled = self.journal.post(open, record);
        if by_channel {
            self.shard.to_writer.try_send(settled).unwrap();
        }
    }

    fn call(&mut self, n: u128, by_channel: bool) {
        let open = admit(&mut self.journal, n, None);
        self.post(open, &record(n), by_channel);
    }

    fn flush(&mut self) {
        while self.writer.turn(NOW, true) == NextStep::Busy {}
    }

    fn journal_dir(&self) -> PathBuf {
        self.journal.shared().dir.clone()
    }

    /// The process dies: only its directory is left. Nobody else may know its journal still.
    fn die(self) -> TempDir {
        let Self { dir, journal, shard, writer, .. } = self;
        let known = Arc::downgrade(&journal.shared());
        drop((journal, shard, writer));
        // The thread that makes segments would die too; here it ends what it is about.
        until(|| (known.strong_count() == 0).then_some(()));
        dir
    }
}

fn replay_all(dir: &Path) -> ReplayReport {
    replay(dir, &mut Ledger::open(dir).unwrap()).unwrap()
}

/// The store's file, as anybody may open it.
fn open(dir: &Path) -> Connection {
    Connection::open(dir.join(FILE_NAME)).unwrap()
}

fn ids(dir: &Path) -> Vec<u128> {
    let connection = open(dir);
    let mut select = connection.prepare("SELECT record_id FROM usage_records").unwrap();
    let rows = select.query_map((), |row| row.get::<_, String>(0)).unwrap();
    let mut ids: Vec<u128> =
        rows.map(|id| uuid::Uuid::try_parse(&id.unwrap()).unwrap().as_u128()).collect();
    ids.sort();
    ids
}

fn connection(ledger: &Ledger) -> &Connection {
    let Ledger::Sqlite(ledger) = ledger else { unreachable!("these tests are about SQLite") };
    ledger.connection()
}

/// A service, if it is not there, and its price.
fn add_price(connection: &Connection, service: ServiceId, version: u32, price: &str) {
    connection
        .execute_batch(&format!(
            "INSERT OR IGNORE INTO services (id, name, base_url, default_path, enabled, created_at)
                 VALUES ('{service}', '{service}', '', '/', 1, '');
             INSERT INTO prices VALUES ('{service}', {version}, 0, '{price}', '');"
        ))
        .unwrap();
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[test]
fn a_row_carries_every_column_of_the_contract() {
    let mut bench = bench(&config(2, 10));
    let connection = open(bench.dir.path());
    connection
        .execute(
            "INSERT INTO services (id, name, base_url, default_path, enabled, created_at)
             VALUES (?1, 'demo-chat', 'http://h', '/', 1, '')",
            [ServiceId(9).to_string()],
        )
        .unwrap();
    let record = Record {
        record_id: 0x0192_aaaa_bbbb_7ccc_8ddd_eeee_ffff_0000,
        occurred_at_unix_us: 1_795_465_080_123_456,
        period: Period(202_611),
        consumer: ConsumerId(1),
        key: KeyId(2),
        service: ServiceId(9),
        status: 200,
        outcome: Outcome::ClientAborted,
        streamed: true,
        usage: Usage { input_tokens: 10, cached_tokens: 4, output_tokens: 20, estimated: true },
        price_version: 3,
        cost: NanoUsd(123),
        attempts: 1,
        latency_us: 1_000,
        ttft_us: 900,
        overhead_us: 7,
    };
    for by_channel in [true, false] {
        let id = record.record_id + u128::from(by_channel);
        let open = bench.journal.pending(&pending(id), Some(b"req-1")).unwrap();
        bench.post(open, &Record { record_id: id, ..record }, by_channel);
    }
    bench.flush();
    let rows: Vec<String> = connection
        .prepare(
            "SELECT json_array(u.occurred_at, period, request_id, consumer_id, key_id,
            service_id, model, status, outcome, streamed, input_tokens, cached_tokens,
            output_tokens, tokens_source, price_version, cost_nanousd, attempts, latency_us,
            ttft_us, overhead_us, instance_id) FROM usage_records u",
        )
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let expected = concat!(
        r#"["2026-11-23T20:18:00.123456Z","2026-11","req-1","000000000001","000000000002","#,
        r#""000000000009","demo-chat",200,"client_aborted",1,10,4,20,"estimated","#,
        r#"3,123,1,1000,900,7,"00000000-0000-0000-0000-000000000007"]"#
    );
    assert_eq!(rows, [expected, expected]);
    let daily = "SELECT json_array(consumer_id, service_id, day, period, calls, input_tokens,
        cached_tokens, output_tokens, cost_nanousd) FROM usage_daily";
    let daily: String = connection.query_row(daily, (), |row| row.get(0)).unwrap();
    let expected = r#"["000000000001","000000000009","2026-11-23","2026-11",2,20,8,40,246]"#;
    assert_eq!(daily, expected);
}

#[test]
fn what_the_channel_drops_is_read_from_the_journal() {
    let mut bench = bench(&config(1, 1_000));
    for n in 0..500 {
        bench.call(n, n % 7 == 0);
        if n % 50 == 49 {
            bench.flush();
        }
    }
    bench.flush();
    assert_eq!(ids(bench.dir.path()), (0..500).collect::<Vec<_>>());
    let counters = &bench.metrics.writer;
    assert_eq!(counters.rows.get(), 500);
    assert!(counters.rows_from_files.get() >= 400);
    let shared = bench.journal.shared();
    assert_eq!(shared.ingested(), shared.post_end());
    assert!(shared.segments().len() <= 2, "deleted behind the watermark");
    // All by channel: the files are not read.
    let before = counters.rows_from_files.get();
    for n in 500..600 {
        bench.call(n, true);
    }
    bench.flush();
    assert_eq!(bench.metrics.writer.rows_from_files.get(), before);
    assert_eq!(ids(bench.dir.path()).len(), 600);
}

#[test]
fn a_batch_waits_for_its_age_or_its_size() {
    let mut bench = bench(&config(2, 100));
    bench.call(0, true);
    assert_eq!(bench.writer.turn(NOW, false), NextStep::Idle);
    assert_eq!(bench.writer.turn(NOW.after(Nanos::from_ms(9)), false), NextStep::Idle);
    assert_eq!(ids(bench.dir.path()), [0_u128; 0]);
    assert_eq!(bench.writer.turn(NOW.after(Nanos::from_ms(10)), false), NextStep::Busy);
    assert_eq!(ids(bench.dir.path()), [0]);
    for n in 1..=64 {
        bench.call(n, true);
    }
    assert_eq!(bench.writer.turn(NOW, false), NextStep::Busy);
    assert_eq!(ids(bench.dir.path()).len(), 65);
}

#[test]
fn a_full_store_delays_and_loses_nothing() {
    let mut bench = bench(&config(2, 1_000));
    let limit = |writer: &Writer, pages: i64| {
        connection(&writer.ledger).pragma_update(None, "max_page_count", pages).unwrap();
    };
    limit(&bench.writer, 1);
    let mut failed = 0;
    for n in 0..2_000 {
        bench.call(n, true);
        if n % 100 == 99 {
            failed += u32::from(matches!(bench.writer.turn(NOW, true), NextStep::Failed(_)));
        }
    }
    assert!(failed > 5, "the store was full");
    limit(&bench.writer, 1_000_000);
    bench.flush();
    bench.flush();
    assert_eq!(ids(bench.dir.path()), (0..2_000).collect::<Vec<_>>());
    assert!(bench.metrics.writer.failures.get() > 5);
}

#[test]
fn a_row_that_the_ledger_refuses_is_kept_aside_and_stops_nothing() {
    let mut bench = bench(&config(2, 100));
    for n in [1, 2, 2, 3] {
        bench.call(n, true);
    }
    bench.flush();
    assert_eq!(ids(bench.dir.path()), [1, 2, 3]);
    let connection = open(bench.dir.path());
    let dlq = "SELECT count(*) FROM usage_dlq WHERE reason LIKE '%UNIQUE%' AND length(slot) = 128";
    assert_eq!(number(&connection, dlq), 1);
    assert_eq!(number(&connection, "SELECT sum(calls) FROM usage_daily"), 3);
    assert_eq!(bench.metrics.writer.refused.get(), 1);
}

/// Two records fill a day's sum past SQLite's integers, as earlier versions' prices could.
#[test]
fn sums_past_64_bits_stay_exact_and_stop_nothing() {
    let mut bench = bench(&config(2, 100));
    for n in 0..40 {
        let open = admit(&mut bench.journal, n, None);
        bench.post(open, &Record { cost: NanoUsd(i64::MAX - n as i64), ..record(n) }, true);
        bench.flush();
    }
    assert_eq!(ids(bench.dir.path()), (0..40).collect::<Vec<_>>());
    assert_eq!(bench.metrics.writer.failures.get(), 0);
    let connection = open(bench.dir.path());
    let cost =
        |column| i128::from(number(&connection, &format!("SELECT {column} FROM usage_daily")));
    let exact = (0..40).map(|n| i128::from(i64::MAX) - n).sum::<i128>();
    assert_eq!(cost("cost_carry") * 1_000_000_000_000_000_000 + cost("cost_nanousd"), exact);
}

#[test]
fn a_count_at_the_largest_integer_stays_there_and_is_told() {
    let mut bench = bench(&config(2, 100));
    bench.call(0, true);
    bench.flush();
    let connection = open(bench.dir.path());
    connection.execute("UPDATE usage_daily SET input_tokens = 0x7ffffffffffffffe", ()).unwrap();
    assert_eq!(bench.metrics.writer.saturated.get(), 0);
    let open = admit(&mut bench.journal, 1, None);
    let usage = Usage { input_tokens: 100, ..Usage::default() };
    bench.post(open, &Record { usage, ..record(1) }, true);
    bench.flush();
    assert_eq!(number(&connection, "SELECT input_tokens FROM usage_daily"), i64::MAX);
    assert_eq!(number(&connection, "SELECT calls FROM usage_daily"), 2);
    assert_eq!(bench.metrics.writer.saturated.get(), 1);
}

/// Whether the store refuses a record's row or its sums, the others of its batch go in: in live
/// writing and in replay.
#[test]
fn what_the_store_refuses_of_one_record_stops_no_other() {
    for live in [true, false] {
        let mut bench = bench(&config(2, 100));
        for n in 1..=9 {
            let open = admit(&mut bench.journal, n, Some(format!("call-{n}").as_bytes()));
            bench.post(open, &Record { consumer: ConsumerId(n as u64 % 3), ..record(n) }, true);
        }
        let connection = open(bench.dir.path());
        connection
            .execute_batch(&format!(
                "CREATE TRIGGER refuses BEFORE INSERT ON usage_daily
                 WHEN NEW.consumer_id = '{}' BEGIN SELECT json('no'); END;",
                ConsumerId(2)
            ))
            .unwrap();
        let dir = if live {
            bench.flush();
            assert_eq!(bench.metrics.writer.refused.get(), 3);
            assert_eq!(bench.metrics.writer.failures.get(), 0);
            bench.die()
        } else {
            let dir = bench.die();
            assert_eq!(replay_all(dir.path()).refused, 3);
            dir
        };
        assert_eq!(ids(dir.path()), [1, 3, 4, 6, 7, 9]);
        assert_eq!(number(&connection, "SELECT sum(calls) FROM usage_daily"), 6);
        let mut dead = Vec::new();
        let ledger = Ledger::open_for_reading(dir.path()).unwrap();
        ledger
            .each_refused(|it| {
                dead.push((it.request_id, it.reason, it.record.map(|record| record.record_id)));
                Ok::<_, LedgerError>(())
            })
            .unwrap();
        assert_eq!(dead.len(), 3);
        for (it, n) in dead.iter().zip([2, 5, 8]) {
            assert_eq!((it.0.as_str(), it.2), (format!("call-{n}").as_str(), Some(n)));
            assert!(it.1.contains("malformed JSON"), "{}", it.1);
        }
    }
}

#[test]
fn a_months_fee_is_due_once_with_its_first_call() {
    let mut bench = bench(&config(2, 100));
    let connection = open(bench.dir.path());
    let (flat, plain) = (ServiceId(7), ServiceId(8));
    let free = r#"{"kind":"per_token","input_nanousd_per_mtok":0,"output_nanousd_per_mtok":0}"#;
    let subscription = |fee_nanousd: u32| {
        format!(
            r#"{{"kind":"subscription","fee_nanousd":{fee_nanousd},"allowance_tokens":0,
                "overage":{free}}}"#
        )
    };
    add_price(&connection, flat, 1, &subscription(500));
    add_price(&connection, flat, 2, &subscription(900));
    add_price(&connection, plain, 1, free);
    let first = record(1);
    let day_us = 86_400_000_000;
    let calls = [
        (1, flat, 1, 0),
        (2, flat, 1, 1),
        (3, flat, 2, 2),
        (4, plain, 1, 0),
        // The next month, at its own price.
        (5, flat, 2, 31 * day_us),
    ];
    for (n, service, price_version, later_us) in calls {
        let occurred_at_unix_us = first.occurred_at_unix_us + later_us;
        let period = Period::of(occurred_at_unix_us);
        let record = Record { service, price_version, occurred_at_unix_us, period, ..record(n) };
        let open = admit(&mut bench.journal, n, None);
        bench.post(open, &record, true);
        if n == 2 {
            bench.flush();
        }
    }
    bench.flush();
    let fees = "SELECT json_array(service_id, due_at, price_version, fee_nanousd)
        FROM usage_fees ORDER BY due_at";
    let rows: Vec<String> = connection
        .prepare(fees)
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(first.occurred_at_unix_us, 0);
    let expected = |day: &str, version: u32, fee: u32| {
        format!(r#"["{flat}","{day}T00:00:00.000000Z",{version},{fee}]"#)
    };
    assert_eq!(rows, [expected("1970-01-01", 1, 500), expected("1970-02-01", 2, 900)]);
}

#[test]
fn a_clean_end_leaves_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(2, 100);
    let mut journal = journal(&dir.path().join(DIR_NAME), &config);
    let (shards, _, channels) = channels::open(1);
    let journals = vec![journal.shared()];
    let writer = spawn(WriterArgs {
        ledger: Ledger::open(dir.path()).unwrap(),
        config,
        channels,
        journals,
        metrics: Arc::new(Metrics::new(1)),
    })
    .unwrap();
    for n in 0..200 {
        let open = admit(&mut journal, n, None);
        let settled = journal.post(open, &record(n));
        if n % 5 > 0 {
            shards[0].to_writer.try_send(settled).unwrap();
        }
    }
    let journal_dir = journal.shared().dir.clone();
    journal.close();
    assert!(writer.finish(60_000));
    assert!(!journal_dir.exists());
    assert_eq!(ids(dir.path()).len(), 200);
    let connection = open(dir.path());
    assert_eq!(number(&connection, "SELECT closed FROM ingest_watermark"), 1);
    assert_eq!(replay_all(dir.path()), ReplayReport::default());
}

#[test]
fn an_end_with_a_request_open_leaves_it_to_the_next_start() {
    let mut bench = bench(&config(2, 100));
    bench.call(1, true);
    let _open = admit(&mut bench.journal, 2, None);
    let (dir, shared) = (bench.journal_dir(), bench.journal.shared());
    bench.journal.close();
    assert!(shared.has_ended() && !shared.is_closed());
    while bench.writer.turn(NOW, true) == NextStep::Busy {}
    assert!(bench.writer.close());
    assert!(dir.exists());
    let report = replay_all(bench.dir.path());
    assert_eq!((report.rows, report.recovered), (0, 1));
    assert_eq!(ids(bench.dir.path()), [1, 2]);
}

#[test]
fn the_dead_are_billed_by_checkpoint_or_estimate_in_their_months_place() {
    let mut bench = bench(&config(1, 100));
    let long = admit(&mut bench.journal, 900, Some(b"long"));
    // Its settlement comes to lie in a segment that is deleted, its PENDING in one that is not.
    bench.call(901, true);
    let posted_later = admit(&mut bench.journal, 902, None);
    for n in 0..60 {
        bench.call(n, true);
    }
    let usage = Usage { input_tokens: 100, ..Usage::default() };
    bench.post(posted_later, &Record { usage, ..record(902) }, true);
    for n in 60..120 {
        bench.call(n, true);
    }
    bench.journal.checkpoint(&long, 6, 40);
    let _short = admit(&mut bench.journal, 903, None);
    bench.flush();
    let dir = bench.die();
    let connection = open(dir.path());
    // 3 nano-USD a token for the first 140 of the month, then 1.
    let price = r#"{"kind":"tiered","tiers":[
        {"up_to_tokens":140,"input_nanousd_per_mtok":3000000,"output_nanousd_per_mtok":3000000},
        {"up_to_tokens":null,"input_nanousd_per_mtok":1000000,"output_nanousd_per_mtok":1000000}
    ]}"#;
    add_price(&connection, ServiceId(0), record(0).price_version, price);
    let report = replay_all(dir.path());
    let counts = (report.rows, report.recovered, report.refused, report.gaps);
    assert_eq!(counts, (0, 2, 0, 0));
    let mut select = connection
        .prepare(
            "SELECT json_array(request_id, input_tokens, output_tokens, cost_nanousd)
             FROM usage_records WHERE outcome = 'recovered' AND tokens_source = 'estimated'",
        )
        .unwrap();
    let rows: Vec<String> =
        select.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let short = uuid::Uuid::from_u128(903).hyphenated().to_string();
    assert_eq!(rows, [r#"["long",6,40,126]"#.to_owned(), format!(r#"["{short}",5,0,5]"#)]);
    assert_eq!(number(&connection, "SELECT sum(calls) FROM usage_daily"), 124);
}

#[test]
fn damage_is_reported_and_kept_and_the_rest_comes_in() {
    let mut bench = bench(&config(1, 100));
    for n in 0..100 {
        bench.call(n, false);
    }
    let (journal_dir, journal) = (bench.journal_dir(), bench.journal.shared().id);
    let path = journal_dir.join("000003.tgj");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[128 * 2 + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let dir = bench.die();
    let report = replay_all(dir.path());
    let lost = 2 * 31 + 1;
    assert_eq!(report.gaps_named, [(journal, lost, lost + 1)]);
    assert_eq!(report.quarantined.len(), 1);
    assert!(report.quarantined[0].exists() && !journal_dir.exists());
    // The lost slot was a POST: its PENDING stands for it.
    assert_eq!((report.rows, report.recovered), (99, 1));
    assert_eq!(ids(dir.path()), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_call_that_died_before_what_is_kept_is_set_aside() {
    let mut bench = bench(&config(2, 10));
    let _died = admit(&mut bench.journal, 1, None);
    let dir = bench.die();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    // Nobody can tell any more whether it has been billed: its record may have been dropped.
    ledger.drop_before(1_000_000).unwrap();
    let report = replay(dir.path(), &mut ledger).unwrap();
    assert_eq!((report.rows, report.refused), (0, 1));
    assert_eq!(replay_all(dir.path()).refused, 0, "and its journal is done with");
}
