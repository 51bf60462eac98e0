//! The whole of an embedded store, copied into a Postgres that has nothing yet.
//!
//! Each table is read in the order of its key and goes over in batches; how many of its rows are
//! there is written down in each batch's transaction, so that whoever is interrupted goes on where
//! it was. The source stays as it is meanwhile, which a digest of it says: a store that has changed
//! since is refused. Nobody opens a store that is half filled. At the end both add up their
//! columns, and only what agrees is done.

use super::error::TransferError;
use super::location::PostgresServer;
use super::postgres::TransferTarget;
use super::sqlite::TransferSource;
use super::transfer_tables::{LARGEST, TABLES, TableSums, TransferTable};
use std::path::Path;

/// Rows of one transaction.
const BATCH_ROWS: u64 = 20_000;

/// How far a table has come.
pub(crate) struct Transferred {
    /// The table.
    pub(crate) table: &'static str,
    /// Rows that are there.
    pub(crate) rows: u64,
    /// Of so many.
    pub(crate) of: u64,
}

/// Copies the store in `data_dir`, which nobody else may use meanwhile, or goes on with that.
/// `tell` hears of each batch. What is there at the end, table by table.
pub(crate) fn transfer(
    data_dir: &Path,
    server: &PostgresServer,
    mut tell: impl FnMut(&Transferred),
) -> Result<Vec<Transferred>, TransferError> {
    let source = TransferSource::open(data_dir)?;
    let sums: Vec<TableSums> =
        TABLES.iter().map(|table| source.sums(table)).collect::<Result<_, _>>()?;
    let target = TransferTarget::open(server)?;
    let there = target.begin(TABLES, &digest_of(&source, &sums)?, &source.months()?)?;
    let mut done = Vec::with_capacity(TABLES.len());
    for (table, sums) in TABLES.iter().zip(&sums) {
        let mut progress = Transferred {
            table: table.name,
            rows: there.get(table.name).copied().unwrap_or(0),
            of: sums.rows,
        };
        copy(&source, &target, table, &mut progress, &mut tell)?;
        done.push(progress);
    }
    target.add_months()?;
    for (table, sums) in TABLES.iter().zip(&sums) {
        let found = target.sums(table)?;
        if found != *sums {
            return Err(TransferError(format!(
                "{} does not agree: {sums:?} in the embedded store, {found:?} in Postgres. \
                 Nothing may use that database: drop it, and begin anew",
                table.name
            )));
        }
    }
    target.finish()?;
    Ok(done)
}

/// Copies what is not there yet of a table.
fn copy(
    source: &TransferSource,
    target: &TransferTarget,
    table: &TransferTable,
    progress: &mut Transferred,
    tell: &mut impl FnMut(&Transferred),
) -> Result<(), TransferError> {
    let mut lines = String::new();
    let mut count = 0;
    source.each_row(table, progress.rows, |line| {
        lines.push_str(line);
        count += 1;
        if count == BATCH_ROWS {
            target.copy(table, progress.rows, std::mem::take(&mut lines), count)?;
            progress.rows += count;
            count = 0;
            tell(progress);
        }
        Ok(())
    })?;
    if count > 0 {
        target.copy(table, progress.rows, lines, count)?;
        progress.rows += count;
    }
    tell(progress);
    Ok(())
}

/// Tells one store from another, and from itself once something has changed: all rows but those of
/// the largest table, of which the sums have to do.
fn digest_of(source: &TransferSource, sums: &[TableSums]) -> Result<String, TransferError> {
    let mut hasher = blake3::Hasher::new();
    for (table, sums) in TABLES.iter().zip(sums) {
        hasher.update(format!("{}: {sums:?}\n", table.name).as_bytes());
        if table.name != LARGEST {
            source.each_row(table, 0, |line| {
                hasher.update(line.as_bytes());
                Ok(())
            })?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
