//! One Redis for all tests that do nothing to it: it ends with the test process, however that ends.

use super::instance::Setup;
use super::poll;
use super::redis_server::{binary, free_port};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// `$1`: the program; `$2`: its port. Its input is open for as long as the test process lives.
const SERVE: &str = r#"
    trap '' INT TERM HUP
    "$1" --bind 127.0.0.1 --port "$2" --save '' --appendonly no --dir /tmp >/dev/null &
    server=$!
    cat >/dev/null
    kill -KILL $server
"#;

/// Its URL; started by whoever comes first.
pub fn shared_redis() -> &'static str {
    static SHARED: OnceLock<(String, Child)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| {
        let port = free_port();
        let shell = Command::new("sh")
            .args(["-c", SERVE, "sh"])
            .arg(binary())
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        poll::until("a Redis that answers", || {
            let mut said = [0; 7];
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            stream.read_exact(&mut said).ok()?;
            (&said == b"+PONG\r\n").then_some(())
        });
        let url = format!("redis://127.0.0.1:{port}/0");
        // A Redis that is new grants nothing for its first seven seconds: no test is about those.
        let first = Setup::default().redis_at(&url).on_postgres().start();
        let call = first.chat(&json!({})).key(first.key("bench"));
        poll::until("a Redis that grants", || (first.call(&call).status() == 200).then_some(()));
        (url, shell)
    });
    url
}
