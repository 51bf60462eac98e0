//! A connection: the loop over a client's requests, kept alive and pipelined ones. One that says
//! nothing for a while keeps its socket only: no buffer, and not the task that serves requests.

use super::call::Next;
use super::core::Core;
use super::deadline::{NEVER, Socket};
use super::downstream::{Exchange, HeadRead, Http1};
use super::path;
use super::route::route;
use super::upstream::Pools;
use crate::clock;
use crate::net;
use crate::wire::error::ApiError;
use crate::wire::request::path_at_sight;
use std::net::SocketAddr;
use std::rc::Rc;

/// Serves a client until either side has had enough. It is counted in `core.connections`.
pub(super) async fn serve(core: Rc<Core>, pools: Rc<Pools>, socket: Socket, peer: SocketAddr) {
    let mut client = Http1::new(socket, peer);
    loop {
        let next = match client.read_head(&core).await {
            HeadRead::Ready => {
                path::request(&core, &pools, &mut Exchange::Http1(&mut client)).await
            }
            HeadRead::Silent => {
                core.idle_memory.freed(clock::lately());
                return net::spawn(rest(core, pools, client.into_socket(), peer));
            }
            HeadRead::Closed => break,
            HeadRead::Refused(error) => refuse_head(&core, &mut client, error).await,
        };
        if next == Next::Close || !client.finish_request(&core).await {
            client.linger().await;
            break;
        }
    }
    core.connections.set(core.connections.get() - 1);
}

/// Waits for a client that says nothing, until it has been idle for too long.
async fn rest(core: Rc<Core>, pools: Rc<Pools>, socket: Socket, peer: SocketAddr) {
    if socket.reader.speaks_before(NEVER).await {
        return net::spawn(serve(core, pools, socket, peer));
    }
    drop(socket);
    core.connections.set(core.connections.get() - 1);
}

/// Tells a client that there is no room for it. It is counted in `core.refusing`.
pub(super) async fn refuse(core: Rc<Core>, socket: Socket, peer: SocketAddr) {
    let mut client = Http1::new(socket, peer);
    client.begin();
    refuse_head(&core, &mut client, ApiError::Overloaded).await;
    client.linger().await;
    core.refusing.set(core.refusing.get() - 1);
}

/// Answers a head that could not be read, and closes.
async fn refuse_head(core: &Core, client: &mut Http1, error: ApiError) -> Next {
    let route = route(path_at_sight(client.without_head()));
    path::refuse_unread(core, &mut Exchange::Http1(client), route, error).await
}
