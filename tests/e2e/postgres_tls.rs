//! TLS to Postgres: what is encrypted, and whom it is said to.

use crate::support::instance::Setup;
use crate::support::own_postgres::OwnPostgres;
use crate::support::{poll, process};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tempfile::TempDir;

/// An authority, and how its certificate reads.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

#[test]
fn a_server_is_believed_only_by_a_certificate_that_its_url_asks_for() {
    let ((issuer, ca), (_, other_ca)) = (authority("ours"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["db.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let server = OwnPostgres::start(
        &[("server.crt", &certificate), ("server.key", &key.serialize_pem())],
        &["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"],
    );
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("journal")).unwrap();
    std::fs::write(path("ca.pem"), ca).unwrap();
    std::fs::write(path("other.pem"), other_ca).unwrap();
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
