//! The writer's thread: collect a batch, write it, delete what is behind it.

use super::upkeep::Upkeep;
use crate::channels::{Settled, WriterChannels};
use crate::clock;
use crate::config::{Durability, UsageConfig};
use crate::journal::format::Entry;
use crate::journal::scan::{Found, Scan};
use crate::journal::{JournalShared, quarantine, sync};
use crate::metrics::Metrics;
use crate::store::{Advance, Batch, Ledger, LedgerError, Origin};
use shard::units::Nanos;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two looks into the channel.
const TICK: Duration = Duration::from_millis(2);
/// Pause after the store failed; doubled each time, to at most [`FAILED_PAUSE_MAX`].
const FAILED_PAUSE_MIN: Duration = Duration::from_millis(20);
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(2);

/// New configurations that wait for the writer; past that the sender waits.
const CONFIGS_MAX: usize = 4;

/// What the writer works with.
pub(crate) struct WriterArgs {
    /// The writer's own connection to the ledger.
    pub ledger: Ledger,
    /// `[usage]`
    pub config: UsageConfig,
    /// Its ends of the channels.
    pub channels: WriterChannels,
    /// Every shard's journal, by the shard's number.
    pub journals: Vec<Arc<JournalShared>>,
    /// The writer's counters are in there.
    pub metrics: Arc<Metrics>,
}

/// The running writer.
pub(crate) struct WriterHandle {
    thread: JoinHandle<bool>,
    stop_at: Arc<AtomicU64>,
    configs: flume::Sender<UsageConfig>,
}

impl WriterHandle {
    /// From the next batch on, `config` holds. `durability` and the journals' sizes are those of
    /// the start.
    pub(crate) fn set_config(&self, config: UsageConfig) {
        // A writer that has ended needs none.
        let _ = self.configs.send(config);
    }

    /// Waits until everything that was settled is in the ledger and all journals are closed and
    /// removed, at most `timeout_ms`. False: something was left for the next start to replay.
    pub(crate) fn finish(self, timeout_ms: u64) -> bool {
        let stop_at = clock::now().after(Nanos::from_ms(timeout_ms));
        self.stop_at.store(stop_at.0, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(false)
    }
}

/// Starts the writer, and a syncer per journal under `durability = disk`.
pub(crate) fn spawn(args: WriterArgs) -> io::Result<WriterHandle> {
    if args.config.durability == Durability::Disk {
        for (journal, to_shard) in args.journals.iter().zip(&args.channels.to_shards) {
            sync::spawn(journal.clone(), to_shard.clone())?;
        }
    }
    let stop_at = Arc::new(AtomicU64::new(NOT_STOPPING));
    let mut writer = Writer::new(args);
    let until = stop_at.clone();
    let (configs, new_configs) = flume::bounded(CONFIGS_MAX);
    let thread = std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || writer.run(&until, &new_configs))?;
    Ok(WriterHandle { thread, stop_at, configs })
}

const NOT_STOPPING: u64 = u64::MAX;

/// The writer's state, without its thread.
pub(super) struct Writer {
    pub(super) ledger: Ledger,
    config: UsageConfig,
    channels: WriterChannels,
    origins: Vec<Origin>,
    spools: Vec<Spool>,
    batch: Vec<Settled>,
    oldest: Nanos,
    failed_pause: Duration,
    upkeep: Upkeep,
    metrics: Arc<Metrics>,
}

/// One journal, as far as the writer has come.
struct Spool {
    journal: Arc<JournalShared>,
    /// All settled records before it are in the ledger or in the batch.
    end: u64,
    /// The channel dropped some: they are read from the files.
    behind: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Busy,
    Idle,
    Failed(Duration),
}

impl Writer {
    pub(super) fn new(args: WriterArgs) -> Self {
        let WriterArgs { mut ledger, config, channels, journals, metrics } = args;
        if let Err(error) = ledger.tune() {
            tracing::warn!(%error, "the writer's connection keeps its default settings");
        }
        let origin =
            |it: &Arc<JournalShared>| Origin { journal_id: it.id, instance_id: it.instance_id };
        Self {
            ledger,
            channels,
            origins: journals.iter().map(origin).collect(),
            spools: journals
                .into_iter()
                .map(|journal| Spool { journal, end: 0, behind: false })
                .collect(),
            batch: Vec::with_capacity(config.batch_rows),
            config,
            oldest: Nanos::default(),
            failed_pause: FAILED_PAUSE_MIN,
            upkeep: Upkeep::default(),
            metrics,
        }
    }

    fn run(&mut self, stop_at: &AtomicU64, configs: &flume::Receiver<UsageConfig>) -> bool {
        loop {
            if let Ok(config) = configs.try_recv() {
                self.config = config;
            }
            let until = stop_at.load(Ordering::Acquire);
            let stopping = until != NOT_STOPPING;
            let turn = self.turn(clock::now(), stopping);
            if stopping && turn != NextStep::Busy {
                let ended = self.spools.iter().all(|spool| spool.journal.has_ended());
                if turn == NextStep::Idle && ended && self.close() {
                    return self.spools.iter().all(|spool| spool.journal.is_closed());
                }
                if clock::now().0 >= until {
                    tracing::error!("usage records left in the journal for the next start");
                    return false;
                }
            }
            match turn {
                NextStep::Busy => {}
                NextStep::Idle => {
                    self.keep_up();
                    std::thread::park_timeout(TICK);
                }
                NextStep::Failed(pause) => std::thread::park_timeout(pause),
            }
        }
    }

    fn keep_up(&mut self) {
        let now = (clock::now(), clock::unix_us());
        let (days, metrics) = (self.config.keep_days, &self.metrics.writer);
        if let Err(error) = self.upkeep.run(&mut self.ledger, days, now, metrics) {
            tracing::warn!(%error, "the ledger was not kept up; will try again in a minute");
        }
    }

    /// One round: collect, and write if it is time to. `flush`: whatever there is.
    pub(super) fn turn(&mut self, now: Nanos, flush: bool) -> NextStep {
        let before = self.batch.len();
        if before == 0 {
            self.oldest = now;
        }
        let received = self.receive();
        for at in 0..self.spools.len() {
            self.read_files(at, received == 0);
        }
        let age = now.since(self.oldest);
        let due = self.batch.len() >= self.config.batch_rows
            || flush
            || age >= Nanos::from_ms(self.config.batch_age_ms);
        if self.batch.is_empty() || !due {
            return NextStep::Idle;
        }
        match self.write(false) {
            Ok(()) => {
                self.failed_pause = FAILED_PAUSE_MIN;
                NextStep::Busy
            }
            Err(error) => {
                self.metrics.writer.failures.add(1);
                let pause = self.failed_pause;
                self.failed_pause = (pause * 2).min(FAILED_PAUSE_MAX);
                tracing::error!(%error, rows = self.batch.len(), "store failed; will try again");
                NextStep::Failed(pause)
            }
        }
    }

    /// Takes what the channel has, as far as the batch has room. Returns how many it had.
    fn receive(&mut self) -> usize {
        let mut received = 0;
        while self.batch.len() < self.config.batch_rows {
            let Ok(settled) = self.channels.records.try_recv() else { break };
            received += 1;
            let spool = &mut self.spools[settled.shard as usize];
            if spool.behind || settled.seq < spool.end {
                // The files give it, or gave it already.
                continue;
            }
            if settled.prev_end == spool.end {
                spool.end = settled.seq + 1;
                self.batch.push(settled);
            } else {
                spool.behind = true;
            }
        }
        received
    }

    /// Reads what the channel dropped, as far as the batch has room.
    fn read_files(&mut self, at: usize, channel_is_empty: bool) {
        let spool = &mut self.spools[at];
        let post_end = spool.journal.post_end();
        spool.behind |= channel_is_empty && spool.end < post_end;
        if !spool.behind || self.batch.len() >= self.config.batch_rows {
            return;
        }
        let scan = match Scan::live(&spool.journal, spool.end, post_end) {
            Ok(scan) => scan,
            Err(error) => {
                tracing::error!(%error, "journal not readable; will try again");
                return;
            }
        };
        for found in scan {
            match found {
                Found::Entry { seq, entry: Entry::Post(record, prev_end), request_id } => {
                    let shard = at as u16;
                    self.batch.push(Settled { shard, seq, prev_end, record, request_id });
                    spool.end = seq + 1;
                    self.metrics.writer.rows_from_files.add(1);
                }
                Found::Entry { .. } => {}
                Found::Gap { from, to } => {
                    spool.end = to;
                    self.metrics.writer.gaps.add(1);
                    keep_damaged(&spool.journal, from, to);
                }
            }
            if self.batch.len() >= self.config.batch_rows {
                return;
            }
        }
        spool.end = post_end;
        spool.behind = false;
    }

    /// Writes the batch and deletes what is behind it.
    fn write(&mut self, closing: bool) -> Result<(), LedgerError> {
        let advance = |(origin, spool): (usize, &Spool)| Advance {
            origin,
            next_seq: spool.end,
            closed: closing && spool.journal.is_closed(),
        };
        let advances: Vec<_> = self.spools.iter().enumerate().map(advance).collect();
        let written = self.ledger.write(&Batch {
            origins: &self.origins,
            records: &self.batch,
            recovered: &[],
            advances: &advances,
        })?;
        self.batch.clear();
        self.metrics.writer.rows.add(written.rows);
        self.metrics.writer.refused.add(written.refused);
        self.metrics.writer.saturated.add(written.saturated);
        self.metrics.writer.batches.add(1);
        let lag = clock::now().since(self.oldest);
        self.metrics.writer.lag_us.set((lag.0 / 1_000) as i64);
        for spool in &self.spools {
            spool.journal.set_ingested(spool.end);
            spool.journal.delete_behind(spool.end);
        }
        if let Err(error) = self.ledger.maintain() {
            // The batch is committed; the next one copies the log.
            tracing::warn!(%error, "the store's write-ahead log was not copied into its file");
        }
        Ok(())
    }

    /// Closes the journals that are complete and removes them. False: the store failed.
    pub(super) fn close(&mut self) -> bool {
        let behind = |spool: &Spool| spool.end < spool.journal.post_end();
        if self.spools.iter().any(behind) {
            return false;
        }
        if let Err(error) = self.write(true) {
            tracing::error!(%error, "store failed; will try again");
            return false;
        }
        for spool in self.spools.iter().filter(|spool| spool.journal.is_closed()) {
            if let Err(error) = std::fs::remove_dir_all(&spool.journal.dir) {
                // The next start removes it: its watermark says closed.
                tracing::warn!(dir = %spool.journal.dir.display(), %error, "journal not removed");
            }
        }
        true
    }
}

fn keep_damaged(journal: &JournalShared, from: u64, to: u64) {
    tracing::error!(shard = journal.shard, from, to, "journal damaged: these slots are lost");
    let root = journal.dir.parent().unwrap_or(&journal.dir);
    for segment in journal.segments() {
        let first = segment.first_seq.load(Ordering::Acquire);
        if first >= to || segment.end_seq.load(Ordering::Acquire) <= from {
            continue;
        }
        if let Err(error) = quarantine::keep(root, journal.id, &segment.path) {
            // Then it stays where it is.
            tracing::error!(path = %segment.path.display(), %error, "segment not quarantined");
            segment.held.store(true, Ordering::Release);
        }
    }
}
