//! The half of a socket that writes. Whoever holds it need not hold the other half.

use super::read_half::ReadHalf;
use super::socket::SharedStream;
use crate::clock;
use monoio::buf::IoBuf;
use rustix::net::Shutdown;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// What a socket sends, for one writer.
pub(crate) struct WriteHalf(pub(super) Rc<SharedStream>);

impl WriteHalf {
    /// Writes once: how many of `bytes` there was room for.
    pub(crate) async fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let (result, given_back) = self.0.write(std::mem::take(bytes)).await;
        clock::tick();
        *bytes = given_back;
        result
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let (result, rest) = self.0.write(std::mem::take(bytes).slice(written..)).await;
            clock::tick();
            *bytes = rest.into_inner();
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is room to write or, where a reader is given, something for it to read.
    /// It takes nothing, so it may be dropped.
    pub(crate) async fn ready(&self, or_readable: Option<&ReadHalf>) -> io::Result<()> {
        let mut writable = pin!(self.0.writable());
        let mut readable = pin!(or_readable.map(|reader| reader.0.readable()));
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

    /// Sends what there is room for at once; how much that is.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_now(bytes)
    }

    /// Bytes sent that the peer's kernel has not acknowledged: no program there can have read
    /// them. They stay counted when the peer resets the connection.
    pub(crate) fn unacknowledged_bytes(&self) -> io::Result<u32> {
        self.0.unacknowledged_bytes()
    }

    /// The peer reads an end; reads go on.
    pub(crate) fn end(&self) {
        self.0.shutdown(Shutdown::Write);
    }
}
