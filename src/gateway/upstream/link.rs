//! What carries the bytes of an upstream's connection: its socket, and TLS around it where the
//! service's URL asks for it. What is read from here and written to it is plain.

use super::fault::{Cause, Fault};
use crate::gateway::core::Core;
use crate::gateway::deadline::{Socket, WriteDeadline};
use crate::metrics::Phase;
use crate::net::{Look, TlsClient};
use shard::catalog::Service;
use shard::units::Nanos;
use std::io;
use std::rc::Rc;

/// Plain bytes that are encrypted at once.
const ENCRYPTED_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Link {
    socket: Socket,
    tls: Option<Box<Tls>>,
}

struct Tls {
    client: TlsClient,
    /// Whom the certificate was checked for.
    authority: Box<str>,
    /// Plain bytes of which some are still in the client's `outgoing`.
    in_flight: usize,
}

impl Link {
    /// Over a socket that has just been connected; with TLS, [`Link::shake_hands`] comes next.
    pub(super) fn new(core: &Core, socket: Socket, service: &Service) -> Result<Self, Fault> {
        if !service.is_tls {
            return Ok(Self { socket, tls: None });
        }
        let (config, authority) = (core.tls.clone(), service.authority.clone());
        let client = TlsClient::new(config, service.host()).map_err(not_opened)?;
        Ok(Self { socket, tls: Some(Box::new(Tls { client, authority, in_flight: 0 })) })
    }

    /// Agrees with the upstream on keys, and checks its certificate; nothing without TLS.
    pub(super) async fn shake_hands(&mut self, deadline: Nanos) -> Result<(), Fault> {
        let Self { socket, tls: Some(tls) } = self else { return Ok(()) };
        let client = &mut tls.client;
        let mut plain = Vec::new();
        loop {
            let step = client.take_in(&mut plain);
            let is_at_an_end = step.is_err() || client.is_open();
            let outgoing = client.outgoing();
            let sent = match outgoing.is_empty() {
                true => Ok(()),
                false => socket.writer.write_all(outgoing, WriteDeadline::At(deadline)).await,
            };
            outgoing.clear();
            step.map_err(not_opened)?;
            sent.map_err(|error| self::broken(socket, error.kind().into()))?;
            if is_at_an_end {
                return Ok(());
            }
            match socket.reader.read(client.received(), deadline).await {
                Ok(0) => return Err(broken(socket, Cause::Closed)),
                Ok(_) => {}
                Err(error) => return Err(broken(socket, error.kind().into())),
            }
        }
    }

    /// May a call of the service go over it?
    pub(super) fn is_for(&self, service: &Service) -> bool {
        match &self.tls {
            None => !service.is_tls,
            Some(tls) => service.is_tls && tls.authority == service.authority,
        }
    }

    /// Has something on it run out of time?
    pub(super) fn is_expired(&self) -> bool {
        self.socket.is_expired()
    }

    /// See [`crate::gateway::deadline::TimedWriter::is_unread`].
    pub(super) fn is_unread(&self) -> bool {
        self.socket.writer.is_unread()
    }

    /// Frees what an idle connection does not need.
    pub(super) fn free_buffers(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.client.free_buffers();
        }
    }

    /// Reads behind what `plain` holds until there is something; the count of bytes, 0 at the end.
    /// Past the deadline it finds an end.
    pub(super) async fn read(&mut self, plain: &mut Vec<u8>, deadline: Nanos) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.reader.read(plain, deadline).await;
        };
        loop {
            let count = self.socket.reader.read(tls.client.received(), deadline).await?;
            if let Some(count) = tls.take(count, plain)? {
                return Ok(count);
            }
        }
    }

    /// Reads what is here: the count of bytes, 0 at the end; `None` if nothing is here.
    pub(super) fn read_now(&mut self, plain: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else { return self.socket.reader.recv_now(plain) };
        loop {
            let Some(count) = self.socket.reader.recv_now(tls.client.received())? else {
                return Ok(None);
            };
            if let Some(count) = tls.take(count, plain)? {
                return Ok(Some(count));
            }
        }
    }

    /// What is on it that nobody has asked for. TLS' own messages (tickets of sessions) are read
    /// on the way.
    pub(super) fn look(&mut self) -> Look {
        let look = self.socket.reader.look();
        if self.tls.is_none() || look != Look::Speaks {
            return look;
        }
        match self.read_now(&mut Vec::new()) {
            Ok(None) => Look::Quiet,
            Ok(Some(1..)) => Look::Speaks,
            Ok(Some(0)) | Err(_) => Look::Ended,
        }
    }

    /// Writes once: how many of `plain` are on their way. Past the deadline it fails.
    pub(super) async fn write(
        &mut self,
        plain: &mut Vec<u8>,
        deadline: WriteDeadline,
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.writer.write(plain, deadline).await;
        };
        tls.encrypt(plain)?;
        let count = self.socket.writer.write(tls.client.outgoing(), deadline).await?;
        Ok(tls.sent(count))
    }

    /// Sends what there is room for at once; how many of `plain`, the rest of what was written
    /// before, are on their way.
    pub(super) fn send_now(&mut self, plain: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.writer.send_now(plain) };
        tls.encrypt(plain)?;
        let count = self.socket.writer.send_now(tls.client.outgoing())?;
        Ok(tls.sent(count))
    }

    /// Waits until there is room to write or, where `or_readable`, something to read.
    pub(super) async fn ready(&self, or_readable: bool, deadline: WriteDeadline) -> io::Result<()> {
        let reader = or_readable.then_some(&self.socket.reader);
        self.socket.writer.ready(reader, deadline).await
    }
}

impl Tls {
    /// Reads `count` bytes that were received: how many plain ones they bring, 0 at the end;
    /// `None`: none yet.
    fn take(&mut self, count: usize, plain: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let before = plain.len();
        self.client.take_in(plain).map_err(invalid)?;
        match plain.len() - before {
            0 if self.client.is_closed() => Ok(Some(0)),
            // Whoever stands between may have cut it off.
            0 if count == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            0 => Ok(None),
            read => Ok(Some(read)),
        }
    }

    /// Encrypts the next part of `plain`, unless one is under way.
    fn encrypt(&mut self, plain: &[u8]) -> io::Result<()> {
        if self.in_flight == 0 {
            self.in_flight = plain.len().min(ENCRYPTED_BYTES);
            self.client.encrypt(&plain[..self.in_flight]).map_err(invalid)?;
        }
        Ok(())
    }

    /// `count` encrypted bytes have left: of how many plain ones the last has.
    fn sent(&mut self, count: usize) -> usize {
        let outgoing = self.client.outgoing();
        outgoing.drain(..count);
        match outgoing.is_empty() {
            true => std::mem::take(&mut self.in_flight),
            false => 0,
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The upstream is not who it should be, or does not speak TLS.
fn not_opened(error: rustls::Error) -> Fault {
    Fault { phase: Phase::Tls, heard: false, cause: Cause::Tls(Rc::new(error)) }
}

fn broken(socket: &Socket, cause: Cause) -> Fault {
    let cause = if socket.is_expired() { Cause::Deadline } else { cause };
    Fault { phase: Phase::Tls, heard: false, cause }
}
