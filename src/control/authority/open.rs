//! Makes the connection to a Redis, able to do all that the link asks of it, or none.

use super::address::RedisAddress;
use super::event::OpenLink;
use super::push::{self, Ear};
use super::script::{self, GROUPS};
use crate::clock;
use redis::{AsyncConnectionConfig, Pipeline, RedisError};
use std::time::Duration;
use tokio::task::JoinSet;

/// All of it is done within this.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// A pipeline is answered within this; past it the connection is given up. As long as the longest
/// round trip that a lease is made longer for.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Connects, makes the script known, listens, and opens all groups at once: where Redis has lost
/// its memory, all of them wait through the same seven seconds.
pub(super) async fn open(
    at: &RedisAddress,
    holder: u128,
    ear: Ear,
) -> Result<OpenLink, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(OPEN_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_push_sender(ear.clone());
    let mut connection = at.client().get_multiplexed_async_connection_with_config(&config).await?;
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script::TEXT);
    let sha1: String = load.query_async(&mut connection).await?;
    let heard_at = clock::now();
    push::subscribe(&mut connection, holder).await?;
    let mut groups = Pipeline::new();
    // One that may not write is no authority.
    groups.cmd("SET").arg("tollgate:opened").arg(format!("{holder:032x}")).arg("PX").arg(60_000);
    for group in 0..GROUPS {
        groups.add_command(script::command(&sha1, holder, group, &[]));
    }
    let _: () = groups.query_async(&mut connection).await?;
    let mut pings = JoinSet::new();
    pings.spawn(ear.ping(connection.clone()));
    Ok(OpenLink::new(connection, sha1, heard_at, pings))
}
