//! The instance's keys, and what is kept under them: upstream credentials are encrypted where they
//! rest (XChaCha20-Poly1305, bound to their service), verified API keys leave a keyed digest.
//!
//! Both keys are files of 32 random bytes, configured by `[secrets]` or made in `data_dir`. A file
//! that others may read is refused. Nothing here is ever shown: no `Debug`, and no error that
//! repeats what was sealed.

use crate::config::{Config, DIGEST_KEY_FILE, ENCRYPTION_KEY_FILE, KEY_BYTES, KeyFile, read_key};
use crate::data_dir::sync_folder_of;
use crate::store::{Digest, KeyName, KeyNames};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use shard::message::KEY_TEXT_BYTES;
use shard::units::ServiceId;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The form of what is sealed: this byte, the key's name, the nonce, the ciphertext with its tag.
const FORM: u8 = 1;
const NAME_BYTES: usize = size_of::<KeyName>();
const NONCE_BYTES: usize = 24;

/// A key of the instance.
pub(crate) struct InstanceKey([u8; KEY_BYTES]);

impl InstanceKey {
    fn random() -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Self(key))
    }

    fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => read_key(path).map(Self).map(Some).map_err(unusable),
        }
    }

    /// Writes it where nothing is yet, so that it survives power loss.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&self.0)?;
        file.sync_all()?;
        sync_folder_of(path)
    }

    fn name(&self) -> KeyName {
        let mut name = [0; NAME_BYTES];
        let derived = blake3::derive_key("tollgate 2026-11 name of a key", &self.0);
        name.copy_from_slice(&derived[..NAME_BYTES]);
        name
    }
}

fn unusable(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Encrypts and decrypts upstream credentials.
pub(crate) struct Seal {
    name: KeyName,
    cipher: XChaCha20Poly1305,
}

impl Seal {
    fn of(key: &InstanceKey) -> Self {
        Self { name: key.name(), cipher: XChaCha20Poly1305::new(&key.0.into()) }
    }

    /// Names the key.
    pub(crate) fn name(&self) -> KeyName {
        self.name
    }

    /// The credential as the store keeps it.
    pub(crate) fn close(&self, service: ServiceId, credential: &str) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| format!("no randomness: {error}"))?;
        let bound = bound_to(service);
        let payload = Payload { msg: credential.as_bytes(), aad: &bound };
        let closed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let closed = closed.map_err(|_| "a credential cannot be encrypted".to_owned())?;
        Ok([&[FORM][..], &self.name, &nonce, &closed].concat())
    }

    /// The credential itself.
    pub(crate) fn open(&self, service: ServiceId, sealed: &[u8]) -> Result<String, String> {
        let rest = sealed.strip_prefix(&[FORM]).ok_or("it is not encrypted by this version")?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>().ok_or("it was cut short")?;
        let (nonce, closed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or("it was cut short")?;
        if *name != self.name {
            return Err("it was encrypted with another key".to_owned());
        }
        let payload = Payload { msg: closed, aad: &bound_to(service) };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload);
        let opened = opened.map_err(|_| "it was changed, or is another service's")?;
        String::from_utf8(opened).map_err(|_| "it is not text".to_owned())
    }
}

/// Names the key that a credential was sealed under.
pub(crate) fn name_in(sealed: &[u8]) -> Option<KeyName> {
    sealed.get(1..=NAME_BYTES)?.try_into().ok()
}

/// A sealed credential opens for its own service only.
fn bound_to(service: ServiceId) -> Vec<u8> {
    [&b"tollgate upstream credential of "[..], &service.0.to_be_bytes()].concat()
}

/// See the module.
pub(crate) struct Vault {
    digest: InstanceKey,
    seal: Arc<Seal>,
}

impl Vault {
    /// Reads the keys; one that is not configured is made where there is none. A new encryption
    /// key opens nothing that was sealed before, so none is made where the store `holds` what is
    /// under another one.
    pub(crate) fn open(config: &Config, holds: Option<KeyName>) -> io::Result<Self> {
        let digest = digest_key(config)?;
        let encryption_file = encryption_file(config);
        let encryption = match Rotation::of(&encryption_file).finish(holds)? {
            Some(key) => key,
            None if holds.is_none() => made(&encryption_file)?,
            None => {
                let message = format!(
                    "{} is gone, and with it the upstream credentials in the store: put it back, \
                     or copy another instance's, or drop them with `tollgate secrets rotate \
                     --drop-unreadable`",
                    encryption_file.display()
                );
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
        };
        Ok(Self { digest, seal: Arc::new(Seal::of(&encryption)) })
    }

    /// Reads the keys as they are: makes none, and ends no rotation that was cut off, since the
    /// store alone knows which of the two keys holds.
    pub(crate) fn read(config: &Config) -> io::Result<Self> {
        let read = |file: &Path| -> io::Result<InstanceKey> {
            InstanceKey::read(file)?.ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let (digest, encryption) = (read(&digest_file(config))?, read(&encryption_file(config))?);
        Ok(Self { digest, seal: Arc::new(Seal::of(&encryption)) })
    }

    /// Under this the digests of API keys are made.
    pub(crate) fn digest_key(&self) -> [u8; KEY_BYTES] {
        self.digest.0
    }

    /// What the store keeps of a verified key.
    pub(crate) fn digest_of(&self, text: &[u8; KEY_TEXT_BYTES]) -> Digest {
        let digest = *blake3::keyed_hash(&self.digest.0, text).as_bytes();
        Digest { key_name: self.digest.name(), digest }
    }

    /// Tells whether a digest was made under this key.
    pub(crate) fn digest_key_name(&self) -> KeyName {
        self.digest.name()
    }

    /// Both keys' names.
    pub(crate) fn key_names(&self) -> KeyNames {
        KeyNames { digest: self.digest.name(), encryption: self.seal.name }
    }

    /// For upstream credentials.
    pub(crate) fn seal(&self) -> &Arc<Seal> {
        &self.seal
    }
}

fn file_of(config: &Config, configured: &Option<KeyFile>, name: &str) -> PathBuf {
    match configured {
        Some(KeyFile(path)) => path.clone(),
        None => config.server.data_dir.join(name),
    }
}

/// Where the key of the digests is.
pub(crate) fn digest_file(config: &Config) -> PathBuf {
    file_of(config, &config.secrets.digest_key_file, DIGEST_KEY_FILE)
}

/// Names the key of the digests, which is made where there is none.
pub(crate) fn digest_key_name(config: &Config) -> io::Result<KeyName> {
    digest_key(config).map(|key| key.name())
}

fn digest_key(config: &Config) -> io::Result<InstanceKey> {
    let file = digest_file(config);
    match InstanceKey::read(&file)? {
        Some(key) => Ok(key),
        None => made(&file),
    }
}

/// Where the key of upstream credentials is.
pub(crate) fn encryption_file(config: &Config) -> PathBuf {
    file_of(config, &config.secrets.encryption_key_file, ENCRYPTION_KEY_FILE)
}

fn made(path: &Path) -> io::Result<InstanceKey> {
    let key = InstanceKey::random()?;
    key.write(path)?;
    tracing::info!(path = %path.display(), "made a key");
    Ok(key)
}

/// The change of the encryption key. The new one is written beside the old one before anything is
/// sealed under it, and takes its place after everything is: what is in the store tells, after a
/// crash at any point, which of the two files is the key.
pub(crate) struct Rotation {
    file: PathBuf,
    next_file: PathBuf,
}

impl Rotation {
    /// Of the key in this file.
    pub(crate) fn of(file: &Path) -> Self {
        let mut next = file.as_os_str().to_owned();
        next.push(".next");
        Self { file: file.to_owned(), next_file: next.into() }
    }

    /// Ends a rotation that was cut off; the key that holds, if there is one. The store `holds`
    /// what is under the key of this name: all of it changes in one transaction.
    pub(crate) fn finish(&self, holds: Option<KeyName>) -> io::Result<Option<InstanceKey>> {
        let Some(next) = InstanceKey::read(&self.next_file)? else {
            return InstanceKey::read(&self.file);
        };
        if holds == Some(next.name()) {
            self.commit()?;
            return Ok(Some(next));
        }
        fs::remove_file(&self.next_file)?;
        InstanceKey::read(&self.file)
    }

    /// The new key, beside the old one.
    pub(crate) fn begin(&self) -> io::Result<Seal> {
        let next = InstanceKey::random()?;
        next.write(&self.next_file)?;
        Ok(Seal::of(&next))
    }

    /// Everything is sealed under the new key: the old one goes.
    pub(crate) fn commit(&self) -> io::Result<()> {
        fs::rename(&self.next_file, &self.file)?;
        sync_folder_of(&self.file)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LINE: &str = "authorization: Bearer sk-upstream";

    fn config(data_dir: &Path) -> Config {
        let mut config = Config::default();
        config.server.data_dir = data_dir.to_owned();
        config
    }

    #[test]
    fn what_is_sealed_opens_again_for_its_service_and_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&config(dir.path()), None).unwrap();
        let sealed = vault.seal().close(ServiceId(7), LINE).unwrap();
        assert!(!sealed.windows(4).any(|bytes| LINE.as_bytes().windows(4).any(|it| it == bytes)));
        assert_ne!(sealed, vault.seal().close(ServiceId(7), LINE).unwrap());
        let again = Vault::open(&config(dir.path()), name_in(&sealed)).unwrap();
        assert_eq!(again.seal().open(ServiceId(7), &sealed), Ok(LINE.to_owned()));
        assert_eq!(again.digest_key(), vault.digest_key());
        assert!(again.seal().open(ServiceId(8), &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(again.seal().open(ServiceId(7), &changed).is_err(), "byte {at}");
            assert!(again.seal().open(ServiceId(7), &sealed[..at]).is_err(), "cut at {at}");
        }
        let other = Seal::of(&InstanceKey::random().unwrap());
        assert!(other.open(ServiceId(7), &sealed).unwrap_err().contains("another key"));
    }

    #[test]
    fn keys_are_private_and_a_lost_one_is_not_replaced_beside_what_it_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&config(dir.path()), None).unwrap();
        let sealed = vault.seal().close(ServiceId(7), LINE).unwrap();
        for name in [DIGEST_KEY_FILE, ENCRYPTION_KEY_FILE] {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((found.len(), found.permissions().mode() & 0o777), (32, 0o600));
        }
        fs::remove_file(dir.path().join(ENCRYPTION_KEY_FILE)).unwrap();
        let refused = Vault::open(&config(dir.path()), name_in(&sealed)).err().unwrap();
        assert!(refused.to_string().contains("is gone"), "{refused}");
        assert!(Vault::open(&config(dir.path()), None).is_ok());
    }

    #[test]
    fn a_rotation_that_was_cut_off_ends_as_the_store_says() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let old = Vault::open(&config, None).unwrap();
        let sealed = old.seal().close(ServiceId(7), LINE).unwrap();
        let rotation = Rotation::of(&encryption_file(&config));
        // Before the store's transaction: the old key holds.
        rotation.begin().unwrap();
        let vault = Vault::open(&config, name_in(&sealed)).unwrap();
        assert_eq!(vault.seal().open(ServiceId(7), &sealed), Ok(LINE.to_owned()));
        // After it: the new one does.
        let next = rotation.begin().unwrap();
        let resealed = next.close(ServiceId(7), LINE).unwrap();
        let vault = Vault::open(&config, name_in(&resealed)).unwrap();
        assert_eq!(vault.seal().open(ServiceId(7), &resealed), Ok(LINE.to_owned()));
        assert!(!rotation.next_file.exists());
        assert!(Vault::open(&config, name_in(&resealed)).is_ok());
    }
}
