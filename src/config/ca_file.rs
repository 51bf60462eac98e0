//! Files that name authorities whose certificates are trusted: PEM. For the store's certificate
//! they are trusted beside the public ones, for that of Redis in their place. They are checked when
//! the configuration is read, so that `check` and the start report a bad file with the line that
//! names it.

use super::field::{Field, Given, Range, quoted};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::{Path, PathBuf};

/// The place of the certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile(pub PathBuf);

/// The public authorities, and those of the file. A refusal says what is wrong with the file.
pub fn trusted_authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(trusted) };
    let not_read =
        |error: &dyn std::fmt::Display| format!("{} is not read: {error}", path.display());
    let before = trusted.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| not_read(&error))? {
        let certificate = certificate.map_err(|error| not_read(&error))?;
        trusted.add(certificate).map_err(|error| not_read(&error))?;
    }
    if trusted.len() == before {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(trusted)
}

impl Field for Option<CaFile> {
    fn assign(&mut self, given: &Given<'_>, range: Range) -> Result<(), String> {
        let mut path = PathBuf::new();
        path.assign(given, range)?;
        trusted_authorities(Some(&path))
            .map_err(|why| format!("a PEM file of authorities' certificates; {why}"))?;
        *self = Some(CaFile(path));
        Ok(())
    }

    fn render(&self) -> Option<String> {
        self.as_ref().map(|CaFile(path)| quoted(&path.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn only_a_file_with_certificates_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            trusted_authorities(Some(&path)).map(|trusted| trusted.len())
        };
        let public = trusted_authorities(None).unwrap().len();
        let own = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
        assert_eq!(read(&own.cert.pem()), Ok(public + 1));
        assert!(read("nothing").unwrap_err().contains("holds no certificate"));
        assert!(read(&own.cert.pem().replace("MII", "MIX")).unwrap_err().contains("not read"));
        std::fs::remove_file(&path).unwrap();
        assert!(trusted_authorities(Some(&path)).unwrap_err().contains("not read"));
    }
}
