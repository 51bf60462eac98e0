//! The parts whose instructions are counted.

use crate::messages::{ANSWER_BODY, ANSWER_HEAD, DELTA, REQUEST_BODY, REQUEST_HEAD, USAGE_EVENT};
use crate::prompt;
use crate::record::record;
use crate::warm::{AT, PER_TOKEN, TIERED, USAGE, Warm, models};
use shard::price;
use shard::units::Period;
use std::hint::black_box;
use tollgate::config::Config;
use tollgate::journal::{self, Journal, Pending};
use tollgate::wire::call::scan_call;
use tollgate::wire::key_text;
use tollgate::wire::request::{HeadLimits, RequestHead, parse_request_head};
use tollgate::wire::response::{ResponseHead, parse_response_head};
use tollgate::wire::sse::SseSplitter;
use tollgate::wire::usage::{StreamMeter, usage_from_body};

const KEY: &[u8] = b"tg_72126rmr1nef1g3vh8z0gx714xqq1eefega7xc1dmkv62";
const LIMITS: HeadLimits = HeadLimits { head_bytes: 32_768, uri_bytes: 8_192, headers: 100 };
const KB: usize = 1_000;

pub struct Part {
    /// Its name in the tables.
    pub name: &'static str,
    /// Operations of one run.
    pub ops: usize,
    /// Runs so many operations.
    pub run: fn(usize),
}

pub const PARTS: &[Part] = &[
    Part { name: "request head", ops: 1_000, run: request_head },
    Part { name: "answer head", ops: 1_000, run: answer_head },
    Part { name: "key text and digest", ops: 1_000, run: key_digest },
    Part { name: "identify", ops: 1_000, run: identify },
    Part { name: "identify, admit, settle", ops: 1_000, run: |ops| decide(ops, PER_TOKEN) },
    Part { name: "identify, admit, settle: tiered", ops: 1_000, run: |ops| decide(ops, TIERED) },
    Part { name: "identify, refuse by rate", ops: 1_000, run: refuse },
    Part { name: "price: three models", ops: 1_000, run: prices },
    Part { name: "call of 68 bytes", ops: 1_000, run: |ops| scan(ops, REQUEST_BODY) },
    Part { name: "call of 1 KB", ops: 1_000, run: |ops| scan_prompt(ops, KB) },
    Part { name: "call of 100 KB", ops: 20, run: |ops| scan_prompt(ops, 100 * KB) },
    Part { name: "usage of an answer", ops: 1_000, run: |ops| usage(ops, ANSWER_BODY) },
    Part { name: "usage of an answer of 1 KB", ops: 1_000, run: |ops| usage_of(ops, KB) },
    Part { name: "usage of an answer of 100 KB", ops: 20, run: |ops| usage_of(ops, 100 * KB) },
    Part { name: "event of a stream: delta", ops: 1_000, run: |ops| event(ops, DELTA) },
    Part { name: "event of a stream: usage", ops: 1_000, run: |ops| event(ops, USAGE_EVENT) },
    Part { name: "PENDING and POST", ops: 200, run: append },
];

/// Valgrind counts the instructions of this function and of what it calls.
#[inline(never)]
pub fn counted(ops: usize, mut operation: impl FnMut()) {
    for _ in 0..ops {
        operation();
    }
}

/// Counts `ops` operations after one that warms up.
fn count(ops: usize, mut operation: impl FnMut()) {
    operation();
    counted(ops, operation);
}

fn request_head(ops: usize) {
    let mut head = RequestHead::default();
    count(ops, || {
        head.clear();
        assert_eq!(parse_request_head(black_box(REQUEST_HEAD), &LIMITS, &mut head), Ok(true));
    });
}

fn answer_head(ops: usize) {
    let mut head = ResponseHead::default();
    count(ops, || {
        head.clear();
        let parsed = parse_response_head(black_box(ANSWER_HEAD), &LIMITS, &mut head, false);
        assert_eq!(parsed, Ok(true));
    });
}

fn key_digest(ops: usize) {
    count(ops, || {
        assert!(key_text::parse(black_box(KEY)).is_some());
        black_box(blake3::keyed_hash(black_box(&[7; 32]), KEY));
    });
}

fn identify(ops: usize) {
    let mut warm = Warm::new();
    count(ops, || assert!(warm.caller().is_some()));
}

fn decide(ops: usize, service: u32) {
    let mut warm = Warm::new();
    count(ops, || {
        let permit = warm.decide(black_box(service));
        black_box(warm.settle(permit));
    });
}

fn refuse(ops: usize) {
    let mut warm = Warm::new();
    count(ops, || assert!(warm.refuse()));
}

fn prices(ops: usize) {
    let models = models();
    count(ops, || {
        for model in &models {
            black_box(price::price(black_box(model), black_box(&USAGE), 9_999_000));
        }
    });
}

fn scan(ops: usize, body: &[u8]) {
    count(ops, || assert!(scan_call(black_box(body)).is_ok()));
}

fn scan_prompt(ops: usize, bytes: usize) {
    scan(ops, prompt::body(bytes).as_bytes());
}

fn usage(ops: usize, body: &[u8]) {
    count(ops, || assert!(usage_from_body(black_box(body)).whole().is_some()));
}

/// The answer repeats the prompt.
fn usage_of(ops: usize, bytes: usize) {
    let answer = String::from_utf8_lossy(ANSWER_BODY).into_owned();
    let text = prompt::text(bytes.saturating_sub(answer.len()));
    usage(ops, answer.replace("line house", &text).as_bytes());
}

fn event(ops: usize, bytes: &[u8]) {
    let (mut splitter, mut meter) = (SseSplitter::new(), StreamMeter::new());
    let (mut scratch, mut text) = (Vec::new(), Vec::new());
    count(ops, || {
        text.clear();
        let event = splitter.next_event(black_box(bytes)).unwrap();
        let data = event.as_ref().and_then(|event| event.data(bytes, &mut scratch));
        black_box(meter.event(data.unwrap(), &mut text));
    });
}

fn append(ops: usize) {
    let folder = tempfile::tempdir().unwrap();
    let preallocator = journal::spawn_preallocator().unwrap();
    let mut journal =
        Journal::create(folder.path(), 0, 1, &Config::default().usage, preallocator).unwrap();
    let mut record_id = 0;
    let mut append = || {
        record_id += 1;
        let pending = Pending {
            record_id,
            period: Period::of(AT.unix_us),
            occurred_at_unix_us: AT.unix_us,
            ..Pending::default()
        };
        let open = journal.pending(&pending, None).ok()?;
        Some(journal.post(open, &record(record_id)).seq)
    };
    // The first segment takes a moment to be ready.
    while append().is_none() {
        std::thread::yield_now();
    }
    count(ops, || assert!(append().is_some()));
    journal.close();
}
