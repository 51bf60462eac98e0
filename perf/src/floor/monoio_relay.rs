//! The same relay as `relay.rs`, written with monoio as the gateway sets it up: what the runtime
//! itself costs. It must keep to the ring's set-up in `src/net/mod.rs`.

use super::framing::message_len;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use std::io;
use std::net::SocketAddr;

const RING_ENTRIES: u32 = 4096;

/// Serves until it fails. A message is at most so long.
pub fn serve(
    listener: std::net::TcpListener,
    upstream: SocketAddr,
    message_bytes: usize,
) -> io::Result<()> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut runtime = RuntimeBuilder::<TimeDriver<IoUringDriver>>::new()
        .uring_builder(ring)
        .with_entries(RING_ENTRIES)
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            // A relay that ends badly shows in the load's count of broken connections.
            drop(monoio::spawn(async move { drop(relay(client, upstream, message_bytes).await) }));
        }
    })
}

async fn relay(
    mut client: TcpStream,
    upstream: SocketAddr,
    message_bytes: usize,
) -> io::Result<()> {
    let mut upstream = TcpStream::connect_addr(upstream).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut message = Vec::with_capacity(message_bytes);
    loop {
        message = pass_on(&mut client, &mut upstream, message).await?;
        message = pass_on(&mut upstream, &mut client, message).await?;
    }
}

async fn pass_on(
    from: &mut TcpStream,
    to: &mut TcpStream,
    mut message: Vec<u8>,
) -> io::Result<Vec<u8>> {
    message.clear();
    while message_len(&message).is_none_or(|len| message.len() < len) {
        let (begin, end) = (message.len(), message.capacity());
        let (result, room) = from.read(monoio::buf::IoBufMut::slice_mut(message, begin..end)).await;
        message = room.into_inner();
        if result? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (result, message) = to.write_all(message).await;
    result.map(|_| message)
}
