//! Calls to upstreams: connections kept alive per shard and service, a call made on one of them or
//! on a new one.
//!
//! A call may be sent again only if no program at the upstream can have read all of it.

mod connection;
mod fault;
mod link;
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
use link::Link;
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
        return Err(not_connected(Cause::Deadline));
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
    let mut fault = not_connected(Cause::NoAddress);
    for address in &service.addrs {
        if core.is_cut_off() || deadline <= clock::lately() {
            return Err(not_connected(Cause::Deadline));
        }
        match open_at(core, service, *address, deadline).await {
            Ok(connection) => return Ok(connection),
            Err(why) => fault = why,
        }
    }
    Err(fault)
}

async fn open_at(
    core: &Core,
    service: &Service,
    address: SocketAddr,
    deadline: Nanos,
) -> Result<UpstreamConnection, Fault> {
    let within = |timeout_ms| deadline.min(clock::lately().after(Nanos::from_ms(timeout_ms)));
    let patience = within(core.config().upstream.connect_timeout_ms).since(clock::lately());
    // A connect that lost its race with time is dropped with its socket.
    let connected = net::within(Duration::from_nanos(patience.0), connect(core, address)).await;
    let stream = match connected {
        Some(Some(Ok(stream))) if !core.is_cut_off() => stream,
        Some(Some(Err(error))) => return Err(not_connected(error.kind().into())),
        Some(_) | None => return Err(not_connected(Cause::Deadline)),
    };
    let socket = core.deadlines.socket(stream, Ends::Connection);
    let call = core.calls.on(&socket.reader);
    let mut link = Link::new(core, socket, service)?;
    if service.is_tls {
        let deadline = within(core.config().upstream.tls_timeout_ms);
        let Some(_turn) = core.handshakes.turn(&core.parking, deadline).await else {
            return Err(Fault { phase: Phase::Tls, ..not_connected(Cause::Deadline) });
        };
        link.shake_hands(deadline).await?;
    }
    Ok(UpstreamConnection::new(link, call, address))
}

const fn not_connected(cause: Cause) -> Fault {
    Fault { phase: Phase::Connect, heard: false, cause }
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
