//! The instance shared by the tests that only make calls. Each has its own key, service and request
//! ids, and looks at nothing that another test changes.

use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// An instance that lives as long as the tests, and who ends it.
pub struct Shared {
    /// The instance.
    pub instance: Instance,
    _reaper: Child,
}

impl Shared {
    /// Starts it. Nothing in a static is dropped when the tests end, so a process waits for their
    /// end, which closes its input, and clears up.
    pub fn start(setup: Setup) -> Self {
        let instance = setup.start();
        let reaper = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$1\"; rm -rf \"$2\"", "reaper"])
            .arg(instance.process.id().to_string())
            .arg(instance.data_dir().parent().unwrap())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { instance, _reaper: reaper }
    }
}

/// The shared instance, started by whoever comes first: two shards on any host.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| Shared::start(Setup::default().shards(2)))
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Relaxed))
}

/// A service on the shared instance that stands on a model server of the test's own.
pub struct Own {
    /// The model server.
    pub upstream: Upstream,
    /// The service's id.
    pub id: String,
    /// Its name.
    pub model: String,
}

impl Own {
    /// A service with this price on a model server with these arguments.
    pub fn new(price: &Value, upstream_args: &[&str]) -> Self {
        Self::on(&shared().instance, price, upstream_args)
    }

    /// The same on another instance.
    pub fn on(instance: &Instance, price: &Value, upstream_args: &[&str]) -> Self {
        let upstream = Upstream::start(upstream_args);
        let model = unique("own");
        let id = instance.admin().service(&model, &upstream.url, price);
        let own = Self { upstream, id, model };
        own.wait_until_sold(instance);
        own
    }

    /// A change reaches all shards within a second, and connections land on any of them.
    fn wait_until_sold(&self, instance: &Instance) {
        let listed = || {
            let request =
                crate::support::http::Request::get("/v1/models").key(instance.key("bench"));
            let models = instance.call(&request).expect(200).json();
            models["data"].as_array().unwrap().iter().any(|model| model["id"] == *self.model)
        };
        poll::until("the service on every shard", || (0..16).all(|_| listed()).then_some(()));
    }

    /// The body of a chat call.
    pub fn chat_body(&self, more: &Value) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": "Say something." }],
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }
}
