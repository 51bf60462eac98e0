//! Keys that the instance knows: none is hashed twice, none waits behind strangers, and one that
//! it does not know costs nobody else anything.

use crate::support::fleet::Fleet;
use crate::support::forged;
use crate::support::http::{Answer, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use rusqlite::Connection as Sqlite;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

fn verifications(instance: &Instance, result: &str) -> u64 {
    instance.metrics().sum("tollgate_verifications_total", &[("result", result)])
}

fn call(instance: &Instance, key: &str) -> Answer {
    instance.call(&Request::get("/v1/models").key(key))
}

fn keys(instance: &Instance, count: usize) -> Vec<String> {
    let admin = instance.admin();
    let consumer = admin.key("enterprise").consumer_id;
    (0..count).map(|_| admin.key_of(&consumer, &json!({})).text).collect()
}

fn stop(instance: &mut Instance) {
    instance.process.terminate();
    assert!(instance.process.ended().success());
}

fn store_of(instance: &Instance) -> Sqlite {
    Sqlite::open(instance.data_dir().join("tollgate.db")).unwrap()
}

#[test]
fn a_restart_hashes_no_key_that_was_seen_before() {
    let mut instance = Setup::default().shards(2).start();
    let keys = keys(&instance, 12);
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    instance.process.kill();
    instance.restart();
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    assert_eq!(verifications(&instance, "granted"), 0, "keys that were hashed");
    // Revoked is revoked, whatever is known of its text.
    let admin = instance.admin();
    let gone = admin.key("premium");
    call(&instance, &gone.text).expect(200);
    admin.done(ureq::http::Method::DELETE, &format!("keys/{}", gone.id), None);
    stop(&mut instance);
    instance.restart();
    call(&instance, &gone.text).expect(401);
}

/// Keys of an earlier version have no digest: hashed once, and never again.
#[test]
fn a_key_without_a_digest_is_hashed_once() {
    let mut instance = Setup::default().embedded().shards(1).start();
    let keys = keys(&instance, 3);
    stop(&mut instance);
    store_of(&instance).execute("UPDATE keys SET digest = NULL", ()).unwrap();
    instance.restart();
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    assert_eq!(verifications(&instance, "granted"), 3);
    poll::until("the digests in the store", || {
        let query = "SELECT count(*) FROM keys WHERE digest IS NOT NULL";
        let count: i64 = store_of(&instance).query_row(query, (), |row| row.get(0)).unwrap();
        (count == 3).then_some(())
    });
    stop(&mut instance);
    instance.restart();
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    assert_eq!(verifications(&instance, "granted"), 0);
    // Under another digest key the digests say nothing, and no key is lost.
    stop(&mut instance);
    std::fs::remove_file(instance.data_dir().join("digest.key")).unwrap();
    instance.restart();
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    assert_eq!(verifications(&instance, "granted"), 3);
}

/// Everybody here calls from one address, as behind one NAT.
#[test]
fn wrong_secrets_lock_nobody_elses_key_out() {
    let instance = Setup::default().shards(1).start();
    let victim = instance.admin().key("premium").text;
    call(&instance, &victim).expect(200);
    let mut statuses = BTreeMap::<u16, u32>::new();
    for number in 0..200 {
        let forged = forged::with_another_secret(&victim, number);
        *statuses.entry(call(&instance, &forged).status()).or_default() += 1;
    }
    assert!(statuses.keys().all(|status| [401, 503].contains(status)), "{statuses:?}");
    let fresh = keys(&instance, 36);
    let served = fresh.iter().filter(|key| call(&instance, key).status() == 200).count();
    println!("fresh keys served after {statuses:?} from their address: {served} of 36");
    assert_eq!(served, 36);
    call(&instance, &victim).expect(200);
}

#[test]
fn an_unknown_key_is_refused_without_a_word_to_control() {
    let instance = Setup::default().shards(2).start();
    let good = instance.key("premium");
    let wrong = call(&instance, &forged::with_another_secret(good, 1)).expect(401);
    let asked = instance.metrics().sum("tollgate_verifications_total", &[]);
    for number in 0..500 {
        let answer = call(&instance, &forged::nobodys(number)).expect(401);
        assert_eq!(answer.body, wrong.body);
    }
    let asked_now = instance.metrics().sum("tollgate_verifications_total", &[]);
    println!("control was asked {} times about 500 unknown keys", asked_now - asked);
    assert_eq!(asked_now, asked);
    // A key that has just been made is known at once, on every shard.
    for key in keys(&instance, 20) {
        for _ in 0..4 {
            call(&instance, &key).expect(200);
        }
    }
}

/// The bytes of the answer, but for what each has of its own: the date and the id.
fn told(instance: &Instance, request: Request, key: &str) -> String {
    let request = request.key(key).header("connection", "close");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    let text = String::from_utf8(connection.rest().unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
    let is_own = |line: &str| {
        ["date:", "x-request-id:", "request-id:"].iter().any(|own| line.starts_with(own))
    };
    text.split_inclusive("\r\n").filter(|line| !is_own(&line.to_lowercase())).collect()
}

#[test]
fn an_expired_key_is_told_what_an_unknown_one_is_to_the_byte() {
    let mut instance = Setup::default().embedded().shards(1).start();
    let admin = instance.admin();
    let consumer = admin.key("premium").consumer_id;
    let unix_s = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let key = admin.key_of(&consumer, &json!({ "expires_at": unix_s + 3 })).text;
    call(&instance, &key).expect(200);
    poll::until("the key to expire", || (call(&instance, &key).status() == 401).then_some(()));
    for _ in 0..2 {
        for path in ["/v1/models", "/v1/messages", "/api/v1/account"] {
            let request = match path {
                "/v1/messages" => Request::post(path, &json!({ "model": "demo-chat" })),
                _ => Request::get(path),
            };
            let expired = told(&instance, request.clone(), &key);
            assert_eq!(expired, told(&instance, request, &forged::nobodys(1)), "{path}");
        }
        // And by a process that has never seen it valid.
        stop(&mut instance);
        instance.restart();
    }
}

/// So many, each called once by a crowd that is there before the first call.
const KEYS: usize = 10_000;
const CALLERS: usize = 64;

#[test]
fn ten_thousand_keys_call_at_once_after_a_restart() {
    let mut instance = Setup::default().embedded().shards(2).start();
    stop(&mut instance);
    let keys = planted_keys(&instance);
    instance.restart();
    let begun = Instant::now();
    call_each(&instance, &keys, |_| false);
    println!("{KEYS} keys after a restart: all known after {} ms", begun.elapsed().as_millis());
    assert_eq!(verifications(&instance, "granted"), 0, "keys that were hashed");
}

/// All of them were verified by one instance, whose word on them is in the store.
#[test]
fn a_new_instance_hashes_no_key_that_another_has_verified() {
    let mut fleet = Fleet::start_with(1, "[keys]\nargon2_memory_kib = 8\nargon2_passes = 1\n");
    let like = fleet.first(|first| first.admin().key("enterprise"));
    let keys = fleet.plant(KEYS as u32, &like);
    let begun = Instant::now();
    fleet.first(|first| {
        call_each(first, &keys, |status| matches!(status, 401 | 503));
        assert_eq!(verifications(first, "granted"), KEYS as u64);
    });
    println!("{KEYS} keys hashed by the first after {} ms", begun.elapsed().as_millis());
    let unknown = "SELECT count(*) FROM keys WHERE digest IS NULL";
    poll::until("the digests in the store", || (fleet.sql(unknown) == [["0"]]).then_some(()));
    let begun = Instant::now();
    fleet.join();
    let ready_ms = begun.elapsed().as_millis();
    let newest = fleet.instances[1].lock().unwrap();
    call_each(&newest, &keys, |_| false);
    let warm_ms = begun.elapsed().as_millis();
    println!("a new instance: ready after {ready_ms} ms, all known after {warm_ms} ms");
    assert_eq!(verifications(&newest, "granted"), 0, "keys that were hashed");
}

/// Calls once with each key, and again with those for which the status says so.
fn call_each(instance: &Instance, keys: &[String], again: impl Fn(u16) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            let (next, again, mut connection) = (&next, &again, instance.open());
            scope.spawn(move || {
                while let Some(key) = keys.get(next.fetch_add(1, Relaxed)) {
                    let request = Request::get("/v1/models").key(key);
                    poll::until("a key that is served", || {
                        let status = connection.call(&request).unwrap().status();
                        assert!(status == 200 || again(status), "{status}");
                        (status == 200).then_some(())
                    });
                }
            });
        }
    });
}

/// Keys in use are asked about again while they go on, spread over half a minute.
#[test]
fn a_key_in_use_is_looked_at_again_and_no_call_waits_for_it() {
    let instance = Setup::default().shards(1).start();
    let keys = keys(&instance, 24);
    keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
    let looked_at = || verifications(&instance, "cached");
    let (before, begun) = (looked_at(), Instant::now());
    poll::within(Duration::from_secs(40), "each key to be looked at again", || {
        keys.iter().for_each(|key| drop(call(&instance, key).expect(200)));
        let again = looked_at() - before;
        assert!(again == 0 || begun.elapsed() > Duration::from_secs(9), "{again} at once");
        (again >= keys.len() as u64).then_some(())
    });
    println!("each of {} keys looked at again after {:?}", keys.len(), begun.elapsed());
    assert!(looked_at() - before < 4 * keys.len() as u64, "for every call");
}

/// Keys that were verified once, as the store keeps them. To make each by the admin API would
/// take an Argon2 each; their hash is another key's, so that nothing but the digest lets them in.
fn planted_keys(instance: &Instance) -> Vec<String> {
    let digest_key: [u8; 32] =
        std::fs::read(instance.data_dir().join("digest.key")).unwrap().try_into().unwrap();
    let mut store = store_of(instance);
    let transaction = store.transaction().unwrap();
    let model = "SELECT substr(digest, 1, 8) FROM keys LIMIT 1";
    let name: Vec<u8> = transaction.query_row(model, (), |row| row.get(0)).unwrap();
    let mut keys = Vec::with_capacity(KEYS);
    for number in 0..KEYS as u32 {
        let (id, text) = forged::planted(number);
        let digest = blake3::keyed_hash(&digest_key, text.as_bytes());
        let digest = [&name[..], digest.as_bytes()].concat();
        let made = transaction.execute(
            "INSERT INTO keys (id, consumer_id, bucket_id, secret_hash, created_at, digest)
             SELECT ?1, consumer_id, ?1, secret_hash, created_at, ?2 FROM keys LIMIT 1",
            (id, digest),
        );
        assert_eq!(made.unwrap(), 1);
        keys.push(text);
    }
    transaction.commit().unwrap();
    keys
}
