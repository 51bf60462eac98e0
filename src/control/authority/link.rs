//! The way to the authority in Redis. All asks of a turn of control's loop go out as one pipeline,
//! one call of the script for each group of keys, and come back as one [`Event`].
//!
//! Redis lost: asks are dropped, not kept. The pool repeats each under its number until it is
//! answered, so what an answer that got lost has done is done once. Nobody waits here: a
//! connection is made, and a pipeline answered, in a task of its own, within a bound.

use super::script::{self, GROUPS, ScriptAsk};
use crate::clock;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisError, Value};
use shard::lease::{LeaseCall, LeaseReply};
use shard::units::{ConsumerId, Nanos, Period};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A connection is made, and all groups are opened, within this.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// A pipeline is answered within this; past it the connection is given up. As long as the longest
/// round trip that a lease is made longer for.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two attempts to connect, at first and at most.
const OPEN_AGAIN_MIN: Duration = Duration::from_millis(20);
const OPEN_AGAIN_MAX: Duration = Duration::from_millis(500);
/// Asks of one call of the script: Redis does nothing else meanwhile, for some 10 µs each.
const CALL_ASKS_MAX: usize = 64;
/// Asks on their way. More are dropped; the pool repeats them.
const IN_FLIGHT_MAX: usize = 65_536;
/// Events on their way to the loop. One that finds it full waits in its own task.
const EVENTS_MAX: usize = 256;

/// Where the authority is.
#[derive(Clone, Debug)]
pub(crate) struct RedisAddress(Client);

impl RedisAddress {
    /// Of a URL such as `redis://user:password@host:6379/0`. What is wrong with it is told without
    /// it: a password may be in there.
    pub(crate) fn new(url: &str) -> Result<Self, &'static str> {
        let wrong = |_| "this is no URL of a Redis";
        let info = url.into_connection_info().map_err(wrong)?;
        // Small calls in quick succession, each of which somebody waits for.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Client::open(info).map(Self).map_err(wrong)
    }
}

/// What comes back from Redis.
pub(crate) enum Event {
    /// A connection is there and knows the script.
    Opened { connection: MultiplexedConnection, sha1: String },
    /// A pipeline has come back, or has not.
    Answered { link: u64, calls: Vec<Vec<ScriptAsk>>, values: ScriptValues, round_trip: Nanos },
}

type ScriptValues = Result<Vec<Value>, RedisError>;

/// A call and its answer.
pub(crate) type Answered = (LeaseCall, LeaseReply);

struct OpenLink {
    connection: MultiplexedConnection,
    /// Names the script.
    sha1: String,
}

/// See the module.
pub(crate) struct Link {
    client: Client,
    holder: u128,
    /// `None`: a task is about to open it.
    open: Option<OpenLink>,
    lost_at: Option<Nanos>,
    /// Counts connections: what an earlier one still says is of no interest.
    link: u64,
    queued: BTreeMap<u8, Vec<ScriptAsk>>,
    /// Numbers of the calls on their way: a call that is repeated too early is not sent twice.
    in_flight: HashSet<u64>,
    events: flume::Sender<Event>,
}

impl Link {
    /// A link that is being opened, and what comes from it. Runs tasks, so a runtime has to be
    /// there.
    pub(super) fn new(at: RedisAddress, holder: u128) -> (Self, flume::Receiver<Event>) {
        let (events, received) = flume::bounded(EVENTS_MAX);
        let link = Self {
            client: at.0,
            holder,
            open: None,
            lost_at: None,
            link: 0,
            queued: BTreeMap::new(),
            in_flight: HashSet::new(),
            events,
        };
        link.reopen(Duration::ZERO);
        (link, received)
    }

    fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn lost_at(&self) -> Option<Nanos> {
        self.lost_at
    }

    pub(super) fn call(&mut self, call: &LeaseCall) {
        if self.is_open() && self.in_flight.len() < IN_FLIGHT_MAX && self.in_flight.insert(call.seq)
        {
            self.queue(ScriptAsk::Call(*call));
        }
    }

    pub(super) fn seed(&mut self, (consumer, period): (ConsumerId, Period), tokens: u64) {
        if self.is_open() {
            self.queue(ScriptAsk::Seed { consumer, period, tokens });
        }
    }

    fn queue(&mut self, ask: ScriptAsk) {
        self.queued.entry(ask.group()).or_default().push(ask);
    }

    pub(super) fn send(&mut self) {
        let Some(OpenLink { connection, sha1 }) = &self.open else { return };
        if self.queued.is_empty() {
            return;
        }
        let (mut pipeline, mut calls) = (Pipeline::new(), Vec::new());
        for (group, asks) in std::mem::take(&mut self.queued) {
            for asks in asks.chunks(CALL_ASKS_MAX) {
                pipeline.add_command(script::command(sha1, self.holder, group, asks));
                calls.push(asks.to_vec());
            }
        }
        let (mut connection, events, link) = (connection.clone(), self.events.clone(), self.link);
        tokio::spawn(async move {
            let sent_at = clock::now();
            let values = connection.send_packed_commands(&pipeline, 0, calls.len()).await;
            let round_trip = clock::now().since(sent_at);
            // The loop has ended where it takes no event.
            let _ = events.send_async(Event::Answered { link, calls, values, round_trip }).await;
        });
    }

    pub(super) fn on_event(&mut self, event: Event) -> (Vec<Answered>, Option<Nanos>) {
        let (calls, values, round_trip) = match event {
            Event::Opened { connection, sha1 } => {
                tracing::info!("the authority in Redis is reached");
                self.open = Some(OpenLink { connection, sha1 });
                self.lost_at = None;
                return (Vec::new(), None);
            }
            Event::Answered { link, .. } if link != self.link => return (Vec::new(), None),
            Event::Answered { calls, values, round_trip, .. } => (calls, values, round_trip),
        };
        for ask in calls.iter().flatten() {
            if let ScriptAsk::Call(call) = ask {
                self.in_flight.remove(&call.seq);
            }
        }
        let values = match values {
            Ok(values) => values,
            Err(error) => {
                self.lose(&error.to_string());
                return (Vec::new(), None);
            }
        };
        let failed = values.iter().find_map(|value| match value {
            Value::ServerError(error) => Some(error.to_string()),
            _ => None,
        });
        let replies = calls.iter().zip(&values).flat_map(|(asks, value)| replies(asks, value));
        let replies: Vec<Answered> = replies.collect();
        if let Some(error) = failed {
            // Whatever it is (the script is not known any more, a replica, memory that is full):
            // opening anew either mends it or fails as well.
            self.lose(&error);
        }
        (replies, Some(round_trip))
    }

    fn lose(&mut self, cause: &str) {
        tracing::error!(cause, "the authority in Redis is out of reach");
        self.open = None;
        self.lost_at = Some(clock::now());
        self.link += 1;
        self.queued.clear();
        self.in_flight.clear();
        self.reopen(OPEN_AGAIN_MIN);
    }

    fn reopen(&self, after: Duration) {
        let (client, holder, events) = (self.client.clone(), self.holder, self.events.clone());
        tokio::spawn(async move {
            let mut wait = after;
            loop {
                tokio::time::sleep(wait).await;
                let opened = tokio::time::timeout(OPEN_WITHIN, open(&client, holder)).await;
                match opened {
                    Ok(Ok(OpenLink { connection, sha1 })) => {
                        let _ = events.send_async(Event::Opened { connection, sha1 }).await;
                        return;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "Redis was not reached"),
                    Err(_) => tracing::debug!("Redis was not reached in time"),
                }
                wait = (wait * 2).clamp(OPEN_AGAIN_MIN, OPEN_AGAIN_MAX);
            }
        });
    }
}

/// Connects, makes the script known, and opens all groups at once: where Redis has lost its
/// memory, all of them wait through the same five seconds.
async fn open(client: &Client, holder: u128) -> Result<OpenLink, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(OPEN_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script::TEXT);
    let sha1: String = load.query_async(&mut connection).await?;
    let mut groups = Pipeline::new();
    // One that may not write is no authority.
    groups.cmd("SET").arg("tollgate:opened").arg(format!("{holder:032x}")).arg("PX").arg(60_000);
    for group in 0..GROUPS {
        groups.add_command(script::command(&sha1, holder, group, &[]));
    }
    let _: () = groups.query_async(&mut connection).await?;
    Ok(OpenLink { connection, sha1 })
}

fn replies(asks: &[ScriptAsk], value: &Value) -> Vec<Answered> {
    let answers = script::answers(asks, value);
    let reply = |(ask, answer): (&ScriptAsk, Option<_>)| match (ask, answer) {
        (ScriptAsk::Call(call), Some(answer)) => {
            let LeaseCall { holder, seq, sent_at, .. } = *call;
            Some((*call, LeaseReply { holder, seq, sent_at, answer }))
        }
        _ => None,
    };
    asks.iter().zip(answers).filter_map(reply).collect()
}
