//! Services that are called over TLS: who is believed, and what the operator hears of those who
//! are not.

use crate::support::instance::{Instance, Setup, Upstream};
use crate::support::poll;
use crate::support::tls_front::{Authority, Identity, TlsFront};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use tempfile::NamedTempFile;
use ureq::http::Method;

/// An instance that trusts this authority, with more lines of `[upstream]`.
fn trusting(authority: &Authority, more: &str) -> (Instance, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &authority.pem).unwrap();
    let config = format!("[upstream]\nca_file = \"{}\"\n{more}\n", file.path().display());
    (Setup::default().shards(1).config(&config).start(), file)
}

/// The demo's plain service stands there from now on.
fn stand_on(instance: &Instance, base_url: &str) {
    let path = format!("services/{}", instance.service("per_token"));
    instance.admin().done(Method::PATCH, &path, Some(&json!({ "base_url": base_url })));
}

#[test]
fn a_service_is_called_over_tls() {
    let authority = Authority::new("ours");
    let upstream = Upstream::start(&[]);
    let front = TlsFront::before(&upstream.url, &authority.sign(&["localhost"]));
    let (instance, _file) = trusting(&authority, "pool_idle_timeout_ms = 300");
    stand_on(&instance, &front.url("localhost"));
    let key = instance.key("premium").to_owned();
    let mut connection = instance.open();
    let seen = || (front.handshakes.full.load(Relaxed), front.handshakes.resumed.load(Relaxed));

    let long = "word ".repeat(60_000);
    let long = json!({ "messages": [{ "role": "user", "content": long }], "max_tokens": 5 });
    for more in [json!({}), json!({ "stream": true, "max_tokens": 200 }), long, json!({})] {
        let answer = connection.call(&instance.chat(&more).key(&key)).unwrap().expect(200);
        if more["stream"] == true {
            assert_eq!(answer.events().last().unwrap(), "[DONE]");
        }
    }
    assert_eq!(seen(), (1, 0), "one connection for all of them");
    assert!(upstream.last().contains("host: localhost:"), "{}", upstream.last());
    let stray = instance.metrics().sum("tollgate_upstream_strays_total", &[]);
    assert_eq!(stray, 0, "a session's tickets are no answer");

    poll::until("the idle connection is closed", || {
        (front.handshakes.ended.load(Relaxed) == 1).then_some(())
    });
    connection.call(&instance.chat(&json!({})).key(&key)).unwrap().expect(200);
    assert_eq!(seen(), (1, 1), "its session is resumed");
    instance.balance_books();
    let counted = |row: &crate::support::ledger::Row| row.input_tokens > 0 && row.output_tokens > 0;
    assert!(instance.ledger().rows().iter().all(counted));
}

#[test]
fn whoever_is_not_vouched_for_gets_no_call_and_the_operator_hears_why() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let upstream = Upstream::start(&[]);
    let (mut instance, _file) = trusting(&ours, "");
    let key = instance.key("premium").to_owned();
    let cases: [(Identity, &str); 3] = [
        (ours.sign(&["elsewhere.example"]), "not valid for name"),
        (ours.sign_until(&["localhost"], 2020), "expired"),
        (other.sign(&["localhost"]), "UnknownIssuer"),
    ];
    for (identity, why) in cases {
        let front = TlsFront::before(&upstream.url, &identity);
        stand_on(&instance, &front.url("localhost"));
        let answer = instance.call(&instance.chat(&json!({})).key(&key)).expect(502);
        assert_eq!(answer.code(), "upstream_error");
        assert!(!answer.text().contains("certificate"), "{}", answer.text());
        let line = instance.process.wait_for("the upstream failed a call");
        assert!(line.contains(why) && line.contains("phase=\"tls\""), "{line}");
    }
    assert_eq!(upstream.count("requests"), 0);
    let faults = instance.metrics().sum("tollgate_upstream_faults_total", &[("phase", "tls")]);
    assert_eq!(faults, 3);
    instance.balance_books();
}

#[test]
fn a_plain_or_silent_server_is_no_tls_server() {
    let (mut instance, _file) = trusting(&Authority::new("ours"), "tls_timeout_ms = 300");
    let key = instance.key("premium").to_owned();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    stand_on(&instance, &format!("https://{}", plain.local_addr().unwrap()));
    let refuses = thread::spawn(move || {
        let (mut client, _) = plain.accept().unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    });
    instance.call(&instance.chat(&json!({})).key(&key)).expect(502);
    instance.process.wait_for("corrupt message");
    refuses.join().unwrap();

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    stand_on(&instance, &format!("https://{}", silent.local_addr().unwrap()));
    let answer = instance.call(&instance.chat(&json!({})).key(&key)).expect(504);
    assert_eq!(answer.code(), "upstream_timeout");
    let line = instance.process.wait_for("the upstream failed a call");
    assert!(line.contains("phase=\"tls\""), "{line}");
    instance.balance_books();
}
