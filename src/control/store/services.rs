//! The tables `services` and `prices`.

use super::keys::LIVING;
use super::{Failure, Page, created_now, id_at, refuse_used, unreadable};
use crate::clock;
use crate::control::price_json;
use rusqlite::{Connection, Row};
use serde_json::Value;
use shard::catalog::{PriceModel, PriceVersion};
use shard::units::ServiceId;
use std::collections::HashMap;

const COLUMNS: &str =
    "place, id, name, base_url, default_path, credential_sealed, enabled, created_at";

/// A row with its prices.
pub(crate) struct ServiceRow {
    pub(crate) place: i64,
    pub(crate) id: ServiceId,
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) default_path: String,
    /// The upstream's credential as `vault` sealed it.
    pub(crate) credential: Option<Vec<u8>>,
    pub(crate) enabled: bool,
    pub(crate) created_at: String,
    /// Ascending by time, then by version; never empty.
    pub(crate) prices: Vec<PriceRow>,
}

/// A price and when it was made.
#[derive(Clone, Debug)]
pub(crate) struct PriceRow {
    pub(crate) price: PriceVersion,
    pub(crate) created_at: String,
}

/// A service to be made.
pub(crate) struct NewService {
    pub(crate) id: ServiceId,
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) default_path: String,
    /// The upstream's credential as `vault` sealed it.
    pub(crate) credential: Option<Vec<u8>>,
    pub(crate) enabled: bool,
    pub(crate) price: PriceModel,
    pub(crate) effective_at_unix_us: i64,
}

/// What a change sets; `None` leaves a column as it is.
#[derive(Default)]
pub(crate) struct ServiceChange {
    pub(crate) base_url: Option<String>,
    pub(crate) default_path: Option<String>,
    pub(crate) credential: Option<Option<Vec<u8>>>,
    pub(crate) enabled: Option<bool>,
}

/// A new service with its first price.
pub(crate) fn insert(connection: &mut Connection, new: &NewService) -> Result<ServiceRow, Failure> {
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
pub(crate) fn update(
    connection: &Connection,
    id: ServiceId,
    change: &ServiceChange,
) -> Result<ServiceRow, Failure> {
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

/// Deletes a service that no living key is bound to, its credential for good: answers what it was.
pub(crate) fn delete(connection: &Connection, id: ServiceId) -> Result<ServiceRow, Failure> {
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

/// A new version of a service's price.
pub(crate) fn add_price(
    connection: &mut Connection,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> Result<PriceRow, Failure> {
    let transaction = connection.transaction()?;
    let living = "SELECT 1 FROM services WHERE id = ?1 AND deleted_at IS NULL";
    transaction.query_row(living, [id.to_string()], |_| Ok(()))?;
    let version = insert_price(&transaction, id, price, effective_at_unix_us)?;
    let prices = prices_of(&transaction, id)?;
    transaction.commit()?;
    prices.into_iter().find(|row| row.price.version == version).ok_or(Failure::Missing)
}

fn insert_price(
    connection: &Connection,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> rusqlite::Result<u32> {
    connection.query_row(
        "INSERT INTO prices (service_id, version, effective_at_unix_us, price, created_at)
         SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4 FROM prices WHERE service_id = ?1
         RETURNING version",
        (id.to_string(), effective_at_unix_us, price_json::write(price).to_string(), created_now()),
        |row| row.get(0),
    )
}

/// One service.
pub(crate) fn get(connection: &Connection, id: ServiceId) -> Result<ServiceRow, Failure> {
    let query = format!("SELECT {COLUMNS} FROM services WHERE id = ?1 AND deleted_at IS NULL");
    let row = connection.query_row(&query, [id.to_string()], read)?;
    Ok(ServiceRow { prices: prices_of(connection, id)?, ..row })
}

/// One page of the services.
pub(crate) fn list(connection: &Connection, page: Page) -> Result<Vec<ServiceRow>, Failure> {
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

/// Every price there is or was, those of deleted services too: for calls that are yet to be priced.
pub(crate) fn every_price(
    connection: &Connection,
) -> Result<HashMap<(ServiceId, u32), PriceModel>, Failure> {
    let query = "SELECT version, effective_at_unix_us, price, created_at, service_id FROM prices";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map((), |row| {
        let PriceVersion { version, model, .. } = read_price(row)?.price;
        Ok(((ServiceId(id_at(row, 4)?), version), model))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A service's prices, ascending by time, then by version.
fn prices_of(connection: &Connection, id: ServiceId) -> Result<Vec<PriceRow>, Failure> {
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
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let model = price_json::read_stored(&value).map_err(|_| unreadable(2, "not a price"))?;
    let price = PriceVersion { version: row.get(0)?, effective_at_unix_us: row.get(1)?, model };
    Ok(PriceRow { price, created_at: row.get(3)? })
}
