//! The table `consumers`.

use super::keys::LIVING;
use super::{Failure, Page, created_now, id_at, plans, refuse_used};
use crate::clock;
use rusqlite::{Connection, Row};
use shard::units::{ConsumerId, PlanId};

const SELECT: &str = "SELECT consumers.place, consumers.id, consumers.name, plan_id, plans.name,
    consumers.created_at FROM consumers JOIN plans ON plans.id = plan_id
    WHERE consumers.deleted_at IS NULL";

/// A row, with its plan's name.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerRow {
    pub(crate) place: i64,
    pub(crate) id: ConsumerId,
    pub(crate) name: String,
    pub(crate) plan: PlanId,
    pub(crate) plan_name: String,
    pub(crate) created_at: String,
}

/// A new consumer.
pub(crate) fn insert(
    connection: &Connection,
    id: ConsumerId,
    name: &str,
    plan: PlanId,
) -> Result<ConsumerRow, Failure> {
    refuse_taken(connection, id, name)?;
    plans::refuse_deleted(connection, plan)?;
    connection.execute(
        "INSERT INTO consumers (id, name, plan_id, created_at) VALUES (?1, ?2, ?3, ?4)",
        (id.to_string(), name, plan.to_string(), created_now()),
    )?;
    get(connection, id)
}

/// Changes a consumer's name, plan or both.
pub(crate) fn update(
    connection: &Connection,
    id: ConsumerId,
    name: Option<&str>,
    plan: Option<PlanId>,
) -> Result<ConsumerRow, Failure> {
    if let Some(name) = name {
        refuse_taken(connection, id, name)?;
    }
    if let Some(plan) = plan {
        plans::refuse_deleted(connection, plan)?;
    }
    connection.execute(
        "UPDATE consumers SET name = coalesce(?2, name), plan_id = coalesce(?3, plan_id)
         WHERE id = ?1 AND deleted_at IS NULL",
        (id.to_string(), name, plan.map(|plan| plan.to_string())),
    )?;
    get(connection, id)
}

/// Two consumers may not share a name. Changes come one after another, so that nobody takes it
/// between this and the change. A store may hold namesakes from before the rule: they stay.
fn refuse_taken(connection: &Connection, id: ConsumerId, name: &str) -> Result<(), Failure> {
    let is_taken: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM consumers WHERE name = ?2 AND id <> ?1
             AND deleted_at IS NULL)",
        (id.to_string(), name),
        |row| row.get(0),
    )?;
    if is_taken { Err(Failure::Duplicate) } else { Ok(()) }
}

/// Deletes a consumer without living keys: answers what it was.
pub(crate) fn delete(connection: &Connection, id: ConsumerId) -> Result<ConsumerRow, Failure> {
    let row = get(connection, id)?;
    let keys = format!("SELECT id FROM keys WHERE consumer_id = ?1 AND {LIVING} ORDER BY place");
    refuse_used(connection, "key", &keys, (id.to_string(), clock::unix_us()))?;
    let delete = "UPDATE consumers SET deleted_at = ?2 WHERE id = ?1";
    connection.execute(delete, (id.to_string(), created_now()))?;
    Ok(row)
}

/// One consumer.
pub(crate) fn get(connection: &Connection, id: ConsumerId) -> Result<ConsumerRow, Failure> {
    let query = format!("{SELECT} AND consumers.id = ?1");
    Ok(connection.query_row(&query, [id.to_string()], read)?)
}

/// One page of the consumers.
pub(crate) fn list(connection: &Connection, page: Page) -> Result<Vec<ConsumerRow>, Failure> {
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
