//! Somebody who calls as one should while others misbehave: every call must succeed, and what the
//! misbehaviour costs is told against the same calls without it. The two take turns, so that a
//! machine that is busy with other things is as busy for the one as for the other.

use super::instance::Instance;
use super::load::Until;
use super::poll;
use serde_json::json;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How often an attack is taken up and left off.
const TURNS: u32 = 3;
/// Calls that a turn of an attack must outlast, or that follow it.
const CALLS_MIN: usize = 8;
/// Calls without the attack: before each of its turns, and after the last.
const CALLS_QUIET: usize = 25;
/// No bystander waits longer, whatever the others do.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Makes the first call of an instance: what it brings about (a key's first verification, the
/// consumer's month read) may take longer than a caller waits on a busy machine.
pub fn warm(instance: &Instance) {
    let call = instance.chat(&json!({})).key(instance.key("bench"));
    poll::until("the first call", || (instance.call(&call).status() == 200).then_some(()));
}

/// One turn of an attack.
#[derive(Clone, Copy)]
pub struct Turn(u32);

impl Turn {
    /// This turn's numbers of `0..count`. All turns together have each once.
    pub fn share(self, count: u32) -> Range<u32> {
        count * self.0 / TURNS..count * (self.0 + 1) / TURNS
    }

    /// This turn's part of what there is. All turns together have each once.
    pub fn part<T>(self, all: &[T]) -> &[T] {
        let share = self.share(u32::try_from(all.len()).unwrap());
        &all[share.start as usize..share.end as usize]
    }
}

/// Runs `attack` turn by turn beside a caller whose every call is served within a second. Says how
/// long the caller's calls took while it ran, and how long between its turns.
pub fn beside(instance: &Instance, name: &str, mut attack: impl FnMut(Turn)) {
    warm(instance);
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        quiet.extend(calls(instance, |done| done == CALLS_QUIET));
        let over = AtomicBool::new(false);
        attacked.extend(thread::scope(|scope| {
            let until = |done| over.load(Relaxed) && done >= CALLS_MIN;
            // Also where the attack fails.
            let ends = Until(&over);
            let bystander = scope.spawn(move || calls(instance, until));
            attack(Turn(turn));
            drop(ends);
            bystander.join().unwrap()
        }));
    }
    quiet.extend(calls(instance, |done| done == CALLS_QUIET));
    // Not by println, which the test harness keeps to itself.
    let line = format!("bystander, {name}: {}; without {}\n", told(attacked), told(quiet));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
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
fn turns_have_each_once() {
    let all: Vec<u32> = (0..20).collect();
    let turns = || (0..TURNS).map(Turn);
    assert_eq!(turns().flat_map(|turn| turn.part(&all).to_vec()).collect::<Vec<_>>(), all);
    assert_eq!(turns().flat_map(|turn| turn.share(20)).collect::<Vec<_>>(), all);
    assert!(turns().all(|turn| turn.share(20).len() >= 6));
}

#[test]
fn percentiles_are_of_the_calls() {
    let took = (1..=200).rev().map(Duration::from_millis).collect();
    assert_eq!(told(took), "p50 100.0 ms, p99 198.0 ms (200 calls)");
    assert_eq!(told(vec![Duration::from_millis(3)]), "p50 3.0 ms, p99 3.0 ms (1 calls)");
}
