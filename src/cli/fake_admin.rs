//! A small admin API in memory, against which the commands are tested.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Enough of an admin API: collections of objects, two a page, with the token `secret`.
#[derive(Clone, Default)]
pub(super) struct FakeAdmin {
    objects: Arc<Mutex<Vec<(String, Value)>>>,
}

impl FakeAdmin {
    /// Serves until the process ends; returns the address.
    pub(super) fn start(&self) -> String {
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
        let answer = if answer.is_null() { String::new() } else { answer.to_string() };
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .unwrap();
    }

    fn handle(&self, method: &str, target: &str, body: Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/admin/v1/").unwrap();
        let mut parts = path.split('/');
        let (collection, id) = (parts.next().unwrap(), parts.next());
        let mut objects = self.objects.lock().unwrap();
        let count = objects.len();
        let Some(id) = id else {
            return match method {
                "POST" => {
                    let mut object = body;
                    let id = match collection {
                        // As long as a real id, which a key's text contains.
                        "keys" => format!("keys-{count:07}"),
                        _ => format!("{collection}-{count}"),
                    };
                    object["id"] = json!(id);
                    objects.push((collection.to_string(), object.clone()));
                    object["key"] = json!(format!("tg_{id}secret"));
                    (201, object)
                }
                _ => (200, page(objects.iter().filter(|row| row.0 == collection), query)),
            };
        };
        let Some(at) = objects.iter().position(|(_, object)| object["id"] == id) else {
            return (404, json!({"error": {"message": "not there", "param": null}}));
        };
        match (method, parts.next()) {
            ("DELETE", None) => {
                objects.remove(at);
                (204, Value::Null)
            }
            ("PATCH", None) => {
                for (field, value) in body.as_object().unwrap() {
                    objects[at].1[field] = value.clone();
                }
                (200, objects[at].1.clone())
            }
            ("POST", Some("rotate")) => (201, body),
            _ => (200, objects[at].1.clone()),
        }
    }

    /// The objects of a collection.
    pub(super) fn rows(&self, collection: &str) -> Vec<Value> {
        let objects = self.objects.lock().unwrap();
        let of_it = objects.iter().filter(|(of, _)| of == collection);
        of_it.map(|(_, object)| object.clone()).collect()
    }

    /// The first object with the name.
    pub(super) fn named(&self, name: &str) -> Value {
        let objects = self.objects.lock().unwrap();
        objects.iter().find(|(_, object)| object["name"] == name).unwrap().1.clone()
    }

    /// Removes the object with the name.
    pub(super) fn remove(&self, name: &str) {
        self.objects.lock().unwrap().retain(|(_, object)| object["name"] != name);
    }

    /// All objects there are.
    pub(super) fn len(&self) -> usize {
        self.objects.lock().unwrap().len()
    }
}

fn page<'a>(rows: impl Iterator<Item = &'a (String, Value)>, query: &str) -> Value {
    let rows: Vec<&Value> = rows.map(|row| &row.1).collect();
    let from = query.split_once("cursor=").map_or(0, |(_, at)| at.parse().unwrap());
    let page: Vec<_> = rows.iter().skip(from).take(2).collect();
    let next = (from + 2 < rows.len()).then(|| (from + 2).to_string());
    json!({"data": page, "next_cursor": next})
}
