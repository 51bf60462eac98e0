//! The ledger in Postgres: a batch of settled records, its sums and the watermarks of the journals
//! that it came from, in one transaction.
//!
//! Server lost, at whatever point: the transaction is undone, and the batch comes again. Where the
//! answer to a commit was lost, the watermarks say whether it happened.

use super::blocking::Blocking;
use super::columns::unsigned;
use super::write::{self, BatchTransaction, LookUps};
use super::{partitions, records, refused, schema};
use crate::clock;
use crate::store::batch::{Batch, Dead, Written};
use crate::store::error::{LedgerError, StoreError};
use crate::store::location::PostgresServer;
use crate::store::usage::{RecordTotals, Room};
use shard::units::Period;
use uuid::Uuid;

/// Records kept aside that are read at once.
const PAGE_ROWS: i64 = 512;

/// The ledger by a connection of its own.
pub struct PostgresLedger {
    server: Blocking,
    known: LookUps,
    /// What its disk holds, if somebody has said so.
    disk_bytes: Option<u64>,
    /// The month that partitions were last made in.
    partitions_of: Period,
}

impl PostgresLedger {
    pub(crate) fn open(server: &PostgresServer) -> Result<Self, StoreError> {
        Ok(Self::new(Blocking::open(server)?, server.disk_bytes))
    }

    pub(crate) fn open_away(server: &PostgresServer) -> Result<Self, StoreError> {
        let ledger = Self::new(Blocking::new(server)?, server.disk_bytes);
        // Nobody has looked after the partitions.
        Ok(Self { partitions_of: Period(0), ..ledger })
    }

    pub(crate) fn open_for_reading(server: &PostgresServer) -> Result<Self, LedgerError> {
        let opened = Blocking::new(server).map(|opened| Self::new(opened, server.disk_bytes));
        opened.map_err(|error| LedgerError::Unavailable(error.to_string()))
    }

    fn new(server: Blocking, disk_bytes: Option<u64>) -> Self {
        let partitions_of = Period::of(clock::unix_us());
        Self { server, known: LookUps::default(), disk_bytes, partitions_of }
    }

    pub(crate) fn watermark(&self, journal_id: u128) -> Result<(u64, bool), LedgerError> {
        self.server.run(async |db| Ok(write::watermark(db, journal_id).await?))
    }

    pub(crate) fn write(&mut self, batch: &Batch<'_>) -> Result<Written, LedgerError> {
        let known = &mut self.known;
        let done =
            self.server.run(async |db| BatchTransaction::new(db, known, batch).write(false).await);
        self.resolved(batch, done)
    }

    /// The same; what the server refuses is looked for by halves, and kept aside.
    pub(crate) fn write_by_halves(&mut self, batch: &Batch<'_>) -> Result<Written, LedgerError> {
        let known = &mut self.known;
        let done =
            self.server.run(async |db| BatchTransaction::new(db, known, batch).write(true).await);
        self.resolved(batch, done)
    }

    /// A commit without an answer has happened if its watermarks are there.
    fn resolved(
        &self,
        batch: &Batch<'_>,
        done: Result<Written, write::Failure>,
    ) -> Result<Written, LedgerError> {
        match done {
            Ok(written) => Ok(written),
            Err(write::Failure::Undone(error)) => Err(error),
            Err(write::Failure::Unanswered(written, error)) => {
                let there: Result<bool, LedgerError> =
                    self.server.run(async |db| write::is_there(db, batch).await);
                if there? { Ok(written) } else { Err(error) }
            }
        }
    }

    /// Makes the next months' partitions once a month has begun.
    pub(crate) fn maintain(&mut self) -> Result<(), LedgerError> {
        let month = Period::of(clock::unix_us());
        if month == self.partitions_of {
            return Ok(());
        }
        let strayed = self.server.run(async |db| {
            db.batch(&schema::begin_schema_change()).await?;
            partitions::make(db).await?;
            db.batch("COMMIT").await?;
            Ok::<_, LedgerError>(partitions::count_strayed(db).await?)
        })?;
        if strayed > 0 {
            tracing::error!(
                records = strayed,
                "records lie in usage_rows_default: their time is of no month that has a \
                 partition; is a clock wrong?"
            );
        }
        self.partitions_of = month;
        Ok(())
    }

    pub(crate) fn drop_before(&mut self, before_us: i64) -> Result<bool, LedgerError> {
        self.server.run(async |db| Ok(records::drop_before(db, before_us).await?))
    }

    pub(crate) fn kept_from_us(&self) -> Result<i64, LedgerError> {
        self.server.run(async |db| Ok(records::kept_from_us(db).await?))
    }

    pub(crate) fn each_record_before<E>(
        &self,
        before_us: i64,
        take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
    ) -> Result<Result<(), E>, LedgerError> {
        self.server.run_long(async |db| records::each_before(db, before_us, take).await)
    }

    pub(crate) fn totals_before(&self, before_us: i64) -> Result<RecordTotals, LedgerError> {
        self.server.run_long(async |db| Ok(records::totals_before(db, before_us).await?))
    }

    /// How large its database is, and what is left of the disk as configured.
    pub(crate) fn room(&self) -> Result<Room, LedgerError> {
        let used_bytes = self.server.run::<_, LedgerError>(async |db| {
            let size = "SELECT pg_database_size(current_database())";
            Ok(db.row(size, &[]).await?.map_or(0, |row| unsigned(row.get(0))))
        })?;
        let free_bytes = self.disk_bytes.map(|disk| disk.saturating_sub(used_bytes));
        Ok(Room { used_bytes, free_bytes })
    }

    pub(crate) fn count_refused(&self) -> Result<u64, LedgerError> {
        self.server.run(async |db| Ok(refused::count(db).await?))
    }

    pub(crate) fn each_refused<E: From<LedgerError>>(
        &self,
        mut take: impl FnMut(Dead) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after = (Uuid::nil(), i64::MIN);
        loop {
            let page = self
                .server
                .run(async |db| Ok::<_, LedgerError>(refused::page(db, after, PAGE_ROWS).await?))?;
            if page.is_empty() {
                return Ok(());
            }
            for (place, dead) in page.iter().map(refused::read) {
                after = place;
                take(dead)?;
            }
        }
    }
}
