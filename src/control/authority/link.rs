//! The way to the authority in Redis. All asks of a turn of control's loop go out as one pipeline
//! to each master, one call of the script for each group of keys, and come back as one [`Event`].
//!
//! One master lost is all lost: the link is opened anew, to whoever is a master then. A cluster
//! without one of its masters answers nobody anyhow, unless it is told to.
//!
//! Redis lost: asks are dropped, not kept. The pool repeats each under its number until it is
//! answered, so what an answer that got lost has done is done once. Nobody waits here: a
//! connection is made, and a pipeline answered, in a task of its own, within a bound.

use super::address::RedisAddress;
use super::event::{Event, Master, OpenLink};
use super::open::{OPEN_WITHIN, open};
use super::push::Ear;
use super::revocations::{self, GROUP};
use super::script::{self, ScriptAsk};
use crate::clock;
use redis::{Pipeline, Value};
use shard::lease::{LeaseCall, LeaseReply};
use shard::units::{BucketId, ConsumerId, KeyId, Nanos, Period};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokio::sync::oneshot;

/// Between two attempts to connect, at first and at most.
const OPEN_AGAIN_MIN: Duration = Duration::from_millis(20);
const OPEN_AGAIN_MAX: Duration = Duration::from_millis(500);
/// Asks of one call of the script: Redis does nothing else meanwhile, for some 10 µs each.
const CALL_ASKS_MAX: usize = 64;
/// Asks on their way. More are dropped; the pool repeats them.
const IN_FLIGHT_MAX: usize = 65_536;
/// Events on their way to the loop. One that finds it full waits in its own task.
const EVENTS_MAX: usize = 256;

/// A call and its answer.
pub(crate) type Answered = (LeaseCall, LeaseReply);

/// See the module.
pub(crate) struct Link {
    at: RedisAddress,
    holder: u128,
    /// `None`: a task is about to open it.
    open: Option<Box<OpenLink>>,
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
            at,
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

    /// Would a recall be heard that was sent now?
    pub(super) fn is_recallable(&self, now: Nanos) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_alive(now))
    }

    /// Tells all instances, this one too: each master tells the others. `told` hears whether all
    /// that reach Redis will know.
    pub(super) fn tell_revoked(&self, key: KeyId, told: oneshot::Sender<bool>) {
        if let Some(master) = self.open.as_ref().and_then(|open| open.master(GROUP)) {
            let connection = master.connection.clone();
            tokio::spawn(async move {
                // Whoever asked may have left.
                let _ = told.send(revocations::tell(connection, key).await);
            });
        }
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

    pub(super) fn revoke(&mut self, bucket: BucketId) {
        if self.is_open() {
            self.queue(ScriptAsk::Revoke(bucket));
        }
    }

    fn queue(&mut self, ask: ScriptAsk) {
        self.queued.entry(ask.group()).or_default().push(ask);
    }

    pub(super) fn send(&mut self) {
        let Some(open) = &self.open else { return };
        let OpenLink { masters, of_group, sha1, .. } = &**open;
        let mut batches: BTreeMap<usize, (Pipeline, Vec<Vec<ScriptAsk>>)> = BTreeMap::new();
        for (group, asks) in std::mem::take(&mut self.queued) {
            let (pipeline, calls) = batches.entry(of_group[usize::from(group)]).or_default();
            for asks in asks.chunks(CALL_ASKS_MAX) {
                pipeline.add_command(script::command(sha1, self.holder, group, asks));
                calls.push(asks.to_vec());
            }
        }
        for (master, (pipeline, calls)) in batches {
            let Some(Master { connection, .. }) = masters.get(master) else { continue };
            let (mut connection, link) = (connection.clone(), self.link);
            let events = self.events.clone();
            tokio::spawn(async move {
                let sent_at = clock::now();
                let values = connection.send_packed_commands(&pipeline, 0, calls.len()).await;
                let round_trip = clock::now().since(sent_at);
                let answered = Event::Answered { link, calls, values, round_trip };
                // The loop has ended where it takes no event.
                let _ = events.send_async(answered).await;
            });
        }
    }

    pub(super) fn on_event(&mut self, event: Event) -> (Vec<Answered>, Option<Nanos>) {
        let (calls, values, round_trip) = match event {
            Event::Answered { link, calls, values, round_trip } if link == self.link => {
                (calls, values, round_trip)
            }
            other => {
                self.on_state(other);
                return (Vec::new(), None);
            }
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

    /// What is no answer to a call.
    fn on_state(&mut self, event: Event) {
        match event {
            Event::Opened(open) => {
                tracing::info!("the authority in Redis is reached");
                self.open = Some(open);
                self.lost_at = None;
            }
            Event::Heard { link, master, sent_at } if link == self.link => {
                if let Some(open) = &mut self.open {
                    open.heard(master, sent_at);
                }
            }
            Event::Failed { link, cause } if link == self.link && self.is_open() => {
                self.lose(&cause);
            }
            _ => {}
        }
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
        let (at, holder, events) = (self.at.clone(), self.holder, self.events.clone());
        let link = self.link;
        tokio::spawn(async move {
            let (mut wait, mut is_told) = (after, false);
            loop {
                tokio::time::sleep(wait).await;
                let ear = Ear::new(link, events.clone());
                let cause = match tokio::time::timeout(OPEN_WITHIN, open(&at, holder, ear)).await {
                    Ok(Ok(open)) => {
                        let _ = events.send_async(Event::Opened(Box::new(open))).await;
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it took too long".to_owned(),
                };
                // A password that is wrong stays wrong: said once, not twice a second.
                if !std::mem::replace(&mut is_told, true) {
                    tracing::error!(cause, "Redis is not reached; it is tried again and again");
                }
                wait = (wait * 2).clamp(OPEN_AGAIN_MIN, OPEN_AGAIN_MAX);
            }
        });
    }
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
