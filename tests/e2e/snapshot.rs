//! A start while Postgres is away: from what the last process wrote down of it.

use crate::support::http::{Answer, Connection, Request};
use crate::support::instance::{Setup, Upstream};
use crate::support::postgres::{Database, Server, query};
use crate::support::process::{self, Process};
use crate::support::redis_server::RedisServer;
use crate::support::{admin::Admin, poll};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use ureq::http::Method;

#[test]
fn an_instance_starts_and_serves_while_its_store_is_away() {
    let (server, redis, upstream) = (Server::start(), RedisServer::start(), Upstream::start(&[]));
    let database = Database::create_on(&server);
    let setup = Setup::default().shards(1).upstream(&upstream);
    let mut first = setup.store_at(&database.url).redis_at(&redis.url()).start();
    let (data_dir, key) = (first.data_dir(), first.key("premium").to_owned());
    let revoked = first.key("basic").to_owned();
    // Its month is with Redis from then on, and its digest in the store.
    for key in [&key, &revoked] {
        let request = first.chat(&json!({})).key(key).id("first");
        poll::until("a call", || (first.call(&request).head.status == 200).then_some(()));
    }
    let snapshot = data_dir.join("snapshot");
    poll::until("the digests are kept", || {
        let digests = "SELECT count(*) FROM keys WHERE digest IS NULL";
        Some(()).filter(|()| query(&database.url, digests).unwrap() == [["0"]])
    });
    first.process.terminate();
    first.process.ended();
    assert!(snapshot.is_file());
    server.stop();

    let file = configure(&data_dir, &database.url, &redis.url());
    let serve = ["serve", "--config", file.to_str().unwrap()];
    let token = std::fs::read_to_string(data_dir.join("admin.token")).unwrap();
    let chat = |key: &str, id: &str| first.chat(&json!({})).key(key).id(id);
    let mut second = Serving::start(&serve, token.trim());
    second.answer(&Request::get("/readyz")).expect(200);
    poll::until("a call", || (second.status(&chat(&key, "while-away")) == 200).then_some(()));
    assert_eq!(second.admin.call(Method::GET, "plans", None).0, 503, "the store is away");

    // A revocation that the store has not kept holds for whoever starts from the snapshot too.
    let gone = first.key("enterprise").to_owned();
    let (status, told) = second.admin.call(Method::DELETE, &format!("keys/{}", &gone[3..15]), None);
    assert_eq!((status, &told["error"]["code"]), (503, &json!("store_unavailable")), "{told}");
    second.process.kill();
    let third = Serving::start(&serve, token.trim());
    let is_refused = |what: &str, key: &str| {
        poll::until(what, || (third.status(&chat(key, "revoked")) == 401).then_some(()));
    };
    is_refused("the key that only Redis knows to be revoked", &gone);

    server.begin();
    let rows = "SELECT count(*) FROM usage_rows WHERE request_id = 'while-away'";
    poll::until("the row", || query(&database.url, rows).ok().filter(|rows| *rows == [["1"]]));
    // What changes from now on is followed.
    let revoke = "UPDATE keys SET revoked_at = now(), changed = nextval('catalog_changes')
         WHERE bucket_id IN (SELECT bucket_id FROM keys JOIN consumers ON consumers.id = consumer_id
             WHERE consumers.name = 'demo-basic')";
    query(&database.url, revoke).unwrap();
    is_refused("the revocation", &revoked);
    assert_eq!(
        third.status(&chat(&gone, "revoked")),
        401,
        "the store's row does not bring it back"
    );
    assert_eq!(third.admin.call(Method::DELETE, &format!("keys/{}", &gone[3..15]), None).0, 200);
    third.end();

    server.stop();
    other_secrets_are_refused(&serve, &data_dir);
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    is_no_use(&serve, "it is damaged");
}

fn configure(data_dir: &Path, store_url: &str, authority_url: &str) -> PathBuf {
    let file = data_dir.join("serve.toml");
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nshards = 1\n\
         data_dir = \"{}\"\n[store]\nurl = \"{store_url}\"\n\
         [authority]\nurl = \"{authority_url}\"\n",
        data_dir.display()
    );
    std::fs::write(&file, config).unwrap();
    file
}

/// It says why, and does not start.
fn is_no_use(serve: &[&str], why: &str) {
    let refused = process::run(serve);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(why) && !said.contains("ready data="), "{said}");
}

fn other_secrets_are_refused(serve: &[&str], data_dir: &Path) {
    for name in ["digest.key", "encryption.key"] {
        let file = data_dir.join(name);
        let right = std::fs::read(&file).unwrap();
        std::fs::write(&file, [7; 32]).unwrap();
        is_no_use(serve, &format!("{name} is another key than the one that the instances"));
        std::fs::remove_file(&file).unwrap();
        is_no_use(serve, &format!("{name} is missing"));
        assert!(!file.exists(), "none is made");
        std::fs::write(&file, right).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// A process that serves what its configuration says.
struct Serving {
    process: Process,
    data_url: String,
    admin: Admin,
}

impl Serving {
    fn start(args: &[&str], token: &str) -> Self {
        let (process, addresses) = Process::start(process::command(args), "ready data=");
        let (data_url, admin_url) = addresses.split_once(" admin=").unwrap();
        Self { process, data_url: data_url.to_owned(), admin: Admin::new(admin_url, token) }
    }

    fn answer(&self, request: &Request) -> Answer {
        Connection::open(&self.data_url).unwrap().call(request).unwrap()
    }

    fn status(&self, request: &Request) -> u16 {
        self.answer(request).status()
    }

    fn end(mut self) {
        self.process.terminate();
        self.process.ended();
    }
}
