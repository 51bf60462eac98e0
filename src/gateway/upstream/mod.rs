//! Calls to upstreams: connections kept alive per shard and service, a call made on one of them or
//! on a new one.
//!
//! A call may be sent again only if no program at the upstream can have read all of it.

mod connection;
mod fault;
mod pool;

pub(super) use connection::UpstreamConnection;
pub(super) use fault::{Cause, Fault};
pub(super) use pool::Pools;

use super::core::Core;
use super::deadline::Ends;
use super::park::Spot;
use super::presence::Presence;
use crate::clock;
use crate::metrics::Phase;
use crate::net::{self, Stream};
use shard::catalog::Service;
use shard::units::Nanos;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// What one call to an upstream is about.
pub(super) struct UpstreamRequest<'a> {
    /// Index of the service.
    pub index: u32,
    /// The service.
    pub service: &'a Service,
    /// A HEAD request: its answer has no body.
    pub is_head: bool,
    /// For whom. The call ends when it leaves.
    pub client: Presence,
    /// Not later than this either, however long the configuration would wait.
    pub deadline: Nanos,
}

/// Sends what `compose` writes and reads the answer's head. `attempts` counts the calls begun.
pub(super) async fn call(
    core: &Core,
    pools: &Pools,
    request: &UpstreamRequest<'_>,
    attempts: &mut u16,
    compose: impl Fn(&mut Vec<u8>),
) -> Result<UpstreamConnection, Fault> {
    let begun = clock::lately();
    let total = begun.after(Nanos::from_ms(core.config().upstream.total_timeout_ms));
    let total = total.min(request.deadline);
    if total <= begun {
        return Err(Fault { phase: Phase::Connect, heard: false, cause: Cause::Deadline });
    }
    *attempts += 1;
    if let Some(mut connection) = pools.take(core, request) {
        connection.reused = true;
        connection.total_deadline = total;
        compose(&mut connection.output);
        match connection.exchange(core, request).await {
            Ok(()) => return Ok(connection),
            // Sent again, so counted again: the record says how often the upstream was called.
            Err(fault) if fault.cause != Cause::Deadline && !fault.heard => *attempts += 1,
            Err(fault) => return Err(fault),
        }
    }
    let mut connection = open(core, pools, request.service, total).await?;
    connection.waited = clock::lately().since(begun);
    connection.total_deadline = total;
    compose(&mut connection.output);
    connection.exchange(core, request).await?;
    Ok(connection)
}

/// A new connection. All addresses together have until `deadline`, and until a drain ends.
async fn open(
    core: &Core,
    pools: &Pools,
    service: &Service,
    deadline: Nanos,
) -> Result<UpstreamConnection, Fault> {
    pools.make_room(core);
    let each = Nanos::from_ms(core.config().upstream.connect_timeout_ms);
    let failed = |cause| Fault { phase: Phase::Connect, heard: false, cause };
    let mut cause = Cause::NoAddress;
    for address in &service.addrs {
        let patience = each.min(deadline.since(clock::lately()));
        if core.is_cut_off() || patience == Nanos(0) {
            return Err(failed(Cause::Deadline));
        }
        // A connect that lost its race with time is dropped with its socket.
        match net::within(Duration::from_nanos(patience.0), connect(core, *address)).await {
            Some(Some(Ok(stream))) if !core.is_cut_off() => {
                let socket = core.deadlines.socket(stream, Ends::Connection);
                let call = core.calls.on(&socket.reader);
                return Ok(UpstreamConnection::new(socket, call, *address));
            }
            Some(Some(Err(error))) => cause = error.kind().into(),
            Some(_) | None => cause = Cause::Deadline,
        }
    }
    Err(failed(cause))
}

/// Connects; `None` if the shard's drain has ended meanwhile.
async fn connect(core: &Core, address: SocketAddr) -> Option<io::Result<Stream>> {
    let mut connected = pin!(Stream::connect(address));
    let mut cut_off = pin!(core.parking.wait(Spot::CutOff));
    let connected_in_time = poll_fn(|context| match connected.as_mut().poll(context) {
        Poll::Ready(connected) => Poll::Ready(Some(connected)),
        Poll::Pending => cut_off.as_mut().poll(context).map(|()| None),
    });
    connected_in_time.await
}
