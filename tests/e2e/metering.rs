//! What is counted: tokens where nobody reports them, streams that a client leaves, and sums that
//! are the same in the ledger, the admin API, the command line and the metrics.

use crate::shared::{Own, shared, unique};
use crate::support::admin::{per_token, text_of};
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::poll;
use crate::support::process;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[test]
fn usage_that_nobody_reports_is_counted() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1_000_000, 1_000_000, 2_000_000), &["--no-usage"]);
    let words = "The quick brown fox jumps over the lazy dog.";
    for (path, mut body) in [
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": words }] })),
        ("/v1/completions", json!({ "prompt": words })),
        ("/v1/responses", json!({ "input": words })),
        ("/v1/messages", json!({ "messages": [{ "role": "user", "content": words }] })),
    ] {
        for stream in [false, true] {
            body["model"] = json!(own.model);
            body["stream"] = json!(stream);
            body["max_tokens"] = json!(50);
            let request_id = unique("counted");
            let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
            instance.call(&request).expect(200);
            let row = instance.ledger().row(&request_id);
            assert_eq!(row.tokens_source, "estimated", "{path} {row:?}");
            // The sentence has ten tokens; a chat may add a few for its frame. The answer has 16
            // words of one or two tokens.
            assert!((10..=20).contains(&row.input_tokens), "{path} {row:?}");
            assert!((12..=36).contains(&row.output_tokens), "{path} {row:?}");
            assert_eq!(row.cost_nanousd, row.input_tokens + 2 * row.output_tokens, "{row:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_is_billed_what_it_got() {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1_000_000, 1_000_000, 1_000_000), &["--tokens", "100000"]);
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let before = own.upstream.count("aborted_streams");
        let request_id = unique("gone");
        let body = own.chat_body(&json!({ "stream": true, "max_tokens": 100_000 }));
        let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
        let mut connection = instance.open();
        connection.send(&request.header("x-mock-inter-token-ms", "2").to_bytes()).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let mut seen = String::new();
        while seen.matches("\n\n").count() < 20 {
            seen += &String::from_utf8(connection.chunk().unwrap().unwrap()).unwrap();
        }
        drop(connection);
        poll::until("the upstream to be left too", || {
            (own.upstream.count("aborted_streams") > before).then_some(())
        });
        let row = instance.ledger().row(&request_id);
        assert_eq!((row.outcome.as_str(), row.status), ("client_aborted", 200), "{row:?}");
        assert_eq!(row.tokens_source, "estimated");
        assert!(row.streamed && row.input_tokens > 0, "{row:?}");
        assert!((10..90_000).contains(&row.output_tokens), "{row:?}");
        assert_eq!(row.cost_nanousd, row.input_tokens + row.output_tokens, "{row:?}");
    }
}

#[test]
fn rows_are_complete() {
    let instance = &shared().instance;
    let request_id = unique("complete");
    let request = instance.chat(&json!({})).key(instance.key("enterprise")).id(&request_id);
    instance.call(&request).expect(200);
    let row = instance.ledger().row(&request_id);
    assert_eq!(row.record_id.len(), 36);
    assert_eq!(&row.record_id[14..15], "7");
    assert_eq!(row.occurred_at[..7], row.period, "{row:?}");
    assert_eq!(row.service_id, instance.service("per_token"));
    assert_eq!(row.model, instance.model("per_token"));
    assert_eq!((row.status, row.outcome.as_str(), row.streamed), (200, "completed", false));
    assert_eq!((row.attempts, row.price_version), (1, 1));
    assert!(row.latency_us > 0 && row.overhead_us <= row.latency_us, "{row:?}");
    assert!(!row.instance_id.is_empty() && !row.consumer_id.is_empty() && !row.key_id.is_empty());
    let admin = instance.admin();
    assert_eq!(admin.get(&format!("keys/{}", row.key_id))["consumer_id"], json!(row.consumer_id));
}

/// Sums by consumer, service and day.
type Sums = BTreeMap<[String; 3], [u64; 5]>;

fn sums_of(rows: &Value) -> Sums {
    let text = |row: &Value, name: &str| text_of(&row[name]);
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{row}"));
    let entry = |row: &Value| {
        (
            ["consumer_id", "service_id", "day"].map(|name| text(row, name)),
            ["calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanousd"]
                .map(|name| number(row, name)),
        )
    };
    rows["data"].as_array().unwrap_or_else(|| panic!("{rows}")).iter().map(entry).collect()
}

/// Six times three answers and a failure, and two refusals.
fn mixed_calls(instance: &Instance) {
    for kind in ["per_token", "tiered", "subscription"] {
        for plan in ["premium", "enterprise"] {
            let path = format!("/api/v1/consume/{}", instance.service(kind));
            let request = Request::get(&path).key(instance.key(plan));
            for cached in ["0", "3"] {
                let request = request.clone().header("x-mock-prompt-tokens", "11");
                instance.call(&request.header("x-mock-cached-tokens", cached)).expect(200);
            }
            instance.call(&instance.chat(&json!({ "stream": true })).key(instance.key(plan)));
            let failing = request.header("x-mock-fault", "close-before-head");
            instance.call(&failing).expect(502);
        }
    }
    instance.call(&Request::get("/v1/models")).expect(401);
    instance.call(&Request::get("/nowhere")).expect(404);
}

#[test]
fn all_sums_agree() {
    let instance = Setup::default().shards(2).start();
    mixed_calls(&instance);
    instance.balance_books();
    let rows = instance.ledger().rows();
    assert_eq!(rows.len(), 24);
    let mut expected = Sums::new();
    for row in &rows {
        let day = row.occurred_at[..10].to_owned();
        let sum =
            expected.entry([row.consumer_id.clone(), row.service_id.clone(), day]).or_default();
        let amounts = [1, row.input_tokens, row.cached_tokens, row.output_tokens, row.cost_nanousd];
        sum.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount);
    }
    let admin = instance.admin();
    assert_eq!(sums_of(&admin.get("usage?by=consumer,service,day&limit=100")), expected);
    let output = process::run(&[
        "usage",
        "--json",
        "--by",
        "consumer,service,day",
        "--admin-url",
        &admin.url,
        "--admin-token",
        &admin.token,
    ]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sums_of(&serde_json::from_slice(&output.stdout).unwrap()), expected);
    metrics_agree(&instance, &expected);
}

fn metrics_agree(instance: &Instance, expected: &Sums) {
    let scrape = instance.metrics();
    for (direction, of) in [("input", 1), ("cached", 2), ("output", 3)] {
        let counted = scrape.sum("tokens_consumed_total", &[("direction", direction)]);
        assert_eq!(counted, expected.values().map(|sum| sum[of]).sum::<u64>(), "{direction}");
    }
    let requests = |labels: &[(&str, &str)]| scrape.sum("http_requests_total", labels);
    assert_eq!(requests(&[("endpoint", "consume"), ("status", "200")]), 12);
    assert_eq!(requests(&[("endpoint", "consume"), ("status", "502")]), 6);
    assert_eq!(requests(&[("endpoint", "chat_completions"), ("status", "200")]), 6);
    assert_eq!(requests(&[("endpoint", "models"), ("status", "401")]), 1);
    assert_eq!(requests(&[("status", "404")]), 1);
    assert_eq!(scrape.sum("http_request_duration_seconds_count", &[("endpoint", "consume")]), 18);
    let outcomes =
        |outcome: &str| scrape.sum("consumption_requests_total", &[("outcome", outcome)]);
    assert_eq!((outcomes("completed"), outcomes("upstream_failed")), (18, 6));
    let model = instance.model("tiered");
    assert_eq!(scrape.sum("consumption_requests_total", &[("service", model)]), 6);
    assert_eq!(scrape.sum("tollgate_journal_full_total", &[]), 0);
    for family in
        ["rate_limits_exceeded_total", "quota_exceeded_total", "tollgate_overhead_seconds_count"]
    {
        assert!(scrape.has(family), "{family}");
    }
    for label in scrape.labels() {
        assert!(
            !label.contains("tg_") && !label.starts_with("key") && !label.starts_with("consumer")
        );
    }
}
