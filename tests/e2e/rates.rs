//! The rate of each plan under steady demand: never more than `burst + rate·t` in any window, and
//! nearly all of it. Measured from outside, on real connections, against one ideal bucket.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The contract's plans, and one that bursts little: name, rate, burst.
const PLANS: [(&str, u64, u64); 4] =
    [("basic", 10, 10), ("premium", 100, 100), ("enterprise", 1_000, 1_000), ("narrow", 100, 5)];
/// How long the rate is measured, after the burst is gone.
const SPAN: Duration = Duration::from_secs(4);
/// A whole measure is repeated where the clients did not get to offer more than the rate, or the
/// share fell short: both happen on a machine that stops threads for a while. No bound is eased:
/// what is offered in the last one is measured against the ideal bucket all the same.
const ATTEMPTS: u32 = 3;

/// One call and when it was under way.
#[derive(Clone, Copy)]
struct Timed {
    begun: Instant,
    ended: Instant,
    admitted: bool,
}

/// No window admitted more than `burst + rate·t`. An admission is somewhere within its call, so a
/// call counts in a window only if all of it is inside.
fn never_too_many(calls: &[Timed], rate: u64, burst: u64) {
    let mut admitted: Vec<&Timed> = calls.iter().filter(|call| call.admitted).collect();
    admitted.sort_by_key(|call| call.begun);
    // The ends of the calls that begun in the window or later, in order.
    let mut ends: Vec<Instant> = Vec::new();
    for first in admitted.iter().rev() {
        ends.insert(ends.partition_point(|end| *end < first.ended), first.ended);
        for (place, end) in ends.iter().enumerate() {
            let span_s = end.duration_since(first.begun).as_secs_f64();
            let most = burst as f64 + rate as f64 * span_s;
            assert!(place as f64 + 1.0 <= most, "{} in {span_s} s of {rate}/s", place + 1);
        }
    }
}

/// What clients of one key saw after the first refusal, or from the start if there was none.
struct Steady {
    offered: usize,
    admitted: usize,
    /// What one ideal bucket would have admitted of the same calls.
    ideal: usize,
}

fn steady(calls: &[Timed], rate: u64, burst: u64) -> Steady {
    let refusals = calls.iter().filter(|call| !call.admitted);
    let (start, mut tokens) = match refusals.map(|call| call.ended).min() {
        Some(empty_at) => (empty_at, 0.0),
        None => (calls.iter().map(|call| call.begun).min().unwrap(), burst as f64),
    };
    let mut after: Vec<&Timed> = calls.iter().filter(|call| call.begun >= start).collect();
    after.sort_by_key(|call| call.begun);
    let (mut last, mut ideal) = (start, 0);
    for call in &after {
        let accrued = rate as f64 * call.begun.duration_since(last).as_secs_f64();
        tokens = (tokens + accrued).min(burst as f64);
        last = call.begun;
        if tokens >= 1.0 {
            tokens -= 1.0;
            ideal += 1;
        }
    }
    let admitted = after.iter().filter(|call| call.admitted).count();
    Steady { offered: after.len(), admitted, ideal }
}

/// How one connection calls: so many requests at once, one such batch each `pace`, of which the
/// first comes after `offset`.
#[derive(Clone, Copy)]
struct Pace {
    batch: usize,
    pace: Duration,
    offset: Duration,
}

/// Calls over one connection: as fast as it can until somebody is refused, then at its pace,
/// until the other end of `stop` is gone.
fn client(
    instance: &Instance,
    request: &[u8],
    Pace { batch, pace, offset }: Pace,
    stop: &Receiver<()>,
    dry: &AtomicBool,
) -> Vec<Timed> {
    let requests = request.repeat(batch);
    let mut connection = instance.open();
    let mut calls = Vec::new();
    let mut next = None;
    loop {
        let begun = Instant::now();
        connection.send(&requests).unwrap();
        for _ in 0..batch {
            let answer = connection.answer("GET").unwrap();
            // A host that stops the process for a quarter of a second gets this as well.
            let stopped = answer.status() == 503 && answer.code() == "authority_unavailable";
            assert!([200, 429].contains(&answer.status()) || stopped, "{}", answer.text());
            let admitted = answer.status() == 200;
            calls.push(Timed { begun, ended: Instant::now(), admitted });
            dry.fetch_or(!admitted, Relaxed);
        }
        if dry.load(Relaxed) {
            next = Some(next.map_or(begun + offset, |next: Instant| next.max(begun) + pace));
        }
        let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
        let wait = wait.unwrap_or_default();
        if stop.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return calls;
        }
    }
}

/// Demands twice the rate over so many connections, with a key of its own.
fn demand(instance: &Instance, plan: &str, rate: u64, connections: u32) -> Vec<Timed> {
    let key = instance.admin().key(plan).text;
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let request = Request::get(&path).key(&key).to_bytes();
    // A connection has at most some hundred round trips a second: more is pipelined.
    let batch = (2 * rate).div_ceil(250 * u64::from(connections));
    let pace = Duration::from_secs(batch * u64::from(connections)) / (2 * rate as u32);
    let batch = batch as usize;
    // A new consumer's month is read from the ledger, which other tests keep busy.
    poll::until("the first call", || {
        (instance.call(&Request::get(&path).key(&key)).status() == 200).then_some(())
    });
    let dry = AtomicBool::new(false);
    let (timer, timed) = channel();
    thread::scope(|scope| {
        let (stops, clients): (Vec<_>, Vec<_>) = (0..connections)
            .map(|index| {
                let pace = Pace { batch, pace, offset: pace * index / connections };
                let (stop, stopped) = channel::<()>();
                let (request, dry) = (&request, &dry);
                let client = move || client(instance, request, pace, &stopped, dry);
                (stop, scope.spawn(client))
            })
            .unzip();
        // Nobody sends: it is the wait that counts.
        let end = timed.recv_timeout(SPAN + Duration::from_secs(1));
        assert_eq!(end, Err::<(), _>(RecvTimeoutError::Timeout));
        drop((stops, timer));
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// One plan over so many connections.
fn gets_its_rate(instance: &Instance, (plan, rate, burst): (&str, u64, u64), connections: u32) {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let calls = demand(instance, plan, rate, connections);
        never_too_many(&calls, rate, burst);
        let Steady { offered, admitted, ideal } = steady(&calls, rate, burst);
        let over_the_rate = offered as f64 >= 1.1 * rate as f64 * SPAN.as_secs_f64();
        // One token may be short of whole at the end.
        let used = admitted as f64 >= 0.98 * ideal as f64 - 1.0;
        seen.push((used, format!("{admitted} of {offered}, ideally {ideal}")));
        if used && over_the_rate {
            return;
        }
    }
    let used = seen.last().is_some_and(|(used, _)| *used);
    assert!(used, "{plan} over {connections} connections: {seen:?}");
}

fn all_plans_get_their_rates(shards: u16) {
    let instance = Setup::default().shards(shards).start();
    let (name, rate_per_s, burst) = PLANS[3];
    let quota_tokens = 1_000_000_000;
    let narrow = json!({
        "name": name, "rate_per_s": rate_per_s, "burst": burst, "quota_tokens": quota_tokens,
    });
    instance.admin().post("plans", &narrow);
    for connections in [1, 8, 64] {
        thread::scope(|scope| {
            for plan in PLANS {
                let instance = &instance;
                scope.spawn(move || gets_its_rate(instance, plan, connections));
            }
        });
    }
    instance.balance_books();
}

#[test]
fn steady_demand_gets_the_rate_and_never_more_on_one_shard() {
    all_plans_get_their_rates(1);
}

#[test]
fn steady_demand_gets_the_rate_and_never_more_on_two_shards() {
    all_plans_get_their_rates(2);
}

/// What a key spent before its process died is still spent after.
#[test]
fn a_restart_brings_no_second_burst() {
    let mut instance = Setup::default().shards(2).start();
    let mut calls = Vec::new();
    let mut until_refused = |instance: &Instance, refusals: usize| {
        let mut connection = instance.open();
        let path = format!("/api/v1/consume/{}", instance.service("per_token"));
        let request = Request::get(&path).key(instance.key("basic"));
        let (mut admitted, mut refused) = (0, 0);
        while refused < refusals {
            let begun = Instant::now();
            let status = connection.call(&request).unwrap().status();
            admitted += usize::from(status == 200);
            refused += usize::from(status == 429);
            calls.push(Timed { begun, ended: Instant::now(), admitted: status == 200 });
        }
        admitted
    };
    assert!(until_refused(&instance, 1) >= 10, "a new key has its burst");
    instance.process.kill();
    instance.restart();
    until_refused(&instance, 50);
    instance.process.terminate();
    assert!(instance.process.ended().success());
    instance.restart();
    until_refused(&instance, 50);
    never_too_many(&calls, 10, 10);
}

#[test]
#[should_panic(expected = "of 10/s")]
fn one_call_too_many_is_seen() {
    let begun = Instant::now();
    let call = |late_ms| Timed {
        begun: begun + Duration::from_millis(late_ms),
        ended: begun + Duration::from_millis(late_ms + 1),
        admitted: true,
    };
    // The ideal bucket has its eleventh token after 100 ms; long calls may have straddled it.
    let mut calls: Vec<Timed> = (0..11).map(|_| call(99)).collect();
    calls[0].begun = begun;
    calls[1].ended = begun + Duration::from_millis(200);
    never_too_many(&calls, 10, 10);
    calls[0].begun = calls[1].begun;
    calls[1].ended = calls[0].ended;
    never_too_many(&calls, 10, 10);
}
