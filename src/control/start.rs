//! Control's start and end: the store is opened and read before anything else of the instance, and
//! the thread follows once the shards' journals are there.

use super::admin_state::{AdminState, Settings};
use super::authority::RedisAddress;
use super::directory::{Consumer, Directory};
use super::names::HostNames;
use super::open_error::OpenError;
use super::shard_senders::ShardSenders;
use super::vault::Vault;
use super::{admin_token, catalog, credentials, run};
use crate::channels::ControlChannels;
use crate::config::{AuthorityUrl, CaFile, Config, KEY_BYTES, RedisUrl};
use crate::metrics::Metrics;
use crate::store::{self, CatalogError, Loaded, Page};
use shard::catalog::Catalog;
use shard::known_ids::KnownIds;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;

/// What an admin call may still take when the thread has been told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Revoked keys that other instances have not been told of yet.
const REVOKED_MAX: usize = 4_096;

/// Keys that are read at once at the start: however many there are, few are held twice.
const KEYS_AT_ONCE: u32 = 4_096;

/// The store, opened and read; [`spawn`] goes on from here.
pub(crate) struct Opened {
    runtime: Runtime,
    store: store::Catalog,
    directory: Directory,
    names: HostNames,
    vault: Vault,
    admin_token: String,
}

impl Opened {
    /// The catalog that shards start with.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::new(self.directory.catalog().clone())
    }

    /// The ids of the keys, kept up to date from now on.
    pub(crate) fn known_ids(&self) -> Arc<KnownIds> {
        self.directory.known_ids()
    }

    /// Under which shards make the digests of API keys.
    pub(crate) fn digest_key(&self) -> [u8; KEY_BYTES] {
        self.vault.digest_key()
    }

    /// What the admin API asks for.
    pub(crate) fn admin_token(&self) -> &str {
        &self.admin_token
    }
}

/// Opens the store in `data_dir`, which exists, and reads all that control knows by heart.
pub(crate) fn open(config: &Config) -> Result<Opened, OpenError> {
    let admin_token = admin_token::load(config)?;
    let vault = credentials::open_vault(config)?;
    let store = store::Catalog::open(config).map_err(OpenError::Store)?;
    let (mut directory, names) = known_by_heart(store.load()?, &vault)?;
    load_keys(&store, &mut directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Opened { runtime, store, directory, names, vault, admin_token })
}

/// The same while the store is away, from what was last written down of it.
pub(crate) fn open_from_snapshot(config: &Config) -> Result<Opened, OpenError> {
    let admin_token = admin_token::load(config)?;
    let (store, snapshot) = store::Catalog::from_snapshot(config).map_err(OpenError::Catalog)?;
    let vault = credentials::open_vault_away(config, snapshot.key_names)?;
    let (mut directory, names) = known_by_heart(snapshot.loaded, &vault)?;
    snapshot.keys.iter().for_each(|row| directory.set_key(row));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Opened { runtime, store, directory, names, vault, admin_token })
}

/// All but the keys.
fn known_by_heart(loaded: Loaded, vault: &Vault) -> Result<(Directory, HostNames), OpenError> {
    let known_ids = KnownIds::with_room_for(loaded.keys);
    let (mut directory, names) =
        (Directory::new(known_ids, vault.digest_key_name()), HostNames::default());
    directory.set_catalog(catalog::load(loaded.plans, &loaded.services, &names, vault.seal())?);
    for row in loaded.consumers {
        directory.set_consumer(row.id, Consumer { name: row.name.into(), plan: row.plan });
    }
    Ok((directory, names))
}

fn load_keys(store: &store::Catalog, directory: &mut Directory) -> Result<(), CatalogError> {
    let mut page = Page { limit: KEYS_AT_ONCE, after: 0 };
    loop {
        let rows = store.load_keys(page)?;
        rows.iter().for_each(|row| directory.set_key(row));
        match rows.last() {
            Some(last) => page.after = last.place,
            None => return Ok(()),
        }
    }
}

/// What [`spawn`] needs.
pub(crate) struct ControlArgs {
    /// From [`open`].
    pub opened: Opened,
    /// The same configuration.
    pub config: Arc<Config>,
    /// Control's ends of the channels.
    pub channels: ControlChannels,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Where the admin API is served.
    pub admin_listener: TcpListener,
    /// Names this process to the authority; a new one at each start.
    pub instance: u128,
}

/// The running thread.
pub(crate) struct ControlHandle {
    commands: flume::Sender<run::ControlCommand>,
    thread: JoinHandle<()>,
}

impl ControlHandle {
    /// Asks every shard to drain. Control goes on answering them.
    pub(crate) fn drain(&self) {
        // A thread that has ended has no shards to ask.
        let _ = self.commands.send(run::ControlCommand::Drain);
    }

    /// From now on, `config` and `admin_token` hold; the token is `admin_token`'s.
    pub(crate) fn reload(&self, config: Arc<Config>, admin_token: String) {
        let settings = Settings { config, admin_token };
        let _ = self.commands.send(run::ControlCommand::Reload(settings));
    }

    /// Ends the thread and waits for its end.
    pub(crate) fn stop(self) {
        let _ = self.commands.send(run::ControlCommand::Stop);
        if self.thread.join().is_err() {
            tracing::error!("control ended by a panic");
        }
    }
}

fn address(url: &RedisUrl, ca_file: Option<&CaFile>) -> io::Result<RedisAddress> {
    let authorities = ca_file.map(|CaFile(path)| std::fs::read(path)).transpose()?;
    RedisAddress::new(url, authorities).map_err(io::Error::other)
}

/// Starts the thread.
pub(crate) fn spawn(args: ControlArgs) -> io::Result<ControlHandle> {
    let ControlArgs { opened, config, channels, metrics, admin_listener, instance } = args;
    let Opened { runtime, store, directory, names, vault, admin_token } = opened;
    admin_listener.set_nonblocking(true)?;
    let senders = ShardSenders::new(channels.to_shards);
    let redis = match &config.authority_url {
        AuthorityUrl::Embedded => None,
        AuthorityUrl::Redis(url) => Some(address(url, config.authority_ca_file.as_ref())?),
    };
    let process = run::Process {
        instance,
        redis,
        when_lost: config.when_lost,
        data_dir: config.server.data_dir.clone(),
    };
    let (commands, commanded) = flume::bounded(16);
    let (revoked, to_tell) = flume::bounded(REVOKED_MAX);
    let inbox = run::Inbox { from_shards: channels.from_shards, commanded, revoked: to_tell };
    let workers = run::Workers::start(&config, &senders)?;
    let settings = Settings { config, admin_token };
    let known = (directory, names);
    let state = Arc::new(AdminState::new(settings, metrics, store, known, senders, vault, revoked));
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(run::run(state, inbox, workers, admin_listener, process));
        runtime.shutdown_timeout(STOP_TIMEOUT);
    })?;
    Ok(ControlHandle { commands, thread })
}
