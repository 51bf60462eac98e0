//! A resolver that never answers for some names, under the binary that ships: a small library
//! preloaded into it stands between it and getaddrinfo(3).

use super::instance::Setup;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The resolver of one instance: it is silent about all that ends in `.silent`.
pub struct SilentResolver(TempDir);

impl SilentResolver {
    /// Compiles the library.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/support/silent_resolver.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("resolver.so"));
        let output = compiler.args([source, "-ldl"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(dir)
    }

    /// An instance that asks this resolver.
    pub fn under(&self, setup: Setup) -> Setup {
        let library = self.0.path().join("resolver.so");
        setup.env("LD_PRELOAD", &library).env("SILENT_RESOLVER", &self.questions_path())
    }

    /// Questions that it was silent about, all of which still wait.
    pub fn questions(&self) -> u64 {
        std::fs::metadata(self.questions_path()).map_or(0, |file| file.len())
    }

    fn questions_path(&self) -> PathBuf {
        self.0.path().join("questions")
    }
}
