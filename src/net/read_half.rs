//! The half of a socket that reads. Whoever holds it need not hold the other half.

use super::socket::{Handle, Look, SharedStream};
use crate::clock;
use monoio::buf::IoBufMut;
use std::io;
use std::rc::Rc;

/// What a socket receives, for one reader.
pub(crate) struct ReadHalf(pub(super) Rc<SharedStream>);

impl ReadHalf {
    /// For ending what waits on the socket.
    pub(crate) fn handle(&self) -> Handle {
        Handle::new(&self.0)
    }

    /// Reads once, behind what `buffer` holds, into its spare capacity; the count of bytes, 0 at
    /// the end or if there is no room.
    pub(crate) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (begin, end) = (buffer.len(), buffer.capacity());
        let room = std::mem::take(buffer).slice_mut(begin..end);
        let (result, room) = self.0.read(room).await;
        clock::tick();
        *buffer = room.into_inner();
        result
    }

    /// Waits until there is something to read, or nothing more can come. It takes nothing, so it
    /// may be dropped, and no buffer waits with it.
    pub(crate) async fn readable(&self) {
        // How the wait ended, the next read tells.
        let _ = self.0.readable().await;
        clock::tick();
    }

    /// What a read would find, without waiting for it and without taking it.
    pub(crate) fn look(&self) -> Look {
        self.0.look()
    }

    /// Reads what is here, behind what `buffer` holds, into its spare capacity, of which there
    /// must be some: the count of bytes, 0 at the end; `None` if nothing is here.
    pub(crate) fn recv_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        self.0.recv_now(buffer)
    }
}
