//! Starts the threads of one instance, in the order that lets each rely on what came before, and
//! ends them in the order that loses nothing: no new work, finish, settle, flush, then go.

use crate::channels::{self, ShardChannels};
use crate::config::{
    AuthorityUrl, CaFile, Config, ConfigErrors, KEY_BYTES, Shards, trusted_authorities,
};
use crate::gateway::{self, Parts, ProcessState, ShardArgs};
use crate::journal::{self, Journal, JournalShared};
use crate::metrics::Metrics;
use crate::model_server::{self, Behaviour};
use crate::net;
use crate::store::{Ledger, StoreError};
use crate::writer::ReplayReport;
use crate::{control, data_dir, descriptors, writer};
use rustix::thread::{CpuSet, sched_getaffinity};
use rustls::ClientConfig;
use shard::catalog::Catalog;
use shard::known_ids::KnownIds;
use shard::{Shard, ShardConfig};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// New configurations on their way to a shard.
const CONFIGS_MAX: usize = 4;
/// A shard that has no room for another one within this is stuck.
const TAKES_CONFIG_WITHIN: Duration = Duration::from_secs(1);

/// A store that was away at the start is asked for again after this.
const STORE_ASKED_EVERY: Duration = Duration::from_millis(500);

/// Where an instance serves.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Data plane, as `http://host:port`, with the port really bound.
    pub data_url: String,
    /// Control plane, likewise.
    pub admin_url: String,
    /// What the control plane asks for.
    pub admin_token: String,
}

/// Why an instance does not run, or ended badly.
#[derive(Debug)]
pub struct RunError(String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

fn failed(what: &str) -> impl FnOnce(&dyn fmt::Display) -> RunError {
    let what = what.to_owned();
    move |why| RunError(format!("{what}: {why}"))
}

/// What the command that starts an instance knows and has to do.
pub struct Owner<'a> {
    /// Reads the configuration, at first and at each SIGHUP.
    pub read: &'a dyn Fn() -> Result<Config, ConfigErrors>,
    /// Called once every part serves.
    pub on_ready: &'a dyn Fn(&Addresses) -> Result<(), String>,
    /// Called with each new configuration and the admin token that holds from now on.
    pub on_reload: &'a dyn Fn(&Config, &str),
}

/// Serves until SIGTERM or SIGINT ends it. `config` is what `owner` has read.
pub fn serve(config: Config, owner: &Owner<'_>) -> Result<(), RunError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|why| failed("signals cannot be handled")(&why))?;
    let _lock = journal::lock(&config.server.data_dir).map_err(|why| RunError(why.to_string()))?;
    data_dir::close_to_others(&config.server.data_dir);
    let mut instance = Instance::start(config)?;
    if let Err(why) = (owner.on_ready)(&instance.addresses) {
        instance.stop();
        return Err(RunError(why));
    }
    tracing::info!(shards = instance.shards.len(), "serving");
    eprintln!("ready data={} admin={}", instance.addresses.data_url, instance.addresses.admin_url);
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        instance.reload(owner);
    }
    if instance.stop() {
        Ok(())
    } else {
        Err(RunError("not all was written in time; the next start replays the journals".into()))
    }
}

/// Starts the simulated model server beside the instance; answers where it listens.
pub fn spawn_model_server(listen: SocketAddr) -> io::Result<SocketAddr> {
    model_server::spawn(listen, Behaviour::default())
}

struct RunningShard {
    thread: JoinHandle<io::Result<()>>,
    configs: flume::Sender<Arc<Config>>,
}

struct Instance {
    config: Arc<Config>,
    addresses: Addresses,
    state: Arc<ProcessState>,
    shards: Vec<RunningShard>,
    writer: writer::WriterHandle,
    control: control::ControlHandle,
}

impl Instance {
    fn start(mut config: Config) -> Result<Self, RunError> {
        let cpus = cpus_for(config.server.shards)?;
        if let Some(room) = fit_connections(&mut config, cpus.len()) {
            tracing::info!(
                room,
                "a shard takes as many connections as open files allow; LimitNOFILE raises that"
            );
        }
        let config = Arc::new(config);
        let tls = upstream_tls(&config)?;
        let (ledger, opened, left) = open_store(&config)?;
        let (catalog, known_ids) = (opened.catalog(), opened.known_ids());
        let digest_key = opened.digest_key();
        let (shard_channels, control_channels, writer_channels) = channels::open(cpus.len());
        let metrics = Arc::new(Metrics::new(cpus.len()));
        let state = Arc::new(ProcessState::default());
        let server = &config.server;
        let listeners = bind(server.listen, cpus.len())
            .map_err(|why| no_listener(server.listen, "--listen or server.listen", &why))?;
        let admin_listener = TcpListener::bind(server.admin_listen).map_err(|why| {
            no_listener(server.admin_listen, "--admin-listen or server.admin_listen", &why)
        })?;
        let addresses = Addresses {
            data_url: url_of(&listeners[0])?,
            admin_url: url_of(&admin_listener)?,
            admin_token: opened.admin_token().to_owned(),
        };
        let instance = uuid::Uuid::now_v7().as_u128();
        let (journals, shared) = journals(&config, instance, cpus.len())?;
        let writer = writer::spawn(writer::WriterArgs {
            ledger,
            config: config.usage.clone(),
            channels: writer_channels,
            journals: shared.to_vec(),
            metrics: metrics.clone(),
        })
        .map_err(|why| failed("the writer does not start")(&why))?;
        let control = control::spawn(control::ControlArgs {
            config: config.clone(),
            opened,
            channels: control_channels,
            metrics: metrics.clone(),
            admin_listener,
            instance,
        })
        .map_err(|why| failed("control does not start")(&why))?;
        let start = ShardStart {
            config: &config,
            state: &state,
            metrics: &metrics,
            digest_key,
            known_ids,
            catalog,
            shared,
            tls,
        };
        let shards = start.all(cpus, shard_channels, journals, listeners)?;
        state.ready.store(true, Ordering::Relaxed);
        if let Some(left) = left {
            replay_later(config.clone(), state.clone(), left)
                .map_err(|why| failed("a thread does not start")(&why))?;
        }
        Ok(Self { config, addresses, state, shards, writer, control })
    }

    /// Reads the configuration again, and hands out what can change while the instance runs. All
    /// that can fail comes first: either every part hears of the change or none does.
    fn reload(&mut self, owner: &Owner<'_>) {
        let mut read = match (owner.read)() {
            Ok(read) => read,
            Err(errors) => {
                for problem in errors.0 {
                    tracing::error!(%problem, "not reloaded: the configuration is wrong");
                }
                return;
            }
        };
        fit_connections(&mut read, self.shards.len());
        let change = self.config.change_to(&read);
        if !change.waiting.is_empty() {
            let settings = change.waiting.join(", ");
            tracing::warn!(settings, "changed settings that take a restart");
        }
        let admin_token = match control::admin_token(&change.config) {
            Ok(admin_token) => admin_token,
            Err(error) => return tracing::error!(%error, "not reloaded: no admin token"),
        };
        self.config = Arc::new(change.config);
        self.control.reload(self.config.clone(), admin_token.clone());
        self.writer.set_config(self.config.usage.clone());
        for (index, shard) in self.shards.iter().enumerate() {
            let sent = shard.configs.send_timeout(self.config.clone(), TAKES_CONFIG_WITHIN);
            if sent.is_err() {
                tracing::error!(shard = index, "the shard does not take the configuration");
            }
        }
        (owner.on_reload)(&self.config, &admin_token);
        tracing::info!(settings = change.applied.join(", "), "configuration reloaded");
    }

    /// True if everything was written.
    fn stop(self) -> bool {
        tracing::info!("draining");
        self.state.draining.store(true, Ordering::Relaxed);
        self.control.drain();
        for shard in self.shards {
            if !matches!(shard.thread.join(), Ok(Ok(()))) {
                tracing::error!("a shard ended badly");
            }
        }
        let flushed = self.writer.finish(self.config.server.drain_timeout_ms);
        self.control.stop();
        tracing::info!(flushed, "stopped");
        flushed
    }
}

/// The ledger, and control with what it knows of the store. Journals of an earlier process are in
/// the ledger by then; where the store is away they come back instead, and a snapshot stands for
/// it. That takes an authority of its own: an embedded one has its months from the store.
fn open_store(
    config: &Arc<Config>,
) -> Result<(Ledger, control::Opened, Option<Vec<PathBuf>>), RunError> {
    let told = |why: &dyn fmt::Display| RunError(why.to_string());
    let why = match Ledger::open(&**config) {
        Ok(mut ledger) => {
            let opened = control::open(config).map_err(|why| told(&why))?;
            replay(&config.server.data_dir, &mut ledger)?;
            return Ok((ledger, opened, None));
        }
        Err(StoreError::Away(why)) if config.authority_url != AuthorityUrl::Embedded => why,
        Err(why) => return Err(told(&why)),
    };
    let opened = control::open_from_snapshot(config);
    let opened =
        opened.map_err(|no| RunError(format!("{why}; nor is there a start without it: {no}")))?;
    let ledger = Ledger::open_away(&**config).map_err(|why| told(&why))?;
    let root = config.server.data_dir.join(journal::DIR_NAME);
    let left = writer::journals_in(&root).map_err(|why| failed("no journals")(&why))?;
    tracing::error!(why, "the store is away: started from the snapshot of it, until it is back");
    Ok((ledger, opened, Some(left)))
}

/// Brings in the journals that an earlier process left once the store is back, and its schema and
/// partitions up to date before that.
fn replay_later(
    config: Arc<Config>,
    state: Arc<ProcessState>,
    mut left: Vec<PathBuf>,
) -> io::Result<()> {
    let replay = move || {
        while !state.draining.load(Ordering::Relaxed) {
            match Ledger::open(&*config) {
                Ok(mut ledger) => match replay_all(&mut left, &mut ledger) {
                    Ok(()) => return,
                    Err(why) => tracing::warn!(%why, "journals are left for later"),
                },
                Err(StoreError::Away(_)) => {}
                Err(why) => tracing::error!(%why, "the store is back, and no use"),
            }
            std::thread::park_timeout(STORE_ASKED_EVERY);
        }
    };
    std::thread::Builder::new().name("replay".to_owned()).spawn(replay).map(drop)
}

fn replay_all(left: &mut Vec<PathBuf>, ledger: &mut Ledger) -> Result<(), RunError> {
    let mut report = ReplayReport::default();
    while let Some(dir) = left.last() {
        writer::replay_journal(dir, ledger, &mut report)
            .map_err(|why| failed("a usage journal cannot be replayed")(&why))?;
        left.pop();
    }
    tell_replayed(&report);
    Ok(())
}

fn replay(data_dir: &Path, ledger: &mut Ledger) -> Result<(), RunError> {
    let report = writer::replay(data_dir, ledger)
        .map_err(|why| failed("the usage journals cannot be replayed")(&why))?;
    tell_replayed(&report);
    Ok(())
}

fn tell_replayed(report: &ReplayReport) {
    if report.journals > 0 {
        tracing::info!(
            journals = report.journals,
            rows = report.rows,
            recovered = report.recovered,
            torn_bytes = report.torn_bytes,
            "usage journals of an earlier process replayed"
        );
    }
    for (journal, from, to) in &report.gaps_named {
        let journal = uuid::Uuid::from_u128(*journal);
        tracing::error!(%journal, from, to, "records of a journal are damaged; see quarantine");
    }
}

/// The core of each shard; `None`: not pinned.
fn cpus_for(shards: Shards) -> Result<Vec<Option<usize>>, RunError> {
    /// From here on the writer gets a core of its own.
    const CORES_TO_SPARE_ONE: usize = 4;
    let allowed =
        sched_getaffinity(None).map_err(|why| failed("the cores cannot be counted")(&why))?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let count = match shards {
        Shards::Exactly(count) => usize::from(count),
        Shards::Auto if cores.len() >= CORES_TO_SPARE_ONE => cores.len() - 1,
        Shards::Auto => cores.len(),
    };
    let pinned = count <= cores.len();
    Ok((0..count).map(|shard| cores.get(shard).copied().filter(|_| pinned)).collect())
}

/// Takes no more connections than there are descriptors for: how many, where that is fewer.
fn fit_connections(config: &mut Config, shards: usize) -> Option<u32> {
    let max_connections = &mut config.server.max_connections;
    let room = descriptors::connections_per_shard(shards).filter(|room| room < max_connections)?;
    *max_connections = room;
    Some(room)
}

/// One listening socket per shard on the same port; the kernel spreads connections over them. It
/// would spread them over another process's sockets too, so a port that is taken is asked for alone
/// first.
fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        drop(TcpListener::bind(address)?);
    }
    let first = net::bind(address)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(net::bind(bound)?);
    }
    Ok(listeners)
}

fn no_listener(address: SocketAddr, setting: &str, why: &io::Error) -> RunError {
    RunError(match why.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use by another program: stop that one, or choose another address by \
             {setting}"
        ),
        _ => format!("cannot listen on {address} ({setting}): {why}"),
    })
}

/// How shards connect to https services.
fn upstream_tls(config: &Config) -> Result<ClientConfig, RunError> {
    let ca_file = config.upstream.ca_file.as_ref().map(|CaFile(path)| path.as_path());
    let trusted = trusted_authorities(ca_file).map_err(RunError)?;
    net::client_config(trusted).map_err(|why| failed("TLS to upstreams")(&why))
}

fn url_of(listener: &TcpListener) -> Result<String, RunError> {
    let address = listener.local_addr().map_err(|why| failed("no address")(&why))?;
    Ok(format!("http://{address}"))
}

type Journals = (Vec<Journal>, Arc<[Arc<JournalShared>]>);

fn journals(config: &Config, instance: u128, count: usize) -> Result<Journals, RunError> {
    let no_journal = |why: io::Error| {
        let root = config.server.data_dir.join(journal::DIR_NAME);
        failed(&format!("no usage journal can be made in {}", root.display()))(&why)
    };
    let preallocator = journal::spawn_preallocator().map_err(no_journal)?;
    let root = config.server.data_dir.join(journal::DIR_NAME);
    let mut journals = Vec::with_capacity(count);
    for shard in 0..count {
        let usage = &config.usage;
        let journal = Journal::create(&root, shard as u16, instance, usage, preallocator.clone());
        journals.push(journal.map_err(no_journal)?);
    }
    let shared = journals.iter().map(Journal::shared).collect();
    Ok((journals, shared))
}

struct ShardStart<'a> {
    config: &'a Arc<Config>,
    state: &'a Arc<ProcessState>,
    metrics: &'a Arc<Metrics>,
    digest_key: [u8; KEY_BYTES],
    known_ids: Arc<KnownIds>,
    catalog: Arc<Catalog>,
    shared: Arc<[Arc<JournalShared>]>,
    tls: ClientConfig,
}

impl ShardStart<'_> {
    fn all(
        &self,
        cpus: Vec<Option<usize>>,
        shard_channels: Vec<ShardChannels>,
        journals: Vec<Journal>,
        listeners: Vec<TcpListener>,
    ) -> Result<Vec<RunningShard>, RunError> {
        let permit_deadline = gateway::permit_deadline(self.config);
        let mut threads = Vec::with_capacity(cpus.len());
        let parts = cpus.into_iter().zip(shard_channels).zip(journals.into_iter().zip(listeners));
        for (index, ((cpu, channels), (journal, listener))) in parts.enumerate() {
            let shard = ShardConfig { shard: index as u16, permit_deadline };
            let parts = Parts {
                index: index as u16,
                config: self.config.clone(),
                state: self.state.clone(),
                digest_key: self.digest_key,
                known_ids: self.known_ids.clone(),
                shard: Shard::new(shard, self.catalog.clone()),
                journal,
                journals: self.shared.clone(),
                channels,
                metrics: self.metrics.clone(),
                tls: net::with_own_sessions(&self.tls),
            };
            let (configs, new_configs) = flume::bounded(CONFIGS_MAX);
            let args = ShardArgs { parts, listener, configs: new_configs, cpu };
            let thread = gateway::spawn(args);
            let thread = thread.map_err(|why| failed("a shard does not start")(&why))?;
            threads.push(RunningShard { thread, configs });
        }
        Ok(threads)
    }
}
