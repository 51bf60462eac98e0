//! Several instances on one store: what one changes holds on the others.

use crate::support::admin::{Admin, Key};
use crate::support::fleet::Fleet;
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll;
use crate::support::process;
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::http::Method;

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

fn revoke(fleet: &Fleet, key: &Key) -> u16 {
    let path = format!("keys/{}", key.id);
    fleet.first(|first| first.admin().call(Method::DELETE, &path, None).0)
}

#[test]
fn a_revoked_key_is_refused_by_three_instances_whoever_can_tell_them() {
    let fleet = Fleet::start(3);
    let keys = known_keys(&fleet, 4);
    let refused = |key: &Key, told_at: Instant| {
        all_say(&fleet, HOLDS_WITHIN, &key.text, 401);
        println!("refused by all {} ms after the answer", told_at.elapsed().as_millis());
    };
    assert_eq!(revoke(&fleet, &keys[0]), 200);
    refused(&keys[0], Instant::now());

    // By Redis alone: the answer says that it was not kept, and to repeat the call.
    fleet.postgres.stop();
    assert_eq!(revoke(&fleet, &keys[1]), 500);
    refused(&keys[1], Instant::now());
    fleet.postgres.begin();
    poll::until("the store to keep it", || (revoke(&fleet, &keys[1]) == 200).then_some(()));

    // Without a push, though Redis is there.
    fleet.redis.lock().unwrap().command("ACL SETUSER default -publish");
    assert_eq!(revoke(&fleet, &keys[2]), 200);
    refused(&keys[2], Instant::now());

    // By the store alone.
    fleet.redis.lock().unwrap().kill();
    assert_eq!(revoke(&fleet, &keys[3]), 200);
    refused(&keys[3], Instant::now());
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
