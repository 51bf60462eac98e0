//! The table `consumers`.

use super::columns::{created_now, id_at};
use super::in_use::refuse_used;
use super::keys::LIVING;
use super::plans;
use crate::clock;
use crate::store::error::CatalogError;
use crate::store::rows::{ConsumerChange, ConsumerRow, Page};
use rusqlite::{Connection, Row};
use shard::units::{ConsumerId, PlanId};

const SELECT: &str = "SELECT consumers.place, consumers.id, consumers.name, plan_id, plans.name,
    consumers.created_at FROM consumers JOIN plans ON plans.id = plan_id
    WHERE consumers.deleted_at IS NULL";

/// A new consumer.
pub(super) fn insert(
    connection: &Connection,
    id: ConsumerId,
    name: &str,
    plan: PlanId,
) -> Result<ConsumerRow, CatalogError> {
    refuse_taken(connection, id, name)?;
    plans::refuse_deleted(connection, plan)?;
    connection.execute(
        "INSERT INTO consumers (id, name, plan_id, created_at) VALUES (?1, ?2, ?3, ?4)",
        (id.to_string(), name, plan.to_string(), created_now()),
    )?;
    get(connection, id)
}

/// Changes a consumer's name, plan or both.
pub(super) fn update(
    connection: &Connection,
    id: ConsumerId,
    change: &ConsumerChange,
) -> Result<ConsumerRow, CatalogError> {
    if let Some(name) = &change.name {
        refuse_taken(connection, id, name)?;
    }
    if let Some(plan) = change.plan {
        plans::refuse_deleted(connection, plan)?;
    }
    connection.execute(
        "UPDATE consumers SET name = coalesce(?2, name), plan_id = coalesce(?3, plan_id)
         WHERE id = ?1 AND deleted_at IS NULL",
        (id.to_string(), &change.name, change.plan.map(|plan| plan.to_string())),
    )?;
    get(connection, id)
}

/// Two consumers may not share a name. Changes come one after another, so that nobody takes it
/// between this and the change. A store may hold namesakes from before the rule: they stay.
fn refuse_taken(connection: &Connection, id: ConsumerId, name: &str) -> Result<(), CatalogError> {
    let is_taken: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM consumers WHERE name = ?2 AND id <> ?1
             AND deleted_at IS NULL)",
        (id.to_string(), name),
        |row| row.get(0),
    )?;
    if is_taken { Err(CatalogError::Duplicate) } else { Ok(()) }
}

/// Deletes a consumer without living keys: answers what it was.
pub(super) fn delete(connection: &Connection, id: ConsumerId) -> Result<ConsumerRow, CatalogError> {
    let row = get(connection, id)?;
    let keys = format!("SELECT id FROM keys WHERE consumer_id = ?1 AND {LIVING} ORDER BY place");
    refuse_used(connection, "key", &keys, (id.to_string(), clock::unix_us()))?;
    let delete = "UPDATE consumers SET deleted_at = ?2 WHERE id = ?1";
    connection.execute(delete, (id.to_string(), created_now()))?;
    Ok(row)
}

/// One consumer.
pub(super) fn get(connection: &Connection, id: ConsumerId) -> Result<ConsumerRow, CatalogError> {
    let query = format!("{SELECT} AND consumers.id = ?1");
    Ok(connection.query_row(&query, [id.to_string()], read)?)
}

/// One page of the consumers.
pub(super) fn list(connection: &Connection, page: Page) -> Result<Vec<ConsumerRow>, CatalogError> {
    let query = format!("{SELECT} AND consumers.place > ?1 ORDER BY consumers.place LIMIT ?2");
    let mut statement = connection.prepare(&query)?;
    let rows = statement.query_map((page.after, page.limit), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<ConsumerRow> {
    Ok(ConsumerRow {
        place: row.get(0)?,
        id: ConsumerId(id_at(row, 1)?),
        name: row.get(2)?,
        plan: PlanId(id_at(row, 3)?),
        plan_name: row.get(4)?,
        created_at: row.get(5)?,
    })
}
