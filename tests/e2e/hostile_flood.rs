//! Floods of wrong keys and of connections, at full speed: refused at little cost, the hashing
//! that they can cause bounded, and everybody else served, newcomers too.

use crate::support::bystander::{beside, warm};
use crate::support::forged;
use crate::support::held;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Mutex;
use std::thread;

/// Where the floods come from: this host, but nobody else's address.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const CONNECTIONS: usize = 4;

const CONFIG: &str = "[keys]\nargon2_memory_kib = 1024\nverifier_threads = 1\n\
    verifier_queue_max = 8\n\
    failures_per_minute_per_key = 10\nfailures_per_minute_per_address = 20\n\
    [upstream]\npool_idle_timeout_ms = 300\n";

/// Calls with a key each, as fast as they are answered: how often each status came.
fn flood(instance: &Instance, calls: Range<u32>, key: impl Fn(u32) -> String + Sync) -> Statuses {
    let statuses = Mutex::new(Statuses::new());
    thread::scope(|scope| {
        for lane in 0..CONNECTIONS {
            let (statuses, key) = (&statuses, &key);
            let calls = calls.clone().skip(lane).step_by(CONNECTIONS);
            scope.spawn(move || {
                let mut connection = Connection::open_from(STRANGER, instance.data_url()).unwrap();
                for number in calls {
                    let key = key(number);
                    let answer = connection.call(&Request::get("/v1/models").key(&key)).unwrap();
                    *statuses.lock().unwrap().entry(answer.status()).or_default() += 1;
                }
            });
        }
    });
    statuses.into_inner().unwrap()
}

type Statuses = BTreeMap<u16, u32>;

/// The same beside a bystander, turn by turn.
fn flood_beside(
    instance: &Instance,
    name: &str,
    calls: u32,
    key: impl Fn(u32) -> String + Sync,
) -> Statuses {
    let mut all = Statuses::new();
    beside(instance, name, |turn| {
        for (status, count) in flood(instance, turn.share(calls), &key) {
            *all.entry(status).or_default() += count;
        }
    });
    all
}

/// Only refusals, as many as calls.
fn all_refused(statuses: &Statuses, calls: u32) {
    assert_eq!(statuses.values().sum::<u32>(), calls);
    assert!(statuses.keys().all(|status| [401, 503].contains(status)), "{statuses:?}");
}

fn verifications(instance: &Instance, results: &[(&str, &str)]) -> u64 {
    instance.metrics().sum("tollgate_verifications_total", results)
}

/// A key that is seen for the first time is let in; it may be told to come back first.
fn lets_in(instance: &Instance, key: &str) {
    let request = Request::get("/v1/models").key(key);
    poll::until("a newcomer to be let in", || {
        let status = instance.call(&request).status();
        assert!([200, 503].contains(&status), "{status}");
        (status == 200).then_some(())
    });
}

#[test]
fn wrong_keys_at_full_speed_buy_next_to_no_hashing() {
    const CALLS: u32 = 1_200;
    const GROWTH_KIB: u64 = 48 * 1024;
    let mut instance = Setup::default().shards(1).config(CONFIG).start();
    let admin = instance.admin();
    let (newcomer, later) = (admin.key("premium").text, admin.key("premium").text);
    let victim = admin.key("premium").text;
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    let before_kib = held::peak_kib(&instance);
    let asked = verifications(&instance, &[]);
    let hashing = held::ticks_of(&instance, "verify-");

    // Not a key by its looks: nobody is asked.
    let none = |number| format!("tg_{number:0>45}");
    let statuses = flood_beside(&instance, "keys that are none", CALLS, none);
    assert_eq!(statuses, Statuses::from([(401, CALLS)]));
    assert_eq!(verifications(&instance, &[]), asked);

    // Well-formed, and nobody's: looked up, never hashed.
    let statuses = flood_beside(&instance, "keys of nobody", CALLS, forged::nobodys);
    all_refused(&statuses, CALLS);
    assert_eq!(held::ticks_of(&instance, "verify-"), hashing);
    thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&instance, CALLS..2 * CALLS, forged::nobodys));
        lets_in(&instance, &newcomer);
        all_refused(&flood.join().unwrap(), CALLS);
    });

    // Somebody's id with wrong secrets: hashed as often as the budgets say, then turned away.
    let refused = verifications(&instance, &[("result", "refused")]);
    let wrong = |number| forged::with_another_secret(&victim, number);
    let statuses = flood_beside(&instance, "wrong secrets", CALLS, wrong);
    all_refused(&statuses, CALLS);
    let hashes = verifications(&instance, &[("result", "refused")]) - refused;
    // A minute's budget, what was under way when it was spent, and what a slow run regains.
    assert!((1..=10 + 9 + 20).contains(&hashes), "{hashes} hashes for {statuses:?}");
    lets_in(&instance, &later);

    let growth_kib = held::peak_kib(&instance).saturating_sub(before_kib);
    assert!(growth_kib < GROWTH_KIB, "{growth_kib} KiB");
    held::none_leaked(&instance, before);
    instance.balance_books();
    assert!(!instance.process.log().contains("tg_"), "a key in the log");
}

#[test]
fn connections_that_come_and_go_at_full_speed_leave_nothing() {
    const CALLS: u32 = 1_500;
    let instance = Setup::default().shards(2).config(CONFIG).start();
    warm(&instance);
    let before = held::descriptors_at_rest(&instance);
    beside(&instance, "connections come and go", |turn| {
        for number in turn.share(CALLS) {
            let connection = Connection::open_from(STRANGER, instance.data_url()).unwrap();
            match number % 3 {
                0 => connection.reset().unwrap(),
                1 => connection.end_writes().unwrap(),
                _ => drop(connection),
            }
        }
    });
    held::none_leaked(&instance, before);
    instance.balance_books();
}
