//! Places in the month over shards and instances, one of them killed: read back in the ledger's
//! order, each record was billed to the nano-USD what its tokens cost there.

use crate::support::admin::{Key, per_token};
use crate::support::fleet::{Caller, Fleet};
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::load::Until;
use crate::support::poll;
use crate::support::reckoning::{Prices, replay, tier};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const NAMES: [&str; 2] = ["placed-tiers", "placed-allowance"];
/// Both prices change within what a second of load uses.
const BOUNDARIES: [u64; 2] = [3_000, 10_000];

fn prices() -> [Value; 2] {
    let [first, second] = BOUNDARIES;
    let tiers = [
        tier(Some(first), 9_000_007, 30_000_001),
        tier(Some(second), 5_500_000, 20_000_000),
        tier(None, 1_000_001, 3_000_003),
    ];
    let overage = per_token(4_000_001, 1_000_000, 16_000_003);
    [
        json!({ "kind": "tiered", "tiers": tiers }),
        json!({ "kind": "subscription", "fee_nanousd": 5, "allowance_tokens": second,
                "overage": overage }),
    ]
}

/// The same, reckoned apart.
fn price_at(name: &str, place: u64) -> Prices {
    match (name, place) {
        ("placed-tiers", 0..3_000) => [9_000_007, 9_000_007, 30_000_001],
        ("placed-tiers", 3_000..10_000) => [5_500_000, 5_500_000, 20_000_000],
        ("placed-tiers", _) => [1_000_001, 1_000_001, 3_000_003],
        (_, 0..10_000) => [0; 3],
        _ => [4_000_001, 1_000_000, 16_000_003],
    }
}

/// A key and the ids of two services, one of either price.
fn sold_by(instance: &Instance) -> (Key, Vec<String>) {
    let admin = instance.admin();
    let upstream = instance.demo["upstream_url"].as_str().unwrap();
    let services = NAMES.iter().zip(prices());
    let services = services.map(|(name, price)| admin.service(name, upstream, &price)).collect();
    (admin.key("bench"), services)
}

/// Waits until every shard sells them.
fn sold(instance: &Instance, key: &str) {
    let models = Request::get("/v1/models").key(key);
    let is_sold = || {
        let answer = instance.call(&models);
        answer.status() == 200 && NAMES.iter().all(|name| answer.text().contains(name))
    };
    // A connection each: any shard.
    poll::until("the services", || (0..16).all(|_| is_sold()).then_some(()));
}

/// Replays the months of both services; what they come to is what the sums say.
fn check(instance: &Instance, key: &Key, services: &[String], calls: usize) {
    let ledger = instance.ledger();
    let mut count = 0;
    for (name, service) in NAMES.iter().zip(services) {
        let placed = ledger.placed(&key.consumer_id, service);
        let (tokens, cost) = replay(&placed, |place| price_at(name, place));
        assert!(tokens > BOUNDARIES[1], "{name}: {tokens} tokens do not pass every boundary");
        let sums = instance.admin().get("usage?by=consumer,service");
        let rows = sums["data"].as_array().unwrap();
        let is_it =
            |row: &&Value| row["service_id"] == **service && row["consumer_id"] == *key.consumer_id;
        let row = rows.iter().find(is_it).unwrap();
        let summed = row["input_tokens"].as_u64().unwrap() + row["output_tokens"].as_u64().unwrap();
        assert_eq!((summed, &row["cost_nanousd"]), (tokens, &json!(cost)), "{row}");
        println!("{name}: {} calls, {tokens} tokens, {cost} nano-USD", placed.len());
        count += placed.len();
    }
    assert_eq!(count, calls, "every row has a place");
}

#[test]
fn graduated_prices_are_exact_over_three_instances_one_of_them_killed() {
    let fleet = Fleet::start(3);
    let (key, services) = fleet.first(sold_by);
    fleet.served(&key.text);
    fleet.instances.iter().for_each(|instance| sold(&instance.lock().unwrap(), &key.text));
    let [tiers, allowance] = NAMES.map(|name| Caller::new(&key.text, name));
    fleet.under_load(1, &tiers, || {
        fleet.under_load(1, &allowance, || {
            for _ in 0..2 {
                fleet.answers(300);
                let mut instance = fleet.instances[1].lock().unwrap();
                instance.process.kill();
                instance.restart();
            }
            fleet.answers(300);
        });
    });
    fleet.balance_books(true);
    let mine = fleet.rows().into_iter().filter(|row| services.contains(&row.service_id));
    let calls = mine.count();
    fleet.first(|instance| check(instance, &key, &services, calls));
}

/// With one shard there is nobody else: every place is certain, from a fresh month's first call on.
#[test]
fn the_one_shard_of_an_instance_tells_every_cost() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().embedded().shards(1).upstream(&upstream).start();
    let (key, services) = sold_by(&instance);
    sold(&instance, &key.text);
    let mut connection = instance.open();
    let tokens = [(2_900, 500), (90, 20), (1, 0), (0, 7_000), (500, 1_000), (12, 30)];
    let mut told = Vec::new();
    // A consumer each: what one uses on another service may have been used on this one.
    let other = instance.admin().key("bench");
    for (at, (input, output)) in tokens.iter().enumerate() {
        for ((name, service), key) in NAMES.iter().zip(&services).zip([&key, &other]) {
            let call = Request::get(&format!("/api/v1/consume/{service}")).key(&key.text);
            let call = call.header("x-mock-prompt-tokens", &input.to_string());
            let call = call.header("x-mock-tokens", &output.to_string());
            let id = format!("{name}-{at}");
            let answer = connection.call(&call.id(&id)).unwrap().expect(200);
            told.push((id, answer.head.number("x-tollgate-cost-nanousd")));
        }
    }
    for (id, cost) in &told {
        assert_eq!(instance.ledger().row(id).cost_nanousd, *cost, "{id}");
    }
    assert!(told.iter().any(|(_, cost)| *cost == 0) && told.iter().any(|(_, cost)| *cost > 0));
    // Who comes after does not know what of this month was used on which service.
    instance.process.terminate();
    instance.process.ended();
    instance.restart();
    sold(&instance, &key.text);
    let call = Request::get(&format!("/api/v1/consume/{}", services[0])).key(&key.text);
    let answer = instance.call(&call.id("after")).expect(200);
    assert_eq!(answer.head.header("x-tollgate-cost-nanousd"), None);
}

#[test]
fn graduated_prices_are_exact_over_two_shards_and_a_kill() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().embedded().shards(2).upstream(&upstream).start();
    let (key, services) = sold_by(&instance);
    sold(&instance, &key.text);
    for _ in 0..2 {
        let done = AtomicBool::new(false);
        let url = instance.data_url().to_owned();
        thread::scope(|scope| {
            let _until = Until(&done);
            for client in 0..4 {
                let (done, url, key) = (&done, &url, &key.text);
                scope.spawn(move || call_until(done, url, key, NAMES[client % 2]));
            }
            let before = instance.ledger().rows().len();
            poll::until("calls in the ledger", || {
                (instance.ledger().rows().len() > before + 600).then_some(())
            });
            instance.process.kill();
        });
        instance.restart();
    }
    // The start has replayed all that the one before had left.
    let rows = instance.ledger().rows();
    assert!(rows.iter().any(|row| row.outcome == "recovered"), "no call died");
    let calls = rows.iter().filter(|row| services.contains(&row.service_id)).count();
    check(&instance, &key, &services, calls);
}

/// Calls over one connection until told, or until the process dies.
fn call_until(done: &AtomicBool, url: &str, key: &str, model: &str) {
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    let body = json!({ "model": model, "messages": messages });
    let request = Request::post("/v1/chat/completions", &body).key(key);
    let mut connection = Connection::open(url).unwrap();
    while !done.load(Relaxed) {
        let Ok(answer) = connection.call(&request) else { return };
        answer.expect(200);
    }
}
