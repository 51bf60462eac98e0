//! The ring of a thread and its sockets: listen, accept, connect, read, write, sleep, spawn. This
//! folder alone knows monoio; should the runtime have to go, it is the day's work.
//!
//! Kept out of reach here, because monoio 0.2.4 gets them wrong: `spawn_blocking`, JoinHandles,
//! an accept or read raced in a select (it loses descriptors or bytes), and dropping a runtime
//! with operations in flight ([`run`] ends only after its last task). A read or write that is under
//! way can be ended early only by shutting its socket down ([`Handle`]); a wait that takes nothing
//! can be dropped.
//!
//! Every wait that ends here reads the clock ([`clock::tick`]).

mod read_half;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod write_half;

pub(crate) use read_half::ReadHalf;
pub(crate) use socket::{Handle, Look, Peer, peers};
pub(crate) use tls::{TlsClient, client_config, with_own_sessions};
pub(crate) use write_half::WriteHalf;

use crate::clock;
use io_uring::IoUring;
use monoio::net::{TcpListener, TcpStream};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use socket::SharedStream;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Entries of the submission queue: operations that one turn of the loop can start at once.
const RING_ENTRIES: u32 = 4096;
/// Connections that the kernel holds for us before `accept`.
const BACKLOG: i32 = 4096;

/// Runs `main` to its end on this thread with a ring of its own.
///
/// `single_issuer` + `defer_taskrun` is worth more than the choice of runtime: completions are
/// handled when the loop asks for them, not by interrupting it (1.9 × less CPU; tuning.md).
/// Kernels before 6.1 lack it and get `coop_taskrun`.
pub(crate) fn run<F: Future>(main: F) -> io::Result<F::Output> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    let mut last_error = io::Error::from(io::ErrorKind::Unsupported);
    for ring in [deferred, cooperative, IoUring::builder()] {
        match RuntimeBuilder::<TimeDriver<IoUringDriver>>::new()
            .uring_builder(ring)
            .with_entries(RING_ENTRIES)
            .build()
        {
            Ok(mut runtime) => return Ok(runtime.block_on(main)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// Starts a task on this thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Waits.
pub(crate) async fn sleep(span: Duration) {
    monoio::time::sleep(span).await;
    clock::tick();
}

/// Waits for `future`, at most `span`; `None` if it took longer. Only for futures that own no
/// operation of the ring, or whose socket is thrown away with them.
pub(crate) async fn within<F: Future>(span: Duration, future: F) -> Option<F::Output> {
    let output = monoio::time::timeout(span, future).await.ok();
    clock::tick();
    output
}

/// A listening socket of this thread.
pub(crate) struct Listener(TcpListener);

/// Opens a listening socket that shares its port with the other shards'.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// Takes over a socket made by [`bind`].
    pub(crate) fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self(TcpListener::from_std(listener)?))
    }

    /// The next connection, without Nagle's delay.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        clock::tick();
        Ok((Stream::new(stream)?, peer))
    }

    /// Ends the accept that waits on it, and all later ones.
    pub(crate) fn end(&self) {
        socket::end_accepts(&self.0);
    }
}

/// A connected socket: its halves, which can go to different owners. It closes when neither is
/// left.
pub(crate) struct Stream {
    /// What it receives.
    pub reader: ReadHalf,
    /// What it sends.
    pub writer: WriteHalf,
}

impl Stream {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = Rc::new(SharedStream::new(stream));
        Ok(Self { reader: ReadHalf(Rc::clone(&socket)), writer: WriteHalf(socket) })
    }

    /// Opens a connection.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let connected = TcpStream::connect_addr(address).await;
        clock::tick();
        Self::new(connected?)
    }
}
