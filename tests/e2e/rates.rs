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

/// A plan, and for how long its share is measured once the burst is gone: long enough that 2 % of
/// what accrues are several tokens.
#[derive(Clone, Copy)]
struct Terms {
    plan: &'static str,
    rate: u64,
    burst: u64,
    span: Duration,
}

const fn terms(plan: &'static str, rate: u64, burst: u64, span_s: u64) -> Terms {
    Terms { plan, rate, burst, span: Duration::from_secs(span_s) }
}

/// Measured all the time, over every number of connections at once.
const SLOW: Terms = terms("basic", 10, 10, 20);
/// Measured together, for one number of connections after another.
const FAST: [Terms; 3] =
    [terms("premium", 100, 100, 6), terms("enterprise", 1_000, 1_000, 5), NARROW];
/// Not one of the contract's: it bursts little.
const NARROW: Terms = terms("narrow", 100, 5, 6);
const CONNECTIONS: [u32; 3] = [1, 8, 64];
/// A measurement is repeated only where it was none: the machine stopped threads for a while, so
/// that clients did not demand more than the rate, or calls were told that the authority was out of
/// reach. A share that falls short is never measured again.
const ATTEMPTS: u32 = 3;

/// One call and when it was under way.
#[derive(Clone, Copy)]
struct Timed {
    begun: Instant,
    ended: Instant,
    admitted: bool,
    /// Refused since the authority was out of reach.
    stopped: bool,
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
    span_s: f64,
    offered: usize,
    admitted: usize,
    /// What one ideal bucket would have admitted of the same calls.
    ideal: usize,
    stopped: bool,
}

impl Steady {
    fn of(calls: &[Timed], Terms { rate, burst, .. }: Terms) -> Self {
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
        let stopped = after.iter().any(|call| call.stopped);
        let span_s = last.duration_since(start).as_secs_f64();
        Self { span_s, offered: after.len(), admitted, ideal, stopped }
    }

    /// Was more demanded than the rate, and so steadily that one ideal bucket with a second's burst
    /// would have had nearly all of its rate?
    fn is_a_measure(&self, Terms { rate, burst, span, .. }: Terms) -> bool {
        let accrued = rate as f64 * self.span_s;
        let demanded = self.offered as f64 >= 1.1 * accrued;
        let steady = burst < rate || self.ideal as f64 >= 0.99 * accrued;
        demanded && steady && self.span_s >= span.as_secs_f64()
    }

    fn gets_its_share(&self) -> bool {
        self.admitted as f64 >= 0.98 * self.ideal as f64
    }
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
            calls.push(Timed { begun, ended: Instant::now(), admitted, stopped });
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
fn demand(
    instance: &Instance,
    Terms { plan, rate, span, .. }: Terms,
    connections: u32,
) -> Vec<Timed> {
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
        let end = timed.recv_timeout(span + Duration::from_secs(1));
        assert_eq!(end, Err::<(), _>(RecvTimeoutError::Timeout));
        drop((stops, timer));
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// One plan over so many connections.
fn gets_its_rate(instance: &Instance, terms: Terms, connections: u32) {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let calls = demand(instance, terms, connections);
        never_too_many(&calls, terms.rate, terms.burst);
        let steady = Steady::of(&calls, terms);
        let Steady { span_s, offered, admitted, ideal, stopped } = steady;
        let how = if stopped { " while the authority was away" } else { "" };
        let word = format!("{admitted} of {offered} in {span_s:.1} s, ideally {ideal}{how}");
        if steady.is_a_measure(terms) {
            if steady.gets_its_share() {
                return;
            }
            let plan = terms.plan;
            assert!(stopped, "{plan} over {connections} connections: {word}");
        }
        seen.push(word);
    }
    panic!("{} over {connections} connections was not measured: {seen:?}", terms.plan);
}

fn all_plans_get_their_rates(shards: u16) {
    let instance = Setup::default().shards(shards).start();
    let Terms { plan, rate, burst, .. } = NARROW;
    let narrow = json!({
        "name": plan, "rate_per_s": rate, "burst": burst, "quota_tokens": 1_000_000_000,
    });
    instance.admin().post("plans", &narrow);
    thread::scope(|scope| {
        let instance = &instance;
        for connections in CONNECTIONS {
            scope.spawn(move || gets_its_rate(instance, SLOW, connections));
        }
        for connections in CONNECTIONS {
            thread::scope(|scope| {
                // A call that finds no token waits a few ms for the next, so one connection alone
                // can't demand more than 1000/s: it is held to the rate by waiting.
                let can_demand = |terms: &Terms| connections > 1 || terms.rate < 1_000;
                for terms in FAST.into_iter().filter(can_demand) {
                    scope.spawn(move || gets_its_rate(instance, terms, connections));
                }
            });
        }
    });
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
            let (admitted, ended) = (status == 200, Instant::now());
            calls.push(Timed { begun, ended, admitted, stopped: false });
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
        stopped: false,
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

/// Four tokens of two hundred may be lost, a fifth may not; and where hardly more than the rate is
/// asked for, nothing is measured.
#[test]
fn a_share_is_98_of_100() {
    let begun = Instant::now();
    let calls = |every_ms: u64, lost: usize| -> Vec<Timed> {
        let mut calls: Vec<Timed> = (0..20_100 / every_ms)
            .map(|number| {
                let begun = begun + Duration::from_millis(number * every_ms);
                let admitted = (number * every_ms).is_multiple_of(100) && number > 0;
                Timed { begun, ended: begun, admitted, stopped: false }
            })
            .collect();
        calls.iter_mut().filter(|it| it.admitted).take(lost).for_each(|it| it.admitted = false);
        calls
    };
    let measured = |every_ms, lost| {
        let steady = Steady::of(&calls(every_ms, lost), SLOW);
        assert_eq!(steady.ideal, 200);
        (steady.is_a_measure(SLOW), steady.gets_its_share())
    };
    assert_eq!(measured(50, 0), (true, true));
    assert_eq!(measured(50, 4), (true, true));
    assert_eq!(measured(50, 5), (true, false));
    assert_eq!(measured(100, 0), (false, true));
}
