//! The table `consumers`.

use super::Done;
use super::columns::{created_at, now, signed, unsigned};
use super::session::Session;
use super::{keys, plans};
use crate::store::error::CatalogError;
use crate::store::rows::{ConsumerChange, ConsumerRow, Page};
use shard::units::{ConsumerId, PlanId};
use tokio_postgres::Row;

const SELECT: &str = "SELECT consumers.place, consumers.id, consumers.name, plan_id, plans.name,
    consumers.created_at FROM consumers JOIN plans ON plans.id = plan_id
    WHERE consumers.deleted_at IS NULL";

/// A new consumer.
pub(super) async fn insert(
    db: &Session,
    id: ConsumerId,
    name: &str,
    plan: PlanId,
) -> Done<ConsumerRow> {
    refuse_taken(db, id, name).await?;
    plans::refuse_deleted(db, plan).await?;
    db.execute(
        "INSERT INTO consumers (id, name, plan_id, created_at, changed)
         VALUES ($1, $2, $3, $4, nextval('catalog_changes'))",
        &[&signed(id.0), &name, &signed(plan.0), &now()],
    )
    .await?;
    get(db, id).await
}

/// Changes a consumer's name, plan or both.
pub(super) async fn update(
    db: &Session,
    id: ConsumerId,
    change: &ConsumerChange,
) -> Done<ConsumerRow> {
    if let Some(name) = &change.name {
        refuse_taken(db, id, name).await?;
    }
    if let Some(plan) = change.plan {
        plans::refuse_deleted(db, plan).await?;
    }
    db.execute(
        "UPDATE consumers SET name = coalesce($2, name), plan_id = coalesce($3, plan_id),
             changed = nextval('catalog_changes') WHERE id = $1 AND deleted_at IS NULL",
        &[&signed(id.0), &change.name, &change.plan.map(|plan| signed(plan.0))],
    )
    .await?;
    get(db, id).await
}

/// Two consumers may not share a name. Changes come one after another, so that nobody takes it
/// between this and the change.
async fn refuse_taken(db: &Session, id: ConsumerId, name: &str) -> Done<()> {
    let taken = "SELECT 1 FROM consumers WHERE name = $2 AND id <> $1 AND deleted_at IS NULL";
    match db.row(taken, &[&signed(id.0), &name]).await? {
        Some(_) => Err(CatalogError::Duplicate),
        None => Ok(()),
    }
}

/// Deletes a consumer without living keys: answers what it was.
pub(super) async fn delete(db: &Session, id: ConsumerId) -> Done<ConsumerRow> {
    let row = get(db, id).await?;
    keys::refuse_used(db, "consumer_id = $1", id.0).await?;
    let delete = "UPDATE consumers SET deleted_at = $2, changed = nextval('catalog_changes')
                  WHERE id = $1";
    db.execute(delete, &[&signed(id.0), &now()]).await?;
    Ok(row)
}

/// One consumer.
pub(super) async fn get(db: &Session, id: ConsumerId) -> Done<ConsumerRow> {
    let row = db.row(&format!("{SELECT} AND consumers.id = $1"), &[&signed(id.0)]).await?;
    row.as_ref().map(read).ok_or(CatalogError::Missing)
}

/// One page of the consumers.
pub(super) async fn list(db: &Session, page: Page) -> Done<Vec<ConsumerRow>> {
    let list = format!("{SELECT} AND consumers.place > $1 ORDER BY consumers.place LIMIT $2");
    let rows = db.rows(&list, &[&page.after, &i64::from(page.limit)]).await?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> ConsumerRow {
    ConsumerRow {
        place: row.get(0),
        id: ConsumerId(unsigned(row.get(1))),
        name: row.get(2),
        plan: PlanId(unsigned(row.get(3))),
        plan_name: row.get(4),
        created_at: created_at(row, 5),
    }
}
