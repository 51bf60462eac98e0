//! Migrations only go forward and are never edited: each is kept in the store with its checksum,
//! and a store that no longer matches what was applied is refused.

use super::error::StoreError;

/// A migration: its name and its text.
pub(super) type Migration = (&'static str, &'static str);

/// Those of `migrations` that are not among `applied`, the names and checksums in their order.
pub(super) fn pending<'a>(
    migrations: &'a [Migration],
    applied: &[(String, String)],
) -> Result<&'a [Migration], StoreError> {
    for (name, checksum) in applied {
        match migrations.iter().find(|(known, _)| known == name) {
            None => return Err(StoreError::FromTheFuture(name.clone())),
            Some((_, text)) if checksum_of(text) != *checksum => {
                return Err(StoreError::MigrationChanged(name.clone()));
            }
            Some(_) => {}
        }
    }
    Ok(migrations.get(applied.len()..).unwrap_or_default())
}

/// By which a text is known again.
pub(super) fn checksum_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
