#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{DemoFile, DemoKeys, DemoServices, model_names, seed};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

/// What the demo may have made.
pub fn example() -> DemoFile {
    let text = str::to_string;
    DemoFile {
        data_url: text("http://127.0.0.1:3000"),
        admin_url: text("http://127.0.0.1:3001"),
        admin_token: text("secret"),
        keys: DemoKeys {
            basic: text("tg_basic"),
            premium: text("tg_premium"),
            enterprise: text("tg_enterprise"),
            bench: text("tg_bench"),
        },
        services: DemoServices {
            per_token: text("s-per-token"),
            tiered: text("s-tiered"),
            subscription: text("s-subscription"),
        },
        models: model_names(),
        upstream_url: text("http://127.0.0.1:9"),
    }
}

/// Enough of an admin API: collections of objects, two a page, with the token `secret`.
#[derive(Clone, Default)]
struct FakeAdmin {
    rows: Arc<Mutex<Vec<(String, Value)>>>,
}

impl FakeAdmin {
    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                fake.answer(stream.unwrap());
            }
        });
        url
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap() == 0 {
                return;
            }
        }
        let head_lower = head.to_lowercase();
        assert!(head_lower.contains("authorization: bearer secret"), "{head}");
        let length = head_lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let (status, answer) = self.handle(method, target, body);
        let answer = answer.to_string();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .unwrap();
    }

    fn handle(&self, method: &str, target: &str, body: Value) -> (u16, Value) {
        let mut rows = self.rows.lock().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/admin/v1/").unwrap();
        let (collection, id) = path.split_once('/').unwrap_or((path, ""));
        match method {
            "POST" => {
                let mut object = body;
                object["id"] = json!(format!("{collection}-{}", rows.len()));
                rows.push((collection.to_string(), object.clone()));
                object["key"] = json!(format!("tg_{}", rows.len()));
                (201, object)
            }
            "PATCH" => match rows.iter_mut().find(|(_, object)| object["id"] == id) {
                None => (404, json!({"error": {"message": "no such service"}})),
                Some((_, object)) => {
                    object["base_url"] = body["base_url"].clone();
                    (200, object.clone())
                }
            },
            _ => {
                let all: Vec<&Value> =
                    rows.iter().filter(|row| row.0 == collection).map(|row| &row.1).collect();
                let cursor = query.split_once("cursor=").map_or(0, |(_, at)| at.parse().unwrap());
                let page: Vec<_> = all.iter().skip(cursor).take(2).collect();
                let next = (cursor + 2 < all.len()).then(|| (cursor + 2).to_string());
                (200, json!({"data": page, "next_cursor": next}))
            }
        }
    }

    fn named(&self, name: &str) -> Value {
        let rows = self.rows.lock().unwrap();
        rows.iter().find(|(_, object)| object["name"] == name).unwrap().1.clone()
    }

    fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
    }
}

#[test]
fn a_marketplace_is_made_once() {
    let fake = FakeAdmin::default();
    let admin_url = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let first = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();

    // One plan, four consumers with a key each, three services.
    assert_eq!(fake.len(), 1 + 4 + 4 + 3);
    assert_eq!(fake.named("bench")["quota_tokens"], 1_000_000_000_000_000_u64);
    assert_eq!(fake.named("demo-premium")["plan"], "premium");
    let tiered = fake.named("demo-chat-tiered");
    assert_eq!(tiered["id"], *first.services.tiered);
    assert_eq!(tiered["price"]["tiers"][2]["up_to_tokens"], Value::Null);
    assert_eq!(tiered["price"]["tiers"][1]["input_nanousd_per_mtok"], 2_400_000_000_u64);
    assert_eq!(fake.named("demo-chat-flat")["price"]["overage"]["kind"], "per_token");

    let second = seed(&admin_url, "secret", "http://up:2", "http://data:2", dir.path()).unwrap();
    assert_eq!(fake.len(), 12);
    assert!(second.keys == first.keys && second.services == first.services);
    assert_eq!(second.data_url, "http://data:2");
    assert_eq!(second.upstream_url, "http://up:2");
    assert_eq!(fake.named("demo-chat")["base_url"], "http://up:2");
    assert_eq!(fake.named("demo-chat-flat")["base_url"], "http://up:2");
}

#[test]
fn the_file_is_as_promised_and_its_owners_only() {
    let admin_url = FakeAdmin::default().start();
    let dir = tempfile::tempdir().unwrap();
    seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();
    let path = dir.path().join("demo.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut fields: Vec<&str> = file.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected =
        ["admin_token", "admin_url", "data_url", "keys", "models", "services", "upstream_url"];
    assert_eq!(fields, expected);
    assert_eq!(file["models"]["subscription"], "demo-chat-flat");
    for plan in ["basic", "premium", "enterprise", "bench"] {
        assert!(file["keys"][plan].as_str().unwrap().starts_with("tg_"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_or_lost_start_is_made_good() {
    let fake = FakeAdmin::default();
    let admin_url = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let first = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();

    // demo.json is gone: the consumers and services are found again, only keys are new.
    std::fs::remove_file(dir.path().join("demo.json")).unwrap();
    let second = seed(&admin_url, "secret", "http://up:2", "http://data:1", dir.path()).unwrap();
    assert_eq!(fake.len(), 12 + 4);
    assert!(second.services == first.services && second.keys != first.keys);
    assert_eq!(fake.named("demo-chat")["base_url"], "http://up:2");

    // The store is gone: everything is made anew.
    let anew = FakeAdmin::default();
    let admin_url = anew.start();
    seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).unwrap();
    assert_eq!(anew.len(), 12);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let admin_url = FakeAdmin::default().start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("demo.json"), "{}").unwrap();
    let error = seed(&admin_url, "secret", "http://up:1", "http://data:1", dir.path()).err();
    assert!(error.unwrap().contains("is not the demo's"));
    assert_eq!(std::fs::read(dir.path().join("demo.json")).unwrap(), b"{}");
}
