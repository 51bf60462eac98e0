//! Upstream credentials in Postgres. None was ever kept there in the clear.

use super::blocking::Blocking;
use super::columns::{signed, unsigned};
use super::session::Session;
use crate::store::error::{CatalogError, StoreError};
use crate::store::location::PostgresServer;
use crate::store::rows::{KeyName, KeyNames, SealedCredential};
use shard::units::ServiceId;
use tokio_postgres::Row;

/// The credentials by a connection of its own.
pub(crate) struct PostgresCredentials {
    server: Blocking,
    replaced: bool,
}

impl PostgresCredentials {
    pub(crate) fn open(server: &PostgresServer) -> Result<Self, StoreError> {
        Ok(Self { server: Blocking::open(server)?, replaced: false })
    }

    pub(crate) fn sealed(&self) -> Result<Vec<SealedCredential>, CatalogError> {
        let rows = self.server.run::<_, CatalogError>(async |db| {
            let select = "SELECT id, name, credential_sealed FROM services
                WHERE credential_sealed IS NOT NULL ORDER BY place";
            Ok(db.rows(select, &[]).await?)
        })?;
        let read = |row: &Row| SealedCredential {
            service: ServiceId(unsigned(row.get(0))),
            service_name: row.get(1),
            sealed: row.get(2),
        };
        Ok(rows.iter().map(read).collect())
    }

    pub(crate) fn key_names(&self) -> Result<Option<KeyNames>, CatalogError> {
        self.server.run(async |db| key_names(db).await)
    }

    pub(crate) fn agree(&self, ours: KeyNames) -> Result<KeyNames, CatalogError> {
        self.server.run::<_, CatalogError>(async |db| {
            let first = "INSERT INTO secrets_fingerprint (digest_key, encryption_key)
                VALUES ($1, $2) ON CONFLICT DO NOTHING";
            db.execute(first, &[&&ours.digest[..], &&ours.encryption[..]]).await?;
            Ok(())
        })?;
        Ok(self.key_names()?.unwrap_or(ours))
    }

    pub(crate) fn replace(
        &mut self,
        credentials: &[(ServiceId, Option<Vec<u8>>)],
        keys: KeyNames,
    ) -> Result<(), CatalogError> {
        let ids: Vec<i64> = credentials.iter().map(|(service, _)| signed(service.0)).collect();
        let sealed: Vec<Option<&[u8]>> =
            credentials.iter().map(|(_, sealed)| sealed.as_deref()).collect();
        self.server.run::<_, CatalogError>(async |db| {
            // One statement: all of them or none.
            db.execute(
                "WITH agreed AS (INSERT INTO secrets_fingerprint (digest_key, encryption_key)
                     VALUES ($3, $4) ON CONFLICT (is_only) DO UPDATE
                     SET digest_key = $3, encryption_key = $4)
                 UPDATE services SET credential_sealed = given.sealed,
                     changed = nextval('catalog_changes')
                 FROM unnest($1::bigint[], $2::bytea[]) AS given (id, sealed)
                 WHERE services.id = given.id",
                &[&ids, &sealed, &&keys.digest[..], &&keys.encryption[..]],
            )
            .await?;
            Ok(())
        })?;
        self.replaced = true;
        Ok(())
    }

    /// Removes what the table's pages still hold of credentials that were replaced. The server's
    /// write-ahead log and backups keep them for as long as it is told to.
    pub(crate) fn scrub(&self) -> Result<(), CatalogError> {
        match self.replaced {
            true => self.server.run(async |db| Ok(db.batch("VACUUM services").await?)),
            false => Ok(()),
        }
    }
}

/// The keys that all instances on the store need; `None`: none has said it yet.
pub(super) async fn key_names(db: &Session) -> Result<Option<KeyNames>, CatalogError> {
    let select = "SELECT digest_key, encryption_key FROM secrets_fingerprint";
    let name = |row: &Row, column| {
        KeyName::try_from(row.get::<_, &[u8]>(column))
            .map_err(|_| CatalogError::Internal("a key's name has another length".to_owned()))
    };
    let read = |row| Ok(KeyNames { digest: name(&row, 0)?, encryption: name(&row, 1)? });
    db.row(select, &[]).await?.map(read).transpose()
}
