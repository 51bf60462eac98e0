//! `tollgate store partition`: what a store in Postgres is brought to once it has grown large.

use super::CommandError;
use crate::config::Config;
use crate::store::{StoreLocation, split_by_consumer};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `tollgate store …`
#[derive(Args)]
#[command(after_help = "Example:\n  \
    tollgate store partition --by-consumer 16 --config tollgate.toml")]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    action: StoreAction,
}

#[derive(Subcommand)]
enum StoreAction {
    /// Split each month's records and the sums by consumer, for good
    #[command(after_help = "Example:\n  \
        tollgate store partition --by-consumer 16 --config tollgate.toml\n\n\
        For Postgres, past a million consumers or so: each question about one consumer then reads\n\
        one part. Instances go on meanwhile; while a table is rewritten their records wait in the\n\
        journals, and accounts are answered late or by 503. Each table needs room for a second\n\
        copy of it. Interrupted, the same command goes on.")]
    Partition(PartitionArgs),
}

#[derive(Args)]
struct PartitionArgs {
    /// Into so many parts
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u32).range(2..=1024))]
    by_consumer: u32,
    /// The configuration that says where the store is
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &StoreArgs) -> Result<String, CommandError> {
    let StoreAction::Partition(args) = &args.action;
    let config = Config::load(Some(&args.config))
        .map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    let StoreLocation::Postgres(server) = StoreLocation::from(&config) else {
        let message = "the store is embedded: only one in Postgres can be split";
        return Err(CommandError::WrongUse(message.to_owned()));
    };
    let mut text = String::new();
    split_by_consumer(&server, args.by_consumer, |table| text += &format!("split: {table}\n"))
        .map_err(|error| error.to_string())?;
    Ok(text + &format!("records and sums are in {} parts, by consumer\n", args.by_consumer))
}
