//! Revocations by way of Redis: said at once to whoever listens, and written into a stream that
//! each instance reads when it reaches Redis, and twice a second from then on. So a key is refused
//! too where the word was lost, by an instance that was cut off just then, and by one that starts
//! from a snapshot while the store is away and has not kept the revocation.
//!
//! Only what is refused is here, never what is granted: nobody is let in by what Redis says. A
//! revocation is final, and its key's id is never another's. So an entry needs no version: however
//! late, however often and in whatever order it is read, it says the same.

use super::event::Event;
use super::push::KEYS;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use shard::units::KeyId;
use std::time::Duration;

/// The group whose master has the stream.
pub(super) const GROUP: u8 = 0;
/// A key of that group, by its hash tag.
const STREAM: &str = "tollgate:revoked:{0}";
/// The newest of so many are kept. An older one that the store has not kept either by then is lost.
const KEPT_MAX: usize = 16_384;
/// How long after the last one: no snapshot is used for longer than a day.
const KEPT_FOR_MS: u64 = 30 * 86_400_000;
/// A revocation holds everywhere within a second, whoever has not heard of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Entries of one look, some 60 KB.
const READ_MAX: usize = 1_024;

/// Tells all instances that the key is refused. Answers whether all that reach Redis will know.
pub(super) async fn tell(mut connection: MultiplexedConnection, key: KeyId) -> bool {
    let text = key.to_string();
    let mut calls = Pipeline::new();
    calls.cmd("PUBLISH").arg(KEYS).arg(&text);
    calls.cmd("XADD").arg(STREAM).arg(("MAXLEN", "~", KEPT_MAX)).arg("*").arg("key").arg(&text);
    calls.cmd("PEXPIRE").arg(STREAM).arg(KEPT_FOR_MS);
    let answers = connection.send_packed_commands(&calls, 0, 3).await;
    let failure = match &answers {
        Ok(answers) => answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error.to_string()),
            _ => None,
        }),
        Err(error) => Some(error.to_string()),
    };
    if let Some(cause) = failure {
        tracing::warn!(cause, %key, "Redis did not take all of a revocation");
    }
    matches!(answers.as_deref(), Ok([_, Value::BulkString(_), _]))
}

/// Reads what was revoked, from the oldest on, for as long as the connection is of use.
pub(super) async fn follow(mut connection: MultiplexedConnection, events: flume::Sender<Event>) {
    let (mut last, mut is_told) = (None, false);
    loop {
        match after(&mut connection, last.as_deref()).await {
            Ok(entries) => {
                let is_all = entries.len() < READ_MAX;
                last = entries.last().and_then(id).or(last);
                let keys: Vec<KeyId> = entries.iter().filter_map(key).collect();
                if !keys.is_empty() && events.send_async(Event::Revoked(keys)).await.is_err() {
                    return;
                }
                if !is_all {
                    continue;
                }
            }
            Err(error) if !is_told => {
                tracing::warn!(%error, "Redis does not tell which keys were revoked");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn after(
    connection: &mut MultiplexedConnection,
    last: Option<&str>,
) -> Result<Vec<Value>, RedisError> {
    let from = last.map_or_else(|| "-".to_owned(), |last| format!("({last}"));
    let mut look = redis::cmd("XRANGE");
    look.arg(STREAM).arg(from).arg("+").arg("COUNT").arg(READ_MAX);
    look.query_async(connection).await
}

fn id(entry: &Value) -> Option<String> {
    let Value::Array(entry) = entry else { return None };
    let [Value::BulkString(id), _] = &entry[..] else { return None };
    String::from_utf8(id.clone()).ok()
}

/// `None`: whoever wrote it speaks another language.
fn key(entry: &Value) -> Option<KeyId> {
    let Value::Array(entry) = entry else { return None };
    let [_, Value::Array(fields)] = &entry[..] else { return None };
    let [_, Value::BulkString(key)] = &fields[..] else { return None };
    str::from_utf8(key).ok()?.parse().ok()
}
