//! The months' partitions of `usage_rows`, made ahead. What comes for a month without one goes
//! into the default partition, which is looked at for that.

use super::session::Session;
use crate::clock;
use shard::units::Period;
use tokio_postgres::Error;

/// Months that are made ahead of this one: a store that nobody writes to for so long, and then
/// does, has a partition all the same.
const AHEAD: usize = 3;

/// Makes the partitions of last month, whose records may still lie in a journal, of this one and
/// of those ahead, in the transaction at hand. What has strayed into the default partition moves.
pub(super) async fn make(db: &Session) -> Result<(), Error> {
    let now = clock::unix_us();
    let last = Period::of(Period::of(now).starts_at_unix_us() - 1);
    let months = std::iter::successors(Some(last), |month| Some(month.next()));
    make_for(db, &months.take(2 + AHEAD).collect::<Vec<_>>()).await
}

/// The same of these months.
pub(super) async fn make_for(db: &Session, months: &[Period]) -> Result<(), Error> {
    for &month in months {
        let name = name_of(month);
        let made = "SELECT 1 FROM pg_class WHERE oid = to_regclass($1)";
        if db.row(made, &[&name]).await?.is_some() {
            continue;
        }
        let (from, to) = (first_day(month), first_day(month.next()));
        db.batch(&format!(
            "CREATE TABLE {name} (LIKE usage_rows INCLUDING DEFAULTS);
             WITH strayed AS (DELETE FROM usage_rows_default
                 WHERE occurred_at >= '{from}' AND occurred_at < '{to}' RETURNING *)
             INSERT INTO {name} SELECT * FROM strayed;
             ALTER TABLE usage_rows ATTACH PARTITION {name}
                 FOR VALUES FROM ('{from}') TO ('{to}')"
        ))
        .await?;
    }
    Ok(())
}

/// How many records lie in the default partition.
pub(super) async fn count_strayed(db: &Session) -> Result<i64, Error> {
    let count = db.row("SELECT count(*) FROM usage_rows_default", &[]).await?;
    Ok(count.map_or(0, |row| row.get(0)))
}

fn name_of(month: Period) -> String {
    format!("usage_rows_{}_{:02}", month.0 / 100, month.0 % 100)
}

fn first_day(month: Period) -> String {
    format!("{month}-01 00:00:00+00")
}
