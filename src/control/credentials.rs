//! Upstream credentials under their key: those of an earlier version are sealed at the first start,
//! and a rotation seals all of them under a new key. None is ever kept in the clear.

use super::vault::{Rotation, Seal, Vault, encryption_file};
use crate::config::Config;
use crate::store::{CatalogError, Credentials};
use std::io;

/// Opens the vault that opens what is in the store, and seals what an earlier version wrote there
/// in the clear, of which every trace is removed.
pub(crate) fn open_vault(config: &Config) -> Result<Vault, super::OpenError> {
    let mut credentials = Credentials::open(config).map_err(super::OpenError::Store)?;
    let vault = Vault::open(config, any(&credentials)?.as_deref())?;
    seal_plain(&mut credentials, vault.seal())?;
    Ok(vault)
}

/// A sealed credential, if there is one.
fn any(credentials: &Credentials) -> Result<Option<Vec<u8>>, CatalogError> {
    Ok(credentials.sealed()?.into_iter().next().map(|first| first.sealed))
}

fn seal_plain(credentials: &mut Credentials, seal: &Seal) -> Result<(), CatalogError> {
    let plain = credentials.plain()?;
    let seal = |(service, credential): &(_, String)| {
        let sealed = seal.close(*service, credential).map_err(CatalogError::Internal)?;
        Ok((*service, Some(sealed)))
    };
    let sealed: Vec<_> = plain.iter().map(seal).collect::<Result<_, CatalogError>>()?;
    if !sealed.is_empty() {
        credentials.replace(&sealed)?;
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
    let old = match Vault::open(config, any(&credentials)?.as_deref()) {
        Ok(vault) => {
            seal_plain(&mut credentials, vault.seal())?;
            Some(vault)
        }
        Err(error) if drop_unreadable && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(internal(&error)),
    };
    let rotation = Rotation::of(&encryption_file(config));
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
    credentials.replace(&resealed)?;
    rotation.commit().map_err(|error| internal(&error))?;
    credentials.scrub().map_err(|failure| {
        let what = "the new key holds, but what the old one sealed may still be in the file";
        internal(&format!("{what}; the next start tries again to remove it: {failure}"))
    })?;
    Ok(rotated)
}
