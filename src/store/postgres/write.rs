//! One transaction of the writer's.

use super::blocking::TooLong;
use super::columns::{UnixUs, signed, unsigned};
use super::copy::CopyRows;
use super::errors::is_refusal;
use super::session::{Session, Values};
use super::{errors, records, refused, services, sums};
use crate::channels::Settled;
use crate::store::batch::{Advance, Batch, Origin, Written};
use crate::store::day_sums::DaySums;
use crate::store::error::LedgerError;
use crate::store::known_prices::{KnownPrices, PriceName, names_of};
use shard::month_places::{MonthOnService, MonthPlaces};
use shard::record::Record;
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::{Error, SimpleQueryRow};
use uuid::Uuid;

/// What has been looked up before and never changes: prices, numbers of instances.
#[derive(Default)]
pub(super) struct LookUps {
    pub(super) prices: KnownPrices,
    pub(super) instances: HashMap<u128, i32>,
}

/// What became of a transaction that failed.
pub(super) enum Failure {
    /// Nothing of it is there.
    Undone(LedgerError),
    /// Whether it is there is not known: its commit was not answered.
    Unanswered(Written, LedgerError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Undone(error.into())
    }
}

impl From<TooLong> for Failure {
    fn from(too_long: TooLong) -> Self {
        Self::Undone(too_long.into())
    }
}

/// The journal's watermark, and whether it is closed.
pub(super) async fn watermark(db: &Session, journal_id: u128) -> Result<(u64, bool), Error> {
    watermark_by(
        db,
        "SELECT next_seq, closed FROM ingest_watermark WHERE journal_id = $1",
        journal_id,
    )
    .await
}

async fn watermark_by(db: &Session, select: &str, journal_id: u128) -> Result<(u64, bool), Error> {
    let row = db.row(select, &[&Uuid::from_u128(journal_id)]).await?;
    Ok(row.map_or((0, false), |row| (unsigned(row.get(0)), row.get(1))))
}

/// Are all of a batch's watermarks there? Whoever may still be moving one is waited for.
pub(super) async fn is_there(db: &Session, batch: &Batch<'_>) -> Result<bool, LedgerError> {
    for advance in batch.advances {
        let lock = "SELECT next_seq, closed FROM ingest_watermark WHERE journal_id = $1 FOR SHARE";
        let journal_id = batch.origins[advance.origin].journal_id;
        let (next_seq, closed) = watermark_by(db, lock, journal_id).await?;
        if next_seq < advance.next_seq || (advance.closed && !closed) {
            return Ok(false);
        }
    }
    Ok(!batch.advances.is_empty())
}

/// A transaction on its way.
pub(super) struct BatchTransaction<'a> {
    db: &'a Session,
    known: &'a mut LookUps,
    batch: &'a Batch<'a>,
    /// Of each origin, the number of its instance.
    instances: Vec<i32>,
    /// Of the months that this transaction has locked, with all rows that are in.
    places: MonthPlaces,
    /// Of the rows that are in, not yet added to the ledger's.
    sums: DaySums,
    written: Written,
}

impl<'a> BatchTransaction<'a> {
    pub(super) fn new(db: &'a Session, known: &'a mut LookUps, batch: &'a Batch<'a>) -> Self {
        let (places, sums, written) = <(MonthPlaces, DaySums, Written)>::default();
        Self { db, known, batch, instances: Vec::new(), places, sums, written }
    }

    /// Writes the batch. `by_halves`: what the server refuses is looked for, and kept aside.
    pub(super) async fn write(mut self, by_halves: bool) -> Result<Written, Failure> {
        let marks = self.begin().await?;
        let new = self.not_below(&marks);
        self.instances = self.instances().await?;
        let names = names_of(self.candidates(&new));
        self.read_prices(&names).await?;
        self.lock_months(&new, &names, by_halves).await?;
        match by_halves {
            true => self.insert_by_halves(&new).await?,
            false => self.insert(&new).await?,
        }
        for settled in self.batch.recovered {
            self.recover(settled, by_halves).await?;
        }
        match self.db.batch(&format!("{}COMMIT", self.advance_all())).await {
            Ok(()) => {
                // Not before: a number that was rolled back is nobody's.
                let origins = self.batch.origins.iter().map(|origin| origin.instance_id);
                self.known.instances.extend(origins.zip(self.instances));
                Ok(self.written)
            }
            Err(error) if error.as_db_error().is_some() => Err(error.into()),
            Err(error) => Err(Failure::Unanswered(self.written, error.into())),
        }
    }

    /// Begins, and answers the watermarks of the batch's journals, which nobody else moves until
    /// this is over. In the order of their ids, so that two who share some never wait for each
    /// other in a circle. It goes as one text, and so does the end: a round trip less each.
    async fn begin(&self) -> Result<HashMap<Uuid, u64>, Error> {
        let journals: BTreeSet<Uuid> =
            self.batch.origins.iter().map(|it| Uuid::from_u128(it.journal_id)).collect();
        let named: Vec<String> = journals.iter().map(|id| format!("'{id}'::uuid")).collect();
        let named = named.join(", ");
        let lock = format!(
            "SELECT journal_id, next_seq FROM ingest_watermark
             WHERE journal_id = ANY (ARRAY[{named}]::uuid[]) ORDER BY journal_id FOR UPDATE"
        );
        let mut rows = self.db.texts(&format!("BEGIN; {lock}")).await?;
        if rows.len() < journals.len() {
            // A lock needs a row.
            let insert = format!(
                "INSERT INTO ingest_watermark (journal_id, next_seq, closed)
                 SELECT id, 0, false FROM unnest(ARRAY[{named}]::uuid[]) AS named (id)
                 ON CONFLICT DO NOTHING"
            );
            rows = self.db.texts(&format!("{insert}; {lock}")).await?;
        }
        let mark = |row: &SimpleQueryRow| {
            let (id, next_seq) = (row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?);
            Some((id, unsigned(next_seq)))
        };
        Ok(rows.iter().filter_map(mark).collect())
    }

    /// The records that are not in yet.
    fn not_below(&mut self, marks: &HashMap<Uuid, u64>) -> Vec<&'a Settled> {
        let mark = |it: &Origin| marks.get(&Uuid::from_u128(it.journal_id)).copied().unwrap_or(0);
        let marks: Vec<u64> = self.batch.origins.iter().map(mark).collect();
        let is_new = |settled: &&Settled| settled.seq >= marks[usize::from(settled.shard)];
        let new: Vec<&Settled> = self.batch.records.iter().filter(is_new).collect();
        self.written.skipped += (self.batch.records.len() - new.len()) as u64;
        new
    }

    /// The numbers of the instances that the batch comes from.
    async fn instances(&mut self) -> Result<Vec<i32>, Error> {
        let mut numbers = Vec::with_capacity(self.batch.origins.len());
        for origin in self.batch.origins {
            let known = self.known.instances.get(&origin.instance_id).copied();
            let number = match known {
                Some(number) => number,
                None => number_of(self.db, origin.instance_id).await?,
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// The new records, and those that may be.
    fn candidates<'b>(
        &self,
        new: &'b [&'a Settled],
    ) -> impl Iterator<Item = &'b Record> + use<'a, 'b> {
        new.iter().copied().chain(self.batch.recovered).map(|settled| &settled.record)
    }

    async fn read_prices(&mut self, names: &BTreeSet<PriceName>) -> Result<(), Error> {
        let missing = self.known.prices.missing(names);
        if !missing.is_empty() {
            for (name, model) in services::prices(self.db, &missing).await? {
                self.known.prices.learn(name, model);
            }
        }
        Ok(())
    }

    /// Where a record is priced by its month, nobody else may add to it until this is over. Months
    /// are locked in one order, so all are locked here if any has to be, or if there will be more
    /// than one flush; else the flush locks them.
    async fn lock_months(
        &mut self,
        new: &[&Settled],
        names: &BTreeSet<PriceName>,
        by_halves: bool,
    ) -> Result<(), Error> {
        let is_due = by_halves
            || !self.batch.recovered.is_empty()
            || !self.known.prices.months(names, self.candidates(new)).is_empty();
        if !is_due {
            return Ok(());
        }
        let months = self.candidates(new).map(MonthOnService::of).collect();
        for (month, tokens) in sums::lock_months(self.db, &months).await? {
            self.places.begin(month, tokens);
        }
        Ok(())
    }

    /// Adds the rows and what they add to sums.
    async fn insert(&mut self, records: &[&Settled]) -> Result<(), Error> {
        let mut rows = CopyRows::with_room_for(records.len());
        let (mut count, mut misfits) = (0, Vec::new());
        for settled in records {
            let instance = self.instances[usize::from(settled.shard)];
            let priced = self.known.prices.cost(&settled.record, &self.places);
            let added = priced.map_err(|no_place| no_place.to_string()).and_then(|priced| {
                rows.add(settled, priced, instance)?;
                Ok(priced)
            });
            match added {
                Ok(priced) => {
                    self.sums.count(&Record { cost: priced.cost, ..settled.record });
                    self.places.add(&settled.record);
                    count += 1;
                }
                Err(reason) => misfits.push((settled, reason)),
            }
        }
        if count > 0 {
            rows.send(self.db).await?;
        }
        for (settled, reason) in misfits {
            self.refuse(settled, &reason).await?;
        }
        self.written.rows += count;
        self.flush().await
    }

    /// The same; where the server refuses them, each half by itself, down to the one at fault.
    async fn insert_by_halves(&mut self, records: &[&Settled]) -> Result<(), Error> {
        let mut parts = vec![records];
        while let Some(part) = parts.pop() {
            let (written, places) = (self.written, self.places.clone());
            self.db.batch("SAVEPOINT part").await?;
            let Err(error) = self.insert(part).await else {
                self.db.batch("RELEASE part").await?;
                continue;
            };
            if !is_refusal(&error) {
                return Err(error);
            }
            self.db.batch("ROLLBACK TO part; RELEASE part").await?;
            (self.sums, self.written, self.places) = (DaySums::default(), written, places);
            match part {
                [one] => self.refuse(one, &errors::reason(&error)).await?,
                _ => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        Ok(())
    }

    /// A request that died with its process: billed unless its settlement is in after all (which
    /// may have lain in a segment that is deleted by now).
    async fn recover(&mut self, settled: &Settled, by_halves: bool) -> Result<(), Error> {
        let record = &settled.record;
        let journal = Uuid::from_u128(self.batch.origins[usize::from(settled.shard)].journal_id);
        // Its settlement bears the same instant, which leads to a few pages of one partition.
        let known = "SELECT 1 FROM usage_rows
                 WHERE record_id = $1 AND consumer_id = $2 AND occurred_at = $5
             UNION ALL SELECT 1 FROM usage_dlq WHERE journal_id = $3
                 AND substr(slot, 17, 16) = $4 LIMIT 1";
        let (id, in_slot) = (Uuid::from_u128(record.record_id), record.record_id.to_le_bytes());
        let (consumer, at) = (signed(record.consumer.0), UnixUs(record.occurred_at_unix_us));
        let values: Values<'_> = &[&id, &consumer, &journal, &in_slot.as_slice(), &at];
        if self.db.row(known, values).await?.is_some() {
            self.written.skipped += 1;
            return Ok(());
        }
        if record.occurred_at_unix_us < records::kept_from_us(self.db).await? {
            // Its record may have been dropped with those of its time: nobody can tell.
            return self.refuse(settled, "it is older than the records that are kept").await;
        }
        let rows = self.written.rows;
        match by_halves {
            true => self.insert_by_halves(&[settled]).await?,
            false => self.insert(&[settled]).await?,
        }
        self.written.recovered += self.written.rows - rows;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.written.saturated += sums::flush(&mut self.sums, self.db, &self.known.prices).await?;
        Ok(())
    }

    async fn refuse(&mut self, settled: &Settled, reason: &str) -> Result<(), Error> {
        let journal_id = self.batch.origins[usize::from(settled.shard)].journal_id;
        refused::keep(self.db, journal_id, settled, reason).await?;
        self.written.refused += 1;
        Ok(())
    }

    /// Statements that move the watermarks.
    fn advance_all(&self) -> String {
        let advance = |it: &Advance| {
            let journal_id = Uuid::from_u128(self.batch.origins[it.origin].journal_id);
            format!(
                "UPDATE ingest_watermark SET next_seq = greatest(next_seq, {}),
                     closed = closed OR {} WHERE journal_id = '{journal_id}'; ",
                it.next_seq as i64, it.closed
            )
        };
        self.batch.advances.iter().map(advance).collect()
    }
}

/// The number of an instance, which gets one here if it has none.
async fn number_of(db: &Session, instance_id: u128) -> Result<i32, Error> {
    let instance = Uuid::from_u128(instance_id);
    let select = "SELECT number FROM usage_instances WHERE instance_id = $1";
    if let Some(row) = db.row(select, &[&instance]).await? {
        return Ok(row.get(0));
    }
    let insert = "INSERT INTO usage_instances (instance_id) VALUES ($1)
        ON CONFLICT (instance_id) DO UPDATE SET instance_id = excluded.instance_id
        RETURNING number";
    let rows = db.rows(insert, &[&instance]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
