//! One instance under test: `tollgate demo` on free ports with a data directory of its own, and
//! the model server where a test wants one apart.

use super::admin::Admin;
use super::http::{Answer, Connection, Request};
use super::ledger::Ledger;
use super::metrics::Scrape;
use super::poll;
use super::postgres::Database;
use super::process::{Process, command, with_descriptors};
use super::redis_server::RedisServer;
use super::shared_redis::shared_redis;
use serde_json::{Value, json};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
use ureq::http::Method;

/// How to start an instance.
#[derive(Default)]
pub struct Setup {
    args: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
    config: String,
    descriptors: Option<(u32, u32)>,
    embedded: bool,
    on_postgres: bool,
    authority_url: Option<String>,
    beside: Option<PathBuf>,
}

impl Setup {
    /// With the authority in this Redis, and the store in Postgres, whichever the tests run on.
    pub fn redis(self, server: &RedisServer) -> Self {
        self.on_postgres().redis_at(&server.url())
    }

    /// With the authority in the Redis at this URL.
    pub fn redis_at(mut self, url: &str) -> Self {
        self.authority_url = Some(url.to_owned());
        self
    }

    /// On the store at this URL, whichever the tests run on. It outlives the instance.
    pub fn store_at(mut self, url: &str) -> Self {
        self.embedded = true;
        self.env("TOLLGATE_STORE__URL", url.as_ref())
    }

    /// One more instance of what `other` is one of: with its secrets, and what it sells to whom.
    pub fn beside(mut self, other: &Instance) -> Self {
        self.beside = Some(other.data_dir());
        self
    }

    /// On a Postgres database of its own, whichever the tests run on.
    pub fn on_postgres(mut self) -> Self {
        self.on_postgres = true;
        self
    }

    /// On the embedded store, whichever the tests run on: for what is about its file.
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// So many shards.
    pub fn shards(self, shards: u16) -> Self {
        self.with("--shards", &shards.to_string())
    }

    /// The demo's services stand on this model server.
    pub fn upstream(self, upstream: &Upstream) -> Self {
        self.with("--upstream", &upstream.url)
    }

    /// On top of this configuration.
    pub fn config(mut self, config: &str) -> Self {
        self.config = config.to_owned();
        self
    }

    /// With this in its environment.
    pub fn env(mut self, name: &'static str, value: &Path) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    /// With these soft and hard bounds on open files.
    pub fn descriptors(mut self, soft: u32, hard: u32) -> Self {
        self.descriptors = Some((soft, hard));
        self
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.args.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Instance {
        let dir = TempDir::new().unwrap();
        // `TOLLGATE_TEST_ON=servers` runs every test as production runs: with a database of its
        // own, and the authority in a Redis.
        let on_servers = std::env::var("TOLLGATE_TEST_ON").is_ok_and(|it| it == "servers");
        if on_servers && !self.embedded && self.authority_url.is_none() {
            self.authority_url = Some(shared_redis().to_owned());
        }
        if let Some(url) = &self.authority_url {
            self.env.push(("TOLLGATE_AUTHORITY__URL", url.into()));
        }
        let database = ((self.on_postgres || on_servers) && !self.embedded).then(Database::create);
        if let Some(other) = &self.beside {
            copy_identity(other, &dir.path().join("data"));
        }
        if let Some(database) = &database {
            self.env.push(("TOLLGATE_STORE__URL", database.url.clone().into()));
        }
        let mut args = self.args;
        if !self.config.is_empty() {
            let path = dir.path().join("tollgate.toml");
            std::fs::write(&path, &self.config).unwrap();
            args.extend(["--config".to_owned(), path.to_string_lossy().into_owned()]);
        }
        let (process, demo) = start(dir.path(), &args, &self.env, self.descriptors);
        let Self { env, descriptors, .. } = self;
        Instance { process, demo, dir, args, env, descriptors, _database: database }
    }
}

/// What instances of one marketplace have in common in their data directories.
fn copy_identity(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).unwrap();
    for name in ["demo.json", "digest.key", "encryption.key"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn start(
    dir: &Path,
    args: &[String],
    env: &[(&str, PathBuf)],
    descriptors: Option<(u32, u32)>,
) -> (Process, Value) {
    let data_dir = dir.join("data").to_string_lossy().into_owned();
    let mut all = vec!["demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    all.extend(["--data-dir", &data_dir]);
    all.extend(args.iter().map(String::as_str));
    let mut command = match descriptors {
        Some((soft, hard)) => with_descriptors(soft, hard, &all),
        None => command(&all),
    };
    command.envs(env.iter().map(|(name, value)| (name, value)));
    let (process, addresses) = Process::start(command, "ready data=");
    let text = std::fs::read_to_string(dir.join("data/demo.json")).unwrap();
    let demo: Value = serde_json::from_str(&text).unwrap();
    let (data_url, admin_url) = (&demo["data_url"], &demo["admin_url"]);
    let expected = format!("{} admin={}", data_url.as_str().unwrap(), admin_url.as_str().unwrap());
    assert_eq!(addresses, expected, "the ready line and demo.json differ");
    (process, demo)
}

/// A running instance.
pub struct Instance {
    dir: TempDir,
    args: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
    descriptors: Option<(u32, u32)>,
    /// Its process.
    pub process: Process,
    /// What `demo.json` says.
    pub demo: Value,
    /// Its store, where that is a database of its own. Dropped after the process.
    _database: Option<Database>,
}

impl Instance {
    /// Starts again on the same data directory, after the process has ended.
    pub fn restart(&mut self) {
        assert!(!self.process.is_running());
        (self.process, self.demo) = start(self.dir.path(), &self.args, &self.env, self.descriptors);
    }

    /// Starts again on the same data directory, with its store and its authority there.
    pub fn move_to(&mut self, database: Database, redis: &RedisServer) {
        self.env.push(("TOLLGATE_STORE__URL", database.url.clone().into()));
        self.env.push(("TOLLGATE_AUTHORITY__URL", redis.url().into()));
        self._database = Some(database);
        self.restart();
    }

    /// Writes this into the configuration file that it was started with, and says so.
    pub fn rewrite_config(&self, config: &str) {
        std::fs::write(self.dir.path().join("tollgate.toml"), config).unwrap();
        self.process.hang_up();
    }

    /// Runs `tollgate` to its end, in the instance's environment.
    pub fn run(&self, args: &[&str]) -> Output {
        let env = self.env.iter().map(|(name, value)| (name, value));
        command(args).envs(env).output().unwrap()
    }

    /// Where its store is, if that is a server.
    pub fn store_url(&self) -> Option<&str> {
        let given = self.env.iter().find(|(name, _)| *name == "TOLLGATE_STORE__URL");
        given.and_then(|(_, url)| url.to_str())
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where callers connect.
    pub fn data_url(&self) -> &str {
        self.demo["data_url"].as_str().unwrap()
    }

    /// The demo's key on this plan.
    pub fn key(&self, plan: &str) -> &str {
        self.demo["keys"][plan].as_str().unwrap()
    }

    /// The id of the demo's service with this price model.
    pub fn service(&self, kind: &str) -> &str {
        self.demo["services"][kind].as_str().unwrap()
    }

    /// Its model name.
    pub fn model(&self, kind: &str) -> &str {
        self.demo["models"][kind].as_str().unwrap()
    }

    /// A connection to the data plane.
    pub fn open(&self) -> Connection {
        Connection::open(self.data_url()).unwrap()
    }

    /// Does nobody take a connection any more, or close it at once?
    pub fn refuses_connections(&self) -> bool {
        match Connection::open(self.data_url()) {
            Ok(mut connection) => connection.call(&Request::get("/healthz")).is_err(),
            Err(_) => true,
        }
    }

    /// One call over a connection of its own.
    pub fn call(&self, request: &Request) -> Answer {
        self.open().call(request).unwrap()
    }

    /// A chat call of the demo's plain service.
    pub fn chat(&self, more: &Value) -> Request {
        let mut body = json!({
            "model": self.model("per_token"),
            "messages": [{ "role": "user", "content": "Say something." }],
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        Request::post("/v1/chat/completions", &body)
    }

    /// The admin API.
    pub fn admin(&self) -> Admin {
        let text = |name: &str| self.demo[name].as_str().unwrap();
        Admin::new(text("admin_url"), text("admin_token"))
    }

    /// The ledger.
    pub fn ledger(&self) -> Ledger {
        match self.store_url() {
            Some(url) => Ledger::Postgres(url.to_owned()),
            None => Ledger::of(&self.data_dir()),
        }
    }

    /// A scrape.
    pub fn metrics(&self) -> Scrape {
        let (status, page) = self.admin().text(Method::GET, "/metrics", None);
        assert_eq!(status, 200, "{page}");
        Scrape::read(&page)
    }

    /// Admitted calls are settled, and each has its row: none missing, none twice.
    pub fn balance_books(&self) {
        let ledger = self.ledger();
        poll::until("every admitted call settled and in the ledger", || {
            let scrape = self.metrics();
            let admitted = scrape.sum("consumption_requests_total", &[]);
            let open = scrape.sum("tollgate_permits_open", &[]);
            (open == 0 && ledger.rows().len() as u64 >= admitted).then_some(())
        });
        let scrape = self.metrics();
        let rows = ledger.rows();
        assert_eq!(scrape.sum("consumption_requests_total", &[]), rows.len() as u64);
        assert_eq!(scrape.sum("tollgate_permits_leaked_total", &[]), 0);
        let mut ids: Vec<&str> = rows.iter().map(|row| row.record_id.as_str()).collect();
        ids.dedup();
        assert_eq!(ids.len(), rows.len(), "a record is there twice");
    }
}

/// `tollgate upstream`.
pub struct Upstream {
    _process: Process,
    /// Where it is.
    pub url: String,
}

impl Upstream {
    /// Starts one on a free port.
    pub fn start(args: &[&str]) -> Self {
        let all = [&["upstream", "--listen", "127.0.0.1:0"], args].concat();
        let (process, url) = Process::start(command(&all), "ready ");
        Self { _process: process, url }
    }

    /// One call.
    pub fn call(&self, request: &Request) -> Answer {
        Connection::open(&self.url).unwrap().call(request).unwrap()
    }

    /// The last request as it came.
    pub fn last(&self) -> String {
        self.call(&Request::get("/mock/last")).expect(200).text()
    }

    /// A count of `/mock/stats`.
    pub fn count(&self, name: &str) -> u64 {
        self.call(&Request::get("/mock/stats")).expect(200).json()[name].as_u64().unwrap()
    }
}
