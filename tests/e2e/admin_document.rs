//! The admin port does what its own document says, constraint by constraint.

use crate::support::instance::Setup;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn the_document_says_which_bodies_are_taken() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("TOLLGATE_PYTHON")
        .map_or_else(|| root.join(".cache/venv/bin/python"), PathBuf::from);
    let instance = Setup::default().shards(1).start();
    let admin = instance.admin();
    let output = Command::new(python)
        .arg(root.join("tests/e2e/openapi_client.py"))
        .args([&admin.url, &admin.token])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.ends_with("as described\n"), "{said}");
}
