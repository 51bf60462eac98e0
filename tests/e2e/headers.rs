//! The headers that Tollgate adds to answers, and those that it passes on.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::{Head, Request};
use serde_json::json;

/// `1h2m3s`, `6m0s`, `12ms` as milliseconds.
fn span_ms(text: &str) -> u64 {
    let (mut total, mut digits) = (0.0, String::new());
    let mut units = text.replace("ms", "µ").chars().collect::<Vec<_>>();
    for letter in units.drain(..) {
        let factor = match letter {
            'h' => 3_600_000.0,
            'm' => 60_000.0,
            's' => 1_000.0,
            'µ' => 1.0,
            digit => {
                assert!(digit.is_ascii_digit() || digit == '.', "{text}");
                digits.push(digit);
                continue;
            }
        };
        total += digits.parse::<f64>().unwrap_or_else(|_| panic!("{text}")) * factor;
        digits.clear();
    }
    assert!(digits.is_empty() && !text.is_empty(), "{text}");
    total as u64
}

fn limits_are_sane(head: &Head, rate: u64, quota: u64) {
    assert_eq!(head.number("x-ratelimit-limit-requests"), rate);
    assert!(head.number("x-ratelimit-remaining-requests") <= rate);
    assert!(span_ms(head.must("x-ratelimit-reset-requests")) <= 1_100);
    assert_eq!(head.number("x-ratelimit-limit-tokens"), quota);
    assert!(head.number("x-ratelimit-remaining-tokens") <= quota);
    let month_ms = 31 * 24 * 3_600_000;
    assert!(span_ms(head.must("x-ratelimit-reset-tokens")) <= month_ms);
}

#[test]
fn a_request_id_is_echoed_or_made() {
    let instance = &shared().instance;
    let id_of = |given: Option<&str>| {
        let request = instance.chat(&json!({})).key(instance.key("bench"));
        let request = match given {
            Some(id) => request.id(id),
            None => request,
        };
        instance.call(&request).expect(200).head.must("x-request-id").to_owned()
    };
    let longest = "x".repeat(64);
    for sane in ["a", "0190b2c4-7e2f-7abc-8def-000000000001", "req_1.2:3/4=5+6@7", &longest] {
        let sane = format!("{}.{sane}", unique("id"));
        let sane = &sane[..sane.len().min(64)];
        assert_eq!(id_of(Some(sane)), sane);
        assert_eq!(instance.ledger().row(sane).request_id, sane);
    }
    let (one, two) = (id_of(None), id_of(None));
    assert_ne!(one, two);
    for made in [one, two] {
        assert_eq!(made.len(), 36, "{made}");
        assert_eq!(instance.ledger().row(&made).record_id, made);
        assert_eq!(&made[14..15], "7", "a UUIDv7: {made}");
    }
    for odd in ["two words", "quote\"", &"y".repeat(129), "caf\u{e9}"] {
        assert_eq!(id_of(Some(odd)).len(), 36, "{odd}");
    }
}

#[test]
fn limits_count_down_by_one_a_call() {
    let instance = &shared().instance;
    // A rate so low that no token comes back while the test runs, and a burst to count.
    let plan = unique("slow");
    let body = json!({ "name": plan, "rate_per_s": 1, "burst": 50, "quota_tokens": 1_000_000 });
    instance.admin().post("plans", &body);
    let key = instance.admin().key(&plan).text;
    let mut connection = instance.open();
    let mut remaining = Vec::new();
    let mut tokens_left = Vec::new();
    for _ in 0..5 {
        let request = instance.chat(&json!({ "max_tokens": 5 })).key(&key);
        let answer = connection.call(&request).unwrap().expect(200);
        assert_eq!(answer.head.number("x-ratelimit-limit-requests"), 50);
        remaining.push(answer.head.number("x-ratelimit-remaining-requests"));
        tokens_left.push(answer.head.number("x-ratelimit-remaining-tokens"));
        let row = instance.ledger().row(answer.head.must("x-request-id"));
        assert_eq!(row.cost_nanousd, answer.head.number("x-tollgate-cost-nanousd"));
        assert!(row.cost_nanousd > 0);
    }
    // One may have come back in a second that the test took.
    let spent = remaining.windows(2).filter(|pair| pair[0] == pair[1] + 1).count();
    assert!(spent >= 3, "{remaining:?}");
    assert!(remaining[0] <= 49, "{remaining:?}");
    assert!(tokens_left.windows(2).all(|pair| pair[1] < pair[0]), "{tokens_left:?}");
}

#[test]
fn every_admitted_answer_has_all_limits() {
    let instance = &shared().instance;
    let key = instance.key("enterprise");
    let chat = instance.call(&instance.chat(&json!({})).key(key)).expect(200);
    limits_are_sane(&chat.head, 1_000, 1_000_000_000);
    let stream = instance.call(&instance.chat(&json!({ "stream": true })).key(key)).expect(200);
    limits_are_sane(&stream.head, 1_000, 1_000_000_000);
    assert!(stream.head.header("x-tollgate-cost-nanousd").is_none());
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    let failing = Request::get(&path).key(key).header("x-mock-fault", "status-500");
    let answer = instance.call(&failing).expect(500);
    limits_are_sane(&answer.head, 1_000, 1_000_000_000);
    let failing = Request::get(&path).key(key).header("x-mock-fault", "close-before-head");
    limits_are_sane(&instance.call(&failing).expect(502).head, 1_000, 1_000_000_000);
}

#[test]
fn a_large_answer_names_no_cost_but_has_one() {
    let instance = &shared().instance;
    let path = format!("/api/v1/consume/{}", instance.service("per_token"));
    for (bytes, says_cost) in [("200000", true), ("300000", false)] {
        let request_id = unique("large");
        let request = Request::get(&path).key(instance.key("bench")).id(&request_id);
        let answer = instance.call(&request.header("x-mock-body-bytes", bytes)).expect(200);
        assert!(answer.body.len() >= bytes.parse().unwrap());
        let said = answer.head.header("x-tollgate-cost-nanousd");
        assert_eq!(said.is_some(), says_cost, "{bytes}");
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.tokens_source.as_str(), row.output_tokens), ("reported", 16), "{row:?}");
        assert!(said.is_none_or(|cost| cost == row.cost_nanousd.to_string()));
    }
}

#[test]
fn trace_context_is_passed_on() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::get(&format!("/api/v1/consume/{}", own.id))
        .key(instance.key("bench"))
        .header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
        .header("tracestate", "vendor=1");
    instance.call(&request).expect(200);
    let last = own.upstream.last();
    assert!(last.contains(&format!("traceparent: 00-{trace}-")), "{last}");
    assert!(last.contains("tracestate: vendor=1"), "{last}");
}

#[test]
fn the_upstreams_own_limits_stay_with_it() {
    let instance = &shared().instance;
    let answer = instance.call(&instance.chat(&json!({})).key(instance.key("bench")).id("mine-7"));
    // The simulated model server sends an id of its own.
    assert_eq!(answer.expect(200).head.must("x-request-id"), "mine-7");
}
