//! A warm request allocates nothing in what decides on it: its head and body are read, its key is
//! found, it is admitted, journalled, metered, priced, settled and handed to the writer without
//! one call of the allocator. A decision that allocates is slow on a good day and unbounded on a
//! bad one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod counting;
#[path = "../../benches/messages.rs"]
mod messages;
#[path = "../../benches/warm.rs"]
mod warm;
mod whole_call;

use counting::Counting;
use messages::{ANSWER_BODY, ANSWER_HEAD, DELTA, REQUEST_BODY, REQUEST_HEAD, USAGE_EVENT};
use shard::record::Record;
use tollgate::channels;
use tollgate::config::Config;
use tollgate::journal::{self, Journal, Pending};
use tollgate::wire::call::scan_call;
use tollgate::wire::request::{HeadLimits, RequestHead, parse_request_head};
use tollgate::wire::response::{ResponseHead, parse_response_head};
use tollgate::wire::sse::SseSplitter;
use tollgate::wire::usage::{StreamMeter, usage_from_body};
use warm::{PER_TOKEN, SUBSCRIPTION, TIERED, Warm, models};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 32_768, uri_bytes: 8_192, headers: 100 };
const CALLS: u64 = 1_000;

/// Allocations of a thousand runs, after as many that warm up.
fn allocations(mut run: impl FnMut()) -> u64 {
    (0..CALLS).for_each(|_| run());
    let here = counting::place();
    let before = counting::count(here);
    (0..CALLS).for_each(|_| run());
    counting::count(here) - before
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), CALLS);
    let grow = || std::hint::black_box(Vec::with_capacity(1)).extend([1u8; 100]);
    assert_eq!(allocations(grow), 2 * CALLS);
}

#[test]
fn decisions_allocate_nothing() {
    let mut warm = Warm::new();
    for service in [PER_TOKEN, TIERED, SUBSCRIPTION] {
        let count = allocations(|| {
            let permit = warm.decide(service);
            let _ = warm.settle(permit);
        });
        assert_eq!(count, 0, "{:?}", models()[service as usize]);
    }
    assert_eq!(allocations(|| assert!(warm.refuse())), 0, "refusals by the rate");
}

#[test]
fn reading_allocates_nothing() {
    let mut request = RequestHead::default();
    let mut answer = ResponseHead::default();
    let count = allocations(|| {
        request.clear();
        answer.clear();
        assert!(parse_request_head(REQUEST_HEAD, &LIMITS, &mut request).unwrap());
        assert!(parse_response_head(ANSWER_HEAD, &LIMITS, &mut answer, false).unwrap());
        assert!(scan_call(REQUEST_BODY).unwrap().model.is_some());
        assert!(usage_from_body(ANSWER_BODY).whole().is_some());
    });
    assert_eq!(count, 0, "a call and its answer");
    let stream = [&DELTA.repeat(4)[..], USAGE_EVENT, b"data: [DONE]\n\n"].concat();
    let (mut scratch, mut text) = (Vec::new(), Vec::new());
    let count = allocations(|| {
        let (mut splitter, mut meter) = (SseSplitter::new(), StreamMeter::new());
        let mut rest = &stream[..];
        text.clear();
        while let Some(event) = splitter.next_event(rest).unwrap() {
            meter.event(event.data(rest, &mut scratch).unwrap(), &mut text);
            rest = &rest[event.bytes..];
        }
        assert!(meter.reported().whole().is_some());
    });
    assert_eq!(count, 0, "a stream");
}

#[test]
fn recording_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default().usage;
    let preallocator = journal::spawn_preallocator().unwrap();
    let mut journal = Journal::create(folder.path(), 0, 1, &config, preallocator).unwrap();
    let (shards, _control, _writer) = channels::open(1);
    let mut record_id = 0;
    let count = allocations(|| {
        record_id += 1;
        let pending = Pending { record_id, ..Pending::default() };
        let open = journal.pending(&pending, Some(b"a caller's own id")).unwrap();
        let settled = journal.post(open, &Record { record_id, ..Record::default() });
        shards[0].to_writer.try_send(settled).unwrap();
    });
    assert_eq!(count, 0);
}
