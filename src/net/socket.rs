//! A connected socket, which its two halves share, and all that the network needs `unsafe` for.
//! Nothing here waits: what waits for a peer is in the halves.

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::{TcpListener, TcpStream};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::{Rc, Weak};

/// A socket as its halves share it. It closes when neither half is left.
pub(super) struct SharedStream(UnsafeCell<TcpStream>);

impl SharedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(UnsafeCell::new(stream))
    }

    /// Begins a read into `room`.
    #[expect(unsafe_code, reason = "monoio wants the whole socket for either direction")]
    pub(super) fn read<B: IoBufMut>(
        &self,
        room: B,
    ) -> impl Future<Output = BufResult<usize, B>> + use<'_, B> {
        // SAFETY: the socket never leaves its thread, and this reference lives only for the call:
        // the future that monoio gives back owns the buffer and a clone of the descriptor.
        unsafe { &mut *self.0.get() }.read(room)
    }

    /// Begins a write of `bytes`.
    #[expect(unsafe_code, reason = "monoio wants the whole socket for either direction")]
    pub(super) fn write<B: IoBuf>(
        &self,
        bytes: B,
    ) -> impl Future<Output = BufResult<usize, B>> + use<'_, B> {
        // SAFETY: as in `read`; monoio lets a read and a write of one socket run side by side.
        unsafe { &mut *self.0.get() }.write(bytes)
    }

    /// Waits until a read would find something, or the end.
    #[expect(unsafe_code, reason = "the cell is looked into while a half may be reading")]
    pub(super) fn readable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        // SAFETY: the references that `read` and `write` make are gone when they return.
        unsafe { &*self.0.get() }.readable(false)
    }

    /// Waits until a write would find room, or fail.
    #[expect(unsafe_code, reason = "the cell is looked into while a half may be writing")]
    pub(super) fn writable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        // SAFETY: as in `readable`.
        unsafe { &*self.0.get() }.writable(false)
    }

    /// What a read would find, without waiting for it and without taking it.
    pub(super) fn look(&self) -> Look {
        let mut byte = [0u8; 1];
        match recv(self.descriptor(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Look::Quiet,
            Ok((_, 1..)) => Look::Speaks,
            Ok(_) | Err(_) => Look::Ended,
        }
    }

    pub(super) fn recv_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match recv(self.descriptor(), spare_capacity(buffer), RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Ok(None),
            received => Ok(Some(received?.0)),
        }
    }

    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(self.descriptor(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    #[expect(unsafe_code, reason = "an ioctl that rustix has no function for")]
    pub(super) fn unacknowledged_bytes(&self) -> io::Result<u32> {
        /// `SIOCOUTQ` of `linux/sockios.h`, on all but a few old architectures.
        const SIOCOUTQ: Opcode = 0x5411;
        // SAFETY: `SIOCOUTQ` writes one `int` and reads nothing; rustix owns it for the call.
        let bytes = unsafe { ioctl(self.descriptor(), Getter::<SIOCOUTQ, c_int>::new()) }?;
        Ok(bytes.unsigned_abs())
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // Already disconnected is what was wanted.
        let _ = shutdown(self.descriptor(), how);
    }

    #[expect(unsafe_code, reason = "monoio's sockets lend their descriptor as a number only")]
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket owns the descriptor, and is open for as long as it is borrowed here.
        unsafe { BorrowedFd::borrow_raw((*self.0.get()).as_raw_fd()) }
    }
}

/// Ends the accept that waits on a listening socket.
#[expect(unsafe_code, reason = "monoio's sockets lend their descriptor as a number only")]
pub(super) fn end_accepts(listener: &TcpListener) {
    // SAFETY: the listener owns the descriptor, and is open for as long as it is borrowed here.
    let descriptor = unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) };
    // Already ended is what was wanted.
    let _ = shutdown(descriptor, Shutdown::Both);
}

/// A socket whose halves others hold, on the same thread. It keeps nothing open: on a socket that
/// has been closed it does nothing.
#[derive(Clone)]
pub(crate) struct Handle(Weak<SharedStream>);

impl Handle {
    pub(super) fn new(socket: &Rc<SharedStream>) -> Self {
        Self(Rc::downgrade(socket))
    }

    /// Ends the reads that wait on it, and all later ones, once they have found what is here;
    /// writes go on.
    pub(crate) fn end_reads(&self) {
        self.shutdown(Shutdown::Read);
    }

    /// Ends the reads and writes that wait on it, and all later ones.
    pub(crate) fn end(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// See [`super::WriteHalf::send_now`].
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?.send_now(bytes)
    }

    /// See [`super::WriteHalf::unacknowledged_bytes`].
    pub(crate) fn unacknowledged_bytes(&self) -> io::Result<u32> {
        self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?.unacknowledged_bytes()
    }

    fn shutdown(&self, how: Shutdown) {
        if let Some(socket) = self.0.upgrade() {
            socket.shutdown(how);
        }
    }
}

/// What a read would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing yet.
    Quiet,
    /// Bytes.
    Speaks,
    /// The end, or a reset.
    Ended,
}

/// What can be known of a socket's peer without reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It may say more.
    Open,
    /// It says no more. Whether it still listens only a write can tell.
    SaidAll,
    /// It has reset the connection, or the socket has been closed on this side.
    Gone,
}

/// The peers of many sockets, asked of the kernel at once and without waiting.
pub(crate) fn peers(handles: &[&Handle]) -> io::Result<Vec<Peer>> {
    let sockets: Vec<Option<Rc<SharedStream>>> =
        handles.iter().map(|handle| handle.0.upgrade()).collect();
    let poll_fd =
        |socket| PollFd::from_borrowed_fd(SharedStream::descriptor(socket), PollFlags::RDHUP);
    let open = sockets.iter().filter_map(Option::as_deref);
    let mut polled: Vec<PollFd<'_>> = open.map(poll_fd).collect();
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let mut polled = polled.iter();
    let peer = |socket: &Option<Rc<SharedStream>>| {
        let events = socket.as_ref().and_then(|_| polled.next()).map(PollFd::revents);
        match events {
            None => Peer::Gone,
            Some(events) if events.intersects(PollFlags::ERR | PollFlags::HUP) => Peer::Gone,
            Some(events) if events.contains(PollFlags::RDHUP) => Peer::SaidAll,
            Some(_) => Peer::Open,
        }
    };
    Ok(sockets.iter().map(peer).collect())
}
