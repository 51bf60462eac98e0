//! Deadlines of sockets, looked at together a few times a second instead of by a timer each:
//! arming one is two stores, and the ring sees no timer operation per read.
//!
//! A deadline that passes shuts the socket down, so that the read or write waiting on it ends;
//! the task that waited asks [`Watch::fired`] why. Precision is [`SWEEP_EVERY`]; what needs
//! better (a parked request) has a timer of its own.

use super::net::{Handle, Stream};
use shard::units::Nanos;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// How often deadlines are looked at.
pub const SWEEP_EVERY: Duration = Duration::from_millis(100);

const NEVER: Nanos = Nanos(u64::MAX);

/// What ends when the deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Reads only: the peer can still be told.
    Reads,
    /// The same; the peer is not in the middle of anything.
    IdleRead,
    /// Everything.
    Both,
}

/// One socket's deadline.
pub struct Watch {
    handle: Handle,
    deadline: Cell<Nanos>,
    ends: Cell<Ends>,
    fired: Cell<bool>,
    open: Cell<bool>,
}

impl Watch {
    /// From now on, end what waits on the socket at `deadline`.
    pub fn arm(&self, deadline: Nanos, ends: Ends) {
        self.deadline.set(deadline);
        self.ends.set(ends);
    }

    /// No deadline.
    pub fn disarm(&self) {
        self.deadline.set(NEVER);
    }

    /// Has a deadline passed?
    pub fn fired(&self) -> bool {
        self.fired.get()
    }
}

/// The deadlines of one shard.
#[derive(Default)]
pub struct Watches(RefCell<Vec<Rc<Watch>>>);

impl Watches {
    /// Takes a socket under watch.
    pub fn socket(&self, stream: Stream) -> Socket {
        let watch = Rc::new(Watch {
            handle: stream.handle(),
            deadline: Cell::new(NEVER),
            ends: Cell::new(Ends::Both),
            fired: Cell::new(false),
            open: Cell::new(true),
        });
        self.0.borrow_mut().push(Rc::clone(&watch));
        Socket { watch: Guard(watch), stream }
    }

    /// Ends reads that wait for a request on an idle connection.
    pub fn end_idle(&self) {
        for watch in self.0.borrow().iter().filter(|watch| watch.open.get()) {
            if watch.ends.get() == Ends::IdleRead && watch.deadline.get() != NEVER {
                watch.handle.end_reads();
            }
        }
    }

    /// Ends everything.
    pub fn end_all(&self) {
        for watch in self.0.borrow().iter().filter(|watch| watch.open.get()) {
            watch.fired.set(true);
            watch.handle.end();
        }
    }

    /// Ends what is overdue and forgets what is closed.
    pub fn sweep(&self, now: Nanos) {
        self.0.borrow_mut().retain(|watch| {
            if watch.open.get() && watch.deadline.get() <= now {
                watch.fired.set(true);
                watch.disarm();
                match watch.ends.get() {
                    Ends::Reads | Ends::IdleRead => watch.handle.end_reads(),
                    Ends::Both => watch.handle.end(),
                }
            }
            watch.open.get()
        });
    }
}

/// Marks the socket closed before its descriptor is.
struct Guard(Rc<Watch>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.open.set(false);
    }
}

/// A socket with its deadline. Fields drop in order: first the guard, then the descriptor.
pub struct Socket {
    watch: Guard,
    stream: Stream,
}

impl Socket {
    /// Its deadline.
    pub fn watch(&self) -> &Watch {
        &self.watch.0
    }

    /// See [`Stream::read`].
    pub async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.read(buffer).await
    }

    /// See [`Stream::write_all`].
    pub async fn write_all(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends nothing more.
    pub fn end_writes(&self) {
        self.stream.handle().end_writes();
    }

    /// Is there nothing to read and the peer still there? Asks the kernel without waiting.
    pub fn is_quiet(&self) -> bool {
        self.stream.handle().is_quiet()
    }
}
