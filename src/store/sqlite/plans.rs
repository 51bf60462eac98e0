//! The table `plans`.

use super::columns::{created_now, id_at, signed, unsigned};
use super::in_use::refuse_used;
use crate::store::error::CatalogError;
use crate::store::rows::{Page, PlanChange, PlanRow, contract_plans, when_lost_name, when_lost_of};
use rusqlite::{Connection, OptionalExtension, Row};
use shard::catalog::Plan;
use shard::units::PlanId;

const COLUMNS: &str = "place, id, name, rate_per_s, burst, quota_tokens, when_lost, created_at";

/// Gives a new store the plans of the contract, part 4; where they were deleted, they stay so.
pub(super) fn seed(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let count: i64 = transaction.query_row("SELECT count(*) FROM plans", (), |row| row.get(0))?;
    if count == 0 {
        let plans = contract_plans().map_err(|failure| {
            rusqlite::Error::ToSqlConversionFailure(failure.to_string().into())
        })?;
        for plan in plans {
            insert_row(&transaction, &plan)?;
        }
    }
    transaction.commit()
}

/// A new plan.
pub(super) fn insert(connection: &Connection, plan: &Plan) -> Result<PlanRow, CatalogError> {
    insert_row(connection, plan)?;
    get(connection, plan.id)
}

fn insert_row(connection: &Connection, plan: &Plan) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO plans (id, name, rate_per_s, burst, quota_tokens, when_lost, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            plan.id.to_string(),
            &*plan.name,
            signed(plan.rate_per_s),
            signed(plan.burst),
            signed(plan.quota_tokens),
            plan.when_lost.map(when_lost_name),
            created_now(),
        ),
    )
}

/// Changes a plan.
pub(super) fn update(
    connection: &Connection,
    id: PlanId,
    change: PlanChange,
) -> Result<PlanRow, CatalogError> {
    let old = get(connection, id)?.plan;
    connection.execute(
        "UPDATE plans SET rate_per_s = ?2, burst = ?3, quota_tokens = ?4, when_lost = ?5
         WHERE id = ?1",
        (
            id.to_string(),
            signed(change.rate_per_s.unwrap_or(old.rate_per_s)),
            signed(change.burst.unwrap_or(old.burst)),
            signed(change.quota_tokens.unwrap_or(old.quota_tokens)),
            change.when_lost.unwrap_or(old.when_lost).map(when_lost_name),
        ),
    )?;
    get(connection, id)
}

/// Deletes a plan that no consumer is on: answers what it was.
pub(super) fn delete(connection: &Connection, id: PlanId) -> Result<PlanRow, CatalogError> {
    let row = get(connection, id)?;
    let users = "SELECT name FROM consumers WHERE plan_id = ?1 AND deleted_at IS NULL
                 ORDER BY place";
    refuse_used(connection, "consumer", users, [id.to_string()])?;
    let delete = "UPDATE plans SET deleted_at = ?2 WHERE id = ?1";
    connection.execute(delete, (id.to_string(), created_now()))?;
    Ok(row)
}

/// A plan that a caller has found may be gone by the time that its change is made.
pub(super) fn refuse_deleted(connection: &Connection, id: PlanId) -> Result<(), CatalogError> {
    match get(connection, id) {
        Err(CatalogError::Missing) => Err(CatalogError::Deleted("plan")),
        found => found.map(drop),
    }
}

/// One plan.
pub(super) fn get(connection: &Connection, id: PlanId) -> Result<PlanRow, CatalogError> {
    let query = format!("SELECT {COLUMNS} FROM plans WHERE id = ?1 AND deleted_at IS NULL");
    Ok(connection.query_row(&query, [id.to_string()], read)?)
}

/// The plan with this id or, if there is none, this name.
pub(super) fn find(connection: &Connection, text: &str) -> Result<Option<PlanId>, CatalogError> {
    let found = connection.query_row(
        "SELECT id FROM plans WHERE (id = ?1 OR name = ?1) AND deleted_at IS NULL
         ORDER BY id <> ?1 LIMIT 1",
        [text],
        |row| id_at(row, 0),
    );
    Ok(found.optional()?.map(PlanId))
}

/// One page of the plans.
pub(super) fn list(connection: &Connection, page: Page) -> Result<Vec<PlanRow>, CatalogError> {
    let query = format!(
        "SELECT {COLUMNS} FROM plans WHERE place > ?1 AND deleted_at IS NULL
         ORDER BY place LIMIT ?2"
    );
    let mut statement = connection.prepare(&query)?;
    let rows = statement.query_map((page.after, page.limit), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<PlanRow> {
    let when_lost: Option<String> = row.get(6)?;
    let plan = Plan {
        id: PlanId(id_at(row, 1)?),
        name: row.get::<_, String>(2)?.into(),
        rate_per_s: unsigned(row.get(3)?),
        burst: unsigned(row.get(4)?),
        quota_tokens: unsigned(row.get(5)?),
        when_lost: when_lost.as_deref().and_then(when_lost_of),
    };
    Ok(PlanRow { place: row.get(0)?, plan, created_at: row.get(7)? })
}
