//! Makes the connections to a Redis, able to do all that the link asks of them, or none.

use super::address::RedisAddress;
use super::event::{Master, OpenLink};
use super::push::{self, Ear};
use super::revocations;
use super::script::{self, GROUPS};
use crate::clock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError};
use std::time::Duration;
use tokio::task::JoinSet;

/// All of it is done within this.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// A pipeline is answered within this; past it the connection is given up. As long as the longest
/// round trip that a lease is made longer for.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Connects to all masters, makes the script known, listens, and opens all groups at once: where a
/// master has lost its memory, all of its groups wait through the same seven seconds.
///
/// Each master is listened to. What one says reaches the listeners of all others, but only a
/// connection that is alive tells that nothing it said was missed.
pub(super) async fn open(
    at: &RedisAddress,
    holder: u128,
    ear: Ear,
) -> Result<OpenLink, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(OPEN_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_push_sender(ear.clone());
    let mut open = OpenLink {
        masters: Vec::new(),
        of_group: [0; GROUPS as usize],
        sha1: String::new(),
        listening: JoinSet::new(),
    };
    for (number, (client, groups)) in at.masters().await?.into_iter().enumerate() {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script::TEXT);
        open.sha1 = load.query_async(&mut connection).await?;
        let heard_at = clock::now();
        push::subscribe(&mut connection, holder).await?;
        open_groups(&mut connection, &open.sha1, holder, &groups).await?;
        groups.iter().for_each(|group| open.of_group[usize::from(*group)] = number);
        open.listening.spawn(ear.clone().ping(connection.clone(), number));
        if groups.contains(&revocations::GROUP) {
            open.listening.spawn(revocations::follow(connection.clone(), ear.events()));
        }
        open.masters.push(Master { connection, heard_at });
    }
    Ok(open)
}

async fn open_groups(
    connection: &mut MultiplexedConnection,
    sha1: &str,
    holder: u128,
    groups: &[u8],
) -> Result<(), RedisError> {
    let mut calls = Pipeline::new();
    for group in groups {
        calls.add_command(script::command(sha1, holder, *group, &[]));
    }
    if let Some(group) = groups.first() {
        // One that may not write is no authority.
        let key = script::opened_key(*group);
        calls.cmd("SET").arg(key).arg(format!("{holder:032x}")).arg("PX").arg(60_000);
    }
    calls.query_async(connection).await
}
