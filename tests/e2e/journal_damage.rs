//! A journal that is not as it was written, told apart by `tollgate journal` and by the next
//! start: each kind of damage has its word, its exit code and its rows.

use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Ledger;
use crate::support::process;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

/// Nothing reaches the store: all that a dead process leaves is in its journal.
const CONFIG: &str = "[usage]\nsegment_bytes = 65536\nbatch_age_ms = 60000\n";
const SLOT_BYTES: usize = 128;
/// Slots of one segment: 16 blocks of 31.
const SEGMENT_SLOTS: usize = 496;
/// Each call's two texts, its PENDING and its POST: two segments and a half.
const CALLS: usize = 309;

/// An instance with one journal, of 309 calls, that was killed: one for all tests that want it at
/// the same time.
fn left_behind() -> Arc<Instance> {
    static LEFT: Mutex<Weak<Instance>> = Mutex::new(Weak::new());
    let mut left = LEFT.lock().unwrap();
    if let Some(instance) = left.upgrade() {
        return instance;
    }
    let mut instance = Setup::default().embedded().shards(1).config(CONFIG).start();
    let mut connection = instance.open();
    for n in 0..CALLS {
        let chat = instance.chat(&json!({})).key(instance.key("bench"));
        connection.call(&chat.id(&format!("call-{n}"))).unwrap().expect(200);
    }
    instance.process.kill();
    let instance = Arc::new(instance);
    *left = Arc::downgrade(&instance);
    instance
}

/// A copy of its data directory, that a test may damage.
struct Copy(TempDir, Arc<Instance>);

impl Copy {
    fn new() -> Self {
        let copy = Self(TempDir::new().unwrap(), left_behind());
        copy_dir(&copy.1.data_dir(), copy.0.path());
        copy
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    fn journal(&self) -> PathBuf {
        fs::read_dir(self.root()).unwrap().next().unwrap().unwrap().path()
    }

    fn segment(&self, no: u32) -> PathBuf {
        self.journal().join(format!("{no:06}.tgj"))
    }

    fn change(&self, no: u32, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.segment(no)).unwrap();
        change(&mut bytes);
        fs::write(self.segment(no), bytes).unwrap();
    }

    fn run(&self, action: &str) -> Said {
        Said::of(&process::run(&["journal", action, self.root().to_str().unwrap()]))
    }

    /// The ids of all calls in the ledger, each there once, and how many were recovered.
    fn recorded(&self) -> (BTreeSet<String>, usize) {
        let rows = Ledger::of(self.0.path()).rows();
        let recovered = rows.iter().filter(|row| row.outcome == "recovered").count();
        let ids: BTreeSet<String> = rows.iter().map(|row| row.request_id.clone()).collect();
        assert_eq!(ids.len(), rows.len(), "a request is there twice");
        (ids, recovered)
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => fs::copy(entry.path(), to).map(|_| ()).unwrap(),
        }
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Ended so, with all of these words in its results.
    fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.out.contains(word), "{word:?} is not in {self:?}");
        }
    }
}

/// Where the slot of a place begins in its segment.
fn slot_at(place: usize) -> usize {
    place / 31 * 4096 + (place % 31 + 1) * SLOT_BYTES
}

#[test]
fn a_whole_journal_is_whole() {
    let copy = Copy::new();
    copy.run("verify").expect(0, &["whole: 1 journals, 0 slots lost"]);
    let show = process::run(&["journal", "show", copy.root().to_str().unwrap(), "--json"]);
    let lines = String::from_utf8(show.stdout).unwrap();
    let posts = lines.lines().filter(|line| {
        let slot: Value = serde_json::from_str(line).unwrap();
        slot["kind"] == "post"
    });
    assert_eq!((show.status.code(), posts.count()), (Some(0), CALLS));
    copy.run("replay").expect(0, &["1 journals, 309 records added, 0 recovered, 0 refused"]);
    assert_eq!(copy.recorded().0.len(), CALLS);
    copy.run("replay").expect(0, &["0 journals, 0 records added"]);
}

#[test]
fn a_torn_tail_is_cut_and_its_call_recovered() {
    let copy = Copy::new();
    let last = (CALLS * 4 - 1) % SEGMENT_SLOTS;
    copy.change(3, |bytes| bytes[slot_at(last) + 60..slot_at(last) + SLOT_BYTES].fill(0xa5));
    copy.run("verify").expect(0, &["torn end", "whole: 1 journals, 0 slots lost"]);
    copy.run("replay").expect(0, &["308 records added, 1 recovered", "128 torn bytes, 0 gaps"]);
    let (ids, recovered) = copy.recorded();
    assert_eq!((ids.len(), recovered), (CALLS, 1));
}

#[test]
fn a_flipped_bit_is_named_kept_and_costs_its_slot() {
    let copy = Copy::new();
    // The POST of the second call.
    copy.change(1, |bytes| bytes[slot_at(7) + 70] ^= 4);
    copy.run("verify").expect(1, &["damaged", "slots 7 to 7 are lost", "DAMAGED: 1 journals"]);
    copy.run("show").expect(0, &["        7 gap"]);
    let said = copy.run("replay");
    said.expect(1, &["308 records added, 1 recovered", "1 gaps", "damaged segment kept: "]);
    let kept = said.out.lines().find_map(|line| line.strip_prefix("damaged segment kept: "));
    let kept = Path::new(kept.unwrap());
    assert!(kept.is_file() && kept.parent().unwrap().ends_with("journal/quarantine"));
    let (ids, recovered) = copy.recorded();
    assert_eq!((ids.len(), recovered), (CALLS, 1));
    // What is kept can be looked at, and stops nothing.
    let show = process::run(&["journal", "verify", kept.to_str().unwrap()]);
    Said::of(&show).expect(1, &["slots 7 to 7 are lost"]);
    copy.run("verify").expect(0, &["whole: 0 journals"]);
}

#[test]
fn missing_and_shortened_segments_are_gaps() {
    let in_first = SEGMENT_SLOTS / 4;
    for (no, from, to, recorded) in [
        (1, 0, SEGMENT_SLOTS - 1, CALLS - in_first),
        (2, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS - 1, CALLS - in_first),
        (3, 2 * SEGMENT_SLOTS, 3 * SEGMENT_SLOTS - 1, 2 * in_first),
    ] {
        let copy = Copy::new();
        // The next is ready as soon as half of this one is used: its number tells.
        fs::write(copy.segment(4), vec![0; 65_536]).unwrap();
        fs::remove_file(copy.segment(no)).unwrap();
        let lost = format!("slots {from} to {to} are lost");
        copy.run("verify").expect(1, &[&lost, "DAMAGED: 1 journals, 496 slots lost"]);
        let added = format!("{recorded} records added, 0 recovered");
        copy.run("replay").expect(1, &[&added, "1 gaps"]);
        assert_eq!(copy.recorded().0.len(), recorded);
    }
    let copy = Copy::new();
    copy.change(2, |bytes| bytes.truncate(slot_at(100)));
    copy.run("verify").expect(1, &["damaged", "slots 596 to 991 are lost"]);
    copy.run("replay").expect(1, &["210 records added", "1 gaps", "damaged segment kept: "]);
}

#[test]
fn a_journal_without_a_segment_is_said_to_be_one() {
    let copy = Copy::new();
    for no in 1..=4 {
        // The fourth may not have been made.
        let _ = fs::remove_file(copy.segment(no));
    }
    copy.run("verify").expect(0, &["no segment"]);
    copy.run("replay").expect(0, &["1 journals, 0 records added"]);
}

#[test]
fn the_next_start_says_what_is_damaged_and_serves() {
    let copy = Copy::new();
    copy.change(2, |bytes| bytes[slot_at(20) + 70] ^= 4);
    let data_dir = copy.0.path().to_str().unwrap();
    let mut args = vec!["demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    args.extend(["--data-dir", data_dir, "--shards", "1"]);
    let (mut process, _) = process::Process::start(process::command(&args), "ready data=");
    let log = process.log();
    assert!(log.contains("damaged") && log.contains("quarantine"), "{log}");
    process.terminate();
    assert_eq!(process.ended().code(), Some(0), "{}", process.log());
    assert!(copy.recorded().0.len() >= CALLS - 1);
    assert_eq!(fs::read_dir(copy.root().join("quarantine")).unwrap().count(), 1);
}

#[test]
fn what_is_no_journal_is_a_wrong_use() {
    let copy = Copy::new();
    let no_journal = copy.0.path().join("nowhere");
    for action in ["verify", "show", "replay"] {
        let said = Said::of(&process::run(&["journal", action, no_journal.to_str().unwrap()]));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("nowhere"), "{said:?}");
        let store = copy.0.path().join("tollgate.db");
        let said = Said::of(&process::run(&["journal", action, store.to_str().unwrap()]));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("not a segment"), "{said:?}");
    }
    let said = Said::of(&process::run(&["journal", "replay", copy.segment(1).to_str().unwrap()]));
    assert_eq!(said.code, Some(2), "{said:?}");
}

#[test]
fn a_live_instances_journals_are_not_to_be_replayed() {
    let instance = Setup::default().embedded().shards(2).config(CONFIG).start();
    let call = |id: &str| instance.chat(&json!({})).key(instance.key("bench")).id(id);
    instance.call(&call("before")).expect(200);
    let elsewhere = TempDir::new().unwrap();
    let link = elsewhere.path().join("journal");
    std::os::unix::fs::symlink(instance.data_dir().join("journal"), &link).unwrap();
    let root = instance.data_dir().join("journal");
    for (root, data_dir) in [(&root, None), (&root, Some(elsewhere.path())), (&link, None)] {
        let mut args = vec!["journal", "replay", root.to_str().unwrap()];
        args.extend(data_dir.iter().flat_map(|dir| ["--data-dir", dir.to_str().unwrap()]));
        let output = process::run(&args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?} {text}");
        assert!(text.contains("in use by another tollgate process"), "{text}");
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    instance.call(&call("after")).expect(200);
    drop(instance);
}
