//! A price that changes its kind in mid-month, over two shards: the places of the month go on from
//! every token of it, those of calls under way and of records not yet in the ledger included.

use crate::support::admin::{Key, per_token, text_of};
use crate::support::http::{Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Row;
use crate::support::poll;
use crate::support::reckoning::tier;
use serde_json::{Value, json};

const CONNECTIONS: usize = 8;
/// What is settled when the price changes, some of it not in the ledger for 200 ms.
const SETTLED: u64 = CONNECTIONS as u64 * (50 + 20);
/// What is under way then.
const UNDER_WAY: u64 = CONNECTIONS as u64 * 30;
/// Calls by the new price, before those end and after.
const BESIDE: u64 = CONNECTIONS as u64 * 10;
const BEHIND: u64 = CONNECTIONS as u64 * 25;
const CONFIG: &str = "[usage]\nbatch_age_ms = 200\n";

/// What a token costs by its place.
fn price_at(place: u64) -> u64 {
    match place {
        0..600 => 7,
        600..1_000 => 5,
        // In the middle of the very last call.
        1_000..1_085 => 3,
        _ => 2,
    }
}

fn tiers() -> Value {
    let tier = |up_to, place| tier(up_to, price_at(place) * 1_000_000, price_at(place) * 1_000_000);
    json!({ "kind": "tiered", "tiers": [
        tier(Some(600), 0), tier(Some(1_000), 600), tier(Some(1_085), 1_000), tier(None, 1_085),
    ] })
}

struct Customer<'a> {
    instance: &'a Instance,
    key: Key,
    service: String,
}

impl Customer<'_> {
    fn request(&self, id: &str, tokens: u64) -> Request {
        Request::get(&format!("/api/v1/consume/{}", self.service))
            .key(&self.key.text)
            .id(id)
            .header("x-mock-prompt-tokens", &tokens.to_string())
            .header("x-mock-tokens", "0")
    }

    /// One call of so many tokens over each connection, one after the other.
    fn call_all(&self, connections: &mut [Connection], name: &str, tokens: u64) -> Vec<Row> {
        let ids: Vec<String> = (0..connections.len()).map(|at| format!("{name}-{at}")).collect();
        for (connection, id) in connections.iter_mut().zip(&ids) {
            let request = self.request(id, tokens);
            // A shard may not know the service yet.
            poll::until("the call to be admitted", || {
                let answer = connection.call(&request).unwrap();
                (answer.status() != 404).then(|| answer.expect(200))
            });
        }
        ids.iter().map(|id| self.instance.ledger().row(id)).collect()
    }
}

fn by_both_shards(instance: &Instance) -> Vec<Connection> {
    poll::until("connections to both shards", || {
        let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| instance.open()).collect();
        for connection in &mut connections {
            connection.call(&Request::get("/healthz")).unwrap().expect(200);
        }
        let scrape = instance.metrics();
        let on = |shard: &str| scrape.sum("tollgate_open_connections", &[("shard", shard)]);
        (on("0") >= 2 && on("1") >= 2).then_some(connections)
    })
}

fn cost(rows: &[Row]) -> u64 {
    rows.iter().map(|row| row.cost_nanousd).sum()
}

#[test]
fn every_token_of_the_month_has_its_place_when_a_price_changes_its_kind() {
    let instance = Setup::default().shards(2).config(CONFIG).start();
    let admin = instance.admin();
    let upstream = text_of(&instance.demo["upstream_url"]);
    let flat = per_token(1_000_000, 1_000_000, 1_000_000);
    let service = admin.service("kind", &upstream, &flat);
    let customer = Customer { instance: &instance, key: admin.key("bench"), service };
    let (mut slow, mut fast) = (by_both_shards(&instance), by_both_shards(&instance));
    customer.call_all(&mut fast, "first", 50);
    for (at, connection) in slow.iter_mut().enumerate() {
        let request = customer.request(&format!("slow-{at}"), 30);
        let request = request.header("x-mock-latency-ms", "12000");
        connection.send(&request.to_bytes()).unwrap();
    }
    let under_way = || instance.metrics().sum("tollgate_permits_open", &[]) as usize;
    poll::until("calls under way", || (under_way() == CONNECTIONS).then_some(()));
    for (at, connection) in fast.iter_mut().enumerate() {
        let request = customer.request(&format!("second-{at}"), 20);
        connection.call(&request).unwrap().expect(200);
    }
    let changed = json!({ "price": tiers() });
    admin.post(&format!("services/{}/prices", customer.service), &changed);
    // Calls of no tokens take no place. Each shard's answer shows that it has the price.
    for round in 0.. {
        let rows = customer.call_all(&mut fast, &format!("probe-{round}"), 0);
        if rows.iter().all(|row| row.price_version == 2) {
            break;
        }
    }
    let beside = customer.call_all(&mut fast, "beside", 10);
    assert_eq!(under_way(), CONNECTIONS, "the calls under way have ended too early to tell");
    let places = SETTLED..SETTLED + BESIDE;
    assert_eq!(cost(&beside), places.map(price_at).sum::<u64>(), "{beside:?}");
    for connection in &mut slow {
        connection.answer("GET").unwrap().expect(200);
    }
    let late: Vec<Row> =
        (0..CONNECTIONS).map(|at| instance.ledger().row(&format!("slow-{at}"))).collect();
    assert!(late.iter().all(|row| row.price_version == 1 && row.cost_nanousd == 30), "{late:?}");
    let behind = customer.call_all(&mut fast, "behind", 25);
    let begin = SETTLED + BESIDE + UNDER_WAY;
    let places = begin..begin + BEHIND;
    assert_eq!(cost(&behind), places.map(price_at).sum::<u64>(), "{behind:?}");
    let last = customer.call_all(&mut fast[..1], "last", 10);
    assert_eq!(begin + BEHIND, 1_080);
    assert_eq!(last[0].cost_nanousd, 5 * 3 + 5 * 2, "{last:?}");
    instance.balance_books();
}
