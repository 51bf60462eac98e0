//! `tollgate migrate --from DIR --to URL`: from the embedded store to Postgres, offline.

use super::CommandError;
use super::render::thousands;
use crate::config::PostgresUrl;
use crate::store::{self, PostgresServer, Transferred};
use crate::{clock, journal};
use shard::units::Nanos;
use std::path::PathBuf;

/// Between two lines that say how far it is.
const TELL_EVERY: Nanos = Nanos::from_s(1);

/// What to copy, and where to.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tollgate migrate --from ./tollgate-data --to postgres://tollgate@db/tollgate\n\n\
    The instance is stopped meanwhile, and the database is empty. Plans, consumers, keys,\n\
    services, prices, every record, their sums, what the ledger refused, and how far each journal\n\
    has come go over; both stores then add up their columns. Interrupted, the same command goes\n\
    on where it was. Afterwards set [store] url. The data directory keeps digest.key and\n\
    encryption.key, which hold for the new store as well (every instance needs both), and\n\
    journals, which the next start reads.")]
pub(super) struct MigrateArgs {
    /// The data directory of the embedded store
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The database, as in [store] url
    #[arg(long, value_name = "URL")]
    to: String,
    /// Authorities that are trusted for its certificate, as in [store] ca_file
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &MigrateArgs) -> Result<String, CommandError> {
    let url = PostgresUrl::parse(&args.to)
        .map_err(|allowed| CommandError::WrongUse(format!("--to: allowed: {allowed}")))?;
    if !args.from.join(store::FILE_NAME).is_file() {
        let message = format!("--from: {} holds no store", args.from.display());
        return Err(CommandError::WrongUse(message));
    }
    let _lock = journal::lock(&args.from).map_err(|why| why.to_string())?;
    let server = PostgresServer { ca_file: args.ca_file.clone(), ..PostgresServer::at(url) };
    let mut told_at = clock::now();
    let tell = |it: &Transferred| {
        if clock::now().since(told_at) > TELL_EVERY {
            told_at = clock::now();
            let [rows, of] = [it.rows, it.of].map(|count| thousands(count.into()));
            eprintln!("{}: {rows} of {of}", it.table);
        }
    };
    let done = store::transfer(&args.from, &server, tell).map_err(|error| error.to_string())?;
    let mut text = String::new();
    for it in &done {
        text += &format!("{}: {}\n", it.table, thousands(it.rows.into()));
    }
    Ok(text + "all of it is there, verified by its sums; now set [store] url\n")
}
