//! The end of a call that has been billed: what of its answer has not left yet is sent, or, where
//! the record may still be lost, refused.

use super::Rest;
use crate::clock;
use crate::gateway::answer::{self, Ending, Own, Theirs};
use crate::gateway::call::{Call, Next, Refused};
use crate::gateway::client::Client;
use crate::gateway::core::Core;
use crate::gateway::settle::Bill;
use crate::gateway::understand::Wanted;
use crate::gateway::upstream::Link;
use crate::wire::error::ApiError;
use crate::wire::response::ResponseFraming;

/// Sends what is left of an answer whose status is, or was to be, this one. Answers the status
/// that the client got.
pub async fn finish(
    core: &Core,
    client: &mut Client,
    call: &Call,
    wanted: &Wanted,
    (status, rest): (u16, Rest),
    bill: &Bill,
) -> (u16, Next) {
    if matches!(rest, Rest::Nothing) {
        return (status, Next::Close);
    }
    let durable = core.durable(bill.seq).await;
    let next = match (rest, durable) {
        (Rest::Nothing, _) => Next::Close,
        (Rest::Whole(link), Ok(())) => whole(core, client, call, wanted, link, bill).await,
        (Rest::End(course, link), Ok(())) => course.end(core, client, wanted.service, link).await,
        (Rest::End(course, _), Err(error)) => course.fail(core, client, call, &error).await,
        (Rest::Failure(course, error), durable) => {
            course.fail(core, client, call, &durable.err().unwrap_or(error)).await
        }
        (Rest::Refusal(error, link), Ok(())) => {
            if let Some(link) = link {
                core.pools.put(core, wanted.service, link);
            }
            let keep_alive = client.keeps_alive(core);
            refuse(core, client, call, error, bill, keep_alive).await
        }
        (Rest::Whole(_) | Rest::Refusal(..), Err(error)) => {
            let status = error.status();
            return (status, refuse(core, client, call, error, bill, false).await);
        }
    };
    (status, next)
}

/// Sends an answer that is here as a whole, with what it cost.
async fn whole(
    core: &Core,
    client: &mut Client,
    call: &Call,
    wanted: &Wanted,
    link: Link,
    bill: &Bill,
) -> Next {
    let limits = core.shard.borrow().limits(&bill.caller, clock::moment_lately());
    let keep_alive = client.keeps_alive(core);
    let own = Own {
        request_id: &call.beginning.request_id,
        limits: Some(&limits),
        cost: Some(bill.cost),
        retry_after: None,
        shape: call.shape,
        keep_alive,
        http_10: client.head.http_10,
    };
    let ending = match link.head.framing {
        // The length of what a GET would have brought.
        ResponseFraming::None if client.is_head() => {
            link.head.content_length.map_or(Ending::NoBody, Ending::Length)
        }
        ResponseFraming::None => Ending::NoBody,
        _ => Ending::Length(link.body.len() as u64),
    };
    let (upstream, bytes) = (wanted.upstream(), &link.head_bytes[..]);
    let theirs = Theirs { upstream, head: &link.head, bytes };
    answer::write_head(&mut client.output, link.head.status, &theirs, ending, &own);
    client.output.extend_from_slice(&link.body);
    core.pools.put(core, wanted.service, link);
    client.send_end(core, keep_alive).await
}

/// Sends a refusal of a call that was admitted.
async fn refuse(
    core: &Core,
    client: &mut Client,
    call: &Call,
    error: ApiError,
    bill: &Bill,
    keep_alive: bool,
) -> Next {
    let limits = core.shard.borrow().limits(&bill.caller, clock::moment_lately());
    let refused = Refused { limits: Some(limits), ..Refused::from(error) };
    answer::write_refusal(client, &refused, call.shape, &call.beginning.request_id, keep_alive);
    client.send_end(core, keep_alive).await
}
