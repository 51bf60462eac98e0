//! What the pure parts of a call cost, one by one, and the journal and the ledger's writer.
//! `cargo bench` takes about a minute; `cargo bench -- decision` runs one group.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod messages;
mod record;
mod warm;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use messages::{ANSWER_BODY, ANSWER_HEAD, DELTA, REQUEST_BODY, REQUEST_HEAD, USAGE_EVENT};
use record::record;
use shard::price;
use shard::units::Period;
use std::hint::black_box;
use std::time::Duration;
use tollgate::channels::Settled;
use tollgate::clock;
use tollgate::config::{Config, PostgresUrl};
use tollgate::journal::{self, Journal, Pending};
use tollgate::store::{Advance, Batch, Ledger, Origin, PostgresServer, StoreLocation};
use tollgate::wire::call::scan_call;
use tollgate::wire::key_text;
use tollgate::wire::request::{HeadLimits, RequestHead, parse_request_head};
use tollgate::wire::response::{ResponseHead, parse_response_head};
use tollgate::wire::sse::SseSplitter;
use tollgate::wire::usage::{StreamMeter, usage_from_body};
use warm::{AT, PER_TOKEN, SUBSCRIPTION, TIERED, USAGE, Warm, models};

/// Rows of one transaction, as `usage.batch_rows` has it.
const BATCH_ROWS: u64 = 4_096;
const KEY: &[u8] = b"tg_72126rmr1nef1g3vh8z0gx714xqq1eefega7xc1dmkv62";
const LIMITS: HeadLimits = HeadLimits { head_bytes: 32_768, uri_bytes: 8_192, headers: 100 };

fn decision(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    let mut warm = Warm::new();
    group.bench_function("key text and digest", |bencher| {
        bencher.iter(|| {
            assert!(key_text::parse(black_box(KEY)).is_some());
            blake3::keyed_hash(black_box(&[7; 32]), KEY)
        });
    });
    group.bench_function("identify", |bencher| bencher.iter(|| warm.caller()));
    for (name, service) in
        [("per token", PER_TOKEN), ("tiered", TIERED), ("subscription", SUBSCRIPTION)]
    {
        group.bench_function(format!("identify, admit, reserve, settle: {name}"), |bencher| {
            bencher.iter(|| {
                let permit = warm.decide(black_box(service));
                warm.settle(permit)
            });
        });
    }
    // A permit must be settled, so admitting is timed in batches that are settled outside.
    group.bench_function("identify, admit, reserve", |bencher| {
        bencher.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            let mut left = count;
            let mut permits = Vec::with_capacity(1_000);
            while left > 0 {
                let batch = left.min(1_000);
                let begun = clock::now();
                permits.extend((0..batch).map(|_| warm.decide(black_box(PER_TOKEN))));
                spent += Duration::from_nanos(clock::now().since(begun).0);
                permits.drain(..).for_each(|permit| {
                    warm.settle(permit);
                });
                left -= batch;
            }
            spent
        });
    });
    group.bench_function("identify, refuse by rate", |bencher| bencher.iter(|| warm.refuse()));
    group.finish();
}

fn prices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("price");
    for (name, model) in ["per token", "tiered", "subscription"].into_iter().zip(models()) {
        group.bench_function(name, |bencher| {
            bencher.iter(|| price::price(black_box(&model), black_box(&USAGE), 9_999_000));
        });
    }
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let mut request = RequestHead::default();
    group.bench_function("request head", |bencher| {
        bencher.iter(|| {
            request.clear();
            parse_request_head(black_box(REQUEST_HEAD), &LIMITS, &mut request)
        });
    });
    let mut answer = ResponseHead::default();
    group.bench_function("answer head", |bencher| {
        bencher.iter(|| {
            answer.clear();
            parse_response_head(black_box(ANSWER_HEAD), &LIMITS, &mut answer, false)
        });
    });
    group.bench_function("call of 68 bytes", |bencher| {
        bencher.iter(|| scan_call(black_box(REQUEST_BODY)));
    });
    let long = String::from_utf8(REQUEST_BODY.to_vec()).unwrap();
    let long = long.replace("Hello", &"It was a bright cold day in April. ".repeat(480));
    group.bench_function("call of 16 KiB", |bencher| {
        bencher.iter(|| scan_call(black_box(long.as_bytes())));
    });
    group.bench_function("usage of an answer", |bencher| {
        bencher.iter(|| usage_from_body(black_box(ANSWER_BODY)));
    });
    let stream = [&DELTA.repeat(16)[..], USAGE_EVENT, b"data: [DONE]\n\n"].concat();
    let (mut scratch, mut text) = (Vec::new(), Vec::new());
    group.bench_function("stream of 18 events, split and metered", |bencher| {
        bencher.iter(|| meter(black_box(&stream), &mut scratch, &mut text));
    });
    group.finish();
}

fn meter(mut stream: &[u8], scratch: &mut Vec<u8>, text: &mut Vec<u8>) -> StreamMeter {
    let (mut splitter, mut meter) = (SseSplitter::new(), StreamMeter::new());
    text.clear();
    while let Some(event) = splitter.next_event(stream).unwrap() {
        if let Some(data) = event.data(stream, scratch) {
            meter.event(data, text);
        }
        stream = &stream[event.bytes..];
    }
    assert!(meter.reported().whole().is_some(), "the stream reports its usage");
    meter
}

fn append(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let preallocator = journal::spawn_preallocator().unwrap();
    let mut journal =
        Journal::create(folder.path(), 0, 1, &Config::default().usage, preallocator).unwrap();
    let shared = journal.shared();
    let mut record_id = 0;
    criterion.bench_function("journal: PENDING and POST", |bencher| {
        bencher.iter(|| {
            record_id += 1;
            let pending = Pending {
                record_id,
                period: Period::of(AT.unix_us),
                occurred_at_unix_us: AT.unix_us,
                ..Pending::default()
            };
            let open = loop {
                // The preallocator is a segment behind. The gateway would refuse calls until it has
                // caught up; this waits.
                if let Ok(open) = journal.pending(&pending, None) {
                    break open;
                }
                std::thread::yield_now();
            };
            let settled = journal.post(open, &record(record_id));
            if settled.seq.is_multiple_of(65_536) {
                shared.set_ingested(settled.seq);
                shared.delete_behind(settled.seq);
            }
            settled.seq
        });
    });
    journal.close();
}

/// Into SQLite, and where `TOLLGATE_BENCH_POSTGRES` is the URL of a database, into that.
fn batch(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(folder.path()).unwrap();
    ledger.tune().unwrap();
    batch_into(criterion, "SQLite", &mut ledger, BATCH_ROWS);
    let Ok(url) = std::env::var("TOLLGATE_BENCH_POSTGRES") else { return };
    for rows in [100, 1_000, BATCH_ROWS, 4 * BATCH_ROWS] {
        let server = PostgresServer::at(PostgresUrl::parse(&url).unwrap());
        let mut ledger = Ledger::open(StoreLocation::Postgres(server)).unwrap();
        batch_into(criterion, "Postgres", &mut ledger, rows);
    }
}

fn batch_into(criterion: &mut Criterion, store: &str, ledger: &mut Ledger, rows: u64) {
    // Nothing that an earlier run has written is below the watermark.
    let journal_id = uuid::Uuid::now_v7().as_u128();
    let origins = [Origin { journal_id, instance_id: 2 }];
    let mut next_seq = 1;
    let mut group = criterion.benchmark_group("writer");
    group.sample_size(10).throughput(Throughput::Elements(rows));
    group.bench_function(format!("batch of {rows} into {store}"), |bencher| {
        bencher.iter_batched(
            || {
                let records: Vec<Settled> = (next_seq..next_seq + rows).map(settled).collect();
                next_seq += rows;
                (records, next_seq)
            },
            |(records, end)| {
                let written = ledger.write(&Batch {
                    origins: &origins,
                    records: &records,
                    recovered: &[],
                    advances: &[Advance { origin: 0, next_seq: end, closed: false }],
                });
                assert_eq!(written.unwrap().rows, rows);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn settled(seq: u64) -> Settled {
    // Ids as UUIDv7 has them: the time first, so rows come in nearly the order of their key.
    let record_id = u128::from(seq) << 64 | u128::from(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Settled { shard: 0, seq, prev_end: seq, record: record(record_id), request_id: None }
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
}

criterion_group! {
    name = parts;
    config = short();
    targets = decision, prices, wire, append, batch
}
criterion_main!(parts);
