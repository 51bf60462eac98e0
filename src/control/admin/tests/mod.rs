//! The whole thread `control` with real HTTP, two shards' mailboxes and small Argon2 costs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod growth;
mod month;

use crate::channels::{self, ShardChannels};
use crate::config::Config;
use crate::control::{ControlArgs, ControlHandle, open, spawn};
use crate::metrics::Metrics;
use serde_json::{Value, json};
use shard::catalog::{Catalog, WhenLost};
use shard::message::{KEY_TEXT_BYTES, QuotaWant, RateWant, ToControl, ToShard, Verdict};
use shard::units::{BucketId, ConsumerId, NanoUsd, Period, ServiceId};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(10);

fn config(data_dir: &Path) -> Config {
    let mut config = Config { admin_token: Some(TOKEN.to_owned()), ..Config::default() };
    config.server.data_dir = data_dir.to_owned();
    (config.keys.argon2_memory_kib, config.keys.argon2_passes) = (8, 1);
    config
}

struct Running {
    control: Option<ControlHandle>,
    shards: Vec<ShardChannels>,
    /// As the shards have it.
    catalog: RefCell<Catalog>,
    url: String,
    agent: ureq::Agent,
    data_dir: tempfile::TempDir,
    digest_key: [u8; 32],
}

impl Running {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(data_dir: tempfile::TempDir) -> Self {
        let config = Arc::new(config(data_dir.path()));
        let opened = open(&config).unwrap();
        let (shards, channels, _) = channels::open(2);
        let admin_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", admin_listener.local_addr().unwrap());
        let catalog = RefCell::new(Catalog::clone(&opened.catalog()));
        let digest_key = opened.digest_key();
        let metrics = Arc::new(Metrics::new(2));
        let args = ControlArgs { opened, config, channels, metrics, admin_listener, instance: 1 };
        let control = Some(spawn(args).unwrap());
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Self { control, shards, catalog, url, agent, data_dir, digest_key }
    }

    /// The same store, by a new process as it were.
    fn restart(mut self) -> Self {
        self.control.take().unwrap().stop();
        let data_dir = std::mem::replace(&mut self.data_dir, tempfile::tempdir().unwrap());
        Self::start_in(data_dir)
    }

    fn raw(&self, method: &str, path: &str, token: &str, body: &[u8]) -> (u16, String) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {token}"))
            .body(body.to_vec())
            .unwrap();
        let mut response = self.agent.run(request).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, text) = self.raw(method, &format!("/admin/v1{path}"), TOKEN, &body);
        (status, serde_json::from_str(&text).unwrap())
    }

    fn get(&self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "{value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.call("POST", path, body);
        assert_eq!(status, 201, "{value}");
        value
    }

    fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, value) = self.call(method, path, body);
        assert!(value["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
        (status, value["error"]["param"].clone())
    }

    fn message(&self, shard: usize) -> ToShard {
        self.shards[shard].from_control.recv_timeout(PATIENCE).unwrap()
    }

    /// The catalog with the next step, which comes to both shards.
    fn new_catalog(&self) -> Catalog {
        let mut changes = (0..2).map(|shard| match self.message(shard) {
            ToShard::Catalog(change) => change,
            other => panic!("{other:?} instead of a change of the catalog"),
        });
        let (first, second) = (changes.next().unwrap(), changes.next().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        let mut catalog = self.catalog.borrow_mut();
        catalog.apply(&first);
        catalog.clone()
    }

    /// The shard 0 asks.
    fn ask(&self, message: ToControl) -> ToShard {
        self.shards[0].to_control.send(message).unwrap();
        self.message(0)
    }

    fn verify(&self, shard: u16, key: &str) -> Verdict {
        let text: [u8; KEY_TEXT_BYTES] = key.as_bytes().try_into().unwrap();
        let (digest, peer) =
            (*blake3::keyed_hash(&self.digest_key, &text).as_bytes(), Ipv4Addr::LOCALHOST.into());
        let channels = &self.shards[usize::from(shard)];
        channels.to_control.send(ToControl::Verify { shard, digest, text, peer }).unwrap();
        match self.message(shard.into()) {
            ToShard::Verdict { digest: of, verdict } if of == digest => verdict,
            other => panic!("{other:?} instead of a verdict"),
        }
    }

    fn make_key(&self, plan: &str) -> Value {
        // Each consumer has a name of its own.
        let count = self.get("/consumers?limit=200")["data"].as_array().unwrap().len();
        let name = format!("c{count}");
        let consumer = self.post("/consumers", &json!({"name": name, "plan": plan}));
        let key = self.post("/keys", &json!({"consumer_id": consumer["id"]}));
        for shard in 0..2 {
            assert!(matches!(self.message(shard), ToShard::Forget { .. }));
        }
        key
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            control.stop();
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn per_token() -> Value {
    json!({"kind": "per_token", "input_nanousd_per_mtok": 1, "output_nanousd_per_mtok": 2})
}

#[test]
fn nobody_gets_in_without_the_token() {
    let running = Running::start();
    for token in ["", "0123456789abcdeX", "0123456789abcdef0", "0123456789abcde"] {
        let (status, body) = running.raw("GET", "/admin/v1/plans", token, b"");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["error"]["code"]), (401, &json!("invalid_admin_token")));
    }
    assert_eq!(running.raw("GET", "/nowhere", "", b"").0, 401);
    assert_eq!(running.raw("GET", "/healthz", "", b"").0, 200);
    let (status, page) = running.raw("GET", "/metrics", "", b"");
    assert_eq!(status, 200);
    assert!(page.contains("rate_limits_exceeded_total{plan=\"basic\"} 0"), "{page}");
    assert_eq!(running.raw("GET", "/nowhere", TOKEN, b"").0, 404);
    assert_eq!(running.raw("PUT", "/admin/v1/plans", TOKEN, b"").0, 405);
    assert_eq!(running.raw("POST", "/admin/v1/plans", TOKEN, &vec![b' '; 70_000]).0, 413);
    assert_eq!(running.raw("POST", "/admin/v1/plans", TOKEN, b"{").0, 400);
}

/// What `pointer`, a `$ref` of the document, names.
fn resolved<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    let at = pointer.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
    at.unwrap_or_else(|| panic!("{pointer} names nothing"))
}

fn follow<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    value["$ref"].as_str().map_or(value, |pointer| resolved(document, pointer))
}

/// Every `$ref` of `value` names something.
fn check_refs(document: &Value, value: &Value) {
    if let Some(pointer) = value["$ref"].as_str() {
        resolved(document, pointer);
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| check_refs(document, value)),
        Value::Array(values) => values.iter().for_each(|value| check_refs(document, value)),
        _ => {}
    }
}

#[test]
fn openapi_names_every_route_and_method() {
    let running = Running::start();
    let url = format!("{}/openapi.json", running.url);
    let mut response = running.agent.get(url).call().unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let document: Value =
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    check_refs(&document, &document);
    let here = &document["servers"][0];
    let is_here = |item: &Value| item["servers"].as_array().is_none_or(|all| all.contains(here));
    let paths = document["paths"].as_object().unwrap();
    let described = paths.iter().filter(|(_, item)| is_here(item)).map(|(path, _)| path.as_str());
    let served = super::routes().map(|(path, _)| path);
    assert_eq!(described.collect::<BTreeSet<_>>(), BTreeSet::from(served));
    for path in served {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let is_described = paths[path].get(method.to_ascii_lowercase()).is_some();
            let at = path.replace("{id}", "000000000000");
            let (status, _) = running.raw(method, &at, TOKEN, b"");
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
        }
    }
}

#[test]
fn openapi_names_every_parameter_and_field() {
    let running = Running::start();
    let document: Value = serde_json::from_str(super::OPENAPI).unwrap();
    // A stranger's refusal lists what is known.
    let known = |method, path: &str, body: &Value| -> BTreeSet<String> {
        let (status, answer) = running.call(method, path, body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("stranger")), "{path}");
        let (_, rest) = text(&answer["error"]["message"]).split_once("known are ").unwrap();
        let (list, _) = rest.split_once(['.', ';']).unwrap();
        list.split(", ").map(str::to_owned).collect()
    };
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(at) = path.strip_prefix("/admin/v1") else { continue };
        let at = at.replace("{id}", "000000000000");
        let parameters = item["get"]["parameters"].as_array();
        if let Some(parameters) = parameters {
            let names = parameters.iter().map(|it| text(&follow(&document, it)["name"]).to_owned());
            let found = known("GET", &format!("{at}?stranger=1"), &Value::Null);
            assert_eq!(names.collect::<BTreeSet<_>>(), found, "{path}");
            checked += 1;
        }
        if item["post"].is_object() {
            let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
            let fields = follow(&document, schema)["properties"].as_object().unwrap();
            let found = known("POST", &at, &json!({"stranger": 1}));
            assert_eq!(fields.keys().cloned().collect::<BTreeSet<_>>(), found, "{path}");
            checked += 1;
        }
    }
    assert_eq!(checked, 6 + 6);
}

#[test]
fn plans_are_made_changed_and_known_to_the_shards() {
    let running = Running::start();
    let body = json!({"name": "gold", "rate_per_s": 5, "burst": 6, "quota_tokens": 7});
    let plan = running.post("/plans", &body);
    let before = running.catalog.borrow().plans.clone();
    let catalog = running.new_catalog();
    assert_eq!(catalog.plans[..3], before[..]);
    assert_eq!((&*catalog.plans[3].name, catalog.plans[3].burst), ("gold", 6));
    assert_eq!(running.refused("POST", "/plans", &body), (409, json!("name")));
    let path = format!("/plans/{}", text(&plan["id"]));
    let (status, changed) =
        running.call("PATCH", &path, &json!({"burst": 60, "when_lost": "closed"}));
    assert_eq!((status, &changed["burst"], &changed["rate_per_s"]), (200, &json!(60), &json!(5)));
    let catalog = running.new_catalog();
    assert_eq!((catalog.plans[3].burst, catalog.plans[3].when_lost), (60, Some(WhenLost::Closed)));
    assert_eq!(running.get(&path), changed);
    let page = running.get("/plans?limit=3");
    assert_eq!(page["data"].as_array().unwrap().len(), 3);
    let rest = running.get(&format!("/plans?limit=3&cursor={}", text(&page["next_cursor"])));
    assert_eq!((&rest["data"][0]["name"], &rest["next_cursor"]), (&json!("gold"), &Value::Null));
}

#[test]
fn bad_input_is_named_field_by_field() {
    let running = Running::start();
    let (status, body) =
        running.call("POST", "/plans", &json!({"name": 1, "rate_per_s": 0, "burst": 2, "x": 1}));
    assert_eq!((status, &body["error"]["param"]), (400, &json!("x")));
    let message = text(&body["error"]["message"]);
    for part in ["x is unknown", "name must be", "rate_per_s must be", "quota_tokens is required"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let service = json!({"name": "s", "base_url": "ftp://a", "price": per_token()});
    for (method, path, body, param) in [
        ("POST", "/plans", json!([]), Value::Null),
        ("POST", "/consumers", json!({"name": "c", "plan": "none"}), json!("plan")),
        ("POST", "/keys", json!({"consumer_id": "x"}), json!("consumer_id")),
        ("POST", "/keys", json!({}), json!("consumer_id")),
        ("POST", "/services", service, json!("base_url")),
        ("POST", "/services", json!({"name": "s", "price": per_token()}), json!("base_url")),
        ("POST", "/services", json!({"name": "s", "base_url": "http://a"}), json!("price")),
        ("GET", "/plans?limit=0", Value::Null, json!("limit")),
        ("GET", "/plans?page=1", Value::Null, json!("page")),
        ("GET", "/usage?by=consumer,key", Value::Null, json!("by")),
        ("GET", "/usage?from=yesterday", Value::Null, json!("from")),
        ("GET", "/usage?from=2026-11-02&to=2026-11-01", Value::Null, json!("to")),
        ("GET", "/usage?from=2026-11-02&to=2026-11-02T00:00:00Z", Value::Null, json!("to")),
    ] {
        assert_eq!(running.refused(method, path, &body), (400, param), "{path} {body}");
    }
    assert_eq!(running.refused("GET", "/plans/0000000000zz", &Value::Null).0, 404);
    assert_eq!(running.refused("GET", "/keys/%00", &Value::Null).0, 404);
    let missing = "/services/000000000000/prices";
    assert_eq!(running.refused("POST", missing, &json!({"price": per_token()})).0, 404);
}

#[test]
fn services_keep_their_index_and_hide_their_credential() {
    let running = Running::start();
    let first = running.post(
        "/services",
        &json!({"name": "chat", "base_url": "http://127.0.0.1:81/v2/", "price": per_token(),
                "upstream_credential": "sk-1"}),
    );
    assert_eq!(first["has_upstream_credential"], true);
    assert!(!first.to_string().contains("sk-1"));
    let service = running.new_catalog().services[0].clone();
    assert_eq!((&*service.authority, &*service.base_path), ("127.0.0.1:81", "/v2"));
    assert_eq!(service.addrs[..], [std::net::SocketAddr::from(([127, 0, 0, 1], 81))]);
    assert_eq!(service.credential_header.as_deref(), Some("authorization: Bearer sk-1"));
    running.post(
        "/services",
        &json!({"name": "a", "base_url": "http://127.0.0.1", "price": per_token(),
                "upstream_credential": {"header": "X-Api-Key", "value": "k"}}),
    );
    let catalog = running.new_catalog();
    assert_eq!(catalog.services[0], service);
    assert_eq!(catalog.services[1].credential_header.as_deref(), Some("x-api-key: k"));
    let path = format!("/services/{}", text(&first["id"]));
    assert_eq!(running.refused("PATCH", &path, &json!({"name": "b"})), (400, json!("name")));
    let injected = json!({"upstream_credential": {"header": "x", "value": "a\r\nb: c"}});
    let param = json!("upstream_credential.value");
    assert_eq!(running.refused("PATCH", &path, &injected), (400, param));
    let change = json!({"enabled": false, "upstream_credential": null});
    assert_eq!(running.call("PATCH", &path, &change).0, 200);
    let service = running.new_catalog().services[0].clone();
    assert!(!service.enabled && service.credential_header.is_none());
    let price = json!({"price": {"kind": "subscription", "fee_nanousd": 5, "allowance_tokens": 1,
        "overage": per_token()}, "effective_at": "2100-01-01T00:00:00Z"});
    let made = running.post(&format!("{path}/prices"), &price);
    assert_eq!((&made["version"], &made["price"]["fee_nanousd"]), (&json!(2), &json!(5)));
    assert_eq!(running.new_catalog().services[0].prices.len(), 2);
    assert_eq!(running.get(&path)["price_version"], 1);
    assert_eq!(running.get(&format!("{path}/prices"))["data"].as_array().unwrap().len(), 2);
    let before = running.get("/services");
    let running = running.restart();
    assert_eq!(running.get("/services"), before);
    assert_eq!(&*running.catalog.borrow().services[1].name, "a");
}

#[test]
fn a_key_is_shown_once_verified_rotated_and_revoked() {
    let running = Running::start();
    let made = running.make_key("premium");
    let (id, key) = (text(&made["id"]), text(&made["key"]));
    let path = format!("/keys/{id}");
    assert_eq!(running.get(&path)["key"], Value::Null);
    let Verdict::Granted(grant) = running.verify(0, key) else { panic!("not granted") };
    assert_eq!((grant.plan, grant.key.to_string().as_str()), (1, id));
    assert!(matches!(running.verify(1, key), Verdict::Granted(_)));

    let consumer = format!("/consumers/{}", text(&made["consumer_id"]));
    assert_eq!(running.call("PATCH", &consumer, &json!({"plan": "basic"})).0, 200);
    for shard in 0..2 {
        assert!(matches!(running.message(shard), ToShard::ForgetConsumer { .. }));
    }
    let Verdict::Granted(changed) = running.verify(1, key) else { panic!("not granted") };
    assert_eq!(changed.plan, 0);

    let rotated = running.post(&format!("{path}/rotate"), &json!({"grace_s": 60}));
    for shard in [0, 0, 1, 1] {
        assert!(matches!(running.message(shard), ToShard::Forget { .. }));
    }
    let Verdict::Granted(old) = running.verify(0, key) else { panic!("no grace") };
    let Verdict::Granted(new) = running.verify(0, text(&rotated["key"])) else { panic!("refused") };
    assert_eq!((old.bucket, new.expires_at), (new.bucket, None));
    assert!(old.expires_at.is_some());

    assert_eq!(running.call("DELETE", &path, &Value::Null).0, 200);
    // Before the store was asked to keep it, and after.
    for shard in [0, 0, 1, 1] {
        assert!(matches!(running.message(shard), ToShard::Forget { key } if key.to_string() == id));
    }
    for shard in 0..2 {
        assert_eq!(running.verify(shard, key), Verdict::Refused);
    }
    assert_eq!(running.get(&path)["status"], "revoked");
    assert_eq!(running.refused("POST", &format!("{path}/rotate"), &json!({})).0, 409);
    let (old_key, new_key) = (key.to_owned(), text(&rotated["key"]).to_owned());
    let running = running.restart();
    assert_eq!(running.verify(0, &old_key), Verdict::Refused);
    assert!(matches!(running.verify(0, &new_key), Verdict::Granted(_)));
}

#[test]
fn a_key_may_be_bound_to_services_and_to_a_time() {
    let running = Running::start();
    let made = running.make_key("basic");
    let service = json!({"name": "chat", "base_url": "http://127.0.0.1", "price": per_token()});
    let service = running.post("/services", &service);
    running.new_catalog();
    let body = json!({"consumer_id": made["consumer_id"], "services": ["chat"],
        "expires_at": 4_000_000_000_u64});
    let key = running.post("/keys", &body);
    assert_eq!(key["services"], json!([service["id"]]));
    assert_eq!(key["expires_at"], "2096-10-02T07:06:40.000000Z");
    for shard in 0..2 {
        assert!(matches!(running.message(shard), ToShard::Forget { .. }));
    }
    let Verdict::Granted(grant) = running.verify(0, text(&key["key"])) else { panic!("refused") };
    let id: ServiceId = text(&service["id"]).parse().unwrap();
    assert_eq!(grant.services.as_deref(), Some(&[id][..]));
    let unknown = json!({"consumer_id": made["consumer_id"], "services": ["chat", "x"]});
    assert_eq!(running.refused("POST", "/keys", &unknown), (400, json!("services[1]")));
    let past = json!({"consumer_id": made["consumer_id"], "expires_at": 1});
    assert_eq!(running.refused("POST", "/keys", &past), (400, json!("expires_at")));
    let list = running.get(&format!("/keys?consumer_id={}", text(&made["consumer_id"])));
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
}

/// A consumer on `basic` and a subscription service, with a day in the ledger.
fn with_usage() -> (Running, ConsumerId, ServiceId) {
    let running = Running::start();
    let consumer = running.post("/consumers", &json!({"name": "Ada", "plan": "basic"}));
    let consumer: ConsumerId = text(&consumer["id"]).parse().unwrap();
    let price = json!({"kind": "subscription", "fee_nanousd": 500, "allowance_tokens": 1,
        "overage": per_token()});
    let service = json!({"name": "flat", "base_url": "http://127.0.0.1", "price": price});
    let service = running.post("/services", &service);
    let service: ServiceId = text(&service["id"]).parse().unwrap();
    running.new_catalog();
    let ledger = crate::store::open_file(running.data_dir.path()).unwrap();
    ledger
        .execute(
            "INSERT INTO usage_daily VALUES (?1, ?2, '2026-11-23', '2026-11', 3, 40, 0, 2, 9, 0)",
            (consumer.to_string(), service.to_string()),
        )
        .unwrap();
    ledger
        .execute(
            "INSERT INTO usage_fees VALUES (?1, ?2, '2026-11', '2026-11-23T08:00:00.0Z', 1, 500)",
            (consumer.to_string(), service.to_string()),
        )
        .unwrap();
    (running, consumer, service)
}

#[test]
fn shards_get_tokens_of_rate_and_of_what_the_ledger_leaves() {
    let (running, consumer, _) = with_usage();
    let shard = 0;
    let rate = RateWant {
        shard,
        bucket: BucketId(1),
        plan: 0,
        lease: 0,
        want: 2,
        need: 1,
        demand: 1,
        used: 0,
        returned: 0,
    };
    let granted = running.ask(ToControl::Rate(rate));
    assert!(matches!(granted, ToShard::Rate(grant) if grant.granted >= 1), "{granted:?}");
    let quota = QuotaWant {
        shard,
        consumer,
        plan: 0,
        period: Period(202_611),
        want: 100_000,
        need: 100_000,
        least: 100_000,
        consumed: 0,
        returned: 0,
        overrun: 0,
    };
    let (begun, mut granted) = (Instant::now(), 0);
    let mut answer = running.ask(ToControl::Quota(quota));
    // Of 100 000 a month, the ledger has 42. A shard that has waited long enough is answered with
    // what there is, which does not say that the month is exhausted: it asks again.
    loop {
        assert!(begun.elapsed() < PATIENCE);
        answer = match answer {
            // The rest of the tokens of rate, where this machine was slow.
            ToShard::Rate(_) => running.message(shard.into()),
            ToShard::Quota(grant) => {
                granted += grant.granted;
                if grant.exhausted {
                    break;
                }
                running.ask(ToControl::Quota(quota))
            }
            other => panic!("{other:?} instead of a grant"),
        };
    }
    assert!(granted < 100_000, "{granted}");
}

#[test]
fn shards_get_counts_and_accounts() {
    let (running, consumer, _) = with_usage();
    let (period, shard) = (Period(202_611), 0);
    let (input, output) = (b"Hello, world!".to_vec(), Vec::new());
    let counted = running.ask(ToControl::Count { shard, ticket: 9, input, output });
    assert!(
        matches!(counted, ToShard::Counted { ticket: 9, input_tokens: 4, output_tokens: 0 }),
        "{counted:?}"
    );
    let account = running.ask(ToControl::Account { shard, ticket: 8, consumer, period });
    let ToShard::Account { ticket: 8, account } = account else { panic!("{account:?}") };
    assert_eq!((account.cost, account.fees, account.calls), (NanoUsd(9), NanoUsd(500), 3));
    assert_eq!(&*account.consumer_name, "Ada");
}

#[test]
fn usage_is_summed_with_names() {
    let (running, consumer, service) = with_usage();
    let usage = running.get("/usage?by=day,consumer,service&from=2026-11-23&to=2026-11-23");
    let row = json!({"day": "2026-11-23", "consumer_id": consumer.to_string(), "consumer": "Ada",
        "service_id": service.to_string(), "service": "flat", "calls": 3, "input_tokens": 40,
        "cached_tokens": 0, "output_tokens": 2, "cost_nanousd": 9, "fees_nanousd": 500});
    assert_eq!(usage["data"], json!([row]));
    for span in ["to=2026-11-23T00:00:00Z", "from=2026-11-24", "from=2026-11-23T00:00:01Z"] {
        let none = running.get(&format!("/usage?by=service&{span}"));
        assert_eq!(none["data"], json!([]), "{span}");
    }
    assert_eq!(running.get("/usage?from=2026-11-23T02:00:00%2B02:00")["data"][0]["calls"], 3);
    for span in ["from=2026-11-22T23:00:00Z", "to=2026-11-24T00:00:01Z", ""] {
        assert_eq!(running.get(&format!("/usage?{span}"))["data"][0]["calls"], 3, "{span}");
    }
}

#[test]
fn a_drain_is_told_to_every_shard() {
    let running = Running::start();
    running.control.as_ref().unwrap().drain();
    for shard in 0..2_u16 {
        assert!(matches!(running.message(shard.into()), ToShard::Drain));
    }
}

#[test]
fn a_token_is_made_once_for_its_owner_alone() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let config = Config { admin_token: None, ..config(dir.path()) };
    let first = open(&config).unwrap();
    assert_eq!(first.admin_token().len(), 32);
    let mode = std::fs::metadata(dir.path().join("admin.token")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(open(&config).unwrap().admin_token(), first.admin_token());
}
