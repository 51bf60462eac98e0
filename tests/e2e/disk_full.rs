//! A journal without room: calls are refused with `journal_full`, what was admitted before is
//! finished and recorded, and once there is room all goes on by itself. Either the disk is full,
//! which journal and store share (a small tmpfs in a mount namespace of the test's own), or the
//! store takes nothing and the journal is as large as it may be.

use crate::support::http::{Answer, Connection, Request};
use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Ledger;
use crate::support::load::Until;
use crate::support::{poll, process};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

/// Set where no such disk can be had, so that the tests that need one are skipped.
const SKIP: &str = "TOLLGATE_E2E_WITHOUT_SMALL_DISK";
/// Set for a test's second run, which has the disk.
const INSIDE: &str = "TOLLGATE_E2E_SMALL_DISK";
const DISK_BYTES: u64 = 96 << 20;
/// Small segments: the journal asks for space often.
const CONFIG: &str = "[usage]\nsegment_bytes = 65536\n";

/// Runs the test `name` once more where temporary files lie on a small disk, and returns false;
/// true: this is that run. Where the host allows no such disk, it fails unless told to skip.
fn on_a_small_disk(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
    let inside = |way: &[&str], command: &[&str]| {
        let mount = format!("mount -t tmpfs -o size={DISK_BYTES} tmpfs \"$TMPDIR\" && exec \"$@\"");
        let mut unshare = Command::new("unshare");
        unshare.args(way).args(["sh", "-c", &mount, "sh"]).args(command);
        unshare.env(INSIDE, "yes").env("TMPDIR", dir.path());
        unshare
    };
    let works = |way: &[&str]| inside(way, &["true"]).output().is_ok_and(|it| it.status.success());
    let Some(way) = ways.into_iter().find(|way| works(way)) else {
        let why = "this host lets nobody mount a tmpfs by unshare(1)";
        let skip = std::env::var_os(SKIP).is_some_and(|value| value == "yes");
        assert!(skip, "{name} cannot run: {why}; {SKIP}=yes skips it");
        // Not by eprintln, which the test harness keeps to itself.
        std::io::stderr().write_all(format!("SKIPPED {name}: {why}\n").as_bytes()).unwrap();
        return false;
    };
    let test = std::env::current_exe().unwrap();
    let output = inside(way, &[test.to_str().unwrap(), "--exact", name]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "on the small disk:\n{said}");
    false
}

/// A file that takes all the space there is.
struct Filler(PathBuf);

impl Filler {
    /// Takes what is left on the disk of `dir`.
    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(&self.0).unwrap();
        for piece in [1 << 20, 4096] {
            let zeros = vec![0; piece];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    fn remove(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answered: Mutex<BTreeSet<String>>,
    refused: Mutex<BTreeSet<String>>,
    count: AtomicU64,
}

impl Seen {
    fn answered(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    fn refused(&self) -> usize {
        self.refused.lock().unwrap().len()
    }

    /// Calls, streams among them, until `done` or until nobody answers.
    fn client(&self, instance: &Instance, done: &AtomicBool) {
        let Ok(mut connection) = Connection::open(instance.data_url()) else { return };
        while !done.load(Relaxed) {
            let number = self.count.fetch_add(1, Relaxed);
            let id = format!("call-{number}");
            let chat = instance.chat(&json!({ "stream": number.is_multiple_of(2) }));
            let Ok(answer) = connection.call(&chat.key(instance.key("bench")).id(&id)) else {
                return;
            };
            let seen = match answer.status() {
                200 => &self.answered,
                _ => {
                    says_journal_full(&answer);
                    &self.refused
                }
            };
            seen.lock().unwrap().insert(id);
        }
    }

    /// Each answered call has its row, no refused one has, and none is there twice.
    fn holds(&self, ledger: &Ledger, more: &[&str]) {
        let rows = ledger.rows();
        let recorded: BTreeSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
        assert_eq!(recorded.len(), rows.len(), "a request is there twice");
        let answered = self.answered.lock().unwrap();
        let mut wanted: BTreeSet<&str> = answered.iter().map(String::as_str).collect();
        wanted.extend(more);
        let lost: Vec<_> = wanted.difference(&recorded).collect();
        assert!(lost.is_empty(), "answered, not recorded: {lost:?}");
        let refused = self.refused.lock().unwrap();
        let billed: Vec<_> = refused.iter().filter(|id| recorded.contains(id.as_str())).collect();
        assert!(billed.is_empty(), "refused, but recorded: {billed:?}");
    }
}

fn says_journal_full(answer: &Answer) {
    assert_eq!((answer.status(), answer.code().as_str()), (503, "journal_full"));
    assert!(answer.head.number("retry-after") >= 1, "{:?}", answer.head);
}

/// Load until the disk is full and every kind of refusal has been seen; `meanwhile` runs then,
/// with the load still on.
fn fill_under_load(instance: &Instance, seen: &Seen, filler: &Filler, meanwhile: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..4 {
            scope.spawn(|| seen.client(instance, &done));
        }
        poll::until("answers", || (seen.answered() >= 200).then_some(()));
        poll::until("a full journal and a failing store", || {
            // Again and again: what is deleted behind the watermark must not help.
            filler.fill();
            let scrape = instance.metrics();
            let failed = scrape.sum("tollgate_writer_failures_total", &[]);
            (seen.refused() >= 200 && failed >= 2).then_some(())
        });
        meanwhile();
    });
}

#[test]
fn a_locked_store_fills_the_journal_to_its_bound_and_no_further() {
    let config = format!("{CONFIG}journal_max_bytes = 262144\n");
    let mut instance = Setup::default().embedded().shards(1).config(&config).start();
    let (seen, done) = (Seen::default(), AtomicBool::new(false));
    let store = rusqlite::Connection::open(instance.data_dir().join("tollgate.db")).unwrap();
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..2 {
            scope.spawn(|| seen.client(&instance, &done));
        }
        poll::until("answers", || (seen.answered() >= 50).then_some(()));
        store.busy_timeout(poll::PATIENCE).unwrap();
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        poll::until("a full journal", || (seen.refused() >= 100).then_some(()));
        let bytes = journal_bytes(&instance.data_dir());
        assert!(bytes <= 262_144, "the journal takes {bytes} bytes");
        store.execute_batch("ROLLBACK").unwrap();
        let before = seen.answered();
        poll::until("answers again", || (seen.answered() >= before + 50).then_some(()));
    });
    instance.balance_books();
    seen.holds(&instance.ledger(), &[]);
    drop(store);
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    all_is_ingested(&instance.data_dir());
}

fn journal_bytes(data_dir: &Path) -> u64 {
    let journals = std::fs::read_dir(data_dir.join("journal")).unwrap();
    let segments = journals.flat_map(|journal| std::fs::read_dir(journal.unwrap().path()).unwrap());
    // One that was just deleted counts no more.
    segments.filter_map(|it| Some(it.unwrap().metadata().ok()?.len())).sum()
}

fn disk_dir() -> PathBuf {
    std::env::temp_dir()
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_recovers_by_itself() {
    if !on_a_small_disk("disk_full::a_full_disk_refuses_loses_nothing_and_recovers_by_itself") {
        return;
    }
    let mut instance = Setup::default().embedded().shards(2).config(CONFIG).start();
    let (seen, filler) = (Seen::default(), Filler(disk_dir().join("filler")));
    let long = instance.chat(&json!({ "stream": true })).key(instance.key("bench")).id("long");
    let mut stream = instance.open();
    stream.send(&long.header("x-mock-inter-token-ms", "200").to_bytes()).unwrap();
    let head = stream.head().unwrap();
    fill_under_load(&instance, &seen, &filler, || {
        // Admitted while there was room: it ends as if nothing were.
        let body = stream.body(&head, "POST").unwrap();
        assert!(String::from_utf8(body).unwrap().ends_with("data: [DONE]\n\n"));
        let scrape = instance.metrics();
        assert!(scrape.sum("tollgate_journal_full_total", &[]) >= 200);
        // Whoever needs no record is served.
        let account = Request::get("/api/v1/account").key(instance.key("bench"));
        instance.call(&account).expect(200);
        instance.call(&Request::get("/healthz")).expect(200);
        let before = seen.answered();
        filler.remove();
        poll::until("answers again", || (seen.answered() >= before + 200).then_some(()));
    });
    let refused = seen.refused();
    instance.balance_books();
    seen.holds(&instance.ledger(), &["long"]);
    assert_eq!(
        instance.metrics().sum("http_requests_total", &[("status", "503")]),
        refused as u64,
        "each refusal is counted"
    );
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    seen.holds(&instance.ledger(), &["long"]);
    all_is_ingested(&instance.data_dir());
}

#[test]
fn a_kill_on_a_full_disk_waits_for_room_and_loses_nothing() {
    if !on_a_small_disk("disk_full::a_kill_on_a_full_disk_waits_for_room_and_loses_nothing") {
        return;
    }
    let mut instance = Setup::default().embedded().shards(2).config(CONFIG).start();
    let (seen, filler) = (Seen::default(), Filler(disk_dir().join("filler")));
    let pid = rustix::process::Pid::from_raw(instance.process.id().try_into().unwrap()).unwrap();
    fill_under_load(&instance, &seen, &filler, || {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    assert!(!instance.process.ended().success());
    filler.fill();
    let data_dir = instance.data_dir();
    let journal = data_dir.join("journal");
    let journal = journal.to_str().unwrap();
    // Neither start nor replay has room: both say so, and touch nothing.
    for args in [
        &["demo", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()][..],
        &["journal", "replay", journal],
    ] {
        let output = process::run(args);
        let word = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {word}");
        assert!(word.contains("full") || word.contains("No space left"), "{args:?}: {word}");
    }
    assert_eq!(process::run(&["journal", "verify", journal]).status.code(), Some(0));
    filler.remove();
    instance.restart();
    seen.holds(&instance.ledger(), &[]);
    let sent = seen.count.load(Relaxed);
    assert!(instance.ledger().rows().len() as u64 <= sent);
    instance.call(&instance.chat(&json!({})).key(instance.key("bench")).id("after")).expect(200);
    instance.ledger().row("after");
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    all_is_ingested(&data_dir);
}

/// After a clean end every journal is closed, in the ledger and removed.
fn all_is_ingested(data_dir: &Path) {
    let connection = rusqlite::Connection::open(data_dir.join("tollgate.db")).unwrap();
    let open = "SELECT count(*) FROM ingest_watermark WHERE NOT closed";
    let open: i64 = connection.query_row(open, (), |row| row.get(0)).unwrap();
    assert_eq!(open, 0, "a journal's watermark is not closed");
    let refused: i64 =
        connection.query_row("SELECT count(*) FROM usage_dlq", (), |row| row.get(0)).unwrap();
    assert_eq!(refused, 0, "records refused by the ledger");
    let left = std::fs::read_dir(data_dir.join("journal")).unwrap().count();
    assert_eq!(left, 0, "journals left behind");
}
