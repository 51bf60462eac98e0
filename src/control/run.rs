//! Control's loop: one message, one finished check or one due timer at a time, and after each the
//! leases. The loop waits for nothing else.

use super::admin_state::{AdminState, Revoked, Settings};
use super::authority::{ChosenAuthority, Event, RedisAddress};
use super::follow;
use super::leases::Leases;
use super::ledger_reads::{LedgerAnswer, LedgerReads, answer_months};
use super::shard_senders::ShardSenders;
use super::snapshots::Snapshots;
use super::tokenizer::Tokenizer;
use super::verifier::{Checked, Verifier, VerifyQuestion};
use super::{account, admin, replica};
use crate::clock;
use crate::config::Config;
use crate::store::Digest;
use shard::catalog::WhenLost;
use shard::message::{ToControl, ToShard};
use shard::units::{KeyId, Nanos};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Messages handled before timers, checks and the admin API get their turn.
const BATCH_MAX: usize = 256;
/// Answers of the ledger on their way to the loop: one read is under way at a time.
const READS_MAX: usize = 1;
/// How often upstream hosts are looked up again.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// Digests of verified keys on their way to the store; hashing makes far fewer at a time.
const UNSAVED_MAX: usize = 4_096;
/// After a store that is away.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// At the end, for what Redis is given back.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// What the owner of the thread asks for.
pub(super) enum ControlCommand {
    Drain,
    Reload(Settings),
    Stop,
}

/// What wakes the loop from outside.
pub(super) struct Inbox {
    pub(super) from_shards: flume::Receiver<ToControl>,
    pub(super) commanded: flume::Receiver<ControlCommand>,
    /// What other instances are to be told of.
    pub(super) revoked: flume::Receiver<Revoked>,
}

/// The threads that work for the loop.
pub(super) struct Workers {
    verifier: Verifier,
    checks: flume::Receiver<Checked>,
    tokenizer: Tokenizer,
}

impl Workers {
    pub(super) fn start(config: &Config, senders: &ShardSenders) -> io::Result<Self> {
        let (verifier, checks) = Verifier::start(&config.keys)?;
        Ok(Self { verifier, checks, tokenizer: Tokenizer::start(senders.clone())? })
    }
}

/// The loop's own state.
struct Loop {
    state: Arc<AdminState>,
    verifier: Verifier,
    tokenizer: Tokenizer,
    leases: Leases,
    ledger: LedgerReads,
    reads: flume::Sender<LedgerAnswer>,
    verified: flume::Sender<(KeyId, Digest)>,
}

/// This process, as others name it.
pub(super) struct Process {
    /// Itself, to the authority.
    pub(super) instance: u128,
    /// Where the authority is; `None`: here.
    pub(super) redis: Option<RedisAddress>,
    /// What keys do while it is out of reach, unless their plan says it.
    pub(super) when_lost: WhenLost,
    /// Where snapshots of the store are kept.
    pub(super) data_dir: PathBuf,
}

/// Runs until told to stop.
pub(super) async fn run(
    state: Arc<AdminState>,
    inbox: Inbox,
    workers: Workers,
    admin_listener: TcpListener,
    process: Process,
) {
    tokio::spawn(serve_admin(Arc::clone(&state), admin_listener));
    if let Some(watch) = state.store.watch() {
        tokio::spawn(follow::follow(Arc::clone(&state), watch));
    }
    tokio::spawn(replica::watch(Arc::clone(&state)));
    let snapshots = Snapshots::of(&state, process.data_dir);
    tokio::spawn(Arc::clone(&snapshots).keep());
    let mut refresh = tokio::time::interval(REFRESH_EVERY);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    refresh.reset();
    state.find_hosts(false);
    let (reads, read) = flume::bounded(READS_MAX);
    let shards = state.senders.shards();
    let (authority, from_redis) = match process.redis {
        // From nowhere comes nothing.
        None => (ChosenAuthority::embedded(empty_at(&state)), flume::bounded(1).1),
        Some(at) => ChosenAuthority::redis(at, process.instance),
    };
    let leases = Leases::new(process.instance, shards as u16, process.when_lost, authority);
    let Workers { verifier, checks, tokenizer } = workers;
    let (verified, unsaved) = flume::bounded(UNSAVED_MAX);
    tokio::spawn(save_digests(Arc::clone(&state), unsaved));
    let mut running = Loop {
        state,
        verifier,
        tokenizer,
        leases,
        ledger: LedgerReads::default(),
        reads,
        verified,
    };
    loop {
        let due = until(running.leases.timeout());
        tokio::select! {
            message = inbox.from_shards.recv_async() => match message {
                Ok(message) => running.on_messages(message, &inbox.from_shards),
                Err(flume::RecvError::Disconnected) => return,
            },
            Ok(checked) = checks.recv_async() => running.on_checked(checked),
            Ok(read) = read.recv_async() => running.on_read(read),
            Ok(event) = from_redis.recv_async() => running.on_event(event),
            Ok(revoked) = inbox.revoked.recv_async() => match revoked {
                Revoked::Key(key, told) => running.leases.tell_revoked(key, told),
                Revoked::Bucket(bucket) => running.leases.revoke(bucket),
            },
            command = inbox.commanded.recv_async() => match command {
                Ok(ControlCommand::Drain) => running.state.senders.tell_all(&ToShard::Drain).await,
                Ok(ControlCommand::Reload(settings)) => running.reload(settings),
                Ok(ControlCommand::Stop) => {
                    running.give_back_months(&inbox.from_shards, &from_redis).await;
                    return snapshots.keep_last().await;
                }
                Err(flume::RecvError::Disconnected) => return,
            },
            _ = refresh.tick() => running.state.find_hosts(true),
            () = tokio::time::sleep(due) => {}
        }
        running.advance_leases();
        running.read_ledger();
        // Messages that never end must not keep the admin API from its turn.
        tokio::task::coop::consume_budget().await;
    }
}

/// Now, if the ledger has a record: then an earlier process may have spent any bucket's burst a
/// moment ago. Journals of that process have been replayed, so nothing that it admitted is missing.
fn empty_at(state: &AdminState) -> Option<Nanos> {
    let used = state.store.has_records();
    let failed = |failure: &_| tracing::error!(%failure, "the ledger was not read");
    used.inspect_err(failed).unwrap_or(true).then(clock::now)
}

async fn serve_admin(state: Arc<AdminState>, listener: TcpListener) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => admin::serve(state, listener).await,
        Err(error) => tracing::error!(%error, "the admin API is not served"),
    }
}

/// Gives the store the digests of keys that have just been verified, as many as there are at once,
/// and again until it has them: other instances know the keys by it.
async fn save_digests(state: Arc<AdminState>, unsaved: flume::Receiver<(KeyId, Digest)>) {
    while let Ok(first) = unsaved.recv_async().await {
        let digests: Vec<_> = std::iter::once(first).chain(unsaved.try_iter()).collect();
        let mut is_told = false;
        while let Err(failure) = state.store.set_digests(digests.clone()).await {
            if !std::mem::replace(&mut is_told, true) {
                tracing::error!(%failure, "until this is kept others hash verified keys again");
            }
            tokio::time::sleep(SAVE_AGAIN).await;
        }
    }
}

/// How long the loop's timer runs; long where nothing is due.
fn until(due: Option<Nanos>) -> Duration {
    let wait = due.map_or(REFRESH_EVERY, |due| Duration::from_nanos(due.since(clock::now()).0));
    wait.min(REFRESH_EVERY)
}

impl Loop {
    fn reload(&mut self, settings: Settings) {
        self.verifier.set_budgets(&settings.config.keys);
        self.state.set_settings(settings);
    }

    fn on_event(&mut self, event: Event) {
        if let Event::Revoked(keys) = event {
            let state = Arc::clone(&self.state);
            tokio::spawn(async move {
                for key in keys {
                    state.refuse_key(key).await;
                }
            });
        } else {
            self.leases.on_event(event, clock::now());
            for bucket in self.leases.take_revoked() {
                let state = Arc::clone(&self.state);
                tokio::spawn(async move { state.refuse_bucket(bucket).await });
            }
        }
    }

    fn on_messages(&mut self, first: ToControl, more: &flume::Receiver<ToControl>) {
        self.on_message(first);
        for message in more.try_iter().take(BATCH_MAX) {
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: ToControl) {
        match message {
            ToControl::Rate(want) => {
                self.leases.on_rate(want, self.state.directory().catalog(), clock::now());
            }
            ToControl::Quota(want) => {
                self.leases.on_quota(want, self.state.directory().catalog(), clock::now());
            }
            ToControl::Verify { shard, digest, text, peer } => {
                self.verify(&VerifyQuestion { shard, digest, text, peer });
            }
            ToControl::Count { shard, ticket, input, output } => {
                self.tokenizer.ask(shard, ticket, input, output);
            }
            ToControl::Account { shard, ticket, consumer, period } => {
                let state = Arc::clone(&self.state);
                tokio::spawn(account::answer(state, shard, ticket, consumer, period));
            }
        }
    }

    fn verify(&mut self, question: &VerifyQuestion) {
        let metrics = &self.state.metrics.control;
        let verdict =
            self.verifier.ask(question, &self.state.directory(), clock::moment(), metrics);
        if let Some(verdict) = verdict {
            let digest = question.digest;
            self.state.senders.tell(question.shard, ToShard::Verdict { digest, verdict });
        }
    }

    /// The directory is read and the verdict sent in one step: a revocation comes wholly before it,
    /// or wholly after it, and then its `Forget` follows the verdict.
    fn on_checked(&mut self, checked: Checked) {
        let (mut directory, metrics) = (self.state.directory(), &self.state.metrics.control);
        let (shards, verdict) =
            self.verifier.checked(checked, &mut directory, clock::moment(), metrics);
        for verified in self.verifier.take_unsaved() {
            if self.verified.try_send(verified).is_err() {
                tracing::error!("a verified key will be hashed again after a restart");
            }
        }
        for shard in shards {
            let (digest, verdict) = (checked.digest, verdict.clone());
            self.state.senders.tell(shard, ToShard::Verdict { digest, verdict });
        }
    }

    fn on_read(&mut self, LedgerAnswer { batch, tokens }: LedgerAnswer) {
        self.ledger.done();
        for (at, month) in batch.iter().enumerate() {
            // Where it could not be read, the pool repeats its calls.
            let tokens = tokens.as_ref().map(|tokens| tokens[at]);
            if tokens == Some(0) && self.state.store.is_embedded() {
                self.leases.is_alone_in(*month);
            }
            self.leases.on_seed(*month, tokens, clock::now());
        }
    }

    /// The shards have ended: what they gave back goes on to the authority. A month holds what an
    /// instance that has ended did not give back, for all of it.
    async fn give_back_months(
        &mut self,
        from_shards: &flume::Receiver<ToControl>,
        from_redis: &flume::Receiver<Event>,
    ) {
        from_shards.try_iter().for_each(|last| self.on_message(last));
        self.leases.give_back_months(clock::now());
        let end = tokio::time::Instant::now() + GIVING_BACK;
        self.advance_leases();
        while self.leases.has_month_calls() {
            let due = until(self.leases.timeout());
            tokio::select! {
                Ok(event) = from_redis.recv_async() => self.on_event(event),
                () = tokio::time::sleep(due) => {}
                () = tokio::time::sleep_until(end) => return,
            }
            self.advance_leases();
        }
    }

    fn advance_leases(&mut self) {
        let metrics = &self.state.metrics.control;
        for month in self.leases.advance(clock::now(), &self.state.senders, metrics) {
            self.ledger.add_seed(month);
        }
    }

    fn read_ledger(&mut self) {
        if let Some(batch) = self.ledger.next() {
            tokio::spawn(answer_months(Arc::clone(&self.state), batch, self.reads.clone()));
        }
    }
}
