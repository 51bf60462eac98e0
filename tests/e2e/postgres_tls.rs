//! TLS to Postgres: what is encrypted, and whom it is said to.

use crate::support::instance::Setup;
use crate::support::own_postgres::OwnPostgres;
use crate::support::tls_front::Authority;
use crate::support::{poll, process};
use serde_json::json;
use tempfile::TempDir;

#[test]
fn a_server_is_believed_only_by_a_certificate_that_its_url_asks_for() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let (certificate, key) = ours.sign(&["db.example"]).to_pem();
    let server = OwnPostgres::start(
        &[("server.crt", &certificate), ("server.key", &key)],
        &["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"],
    );
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("journal")).unwrap();
    std::fs::write(path("ca.pem"), ours.pem).unwrap();
    std::fs::write(path("other.pem"), other.pem).unwrap();
    let url = |host: &str, mode: &str| {
        let place = format!("{host}:{}/postgres?hostaddr=127.0.0.1", server.port);
        format!("postgres://tollgate@{place}&sslmode={mode}")
    };
    let config = |url: &str, ca: &str| {
        let ca = if ca.is_empty() { ca.to_owned() } else { format!("ca_file = \"{}\"", path(ca)) };
        format!("[store]\nurl = \"{url}\"\n{ca}\n")
    };

    let verified = config(&url("db.example", "verify-full"), "ca.pem");
    let instance = Setup::default().embedded().config(&verified).start();
    let key = instance.key("premium").to_owned();
    instance.call(&instance.chat(&json!({})).key(&key)).expect(200);
    let written = "SELECT count(*) FROM usage_rows";
    poll::until("a row", || (server.query(written).unwrap() == [["1"]]).then_some(()));
    let clear = "SELECT count(*) FILTER (WHERE NOT ssl), count(*) > 2 FROM pg_stat_ssl
         JOIN pg_stat_activity USING (pid) WHERE application_name = 'tollgate'";
    assert_eq!(server.query(clear).unwrap(), [["0", "t"]], "connections in the clear, many");
    drop(instance);

    // Empty: it answers. Otherwise a part of what is said.
    for (host, mode, ca, refusal) in [
        ("db.example", "verify-full", "other.pem", "one of store.ca_file has issued it"),
        ("db.example", "verify-full", "", "neither a public authority nor"),
        ("db.example", "require", "other.pem", "one of store.ca_file has issued it"),
        ("db.example", "verify-ca", "other.pem", "one of store.ca_file has issued it"),
        ("elsewhere.example", "verify-full", "ca.pem", "not valid for name \"elsewhere.example\""),
        ("elsewhere.example", "require", "ca.pem", "not valid for name \"elsewhere.example\""),
        ("elsewhere.example", "verify-ca", "ca.pem", ""),
        ("elsewhere.example", "prefer", "", ""),
        ("elsewhere.example", "disable", "", ""),
    ] {
        std::fs::write(path("tollgate.toml"), config(&url(host, mode), ca)).unwrap();
        let (journals, file) = (path("journal"), path("tollgate.toml"));
        let done = process::run(&["journal", "dead", &journals, "--config", &file]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.success(), refusal.is_empty(), "{host} {mode} {ca}: {said}");
        assert!(said.contains(refusal), "{host} {mode} {ca}: {said}");
    }
    std::fs::write(path("other.pem"), "no certificate").unwrap();
    let bad = config(&url("db.example", "verify-full"), "other.pem");
    std::fs::write(path("tollgate.toml"), bad).unwrap();
    let checked = process::run(&["check", "--config", &path("tollgate.toml")]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(2), "{said}");
    assert!(said.contains("store.ca_file") && said.contains("holds no certificate"), "{said}");
}
