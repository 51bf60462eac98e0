//! The ledger: every settled record in a row, each day's sums, the fees that fell due, and how far
//! each journal is in. What is below a watermark is skipped, so a batch may be written again after
//! any doubt: nothing is lost, nothing is there twice.
//!
//! A batch that the store refuses is written again in parts, down to single records, and what it
//! refuses then is kept aside: whatever a record says, those behind it go in. So the writer need
//! not tell the two kinds of [`LedgerError`] apart: what it gets back is to be tried again.

use super::batch::{Batch, Dead, Written};
use super::error::{LedgerError, StoreError};
use super::location::StoreLocation;
use super::postgres::PostgresLedger;
use super::sqlite::SqliteLedger;
use super::usage::{RecordTotals, Room};

/// The ledger, in one of the databases that a store can be in.
pub enum Ledger {
    /// The embedded file.
    Sqlite(SqliteLedger),
    /// A Postgres server.
    Postgres(Box<PostgresLedger>),
}

impl Ledger {
    /// Opens the store, and brings its schema up to date.
    pub fn open(at: impl Into<StoreLocation>) -> Result<Self, StoreError> {
        match at.into() {
            StoreLocation::Embedded(data_dir) => SqliteLedger::open(&data_dir).map(Self::Sqlite),
            StoreLocation::Postgres(server) => {
                PostgresLedger::open(&server).map(|ledger| Self::Postgres(Box::new(ledger)))
            }
        }
    }

    /// A store that is away for now: each operation tries to reach it.
    pub(crate) fn open_away(at: impl Into<StoreLocation>) -> Result<Self, StoreError> {
        match at.into() {
            StoreLocation::Embedded(data_dir) => SqliteLedger::open(&data_dir).map(Self::Sqlite),
            StoreLocation::Postgres(server) => {
                PostgresLedger::open_away(&server).map(|ledger| Self::Postgres(Box::new(ledger)))
            }
        }
    }

    /// Opens the store, whatever its schema, to read only.
    pub(crate) fn open_for_reading(at: impl Into<StoreLocation>) -> Result<Self, LedgerError> {
        match at.into() {
            StoreLocation::Embedded(data_dir) => {
                SqliteLedger::open_for_reading(&data_dir).map(Self::Sqlite)
            }
            StoreLocation::Postgres(server) => PostgresLedger::open_for_reading(&server)
                .map(|ledger| Self::Postgres(Box::new(ledger))),
        }
    }

    /// Fits it to a writer of large batches, who calls [`Self::maintain`] after each of them and
    /// after each [`Self::drop_before`].
    pub fn tune(&mut self) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.tune(),
            // Its connection is nobody else's and has the settings that it needs.
            Self::Postgres(_) => Ok(()),
        }
    }

    /// The journal's watermark, and whether it is closed.
    pub fn watermark(&self, journal_id: u128) -> Result<(u64, bool), LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.watermark(journal_id),
            Self::Postgres(ledger) => ledger.watermark(journal_id),
        }
    }

    /// Writes a batch, all of it in one transaction. Waits for its turn among those who write.
    pub fn write(&mut self, batch: &Batch<'_>) -> Result<Written, LedgerError> {
        match self {
            Self::Sqlite(ledger) => match ledger.write(batch) {
                Err(LedgerError::Row(_)) => ledger.write_one_by_one(batch),
                done => done,
            },
            Self::Postgres(ledger) => match ledger.write(batch) {
                Err(LedgerError::Row(_)) => ledger.write_by_halves(batch),
                done => done,
            },
        }
    }

    /// Does what the store needs from time to time, between two batches and apart from anybody's
    /// turn at writing.
    pub(crate) fn maintain(&mut self) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.maintain(),
            Self::Postgres(ledger) => ledger.maintain(),
        }
    }

    /// How many records are kept aside.
    pub(crate) fn count_refused(&self) -> Result<u64, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.count_refused(),
            Self::Postgres(ledger) => ledger.count_refused(),
        }
    }

    /// Gives every record that was kept aside to `take`, in the order of their journals.
    pub(crate) fn each_refused<E: From<LedgerError>>(
        &self,
        take: impl FnMut(Dead) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Sqlite(ledger) => ledger.each_refused(take),
            Self::Postgres(ledger) => ledger.each_refused(take),
        }
    }

    /// Drops some of the records of calls from before `before_us`; their sums by day stay. False:
    /// there are no more.
    pub(crate) fn drop_before(&mut self, before_us: i64) -> Result<bool, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.drop_before(before_us),
            Self::Postgres(ledger) => ledger.drop_before(before_us),
        }
    }

    /// From when on it has every record, microseconds since 1970: those from before were dropped.
    pub(crate) fn kept_from_us(&self) -> Result<i64, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.kept_from_us(),
            Self::Postgres(ledger) => ledger.kept_from_us(),
        }
    }

    /// How much room it takes and has.
    pub(crate) fn room(&self) -> Result<Room, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.room(),
            Self::Postgres(ledger) => ledger.room(),
        }
    }

    /// Gives each record of a call from before `before_us` to `take`: its columns, which are
    /// [`super::RECORD_COLUMNS`], and what it adds to the totals. `take`'s error ends it.
    pub(crate) fn each_record_before<E>(
        &self,
        before_us: i64,
        take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
    ) -> Result<Result<(), E>, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.each_record_before(before_us, take),
            Self::Postgres(ledger) => ledger.each_record_before(before_us, take),
        }
    }

    /// What those records come to, added up by the store.
    pub(crate) fn totals_before(&self, before_us: i64) -> Result<RecordTotals, LedgerError> {
        match self {
            Self::Sqlite(ledger) => ledger.totals_before(before_us),
            Self::Postgres(ledger) => ledger.totals_before(before_us),
        }
    }
}
