//! The end of a call that has been billed: what of its answer has not left yet is sent, or, where
//! the record may still be lost, refused.

use super::{Rest, fields_of};
use crate::clock;
use crate::gateway::admitted::Bill;
use crate::gateway::answer::{AnswerHead, BodyLength, GatewayHeaders};
use crate::gateway::call::{Call, Next, Refused};
use crate::gateway::core::Core;
use crate::gateway::downstream::Exchange;
use crate::gateway::upstream::{Pools, UpstreamConnection};
use crate::gateway::wanted::Wanted;
use crate::wire::error::ApiError;
use crate::wire::response::ResponseFraming;

/// Sends what is left of an answer whose status is, or was to be, this one. Answers the status
/// that the client got.
pub(crate) async fn finish(
    core: &Core,
    pools: &Pools,
    exchange: &mut Exchange<'_>,
    call: &Call,
    wanted: &Wanted,
    (status, rest): (u16, Option<Rest>),
    bill: &Bill,
) -> (u16, Next) {
    let Some(rest) = rest else { return (status, Next::Close) };
    let durable = core.durable(bill.seq).await;
    let next = match (rest, durable) {
        (Rest::Whole(connection), Ok(())) => {
            whole(core, pools, exchange, call, wanted, connection, bill).await
        }
        (Rest::End(stream, connection), Ok(())) => {
            stream.end(core, pools, exchange, wanted.service, connection).await
        }
        (Rest::End(stream, _), Err(error)) => stream.fail(core, exchange, call, &error).await,
        (Rest::Failure(stream, error), durable) => {
            stream.fail(core, exchange, call, &durable.err().unwrap_or(error)).await
        }
        (Rest::Refusal(error, connection), Ok(())) => {
            if let Some(connection) = connection {
                pools.put(core, wanted.service, connection);
            }
            refuse(core, exchange, call, error, bill).await
        }
        (Rest::Whole(_) | Rest::Refusal(..), Err(error)) => {
            let status = error.status();
            exchange.close_after();
            return (status, refuse(core, exchange, call, error, bill).await);
        }
    };
    (status, next)
}

/// Sends an answer that is here as a whole, with what it cost.
async fn whole(
    core: &Core,
    pools: &Pools,
    exchange: &mut Exchange<'_>,
    call: &Call,
    wanted: &Wanted,
    connection: UpstreamConnection,
    bill: &Bill,
) -> Next {
    let limits = core.shard.borrow().limits(&bill.caller, clock::moment_lately());
    let own = GatewayHeaders { limits: Some(&limits), cost: bill.cost, ..GatewayHeaders::of(call) };
    let length = match connection.head.framing {
        // The length of what a GET would have brought.
        ResponseFraming::None if exchange.request().is_head() => {
            connection.head.content_length.map_or(BodyLength::None, BodyLength::Known)
        }
        ResponseFraming::None => BodyLength::None,
        _ => BodyLength::Known(connection.body.len() as u64),
    };
    let fields = fields_of(wanted, &connection);
    exchange.answer(core, &AnswerHead { status: connection.head.status, fields, length, own });
    exchange.part(&connection.body);
    pools.put(core, wanted.service, connection);
    exchange.finish(core).await
}

/// Sends a refusal of a call that was admitted.
async fn refuse(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    error: ApiError,
    bill: &Bill,
) -> Next {
    let limits = core.shard.borrow().limits(&bill.caller, clock::moment_lately());
    let refused = Refused { limits: Some(limits), ..Refused::from(error) };
    exchange.refuse(core, call, &refused).await
}
