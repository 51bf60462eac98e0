//! The `openai` Python package against `/v1`, as its users use it.

use crate::shared::shared;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn the_openai_package_is_content() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("TOLLGATE_PYTHON")
        .map_or_else(|| root.join(".cache/venv/bin/python"), PathBuf::from);
    assert!(python.is_file(), "{} is not there: run tests/run once", python.display());
    let instance = &shared().instance;
    // A key of its own: the client spends the whole burst.
    let basic = instance.admin().key("basic").text;
    let output = Command::new(python)
        .arg(root.join("tests/e2e/openai_client.py"))
        .args([instance.data_url(), instance.key("enterprise"), &basic])
        .arg(instance.model("per_token"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.trim_end().ends_with("8 passed"), "{said}");
}
