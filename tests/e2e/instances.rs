//! Several instances on one store: what one changes holds on the others.

use crate::support::admin::{Admin, Key};
use crate::support::fleet::Fleet;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll;
use crate::support::process;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::http::Method;

/// What a key is hashed with, unless it is configured.
const MEMORY_KIB: f64 = 19_456.0;
/// The longest lease is of 5 s, and a call waits for a second.
const LEASE_LASTS: Duration = Duration::from_secs(7);
/// By the contract a change holds on all shards of all instances within this.
const HOLDS_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn what_one_instance_changes_holds_on_the_other_within_a_second() {
    let first = Setup::default().shards(2).on_postgres().start();
    let second = Setup::default().shards(2).store_at(first.store_url().unwrap());
    let second = second.beside(&first).start();
    let (admin, upstream): (Admin, Upstream) = (first.admin(), Upstream::start(&[]));
    let call = |model: &str, key: &str| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] });
        let request = Request::post("/v1/chat/completions", &body).key(key);
        // A connection of its own: any shard.
        Connection::open(second.data_url()).unwrap().call(&request).unwrap().status()
    };
    let all_say = |what: &str, model: &str, key: &str, status: u16| {
        poll::within(HOLDS_WITHIN, what, || {
            (0..4).all(|_| call(model, key) == status).then_some(())
        });
    };
    let key = admin.key("bench");
    let old_model = first.model("per_token");
    all_say("a new key", old_model, &key.text, 200);

    let service = json!({
        "name": "later", "base_url": upstream.url,
        "price": { "kind": "per_token", "input_nanousd_per_mtok": 1,
                   "output_nanousd_per_mtok": 1 },
    });
    let (status, made) = admin.call(Method::POST, "services", Some(&service));
    assert_eq!(status, 201, "{made}");
    all_say("a new service", "later", &key.text, 200);
    let path = format!("services/{}", made["id"].as_str().unwrap());
    assert_eq!(admin.call(Method::DELETE, &path, None).0, 200);
    all_say("a deleted service", "later", &key.text, 404);

    let revoked = admin.call(Method::DELETE, &format!("keys/{}", key.id), None);
    assert_eq!(revoked.0, 200);
    all_say("a revoked key", old_model, &key.text, 401);
}

/// Keys that all instances have seen.
fn known_keys(fleet: &Fleet, count: usize) -> Vec<Key> {
    let keys: Vec<Key> =
        fleet.first(|first| (0..count).map(|_| first.admin().key("bench")).collect());
    keys.iter().for_each(|key| all_say(fleet, poll::PATIENCE, &key.text, 200));
    keys
}

/// On every shard, as far as connections of their own come to all of them.
fn all_say(fleet: &Fleet, within: Duration, key: &str, status: u16) {
    let request = Request::get("/v1/models").key(key);
    let says = |instance: &Mutex<Instance>| {
        let instance = instance.lock().unwrap();
        (0..8).all(|_| instance.call(&request).status() == status)
    };
    poll::within(within, &format!("{status} of all instances"), || {
        fleet.instances.iter().all(says).then_some(())
    });
}

fn revoke(fleet: &Fleet, key: &Key) -> (u16, Value) {
    let path = format!("keys/{}", key.id);
    fleet.first(|first| first.admin().call(Method::DELETE, &path, None))
}

fn refused_by_all(fleet: &Fleet, whose_word: &str, key: &Key) {
    let told_at = Instant::now();
    all_say(fleet, HOLDS_WITHIN, &key.text, 401);
    println!("{whose_word}: refused by all {} ms after the answer", told_at.elapsed().as_millis());
}

#[test]
fn a_revoked_key_is_refused_by_three_instances_whoever_can_tell_them() {
    let fleet = Fleet::start(3);
    let keys = known_keys(&fleet, 6);
    let redis = |words: &str| fleet.redis.lock().unwrap().command(words);
    assert_eq!(revoke(&fleet, &keys[0]).0, 200);
    refused_by_all(&fleet, "all", &keys[0]);

    // By Redis alone: the answer says what is done and what is not, and to repeat the call.
    fleet.postgres.stop();
    let (status, answer) = revoke(&fleet, &keys[1]);
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("store_unavailable")));
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(said.contains("refused by all instances") && said.contains("Repeat"), "{said}");
    refused_by_all(&fleet, "Redis", &keys[1]);
    fleet.postgres.begin();
    poll::until("the store to keep it", || (revoke(&fleet, &keys[1]).0 == 200).then_some(()));

    // Without a push, though Redis is there.
    redis("ACL SETUSER default -publish");
    assert_eq!(revoke(&fleet, &keys[2]).0, 200);
    refused_by_all(&fleet, "the store, and what Redis keeps", &keys[2]);
    fleet.cut_others_from_store(true);
    assert_eq!(revoke(&fleet, &keys[3]).0, 200);
    refused_by_all(&fleet, "what Redis keeps", &keys[3]);
    fleet.cut_others_from_store(false);

    // By the store alone.
    fleet.redis.lock().unwrap().kill();
    assert_eq!(revoke(&fleet, &keys[4]).0, 200);
    refused_by_all(&fleet, "the store", &keys[4]);

    // By nobody: the answer says that too.
    fleet.postgres.stop();
    let (status, answer) = revoke(&fleet, &keys[5]);
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("store_unavailable")));
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(said.contains("other instances may accept"), "{said}");
}

/// Neither a push, nor what Redis keeps of it, nor the store tells of it.
#[test]
fn an_active_key_that_is_revoked_is_refused_within_its_lease() {
    let fleet = Fleet::start(3);
    let key = fleet.first(|first| first.admin().key("enterprise"));
    fleet.served(&key.text);
    fleet.redis.lock().unwrap().command("ACL SETUSER default -publish -xadd");
    fleet.cut_others_from_store(true);
    let call = fleet.first(|first| first.chat(&json!({})).key(&key.text));
    assert_eq!(revoke(&fleet, &key).0, 200);
    let revoked_at = Instant::now();
    let refuses = |instance: &Mutex<Instance>| {
        let instance = instance.lock().unwrap();
        (0..8).all(|_| instance.call(&call).status() == 401)
    };
    poll::within(LEASE_LASTS, "401 of all instances", || {
        fleet.instances.iter().all(refuses).then_some(())
    });
    println!("by its lease: refused by all after {} ms", revoked_at.elapsed().as_millis());
}

/// What was asked before the revocation and is answered after it brings nothing back.
#[test]
fn a_verification_that_ends_after_the_revocation_lets_nobody_in() {
    let costs = |memory_kib: f64, passes: u32| {
        format!("[keys]\nargon2_memory_kib = {memory_kib:.0}\nargon2_passes = {passes}\n")
    };
    let fleet = Fleet::start_with(2, &costs(MEMORY_KIB, 2));
    let made_in_s = || {
        let begun = Instant::now();
        let key = fleet.first(|first| first.admin().key("bench"));
        (key, begun.elapsed().as_secs_f64())
    };
    // What takes some three seconds here.
    let memory_kib = (MEMORY_KIB * 3.0 / (32.0 * made_in_s().1)).clamp(64.0, 262_144.0);
    fleet.first(|first| first.rewrite_config(&costs(memory_kib, 64)));
    let like = poll::until("a key that takes its time", || {
        let (key, took_s) = made_in_s();
        (took_s > 1.0).then_some(key)
    });
    let text = fleet.plant(1, &like).remove(0);
    let key = Key { id: text[3..15].to_owned(), consumer_id: String::new(), text };
    let models = Request::get("/v1/models").key(&key.text);
    let asked_at = Mutex::new(Instant::now());
    let is_hashing = || asked_at.lock().unwrap().elapsed() > Duration::from_millis(500);
    let mut second = fleet.instances[1].lock().unwrap();
    let answer = thread::scope(|scope| {
        let (second, models, asked_at) = (&second, &models, &asked_at);
        // Until the key is heard of, it is refused at once.
        let asking = scope.spawn(move || {
            loop {
                *asked_at.lock().unwrap() = Instant::now();
                let answer = second.call(models);
                if is_hashing() {
                    return answer;
                }
            }
        });
        poll::until("a verification under way", || is_hashing().then_some(()));
        assert_eq!(revoke(&fleet, &key).0, 200);
        assert!(!asking.is_finished(), "{memory_kib} took too little");
        asking.join().unwrap()
    });
    answer.expect(401);
    second.call(&models).expect(401);
    second.process.terminate();
    second.process.ended();
    second.restart();
    second.call(&models).expect(401);
}

/// One that decided by other keys would know no key that another has verified, and open none of
/// the upstream credentials.
#[test]
fn an_instance_with_other_secrets_says_which_and_does_not_serve() {
    let mut first = Setup::default().shards(1).on_postgres().start();
    let dir = TempDir::new().unwrap();
    let (file, data_dir) = (dir.path().join("tollgate.toml"), dir.path().join("data"));
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         data_dir = \"{}\"\n[store]\nurl = \"{}\"\n",
        data_dir.display(),
        first.store_url().unwrap()
    );
    std::fs::write(&file, config).unwrap();
    let refused = |what: &str| {
        let output = process::run(&["serve", "--config", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(what) && !said.contains("ready data="), "{said}");
    };
    let copy = |name: &str| {
        std::fs::copy(first.data_dir().join(name), data_dir.join(name)).unwrap();
    };
    refused("digest.key is missing, which is the one that the instances on this store share");
    copy("digest.key");
    refused("encryption.key is missing");
    let other = data_dir.join("encryption.key");
    std::fs::copy(data_dir.join("digest.key"), &other).unwrap();
    refused("encryption.key is another key than the one that");

    // After a rotation the old key is another one too.
    copy("encryption.key");
    first.process.terminate();
    assert!(first.process.ended().success());
    let data = first.data_dir();
    let rotated = first.run(&["secrets", "rotate", "--data-dir", data.to_str().unwrap()]);
    assert!(rotated.status.success(), "{rotated:?}");
    refused("encryption.key is another key than the one that");
    first.restart();
    first.call(&first.chat(&json!({})).key(first.key("bench"))).expect(200);
}
