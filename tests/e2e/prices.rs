//! The three price models, against a calculation of the test's own from the tokens in the rows.

use crate::shared::{shared, unique};
use crate::support::admin::{Key, per_token, text_of};
use crate::support::http::{Connection, Request};
use crate::support::ledger::Row;
use crate::support::reckoning::{Prices, Tokens, cost, replay, tier};
use crate::support::{poll, process};
use serde_json::{Value, json};
use std::thread;
use ureq::http::Method;

struct Customer {
    key: Key,
    service: String,
    /// Does its price depend on the month?
    by_month: bool,
    connection: Connection,
}

impl Customer {
    /// A new consumer of a new service with this price.
    fn of(price: &Value) -> Self {
        let instance = &shared().instance;
        let admin = instance.admin();
        let upstream = text_of(&instance.demo["upstream_url"]);
        let service = admin.service(&unique("priced"), &upstream, price);
        let (key, connection) = (admin.key("enterprise"), instance.open());
        let by_month = price["kind"] != "per_token";
        let mut customer = Self { key, service, by_month, connection };
        // Not every shard may know the service yet; a refusal costs nothing.
        poll::until("the service", || {
            let request = Request::new("HEAD", &customer.path()).key("tg_nobody");
            let known = customer.connection.call(&request).is_ok();
            known.then_some(())
        });
        customer
    }

    fn path(&self) -> String {
        format!("/api/v1/consume/{}", self.service)
    }

    fn call(&mut self, (input, cached, output): Tokens) -> Row {
        let request_id = unique("priced");
        let request = Request::get(&self.path())
            .key(&self.key.text)
            .id(&request_id)
            .header("x-mock-prompt-tokens", &input.to_string())
            .header("x-mock-cached-tokens", &cached.to_string())
            .header("x-mock-tokens", &output.to_string());
        let answer = poll::until("the service on this shard", || {
            Some(self.connection.call(&request).unwrap()).filter(|answer| answer.status() != 404)
        });
        let answer = answer.expect(200);
        let row = shared().instance.ledger().row(&request_id);
        assert_eq!(
            (row.input_tokens, row.cached_tokens, row.output_tokens),
            (input, cached, output)
        );
        let said = answer.head.header("x-tollgate-cost-nanousd");
        // Where the place in the month decides, it is left out until that is certain.
        if said.is_some() || !self.by_month || input + output == 0 {
            assert_eq!(said, Some(&*row.cost_nanousd.to_string()), "{row:?}");
        }
        row
    }
}

#[test]
fn per_token_prices_each_kind() {
    let prices = [2_500_000_000, 1_250_000_000, 10_000_000_000];
    let mut customer = Customer::of(&per_token(prices[0], prices[1], prices[2]));
    for tokens in [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (1_000, 300, 77), (7, 7, 20_000)] {
        let row = customer.call(tokens);
        assert_eq!(row.cost_nanousd, cost(tokens, 0, |_| prices), "{tokens:?}");
        assert_eq!(row.price_version, 1);
    }
}

#[test]
fn the_largest_prices_are_exact() {
    let largest = 10_000_000_000_000;
    let prices = [largest, largest - 1, largest - 2];
    let mut customer = Customer::of(&per_token(prices[0], prices[1], prices[2]));
    for tokens in [(1, 0, 1), (19_999, 7_777, 19_997)] {
        assert_eq!(customer.call(tokens).cost_nanousd, cost(tokens, 0, |_| prices), "{tokens:?}");
    }
}

/// Whoever of many clients gets which place in the month, every place is paid for, once.
fn every_place_is_paid_once(price: &Value, price_at: impl Fn(u64) -> Prices) {
    let customer = Customer::of(price);
    let instance = &shared().instance;
    let client = |client: u64| {
        let (mut connection, mut used) = (instance.open(), 0);
        for call in 0..12 {
            let (input, output) = (7 * client + call, 31 * (call % 3));
            let request = Request::get(&customer.path())
                .key(&customer.key.text)
                .header("x-mock-prompt-tokens", &input.to_string())
                .header("x-mock-cached-tokens", &(input / 3).to_string())
                .header("x-mock-tokens", &output.to_string());
            poll::until("the service on this shard", || {
                let answer = connection.call(&request).unwrap();
                (answer.status() != 404).then(|| answer.expect(200))
            });
            used += input + output;
        }
        used
    };
    let used: u64 = thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(used > 4_000);
    let placed = poll::until("the calls in the ledger", || {
        let rows = instance.ledger().placed(&customer.key.consumer_id, &customer.service);
        (rows.len() == 8 * 12).then_some(rows)
    });
    assert_eq!(replay(&placed, price_at).0, used);
}

#[test]
fn tiers_are_exact_over_shards_and_clients() {
    let tiers = [
        tier(Some(1_000), 7_000_001, 9_500_000),
        tier(Some(3_333), 5_300_000, 6_000_000),
        tier(None, 2_000_000, 2_250_000),
    ];
    let price_at = |place| match place {
        0..1_000 => [7_000_001, 7_000_001, 9_500_000],
        1_000..3_333 => [5_300_000, 5_300_000, 6_000_000],
        _ => [2_000_000, 2_000_000, 2_250_000],
    };
    every_place_is_paid_once(&json!({ "kind": "tiered", "tiers": tiers }), price_at);
}

#[test]
fn an_allowance_is_exact_over_shards_and_clients() {
    let price = json!({
        "kind": "subscription",
        "fee_nanousd": 1,
        "allowance_tokens": 2_345,
        "overage": per_token(3_000_000, 1_500_000, 7_000_000),
    });
    let overage = [3_000_000, 1_500_000, 7_000_000];
    every_place_is_paid_once(&price, |place| if place < 2_345 { [0; 3] } else { overage });
}

#[test]
fn a_cost_is_rounded_once_half_to_even() {
    let mut customer = Customer::of(&per_token(500_000, 250_000, 100_000));
    for (tokens, expected) in [
        ((1, 0, 0), 0),
        ((3, 0, 0), 2),
        ((5, 0, 0), 2),
        ((7, 0, 0), 4),
        // Two quarters and five tenths: each alone would round to nothing.
        ((2, 2, 5), 1),
        ((2, 2, 11), 2),
    ] {
        assert_eq!(cost(tokens, 0, |_| [500_000, 250_000, 100_000]), expected, "{tokens:?}");
        assert_eq!(customer.call(tokens).cost_nanousd, expected, "{tokens:?}");
    }
}

#[test]
fn tiers_are_crossed_within_a_call() {
    let tiers = [tier(Some(100), 9_000_000, 30_000_000), tier(Some(250), 5_500_000, 20_000_000)];
    let price = json!({
        "kind": "tiered", "tiers": [tiers[0], tiers[1], tier(None, 1_000_001, 3_000_000)],
    });
    let price_at = |place: u64| match place {
        0..100 => [9_000_000, 9_000_000, 30_000_000],
        100..250 => [5_500_000, 5_500_000, 20_000_000],
        _ => [1_000_001, 1_000_001, 3_000_000],
    };
    let mut customer = Customer::of(&price);
    let mut before = 0;
    for tokens in [(60, 10, 39), (1, 0, 0), (30, 30, 100), (10, 0, 40), (200, 50, 3)] {
        let row = customer.call(tokens);
        assert_eq!(row.cost_nanousd, cost(tokens, before, price_at), "{tokens:?} after {before}");
        before += tokens.0 + tokens.2;
    }
    let mut whole = Customer::of(&price);
    let row = whole.call((90, 0, 400));
    assert_eq!(row.cost_nanousd, cost((90, 0, 400), 0, price_at));
}

#[test]
fn a_subscription_charges_what_exceeds_its_allowance() {
    let overage = [4_000_000, 1_000_000, 16_000_000];
    let price = json!({
        "kind": "subscription",
        "fee_nanousd": 20_000_000_000_u64,
        "allowance_tokens": 300,
        "overage": per_token(overage[0], overage[1], overage[2]),
    });
    let price_at = |place: u64| if place < 300 { [0; 3] } else { overage };
    let mut customer = Customer::of(&price);
    let mut before = 0;
    for tokens in [(100, 50, 100), (80, 60, 40), (10, 10, 10)] {
        let row = customer.call(tokens);
        assert_eq!(row.cost_nanousd, cost(tokens, before, price_at), "{tokens:?} after {before}");
        before += tokens.0 + tokens.2;
    }
    // The allowance is each consumer's own, and ends in mid-call.
    let mut other = Customer::of(&price);
    let row = other.call((310, 5, 7));
    assert_eq!(row.cost_nanousd, cost((310, 5, 7), 0, price_at));
}

#[test]
fn a_new_price_holds_for_new_calls() {
    let mut customer = Customer::of(&per_token(1_000_000, 0, 0));
    let row = customer.call((10, 0, 0));
    assert_eq!((row.price_version, row.cost_nanousd), (1, 10));
    let admin = shared().instance.admin();
    let prices = format!("services/{}/prices", customer.service);
    let future =
        json!({ "price": per_token(9_000_000, 0, 0), "effective_at": "2099-01-01T00:00:00Z" });
    admin.post(&prices, &future);
    let made = admin.post(&prices, &json!({ "price": per_token(2_000_000, 0, 0) }));
    assert_eq!(made["version"], 3, "{made}");
    let row = poll::within(std::time::Duration::from_secs(1), "the new price", || {
        Some(customer.call((10, 0, 0))).filter(|row| row.price_version != 1)
    });
    assert_eq!((row.price_version, row.cost_nanousd), (3, 20));
    let listed = admin.get(&prices);
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3), "{listed}");
}

#[test]
fn a_price_does_not_begin_in_the_past_and_the_one_in_force_is_marked() {
    let customer = Customer::of(&per_token(1_000_000, 0, 0));
    let admin = shared().instance.admin();
    let prices = format!("services/{}/prices", customer.service);
    let price = |effective_at: Value| {
        let body = json!({ "price": per_token(7_000_000, 0, 0), "effective_at": effective_at });
        admin.call(Method::POST, &prices, Some(&body))
    };
    let (status, answer) = price(json!("2020-01-01T00:00:00Z"));
    assert_eq!(status, 400, "{answer}");
    assert!(text_of(&answer["error"]["message"]).contains("in the past"), "{answer}");
    let (status, answer) = price(json!("2099-01-01T00:00:00Z"));
    assert_eq!((status, &answer["in_force"]), (201, &json!(false)), "{answer}");
    let (status, answer) = price(Value::Null);
    assert_eq!((status, &answer["in_force"]), (201, &json!(true)), "{answer}");
    let listed = admin.get(&prices);
    let in_force: Vec<&Value> =
        listed["data"].as_array().unwrap().iter().map(|price| &price["in_force"]).collect();
    assert_eq!(in_force, [false, false, true], "{listed}");
    let args = ["price", "list", &customer.service];
    let place = ["--admin-url", &admin.url, "--admin-token", &admin.token];
    let output = process::run(&[args.as_slice(), &place].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("IN FORCE"), "{text}");
    let marked: Vec<&str> = text.lines().filter(|line| line.contains("yes")).collect();
    assert!(matches!(marked[..], [line] if line.contains(" 3 ")), "{text}");
}

/// 20 USD once for the month, whatever it is summed by, and nothing for whoever has not called.
#[test]
fn a_subscriptions_fee_is_in_the_usage_once_and_apart_from_the_calls() {
    let fee = 20_000_000_000_u64;
    let price = json!({
        "kind": "subscription", "fee_nanousd": fee, "allowance_tokens": 5,
        "overage": per_token(3_000_000, 3_000_000, 3_000_000),
    });
    let mut customer = Customer::of(&price);
    let rows: Vec<Row> = (0..4).map(|_| customer.call((10, 0, 10))).collect();
    let cost = rows.iter().map(|row| row.cost_nanousd).sum::<u64>();
    assert_eq!(cost, 3 * (80 - 5));
    let admin = shared().instance.admin();
    let (consumer_id, service) = (customer.key.consumer_id.clone(), customer.service.clone());
    let owed = |query: &str| {
        let usage = admin.get(&format!("usage?{query}"));
        let rows = usage["data"].as_array().unwrap().clone();
        let mine = rows.iter().filter(|row| {
            let is = |name: &str, id: &str| row[name].is_null() || row[name] == *id;
            is("consumer_id", &consumer_id) && is("service_id", &service)
        });
        let sum = |name: &str| mine.clone().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
        (sum("calls"), sum("cost_nanousd"), sum("fees_nanousd"))
    };
    for by in ["consumer", "service", "consumer,service", "day,consumer", "service,day,consumer"] {
        poll::until("the calls in the ledger", || (owed(&format!("by={by}")).0 == 4).then_some(()));
        assert_eq!(owed(&format!("by={by}")), (4, cost, fee), "{by}");
    }
    // The fee is due with the first call: a span has it if it has that call.
    let first = &rows[0].occurred_at;
    assert_eq!(owed(&format!("by=consumer&from={first}")), (4, cost, fee));
    let later = &rows[1].occurred_at;
    assert_eq!(owed(&format!("by=consumer&from={later}")).2, 0);
    assert_eq!(owed(&format!("by=consumer&to={later}")).2, fee);
    // The price of the months to come changes nothing in this one.
    let mut other = price.clone();
    other["fee_nanousd"] = json!(7);
    admin.post(&format!("services/{}/prices", customer.service), &json!({ "price": other }));
    customer.call((1, 0, 1));
    assert_eq!(owed("by=consumer,service").2, fee);
    let request = Request::get("/api/v1/account").key(&customer.key.text);
    let account = shared().instance.call(&request).expect(200).json();
    assert_eq!(account["month"]["subscription_fees_nanousd"], fee, "{account}");
    let args = ["usage", "--by", "consumer,service", "--csv"];
    let place = ["--admin-url", &admin.url, "--admin-token", &admin.token];
    let output = process::run(&[args.as_slice(), &place].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(&customer.service)).unwrap();
    assert!(line.ends_with(",20000000000,20.000000000"), "{line}");
}
