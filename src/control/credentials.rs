//! Upstream credentials under their key: those of an earlier version are sealed at the first start,
//! and a rotation seals all of them under a new key. None is ever kept in the clear.

use super::vault::{Rotation, Vault, digest_file, digest_key_name, encryption_file, name_in};
use crate::config::Config;
use crate::store::{CatalogError, Credentials, KeyName, KeyNames};
use std::io;
use std::path::Path;

/// Opens the vault that opens what is in the store, and seals what an earlier version wrote there
/// in the clear, of which every trace is removed.
pub(crate) fn open_vault(config: &Config) -> Result<Vault, super::OpenError> {
    let mut credentials = Credentials::open(config).map_err(super::OpenError::Store)?;
    if credentials.key_names()?.is_some() {
        refuse_missing(config)?;
    }
    let vault = Vault::open(config, holds(&credentials)?)?;
    refuse_others(config, credentials.agree(vault.key_names())?, vault.key_names())?;
    seal_plain(&mut credentials, &vault)?;
    Ok(vault)
}

/// The same while the store is away, by what was written down of it: `needed` are the keys that all
/// instances on it have.
pub(crate) fn open_vault_away(config: &Config, needed: Option<KeyNames>) -> io::Result<Vault> {
    refuse_missing(config)?;
    let vault = Vault::read(config)?;
    refuse_others(config, needed.unwrap_or(vault.key_names()), vault.key_names())?;
    Ok(vault)
}

/// A key that is made here would be one that the others have not got.
fn refuse_missing(config: &Config) -> io::Result<()> {
    let missing =
        [digest_file(config), encryption_file(config)].into_iter().find(|it| !it.exists());
    missing.map_or(Ok(()), |key_file| Err(not_the_others(&key_file)))
}

fn refuse_others(config: &Config, needed: KeyNames, ours: KeyNames) -> io::Result<()> {
    if needed.digest != ours.digest {
        return Err(not_the_others(&digest_file(config)));
    }
    if needed.encryption != ours.encryption {
        return Err(not_the_others(&encryption_file(config)));
    }
    Ok(())
}

fn not_the_others(key_file: &Path) -> io::Error {
    let what = if key_file.exists() { "is another key than" } else { "is missing, which is" };
    let message = format!(
        "{} {what} the one that the instances on this store share: copy theirs ([secrets]), or, if \
         it is lost, let `tollgate secrets rotate` make this instance's keys theirs while none of \
         them runs",
        key_file.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Names the key that the store's credentials are under, if there is one.
fn holds(credentials: &Credentials) -> Result<Option<KeyName>, CatalogError> {
    if let Some(names) = credentials.key_names()? {
        return Ok(Some(names.encryption));
    }
    Ok(credentials.sealed()?.first().and_then(|first| name_in(&first.sealed)))
}

fn seal_plain(credentials: &mut Credentials, vault: &Vault) -> Result<(), CatalogError> {
    let plain = credentials.plain()?;
    let seal = |(service, credential): &(_, String)| {
        let sealed = vault.seal().close(*service, credential).map_err(CatalogError::Internal)?;
        Ok((*service, Some(sealed)))
    };
    let sealed: Vec<_> = plain.iter().map(seal).collect::<Result<_, CatalogError>>()?;
    if !sealed.is_empty() {
        credentials.replace(&sealed, vault.key_names())?;
        tracing::info!(credentials = sealed.len(), "upstream credentials are encrypted now");
    }
    if let Err(failure) = credentials.scrub() {
        tracing::error!(%failure, "the store's file may still hold credentials in the clear; \
            the next start tries again to remove them");
    }
    Ok(())
}

/// What a rotation did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rotated {
    /// Credentials that are under the new key now.
    pub sealed: usize,
    /// Names of the services whose credentials could not be read, and are gone.
    pub dropped: Vec<String>,
}

/// Makes a new encryption key and seals every upstream credential under it. For an instance that
/// is not running, by whoever holds the lock of its data directory. Where the old key is gone or
/// wrong nothing is changed, unless `drop_unreadable`.
pub(crate) fn rotate(config: &Config, drop_unreadable: bool) -> Result<Rotated, String> {
    rotate_in(config, drop_unreadable).map_err(|failure| failure.to_string())
}

fn rotate_in(config: &Config, drop_unreadable: bool) -> Result<Rotated, CatalogError> {
    let internal = |error: &dyn std::fmt::Display| CatalogError::Internal(error.to_string());
    let mut credentials = Credentials::open(config).map_err(|error| internal(&error))?;
    let old = match Vault::open(config, holds(&credentials)?) {
        Ok(vault) => {
            seal_plain(&mut credentials, &vault)?;
            Some(vault)
        }
        Err(error) if drop_unreadable && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(internal(&error)),
    };
    let rotation = Rotation::of(&encryption_file(config));
    let digest = digest_key_name(config).map_err(|error| internal(&error))?;
    let next = rotation.begin().map_err(|error| internal(&error))?;
    let mut rotated = Rotated { sealed: 0, dropped: Vec::new() };
    let mut resealed = Vec::new();
    for it in credentials.sealed()? {
        let opened = match &old {
            Some(vault) => vault.seal().open(it.service, &it.sealed),
            None => Err("its key is gone".to_owned()),
        };
        let sealed = match opened {
            Ok(credential) => {
                rotated.sealed += 1;
                Some(next.close(it.service, &credential).map_err(CatalogError::Internal)?)
            }
            Err(_) if drop_unreadable => {
                rotated.dropped.push(it.service_name);
                None
            }
            Err(why) => {
                let name = it.service_name;
                let what = format!("the upstream credential of {name} is no use: {why}");
                return Err(CatalogError::Internal(what));
            }
        };
        resealed.push((it.service, sealed));
    }
    credentials.replace(&resealed, KeyNames { digest, encryption: next.name() })?;
    rotation.commit().map_err(|error| internal(&error))?;
    credentials.scrub().map_err(|failure| {
        let what = "the new key holds, but what the old one sealed may still be in the file";
        internal(&format!("{what}; the next start tries again to remove it: {failure}"))
    })?;
    Ok(rotated)
}
