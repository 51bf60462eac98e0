//! Keys in numbers: each of a consumer of its own, made through the admin API like anybody's.

use crate::http;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// At once: the gateway hashes two at a time.
const MAKERS: usize = 4;

/// So many keys on a plan.
pub fn make(
    admin: SocketAddr,
    token: &str,
    plan: &str,
    count: usize,
) -> Result<Vec<String>, String> {
    let next = AtomicUsize::new(0);
    let maker = || -> Result<Vec<String>, String> {
        let mut stream = http::connect(admin)?;
        let mut keys = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(keys);
            }
            if number.is_multiple_of(1_000) {
                eprintln!("{number} of {count} keys");
            }
            let consumer = json!({ "name": format!("{plan}-{number}"), "plan": plan });
            let consumer = http::post(&mut stream, "/admin/v1/consumers", token, &consumer)?;
            let key = json!({ "consumer_id": consumer["id"] });
            let key: Value = http::post(&mut stream, "/admin/v1/keys", token, &key)?;
            keys.push(key["key"].as_str().ok_or("a key came without its text")?.to_owned());
        }
    };
    thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(maker)).collect();
        let made = makers.into_iter().map(|it| it.join().map_err(|_| "a maker died".to_owned())?);
        Ok(made.collect::<Result<Vec<_>, String>>()?.concat())
    })
}
