//! `tollgate journal verify|show|dead|replay DIR`: the usage journal, offline. All but `replay`
//! only read. `replay` does what the next start would do, by the same code. It holds the locks of
//! the data directories that it touches, so it takes no live instance's journals.

use super::render::table;
use crate::channels::RequestId;
use crate::config::Config;
use crate::journal::format::Entry;
use crate::journal::scan::{Found, Scan, Source, segment_no};
use crate::journal::{self, DIR_NAME};
use crate::store::{self, Dead, FILE_NAME, Ledger, LedgerError, StoreLocation};
use crate::writer::replay::{ReplayReport, journal_id, journals_in, replay_journal};
use clap::{Args, Subcommand};
use serde_json::json;
use shard::record::Record;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{fmt, fs};
use uuid::Uuid;

/// `tollgate journal …`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tollgate journal verify ./tollgate-data/journal
  tollgate journal show ./tollgate-data/journal --json | jq 'select(.kind == \"post\")'
  tollgate journal dead ./tollgate-data
  tollgate journal replay ./tollgate-data/journal
  tollgate journal replay ./tollgate-data/journal --config tollgate.toml")]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    action: JournalAction,
}

#[derive(Debug, Subcommand)]
enum JournalAction {
    /// Check every slot and block; exit 1 if anything is damaged
    #[command(after_help = "Example:\n  tollgate journal verify ./tollgate-data/journal")]
    Verify(JournalPlace),
    /// Print every record
    #[command(after_help = "Example:\n  tollgate journal show ./tollgate-data/journal --json")]
    Show {
        #[command(flatten)]
        place: JournalPlace,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print the records that the ledger refused and keeps aside, unbilled
    #[command(after_help = "Example:\n  tollgate journal dead ./tollgate-data --json")]
    Dead {
        #[command(flatten)]
        place: JournalPlace,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Bring journals of dead processes into the store, and remove them
    #[command(after_help = "Example:\n  tollgate journal replay ./tollgate-data/journal")]
    Replay(JournalPlace),
}

#[derive(Debug, Args)]
struct JournalPlace {
    /// The journals' directory, one journal in it, or (not for replay) one segment
    dir: PathBuf,
    /// Where the store is [default: the parent of the journals' directory]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The configuration that says where the store is, for one in Postgres
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &JournalArgs) -> Result<String, super::CommandError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match &args.action {
        JournalAction::Verify(place) => verify(place, &mut out),
        JournalAction::Show { place, json } => show(place, *json, &mut out),
        JournalAction::Dead { place, json } => dead(place, *json, &mut out),
        JournalAction::Replay(place) => replay(place, &mut out),
    };
    match done.and_then(|good| Ok(out.flush().map(|()| good)?)) {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err(super::CommandError::Failed("the journal is damaged: see above".into())),
        Err(JournalError::Usage(word)) => Err(super::CommandError::WrongUse(word)),
        Err(JournalError::Failed(word)) => Err(super::CommandError::Failed(word)),
        // The reader has seen enough.
        Err(JournalError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(String::new())
        }
        Err(JournalError::Io(error)) => Err(super::CommandError::Failed(error.to_string())),
    }
}

enum JournalError {
    Usage(String),
    Failed(String),
    Io(io::Error),
}

impl From<LedgerError> for JournalError {
    fn from(error: LedgerError) -> Self {
        Self::Failed(format!("the store failed: {error}"))
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn failed(error: impl fmt::Display) -> JournalError {
    JournalError::Failed(error.to_string())
}

/// What the given path stands for.
struct Target {
    /// Journals' directories.
    journals: Vec<PathBuf>,
    segment: Option<PathBuf>,
    /// Where the store is.
    store: StoreLocation,
    /// The data directory that the journals are in.
    own_data_dir: PathBuf,
}

fn target(place: &JournalPlace) -> Result<Target, JournalError> {
    let at = |error| JournalError::Usage(format!("{}: {error}", place.dir.display()));
    let path = fs::canonicalize(&place.dir).map_err(at)?;
    let is_segment = |path: &Path| path.extension().is_some_and(|it| it == "tgj");
    let (mut journals, mut segment) = (Vec::new(), None);
    let root = if path.is_file() {
        if !is_segment(&path) {
            return Err(JournalError::Usage(format!("{}: not a segment (*.tgj)", path.display())));
        }
        segment = Some(path.clone());
        path.parent().and_then(Path::parent).map(Path::to_owned)
    } else if has_segments(&path).map_err(at)? || journal_id(&path).is_some() {
        journals.push(path.clone());
        path.parent().map(Path::to_owned)
    } else {
        let inner = path.join(DIR_NAME);
        let root = if inner.is_dir() { inner } else { path.clone() };
        journals = journals_in(&root).map_err(at)?;
        Some(root)
    };
    let own_data_dir = match root.as_deref().and_then(Path::parent) {
        Some(parent) if !path.join(store::FILE_NAME).is_file() => parent.to_owned(),
        _ => path,
    };
    let config = Config::load(place.config.as_deref());
    let config = config.map_err(|errors| JournalError::Usage(errors.to_string()))?;
    let store = match StoreLocation::from(&config) {
        StoreLocation::Embedded(configured) if place.config.is_some() => {
            StoreLocation::Embedded(configured)
        }
        StoreLocation::Embedded(_) => {
            StoreLocation::Embedded(place.data_dir.as_ref().unwrap_or(&own_data_dir).clone())
        }
        postgres => postgres,
    };
    Ok(Target { journals, segment, store, own_data_dir })
}

fn has_segments(dir: &Path) -> io::Result<bool> {
    for file in fs::read_dir(dir)? {
        if segment_no(&file?.path()).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The scans that the target asks for, each with its name.
fn scans(target: &Target) -> Result<Vec<(String, Scan)>, JournalError> {
    let mut scans = Vec::new();
    if let Some(path) = &target.segment {
        scans.push((path.display().to_string(), Scan::open_segment(path)?));
    }
    // Without a store nothing can have been deleted behind its watermark.
    let store = Ledger::open_for_reading(target.store.clone()).ok();
    for dir in &target.journals {
        let mark = match (&store, journal_id(dir)) {
            (Some(store), Some(id)) => store.watermark(id).map_or(0, |mark| mark.0),
            _ => 0,
        };
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        scans.push((name, Scan::open(dir, mark)?));
    }
    Ok(scans)
}

fn verify(place: &JournalPlace, out: &mut impl Write) -> Result<bool, JournalError> {
    let target = target(place)?;
    let titles = [
        "JOURNAL",
        "SHARD",
        "SEGMENT",
        "FIRST SEQ",
        "SLOTS",
        "POSTS",
        "OPEN",
        "TORN BYTES",
        "STATE",
    ];
    let mut rows = Vec::new();
    let (mut notes, mut lost) = (Vec::new(), 0u64);
    let mut good = true;
    for (name, mut scan) in scans(&target)? {
        let mut open = HashSet::new();
        for found in &mut scan {
            match found {
                Found::Entry { entry: Entry::Pending(pending), .. } => {
                    open.insert(pending.record_id);
                }
                Found::Entry { entry: Entry::Post(record, _), .. } => {
                    open.remove(&record.record_id);
                }
                Found::Entry { .. } => {}
                Found::Gap { from, to } => {
                    lost += to - from;
                    good = false;
                    notes.push(format!("{name}: slots {from} to {} are lost", to - 1));
                }
            }
        }
        if scan.sources.is_empty() {
            // Its process may have died before it made one.
            notes.push(format!("{name}: no segment is there"));
        }
        for (at, source) in scan.sources.iter().enumerate() {
            let last = at + 1 == scan.sources.len();
            let open = if last { open.len().to_string() } else { String::new() };
            rows.push(line(&name, source, open));
            good &= !source.damaged;
        }
    }
    write!(out, "{}", table(&titles, &rows))?;
    for note in &notes {
        writeln!(out, "{note}")?;
    }
    let store = Ledger::open_for_reading(target.store.clone());
    let aside = store.map_or(0, |store| store.count_refused().unwrap_or(0));
    if aside > 0 {
        writeln!(out, "{aside} records are kept aside, unbilled: see `tollgate journal dead`")?;
    }
    let verdict = if good { "whole" } else { "DAMAGED" };
    writeln!(out, "{verdict}: {} journals, {lost} slots lost", target.journals.len())?;
    Ok(good)
}

fn line(name: &str, source: &Source, open: String) -> Vec<String> {
    let state = match source {
        Source { damaged: true, .. } => "damaged",
        Source { torn_bytes: 1.., .. } => "torn end",
        Source { slots: 0, .. } => "empty",
        _ => "whole",
    };
    vec![
        name.to_owned(),
        source.header.map_or_else(String::new, |header| header.shard.to_string()),
        format!("{:06}", source.no),
        source.first_seq.map_or_else(String::new, |seq| seq.to_string()),
        source.slots.to_string(),
        source.posts.to_string(),
        open,
        source.torn_bytes.to_string(),
        state.to_owned(),
    ]
}

fn show(place: &JournalPlace, as_json: bool, out: &mut impl Write) -> Result<bool, JournalError> {
    for (name, scan) in scans(&target(place)?)? {
        for found in scan {
            let value = as_value(&name, &found);
            if as_json {
                writeln!(out, "{value}")?;
            } else if let Some(fields) = value.as_object() {
                let seq = value["seq"].to_string();
                write!(out, "{seq:>9} {:10}", value["kind"].as_str().unwrap_or(""))?;
                for (key, value) in fields {
                    if key != "seq" && key != "kind" {
                        write!(out, " {key}={value}")?;
                    }
                }
                writeln!(out)?;
            }
        }
    }
    Ok(true)
}

fn as_value(journal: &str, found: &Found) -> serde_json::Value {
    let (seq, entry, request_id) = match found {
        Found::Gap { from, to } => {
            return json!({"journal": journal, "seq": from, "kind": "gap", "to": to});
        }
        Found::Entry { seq, entry, request_id } => (seq, entry, request_id),
    };
    let uuid = |id: u128| Uuid::from_u128(id).hyphenated().to_string();
    let text = |id: &RequestId| String::from_utf8_lossy(id.as_bytes()).into_owned();
    let request_id = request_id.as_ref().map(text);
    match entry {
        Entry::Pending(it) => json!({
            "journal": journal, "seq": seq, "kind": "pending", "record_id": uuid(it.record_id),
            "request_id": request_id, "occurred_at_unix_us": it.occurred_at_unix_us,
            "period": it.period.0, "consumer_id": it.consumer.to_string(),
            "key_id": it.key.to_string(), "service_id": it.service.to_string(),
            "reserved_tokens": it.reserved_tokens, "streamed": it.streamed,
            "estimated_input_tokens": it.estimated_input_tokens,
            "price_version": it.price_version,
        }),
        Entry::Checkpoint { record_id, input_tokens, output_tokens } => json!({
            "journal": journal, "seq": seq, "kind": "checkpoint", "record_id": uuid(*record_id),
            "input_tokens": input_tokens, "output_tokens": output_tokens,
        }),
        Entry::Post(it, _) => {
            let mut value = record_as_value(it);
            value["journal"] = journal.into();
            value["seq"] = (*seq).into();
            value["kind"] = "post".into();
            value["request_id"] = request_id.into();
            value
        }
        Entry::Text(record_id, it) => json!({
            "journal": journal, "seq": seq, "kind": "text", "record_id": uuid(*record_id),
            "request_id": text(it),
        }),
        Entry::Pad => json!({"journal": journal, "seq": seq, "kind": "pad"}),
    }
}

fn record_as_value(it: &Record) -> serde_json::Value {
    json!({
        "record_id": Uuid::from_u128(it.record_id).hyphenated().to_string(),
        "occurred_at_unix_us": it.occurred_at_unix_us,
        "period": it.period.0, "consumer_id": it.consumer.to_string(),
        "key_id": it.key.to_string(), "service_id": it.service.to_string(),
        "status": it.status, "outcome": it.outcome.name(), "streamed": it.streamed,
        "input_tokens": it.usage.input_tokens, "cached_tokens": it.usage.cached_tokens,
        "output_tokens": it.usage.output_tokens, "estimated": it.usage.estimated,
        "price_version": it.price_version, "cost_nanousd": it.cost.0,
        "attempts": it.attempts, "latency_us": it.latency_us, "ttft_us": it.ttft_us,
        "overhead_us": it.overhead_us,
    })
}

fn dead(place: &JournalPlace, as_json: bool, out: &mut impl Write) -> Result<bool, JournalError> {
    let target = target(place)?;
    let store = Ledger::open_for_reading(target.store.clone()).map_err(|error| {
        JournalError::Failed(match &target.store {
            StoreLocation::Embedded(dir) => {
                let path = dir.join(store::FILE_NAME);
                format!("the store {} can't be read: {error}", path.display())
            }
            StoreLocation::Postgres(_) => format!("the store can't be read: {error}"),
        })
    })?;
    let mut count = 0_u64;
    store.each_refused(|dead| {
        count += 1;
        let value = dead_as_value(&dead);
        if as_json {
            writeln!(out, "{value}")?;
        } else if let Some(fields) = value.as_object() {
            for (key, value) in fields {
                write!(out, "{key}={value} ")?;
            }
            writeln!(out)?;
        }
        Ok::<(), JournalError>(())
    })?;
    if !as_json {
        writeln!(out, "{count} records are kept aside")?;
    }
    Ok(true)
}

fn dead_as_value(dead: &Dead) -> serde_json::Value {
    let mut value = match &dead.record {
        Some(record) => record_as_value(record),
        None => json!({ "record_id": null }),
    };
    value["journal"] = dead.journal_id.as_str().into();
    value["seq"] = dead.seq.into();
    value["reason"] = dead.reason.as_str().into();
    value["request_id"] = dead.request_id.as_str().into();
    value
}

fn replay(place: &JournalPlace, out: &mut impl Write) -> Result<bool, JournalError> {
    let target = target(place)?;
    if let Some(segment) = &target.segment {
        let word = "one segment can't be replayed; name its journal's directory";
        return Err(JournalError::Usage(format!("{}: {word}", segment.display())));
    }
    refuse_without_store(place, &target)?;
    let own_data_dir = fs::canonicalize(&target.own_data_dir)?;
    let _lock = journal::lock(&own_data_dir).map_err(failed)?;
    let _store_lock = match &target.store {
        StoreLocation::Embedded(dir)
            if !fs::canonicalize(dir).is_ok_and(|dir| dir == own_data_dir) =>
        {
            Some(journal::lock(dir).map_err(failed)?)
        }
        // Many write to it at once: each journal's watermark is locked by whoever moves it.
        StoreLocation::Embedded(_) | StoreLocation::Postgres(_) => None,
    };
    let mut ledger = Ledger::open(target.store.clone()).map_err(failed)?;
    let mut report = ReplayReport::default();
    for dir in &target.journals {
        replay_journal(dir, &mut ledger, &mut report).map_err(failed)?;
    }
    let ReplayReport { journals, rows, recovered, refused, torn_bytes, gaps, .. } = report;
    writeln!(
        out,
        "{journals} journals, {rows} records added, {recovered} recovered, {refused} refused, \
         {torn_bytes} torn bytes, {gaps} gaps"
    )?;
    for path in &report.quarantined {
        writeln!(out, "damaged segment kept: {}", path.display())?;
    }
    Ok(report.quarantined.is_empty() && gaps == 0)
}

/// An instance on Postgres has no store beside its journals: a new one there would take their
/// records, and nobody would ever look into it.
fn refuse_without_store(place: &JournalPlace, target: &Target) -> Result<(), JournalError> {
    match &target.store {
        StoreLocation::Embedded(dir)
            if place.data_dir.is_none() && !dir.join(FILE_NAME).exists() =>
        {
            Err(JournalError::Usage(format!(
                "{} has no store. Name the one that these journals belong to: --config FILE, or \
                 --data-dir DIR for an embedded one",
                dir.display()
            )))
        }
        StoreLocation::Embedded(_) | StoreLocation::Postgres(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::journal::tests::{admit, config, journal, record};
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct TestCommand {
        #[command(flatten)]
        args: JournalArgs,
    }

    /// Two calls settled, one open; the process is gone.
    fn left_behind() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(&dir.path().join(DIR_NAME), &config(2, 4));
        for n in 1..=2 {
            let open = admit(&mut journal, n, Some(b"mine"));
            journal.post(open, &record(n));
        }
        let _open = admit(&mut journal, 3, None);
        let journal_dir = journal.shared().dir.clone();
        (dir, journal_dir)
    }

    fn place(dir: &Path) -> JournalPlace {
        JournalPlace { dir: dir.to_owned(), data_dir: None, config: None }
    }

    fn run_to_text(run: impl FnOnce(&mut Vec<u8>) -> Result<bool, JournalError>) -> (bool, String) {
        let mut out = Vec::new();
        let good = match run(&mut out) {
            Ok(good) => good,
            Err(JournalError::Usage(word) | JournalError::Failed(word)) => {
                (false, out = word.into()).0
            }
            Err(JournalError::Io(error)) => (false, out = error.to_string().into()).0,
        };
        (good, String::from_utf8(out).unwrap())
    }

    #[test]
    fn verify_tells_whole_from_damaged_by_root_journal_and_segment() {
        let (data_dir, dir) = left_behind();
        let segment = dir.join("000001.tgj");
        let places = [data_dir.path().to_owned(), data_dir.path().join("journal"), dir];
        for at in places.iter().chain([&segment]) {
            let (good, text) = run_to_text(|out| verify(&place(at), out));
            assert!(good && text.contains("whole"), "{text}");
            let row = text.lines().find(|line| line.contains("000001")).unwrap();
            let columns: Vec<_> = row.trim_matches('│').split('┆').map(str::trim).collect();
            assert_eq!(columns[1..], ["0", "000001", "0", "9", "2", "1", "0", "whole"]);
        }
        let mut bytes = fs::read(&segment).unwrap();
        bytes[300] ^= 1;
        fs::write(&segment, bytes).unwrap();
        for at in places.iter().chain([&segment]) {
            let (good, text) = run_to_text(|out| verify(&place(at), out));
            assert!(!good && text.contains("slots 1 to 1 are lost"), "{text}");
        }
    }

    #[test]
    fn show_prints_every_slot() {
        let (_data_dir, dir) = left_behind();
        let (good, text) = run_to_text(|out| show(&place(&dir), true, out));
        assert!(good);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        let call = ["text", "pending", "text", "post"];
        assert_eq!(kinds, [call.as_slice(), call.as_slice(), &["pending"]].concat());
        assert_eq!(lines[3]["request_id"], "mine");
        assert_eq!(lines[3]["status"], 200);
        let (_, text) = run_to_text(|out| show(&place(&dir), false, out));
        assert_eq!(text.lines().count(), 9);
        assert!(text.lines().all(|line| line.contains("journal=")), "{text}");
    }

    #[test]
    fn replay_brings_it_in_once_and_says_what_it_can_not_take() {
        let (data_dir, dir) = left_behind();
        let segment = dir.join("000001.tgj");
        let (good, text) = run_to_text(|out| replay(&place(&segment), out));
        assert!(!good && text.contains("can't be replayed"), "{text}");
        let (good, text) = run_to_text(|out| replay(&place(&dir), out));
        assert!(!good && text.contains("has no store") && dir.exists(), "{text}");
        drop(Ledger::open(StoreLocation::Embedded(data_dir.path().to_owned())).unwrap());
        let held = journal::lock(data_dir.path()).unwrap();
        let (good, text) = run_to_text(|out| replay(&place(&dir), out));
        assert!(!good && text.contains("in use"), "{text}");
        // The same if the records are to go to another store.
        let elsewhere = tempfile::tempdir().unwrap();
        let into = JournalPlace { data_dir: Some(elsewhere.path().to_owned()), ..place(&dir) };
        let (good, text) = run_to_text(|out| replay(&into, out));
        assert!(!good && text.contains("in use") && dir.exists(), "{text}");
        drop(held);
        // The same if only the journal's own lock is held.
        let held = journal::lock_journal(&dir).unwrap();
        let (good, text) = run_to_text(|out| replay(&place(&dir), out));
        assert!(!good && text.contains("in use") && dir.exists(), "{text}");
        drop(held);
        let (good, text) = run_to_text(|out| replay(&place(&dir), out));
        assert!(good && text.starts_with("1 journals, 2 records added, 1 recovered"), "{text}");
        assert!(!dir.exists());
        let root = data_dir.path().join("journal");
        let (good, text) = run_to_text(|out| replay(&place(&root), out));
        assert!(good && text.starts_with("0 journals"), "{text}");
        let (good, _) = run_to_text(|out| verify(&place(&dir), out));
        assert!(!good, "it is gone");
    }

    #[test]
    fn the_command_line_is_as_the_contract_says() {
        TestCommand::command().debug_assert();
        let parsed = TestCommand::try_parse_from(["x", "show", "d", "--json"]).unwrap();
        assert!(matches!(parsed.args.action, JournalAction::Show { json: true, .. }));
    }
}
