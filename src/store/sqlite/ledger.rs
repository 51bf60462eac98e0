//! The ledger in SQLite: a batch of settled records, its sums and the watermarks of the journals
//! that it came from, in one transaction.

use super::checkpoints::Checkpoints;
use super::columns::signed;
use super::file::{self, FILE_NAME};
use super::refused::{self, is_refusal};
use super::sums;
use super::turns::take_turn;
use super::wide::{sum_at, wide_sum};
use super::{records, retention, services};
use crate::channels::Settled;
use crate::store::batch::{Batch, Dead, Origin, Written};
use crate::store::day_sums::DaySums;
use crate::store::error::{LedgerError, StoreError};
use crate::store::known_prices::{KnownPrices, names_of};
use crate::store::texts;
use crate::store::usage::{RecordTotals, Room};
use rusqlite::TransactionBehavior;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Statement, Transaction};
use shard::month_places::{MonthOnService, MonthPlaces, PlacedCost};
use shard::record::Record;
use shard::units::{ConsumerId, KeyId, ServiceId};
use std::fmt::Display;
use std::path::Path;

/// The ledger by a connection of its own.
pub struct SqliteLedger {
    connection: Connection,
    checkpoints: Checkpoints,
    prices: KnownPrices,
}

impl SqliteLedger {
    fn new(connection: Connection) -> Self {
        Self { connection, checkpoints: Checkpoints::default(), prices: KnownPrices::default() }
    }

    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        file::open(data_dir).map(Self::new)
    }

    pub(crate) fn open_for_reading(data_dir: &Path) -> Result<Self, LedgerError> {
        let path = data_dir.join(FILE_NAME);
        Ok(Self::new(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?))
    }

    pub(crate) fn tune(&mut self) -> Result<(), LedgerError> {
        // A batch of 4096 rows dirties 1.5 MiB of the 4 MiB of cache.
        self.connection.execute_batch("PRAGMA cache_size = -4096;")?;
        self.connection.set_prepared_statement_cache_capacity(16);
        Ok(self.checkpoints.watch(&mut self.connection)?)
    }

    pub(crate) fn watermark(&self, journal_id: u128) -> Result<(u64, bool), LedgerError> {
        Ok(watermark(&self.connection, journal_id)?)
    }

    pub(crate) fn write(&mut self, batch: &Batch<'_>) -> Result<Written, LedgerError> {
        self.in_transaction(batch, |adding| adding.add())
    }

    pub(crate) fn write_one_by_one(&mut self, batch: &Batch<'_>) -> Result<Written, LedgerError> {
        self.in_transaction(batch, |adding| adding.add_one_by_one())
    }

    fn in_transaction(
        &mut self,
        batch: &Batch<'_>,
        add: impl FnOnce(&mut Adding<'_>) -> rusqlite::Result<()>,
    ) -> Result<Written, LedgerError> {
        let _turn = take_turn();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let marks = marks(&transaction, batch)?;
        let new = || {
            let is_new = |it: &&Settled| it.seq >= marks[usize::from(it.shard)];
            batch.records.iter().filter(is_new).chain(batch.recovered).map(|it| &it.record)
        };
        let names = names_of(new());
        for name in self.prices.missing(&names) {
            if let Some(model) = services::price(&transaction, name)? {
                self.prices.learn(name, model);
            }
        }
        let mut places = MonthPlaces::default();
        for month in self.prices.months(&names, new()) {
            places.begin(month, month_tokens(&transaction, month)?);
        }
        let mut adding = Adding {
            transaction: &transaction,
            prices: &self.prices,
            batch,
            marks: &marks,
            places,
            sums: DaySums::default(),
            written: Written::default(),
        };
        add(&mut adding)?;
        let written = adding.written;
        advance_all(&transaction, batch)?;
        transaction.commit()?;
        Ok(written)
    }

    pub(crate) fn maintain(&mut self) -> Result<(), LedgerError> {
        Ok(self.checkpoints.run_if_due(&self.connection)?)
    }

    pub(crate) fn drop_before(&mut self, before_us: i64) -> Result<bool, LedgerError> {
        let _turn = take_turn();
        Ok(retention::drop_before(&mut self.connection, before_us)?)
    }

    pub(crate) fn kept_from_us(&self) -> Result<i64, LedgerError> {
        Ok(retention::kept_from_us(&self.connection)?)
    }

    pub(crate) fn room(&self) -> Result<Room, LedgerError> {
        let (used_bytes, spare_bytes) = retention::used_bytes(&self.connection)?;
        let path = self.connection.path().unwrap_or_default();
        let disk = rustix::fs::statvfs(path)
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let free_bytes = Some(spare_bytes + disk.f_bavail * disk.f_frsize);
        Ok(Room { used_bytes, free_bytes })
    }

    pub(crate) fn each_record_before<E>(
        &self,
        before_us: i64,
        take: impl FnMut(&[String], RecordTotals) -> Result<(), E>,
    ) -> Result<Result<(), E>, LedgerError> {
        records::each_before(&self.connection, before_us, take)
    }

    pub(crate) fn totals_before(&self, before_us: i64) -> Result<RecordTotals, LedgerError> {
        Ok(records::totals_before(&self.connection, before_us)?)
    }

    pub(crate) fn count_refused(&self) -> Result<u64, LedgerError> {
        Ok(refused::count(&self.connection)?)
    }

    pub(crate) fn each_refused<E: From<LedgerError>>(
        &self,
        take: impl FnMut(Dead) -> Result<(), E>,
    ) -> Result<(), E> {
        refused::each(&self.connection, take)
    }

    /// For tests: to make this very connection fail.
    #[cfg(test)]
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// The journal's watermark, and whether it is closed.
fn watermark(connection: &Connection, journal_id: u128) -> rusqlite::Result<(u64, bool)> {
    let found = connection
        .prepare_cached("SELECT next_seq, closed FROM ingest_watermark WHERE journal_id = ?1")?
        .query_row([texts::uuid(journal_id).as_str()], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn advance_all(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO ingest_watermark VALUES (?1, ?2, ?3) ON CONFLICT (journal_id)
         DO UPDATE SET next_seq = max(next_seq, excluded.next_seq),
                       closed = max(closed, excluded.closed)",
    )?;
    for advance in batch.advances {
        upsert.execute((
            texts::uuid(batch.origins[advance.origin].journal_id).as_str(),
            advance.next_seq as i64,
            advance.closed,
        ))?;
    }
    Ok(())
}

/// A transaction on its way.
struct Adding<'a> {
    transaction: &'a Transaction<'a>,
    prices: &'a KnownPrices,
    batch: &'a Batch<'a>,
    /// Of each origin; what is below is in.
    marks: &'a [u64],
    /// Of the months that records are priced by, with all rows that are in.
    places: MonthPlaces,
    /// Of the rows that are in, not yet added to the ledger's.
    sums: DaySums,
    written: Written,
}

impl Adding<'_> {
    fn add(&mut self) -> rusqlite::Result<()> {
        self.insert_new(self.batch.records)?;
        for settled in self.batch.recovered {
            self.recover(settled)?;
        }
        self.flush()
    }

    /// The same, each record with its sums for itself: one that the store refuses is kept aside.
    fn add_one_by_one(&mut self) -> rusqlite::Result<()> {
        for settled in self.batch.records {
            self.apart(settled, |it| it.insert_new(std::slice::from_ref(settled)))?;
        }
        for settled in self.batch.recovered {
            self.apart(settled, |it| it.recover(settled))?;
        }
        Ok(())
    }

    /// Does `add`; what it did is undone if the store refuses it, and `settled` kept aside.
    fn apart(
        &mut self,
        settled: &Settled,
        add: impl FnOnce(&mut Self) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let (written, places) = (self.written, self.places.clone());
        self.transaction.execute_batch("SAVEPOINT one")?;
        if let Err(error) = add(self).and_then(|()| self.flush()) {
            if !is_refusal(&error) {
                return Err(error);
            }
            self.transaction.execute_batch("ROLLBACK TO one")?;
            (self.sums, self.written, self.places) = (DaySums::default(), written, places);
            self.refuse(settled, &error)?;
        }
        self.transaction.execute_batch("RELEASE one")
    }

    /// The numbers of the instances that the batch comes from.
    fn instances(&self) -> rusqlite::Result<Vec<i64>> {
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO usage_instances (instance_id) VALUES (?1)
             ON CONFLICT DO UPDATE SET instance_id = instance_id RETURNING number",
        )?;
        let mut number = |origin: &Origin| {
            add.query_row([texts::uuid(origin.instance_id).as_str()], |row| row.get(0))
        };
        self.batch.origins.iter().map(&mut number).collect()
    }

    /// Adds the records that are not in yet.
    fn insert_new(&mut self, records: &[Settled]) -> rusqlite::Result<()> {
        let marks = self.marks;
        let is_new = |it: &&Settled| it.seq >= marks[usize::from(it.shard)];
        self.written.skipped += records.iter().filter(|it| !is_new(it)).count() as u64;
        self.insert(records.iter().filter(is_new))
    }

    /// Adds records, each priced where it comes to stand.
    fn insert<'b>(&mut self, records: impl Iterator<Item = &'b Settled>) -> rusqlite::Result<()> {
        let mut insert = self.transaction.prepare_cached(INSERT)?;
        let mut bound = None;
        let instances = self.instances()?;
        for settled in records {
            let shared = Shared::of(&settled.record, settled.shard);
            if bound != Some(shared) {
                shared.bind(&mut insert, instances[usize::from(settled.shard)])?;
                bound = Some(shared);
            }
            let PlacedCost { cost, month_place } =
                match self.prices.cost(&settled.record, &self.places) {
                    Ok(priced) => priced,
                    Err(no_place) => {
                        self.refuse(settled, &no_place)?;
                        continue;
                    }
                };
            let record = Record { cost, ..settled.record };
            match insert_row(&mut insert, settled.given_request_id(), &record) {
                Ok(_) => {
                    if let Some(month_place) = month_place {
                        let id = record.record_id.to_be_bytes();
                        self.transaction
                            .prepare_cached("INSERT INTO usage_places VALUES (?1, ?2)")?
                            .execute((id.as_slice(), signed(month_place)))?;
                    }
                    self.sums.count(&record);
                    self.places.add(&record);
                    self.written.rows += 1;
                }
                Err(error) if is_refusal(&error) => self.refuse(settled, &error)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A request that died with its process: billed unless its settlement is in after all (which
    /// may have lain in a segment that is deleted by now).
    fn recover(&mut self, settled: &Settled) -> rusqlite::Result<()> {
        let record_id = settled.record.record_id;
        let journal_id = self.batch.origins[settled.shard as usize].journal_id;
        let known = self
            .transaction
            .prepare_cached(
                "SELECT 1 FROM usage_rows WHERE record_id = ?1 UNION ALL
                 SELECT 1 FROM usage_dlq WHERE journal_id = ?2 AND substr(slot, 17, 16) = ?3",
            )?
            .exists((
                record_id.to_be_bytes().as_slice(),
                texts::uuid(journal_id).as_str(),
                record_id.to_le_bytes().as_slice(),
            ))?;
        if known {
            self.written.skipped += 1;
            return Ok(());
        }
        if settled.record.occurred_at_unix_us < retention::kept_from_us(self.transaction)? {
            // Its record may have been dropped with those of its time: nobody can tell.
            return self.refuse(settled, &"it is older than the records that are kept");
        }
        let rows = self.written.rows;
        self.insert(std::iter::once(settled))?;
        self.written.recovered += self.written.rows - rows;
        Ok(())
    }

    fn flush(&mut self) -> rusqlite::Result<()> {
        self.written.saturated += sums::flush(&mut self.sums, self.transaction, self.prices)?;
        Ok(())
    }

    fn refuse(&mut self, settled: &Settled, reason: &dyn Display) -> rusqlite::Result<()> {
        let journal_id = self.batch.origins[settled.shard as usize].journal_id;
        refused::keep(self.transaction, journal_id, settled, reason)?;
        self.written.refused += 1;
        Ok(())
    }
}

fn marks(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<Vec<u64>> {
    let mark = |it: &Origin| Ok(watermark(transaction, it.journal_id)?.0);
    batch.origins.iter().map(mark).collect()
}

/// Tokens of the month in the ledger: those of its days.
fn month_tokens(transaction: &Transaction<'_>, month: MonthOnService) -> rusqlite::Result<u64> {
    let MonthOnService { consumer, service, period } = month;
    let sql = format!(
        "SELECT {}, {} FROM usage_daily WHERE consumer_id = ?1 AND service_id = ?2
         AND day BETWEEN ?3 || '-01' AND ?3 || '-31'",
        wide_sum("input_tokens"),
        wide_sum("output_tokens"),
    );
    let tokens = transaction.prepare_cached(&sql)?.query_row(
        (
            texts::id(consumer.0).as_str(),
            texts::id(service.0).as_str(),
            texts::period(period).as_str(),
        ),
        |row| Ok(sum_at(row, 0)? + sum_at(row, 2)?),
    )?;
    Ok(u64::try_from(tokens).unwrap_or(u64::MAX))
}

const INSERT: &str = "INSERT INTO usage_rows VALUES
    (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20)";

/// What a row mostly shares with the one before: SQLite copies each text that is bound, so these
/// are bound again only when one of them changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shared {
    shard: u16,
    consumer: ConsumerId,
    key: KeyId,
    service: ServiceId,
}

impl Shared {
    fn of(record: &Record, shard: u16) -> Self {
        let Record { consumer, key, service, .. } = *record;
        Self { shard, consumer, key, service }
    }

    fn bind(&self, insert: &mut Statement<'_>, instance: i64) -> rusqlite::Result<()> {
        insert.raw_bind_parameter(4, texts::id(self.consumer.0).as_str())?;
        insert.raw_bind_parameter(5, texts::id(self.key.0).as_str())?;
        insert.raw_bind_parameter(6, texts::id(self.service.0).as_str())?;
        insert.raw_bind_parameter(20, instance)
    }
}

/// Binds the rest of the row, and inserts it.
fn insert_row(
    insert: &mut Statement<'_>,
    given_request_id: Option<&str>,
    record: &Record,
) -> rusqlite::Result<usize> {
    insert.raw_bind_parameter(1, record.record_id.to_be_bytes().as_slice())?;
    insert.raw_bind_parameter(2, record.occurred_at_unix_us)?;
    insert.raw_bind_parameter(3, given_request_id)?;
    insert.raw_bind_parameter(7, record.status)?;
    insert.raw_bind_parameter(8, record.outcome as u8)?;
    insert.raw_bind_parameter(9, record.streamed)?;
    insert.raw_bind_parameter(10, record.usage.input_tokens)?;
    insert.raw_bind_parameter(11, record.usage.cached_tokens)?;
    insert.raw_bind_parameter(12, record.usage.output_tokens)?;
    insert.raw_bind_parameter(13, record.usage.estimated)?;
    insert.raw_bind_parameter(14, record.price_version)?;
    insert.raw_bind_parameter(15, record.cost.0)?;
    insert.raw_bind_parameter(16, record.attempts)?;
    insert.raw_bind_parameter(17, record.latency_us)?;
    insert.raw_bind_parameter(18, record.ttft_us)?;
    insert.raw_bind_parameter(19, record.overhead_us)?;
    insert.raw_execute()
}
