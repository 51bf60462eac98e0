//! A disk that fails on demand and forgets what was not synced, under the binary that ships: a
//! small library preloaded into it stands between it and fsync(2).

use super::instance::Setup;
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
        std::fs::create_dir(dir.path().join("kept")).unwrap();
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
        setup.env("LD_PRELOAD", &library).env("FAILING_DISK", self.0.path())
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
