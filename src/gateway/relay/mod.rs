//! The answer's way back, until it can be billed. A small answer is read whole before any of it
//! leaves; a large one and an event stream are relayed as they come, all but their end. The rest
//! is sent by [`finish`], once the record is in the journal.

mod finish;
mod stream;

pub(super) use finish::finish;

use super::admitted::Admitted;
use super::answer::{AnswerFields, Theirs};
use super::call::{Call, Uncounted};
use super::core::Core;
use super::downstream::Exchange;
use super::upstream::{Cause, Fault, UpstreamConnection};
use super::wanted::Wanted;
use crate::clock;
use crate::metrics::Phase;
use crate::wire::answer_form::has_array;
use crate::wire::error::ApiError;
use crate::wire::response::{ResponseFraming, is_success};
use crate::wire::usage::{answer_text, usage_from_body};
use shard::record::Outcome;
use shard::units::Nanos;
use stream::StreamRelay;

/// Answers up to here are held until they are whole, and say what they cost.
pub(super) const HELD_BYTES_MAX: usize = 256 * 1024;

/// Of a larger answer, so much is looked at before it goes on its way.
const FORM_BYTES: usize = 4 * 1024;

/// Status of a call whose client did not wait for one; nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// What became of an answer: all that its record says of it, and what is still to be sent.
pub(super) struct Relayed {
    /// The status that the client has got or will get.
    pub status: u16,
    /// How the call went.
    pub outcome: Outcome,
    /// What it says of the tokens that it took, to be counted; `None`: it stands for no work.
    pub uncounted: Option<Uncounted>,
    /// Time that went by waiting for the upstream.
    pub waited: Nanos,
    /// What the upstream failed in, if it did.
    pub fault: Option<Fault>,
    /// What is still to be sent; `None`: the client has left.
    pub rest: Option<Rest>,
}

/// What is still to be sent.
pub(super) enum Rest {
    /// The upstream's answer, all of which its connection holds.
    Whole(UpstreamConnection),
    /// The end of an answer that has begun.
    End(StreamRelay, UpstreamConnection),
    /// How an answer that has begun breaks off, and why.
    Failure(StreamRelay, ApiError),
    /// A refusal: there is no answer. The connection of an upstream whose answer was nonsense is
    /// as good as any.
    Refusal(ApiError, Option<UpstreamConnection>),
}

/// Relays what an upstream has begun to answer.
pub(super) async fn relay(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    wanted: &Wanted,
    admitted: &mut Admitted,
    mut connection: UpstreamConnection,
) -> Relayed {
    admitted.first_byte_at = Some(clock::lately());
    if connection.head.is_event_stream && !connection.is_done() {
        admitted.streamed = true;
        return stream::relay(core, exchange, call, wanted, admitted, connection).await;
    }
    let is_whole = match hold(core, &mut connection).await {
        Ok(is_whole) => is_whole,
        Err(fault) => return no_answer(exchange, fault, connection.waited(), None),
    };
    if is_nonsense(call, &connection, is_whole) {
        let (waited, connection) = (connection.waited(), Some(connection).filter(|_| is_whole));
        let fault = Fault { phase: Phase::Body, heard: true, cause: Cause::NotItsRoute };
        return no_answer(exchange, fault, waited, connection);
    }
    if !is_whole {
        return stream::relay(core, exchange, call, wanted, admitted, connection).await;
    }
    let (status, outcome) = (connection.head.status, Outcome::Completed);
    let uncounted = Some(uncounted_of(&connection.body))
        .filter(|it| it.is_whole() || is_success(status) && !exchange.request().is_head());
    let (waited, rest) = (connection.waited(), Some(Rest::Whole(connection)));
    Relayed { status, outcome, uncounted, waited, fault: None, rest }
}

/// What a whole answer's body says.
fn uncounted_of(body: &[u8]) -> Uncounted {
    let mut uncounted = Uncounted { reported: usage_from_body(body), completion: Vec::new() };
    if uncounted.reported.output.is_none() {
        answer_text(body, &mut uncounted.completion);
    }
    uncounted
}

/// The fields of an upstream's answer, as far as they go on to the caller.
fn fields_of<'a>(wanted: &'a Wanted, connection: &'a UpstreamConnection) -> AnswerFields<'a> {
    let (head, bytes) = (&connection.head, &connection.head_bytes[..]);
    AnswerFields::Upstream(Theirs { upstream: wanted.upstream(), head, bytes })
}

/// Reads an answer's body until it is whole (true), or too large to be held.
async fn hold(core: &Core, connection: &mut UpstreamConnection) -> Result<bool, Fault> {
    let most = match connection.head.framing {
        ResponseFraming::Length(length) if length > HELD_BYTES_MAX as u64 => FORM_BYTES,
        _ => HELD_BYTES_MAX + 1,
    };
    while connection.body.len() < most {
        let Some(part) = connection.next_part(core).await? else { return Ok(true) };
        connection.body.extend_from_slice(&connection.input[part]);
    }
    Ok(false)
}

/// Is what the upstream calls a success not what its route promises? That is nonsense, and not
/// sold: an error page, say.
fn is_nonsense(call: &Call, connection: &UpstreamConnection, is_whole: bool) -> bool {
    let Some(array) = call.route.answer_array().filter(|_| is_success(connection.head.status))
    else {
        return false;
    };
    !has_array(&connection.body, array).unwrap_or(!is_whole)
}

/// What becomes of a call that its upstream, waited for so long, did not answer, or answered with
/// nonsense on a connection that is still good.
pub(super) fn no_answer(
    exchange: &Exchange<'_>,
    fault: Fault,
    waited: Nanos,
    connection: Option<UpstreamConnection>,
) -> Relayed {
    if exchange.has_left() {
        // Nothing of an answer went out, but its prompt went to the upstream.
        let (status, outcome) = (CLIENT_LEFT, Outcome::ClientAborted);
        let uncounted = Some(Uncounted::default());
        return Relayed { status, outcome, uncounted, waited, fault: None, rest: None };
    }
    let (error, outcome) = meaning(&fault);
    let (status, rest) = (error.status(), Some(Rest::Refusal(error, connection)));
    Relayed { status, outcome, uncounted: None, waited, fault: Some(fault), rest }
}

/// What a fault is to the caller, and to the record.
const fn meaning(fault: &Fault) -> (ApiError, Outcome) {
    match fault.cause {
        Cause::Deadline => (ApiError::UpstreamTimeout, Outcome::TimedOut),
        _ => (ApiError::UpstreamError, Outcome::UpstreamFailed),
    }
}
