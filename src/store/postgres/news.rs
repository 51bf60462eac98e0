//! What changed in the catalog, whichever instance changed it.

use super::columns::{signed, unsigned};
use super::session::Session;
use crate::store::error::CatalogError;
use crate::store::rows::CatalogNews;
use shard::units::{ConsumerId, KeyId, PlanId, ServiceId};

/// Rows that are told of at once.
const NEWS_MAX: u64 = 10_000;

/// The number of the last change.
pub(super) async fn last(db: &Session) -> Result<i64, CatalogError> {
    let select = "SELECT coalesce(max(changed), 0) FROM (
         SELECT max(changed) FROM plans UNION ALL SELECT max(changed) FROM services
         UNION ALL SELECT max(changed) FROM consumers UNION ALL SELECT max(changed) FROM keys
         ) AS tables (changed)";
    Ok(db.row(select, &[]).await?.map_or(0, |row| row.get(0)))
}

/// What changed after the change of this number, and the number to ask with the next time. What
/// others refer to comes before them.
pub(super) async fn after(
    db: &Session,
    seen: i64,
) -> Result<(i64, Vec<CatalogNews>), CatalogError> {
    let table =
        |(kind, name)| format!("SELECT {kind} AS kind, id, changed FROM {name} WHERE changed > $1");
    let tables = [(0, "plans"), (1, "services"), (2, "consumers"), (3, "keys")].map(table);
    let select = format!("{} ORDER BY changed LIMIT $2", tables.join(" UNION ALL "));
    let rows = db.rows(&select, &[&seen, &signed(NEWS_MAX)]).await?;
    let seen = rows.last().map_or(seen, |row| row.get(2));
    let mut kinds: Vec<(i32, u64)> =
        rows.iter().map(|row| (row.get(0), unsigned(row.get(1)))).collect();
    kinds.sort_unstable();
    let news = |(kind, id): (i32, u64)| match kind {
        0 => CatalogNews::Plan(PlanId(id)),
        1 => CatalogNews::Service(ServiceId(id)),
        2 => CatalogNews::Consumer(ConsumerId(id)),
        _ => CatalogNews::Key(KeyId(id)),
    };
    Ok((seen, kinds.into_iter().map(news).collect()))
}
