//! TLS as a client, over bytes that somebody else carries: what was received goes in, what is to be
//! sent comes out, and no socket is known here. rustls does the cryptography, aws-lc-rs under it:
//! of rustls' two providers the faster one at AES-GCM, and in this program already.

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, Error, RootCertStore};
use std::sync::Arc;

/// A record's plain bytes at most, and what a record adds to them (RFC 8446, section 5.2; RFC 5246
/// allows more, which nobody sends: then `outgoing` grows).
const RECORD_BYTES: usize = 16 * 1024;
const RECORD_EXTRA_BYTES: usize = 256;
/// Servers whose sessions a shard can resume.
const SESSIONS_MAX: usize = 256;

/// How a program's connections are made: whom it trusts. HTTP/1.1 is all that it speaks.
pub(crate) fn client_config(trusted: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder?.with_root_certificates(trusted).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The same with sessions of its own: those of one thread, so that none waits for another.
pub(crate) fn with_own_sessions(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config
}

/// One connection's TLS.
pub(crate) struct TlsClient {
    connection: UnbufferedClientConnection,
    /// Received, and not yet a whole record.
    received: Vec<u8>,
    /// To be sent.
    outgoing: Vec<u8>,
    is_open: bool,
    is_closed: bool,
}

impl TlsClient {
    /// One to `server`, a name or an address. Its first words are in [`TlsClient::outgoing`] after
    /// the first [`TlsClient::take_in`].
    pub(crate) fn new(config: Arc<ClientConfig>, server: &str) -> Result<Self, Error> {
        let server = server.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(server);
        let name = ServerName::try_from(server.to_owned());
        let name = name.map_err(|_| Error::General(format!("{server} is no name of a server")))?;
        Ok(Self {
            connection: UnbufferedClientConnection::new(config, name)?,
            received: Vec::new(),
            outgoing: Vec::new(),
            is_open: false,
            is_closed: false,
        })
    }

    /// The handshake is done: [`TlsClient::encrypt`] may be called.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The server has said that nothing more comes. Without that, an end of its bytes may be
    /// anybody's doing.
    pub(crate) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Where received bytes go, with room for a record's worth; [`TlsClient::take_in`] reads them.
    pub(crate) fn received(&mut self) -> &mut Vec<u8> {
        self.received.reserve(RECORD_BYTES + RECORD_EXTRA_BYTES);
        &mut self.received
    }

    /// What is to be sent, and is to be removed from it once it is.
    pub(crate) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Frees what a connection does not need that nobody uses.
    pub(crate) fn free_buffers(&mut self) {
        self.outgoing = Vec::new();
        self.received.shrink_to_fit();
    }

    /// Reads what has been received; plain bytes go behind what `plain` holds. After an error an
    /// alert may be in `outgoing`.
    pub(crate) fn take_in(&mut self, plain: &mut Vec<u8>) -> Result<(), Error> {
        let result = self.step(plain);
        if result.is_err() {
            self.received.clear();
            self.tell_why();
        }
        result
    }

    /// Encodes the alert that a failure has left, and reads nothing more.
    fn tell_why(&mut self) {
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
            self.connection.process_tls_records(&mut []).state
        {
            // Without an alert the server learns as much from the end of the connection.
            let _ = append(&mut self.outgoing, 0, |room| alert.encode(room));
        }
    }

    fn step(&mut self, plain: &mut Vec<u8>) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut self.received);
            let mut is_blocked = false;
            let result = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            plain.extend_from_slice(record.payload);
                        }
                        Some(Err(error)) => break Err(error),
                        None => break Ok(()),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    append(&mut self.outgoing, 0, |room| message.encode(room))
                }
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    Ok(())
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    (self.is_open, is_blocked) = (true, true);
                    Ok(())
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_closed = true;
                    Ok(())
                }
                Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => {
                    is_blocked = true;
                    Ok(())
                }
                Ok(_) => Err(Error::General("a state that a client has not".to_owned())),
                Err(error) => Err(error),
            };
            self.received.drain(..discard);
            result?;
            if is_blocked {
                return Ok(());
            }
        }
    }

    /// Encrypts `plain` to the end of `outgoing`; only when [`TlsClient::is_open`].
    pub(crate) fn encrypt(&mut self, plain: &[u8]) -> Result<(), Error> {
        let bytes = plain.len() + plain.len().div_ceil(RECORD_BYTES) * RECORD_EXTRA_BYTES;
        let status = self.connection.process_tls_records(&mut self.received);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
            return Err(Error::HandshakeNotComplete);
        };
        append(&mut self.outgoing, bytes, |room| traffic.encrypt(plain, room))
    }
}

/// Lets `write` write behind what `out` holds, into `room_bytes` or, where it asks for more, into
/// that.
fn append<E: Into<Shortage>>(
    out: &mut Vec<u8>,
    room_bytes: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), Error> {
    let begin = out.len();
    let mut room_bytes = room_bytes;
    for _ in 0..2 {
        out.resize(begin + room_bytes, 0);
        match write(&mut out[begin..]).map_err(Into::into) {
            Ok(count) => {
                out.truncate(begin + count);
                return Ok(());
            }
            Err(Shortage::Bytes(needed)) => room_bytes = needed,
            Err(Shortage::Other(error)) => {
                out.truncate(begin);
                return Err(error);
            }
        }
    }
    out.truncate(begin);
    Err(Error::General("a record takes more room than it said".to_owned()))
}

/// Why nothing was written.
enum Shortage {
    Bytes(usize),
    Other(Error),
}

impl From<EncodeError> for Shortage {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Bytes(size.required_size),
            EncodeError::AlreadyEncoded => Self::Other(Error::General(error.to_string())),
        }
    }
}

impl From<EncryptError> for Shortage {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Bytes(size.required_size),
            EncryptError::EncryptExhausted => Self::Other(Error::EncryptError),
        }
    }
}
