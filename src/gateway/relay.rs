//! The answer's way back. A small answer is read whole, metered, settled and sent in one write;
//! a large one and an event stream are relayed as they come. Either way the record is in the
//! journal before the answer's last byte leaves.

use super::answer::{self, Ending, Own, Refused};
use super::call::{Call, Next, meaning};
use super::client::Client;
use super::core::Core;
use super::meter::{self, is_billable};
use super::settle::{Admitted, Bill};
use super::stream;
use super::understand::Wanted;
use super::upstream::{Fault, Link};
use crate::clock;
use crate::wire::answer_form::has_array;
use crate::wire::error::ApiError;
use crate::wire::response::ResponseFraming;
use crate::wire::usage::{Reported, usage_from_body};
use shard::LimitsView;
use shard::record::Outcome;

/// Answers up to here are held until they are whole, and say what they cost.
pub const HELD_BYTES_MAX: usize = 256 * 1024;

/// Of a larger answer, so much is looked at before it goes on its way.
const FORM_BYTES: usize = 4 * 1024;

/// Status of a call whose client did not wait for one; nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// Answers a call whose upstream has begun to answer.
pub async fn answer(
    core: &Core,
    client: &mut Client,
    call: &Call,
    wanted: &Wanted,
    mut admitted: Admitted,
    mut link: Link,
) -> (u16, Next) {
    admitted.first_byte_at = Some(clock::lately());
    if link.head.is_event_stream && !link.is_done() {
        admitted.streamed = true;
        return stream::relay(core, client, call, wanted, admitted, link).await;
    }
    let declared = match link.head.framing {
        ResponseFraming::Length(length) => length,
        _ => 0,
    };
    let held = declared <= HELD_BYTES_MAX as u64;
    while held && link.body.len() <= HELD_BYTES_MAX {
        match link.next_part(core).await {
            Ok(Some(part)) => link.body.extend_from_slice(&link.input[part]),
            Ok(None) => return whole(core, client, call, wanted, admitted, link).await,
            Err(fault) => {
                admitted.waited = client.waited.after(link.waited());
                return no_answer(core, client, call, admitted, fault).await;
            }
        }
    }
    while link.body.len() < FORM_BYTES && !link.is_done() {
        match link.next_part(core).await {
            Ok(part) => link.body.extend_from_slice(&link.input[part.unwrap_or_default()]),
            Err(fault) => {
                admitted.waited = client.waited.after(link.waited());
                return no_answer(core, client, call, admitted, fault).await;
            }
        }
    }
    if is_nonsense(call, &link, false) {
        admitted.waited = client.waited.after(link.waited());
        return no_answer(core, client, call, admitted, Fault::Failed).await;
    }
    stream::relay(core, client, call, wanted, admitted, link).await
}

/// Is what the upstream calls a success not what its route promises? That is nonsense, and not
/// sold: an error page, say.
fn is_nonsense(call: &Call, link: &Link, is_whole: bool) -> bool {
    let Some(array) = call.route.answer_array().filter(|_| is_billable(link.head.status)) else {
        return false;
    };
    !has_array(&link.body, array).unwrap_or(!is_whole)
}

/// Answers a call whose upstream did not.
pub async fn no_answer(
    core: &Core,
    client: &mut Client,
    call: &Call,
    admitted: Admitted,
    fault: Fault,
) -> (u16, Next) {
    if client.has_left() {
        // Nothing of an answer went out, but its prompt went to the upstream.
        let usage = meter::complete(core, Reported::default(), client.body(), Vec::new()).await;
        let _ = admitted.settle(core, CLIENT_LEFT, Outcome::ClientAborted, &usage);
        return (CLIENT_LEFT, Next::Close);
    }
    let (error, outcome) = meaning(fault);
    let caller = admitted.caller;
    let status = error.status();
    let bill = admitted.settle(core, status, outcome, &meter::NONE_REPORTED);
    let limits = core.shard.borrow().limits(&caller, clock::moment_lately());
    if let Err(error) = core.durable(bill.seq).await {
        return not_durable(core, client, call, error, limits).await;
    }
    let limits = Some(limits);
    let refused = Refused { error, retry_after: None, limits };
    let keep_alive = client.keeps_alive(core);
    answer::write_refusal(client, &refused, call.shape, &call.beginning.request_id, keep_alive);
    let sent = client.send(core).await;
    (status, if sent.is_ok() && keep_alive { Next::KeepAlive } else { Next::Close })
}

async fn whole(
    core: &Core,
    client: &mut Client,
    call: &Call,
    wanted: &Wanted,
    mut admitted: Admitted,
    link: Link,
) -> (u16, Next) {
    let status = link.head.status;
    admitted.waited = client.waited.after(link.waited());
    if is_nonsense(call, &link, true) {
        core.pools.put(core, wanted.service, link);
        return no_answer(core, client, call, admitted, Fault::Failed).await;
    }
    let caller = admitted.caller;
    let reported = usage_from_body(&link.body);
    let usage = match reported.whole() {
        Some(counts) => meter::reported(counts),
        None if is_billable(status) && !client.is_head() => {
            meter::of_answer(core, reported, client.body(), &link.body).await
        }
        None => meter::NONE_REPORTED,
    };
    let Bill { cost, seq } = admitted.settle(core, status, Outcome::Completed, &usage);
    let limits = core.shard.borrow().limits(&caller, clock::moment_lately());
    if let Err(error) = core.durable(seq).await {
        return not_durable(core, client, call, error, limits).await;
    }
    let keep_alive = client.keeps_alive(core);
    let own = Own {
        request_id: &call.beginning.request_id,
        limits: Some(&limits),
        cost: Some(cost),
        retry_after: None,
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
    let upstream = Some((&link.head, &link.head_bytes[..]));
    answer::write_head(&mut client.output, status, upstream, ending, &own);
    client.output.extend_from_slice(&link.body);
    core.pools.put(core, wanted.service, link);
    let sent = client.send(core).await;
    (status, if sent.is_ok() && keep_alive { Next::KeepAlive } else { Next::Close })
}

/// Refuses to hand out an answer whose record may be lost yet. The call itself is settled.
async fn not_durable(
    core: &Core,
    client: &mut Client,
    call: &Call,
    error: ApiError,
    limits: LimitsView,
) -> (u16, Next) {
    let refused = Refused { limits: Some(limits), ..Refused::from(error) };
    answer::write_refusal(client, &refused, call.shape, &call.beginning.request_id, false);
    // It is the last word on this connection, heard or not.
    let _ = client.send(core).await;
    (refused.error.status(), Next::Close)
}
