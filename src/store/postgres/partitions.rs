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
    let parts = parts(db).await?;
    for &month in months {
        let name = name_of(month);
        let made = "SELECT 1 FROM pg_class WHERE oid = to_regclass($1)";
        if db.row(made, &[&name]).await?.is_some() {
            continue;
        }
        let (from, to) = (first_day(month), first_day(month.next()));
        db.batch(&format!(
            "CREATE TABLE {name} (LIKE usage_rows INCLUDING DEFAULTS) {};
             WITH strayed AS (DELETE FROM usage_rows_default
                 WHERE occurred_at >= '{from}' AND occurred_at < '{to}' RETURNING *)
             INSERT INTO {name} SELECT * FROM strayed;
             ALTER TABLE usage_rows ATTACH PARTITION {name}
                 FOR VALUES FROM ('{from}') TO ('{to}')",
            in_parts(&name, parts)
        ))
        .await?;
    }
    Ok(())
}

/// Into how many parts months are to be split; 1: they are whole.
pub(super) async fn parts(db: &Session) -> Result<i32, Error> {
    let parts = db.row("SELECT parts FROM usage_split", &[]).await?;
    Ok(parts.map_or(1, |row| row.get(0)))
}

/// What follows a table's columns, and makes its parts.
pub(super) fn in_parts(table: &str, parts: i32) -> String {
    if parts < 2 {
        return String::new();
    }
    let part = |at| {
        format!(
            "; CREATE TABLE {table}_{at} PARTITION OF {table}
                 FOR VALUES WITH (MODULUS {parts}, REMAINDER {at})"
        )
    };
    let all: String = (0..parts).map(part).collect();
    format!("PARTITION BY HASH (consumer_id){all}")
}

/// How many records lie in the default partition.
pub(super) async fn count_strayed(db: &Session) -> Result<i64, Error> {
    let count = db.row("SELECT count(*) FROM usage_rows_default", &[]).await?;
    Ok(count.map_or(0, |row| row.get(0)))
}

fn name_of(month: Period) -> String {
    format!("usage_rows_{}_{:02}", month.0 / 100, month.0 % 100)
}

pub(super) fn first_day(month: Period) -> String {
    format!("{month}-01 00:00:00+00")
}
