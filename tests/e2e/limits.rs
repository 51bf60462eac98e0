//! Rates and quotas: never more than promised, over all shards, and to the token.

use crate::support::http::{Answer, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

fn refusal_is_complete(answer: &Answer, code: &str) {
    assert_eq!(answer.status(), 429, "{}", answer.text());
    assert_eq!(answer.code(), code);
    assert!(answer.head.number("retry-after") >= 1);
    for what in ["limit", "remaining", "reset"] {
        for of in ["requests", "tokens"] {
            answer.head.must(&format!("x-ratelimit-{what}-{of}"));
        }
    }
}

#[test]
fn basic_gets_its_burst_and_then_its_rate() {
    let instance = Setup::default().shards(2).start();
    let key = instance.key("basic").to_owned();
    let mut connection = instance.open();
    let request = instance.chat(&json!({})).key(&key);
    let begun = Instant::now();
    let mut admitted = 0;
    let refused = loop {
        let answer = connection.call(&request).unwrap();
        match answer.status() {
            200 => admitted += 1,
            _ => break answer,
        }
    };
    let most = 10.0 + 10.0 * begun.elapsed().as_secs_f64();
    assert!(admitted >= 10 && f64::from(admitted) <= most, "{admitted} of {most}");
    refusal_is_complete(&refused, "rate_limit_exceeded");
    assert_eq!(refused.head.number("x-ratelimit-remaining-requests"), 0);
    poll::within(Duration::from_secs(2), "a token to come back", || {
        (connection.call(&request).unwrap().status() == 200).then_some(())
    });
    let refusals = instance.metrics().sum("rate_limits_exceeded_total", &[("plan", "basic")]);
    assert!(refusals >= 1);
    instance.balance_books();
}

#[test]
fn what_remains_is_told_over_all_shards() {
    const BURST: u64 = 96;
    // In a Redis that is new a bucket fills from zero: this one for a minute and a half.
    let instance = Setup::default().shards(2).embedded().start();
    let admin = instance.admin();
    let plan = json!({
        "name": "slow", "rate_per_s": 1, "burst": BURST, "quota_tokens": 1_000_000_000,
    });
    admin.post("plans", &plan);
    let key = admin.key("slow");
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let request = Request::get(&path).key(&key.text);
    // The kernel gives each shard its share of so many.
    let mut connections: Vec<_> = (0..16).map(|_| instance.open()).collect();
    let begun = Instant::now();
    let mut left = BURST;
    'burst: loop {
        for connection in &mut connections {
            let answer = connection.call(&request).unwrap();
            let told = answer.head.number("x-ratelimit-remaining-requests");
            assert_eq!(answer.head.number("x-ratelimit-limit-requests"), BURST);
            if answer.status() == 429 {
                break 'burst;
            }
            left = left.saturating_sub(1);
            // More by what has accrued, and by what another shard used since it last said.
            let most = left + BURST / 8 + begun.elapsed().as_secs() + 1;
            assert!((left..=most.min(BURST)).contains(&told), "{told}, not {left}");
        }
    }
    assert!(left == 0, "refused with {left} left");
    poll::until("a refusal on every connection", || {
        let refused = connections.iter_mut().all(|connection| {
            let answer = connection.call(&request).unwrap();
            let told = answer.head.number("x-ratelimit-remaining-requests");
            assert!(answer.status() == 200 || told == 0, "refused with {told} left");
            answer.status() == 429
        });
        refused.then_some(())
    });
    instance.balance_books();
}

/// A call that reserves exactly what it will use: 50 tokens for 200 bytes of body, `output` more.
pub fn exact(instance: &Instance, key: &str, output: u32) -> Request {
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let mut body = format!("{{\"max_tokens\":{output},\"pad\":\"\"}}");
    let pad = "x".repeat(200 - body.len());
    body.insert_str(body.len() - 2, &pad);
    Request::new("POST", &path)
        .key(key)
        .body(&body)
        .header("x-mock-prompt-tokens", "50")
        .header("x-mock-tokens", &output.to_string())
}

#[test]
fn a_quota_is_spent_to_the_token() {
    let instance = Setup::default().shards(2).start();
    let admin = instance.admin();
    admin.plan("small", 1_000, 1_030);
    let key = admin.key("small");
    for round in 0..10 {
        // A connection each, so that both shards have a part in it.
        let answer = instance.call(&exact(&instance, &key.text, 50));
        assert_eq!(answer.status(), 200, "{round}: {}", answer.text());
    }
    // 30 tokens are left: not enough for 100, nor for 60.
    for output in [50, 10] {
        let answer = instance.call(&exact(&instance, &key.text, output));
        refusal_is_complete(&answer, "insufficient_quota");
    }
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let last = Request::new("POST", &path)
        .key(&key.text)
        .body("{\"max_tokens\":25}   ")
        .header("x-mock-prompt-tokens", "5")
        .header("x-mock-tokens", "25");
    // No shard refuses what fits because of what did not.
    let answer = instance.call(&last).expect(200);
    assert_eq!(answer.head.number("x-ratelimit-remaining-tokens"), 0);
    refusal_is_complete(&instance.call(&last), "insufficient_quota");
    // The quota is the consumer's: another key of theirs has none either.
    let other = admin.key_of(&key.consumer_id, &json!({}));
    refusal_is_complete(&instance.call(&exact(&instance, &other.text, 1)), "insufficient_quota");
    let account = Request::get("/api/v1/account").key(&other.text);
    // The ledger is a batch behind.
    instance.balance_books();
    let quota = instance.call(&account).expect(200).json()["quota"].clone();
    assert_eq!(
        (quota["used_tokens"].as_u64(), quota["remaining_tokens"].as_u64()),
        (Some(1_030), Some(0))
    );
    assert_eq!(instance.metrics().sum("quota_exceeded_total", &[("plan", "small")]), 4);
    instance.balance_books();
    let used: u64 =
        instance.ledger().rows().iter().map(|row| row.input_tokens + row.output_tokens).sum();
    assert_eq!(used, 1_030);
}

/// Clients that each make calls of one size at once, until the first that is refused.
fn spend(instance: &Instance, key: &str, sizes: &[u32]) -> u64 {
    let client = |output: &u32| {
        let request = exact(instance, key, *output);
        let mut connection = instance.open();
        let answers = std::iter::repeat_with(|| connection.call(&request).unwrap());
        let mut spent = 0;
        // On a busy machine a lease of the rate may be late.
        for answer in answers.filter(|answer| answer.code() != "rate_limit_exceeded") {
            if answer.status() != 200 {
                refusal_is_complete(&answer, "insufficient_quota");
                return spent;
            }
            spent += u64::from(50 + output);
        }
        spent
    };
    thread::scope(|scope| {
        let clients: Vec<_> = sizes.iter().map(|size| scope.spawn(move || client(size))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

/// Every call uses what it reserves, so that no refusal is because of a call under way that will
/// give some back: then whoever is refused first must not have left room for a call of its size.
fn a_quota_ends_to_the_token(shards: u16) {
    let instance = Setup::default().shards(shards).start();
    let admin = instance.admin();
    for (round, (quota, sizes)) in [
        (1_000, &[50; 8][..]),
        (4_030, &[50; 8]),
        (6_789, &[10, 20, 50, 150, 10, 20, 50, 150]),
        (2_049, &[1_950, 1_000, 500, 100, 50, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let plan = format!("small-{round}");
        admin.plan(&plan, 1_000, quota);
        let key = admin.key(&plan);
        let smallest = sizes.iter().map(|output| 50 + u64::from(*output)).min().unwrap();
        let spent = spend(&instance, &key.text, sizes);
        assert!(spent <= quota && quota - spent < smallest, "{spent} of {quota}");
        // Nothing is left of it for whoever comes later, on any shard, but a smaller call.
        for _ in 0..8 {
            assert_eq!(spend(&instance, &key.text, &sizes[..1]), 0);
        }
        instance.balance_books();
        let rows = instance.ledger().rows();
        let own = rows.iter().filter(|row| row.consumer_id == key.consumer_id);
        let used: u64 = own.map(|row| row.input_tokens + row.output_tokens).sum();
        assert_eq!(used, spent);
    }
}

#[test]
fn a_quota_ends_to_the_token_on_one_shard() {
    a_quota_ends_to_the_token(1);
}

#[test]
fn a_quota_ends_to_the_token_on_two_shards() {
    a_quota_ends_to_the_token(2);
}

#[test]
fn a_quota_outlives_the_process() {
    let mut instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    admin.plan("small", 1_000, 300);
    let key = admin.key("small").text;
    for _ in 0..2 {
        instance.call(&exact(&instance, &key, 50)).expect(200);
    }
    instance.balance_books();
    instance.process.terminate();
    assert!(instance.process.ended().success());
    instance.restart();
    instance.call(&exact(&instance, &key, 50)).expect(200);
    refusal_is_complete(&instance.call(&exact(&instance, &key, 50)), "insufficient_quota");
}
