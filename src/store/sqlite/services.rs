//! The tables `services` and `prices`.

use super::columns::{created_now, id_at, unreadable};
use super::in_use::refuse_used;
use super::keys::LIVING;
use crate::clock;
use crate::store::error::CatalogError;
use crate::store::known_prices::PriceName;
use crate::store::price_text;
use crate::store::rows::{NewService, Page, PriceRow, ServiceChange, ServiceRow};
use rusqlite::{Connection, OptionalExtension, Row};
use shard::catalog::{PriceModel, PriceVersion};
use shard::units::ServiceId;

const COLUMNS: &str =
    "place, id, name, base_url, default_path, credential_sealed, enabled, created_at";

/// A new service with its first price.
pub(super) fn insert(
    connection: &mut Connection,
    new: &NewService,
) -> Result<ServiceRow, CatalogError> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "INSERT INTO services
             (id, name, base_url, default_path, credential_sealed, enabled, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            new.id.to_string(),
            &new.name,
            &new.base_url,
            &new.default_path,
            &new.credential,
            new.enabled,
            created_now(),
        ),
    )?;
    insert_price(&transaction, new.id, &new.price, new.effective_at_unix_us)?;
    transaction.commit()?;
    get(connection, new.id)
}

/// Changes a service.
pub(super) fn update(
    connection: &Connection,
    id: ServiceId,
    change: &ServiceChange,
) -> Result<ServiceRow, CatalogError> {
    let old = get(connection, id)?;
    connection.execute(
        "UPDATE services
         SET base_url = ?2, default_path = ?3, credential_sealed = ?4, enabled = ?5 WHERE id = ?1",
        (
            id.to_string(),
            change.base_url.as_ref().unwrap_or(&old.base_url),
            change.default_path.as_ref().unwrap_or(&old.default_path),
            change.credential.as_ref().unwrap_or(&old.credential),
            change.enabled.unwrap_or(old.enabled),
        ),
    )?;
    get(connection, id)
}

/// Deletes a service that no living key is bound to, and drops its credential: answers what it was.
pub(super) fn delete(connection: &Connection, id: ServiceId) -> Result<ServiceRow, CatalogError> {
    let row = get(connection, id)?;
    let keys = format!(
        "SELECT id FROM keys WHERE services IS NOT NULL AND {LIVING}
             AND EXISTS (SELECT 1 FROM json_each(services) WHERE value = ?1) ORDER BY place"
    );
    refuse_used(connection, "key", &keys, (id.to_string(), clock::unix_us()))?;
    connection.execute(
        "UPDATE services SET deleted_at = ?2, credential_sealed = NULL WHERE id = ?1",
        (id.to_string(), created_now()),
    )?;
    Ok(row)
}

/// A new version of a service's price: the highest of the row that comes back.
pub(super) fn add_price(
    connection: &mut Connection,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> Result<ServiceRow, CatalogError> {
    let transaction = connection.transaction()?;
    let living = "SELECT 1 FROM services WHERE id = ?1 AND deleted_at IS NULL";
    transaction.query_row(living, [id.to_string()], |_| Ok(()))?;
    insert_price(&transaction, id, price, effective_at_unix_us)?;
    let row = get(&transaction, id)?;
    transaction.commit()?;
    Ok(row)
}

fn insert_price(
    connection: &Connection,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO prices (service_id, version, effective_at_unix_us, price, created_at)
         SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4 FROM prices WHERE service_id = ?1",
        (id.to_string(), effective_at_unix_us, price_text::write(price), created_now()),
    )
}

/// One service.
pub(super) fn get(connection: &Connection, id: ServiceId) -> Result<ServiceRow, CatalogError> {
    let query = format!("SELECT {COLUMNS} FROM services WHERE id = ?1 AND deleted_at IS NULL");
    let row = connection.query_row(&query, [id.to_string()], read)?;
    Ok(ServiceRow { prices: prices_of(connection, id)?, ..row })
}

/// One page of the services.
pub(super) fn list(connection: &Connection, page: Page) -> Result<Vec<ServiceRow>, CatalogError> {
    let query = format!(
        "SELECT {COLUMNS} FROM services WHERE place > ?1 AND deleted_at IS NULL
         ORDER BY place LIMIT ?2"
    );
    let mut statement = connection.prepare(&query)?;
    let rows = statement.query_map((page.after, page.limit), read)?;
    let mut rows: Vec<ServiceRow> = rows.collect::<Result<_, _>>()?;
    for row in &mut rows {
        row.prices = prices_of(connection, row.id)?;
    }
    Ok(rows)
}

/// A price, be its service deleted or not: for calls that are yet to be priced. A text that no
/// start would take for a price is none.
pub(super) fn price(
    connection: &Connection,
    (service, version): PriceName,
) -> rusqlite::Result<Option<PriceModel>> {
    let text: Option<String> = connection
        .prepare_cached("SELECT price FROM prices WHERE service_id = ?1 AND version = ?2")?
        .query_row((service.to_string(), version), |row| row.get(0))
        .optional()?;
    Ok(text.as_deref().and_then(price_text::read))
}

/// A service's prices, ascending by time, then by version.
fn prices_of(connection: &Connection, id: ServiceId) -> Result<Vec<PriceRow>, CatalogError> {
    let mut statement = connection.prepare_cached(
        "SELECT version, effective_at_unix_us, price, created_at FROM prices
         WHERE service_id = ?1 ORDER BY effective_at_unix_us, version",
    )?;
    let rows = statement.query_map([id.to_string()], read_price)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<ServiceRow> {
    Ok(ServiceRow {
        place: row.get(0)?,
        id: ServiceId(id_at(row, 1)?),
        name: row.get(2)?,
        base_url: row.get(3)?,
        default_path: row.get(4)?,
        credential: row.get(5)?,
        enabled: row.get(6)?,
        created_at: row.get(7)?,
        prices: Vec::new(),
    })
}

fn read_price(row: &Row<'_>) -> rusqlite::Result<PriceRow> {
    let text: String = row.get(2)?;
    let model = price_text::read(&text).ok_or_else(|| unreadable(2, "not a price"))?;
    let price = PriceVersion { version: row.get(0)?, effective_at_unix_us: row.get(1)?, model };
    Ok(PriceRow { price, created_at: row.get(3)? })
}
