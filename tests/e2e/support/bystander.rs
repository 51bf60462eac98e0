//! Somebody who calls as one should while others misbehave: every call must succeed.

use super::instance::Instance;
use super::poll::{self, PATIENCE};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

/// Calls that an attack must outlast, or that follow it.
const CALLS_MIN: u64 = 20;

/// Makes the first call of an instance: what it brings about (a key's first verification, the
/// consumer's month read) may take longer than a caller waits on a busy machine.
pub fn warm(instance: &Instance) {
    let call = instance.chat(&json!({})).key(instance.key("bench"));
    poll::until("the first call", || (instance.call(&call).status() == 200).then_some(()));
}

/// Runs `attack` beside a caller whose every call succeeds; what the attack returned. The caller
/// changes its connection now and then, so that new ones are seen to be taken too.
pub fn beside<T>(instance: &Instance, attack: impl FnOnce() -> T) -> T {
    warm(instance);
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let key = instance.key("bench");
    let whole = instance.chat(&json!({})).key(key);
    let streamed = instance.chat(&json!({ "stream": true })).key(key);
    let call = || {
        let mut connection = instance.open();
        while !done.load(Relaxed) || calls.load(Relaxed) < CALLS_MIN {
            let number = calls.fetch_add(1, Relaxed);
            if number % 8 == 7 {
                connection = instance.open();
            }
            let request = if number % 2 == 0 { &whole } else { &streamed };
            let begun = Instant::now();
            let answer = connection.call(request);
            let answer = answer.unwrap_or_else(|error| panic!("a bystander was hurt: {error}"));
            assert_eq!(answer.status(), 200, "a bystander was hurt: {}", answer.text());
            assert!(begun.elapsed() < PATIENCE / 4, "a bystander waited {:?}", begun.elapsed());
        }
    };
    thread::scope(|scope| {
        let bystander = scope.spawn(call);
        let result = attack();
        done.store(true, Relaxed);
        bystander.join().unwrap();
        result
    })
}
