//! A connection: the loop over a client's requests, kept alive and pipelined ones. One that says
//! nothing for a while keeps its socket only: no buffer, and not the task that serves requests.

use super::call::Next;
use super::client::{Client, HeadRead};
use super::core::Core;
use super::watch::{NEVER, Socket};
use super::{net, path};
use crate::clock;
use crate::wire::error::ApiError;
use std::net::SocketAddr;
use std::rc::Rc;

/// Serves a client until either side has had enough. It is counted in `core.connections`.
pub async fn serve(core: Rc<Core>, socket: Socket, peer: SocketAddr) {
    let mut client = Client::new(socket, peer);
    loop {
        let next = match client.read_head(&core).await {
            HeadRead::Ready => path::request(&core, &mut client).await,
            HeadRead::Silent => {
                core.has_freed();
                return net::spawn(rest(core, client.socket, peer));
            }
            HeadRead::Closed => break,
            HeadRead::Refused(error) => path::refuse_head(&core, &mut client, error).await,
        };
        if next == Next::Close || !client.finish_request(&core).await {
            client.part().await;
            break;
        }
    }
    core.connections.set(core.connections.get() - 1);
}

/// Waits for a client that says nothing, until its deadline, which is armed already.
async fn rest(core: Rc<Core>, socket: Socket, peer: SocketAddr) {
    socket.speaks_before(NEVER).await;
    net::spawn(serve(core, socket, peer));
}

/// Tells a client that there is no room for it. It is counted in `core.refusing`.
pub async fn refuse(core: Rc<Core>, socket: Socket, peer: SocketAddr) {
    let mut client = Client::new(socket, peer);
    client.begun = clock::lately();
    path::refuse_head(&core, &mut client, ApiError::Overloaded).await;
    client.part().await;
    core.refusing.set(core.refusing.get() - 1);
}
