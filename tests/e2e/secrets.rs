//! What of the instance's secrets is on the disk: nothing that anybody else can read, and no
//! upstream credential in the clear.

use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::process;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use ureq::http::Method;

const SECRET: &str = "sk-upstream-secret-0123456789";
/// As an earlier version wrote it.
const PLAIN: &str = "sk-written-by-an-earlier-version";

/// Every file and folder of the data directory.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            found.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

fn assert_private(data_dir: &Path) {
    for path in everything(data_dir) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{} has mode {mode:o}", path.display());
    }
}

/// The files in whose bytes the text is.
fn files_with(data_dir: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    everything(data_dir).into_iter().filter(|path| path.is_file()).filter(holds).collect()
}

fn service(instance: &Instance, upstream: &Upstream, name: &str, secret: &str) -> String {
    let body = json!({
        "name": name,
        "base_url": upstream.url,
        "upstream_credential": secret,
        "price": per_token(1, 1, 1),
    });
    instance.admin().post("services", &body)["id"].as_str().unwrap().to_owned()
}

/// Does the service's upstream hear this credential?
fn hears(instance: &Instance, upstream: &Upstream, id: &str, secret: &str) {
    let request = Request::get(&format!("/api/v1/consume/{id}")).key(instance.key("bench"));
    instance.call(&request).expect(200);
    let last = upstream.last();
    assert!(last.to_lowercase().contains(&format!("bearer {secret}\r\n")), "{last}");
}

fn stop(instance: &mut Instance) {
    instance.process.terminate();
    assert!(instance.process.ended().success());
}

#[test]
fn no_credential_is_on_the_disk_in_the_clear() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().shards(1).upstream(&upstream).start();
    let id = service(&instance, &upstream, "sealed", SECRET);
    hears(&instance, &upstream, &id, SECRET);
    assert_eq!(files_with(&instance.data_dir(), SECRET), Vec::<PathBuf>::new());
    instance.process.kill();
    assert_eq!(files_with(&instance.data_dir(), SECRET), Vec::<PathBuf>::new());
    assert!(!instance.process.log().contains(SECRET));
    instance.restart();
    hears(&instance, &upstream, &id, SECRET);
    let path = format!("services/{id}");
    let changed = json!({ "upstream_credential": format!("{SECRET}-2") });
    instance.admin().done(Method::PATCH, &path, Some(&changed));
    hears(&instance, &upstream, &id, &format!("{SECRET}-2"));
    instance.admin().done(Method::PATCH, &path, Some(&json!({ "upstream_credential": null })));
    assert_eq!(files_with(&instance.data_dir(), SECRET), Vec::<PathBuf>::new());
}

#[test]
fn the_data_directory_is_its_owners_alone() {
    let mut instance = Setup::default().shards(1).start();
    instance.call(&instance.chat(&json!({})).key(instance.key("bench"))).expect(200);
    assert_private(&instance.data_dir());
    stop(&mut instance);
    // As an earlier version left them, or a careless copy.
    for path in everything(&instance.data_dir()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        if path.extension().is_none_or(|it| it != "key") {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
    }
    instance.restart();
    assert_private(&instance.data_dir());
}

#[test]
fn credentials_of_an_earlier_version_are_sealed_and_every_trace_is_removed() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().embedded().shards(1).upstream(&upstream).start();
    let id = service(&instance, &upstream, "old", PLAIN);
    stop(&mut instance);
    let database = instance.data_dir().join("tollgate.db");
    {
        let store = Connection::open(&database).unwrap();
        // An earlier credential that was replaced has left its bytes in the file too.
        for plain in [&format!("authorization: Bearer {PLAIN}-before"), PLAIN] {
            let line = format!("authorization: Bearer {plain}");
            let query = "UPDATE services SET credential_header = ?1, credential_sealed = NULL
                         WHERE id = ?2";
            assert_eq!(store.execute(query, (line, &id)).unwrap(), 1);
        }
    }
    assert_eq!(files_with(&instance.data_dir(), PLAIN), [database.as_path()]);
    instance.restart();
    assert_eq!(files_with(&instance.data_dir(), PLAIN), Vec::<PathBuf>::new());
    hears(&instance, &upstream, &id, PLAIN);
    stop(&mut instance);
    assert_eq!(files_with(&instance.data_dir(), PLAIN), Vec::<PathBuf>::new());
}

#[test]
fn the_encryption_key_rotates_while_nothing_runs() {
    let upstream = Upstream::start(&[]);
    let mut instance = Setup::default().embedded().shards(1).upstream(&upstream).start();
    let id = service(&instance, &upstream, "rotated", SECRET);
    let data_dir = instance.data_dir();
    let rotate = |more: &[&str]| {
        let place = data_dir.to_string_lossy();
        let output = process::run(&[&["secrets", "rotate", "--data-dir", &place], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = rotate(&[]);
    assert!(code == Some(1) && said.contains("in use"), "{code:?} {said}");
    stop(&mut instance);
    let key = data_dir.join("encryption.key");
    let old = fs::read(&key).unwrap();
    let (code, said) = rotate(&[]);
    assert!(code == Some(0) && said.contains("1 upstream credential"), "{code:?} {said}");
    assert_ne!(fs::read(&key).unwrap(), old);
    assert_private(&data_dir);
    instance.restart();
    hears(&instance, &upstream, &id, SECRET);
    stop(&mut instance);
    // The old key opens nothing any more, and the start says so; without a key, likewise.
    let new = fs::read(&key).unwrap();
    fs::write(&key, old).unwrap();
    assert!(refused_start(&data_dir).contains("another key"));
    fs::remove_file(&key).unwrap();
    assert!(refused_start(&data_dir).contains("is gone"));
    fs::write(&key, &new[..31]).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    assert!(refused_start(&data_dir).contains("31 bytes"));
    fs::remove_file(&key).unwrap();
    let (code, said) = rotate(&["--drop-unreadable"]);
    assert!(code == Some(0) && said.contains("to be set again: rotated"), "{code:?} {said}");
    instance.restart();
    let shown: Value = instance.admin().get(&format!("services/{id}"));
    assert_eq!(shown["has_upstream_credential"], false);
}

/// Why a start on this data directory ends at once.
fn refused_start(data_dir: &Path) -> String {
    let place = data_dir.to_string_lossy();
    let free = "127.0.0.1:0";
    let args = ["demo", "--listen", free, "--admin-listen", free, "--data-dir", &place];
    let output = process::run(&args);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let (key, config) = (dir.path().join("k"), dir.path().join("t.toml"));
    fs::write(&config, format!("[secrets]\nencryption_key_file = \"{}\"\n", key.display()))
        .unwrap();
    let check = |bytes: &[u8], mode: u32| {
        fs::write(&key, bytes).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let mut all = Vec::new();
        for command in ["check", "serve"] {
            let output = process::run(&[command, "--config", &config.to_string_lossy()]);
            all.push(String::from_utf8_lossy(&output.stderr).into_owned());
            assert_eq!(output.status.code(), Some(2), "{all:?}");
            if bytes.len() == 32 && mode == 0o600 {
                break;
            }
        }
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        all
    };
    for said in check(&[7; 32], 0o644) {
        assert!(said.contains("t.toml:2") && said.contains("mode 0644"), "{said}");
    }
    for said in check(&[7; 16], 0o600) {
        assert!(said.contains("t.toml:2") && said.contains("16 bytes"), "{said}");
    }
    fs::write(&key, [7; 32]).unwrap();
    let good = process::run(&["check", "--config", &config.to_string_lossy()]);
    assert!(good.status.success());
    fs::remove_file(&key).unwrap();
    let gone = process::run(&["check", "--config", &config.to_string_lossy()]);
    assert_eq!(gone.status.code(), Some(2));
}

#[test]
fn a_short_admin_token_is_refused_wherever_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").to_string_lossy().into_owned();
    let config = dir.path().join("t.toml");
    for (token, is_good) in [("fifteen-letters", false), ("sixteen--letters", true)] {
        fs::write(&config, "").unwrap();
        let mut check = process::command(&["check", "--config", &config.to_string_lossy()]);
        let output = check.env("TOLLGATE_ADMIN__TOKEN", token).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), is_good, "{said}");
        assert!(is_good || (said.contains("16") && !said.contains(token)), "{said}");
        fs::write(&config, format!("[admin]\ntoken = \"{token}\"\n")).unwrap();
        let output = process::run(&["check", "--config", &config.to_string_lossy()]);
        assert_eq!(output.status.success(), is_good);
    }
    fs::create_dir(&data_dir).unwrap();
    fs::write(dir.path().join("data/admin.token"), "fifteen-letters\n").unwrap();
    assert!(refused_start(Path::new(&data_dir)).contains("16"));
}
