//! Redis servers that belong together: a cluster, and a master with its replica and Sentinels.

use super::super::redis_server::{RedisServer, free_port};
use redis::{Connection, Value};
use std::time::{Duration, Instant};

/// A server that is silent for this long is taken for dead by the others.
const DEAD_AFTER_MS: &str = "1000";
/// All of a group agree within this, on a machine that is busy with other things.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

/// Each master's first slot.
const FIRST_SLOTS: [u16; 3] = [0, 5_461, 10_923];

/// A slot on its way from one master to another.
pub(crate) struct SlotMove {
    slot: u16,
    from: usize,
    to: usize,
}

/// Three masters with a replica each.
pub(crate) struct RedisCluster {
    /// The masters, then their replicas in the same order.
    pub(crate) servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// One that is empty, and whose replicas may take their masters' places.
    pub(crate) fn start() -> Self {
        let server = |_| {
            let (port, bus) = (free_port(), free_port());
            let (port_text, bus_text) = (port.to_string(), bus.to_string());
            let node = ["--port", &port_text, "--cluster-enabled", "yes"];
            let bus_args = ["--cluster-port", &bus_text, "--cluster-node-timeout", DEAD_AFTER_MS];
            let args = [&node[..], &bus_args, &REPLICA].concat();
            (RedisServer::start_at(port, &args), bus)
        };
        let started: Vec<_> = (0..6).map(server).collect();
        for (place, first) in FIRST_SLOTS.iter().enumerate() {
            let next = FIRST_SLOTS.get(place + 1).unwrap_or(&16_384);
            let mut add = redis::cmd("CLUSTER");
            add.arg("ADDSLOTSRANGE").arg(first).arg(next - 1);
            add.exec(&mut connection(&started[place].0)).unwrap();
            let mut epoch = redis::cmd("CLUSTER");
            epoch.arg("SET-CONFIG-EPOCH").arg(place + 1);
            epoch.exec(&mut connection(&started[place].0)).unwrap();
        }
        let (first, bus) = &started[0];
        for (server, _) in &started[1..] {
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(first.port).arg(*bus);
            meet.exec(&mut connection(server)).unwrap();
        }
        let cluster = Self { servers: started.into_iter().map(|(server, _)| server).collect() };
        cluster.wait_for("all to know all", |known| info(known, "cluster_known_nodes") == "6");
        for place in 0..3 {
            let mut replicate = redis::cmd("CLUSTER");
            replicate
                .arg("REPLICATE")
                .arg(cluster.id(place))
                .exec(&mut cluster.connection(place + 3))
                .unwrap();
        }
        cluster.wait_for("all slots", |known| info(known, "cluster_state") == "ok");
        for place in 3..6 {
            until("a replica that has all", || is_replica_in_step(&cluster.servers[place]));
        }
        cluster
    }

    /// A URL that names two of its servers.
    pub(crate) fn url(&self) -> String {
        let [port, other] = [self.servers[0].port, self.servers[4].port];
        format!("redis-cluster://127.0.0.1:{port},127.0.0.1:{other}")
    }

    /// The place of the master that has the key.
    pub(crate) fn master_of(&self, key: &str) -> usize {
        let mut asked = redis::cmd("CLUSTER");
        asked.arg("KEYSLOT").arg(key);
        let slot: u16 = asked.query(&mut self.connection(0)).unwrap();
        FIRST_SLOTS.iter().rposition(|first| slot >= *first).unwrap()
    }

    /// Says that the key's slot is about to go from its master to the next one.
    pub(crate) fn begin_to_move(&self, key: &str) -> SlotMove {
        let from = self.master_of(key);
        let to = (from + 1) % FIRST_SLOTS.len();
        let asked = &mut self.connection(from);
        let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(asked).unwrap();
        let step = SlotMove { slot, from, to };
        self.set_slot(to, slot, &["IMPORTING", &self.id(from)]);
        self.set_slot(from, slot, &["MIGRATING", &self.id(to)]);
        step
    }

    /// Carries all of the slot's keys over.
    pub(crate) fn carry_keys(&self, step: &SlotMove) {
        let from = &mut self.connection(step.from);
        let mut asked = redis::cmd("CLUSTER");
        let keys: Vec<String> =
            asked.arg("GETKEYSINSLOT").arg(step.slot).arg(1_000).query(from).unwrap();
        assert!(!keys.is_empty(), "the slot holds nothing");
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.servers[step.to].port).arg("").arg(0).arg(5_000);
        migrate.arg("KEYS").arg(keys).exec(from).unwrap();
    }

    /// Says that it is the next one's now.
    pub(crate) fn end_move(&self, step: &SlotMove) {
        let owner = self.id(step.to);
        [step.to, step.from].iter().for_each(|at| self.set_slot(*at, step.slot, &["NODE", &owner]));
    }

    fn set_slot(&self, at: usize, slot: u16, state: &[&str]) {
        let mut set = redis::cmd("CLUSTER");
        set.arg("SETSLOT").arg(slot).arg(state).exec(&mut self.connection(at)).unwrap();
    }

    fn id(&self, place: usize) -> String {
        redis::cmd("CLUSTER").arg("MYID").query(&mut self.connection(place)).unwrap()
    }

    fn connection(&self, place: usize) -> Connection {
        connection(&self.servers[place])
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&mut Connection) -> bool) {
        for place in 0..self.servers.len() {
            let mut asked = self.connection(place);
            until(what, || is_so(&mut asked));
        }
    }
}

/// A master, its replica, and a Sentinel that replaces the one by the other.
pub(crate) struct WatchedRedis {
    /// The master at first.
    pub(crate) master: RedisServer,
    _replica: RedisServer,
    sentinel: RedisServer,
    user: &'static str,
    _folder: tempfile::TempDir,
}

impl WatchedRedis {
    /// One that is empty. The master's name is `main`. `user`: who may ask the Sentinel, as it
    /// stands in a URL; empty: anybody.
    pub(crate) fn start(user: &'static str) -> Self {
        let server = |more: &[&str]| {
            let port = free_port();
            let own = port.to_string();
            let gateway = ["--user", "gateway", "on", ">secret", "~*", "&*", "+@all"];
            let args = [&["--port", &own][..], &REPLICA, &gateway, more].concat();
            RedisServer::start_at(port, &args)
        };
        let master = server(&[]);
        let its = master.port.to_string();
        let replica = server(&["--replicaof", "127.0.0.1", &its]);
        until("a replica that has all", || is_replica_in_step(&replica));
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor main 127.0.0.1 {its} 1\n\
             sentinel down-after-milliseconds main {DEAD_AFTER_MS}\n\
             sentinel failover-timeout main 5000\n"
        );
        let users = "user default off\nuser gateway on >secret allchannels +@all\n";
        let text = if user.is_empty() { text } else { text + users };
        std::fs::write(&file, text).unwrap();
        let args = [file.to_str().unwrap(), "--sentinel", "--port", &port.to_string()];
        let sentinel = RedisServer::start_at(port, &args);
        let watched = Self { master, _replica: replica, sentinel, user, _folder: folder };
        until("a Sentinel that knows the replica", || {
            let asked = format!("redis://{user}127.0.0.1:{port}");
            let mut asked = redis::Client::open(asked).unwrap().get_connection().unwrap();
            let replicas = redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut asked);
            replicas.is_ok_and(|replicas: Vec<Value>| !replicas.is_empty())
        });
        watched
    }

    /// A URL that names the Sentinel, and a place where none is.
    pub(crate) fn url(&self) -> String {
        let (port, user) = (self.sentinel.port, self.user);
        format!("redis-sentinel://{user}127.0.0.1:1,127.0.0.1:{port}/main")
    }
}

/// A replica begins to copy at once, and may take its master's place however long it heard nothing.
const REPLICA: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

fn connection(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

/// A line of `CLUSTER INFO`.
fn info(asked: &mut Connection, name: &str) -> String {
    let text: String = redis::cmd("CLUSTER").arg("INFO").query(asked).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn is_replica_in_step(server: &RedisServer) -> bool {
    let text: String =
        redis::cmd("INFO").arg("replication").query(&mut connection(server)).unwrap();
    text.contains("role:slave") && text.contains("master_link_status:up")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < AGREE_WITHIN, "not in time: {what}");
        std::thread::yield_now();
    }
}
