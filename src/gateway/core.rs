//! What all tasks of one shard share: the pure state, the journal, the channels, pools, deadlines.
//! Everything here belongs to one thread; a `RefCell` is borrowed for a few statements and never
//! across an await.

use super::deadline::Deadlines;
use super::fault_log::FaultLog;
use super::handshakes::Handshakes;
use super::idle_memory::IdleMemory;
use super::park::{Parking, Spot};
use super::presence::CallsUnderWay;
use super::service_handles::{ServiceHandle, ServiceHandles};
use super::sync_state::SyncProgress;
use super::tickets::Tickets;
use crate::channels::ShardChannels;
use crate::config::{Config, Durability};
use crate::journal::{Journal, JournalShared};
use crate::metrics::{Metrics, ShardMetrics};
use crate::wire::error::ApiError;
use shard::Shard;
use shard::known_ids::KnownIds;
use shard::message::ToControl;
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the whole process is doing, read by every shard.
#[derive(Debug, Default)]
pub(crate) struct ProcessState {
    /// Every part has started.
    pub ready: AtomicBool,
    /// On the way out: no new work.
    pub draining: AtomicBool,
}

/// How long a call may take, all in all: whoever has not settled it by then never will.
pub(crate) fn permit_deadline(config: &Config) -> Nanos {
    /// Reading the request, and answering: the rest of a call is bounded by its upstream's
    /// total timeout.
    const AROUND_UPSTREAM: Nanos = Nanos::from_s(300);
    Nanos::from_ms(config.upstream.total_timeout_ms).after(AROUND_UPSTREAM)
}

/// One shard.
pub(super) struct Core {
    /// Its number.
    pub index: u16,
    /// The process.
    pub state: Arc<ProcessState>,
    /// Key of the digests that API keys are cached under; the same on every shard.
    pub digest_key: [u8; 32],
    /// Which keys control may know; it adds to them.
    pub known_ids: Arc<KnownIds>,
    /// The pure state.
    pub shard: RefCell<Shard>,
    /// `None` once the shard has drained.
    pub journal: RefCell<Option<Journal>>,
    /// The services of the shard's catalog.
    pub services: ServiceHandles,
    /// Every shard's journal, for looking only.
    pub journals: Arc<[Arc<JournalShared>]>,
    /// To and from the other threads.
    pub channels: ShardChannels,
    /// What found the channel to control full. It goes before anything else.
    pub unsent: RefCell<Option<ToControl>>,
    /// Questions to control under way.
    pub tickets: Tickets,
    /// Parked requests.
    pub parking: Parking,
    /// Deadlines of reads, writes and waits on sockets.
    pub deadlines: Deadlines,
    /// Calls that end if their clients leave.
    pub calls: CallsUnderWay,
    /// What of upstreams' faults is logged.
    pub fault_log: FaultLog,
    /// TLS handshakes with upstreams under way.
    pub handshakes: Handshakes,
    /// How connections to https upstreams are made, and the sessions that can be resumed.
    pub tls: Arc<rustls::ClientConfig>,
    /// Identities; not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// Open client connections.
    pub connections: Cell<u32>,
    /// Connections over the bound that are being told so.
    pub refusing: Cell<u32>,
    /// How much of the journal is on the disk.
    pub sync: SyncProgress,
    /// What idle connections have freed.
    pub idle_memory: IdleMemory,
    cut_off: Cell<bool>,
    /// An `Rc` of the shard's own, for the same reason as the catalog's.
    config: RefCell<Rc<Config>>,
    metrics: Arc<Metrics>,
}

/// What a [`Core`] is made of.
pub(crate) struct Parts {
    /// See [`Core`].
    pub index: u16,
    /// What the shard starts with.
    pub config: Arc<Config>,
    /// See [`Core`].
    pub state: Arc<ProcessState>,
    /// See [`Core`].
    pub digest_key: [u8; 32],
    /// See [`Core`].
    pub known_ids: Arc<KnownIds>,
    /// See [`Core`].
    pub shard: Shard,
    /// See [`Core`].
    pub journal: Journal,
    /// See [`Core`].
    pub journals: Arc<[Arc<JournalShared>]>,
    /// See [`Core`].
    pub channels: ShardChannels,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// How connections to https upstreams are made.
    pub tls: rustls::ClientConfig,
}

impl Core {
    /// A shard that serves nothing yet.
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            index: parts.index,
            state: parts.state,
            digest_key: parts.digest_key,
            known_ids: parts.known_ids,
            services: ServiceHandles::of(parts.shard.catalog()),
            shard: RefCell::new(parts.shard),
            journal: RefCell::new(Some(parts.journal)),
            journals: parts.journals,
            channels: parts.channels,
            unsent: RefCell::default(),
            tickets: Tickets::default(),
            parking: Parking::default(),
            deadlines: Deadlines::default(),
            calls: CallsUnderWay::default(),
            fault_log: FaultLog::default(),
            handshakes: Handshakes::default(),
            tls: Arc::new(parts.tls),
            random: RefCell::new(fastrand::Rng::new()),
            connections: Cell::new(0),
            refusing: Cell::new(0),
            sync: SyncProgress::default(),
            idle_memory: IdleMemory::default(),
            cut_off: Cell::new(false),
            config: RefCell::new(Rc::new(Config::clone(&parts.config))),
            metrics: parts.metrics,
        }
    }

    /// The service with this index, for as long as a call lasts.
    pub(super) fn service(&self, index: u32) -> Rc<ServiceHandle> {
        self.services.get(index)
    }

    /// This shard's counters.
    pub(super) fn metrics(&self) -> &ShardMetrics {
        self.metrics.shard(usize::from(self.index))
    }

    /// The configuration as it is now. Whoever waits in between sees what holds then.
    pub(super) fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// From now on, this is the configuration.
    pub(super) fn set_config(&self, config: &Config) {
        self.shard.borrow_mut().set_permit_deadline(permit_deadline(config));
        *self.config.borrow_mut() = Rc::new(config.clone());
    }

    /// Is any client connected yet?
    pub(super) fn is_connected(&self) -> bool {
        self.connections.get() + self.refusing.get() > 0
    }

    /// Is the process on its way out?
    pub(super) fn draining(&self) -> bool {
        self.state.draining.load(Ordering::Relaxed)
    }

    /// Ends every wait for a peer, and lets none begin: the drain took too long.
    pub(super) fn cut_off(&self) {
        self.cut_off.set(true);
        self.deadlines.end_all();
        self.parking.wake(Spot::CutOff);
    }

    /// Has [`Core::cut_off`] been called?
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.get()
    }

    /// Returns once the record `seq` survives what the configuration says it must.
    ///
    /// # Errors
    /// `overloaded` if that cannot be had in time, `journal_full` if not any more.
    pub(super) async fn durable(&self, seq: u64) -> Result<(), ApiError> {
        if self.config().usage.durability == Durability::Process {
            return Ok(());
        }
        let patience = Duration::from_millis(self.config().usage.sync_timeout_ms);
        self.sync.wait(&self.parking, patience, seq).await
    }

    /// Wakes those whose tokens have come of themselves.
    pub(super) fn wake_ready(&self) {
        loop {
            let Some(spot) = self.shard.borrow_mut().poll_ready() else { return };
            self.parking.wake(Spot::Shard(spot));
        }
    }
}
