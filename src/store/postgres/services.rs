//! The tables `services` and `prices`.

use super::Done;
use super::columns::{created_at, now, signed, unsigned};
use super::keys;
use super::session::Session;
use crate::store::error::CatalogError;
use crate::store::known_prices::PriceName;
use crate::store::price_text;
use crate::store::rows::{NewService, Page, PriceRow, ServiceChange, ServiceRow};
use shard::catalog::{PriceModel, PriceVersion};
use shard::units::ServiceId;
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::{Error, Row};

const SELECT: &str = "SELECT place, id, name, base_url, default_path, credential_sealed, enabled,
    created_at FROM services WHERE deleted_at IS NULL";
const SELECT_PRICE: &str =
    "SELECT service_id, version, effective_at_unix_us, price::text, created_at FROM prices";

/// A new service with its first price.
pub(super) async fn insert(db: &Session, new: &NewService) -> Done<ServiceRow> {
    db.execute(
        "INSERT INTO services (id, name, base_url, default_path, credential_sealed, enabled,
             created_at, changed) VALUES ($1, $2, $3, $4, $5, $6, $7, nextval('catalog_changes'))",
        &[
            &signed(new.id.0),
            &new.name,
            &new.base_url,
            &new.default_path,
            &new.credential,
            &new.enabled,
            &now(),
        ],
    )
    .await?;
    insert_price(db, new.id, &new.price, new.effective_at_unix_us).await?;
    get(db, new.id).await
}

/// Changes a service.
pub(super) async fn update(
    db: &Session,
    id: ServiceId,
    change: &ServiceChange,
) -> Done<ServiceRow> {
    let old = get(db, id).await?;
    db.execute(
        "UPDATE services SET base_url = $2, default_path = $3, credential_sealed = $4,
             enabled = $5, changed = nextval('catalog_changes') WHERE id = $1",
        &[
            &signed(id.0),
            change.base_url.as_ref().unwrap_or(&old.base_url),
            change.default_path.as_ref().unwrap_or(&old.default_path),
            change.credential.as_ref().unwrap_or(&old.credential),
            &change.enabled.unwrap_or(old.enabled),
        ],
    )
    .await?;
    get(db, id).await
}

/// Deletes a service that no living key is bound to, and drops its credential: answers what it was.
pub(super) async fn delete(db: &Session, id: ServiceId) -> Done<ServiceRow> {
    let row = get(db, id).await?;
    keys::refuse_used(db, "$1 = ANY (services)", id.0).await?;
    let delete = "UPDATE services SET deleted_at = $2, credential_sealed = NULL,
                      changed = nextval('catalog_changes') WHERE id = $1";
    db.execute(delete, &[&signed(id.0), &now()]).await?;
    Ok(row)
}

/// A new version of a service's price: the highest of the row that comes back.
pub(super) async fn add_price(
    db: &Session,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> Done<ServiceRow> {
    let touch = "UPDATE services SET changed = nextval('catalog_changes')
                 WHERE id = $1 AND deleted_at IS NULL";
    if db.execute(touch, &[&signed(id.0)]).await? == 0 {
        return Err(CatalogError::Missing);
    }
    insert_price(db, id, price, effective_at_unix_us).await?;
    get(db, id).await
}

async fn insert_price(
    db: &Session,
    id: ServiceId,
    price: &PriceModel,
    effective_at_unix_us: i64,
) -> Done<()> {
    db.execute(
        "INSERT INTO prices (service_id, version, effective_at_unix_us, price, created_at)
         SELECT $1, coalesce(max(version), 0) + 1, $2, $3::text::jsonb, $4 FROM prices
         WHERE service_id = $1",
        &[&signed(id.0), &effective_at_unix_us, &price_text::write(price), &now()],
    )
    .await?;
    Ok(())
}

/// One service.
pub(super) async fn get(db: &Session, id: ServiceId) -> Done<ServiceRow> {
    let row = db.row(&format!("{SELECT} AND id = $1"), &[&signed(id.0)]).await?;
    let row = row.as_ref().map(read).ok_or(CatalogError::Missing)?;
    let mut rows = with_prices(db, vec![row]).await?;
    rows.pop().ok_or(CatalogError::Missing)
}

/// One page of the services.
pub(super) async fn list(db: &Session, page: Page) -> Done<Vec<ServiceRow>> {
    let list = format!("{SELECT} AND place > $1 ORDER BY place LIMIT $2");
    let rows = db.rows(&list, &[&page.after, &i64::from(page.limit)]).await?;
    with_prices(db, rows.iter().map(read).collect()).await
}

/// Their prices, ascending by time, then by version.
async fn with_prices(db: &Session, mut services: Vec<ServiceRow>) -> Done<Vec<ServiceRow>> {
    let ids: Vec<i64> = services.iter().map(|it| signed(it.id.0)).collect();
    let select = format!(
        "{SELECT_PRICE} WHERE service_id = ANY ($1) ORDER BY effective_at_unix_us, version"
    );
    let mut prices: HashMap<ServiceId, Vec<PriceRow>> = HashMap::new();
    for row in db.rows(&select, &[&ids]).await? {
        let (service, price) = read_price(&row)?;
        prices.entry(service).or_default().push(price);
    }
    for service in &mut services {
        service.prices = prices.remove(&service.id).unwrap_or_default();
    }
    Ok(services)
}

/// Those of these prices that there are, be their services deleted or not: for calls that are yet
/// to be priced. A text that no start would take for a price is none.
pub(super) async fn prices(
    db: &Session,
    names: &BTreeSet<PriceName>,
) -> Result<Vec<(PriceName, PriceModel)>, Error> {
    let services: Vec<i64> = names.iter().map(|(service, _)| signed(service.0)).collect();
    let versions: Vec<i64> = names.iter().map(|(_, version)| (*version).into()).collect();
    let select = "SELECT service_id, prices.version, price::text
         FROM unnest($1::bigint[], $2::bigint[]) AS asked (service, version)
         JOIN prices ON service_id = service AND prices.version = asked.version";
    let rows = db.rows(select, &[&services, &versions]).await?;
    let price = |row: &Row| {
        let service = ServiceId(unsigned(row.get(0)));
        let version = u32::try_from(row.get::<_, i32>(1)).ok()?;
        Some(((service, version), price_text::read(row.get(2))?))
    };
    Ok(rows.iter().filter_map(price).collect())
}

fn read(row: &Row) -> ServiceRow {
    ServiceRow {
        place: row.get(0),
        id: ServiceId(unsigned(row.get(1))),
        name: row.get(2),
        base_url: row.get(3),
        default_path: row.get(4),
        credential: row.get(5),
        enabled: row.get(6),
        created_at: created_at(row, 7),
        prices: Vec::new(),
    }
}

fn read_price(row: &Row) -> Done<(ServiceId, PriceRow)> {
    let service = ServiceId(unsigned(row.get(0)));
    let Some(model) = price_text::read(row.get(3)) else {
        return Err(CatalogError::Internal(format!("a price of {service} is not readable")));
    };
    let version: i32 = row.get(1);
    let price = PriceVersion {
        version: u32::try_from(version).unwrap_or(0),
        effective_at_unix_us: row.get(2),
        model,
    };
    Ok((service, PriceRow { price, created_at: created_at(row, 4) }))
}
