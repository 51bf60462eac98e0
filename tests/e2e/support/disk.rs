//! A disk that fails on demand and forgets what was not synced, under the binary that ships: a
//! small library preloaded into it stands between it and fsync(2).

use super::instance::Setup;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The disk of one instance.
pub struct Disk(TempDir);

/// One sync of a journal's file or of a directory.
pub struct Sync {
    /// `fsync`, as for what is new, or `fdatasync`.
    pub call: String,
    /// Not made to fail.
    pub good: bool,
    /// Of what.
    pub path: PathBuf,
}

impl Disk {
    /// Compiles the library. Nothing fails so far.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for inner in ["kept", "names"] {
            std::fs::create_dir(dir.path().join(inner)).unwrap();
        }
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/support/failing_disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("disk.so"));
        let output = compiler.args([source, "-ldl"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(dir)
    }

    /// An instance on this disk.
    pub fn under(&self, setup: Setup) -> Setup {
        let library = self.0.path().join("disk.so");
        // What power takes away is what lies in the data directory, so the store has to.
        setup.embedded().env("LD_PRELOAD", &library).env("FAILING_DISK", self.0.path())
    }

    /// The next sync of a file with this extension fails.
    pub fn fail_once(&self, extension: &str) {
        std::fs::write(self.0.path().join(format!("fail-once.{extension}")), "").unwrap();
    }

    /// Has the sync failed that was to?
    pub fn has_failed(&self, extension: &str) -> bool {
        !self.0.path().join(format!("fail-once.{extension}")).exists()
    }

    /// Every sync of a file with this extension fails, or no more.
    pub fn fail_always(&self, extension: &str, fails: bool) {
        let control = self.0.path().join(format!("fail-always.{extension}"));
        match fails {
            true => std::fs::write(control, "").unwrap(),
            false => std::fs::remove_file(control).unwrap(),
        }
    }

    /// Every sync so far, in order.
    pub fn syncs(&self) -> Vec<Sync> {
        let text = std::fs::read_to_string(self.0.path().join("syncs")).unwrap_or_default();
        assert!(!text.is_empty(), "no sync was seen: is the binary under test linked statically?");
        let sync = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let (call, result) = (words.next().unwrap(), words.next().unwrap());
            Sync { call, good: result == "good", path: words.next().unwrap().into() }
        };
        text.lines().map(sync).collect()
    }

    /// What a loss of power does to journals and store in `data_dir`, their process gone. Of each
    /// file there is what its last good sync left, and of each directory the names that its last
    /// sync found: what was made later is gone, and what was removed later is there again, unless
    /// `removals_hold` (a disk may have written them all the same). Returns how many files
    /// changed: of journals, and of the store.
    pub fn lose_power(&self, data_dir: &Path, removals_hold: bool) -> (usize, usize) {
        let root = data_dir.join("journal");
        let journals = self.names_in(&root, removals_hold);
        self.forget_names(&root, &journals);
        let mut changed = (0, 0);
        for journal in journals {
            let dir = root.join(&journal);
            let names = self.names_in(&dir, removals_hold);
            std::fs::create_dir_all(&dir).unwrap();
            self.forget_names(&dir, &names);
            let kept_as = |name: &String| format!("{journal}-{name}");
            changed.0 += names.iter().filter(|it| self.restore(&dir, it, &kept_as(it))).count();
        }
        let names = self.names_in(data_dir, removals_hold);
        let store = ["tollgate.db", "tollgate.db-wal"];
        for name in store {
            assert!(names.contains(name), "{name} has no durable name");
        }
        let _ = std::fs::remove_file(data_dir.join("tollgate.db-shm"));
        let of = data_dir.file_name().unwrap().to_str().unwrap();
        changed.1 =
            store.iter().filter(|it| self.restore(data_dir, it, &format!("{of}-{it}"))).count();
        changed
    }

    /// The names in a directory after a loss of power.
    fn names_in(&self, dir: &Path, removals_hold: bool) -> BTreeSet<String> {
        let flat = dir.to_str().unwrap().replace('/', "%");
        let text = std::fs::read_to_string(self.0.path().join("names").join(flat));
        let durable = text.unwrap_or_default();
        let durable = durable.lines().map(str::to_owned);
        durable.filter(|name| !removals_hold || dir.join(name).exists()).collect()
    }

    /// Removes what has none of these names.
    fn forget_names(&self, dir: &Path, names: &BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if names.contains(entry.file_name().to_str().unwrap()) {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => std::fs::remove_dir_all(entry.path()).unwrap(),
                false => std::fs::remove_file(entry.path()).unwrap(),
            }
        }
    }

    /// Gives a file the content of its last sync: empty, where there was none. Has it changed?
    fn restore(&self, dir: &Path, name: &str, kept_as: &str) -> bool {
        let kept = std::fs::read(self.0.path().join("kept").join(kept_as)).unwrap_or_default();
        let now = std::fs::read(dir.join(name)).ok();
        std::fs::write(dir.join(name), &kept).unwrap();
        now != Some(kept)
    }

    /// What a loss of power does to the journals below `data_dir`, their process gone: of each
    /// file there is what its last good sync left. Returns how many files changed.
    pub fn forget_unsynced(&self, data_dir: &Path) -> usize {
        let mut changed = 0;
        for journal in std::fs::read_dir(data_dir.join("journal")).unwrap() {
            let journal = journal.unwrap();
            for file in std::fs::read_dir(journal.path()).unwrap() {
                let file = file.unwrap();
                let mut name = journal.file_name();
                name.push("-");
                name.push(file.file_name());
                let now = std::fs::read(file.path()).unwrap();
                match std::fs::read(self.0.path().join("kept").join(name)) {
                    Ok(kept) if kept == now => continue,
                    Ok(kept) => std::fs::write(file.path(), kept).unwrap(),
                    Err(_) => std::fs::remove_file(file.path()).unwrap(),
                }
                changed += 1;
            }
        }
        changed
    }
}
