//! A start while Postgres is away: from what the last process wrote down of it.

use crate::support::http::{Connection, Request};
use crate::support::instance::{Setup, Upstream};
use crate::support::postgres::{Database, Server, query};
use crate::support::process::{self, Process};
use crate::support::redis_server::RedisServer;
use crate::support::{admin::Admin, poll};
use serde_json::json;
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

    let file = data_dir.join("serve.toml");
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nshards = 1\n\
         data_dir = \"{}\"\n[store]\nurl = \"{}\"\n[authority]\nurl = \"{}\"\n",
        data_dir.display(),
        database.url,
        redis.url()
    );
    std::fs::write(&file, config).unwrap();
    let serve = ["serve", "--config", file.to_str().unwrap()];
    let (mut second, addresses) = Process::start(process::command(&serve), "ready data=");
    let (data_url, admin_url) = addresses.split_once(" admin=").unwrap();
    let call = |key: &str, id: &str| {
        let request = first.chat(&json!({})).key(key).id(id);
        Connection::open(data_url).unwrap().call(&request).unwrap()
    };
    let ready = Connection::open(data_url).unwrap().call(&Request::get("/readyz")).unwrap();
    ready.expect(200);
    poll::until("a call", || (call(&key, "while-away").head.status == 200).then_some(()));
    let token = std::fs::read_to_string(data_dir.join("admin.token")).unwrap();
    let admin = Admin::new(admin_url, token.trim());
    assert_eq!(admin.call(Method::GET, "plans", None).0, 503, "the store is away");

    server.begin();
    let rows = "SELECT count(*) FROM usage_rows WHERE request_id = 'while-away'";
    poll::until("the row", || query(&database.url, rows).ok().filter(|rows| *rows == [["1"]]));
    // What changes from now on is followed.
    let revoke = "UPDATE keys SET revoked_at = now(), changed = nextval('catalog_changes')
         WHERE bucket_id IN (SELECT bucket_id FROM keys JOIN consumers ON consumers.id = consumer_id
             WHERE consumers.name = 'demo-basic')";
    query(&database.url, revoke).unwrap();
    poll::until("the revocation", || {
        Some(()).filter(|()| call(&revoked, "revoked").head.status == 401)
    });
    second.terminate();
    second.ended();

    server.stop();
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let refused = process::run(&serve);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("it is damaged"), "{said}");
}
