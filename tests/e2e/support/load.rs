//! Clients that call as fast as they are answered, and remember which answers they have in full.

use super::http::{Connection, Request};
use super::instance::Instance;
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Ends the clients that watch it when it is dropped, also by a panic: their scope waits for them.
pub struct Until<'a>(pub &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What clients did, by request id.
#[derive(Default)]
pub struct Log {
    /// Requests that were sent.
    pub sent: Mutex<Vec<String>>,
    /// Those whose answer came to its last byte.
    pub finished: Mutex<Vec<String>>,
    /// Those whose answer began and then broke off.
    pub broken: Mutex<Vec<String>>,
    count: AtomicU64,
}

impl Log {
    /// Answers in full so far.
    pub fn finished_count(&self) -> usize {
        self.finished.lock().unwrap().len()
    }

    /// One client: mixed calls over connections of its own until `done`, or until nobody answers.
    pub fn client(&self, instance: &Instance, run: &str, done: &AtomicBool) {
        let url = instance.data_url().to_owned();
        let key = instance.key("bench").to_owned();
        let mut connection = None;
        while !done.load(Relaxed) {
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(&url),
            };
            let Ok(mut open) = open else { return };
            let number = self.count.fetch_add(1, Relaxed);
            let id = format!("{run}-{number}");
            let request = match number % 3 {
                0 => instance.chat(&json!({})),
                1 => instance.chat(&json!({ "stream": true })),
                _ => Request::post(
                    "/v1/embeddings",
                    &json!({ "model": instance.model("tiered"), "input": "Hello" }),
                ),
            };
            self.sent.lock().unwrap().push(id.clone());
            if open.send(&request.key(&key).id(&id).to_bytes()).is_err() {
                continue;
            }
            // Nothing came at all: the connection was closed between two requests.
            let Ok(head) = open.head() else { continue };
            match open.body(&head, "POST") {
                Ok(body) if head.status == 200 => {
                    self.finished.lock().unwrap().push(id);
                    assert!(body.len() > 50);
                    let closes = head.header("connection").is_some_and(|value| value == "close");
                    connection = Some(open).filter(|_| !closes);
                }
                Ok(body) => panic!("{}: {}", head.status, String::from_utf8_lossy(&body)),
                Err(_) => self.broken.lock().unwrap().push(id),
            }
        }
    }
}

/// Requests that [`flood`] sends at once.
const PIPELINED: usize = 16;

/// One client that costs the machine as little as one can: the same small call again and again,
/// sixteen at once. Counts the answers.
pub fn flood(instance: &Instance, answers: &AtomicU64, done: &AtomicBool) {
    let call = instance.chat(&json!({})).key(instance.key("bench"));
    let calls = call.to_bytes().repeat(PIPELINED);
    let mut connection = Connection::open(instance.data_url()).unwrap();
    while !done.load(Relaxed) {
        connection.send(&calls).unwrap();
        for _ in 0..PIPELINED {
            connection.answer("POST").unwrap().expect(200);
            answers.fetch_add(1, Relaxed);
        }
    }
}
