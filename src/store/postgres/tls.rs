//! How a connection to the server is encrypted, and what of its certificate has to hold.

use crate::config::{ServerProof, trusted_authorities};
use crate::store::error::StoreError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// What encrypts connections to a server that has to prove this much.
pub(super) fn connector(
    proof: ServerProof,
    ca_file: Option<&Path>,
) -> Result<MakeRustlsConnect, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Failed(format!("TLS: {error}"));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusted = trusted_authorities(ca_file).map_err(StoreError::Failed)?;
    let by_host =
        WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider.clone()).build();
    let by_host = by_host.map_err(|error| failed(&error))?;
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let config = match proof {
        ServerProof::Host => config.with_webpki_verifier(by_host),
        ServerProof::Authority | ServerProof::None => {
            let verifier = Lenient { by_host, provider, proof };
            config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

/// Lets a certificate pass that is another host's or, where nothing is to be proved, anybody's. The
/// server always has to have its key.
#[derive(Debug)]
struct Lenient {
    by_host: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    proof: ServerProof,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.proof == ServerProof::None {
            return Ok(ServerCertVerified::assertion());
        }
        // The name is looked at last: whatever fails by it alone has a trusted issuer.
        match self.by_host.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
