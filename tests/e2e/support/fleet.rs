//! Several instances that are one gateway: a Redis that each reaches by a road of its own, one
//! Postgres, one model server, clients on all of them, and their books.

use super::admin::Key;
use super::forged;
use super::http::{Answer, Connection, Request};
use super::instance::{Instance, Setup, Upstream};
use super::ledger::Row;
use super::load::Until;
use super::poll;
use super::postgres::{Database, Server, query};
use super::process;
use super::redis_server::RedisServer;
use super::road::Road;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::io::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use ureq::http::Method;

/// Further shards would only be more threads on the cores there are.
const SHARDS: u16 = 2;

/// Whom all instances but the first are to the store.
const OTHERS: &str = "others";

/// See the module. The instances go before what they stand on.
pub struct Fleet {
    config: String,
    /// The instances, the first one `demo` and the others beside it.
    pub instances: Vec<Mutex<Instance>>,
    /// Each one's road to Redis.
    pub roads: Vec<Road>,
    /// The authority.
    pub redis: Mutex<RedisServer>,
    database: Database,
    /// The store's server: nobody else's.
    pub postgres: Server,
    upstream: Upstream,
    calls: AtomicU64,
    sent: Mutex<HashSet<String>>,
    answered: Mutex<Vec<String>>,
    /// Calls whose answers said what they cost.
    told: Mutex<Vec<(String, u64)>>,
}

/// What a client calls with.
pub struct Caller<'a> {
    /// The key's text.
    pub key: &'a str,
    model: &'a str,
    refusals: AtomicU64,
}

impl<'a> Caller<'a> {
    /// Of the service with this model name.
    pub fn new(key: &'a str, model: &'a str) -> Self {
        Self { key, model, refusals: AtomicU64::new(0) }
    }

    /// Calls that were refused.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }
}

impl Fleet {
    /// So many instances, on an empty Redis and an empty database.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, "")
    }

    /// The same, each on top of this configuration.
    pub fn start_with(count: usize, config: &str) -> Self {
        let (redis, postgres) = (RedisServer::start(), Server::start());
        let (database, upstream) = (Database::create_on(&postgres), Upstream::start(&[]));
        query(&database.url, &format!("CREATE ROLE {OTHERS} SUPERUSER LOGIN")).unwrap();
        let mut fleet = Self {
            config: config.to_owned(),
            instances: Vec::new(),
            roads: Vec::new(),
            redis: Mutex::new(redis),
            database,
            postgres,
            upstream,
            calls: AtomicU64::new(0),
            sent: Mutex::default(),
            answered: Mutex::default(),
            told: Mutex::default(),
        };
        (0..count).for_each(|_| fleet.join());
        fleet
    }

    /// Starts one more instance: all that it has of the others are their secrets.
    pub fn join(&mut self) {
        let road = Road::to(self.redis.get_mut().unwrap().address());
        let redis_url = format!("redis://{}/0", road.address());
        let setup = Setup::default().shards(SHARDS).upstream(&self.upstream).redis_at(&redis_url);
        let setup = setup.config(&self.config);
        let setup = match self.instances.first_mut() {
            Some(first) => {
                let store_url = self.database.url.replace("tollgate@", &format!("{OTHERS}@"));
                setup.store_at(&store_url).beside(first.get_mut().unwrap())
            }
            None => setup.store_at(&self.database.url),
        };
        self.instances.push(Mutex::new(setup.start()));
        self.roads.push(road);
    }

    /// Cuts all instances but the first off from the store, or lets them reach it again.
    pub fn cut_others_from_store(&self, are_cut: bool) {
        let login = if are_cut { "NOLOGIN" } else { "LOGIN" };
        self.sql(&format!("ALTER ROLE {OTHERS} {login}"));
        self.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{OTHERS}'"
        ));
        for other in &self.instances[1..] {
            let admin = other.lock().unwrap().admin();
            poll::until("an instance to notice", || {
                let reaches_it = admin.call(Method::GET, "plans", None).0 == 200;
                (reaches_it != are_cut).then_some(())
            });
        }
    }

    /// So many keys that nobody has verified, as an earlier version left them. They have the
    /// secret of this one, and so its hash.
    pub fn plant(&self, count: u32, like: &Key) -> Vec<String> {
        self.sql(&format!(
            "INSERT INTO keys (id, consumer_id, bucket_id, secret_hash, created_at, changed)
             SELECT planted, consumer_id, planted, secret_hash, now(), nextval('catalog_changes')
             FROM keys, (SELECT (3::bigint << 55) + number AS planted
                 FROM generate_series(0, {count} - 1) AS number) AS ids
             WHERE tollgate_id(id) = '{}'; NOTIFY tollgate_catalog",
            like.id
        ));
        (0..count).map(|number| forged::planted_like(&like.text, number)).collect()
    }

    /// What `look` says of the first instance.
    pub fn first<T>(&self, look: impl FnOnce(&Instance) -> T) -> T {
        look(&self.instances[0].lock().unwrap())
    }

    /// Waits until every shard of every instance knows this key.
    pub fn known(&self, key: &str) {
        let models = Request::get("/v1/models").key(key);
        for instance in &self.instances {
            let instance = instance.lock().unwrap();
            // A connection each: any shard.
            let is_known = || (0..16).all(|_| instance.call(&models).status() == 200);
            poll::until("an instance that knows the key", || is_known().then_some(()));
        }
    }

    /// Waits until every instance serves this key, and so until Redis has granted it tokens.
    pub fn served(&self, key: &str) {
        self.known(key);
        for instance in &self.instances {
            let instance = instance.lock().unwrap();
            let call = instance.chat(&json!({})).key(key);
            poll::until("an instance that serves the key", || {
                (self.call_on(&mut instance.open(), call.clone()).status() == 200).then_some(())
            });
        }
    }

    /// Runs `meanwhile` while `clients` of the key call each instance without a pause but for those
    /// that a refusal asks for.
    pub fn under_load(&self, clients: usize, caller: &Caller<'_>, meanwhile: impl FnOnce()) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _until = Until(&done);
            for place in 0..self.instances.len() * clients {
                let done = &done;
                scope.spawn(move || self.call(place % self.instances.len(), caller, done));
            }
            meanwhile();
        });
    }

    fn call(&self, place: usize, caller: &Caller<'_>, done: &AtomicBool) {
        let body = json!({
            "model": caller.model, "messages": [{ "role": "user", "content": "Say something." }],
        });
        let request = Request::post("/v1/chat/completions", &body).key(caller.key);
        let url = || self.instances[place].lock().unwrap().data_url().to_owned();
        let mut connection: Option<Connection> = None;
        while !done.load(Relaxed) {
            let Some(open) = connection.take().or_else(|| Connection::open(&url()).ok()) else {
                poll::breathe();
                continue;
            };
            connection = self.call_once(open, &request, caller);
        }
    }

    /// A call over a connection, noted for the books.
    pub fn call_on(&self, connection: &mut Connection, request: Request) -> Answer {
        self.try_on(connection, request).unwrap()
    }

    fn try_on(&self, connection: &mut Connection, request: Request) -> Result<Answer> {
        let id = format!("call-{}", self.calls.fetch_add(1, Relaxed));
        self.sent.lock().unwrap().insert(id.clone());
        let answer = connection.call(&request.id(&id))?;
        if answer.head.header("x-tollgate-cost-nanousd").is_some() {
            let cost = answer.head.number("x-tollgate-cost-nanousd");
            self.told.lock().unwrap().push((id.clone(), cost));
        }
        if answer.status() == 200 {
            self.answered.lock().unwrap().push(id);
        }
        Ok(answer)
    }

    /// The connection, if it goes on.
    fn call_once(
        &self,
        mut open: Connection,
        request: &Request,
        caller: &Caller<'_>,
    ) -> Option<Connection> {
        let answer = self.try_on(&mut open, request.clone()).ok()?;
        match answer.status() {
            200 => {}
            429 => {
                caller.refusals.fetch_add(1, Relaxed);
                poll::breathe();
            }
            503 if answer.code() == "authority_unavailable" => poll::breathe(),
            status => panic!("{status}: {}", answer.text()),
        }
        Some(open)
    }

    /// Answers in full so far.
    pub fn answered_count(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// Waits for so many answers more.
    pub fn answers(&self, more: usize) {
        let before = self.answered_count();
        poll::until("more answers", || (self.answered_count() >= before + more).then_some(()));
    }

    /// Does `sql` in the store, and answers the rows.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        query(&self.database.url, sql).unwrap()
    }

    /// The ledger's rows.
    pub fn rows(&self) -> Vec<Row> {
        self.first(Instance::ledger).rows()
    }

    /// Balances the books: what was admitted is settled and has its row, once; every answer has a
    /// row and every row a call; what a caller was told of its cost is what its row says; the sums
    /// are those of the rows; the journals are whole.
    /// `restarted`: an instance has died, and its counts with it.
    pub fn balance_books(&self, restarted: bool) {
        let count = |name: &str| -> u64 {
            let counts =
                self.instances.iter().map(|it| it.lock().unwrap().metrics().sum(name, &[]));
            counts.sum()
        };
        let admitted = || count("consumption_requests_total");
        let answered = self.answered.lock().unwrap().clone();
        poll::until("every admitted call settled and in the ledger", || {
            let is_settled = count("tollgate_permits_open") == 0;
            let rows: u64 = self.sql("SELECT count(*) FROM usage_rows")[0][0].parse().unwrap();
            (is_settled && rows >= admitted()).then_some(())
        });
        let rows = poll::until("every answered call in the ledger", || {
            let rows = self.rows();
            let named: HashSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
            answered.iter().all(|id| named.contains(id.as_str())).then_some(rows)
        });
        if !restarted {
            assert_eq!(admitted(), rows.len() as u64, "admitted and rows differ");
        }
        for name in ["tollgate_permits_leaked_total", "tollgate_writer_refused_total"] {
            assert_eq!(count(name), 0, "{name}");
        }
        let by_request: HashSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
        assert_eq!(by_request.len(), rows.len(), "a call has two rows");
        let costs: HashMap<&str, u64> =
            rows.iter().map(|row| (row.request_id.as_str(), row.cost_nanousd)).collect();
        for (id, told) in &*self.told.lock().unwrap() {
            assert_eq!(costs.get(id.as_str()), Some(told), "the cost that {id} was told");
        }
        let sent = self.sent.lock().unwrap();
        assert!(by_request.iter().all(|id| sent.contains(*id)), "a row of a call never made");
        self.sums_hold();
        for instance in &self.instances {
            let data_dir = instance.lock().unwrap().data_dir();
            let (dir, config) = (data_dir.join("journal"), data_dir.join("store.toml"));
            // What is below the watermark may be gone: that is in the store.
            std::fs::write(&config, format!("[store]\nurl = \"{}\"\n", self.database.url)).unwrap();
            let (dir, config) = (dir.to_str().unwrap(), config.to_str().unwrap());
            let output = process::run(&["journal", "verify", dir, "--config", config]);
            assert!(output.status.success(), "{output:?}");
        }
    }

    fn sums_hold(&self) {
        let of = |table: &str, calls: &str| {
            format!(
                "SELECT coalesce(sum({calls}), 0)::text, coalesce(sum(input_tokens), 0)::text,
                    coalesce(sum(output_tokens), 0)::text, coalesce(sum(cost_nanousd), 0)::text
                 FROM {table}"
            )
        };
        let rows = self.sql(&of("usage_rows", "1"));
        for table in ["usage_daily", "usage_monthly"] {
            assert_eq!(self.sql(&of(table, "calls")), rows, "sums of {table} and of the rows");
        }
    }

    /// No window has more of the key's admitted calls than `burst + rate·t`, by their records'
    /// instants, and `more`: what was let pass beside.
    pub fn keeps_to(&self, key: &str, rate: u64, burst: u64, more: u64) {
        let sql = format!(
            "SELECT (extract(epoch FROM occurred_at) * 1000000)::bigint FROM usage_rows
             WHERE tollgate_id(key_id) = '{}' ORDER BY 1",
            &key[3..15]
        );
        let admitted: Vec<i64> = self.sql(&sql).iter().map(|row| row[0].parse().unwrap()).collect();
        assert!(!admitted.is_empty());
        let (mut level, mut last, mut worst) = (burst as f64, i64::MIN, 0f64);
        for at in admitted {
            let span_s = at.saturating_sub(last) as f64 / 1e6;
            level = (level + span_s * rate as f64).min(burst as f64) - 1.0;
            last = at;
            worst = worst.max(-level);
        }
        // The instant of a record is read some time before or after its token is taken.
        let unsure = 1.0 + rate as f64 * 0.005;
        println!("over the plan at most {worst:.1} calls, {more} let pass, {unsure:.1} unsure");
        assert!(worst <= more as f64 + unsure, "{worst} over {rate}/s, burst {burst}");
    }
}
