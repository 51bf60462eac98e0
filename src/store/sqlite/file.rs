//! The store's file: one SQLite file with the catalog and the ledger, opened by `control` and by
//! `writer`, each with connections of its own: WAL lets readers and the one that writes work side
//! by side. Two write, control's lane of changes and the writer; each transaction of theirs begins
//! by taking its turn (`IMMEDIATE`), so none fails for what another has done meanwhile.

use crate::store::error::StoreError;
use crate::store::migrations::{Migration, checksum_of, pending};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// The store's file inside `data_dir`.
pub const FILE_NAME: &str = "tollgate.db";

/// Every migration in order: its name and its text.
const MIGRATIONS: &[Migration] = &[
    ("0001_create_catalog", include_str!("../../../migrations/sqlite/0001_create_catalog.sql")),
    ("0002_create_usage", include_str!("../../../migrations/sqlite/0002_create_usage.sql")),
    (
        "0003_index_usage_by_time",
        include_str!("../../../migrations/sqlite/0003_index_usage_by_time.sql"),
    ),
    ("0004_widen_ledger", include_str!("../../../migrations/sqlite/0004_widen_ledger.sql")),
    ("0005_seal_credentials", include_str!("../../../migrations/sqlite/0005_seal_credentials.sql")),
    ("0006_keep_key_digests", include_str!("../../../migrations/sqlite/0006_keep_key_digests.sql")),
    (
        "0007_index_consumer_names",
        include_str!("../../../migrations/sqlite/0007_index_consumer_names.sql"),
    ),
    (
        "0008_delete_by_tombstone",
        include_str!("../../../migrations/sqlite/0008_delete_by_tombstone.sql"),
    ),
    ("0009_compact_usage", include_str!("../../../migrations/sqlite/0009_compact_usage.sql")),
    ("0010_keep_usage", include_str!("../../../migrations/sqlite/0010_keep_usage.sql")),
    ("0011_place_usage", include_str!("../../../migrations/sqlite/0011_place_usage.sql")),
];

/// A turn at writing is asked for again after this. SQLite's own pauses grow to 100 ms, which
/// loses every turn to a writer that pauses for less.
const TURN_ASKED_AFTER: Duration = Duration::from_millis(1);
/// So often, about ten seconds: no transaction of ours takes that long.
const TURN_ASKED_MAX: i32 = 10_000;

/// Opens `data_dir/tollgate.db` and brings its schema up to date.
pub(crate) fn open(data_dir: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(data_dir.join(FILE_NAME))?;
    connection.busy_handler(Some(wait_for_turn))?;
    // Not in the middle: a transaction that has read and then finds another's commit in its way
    // fails at once, however long it would have waited.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    // Changes alone come to a checkpoint at 128 MiB of log. With the writer at work that has made
    // them before (see `Checkpoints`), unless long reads keep the log from being begun anew.
    connection.execute_batch("PRAGMA wal_autocheckpoint = 8192;")?;
    // FULL: a commit survives power loss; journal segments are deleted on its word. The page size
    // counts when the file is made: larger pages are written by fewer calls (tuning.md).
    connection.execute_batch(
        "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;",
    )?;
    migrate(&mut connection, MIGRATIONS)?;
    Ok(connection)
}

/// Opens `data_dir/tollgate.db`, which [`open`] has made, for reading only.
pub(crate) fn open_for_reading(data_dir: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(data_dir.join(FILE_NAME), flags)?;
    connection.busy_handler(Some(wait_for_turn))?;
    connection.execute_batch("PRAGMA query_only = ON;")?;
    Ok(connection)
}

fn wait_for_turn(asked: i32) -> bool {
    std::thread::sleep(TURN_ASKED_AFTER);
    asked < TURN_ASKED_MAX
}

fn migrate(connection: &mut Connection, migrations: &[Migration]) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at TEXT NOT NULL
         ) STRICT, WITHOUT ROWID;",
    )?;
    let applied: Vec<(String, String)> = transaction
        .prepare("SELECT name, checksum FROM schema_migrations ORDER BY name")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (name, text) in pending(migrations, &applied)? {
        transaction.execute_batch(text)?;
        transaction.execute(
            "INSERT INTO schema_migrations VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
            (name, checksum_of(text)),
        )?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn records_from_before_they_were_compact_read_as_before() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, &MIGRATIONS[..8]).unwrap();
        db.execute_batch(
            "INSERT INTO services VALUES (5, 's', 'chat', 'u', '/', NULL, 1, 't', NULL, NULL);
             INSERT INTO usage_records VALUES
             ('0192f0c0-0000-7000-8000-00000000abcd', '2026-11-23T20:18:00.000056Z', '2026-11',
                 'mine', 'c', 'k', 's', 'chat', 200, 'completed', 1, 10, 4, 20, 'reported', 3, 12,
                 1, 100, 50, 5, 'i'),
             ('0192f0c0-0000-7000-8000-00000000abce', '1999-12-31T23:59:59.999999Z', '1999-12',
                 '0192f0c0-0000-7000-8000-00000000abce', 'c', 'k', 'gone', 'gone', 504,
                 'timed_out', 0, 1, 0, 0, 'estimated', 1, 9223372036854775807, 2, 1, 0, 1, 'j');",
        )
        .unwrap();
        let rows = |db: &Connection| -> Vec<Vec<rusqlite::types::Value>> {
            let mut select = db.prepare("SELECT * FROM usage_records ORDER BY 1").unwrap();
            let columns = 0..select.column_count();
            let row = |row: &rusqlite::Row<'_>| columns.clone().map(|it| row.get(it)).collect();
            select.query_map((), row).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let names = |db: &Connection| -> Vec<String> {
            let select = db.prepare("SELECT * FROM usage_records").unwrap();
            select.column_names().map(str::to_owned).collect()
        };
        let before = (names(&db), rows(&db));
        assert_eq!((before.0.len(), before.1.len()), (22, 2));
        migrate(&mut db, MIGRATIONS).unwrap();
        assert_eq!((names(&db), rows(&db)), before);
    }

    #[test]
    fn a_store_from_before_deletions_keeps_its_rows_places_and_references() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        migrate(&mut db, &MIGRATIONS[..7]).unwrap();
        db.execute_batch(
            "INSERT INTO plans VALUES (3, 'p', 'basic', 1, 1, 1, NULL, 't');
             INSERT INTO consumers VALUES (4, 'c', 'acme', 'p', 't'), (6, 'd', 'acme', 'p', 't');
             INSERT INTO services VALUES (5, 's', 'chat', 'u', '/', NULL, 1, 't', x'01');
             INSERT INTO prices VALUES ('s', 1, 0, '{}', 't');",
        )
        .unwrap();
        migrate(&mut db, MIGRATIONS).unwrap();
        let places: (i64, i64, Vec<u8>) = db
            .query_row(
                "SELECT plans.place, services.place, credential_sealed FROM plans, services",
                (),
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap();
        assert_eq!(places, (3, 5, vec![1]));
        let refused = |sql: &str| db.execute_batch(sql).is_err();
        assert!(refused("DELETE FROM plans"));
        assert!(refused("INSERT INTO prices VALUES ('x', 1, 0, '{}', 't')"));
        let same_name = "INSERT INTO plans VALUES (9, 'q', 'basic', 1, 1, 1, NULL, 't', NULL)";
        assert!(refused(same_name));
        db.execute_batch("UPDATE plans SET deleted_at = 't'").unwrap();
        assert!(!refused(same_name));
    }
}
