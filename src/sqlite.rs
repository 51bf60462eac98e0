//! The embedded store: one SQLite file with the catalog and the ledger, opened by `control` and
//! by `writer`, each with connections of its own: WAL lets readers and the one that writes work
//! side by side. Two write, control's lane of changes and the writer; each transaction of theirs
//! begins by taking its turn (`IMMEDIATE`), so none fails for what another has done meanwhile.
//!
//! Migrations only go forward and are never edited: each is kept with its checksum, and a file
//! that no longer matches what was applied is refused.

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The store's file inside `data_dir`.
pub const FILE_NAME: &str = "tollgate.db";

/// Every migration in order: its name and its text.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_create_catalog", include_str!("../migrations/sqlite/0001_create_catalog.sql")),
    ("0002_create_usage", include_str!("../migrations/sqlite/0002_create_usage.sql")),
    ("0003_index_usage_by_time", include_str!("../migrations/sqlite/0003_index_usage_by_time.sql")),
    ("0004_widen_ledger", include_str!("../migrations/sqlite/0004_widen_ledger.sql")),
    ("0005_seal_credentials", include_str!("../migrations/sqlite/0005_seal_credentials.sql")),
    ("0006_keep_key_digests", include_str!("../migrations/sqlite/0006_keep_key_digests.sql")),
    (
        "0007_index_consumer_names",
        include_str!("../migrations/sqlite/0007_index_consumer_names.sql"),
    ),
    ("0008_delete_by_tombstone", include_str!("../migrations/sqlite/0008_delete_by_tombstone.sql")),
];

/// Why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// SQLite's own word.
    Sqlite(rusqlite::Error),
    /// An applied migration is not the one that this program carries.
    MigrationChanged(String),
    /// The store was made by a newer program.
    FromTheFuture(String),
    /// A thread that works on it could not be started.
    Thread(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(error) => write!(f, "a thread of the store did not start: {error}"),
            Self::Sqlite(error) => write!(f, "the store (SQLite) failed: {error}"),
            Self::MigrationChanged(name) => write!(
                f,
                "migration {name} was applied to this store with another text; start the program \
                 that made the store, or restore a backup"
            ),
            Self::FromTheFuture(name) => write!(
                f,
                "the store has migration {name}, which this program does not know; start the \
                 newer program that made it"
            ),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A turn at writing is asked for again after this. SQLite's own pauses grow to 100 ms, which
/// loses every turn to a writer that pauses for less.
const TURN_ASKED_AFTER: Duration = Duration::from_millis(1);
/// So often, about ten seconds: no transaction of ours takes that long.
const TURN_ASKED_MAX: i32 = 10_000;

/// Opens `data_dir/tollgate.db` and brings its schema up to date.
pub fn open(data_dir: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(data_dir.join(FILE_NAME))?;
    connection.busy_handler(Some(wait_for_turn))?;
    // Not in the middle: a transaction that has read and then finds another's commit in its way
    // fails at once, however long it would have waited.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    // Changes alone come to a checkpoint at 128 MiB of log; with the writer at work none of theirs
    // does (see `Checkpoints`).
    connection.execute_batch("PRAGMA wal_autocheckpoint = 8192;")?;
    // FULL: a commit survives power loss; journal segments are deleted on its word. The page size
    // counts when the file is made: larger pages are written by fewer calls (tuning.md).
    connection.execute_batch(
        "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;",
    )?;
    migrate(&mut connection, MIGRATIONS)?;
    Ok(connection)
}

/// Opens `data_dir/tollgate.db`, which [`open`] has made, for reading only.
pub fn open_for_reading(data_dir: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(data_dir.join(FILE_NAME), flags)?;
    connection.busy_handler(Some(wait_for_turn))?;
    connection.execute_batch("PRAGMA query_only = ON;")?;
    Ok(connection)
}

/// Writers of this process take turns in the order in which they ask. SQLite's own lock goes to
/// whoever looks first when it is free: one that writes without end would always be that one.
static TURNS: Turns =
    Turns { numbers: Mutex::new(Numbers { next: 0, now: 0 }), changed: Condvar::new() };

struct Turns {
    numbers: Mutex<Numbers>,
    changed: Condvar,
}

struct Numbers {
    next: u64,
    now: u64,
}

/// A turn at writing, until it is dropped. Nobody takes a second one meanwhile.
#[must_use = "the turn is over when this is dropped"]
pub struct Turn(());

/// Waits for a turn at writing.
pub fn take_turn() -> Turn {
    let mut numbers = TURNS.numbers.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = numbers.next;
    numbers.next += 1;
    while numbers.now != mine {
        numbers = TURNS.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
    }
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.numbers.lock().unwrap_or_else(PoisonError::into_inner).now += 1;
        TURNS.changed.notify_all();
    }
}

/// The write-ahead log is copied into the file whenever so many pages (32 MiB) have been added to
/// it. A copy costs each page a second write, and two syncs.
const CHECKPOINT_PAGES: i32 = 2048;

/// The checkpoints of a store, made by the connection that writes most. SQLite's own come within
/// a commit: whoever waits for a turn, a revocation for one, would wait for a copy of 32 MiB too.
#[derive(Default)]
pub struct Checkpoints {
    /// Pages in the log after the connection's last commit.
    pages: Arc<AtomicI32>,
    tried_at_pages: i32,
}

impl Checkpoints {
    /// From now on `connection` makes checkpoints in [`Self::run_if_due`] and not on its own.
    pub fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let pages = Arc::clone(&self.pages);
        connection.wal_hook(Some(move |_: &mut Wal, count| {
            pages.store(count, Ordering::Relaxed);
            Ok(())
        }))
    }

    /// Copies the log if it has grown enough; to be called without a turn. The first pass lets
    /// others write meanwhile. The second has only what they wrote to copy, and nobody adds to it:
    /// a log that has been copied to its end is begun anew by the next write.
    pub fn run_if_due(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.tried_at_pages {
            self.tried_at_pages = 0;
        }
        // A long read keeps the log from being begun anew; then each try waits for more pages.
        if pages - self.tried_at_pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        self.tried_at_pages = pages;
        let pass = || connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE);
        pass()?;
        let _turn = take_turn();
        pass().map(drop)
    }
}

fn wait_for_turn(asked: i32) -> bool {
    std::thread::sleep(TURN_ASKED_AFTER);
    asked < TURN_ASKED_MAX
}

/// Where [`wide_sum`] cuts integers in two.
const SPLIT_AT: i64 = 1_000_000_000;

/// The two columns of a sum of integers that SQLite's own 64 bits may not hold; see [`sum_at`].
pub fn wide_sum(column: &str) -> String {
    format!("coalesce(sum({column} / {SPLIT_AT}), 0), coalesce(sum({column} % {SPLIT_AT}), 0)")
}

/// Reads what [`wide_sum`] put into this column and the next one.
pub fn sum_at(row: &Row<'_>, column: usize) -> rusqlite::Result<i128> {
    let (high, low): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
    Ok(i128::from(high) * i128::from(SPLIT_AT) + i128::from(low))
}

fn migrate(connection: &mut Connection, migrations: &[(&str, &str)]) -> Result<(), StoreError> {
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
    for (name, checksum) in &applied {
        match migrations.iter().find(|(known, _)| known == name) {
            None => return Err(StoreError::FromTheFuture(name.clone())),
            Some((_, text)) if checksum_of(text) != *checksum => {
                return Err(StoreError::MigrationChanged(name.clone()));
            }
            Some(_) => {}
        }
    }
    for (name, text) in migrations.iter().skip(applied.len()) {
        transaction.execute_batch(text)?;
        transaction.execute(
            "INSERT INTO schema_migrations VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
            (name, checksum_of(text)),
        )?;
    }
    transaction.commit()?;
    Ok(())
}

fn checksum_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

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
