//! Somebody who calls as one should while others misbehave: every call must succeed, and what the
//! misbehaviour costs is told against the same calls without it, right before and right after.

use super::instance::Instance;
use super::poll;
use serde_json::json;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that an attack must outlast, or that follow it.
const CALLS_MIN: usize = 20;
/// Calls without the attack, before it and again after it.
const CALLS_QUIET: usize = 50;
/// No bystander waits longer, whatever the others do.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Makes the first call of an instance: what it brings about (a key's first verification, the
/// consumer's month read) may take longer than a caller waits on a busy machine.
pub fn warm(instance: &Instance) {
    let call = instance.chat(&json!({})).key(instance.key("bench"));
    poll::until("the first call", || (instance.call(&call).status() == 200).then_some(()));
}

/// Runs `attack` beside a caller whose every call is served within a second; what the attack
/// returned. Says how long the caller's calls took with the attack and without it.
pub fn beside<T>(instance: &Instance, name: &str, attack: impl FnOnce() -> T) -> T {
    warm(instance);
    let mut quiet = calls(instance, |done| done == CALLS_QUIET);
    let over = AtomicBool::new(false);
    let (result, attacked) = thread::scope(|scope| {
        let until = |done| over.load(Relaxed) && done >= CALLS_MIN;
        let bystander = scope.spawn(move || calls(instance, until));
        let result = attack();
        over.store(true, Relaxed);
        (result, bystander.join().unwrap())
    });
    quiet.extend(calls(instance, |done| done == CALLS_QUIET));
    // Not by println, which the test harness keeps to itself.
    let line = format!("bystander, {name}: {}; without {}\n", told(attacked), told(quiet));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    result
}

/// Calls one by one, until it is enough of them. The caller changes its connection now and then,
/// so that new ones are seen to be taken too.
fn calls(instance: &Instance, enough: impl Fn(usize) -> bool) -> Vec<Duration> {
    let key = instance.key("bench");
    let whole = instance.chat(&json!({})).key(key);
    let streamed = instance.chat(&json!({ "stream": true })).key(key);
    let (mut connection, mut took) = (instance.open(), Vec::new());
    while !enough(took.len()) {
        let begun = Instant::now();
        if took.len() % 8 == 7 {
            connection = instance.open();
        }
        let request = if took.len().is_multiple_of(2) { &whole } else { &streamed };
        let answer = connection.call(request);
        let answer = answer.unwrap_or_else(|error| panic!("a bystander was hurt: {error}"));
        assert_eq!(answer.status(), 200, "a bystander was refused: {}", answer.text());
        let waited = begun.elapsed();
        assert!(waited <= WAIT_MAX, "a bystander waited {waited:?}");
        took.push(waited);
    }
    took
}

/// p50 and p99, and of how many.
fn told(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let ms = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms ({} calls)", ms(50), ms(99), took.len())
}

#[test]
fn percentiles_are_of_the_calls() {
    let took = (1..=200).rev().map(Duration::from_millis).collect();
    assert_eq!(told(took), "p50 100.0 ms, p99 198.0 ms (200 calls)");
    assert_eq!(told(vec![Duration::from_millis(3)]), "p50 3.0 ms, p99 3.0 ms (1 calls)");
}
