//! The admin API as a script would call it.

use super::poll::PATIENCE;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ureq::http::{Method, Request};

/// Each consumer has a name of its own.
static CONSUMERS: AtomicU64 = AtomicU64::new(0);

/// A client of one instance's admin API.
pub struct Admin {
    agent: ureq::Agent,
    /// Where it is.
    pub url: String,
    /// Its bearer token.
    pub token: String,
}

/// A key and what belongs to it.
pub struct Key {
    /// Its id.
    pub id: String,
    /// As it is sent.
    pub text: String,
    /// Whose it is.
    pub consumer_id: String,
}

impl Admin {
    /// A client.
    pub fn new(url: &str, token: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(PATIENCE));
        Self { agent: config.build().new_agent(), url: url.to_owned(), token: token.to_owned() }
    }

    /// Any call to any path: its status and its text.
    pub fn text(&self, method: Method, path: &str, body: Option<&str>) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        let answer = match body {
            Some(body) => self.agent.run(request.body(body.to_owned()).unwrap()),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// A call below `/admin/v1/`: its status and its JSON.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string);
        let (status, text) = self.text(method, &format!("/admin/v1/{path}"), body.as_deref());
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// The same, which must succeed.
    pub fn done(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// POST, which must succeed.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.done(Method::POST, path, Some(body))
    }

    /// GET, which must succeed.
    pub fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path, None)
    }

    /// A plan of this name, rate and quota.
    pub fn plan(&self, name: &str, rate: u64, quota_tokens: u64) {
        let body = json!({
            "name": name, "rate_per_s": rate, "burst": rate, "quota_tokens": quota_tokens
        });
        self.post("plans", &body);
    }

    /// A key of a new consumer on this plan.
    pub fn key(&self, plan: &str) -> Key {
        let name = format!("somebody {}", CONSUMERS.fetch_add(1, Relaxed));
        let consumer = self.post("consumers", &json!({ "name": name, "plan": plan }));
        self.key_of(text_of(&consumer["id"]).as_str(), &json!({}))
    }

    /// A key of this consumer with more fields.
    pub fn key_of(&self, consumer_id: &str, fields: &Value) -> Key {
        let mut body = fields.clone();
        body["consumer_id"] = json!(consumer_id);
        let key = self.post("keys", &body);
        let (id, text) = (text_of(&key["id"]), text_of(&key["key"]));
        Key { id, text, consumer_id: consumer_id.to_owned() }
    }

    /// A service of this name and price: its id.
    pub fn service(&self, name: &str, base_url: &str, price: &Value) -> String {
        let body = json!({
            "name": name,
            "base_url": base_url,
            "default_path": "/v1/chat/completions",
            "price": price,
        });
        text_of(&self.post("services", &body)["id"])
    }
}

/// A JSON text that must be there.
pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// A price per token.
pub fn per_token(input: u64, cached: u64, output: u64) -> Value {
    json!({
        "kind": "per_token",
        "input_nanousd_per_mtok": input,
        "cached_input_nanousd_per_mtok": cached,
        "output_nanousd_per_mtok": output,
    })
}
