//! A bare io_uring with one buffer per connection and one operation at a time on each: the whole
//! of what a relay needs. All of this crate's `unsafe` is here.
//!
//! A buffer must not move or go while the kernel may use it: buffers are boxed and never freed,
//! and a busy one is not handed out.

use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::mem::ManuallyDrop;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

const ENTRIES: u32 = 1_024;
/// Names the accept among completions; the others are named by their slot.
const ACCEPT: u64 = u64::MAX;

struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    busy: bool,
}

/// What has completed.
pub enum Event {
    /// A connection came.
    Accepted(TcpStream),
    /// So many bytes were sent from, or received into, this slot's buffer.
    Moved(usize, usize),
    /// The slot's connection is at its end, or broken.
    Ended(usize),
}

/// The ring and its buffers, numbered by slot.
pub struct Ring {
    uring: IoUring,
    buffers: ManuallyDrop<Vec<Buffer>>,
    buffer_bytes: usize,
}

impl Ring {
    /// For this thread alone, with buffers of this size.
    pub fn new(buffer_bytes: usize) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let uring = builder.build(ENTRIES)?;
        Ok(Self { uring, buffers: ManuallyDrop::new(Vec::new()), buffer_bytes })
    }

    /// One more slot.
    pub fn add_slot(&mut self) -> usize {
        let bytes = vec![0; self.buffer_bytes].into_boxed_slice();
        self.buffers.push(Buffer { bytes, len: 0, busy: false });
        self.buffers.len() - 1
    }

    /// What a slot holds.
    pub fn held(&self, slot: usize) -> &[u8] {
        let buffer = &self.buffers[slot];
        assert!(!buffer.busy, "the kernel has it");
        &buffer.bytes[..buffer.len]
    }

    /// Forgets what a slot holds.
    pub fn clear(&mut self, slot: usize) {
        assert!(!self.buffers[slot].busy, "the kernel has it");
        self.buffers[slot].len = 0;
    }

    /// Puts these bytes into a slot instead.
    pub fn fill(&mut self, slot: usize, bytes: &[u8]) {
        self.clear(slot);
        self.buffers[slot].bytes[..bytes.len()].copy_from_slice(bytes);
        self.buffers[slot].len = bytes.len();
    }

    /// Accepts once.
    pub fn accept(&mut self, listener: &TcpListener) {
        let fd = types::Fd(listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).build();
        self.push(&entry.user_data(ACCEPT));
    }

    /// Receives once, behind what the slot holds.
    pub fn receive(&mut self, slot: usize, stream: &TcpStream) {
        let buffer = self.take(slot);
        let room = &mut buffer.bytes[buffer.len..];
        assert!(!room.is_empty(), "a message is too long for a floor");
        let fd = types::Fd(stream.as_raw_fd());
        let entry = opcode::Recv::new(fd, room.as_mut_ptr(), room.len() as u32).build();
        self.push(&entry.user_data(slot as u64));
    }

    /// Sends what the slot holds, from `begin` on.
    pub fn send(&mut self, slot: usize, stream: &TcpStream, begin: usize) {
        let buffer = self.take(slot);
        let rest = &buffer.bytes[begin..buffer.len];
        let fd = types::Fd(stream.as_raw_fd());
        let entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32).build();
        self.push(&entry.user_data(slot as u64));
    }

    /// Submits what is to be done, waits for the first completion, and takes in all there are.
    pub fn turn(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.uring.submit_and_wait(1)?;
        for completion in self.uring.completion() {
            let result = completion.result();
            let event = if completion.user_data() == ACCEPT {
                if result < 0 {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                Event::Accepted(adopt(result))
            } else {
                let slot = completion.user_data() as usize;
                self.buffers[slot].busy = false;
                if result > 0 { Event::Moved(slot, result as usize) } else { Event::Ended(slot) }
            };
            events.push(event);
        }
        Ok(())
    }

    /// So many bytes were received behind what the slot held.
    pub fn received(&mut self, slot: usize, count: usize) {
        self.buffers[slot].len += count;
    }

    fn take(&mut self, slot: usize) -> &mut Buffer {
        let buffer = &mut self.buffers[slot];
        assert!(!buffer.busy, "one operation at a time");
        buffer.busy = true;
        buffer
    }

    #[expect(unsafe_code, reason = "the ring's own interface")]
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry points into a slot's boxed buffer, which is never freed and is marked
        // busy until its completion; `accept` has no pointer. A descriptor closed meanwhile
        // makes the operation fail, no more.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            // Full: the kernel takes what is there.
            let submitted = self.uring.submit();
            assert!(submitted.is_ok(), "the ring is broken: {submitted:?}");
        }
    }
}

#[expect(unsafe_code, reason = "a descriptor comes from the kernel as a number")]
fn adopt(fd: i32) -> TcpStream {
    // SAFETY: the kernel has just opened it for this accept, and nobody else knows it.
    unsafe { TcpStream::from_raw_fd(fd) }
}
