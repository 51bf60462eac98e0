//! An instance whose limits are counted in a Redis and whose ledger is in Postgres, from outside.

use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use crate::support::redis_server::RedisServer;
use serde_json::json;

fn is_served(instance: &Instance) -> bool {
    let call = instance.chat(&json!({})).key(instance.key("enterprise"));
    instance.call(&call).status() == 200
}

fn wait_until_lost(instance: &Instance, lost: u64) {
    poll::until("the authority's loss or return", || {
        (instance.metrics().sum("tollgate_authority_lost", &[]) == lost).then_some(())
    });
}

#[test]
fn calls_are_served_with_redis_without_it_and_with_it_again() {
    let mut server = RedisServer::start();
    let instance = Setup::default().redis(&server).start();
    // A Redis that has never been used grants nothing for its first seven seconds.
    // Then its buckets fill from zero, at the plan's rate: a call in between may be early (429).
    for _ in 0..20 {
        poll::until("a call", || is_served(&instance).then_some(()));
    }
    assert!(instance.metrics().sum("tollgate_authority_calls_total", &[]) > 0);

    server.pause();
    wait_until_lost(&instance, 1);
    poll::until("a call without Redis", || is_served(&instance).then_some(()));
    assert_eq!(instance.call(&Request::get("/readyz")).status(), 200);
    server.resume();
    wait_until_lost(&instance, 0);
    poll::until("a call with it again", || is_served(&instance).then_some(()));

    server.restart();
    poll::until("a call with one that has forgotten all", || is_served(&instance).then_some(()));
    instance.balance_books();
}
