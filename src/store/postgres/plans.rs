//! The table `plans`.

use super::Done;
use super::columns::{created_at, now, signed, unsigned};
use super::session::Session;
use crate::store::error::CatalogError;
use crate::store::in_use::{USERS_NAMED, refuse_used};
use crate::store::rows::{Page, PlanChange, PlanRow, contract_plans, when_lost_name, when_lost_of};
use shard::catalog::Plan;
use shard::units::{PlanId, id_from_text};
use tokio_postgres::Row;

const SELECT: &str = "SELECT place, id, name, rate_per_s, burst, quota_tokens, when_lost,
    created_at FROM plans WHERE deleted_at IS NULL";

/// Gives a new store the plans of the contract, part 4; where they were deleted, they stay so.
pub(super) async fn seed(db: &Session) -> Done<()> {
    if db.row("SELECT 1 FROM plans LIMIT 1", &[]).await?.is_none() {
        for plan in contract_plans()? {
            insert(db, &plan).await?;
        }
    }
    Ok(())
}

/// A new plan.
pub(super) async fn insert(db: &Session, plan: &Plan) -> Done<PlanRow> {
    db.execute(
        "INSERT INTO plans (id, name, rate_per_s, burst, quota_tokens, when_lost, created_at,
             changed) VALUES ($1, $2, $3, $4, $5, $6, $7, nextval('catalog_changes'))",
        &[
            &signed(plan.id.0),
            &&*plan.name,
            &signed(plan.rate_per_s),
            &signed(plan.burst),
            &signed(plan.quota_tokens),
            &plan.when_lost.map(when_lost_name),
            &now(),
        ],
    )
    .await?;
    get(db, plan.id).await
}

/// Changes a plan.
pub(super) async fn update(db: &Session, id: PlanId, change: PlanChange) -> Done<PlanRow> {
    let old = get(db, id).await?.plan;
    db.execute(
        "UPDATE plans SET rate_per_s = $2, burst = $3, quota_tokens = $4, when_lost = $5,
             changed = nextval('catalog_changes') WHERE id = $1",
        &[
            &signed(id.0),
            &signed(change.rate_per_s.unwrap_or(old.rate_per_s)),
            &signed(change.burst.unwrap_or(old.burst)),
            &signed(change.quota_tokens.unwrap_or(old.quota_tokens)),
            &change.when_lost.unwrap_or(old.when_lost).map(when_lost_name),
        ],
    )
    .await?;
    get(db, id).await
}

/// Deletes a plan that no consumer is on: answers what it was.
pub(super) async fn delete(db: &Session, id: PlanId) -> Done<PlanRow> {
    let row = get(db, id).await?;
    let users = format!(
        "SELECT name, count(*) OVER () FROM consumers WHERE plan_id = $1 AND deleted_at IS NULL
         ORDER BY place LIMIT {USERS_NAMED}"
    );
    let users = db.rows(&users, &[&signed(id.0)]).await?;
    let names: Vec<String> = users.iter().map(|row| row.get(0)).collect();
    refuse_used("consumer", &names, users.first().map_or(0, |row| row.get(1)))?;
    let delete = "UPDATE plans SET deleted_at = $2, changed = nextval('catalog_changes')
                  WHERE id = $1";
    db.execute(delete, &[&signed(id.0), &now()]).await?;
    Ok(row)
}

/// A plan that a caller has found may be gone by the time that its change is made.
pub(super) async fn refuse_deleted(db: &Session, id: PlanId) -> Done<()> {
    match get(db, id).await {
        Err(CatalogError::Missing) => Err(CatalogError::Deleted("plan")),
        found => found.map(drop),
    }
}

/// One plan.
pub(super) async fn get(db: &Session, id: PlanId) -> Done<PlanRow> {
    let row = db.row(&format!("{SELECT} AND id = $1"), &[&signed(id.0)]).await?;
    row.as_ref().map(read).ok_or(CatalogError::Missing)
}

/// The plan with this id or, if there is none, this name.
pub(super) async fn find(db: &Session, text: &str) -> Done<Option<PlanId>> {
    let id = id_from_text(text.as_bytes()).map(signed);
    let find = format!("{SELECT} AND (id = $1 OR name = $2) ORDER BY id = $1 DESC LIMIT 1");
    Ok(db.row(&find, &[&id, &text]).await?.as_ref().map(|row| read(row).plan.id))
}

/// One page of the plans.
pub(super) async fn list(db: &Session, page: Page) -> Done<Vec<PlanRow>> {
    let list = format!("{SELECT} AND place > $1 ORDER BY place LIMIT $2");
    let rows = db.rows(&list, &[&page.after, &i64::from(page.limit)]).await?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &Row) -> PlanRow {
    let when_lost: Option<&str> = row.get(6);
    let plan = Plan {
        id: PlanId(unsigned(row.get(1))),
        name: row.get::<_, &str>(2).into(),
        rate_per_s: unsigned(row.get(3)),
        burst: unsigned(row.get(4)),
        quota_tokens: unsigned(row.get(5)),
        when_lost: when_lost.and_then(when_lost_of),
    };
    PlanRow { place: row.get(0), plan, created_at: created_at(row, 7) }
}
