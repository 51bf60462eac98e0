//! `GET /api/v1/account`: the caller's own figures, which must be those of the ledger.

use crate::shared::{shared, unique};
use crate::support::http::Request;
use crate::support::poll;
use serde_json::{Value, json};

#[test]
fn an_account_shows_plan_quota_and_cost() {
    let instance = &shared().instance;
    let key = instance.admin().key("premium");
    let account = || {
        let request = Request::get("/api/v1/account").key(&key.text);
        instance.call(&request).expect(200).json()
    };
    let fresh = account();
    assert_eq!(fresh["plan"], "premium", "{fresh}");
    assert_eq!(fresh["quota"]["limit_tokens"], 10_000_000);
    assert_eq!(fresh["quota"]["used_tokens"], 0);
    assert_eq!(fresh["rate"]["limit_per_s"], 100);
    assert_eq!(fresh["rate"]["burst"], 100);
    assert_eq!(fresh["consumer"]["id"], key.consumer_id.as_str());
    let mut rows = Vec::new();
    for _ in 0..3 {
        let request_id = unique("account");
        let request = instance.chat(&json!({})).key(&key.text).id(&request_id);
        instance.call(&request).expect(200);
        rows.push(instance.ledger().row(&request_id));
    }
    let cost: u64 = rows.iter().map(|row| row.cost_nanousd).sum();
    let tokens: u64 = rows.iter().map(|row| row.input_tokens + row.output_tokens).sum();
    assert!(cost > 0 && tokens > 0);
    let account = poll::until("the account to have the three calls", || {
        Some(account()).filter(|account| account["month"]["calls"] == 3)
    });
    assert_eq!(account["month"]["cost_nanousd"], cost, "{account}");
    let quota = &account["quota"];
    assert_eq!(quota["used_tokens"], tokens, "{account}");
    assert_eq!(quota["remaining_tokens"], 10_000_000 - tokens);
    assert!(quota["resets_in"].as_str().is_some_and(|text| text.ends_with('s')), "{quota}");
    let wanted = rows[0].period.as_str();
    assert_eq!(quota["period"], Value::from(wanted));
}
