//! How far a replica is behind.

use super::Done;
use super::session::Session;

/// How far the server has written, which a replica is to reach.
pub(super) async fn position(db: &Session) -> Done<String> {
    let row = db.row("SELECT pg_current_wal_lsn()::text", &[]).await?;
    Ok(row.map_or_else(String::new, |row| row.get(0)))
}

/// Microseconds since what this replica has last carried out, unless it has reached `position`: a
/// server that nothing is written to is no lag.
pub(super) async fn lag_us(db: &Session, position: &str) -> Done<i64> {
    let lag = "SELECT CASE WHEN NOT pg_is_in_recovery()
             OR pg_last_wal_replay_lsn() >= $1::text::pg_lsn THEN 0
         ELSE (extract(epoch FROM clock_timestamp() - coalesce(pg_last_xact_replay_timestamp(),
             pg_postmaster_start_time())) * 1000000)::bigint END";
    Ok(db.row(lag, &[&position]).await?.map_or(0, |row| row.get(0)))
}
