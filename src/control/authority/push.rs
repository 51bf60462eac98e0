//! What Redis says unasked, on the connections that the answers come on: whoever hears the one
//! hears the other. A holder is asked to give back what it has on lease, and all instances are told
//! of a revoked key.
//!
//! Nothing that is said is passed over: where more comes than is read, the connection is given up.

use super::event::Event;
use crate::clock;
use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{PushInfo, PushKind, RedisError, Value};
use shard::lease::LeaseKey;
use shard::units::{BucketId, ConsumerId, KeyId, Period};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// Keys that are refused from now on, by all who hear it; each as its id is shown.
pub(super) const KEYS: &str = "tollgate:keys";
/// How often a connection is asked whether it is alive.
const PING_EVERY: Duration = Duration::from_millis(200);
/// Messages on their way to the loop; as many as there may be buckets on lease in use at once.
const PUSHES_MAX: usize = 65_536;

/// Where the holder is asked to give back a bucket, named by its number in decimal, or a month, by
/// those of its consumer and of itself.
fn recall_channel(holder: u128) -> String {
    format!("tollgate:recall:{holder:032x}")
}

/// Begins to listen.
pub(super) async fn subscribe(
    connection: &mut MultiplexedConnection,
    holder: u128,
) -> Result<(), RedisError> {
    connection.subscribe(&[recall_channel(holder).as_str(), KEYS]).await
}

/// A connection's ear.
#[derive(Clone)]
pub(super) struct Ear {
    /// The link that the connection belongs to.
    link: u64,
    events: flume::Sender<Event>,
    /// Closed once there was none.
    room: Arc<Semaphore>,
}

impl Ear {
    pub(super) fn new(link: u64, events: flume::Sender<Event>) -> Self {
        Self { link, events, room: Arc::new(Semaphore::new(PUSHES_MAX)) }
    }

    /// Where all goes that is heard.
    pub(super) fn events(&self) -> flume::Sender<Event> {
        self.events.clone()
    }

    /// Pings the link's connection to this master for as long as it answers.
    pub(super) async fn ping(self, mut connection: MultiplexedConnection, master: usize) {
        let mut times = tokio::time::interval(PING_EVERY);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            let (sent_at, link) = (clock::now(), self.link);
            let cause = match redis::cmd("PING").exec_async(&mut connection).await {
                Ok(()) if self.room.is_closed() => "it says more than is read".to_owned(),
                Ok(()) => {
                    let heard = Event::Heard { link, master, sent_at };
                    if self.events.send_async(heard).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => error.to_string(),
            };
            let _ = self.events.send_async(Event::Failed { link, cause }).await;
            return;
        }
    }

    fn event(&self, said: &PushInfo) -> Option<Event> {
        match said.kind {
            PushKind::Message => message(&said.data),
            PushKind::Disconnection => {
                let cause = "the connection was closed".to_owned();
                Some(Event::Failed { link: self.link, cause })
            }
            _ => None,
        }
    }
}

impl AsyncPushSender for Ear {
    /// In a task of its own: those of the answers that came before are about to run, and a recall
    /// must not overtake the grant that it recalls.
    fn send(&self, said: PushInfo) -> Result<(), SendError> {
        let Some(event) = self.event(&said) else { return Ok(()) };
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            self.room.close();
            return Ok(());
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            // The loop has ended where it takes no event.
            let _ = events.send_async(event).await;
            drop(place);
        });
        Ok(())
    }
}

/// Of a message, its channel and its text; `None`: whoever sent it speaks another language.
fn message(data: &[Value]) -> Option<Event> {
    let [Value::BulkString(channel), Value::BulkString(text)] = data else { return None };
    let text = str::from_utf8(text).ok()?;
    if channel == KEYS.as_bytes() {
        return text.parse().ok().map(|key: KeyId| Event::Revoked(vec![key]));
    }
    let key = match text.split_once(':') {
        Some((consumer, period)) => {
            LeaseKey::Quota(ConsumerId(consumer.parse().ok()?), Period(period.parse().ok()?))
        }
        None => LeaseKey::Rate(BucketId(text.parse().ok()?)),
    };
    Some(Event::Recalled(key))
}
