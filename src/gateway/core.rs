//! What all tasks of one shard share: the pure state, the journal, the channels, pools, deadlines.
//! Everything here belongs to one thread; a `RefCell` is borrowed for a few statements and never
//! across an await.

use super::fault_log::FaultLog;
use super::park::{Parking, Spot};
use super::watch::Watches;
use crate::channels::{Settled, ShardChannels};
use crate::clock;
use crate::config::{Config, Durability};
use crate::journal::{Journal, JournalShared, Rescue};
use crate::metrics::{Metrics, ShardMetrics};
use crate::net;
use crate::wire::error::ApiError;
use shard::Shard;
use shard::catalog::{CatalogChange, Item, Service};
use shard::known_ids::KnownIds;
use shard::message::{Account, ToControl, ToShard};
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the whole process is doing, read by every shard.
#[derive(Debug, Default)]
pub struct ProcessState {
    /// Every part has started.
    pub ready: AtomicBool,
    /// On the way out: no new work.
    pub draining: AtomicBool,
}

/// Control's answer to a question of one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Tokens counted.
    Counted {
        /// Of the prompt.
        input_tokens: u32,
        /// Of the completion.
        output_tokens: u32,
    },
    /// The consumer's month.
    Account(Account),
}

/// A service, counted by an `Rc` around it on its shard: a request that holds it touches no
/// counter that other shards touch.
pub struct ServiceHandle(Arc<Service>);

impl Deref for ServiceHandle {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

fn handle(service: &Arc<Service>) -> Rc<ServiceHandle> {
    Rc::new(ServiceHandle(Arc::clone(service)))
}

/// The tokenizer takes milliseconds; where it is far behind, length decides.
pub const COUNT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a call may take, all in all: whoever has not settled it by then never will.
pub fn permit_deadline(config: &Config) -> Nanos {
    /// Reading the request, and answering: the rest of a call is bounded by its upstream's
    /// total timeout.
    const AROUND_UPSTREAM: Nanos = Nanos::from_s(300);
    Nanos::from_ms(config.upstream.total_timeout_ms).after(AROUND_UPSTREAM)
}

/// One shard.
pub struct Core {
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
    /// The services of the shard's catalog, by their index.
    services: RefCell<Vec<Rc<ServiceHandle>>>,
    /// Every shard's journal, for looking only.
    pub journals: Arc<[Arc<JournalShared>]>,
    /// To and from the other threads.
    pub channels: ShardChannels,
    /// Parked requests.
    pub parking: Parking,
    /// Deadlines of sockets.
    pub watches: Watches,
    /// What of upstreams' faults is logged.
    pub fault_log: FaultLog,
    /// Identities; not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// Open client connections.
    pub connections: Cell<u32>,
    /// Connections over the bound that are being told so.
    pub refusing: Cell<u32>,
    /// No record below this is unsynced.
    pub synced_next_seq: Cell<u64>,
    /// The journal can no longer be synced.
    pub sync_failed: Cell<bool>,
    cut_off: Cell<bool>,
    /// An `Rc` of the shard's own, for the same reason as the catalog's.
    config: RefCell<Rc<Config>>,
    metrics: Arc<Metrics>,
    replies: RefCell<HashMap<u64, Option<Reply>>>,
    next_ticket: Cell<u64>,
    /// What found the channel to control full. It goes before anything else.
    unsent: RefCell<Option<ToControl>>,
    /// Since when memory of idle connections waits to go back to the system, and its newest part.
    pub freed: Cell<Option<(Nanos, Nanos)>>,
}

/// What a [`Core`] is made of.
pub struct Parts {
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
}

impl Core {
    /// A shard that serves nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            index: parts.index,
            state: parts.state,
            digest_key: parts.digest_key,
            known_ids: parts.known_ids,
            services: RefCell::new(parts.shard.catalog().services.iter().map(handle).collect()),
            shard: RefCell::new(parts.shard),
            journal: RefCell::new(Some(parts.journal)),
            journals: parts.journals,
            channels: parts.channels,
            parking: Parking::default(),
            watches: Watches::default(),
            fault_log: FaultLog::default(),
            random: RefCell::new(fastrand::Rng::new()),
            connections: Cell::new(0),
            refusing: Cell::new(0),
            synced_next_seq: Cell::new(0),
            sync_failed: Cell::new(false),
            cut_off: Cell::new(false),
            config: RefCell::new(Rc::new(Config::clone(&parts.config))),
            metrics: parts.metrics,
            replies: RefCell::default(),
            next_ticket: Cell::new(0),
            unsent: RefCell::default(),
            freed: Cell::new(None),
        }
    }

    /// The service with this index, for as long as a call lasts.
    pub fn service(&self, index: u32) -> Rc<ServiceHandle> {
        Rc::clone(&self.services.borrow()[index as usize])
    }

    /// This shard's counters.
    pub fn metrics(&self) -> &ShardMetrics {
        self.metrics.shard(usize::from(self.index))
    }

    /// The configuration as it is now. Whoever waits in between sees what holds then.
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// From now on, this is the configuration.
    pub fn set_config(&self, config: &Config) {
        self.shard.borrow_mut().set_permit_deadline(permit_deadline(config));
        *self.config.borrow_mut() = Rc::new(config.clone());
    }

    /// Is any client connected yet?
    pub fn is_connected(&self) -> bool {
        self.connections.get() + self.refusing.get() > 0
    }

    /// Is the process on its way out?
    pub fn draining(&self) -> bool {
        self.state.draining.load(Ordering::Relaxed)
    }

    /// Ends every wait for a peer, and lets none begin: the drain took too long.
    pub fn cut_off(&self) {
        self.cut_off.set(true);
        self.watches.end_all();
        self.parking.wake(Spot::CutOff);
    }

    /// Has [`Core::cut_off`] been called?
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.get()
    }

    /// Posts what the pure state wants posted; false if the channel has no room for all of it.
    /// Cheap when there is nothing.
    pub fn post(&self) -> bool {
        loop {
            let unsent = self.unsent.borrow_mut().take();
            let Some(message) = unsent.or_else(|| self.poll_action()) else { return true };
            // Full: control is far behind. What is out of the pure state, spent tokens above all,
            // exists nowhere else, so it waits here for the next post; the rest waits there.
            if let Err(unsent) = self.channels.to_control.try_send(message) {
                *self.unsent.borrow_mut() = Some(unsent.into_inner());
                self.metrics().mail_full.add(1);
                return false;
            }
        }
    }

    fn poll_action(&self) -> Option<ToControl> {
        let message = self.shard.borrow_mut().poll_action()?;
        if matches!(message, ToControl::Rate(_) | ToControl::Quota(_)) {
            self.metrics().lease_wants.add(1);
        }
        Some(message)
    }

    /// Asks control; `None` if it does not answer within `patience`.
    pub async fn ask(
        &self,
        patience: Duration,
        question: impl FnOnce(u64) -> ToControl,
    ) -> Option<Reply> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        self.replies.borrow_mut().insert(ticket, None);
        if self.channels.to_control.try_send(question(ticket)).is_ok() {
            net::within(patience, self.parking.wait(Spot::Ticket(ticket))).await;
        }
        self.replies.borrow_mut().remove(&ticket).flatten()
    }

    /// Hands a settled record to the writer. A full channel loses nothing: the record is in the
    /// journal, where the writer finds it.
    pub fn hand_over(&self, settled: Settled) {
        if self.channels.to_writer.try_send(settled).is_err() {
            self.metrics().mail_full.add(1);
        }
    }

    /// Waits, for a moment at most, until all that was settled on any shard is in the ledger.
    pub async fn ledger_in_step(&self) {
        const LOOKS_MAX: usize = 100;
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let settled: Vec<u64> = self.journals.iter().map(|journal| journal.post_end()).collect();
        for _ in 0..LOOKS_MAX {
            let behind = |(journal, end): (&Arc<JournalShared>, &u64)| journal.ingested() < *end;
            if !self.journals.iter().zip(&settled).any(behind) {
                return;
            }
            net::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once the record `seq` survives what the configuration says it must.
    ///
    /// # Errors
    /// `overloaded` if that cannot be had in time, `journal_full` if not any more.
    pub async fn durable(&self, seq: u64) -> Result<(), ApiError> {
        if self.config().usage.durability == Durability::Process {
            return Ok(());
        }
        let synced = async {
            while self.synced_next_seq.get() <= seq && !self.sync_failed.get() {
                self.parking.wait(Spot::Sync).await;
            }
        };
        net::within(Duration::from_millis(self.config().usage.sync_timeout_ms), synced).await;
        match (self.synced_next_seq.get() > seq, self.sync_failed.get()) {
            (true, _) => Ok(()),
            (false, true) => Err(ApiError::JournalFull),
            (false, false) => Err(ApiError::Overloaded),
        }
    }

    /// Takes in all that control says, until it says drain.
    pub async fn listen_to_control(&self) {
        while let Ok(message) = self.channels.from_control.recv_async().await {
            if self.take_in(message) {
                return;
            }
        }
    }

    /// Takes in what control has said so far.
    pub fn take_in_waiting(&self) {
        while let Ok(message) = self.channels.from_control.try_recv() {
            self.take_in(message);
        }
    }

    fn take_in(&self, message: ToShard) -> bool {
        clock::tick();
        match message {
            ToShard::Counted { ticket, input_tokens, output_tokens } => {
                self.reply(ticket, Reply::Counted { input_tokens, output_tokens });
            }
            ToShard::Account { ticket, account } => self.reply(ticket, Reply::Account(account)),
            ToShard::Synced { next_seq } => {
                self.synced_next_seq.set(self.synced_next_seq.get().max(next_seq));
                self.parking.wake(Spot::Sync);
            }
            ToShard::SyncFailed => {
                let rescue = self.journal.borrow_mut().as_mut().map(Journal::sync_failed);
                tracing::error!(shard = self.index, ?rescue, "the journal could not be synced");
                if rescue == Some(Rescue::Lost) {
                    self.sync_failed.set(true);
                    self.parking.wake(Spot::Sync);
                }
            }
            ToShard::Drain => return true,
            other => {
                let mut shard = self.shard.borrow_mut();
                let mut begins = None;
                if let ToShard::Catalog(change) = &other {
                    begins = shard.months_begin_with(change);
                    self.keep(change);
                }
                let woken = shard.handle(other, clock::lately());
                if let Some(begin) = begins {
                    // What is settled from here on counts for itself.
                    let settled = self.journals[usize::from(self.index)].post_end();
                    shard.tell_month_cut(begin, settled);
                }
                drop(shard);
                if let Some(spot) = woken {
                    self.parking.wake(Spot::Shard(spot));
                }
                self.wake_ready();
                self.post();
            }
        }
        false
    }

    /// Calls under way keep the service as it was.
    fn keep(&self, change: &CatalogChange) {
        let Item::Service(service) = &change.item else { return };
        let mut services = self.services.borrow_mut();
        match services.get_mut(change.index as usize) {
            Some(known) => *known = handle(service),
            None => services.push(handle(service)),
        }
    }

    fn reply(&self, ticket: u64, reply: Reply) {
        if let Some(slot) = self.replies.borrow_mut().get_mut(&ticket) {
            *slot = Some(reply);
        }
        self.parking.wake(Spot::Ticket(ticket));
    }

    /// Buffers of a connection that is idle have been freed.
    pub fn has_freed(&self) {
        let now = clock::lately();
        self.freed.set(Some((self.freed.get().map_or(now, |(first, _)| first), now)));
    }

    /// Wakes those whose tokens have come of themselves.
    pub fn wake_ready(&self) {
        loop {
            let Some(spot) = self.shard.borrow_mut().poll_ready() else { return };
            self.parking.wake(Spot::Shard(spot));
        }
    }
}
