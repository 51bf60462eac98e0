//! The only file that knows monoio: listen, accept, connect, read, write, sleep, spawn, and the
//! ring's set-up. Should the runtime have to go, this file is the day's work.
//!
//! Kept out of reach here, because monoio 0.2.4 gets them wrong: `spawn_blocking`, JoinHandles,
//! an accept or read raced in a select (loses descriptors or bytes), and dropping a runtime
//! with operations in flight ([`run`] ends only after its last task). A read or write is ended
//! early only by shutting its socket down ([`Handle`]).
//!
//! Every wait that ends here reads the clock ([`clock::tick`]).

use crate::clock;
use io_uring::IoUring;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socket_with,
};
use std::ffi::c_int;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::task::Poll;
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
pub fn run<F: Future>(main: F) -> io::Result<F::Output> {
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
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Waits.
pub async fn sleep(span: Duration) {
    monoio::time::sleep(span).await;
    clock::tick();
}

/// Waits for `future`, at most `span`; `None` if it took longer. Only for futures that own no
/// operation of the ring, or whose socket is thrown away with them.
pub async fn within<F: Future>(span: Duration, future: F) -> Option<F::Output> {
    let output = monoio::time::timeout(span, future).await.ok();
    clock::tick();
    output
}

/// A listening socket of this thread.
pub struct Listener {
    inner: TcpListener,
    fd: RawFd,
}

/// Ends reads, writes and accepts that wait on a socket, from another task of the same thread.
///
/// It holds a bare descriptor number, so it must not be used once its socket is dropped:
/// the gateway's `watch.rs`, the only user, forgets it first.
#[derive(Clone, Copy, Debug)]
pub struct Handle(RawFd);

impl Handle {
    /// Reads end with 0 bytes; writes go on.
    pub fn end_reads(self) {
        self.shutdown(Shutdown::Read);
    }

    /// The peer reads an end; reads go on.
    pub fn end_writes(self) {
        self.shutdown(Shutdown::Write);
    }

    /// Reads and writes end.
    pub fn end(self) {
        self.shutdown(Shutdown::Both);
    }

    /// What a read would find, without waiting for it and without taking it.
    pub fn look(self) -> Look {
        let mut byte = [0u8; 1];
        match recv(self.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Look::Quiet,
            Ok((_, 1..)) => Look::Speaks,
            Ok(_) | Err(_) => Look::Ended,
        }
    }

    /// Reads what is here, behind what `buffer` holds, into its spare capacity, of which there
    /// must be some: the count of bytes, 0 at the end; `None` if nothing is here.
    pub fn recv_now(self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match recv(self.socket(), spare_capacity(buffer), RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Ok(None),
            received => Ok(Some(received?.0)),
        }
    }

    /// Sends what there is room for at once; how much that is.
    pub fn send_now(self, bytes: &[u8]) -> io::Result<usize> {
        match send(self.socket(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Bytes sent that the peer's kernel has not acknowledged: no program there can have read
    /// them. They stay counted when the peer resets the connection.
    #[expect(unsafe_code, reason = "an ioctl that rustix has no function for")]
    pub fn unacknowledged_bytes(self) -> io::Result<u32> {
        /// `SIOCOUTQ` of `linux/sockios.h`, on all but a few old architectures.
        const SIOCOUTQ: Opcode = 0x5411;
        // SAFETY: `SIOCOUTQ` writes one `int` and reads nothing; rustix owns it for the call.
        let bytes = unsafe { ioctl(self.socket(), Getter::<SIOCOUTQ, c_int>::new()) }?;
        Ok(bytes.unsigned_abs())
    }

    fn shutdown(self, how: Shutdown) {
        // Already disconnected is what was wanted.
        let _ = shutdown(self.socket(), how);
    }

    #[expect(unsafe_code, reason = "a descriptor borrowed from a socket that its task owns")]
    fn socket<'a>(self) -> BorrowedFd<'a> {
        // SAFETY: the socket's task owns the descriptor and lives on this thread; it unregisters
        // this handle before it drops the socket, so the number still names that socket.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// What a read would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing yet.
    Quiet,
    /// Bytes.
    Speaks,
    /// The end, or a reset.
    Ended,
}

/// What can be known of a socket's peer without reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It may say more.
    Open,
    /// It says no more. Whether it still listens only a write can tell.
    SaidAll,
    /// It has reset the connection.
    Gone,
}

/// The peers of many sockets, asked of the kernel at once and without waiting.
pub fn peers(handles: &[Handle]) -> io::Result<Vec<Peer>> {
    let poll_fd = |handle: &Handle| PollFd::from_borrowed_fd(handle.socket(), PollFlags::RDHUP);
    let mut sockets: Vec<PollFd<'_>> = handles.iter().map(poll_fd).collect();
    poll(&mut sockets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let peer = |socket: &PollFd<'_>| match socket.revents() {
        events if events.intersects(PollFlags::ERR | PollFlags::HUP) => Peer::Gone,
        events if events.contains(PollFlags::RDHUP) => Peer::SaidAll,
        _ => Peer::Open,
    };
    Ok(sockets.iter().map(peer).collect())
}

/// Opens a listening socket that shares its port with the other shards'.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
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
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        let inner = TcpListener::from_std(listener)?;
        let fd = inner.as_raw_fd();
        Ok(Self { inner, fd })
    }

    /// For ending the accept that waits on it.
    pub const fn handle(&self) -> Handle {
        Handle(self.fd)
    }

    /// The next connection, without Nagle's delay.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (inner, peer) = self.inner.accept().await?;
        clock::tick();
        Ok((Stream::new(inner)?, peer))
    }
}

/// A connected socket.
pub struct Stream {
    inner: TcpStream,
    fd: RawFd,
}

impl Stream {
    fn new(inner: TcpStream) -> io::Result<Self> {
        inner.set_nodelay(true)?;
        let fd = inner.as_raw_fd();
        Ok(Self { inner, fd })
    }

    /// Opens a connection.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let connected = TcpStream::connect_addr(address).await;
        clock::tick();
        Self::new(connected?)
    }

    /// For ending what waits on it.
    pub const fn handle(&self) -> Handle {
        Handle(self.fd)
    }

    /// Reads once, behind what `buffer` holds, into its spare capacity; the count of bytes, 0 at
    /// the end or if there is no room.
    pub async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (begin, end) = (buffer.len(), buffer.capacity());
        let room = std::mem::take(buffer).slice_mut(begin..end);
        let (result, room) = self.inner.read(room).await;
        clock::tick();
        *buffer = room.into_inner();
        result
    }

    /// Waits until there is something to read, or nothing more can come. It takes nothing, so it
    /// may be dropped, and no buffer waits with it.
    pub async fn readable(&self) {
        // How the wait ended, the next read tells.
        let _ = self.inner.readable(false).await;
        clock::tick();
    }

    /// Waits until there is room to write or, where `or_readable`, something to read. It takes
    /// nothing, so it may be dropped.
    pub async fn ready(&self, or_readable: bool) -> io::Result<()> {
        let mut writable = pin!(self.inner.writable(false));
        let mut readable = pin!(or_readable.then(|| self.inner.readable(false)));
        let ready = poll_fn(|context| {
            if let Some(readable) = readable.as_mut().as_pin_mut()
                && let Poll::Ready(result) = readable.poll(context)
            {
                return Poll::Ready(result);
            }
            writable.as_mut().poll(context)
        });
        let result = ready.await;
        clock::tick();
        result
    }

    /// Writes once: how many of `bytes` there was room for.
    pub async fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let (result, given_back) = self.inner.write(std::mem::take(bytes)).await;
        clock::tick();
        *bytes = given_back;
        result
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let (result, given_back) = self.inner.write_all(std::mem::take(bytes)).await;
        clock::tick();
        *bytes = given_back;
        result.map(|_| ())
    }
}
