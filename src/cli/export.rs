//! `tollgate usage export DIR|--config FILE --before DAY`: the ledger's records as CSV, one line
//! each, for keeping them elsewhere before `usage.keep_days` drops them. It only reads the store,
//! which may be in use. The file has its name only once it has been verified: read back from the
//! disk it is what was written, and its records, tokens and cost are the ledger's own sums.

use super::CommandError;
use super::render::{csv_line, thousands};
use crate::config::Config;
use crate::store::{Ledger, RECORD_COLUMNS, RecordTotals, StoreLocation};
use crate::wire::time_text::{day, parse_day};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What to export.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tollgate usage export ./tollgate-data --before 2026-11-01 --out until-october.csv\n  \
    tollgate usage export --config tollgate.toml --before 2026-11-01 --out until-october.csv")]
pub(super) struct ExportArgs {
    /// The data directory of an embedded store
    #[arg(required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// The configuration that says where the store is, for one in Postgres
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// Records of calls before this day (UTC), such as 2026-11-01
    #[arg(long, value_name = "DAY")]
    before: String,
    /// The file to make; it must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Exports, verifies, and says what is in the file.
pub(super) fn run(args: &ExportArgs) -> Result<String, CommandError> {
    let Some(before_us) = parse_day(&args.before) else {
        let message = format!("--before: {} is no day such as 2026-11-01", args.before);
        return Err(CommandError::WrongUse(message));
    };
    let failed = |error: io::Error| format!("{}: {error}", args.out.display());
    if args.out.exists() {
        return Err(CommandError::WrongUse(format!("{} is there already", args.out.display())));
    }
    let mut ledger = Ledger::open_for_reading(location_of(args)?)
        .map_err(|error| format!("the ledger is not read: {error}"))?;
    let part = part_of(&args.out);
    let (written, digest) = write(&mut ledger, before_us, &part).map_err(failed)?;
    let read_back = digest_of(&part).map_err(failed)?;
    let totals = ledger.totals_before(before_us).map_err(|error| error.to_string())?;
    if read_back != digest || written != totals {
        // Records that have just come, of calls from before that day, or a disk that errs.
        let message = format!(
            "{} is not what the ledger holds: {written:?} in the file, {totals:?} in the ledger. \
             Nothing was exported; try again.",
            part.display()
        );
        return Err(CommandError::Failed(message));
    }
    let since = match ledger.kept_from_us().map_err(|error| error.to_string())? {
        0 => String::new(),
        kept_from_us => format!("from {} on and ", day(kept_from_us)),
    };
    std::fs::rename(&part, &args.out).map_err(failed)?;
    Ok(format!(
        "{}: {} records of calls {since}before {}, verified ({} tokens, {} nano-USD, BLAKE3 {})\n",
        args.out.display(),
        thousands(u128::from(written.records)),
        args.before,
        thousands(written.tokens),
        written.cost_nanousd,
        digest.to_hex(),
    ))
}

fn location_of(args: &ExportArgs) -> Result<StoreLocation, CommandError> {
    if let Some(dir) = &args.dir {
        return Ok(StoreLocation::Embedded(dir.clone()));
    }
    let config = Config::load(args.config.as_deref());
    let config = config.map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    Ok(StoreLocation::from(&config))
}

fn part_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    out.with_file_name(name)
}

/// Writes the file to the disk; what went into it, counted line by line.
fn write(
    ledger: &mut Ledger,
    before_us: i64,
    path: &Path,
) -> io::Result<(RecordTotals, blake3::Hash)> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut hasher = blake3::Hasher::new();
    let mut totals = RecordTotals::default();
    let mut put = |line: &str| {
        hasher.update(line.as_bytes());
        out.write_all(line.as_bytes())
    };
    put(&csv_line(RECORD_COLUMNS))?;
    ledger
        .each_record_before(before_us, |columns, record| {
            totals.records += record.records;
            totals.tokens += record.tokens;
            totals.cost_nanousd += record.cost_nanousd;
            put(&csv_line(columns.iter().map(String::as_str)))
        })
        .map_err(io::Error::other)??;
    let digest = hasher.finalize();
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok((totals, digest))
}

fn digest_of(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize())
}
