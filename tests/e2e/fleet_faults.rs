//! Three instances that are one gateway, and what may happen to them and to what they stand on.
//! Each fault comes under load, and after each the books balance and the key has kept to its plan.
//!
//! `TOLLGATE_E2E_OUTAGE_S` is how long an outage lasts, `TOLLGATE_E2E_KILLS` how often a server is
//! killed: two seconds and twice, unless `tests/run --full` says otherwise.

use crate::support::fleet::{Caller, Fleet};
use crate::support::poll;
use crate::support::redis_server::RedisServer;
use crate::support::road::{Road, Traffic};
use serde_json::json;
use std::time::{Duration, Instant};

/// Of the key that is called with: more than the clients ask for would only be more load.
const RATE: u64 = 200;
const BURST: u64 = 200;
const CLIENTS: usize = 2;

fn given(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |given| given.parse().unwrap())
}

fn outage() -> Duration {
    Duration::from_secs(given("TOLLGATE_E2E_OUTAGE_S", 2))
}

/// Lets so much time pass under load.
fn last(span: Duration) {
    let until = Instant::now() + span;
    poll::within(span * 2 + poll::PATIENCE, "the end of an outage", || {
        (Instant::now() >= until).then_some(())
    });
}

/// Three instances and a key, once Redis has begun to grant: a new one does so after seven seconds.
/// `when_lost`: what the key's plan says of a Redis that is out of reach.
fn with_key(when_lost: &str, test: impl FnOnce(&Fleet, &Caller<'_>)) {
    let fleet = Fleet::start(3);
    let (key, model) = fleet.first(|instance| {
        let admin = instance.admin();
        let plan = json!({ "name": "steady", "rate_per_s": RATE, "burst": BURST,
            "quota_tokens": 1_000_000_000, "when_lost": when_lost });
        admin.post("plans", &plan);
        (admin.key("steady").text, instance.model("per_token").to_owned())
    });
    fleet.served(&key);
    test(&fleet, &Caller::new(&key, &model));
}

#[test]
fn an_instance_that_is_killed_loses_no_record() {
    with_key("closed", |fleet, caller| {
        fleet.under_load(CLIENTS, caller, || {
            for _ in 0..given("TOLLGATE_E2E_KILLS", 2) {
                fleet.answers(100);
                let mut instance = fleet.instances[1].lock().unwrap();
                instance.process.kill();
                instance.restart();
            }
            fleet.answers(100);
        });
        fleet.balance_books(true);
        fleet.keeps_to(caller.key, RATE, BURST, 0);
    });
}

#[test]
fn a_redis_that_is_restarted_empty_grants_nothing_twice() {
    with_key("closed", |fleet, caller| {
        fleet.under_load(CLIENTS, caller, || {
            fleet.answers(300);
            fleet.redis.lock().unwrap().restart();
            fleet.answers(300);
        });
        fleet.balance_books(false);
        fleet.keeps_to(caller.key, RATE, BURST, 0);
    });
}

/// The replica has not heard of the last grants when it is promoted.
#[test]
fn a_replica_without_the_last_writes_grants_nothing_twice() {
    with_key("closed", |fleet, caller| {
        let replica = RedisServer::start();
        let road = {
            let master = fleet.redis.lock().unwrap();
            master.command("CONFIG SET repl-diskless-sync-delay 0");
            Road::to(master.address())
        };
        let port = road.address().port();
        fleet.under_load(CLIENTS, caller, || {
            replica.command(&format!("REPLICAOF 127.0.0.1 {port}"));
            poll::until("the replica to have it all", || {
                let said = replica.ask("INFO replication");
                said.contains("master_link_status:up").then_some(())
            });
            fleet.answers(200);
            road.set(Traffic::Silent);
            fleet.answers(50);
            replica.command("REPLICAOF NO ONE");
            fleet.roads.iter().for_each(|road| road.lead_to(replica.address()));
            fleet.answers(300);
        });
        fleet.balance_books(false);
        fleet.keeps_to(caller.key, RATE, BURST, 0);
    });
}

/// One of three is cut off in each way that a network has, and goes on at a part of the rate.
#[test]
fn an_instance_that_redis_is_out_of_reach_for_goes_on_and_comes_back() {
    with_key("degraded", |fleet, caller| {
        let lost = |lost: u64| {
            poll::until("the authority's loss or return", || {
                let instance = fleet.instances[1].lock().unwrap();
                (instance.metrics().sum("tollgate_authority_lost", &[]) == lost).then_some(())
            });
        };
        let begun = Instant::now();
        fleet.under_load(CLIENTS, caller, || {
            fleet.answers(200);
            fleet.roads[1].set(Traffic::Slow(Duration::from_millis(50)));
            last(outage() / 2);
            for bad in [Traffic::Silent, Traffic::Cut] {
                fleet.roads[1].set(bad);
                lost(1);
                last(outage());
                fleet.roads[1].set(Traffic::Free);
                lost(0);
            }
            fleet.answers(100);
        });
        fleet.balance_books(false);
        // docs/leases.md: beside what is granted, degraded instances admit at most half of it.
        let half = RATE as f64 * begun.elapsed().as_secs_f64() / 2.0;
        fleet.keeps_to(caller.key, RATE, BURST, BURST / 2 + half as u64);
    });
}

#[test]
fn a_postgres_that_is_stopped_and_started_costs_no_record() {
    with_key("closed", |fleet, caller| {
        fleet.under_load(CLIENTS, caller, || {
            fleet.answers(200);
            fleet.postgres.stop();
            last(outage());
            // Calls go on without it.
            fleet.answers(100);
            fleet.postgres.begin();
            fleet.answers(100);
        });
        fleet.balance_books(false);
        fleet.keeps_to(caller.key, RATE, BURST, 0);
    });
}

#[test]
fn a_postgres_that_is_killed_in_the_middle_of_a_copy_doubles_no_record() {
    with_key("closed", |fleet, caller| {
        // So that a copy has a middle.
        fleet.sql(
            "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
             CREATE TRIGGER be_slow BEFORE INSERT ON usage_rows
                 FOR EACH ROW EXECUTE FUNCTION be_slow()",
        );
        let copies = "SELECT 1 FROM pg_stat_progress_copy WHERE tuples_processed > 3";
        fleet.under_load(CLIENTS, caller, || {
            for _ in 0..given("TOLLGATE_E2E_KILLS", 2) {
                fleet.answers(50);
                poll::until("a copy under way", || {
                    Some(fleet.sql(copies)).filter(|copies| !copies.is_empty())
                });
                fleet.postgres.kill();
                fleet.postgres.begin();
            }
            fleet.answers(50);
        });
        fleet.balance_books(false);
        fleet.keeps_to(caller.key, RATE, BURST, 0);
    });
}
