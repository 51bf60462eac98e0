//! What processes before this one left behind: their journals, brought into the ledger at the start
//! and then removed. If the process is killed meanwhile, it is done again.
//!
//! A PENDING without a POST is a request that died with its process: it is billed by its last
//! CHECKPOINT, or else its prompt's estimate. Damage is reported and kept, never skipped in
//! silence.

use crate::channels::{RequestId, Settled};
use crate::journal::format::{Entry, Pending};
use crate::journal::scan::{Found, Scan};
use crate::journal::{DIR_NAME, QUARANTINE_NAME, lock_journal, quarantine};
use crate::store::{Advance, Batch, Ledger, LedgerError, Origin};
use shard::record::{Outcome, Record, Usage};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};
use uuid::Uuid;

/// Records of one transaction.
const BATCH_ROWS: usize = if cfg!(test) { 16 } else { 4096 };
/// Gaps that a report names; the rest are only counted.
const GAPS_NAMED_MAX: usize = 100;

/// What a replay found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplayReport {
    /// Journals brought in.
    pub journals: u64,
    /// Settled records added to the ledger.
    pub rows: u64,
    /// Requests that had died with their process, added as `recovered`.
    pub recovered: u64,
    /// Records that the ledger refused, now in `usage_dlq`.
    pub refused: u64,
    /// Bytes of slots cut off at the ends of journals.
    pub torn_bytes: u64,
    /// Stretches of lost slots.
    pub gaps: u64,
    /// The first of them: journal, first slot, one past the last.
    pub gaps_named: Vec<(u128, u64, u64)>,
    /// Damaged segments, where they are kept.
    pub quarantined: Vec<PathBuf>,
}

/// Why journals could not be brought in. Nothing is lost: they are still there.
#[derive(Debug)]
pub(crate) enum ReplayError {
    /// The store failed.
    Store(LedgerError),
    /// The file system failed at this path.
    Io(PathBuf, io::Error),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "the store took no usage records: {error}"),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<LedgerError> for ReplayError {
    fn from(error: LedgerError) -> Self {
        Self::Store(error)
    }
}

/// Brings in every journal under `data_dir`. To be called before this process makes its own.
pub(crate) fn replay(data_dir: &Path, ledger: &mut Ledger) -> Result<ReplayReport, ReplayError> {
    replay_root(&data_dir.join(DIR_NAME), ledger)
}

/// Brings in every journal in `root`.
pub(crate) fn replay_root(root: &Path, ledger: &mut Ledger) -> Result<ReplayReport, ReplayError> {
    let mut report = ReplayReport::default();
    for dir in journals_in(root).map_err(|error| ReplayError::Io(root.to_owned(), error))? {
        replay_journal(&dir, ledger, &mut report)?;
    }
    Ok(report)
}

/// The journals' directories in `root`, oldest first. A root that does not exist has none.
pub(crate) fn journals_in(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if journal_id(&path).is_some() {
            dirs.push(path);
        } else if !path.ends_with(QUARANTINE_NAME) {
            tracing::warn!(path = %path.display(), "not a journal; left alone");
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// The id that a journal's directory is named by.
pub(crate) fn journal_id(dir: &Path) -> Option<u128> {
    Uuid::try_parse(dir.file_name()?.to_str()?).ok().map(|id| id.as_u128())
}

/// Brings in the journal in `dir`, whose name is its id, and removes it.
pub(crate) fn replay_journal(
    dir: &Path,
    ledger: &mut Ledger,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    let failed = |error| ReplayError::Io(dir.to_owned(), error);
    let Some(journal_id) = journal_id(dir) else {
        return Err(failed(io::Error::other("not named by a journal's id")));
    };
    let _lock = lock_journal(dir).map_err(failed)?;
    let (mark, closed) = ledger.watermark(journal_id)?;
    if !closed {
        let scan = Scan::open(dir, mark).map_err(failed)?;
        if scan.sources.is_empty() {
            // Its process may have died before it made one.
            tracing::warn!(dir = %dir.display(), "a journal without any segment");
        }
        let header = scan.sources.iter().find_map(|source| source.header);
        let origin = Origin { journal_id, instance_id: header.map_or(0, |it| it.instance_id) };
        let root = dir.parent().unwrap_or(dir);
        Replay { ledger, report, origin, mark }.run(scan, root)?;
        report.journals += 1;
    }
    fs::remove_dir_all(dir).map_err(failed)
}

struct Replay<'a> {
    ledger: &'a mut Ledger,
    report: &'a mut ReplayReport,
    origin: Origin,
    mark: u64,
}

/// A request without a settlement so far.
struct Dangling {
    seq: u64,
    pending: Pending,
    request_id: Option<RequestId>,
    checkpoint: Option<(u32, u32)>,
}

impl Replay<'_> {
    fn run(mut self, mut scan: Scan, root: &Path) -> Result<(), ReplayError> {
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        let mut dangling: HashMap<u128, Dangling> = HashMap::new();
        let mut end = self.mark;
        for found in &mut scan {
            let (seq, entry, request_id) = match found {
                Found::Entry { seq, entry, request_id } => (seq, entry, request_id),
                Found::Gap { from, to } => {
                    self.note_gap(from, to);
                    continue;
                }
            };
            match entry {
                Entry::Pending(pending) => {
                    let checkpoint = None;
                    let it = Dangling { seq, pending, request_id, checkpoint };
                    dangling.insert(pending.record_id, it);
                }
                Entry::Checkpoint { record_id, input_tokens, output_tokens } => {
                    if let Some(it) = dangling.get_mut(&record_id) {
                        it.checkpoint = Some((input_tokens, output_tokens));
                    }
                }
                Entry::Post(record, prev_end) => {
                    dangling.remove(&record.record_id);
                    if seq >= self.mark {
                        end = seq + 1;
                        batch.push(Settled { shard: 0, seq, prev_end, record, request_id });
                    }
                }
                Entry::Text(..) | Entry::Pad => {}
            }
            if batch.len() == BATCH_ROWS {
                self.write(&batch, Vec::new(), end, false)?;
                batch.clear();
            }
        }
        self.keep_damaged(&scan, root)?;
        let mut dangling: Vec<_> = dangling.into_values().collect();
        dangling.sort_by_key(|it| it.seq);
        self.write(&batch, dangling, end, true)
    }

    fn write(
        &mut self,
        records: &[Settled],
        dangling: Vec<Dangling>,
        next_seq: u64,
        closed: bool,
    ) -> Result<(), ReplayError> {
        let recovered: Vec<Settled> = dangling.iter().map(Dangling::recovered).collect();
        let written = self.ledger.write(&Batch {
            origins: std::slice::from_ref(&self.origin),
            records,
            recovered: &recovered,
            advances: &[Advance { origin: 0, next_seq, closed }],
        })?;
        self.report.rows += written.rows - written.recovered;
        self.report.recovered += written.recovered;
        self.report.refused += written.refused;
        Ok(())
    }

    fn note_gap(&mut self, from: u64, to: u64) {
        let journal_id = self.origin.journal_id;
        let journal = Uuid::from_u128(journal_id);
        tracing::warn!(%journal, from, to, "journal damaged: these slots are lost");
        self.report.gaps += 1;
        if self.report.gaps_named.len() < GAPS_NAMED_MAX {
            self.report.gaps_named.push((journal_id, from, to));
        }
    }

    fn keep_damaged(&mut self, scan: &Scan, root: &Path) -> Result<(), ReplayError> {
        for source in &scan.sources {
            self.report.torn_bytes += source.torn_bytes;
            if source.damaged {
                let kept = quarantine::keep(root, self.origin.journal_id, &source.path)
                    .map_err(|error| ReplayError::Io(source.path.clone(), error))?;
                tracing::warn!(segment = %kept.display(), "damaged journal segment kept");
                self.report.quarantined.push(kept);
            }
        }
        Ok(())
    }
}

impl Dangling {
    fn recovered(&self) -> Settled {
        let pending = &self.pending;
        let estimate = (pending.estimated_input_tokens, 0);
        let (input_tokens, output_tokens) = self.checkpoint.unwrap_or(estimate);
        let usage = Usage { input_tokens, output_tokens, estimated: true, cached_tokens: 0 };
        Settled {
            shard: 0,
            seq: self.seq,
            prev_end: 0,
            record: Record {
                record_id: pending.record_id,
                occurred_at_unix_us: pending.occurred_at_unix_us,
                period: pending.period,
                consumer: pending.consumer,
                key: pending.key,
                service: pending.service,
                outcome: Outcome::Recovered,
                streamed: pending.streamed,
                usage: usage.bounded(),
                price_version: pending.price_version,
                ..Record::default()
            },
            request_id: self.request_id,
        }
    }
}
