//! TLS in front of a plain upstream, and the authority that vouches for it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A server's certificate with its key, signed.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names and addresses.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 2100)
    }

    /// The same, which is good until this year begins.
    pub fn sign_until(&self, names: &[&str], year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }
}

impl Identity {
    /// The certificate and its key.
    pub fn to_pem(&self) -> (String, String) {
        (self.certificate.pem(), self.key.serialize_pem())
    }
}

/// What has come to a [`TlsFront`].
#[derive(Default)]
pub struct Handshakes {
    /// With a certificate.
    pub full: AtomicU64,
    /// Of sessions that were known.
    pub resumed: AtomicU64,
    /// Connections that have ended.
    pub ended: AtomicU64,
}

/// See the module. Its threads end with their connections.
pub struct TlsFront {
    /// Where it listens.
    pub address: SocketAddr,
    /// What has come.
    pub handshakes: Arc<Handshakes>,
}

impl TlsFront {
    /// One before `upstream`.
    pub fn before(upstream: &str, identity: &Identity) -> Self {
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
        let chain = vec![identity.certificate.der().clone()];
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let config = Arc::new(config.unwrap());
        let upstream: SocketAddr = upstream.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Handshakes::default());
        let seen = Arc::clone(&handshakes);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (config, seen) = (Arc::clone(&config), Arc::clone(&seen));
                // A broken connection is the gateway's to notice.
                thread::spawn(move || {
                    drop(relay(config, client, upstream, &seen));
                    seen.ended.fetch_add(1, Relaxed);
                });
            }
        });
        Self { address, handshakes }
    }

    /// Its URL, by this name of it.
    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address.port())
    }
}

/// Passes bytes both ways until either side ends, and says so to the client.
fn relay(
    config: Arc<ServerConfig>,
    mut client: TcpStream,
    upstream: SocketAddr,
    seen: &Handshakes,
) -> Result<()> {
    let tls = Mutex::new(ServerConnection::new(config).unwrap());
    while tls.lock().unwrap().is_handshaking() {
        tls.lock().unwrap().complete_io(&mut client)?;
    }
    match tls.lock().unwrap().handshake_kind() {
        Some(HandshakeKind::Resumed) => seen.resumed.fetch_add(1, Relaxed),
        _ => seen.full.fetch_add(1, Relaxed),
    };
    let (mut plain, mut out) = (TcpStream::connect(upstream)?, client.try_clone()?);
    let mut answers = plain.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut piece = [0; 16 * 1024];
            while let Ok(count @ 1..) = answers.read(&mut piece) {
                let mut tls = tls.lock().unwrap();
                if tls.writer().write_all(&piece[..count]).is_err() || flush(&mut tls, &mut out) {
                    break;
                }
            }
            let mut tls = tls.lock().unwrap();
            tls.send_close_notify();
            flush(&mut tls, &mut out);
            let _ = out.shutdown(Shutdown::Both);
        });
        let mut piece = vec![0; 32 * 1024];
        // What came with the end of the handshake is there already.
        let mut received = 0..0;
        loop {
            let mut requests = Vec::new();
            let mut tls = tls.lock().unwrap();
            loop {
                let state = tls.process_new_packets().map_err(std::io::Error::other)?;
                let begin = requests.len();
                requests.resize(begin + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut requests[begin..])?;
                if received.is_empty() {
                    break;
                }
                received.start += tls.read_tls(&mut &piece[received.clone()])?;
            }
            drop(tls);
            plain.write_all(&requests)?;
            match client.read(&mut piece) {
                Ok(count @ 1..) => received = 0..count,
                _ => return plain.shutdown(Shutdown::Write),
            }
        }
    })
}

/// Sends what is to be sent; true: the client has gone.
fn flush(tls: &mut ServerConnection, out: &mut TcpStream) -> bool {
    while tls.wants_write() {
        if tls.write_tls(out).is_err() {
            return true;
        }
    }
    false
}
