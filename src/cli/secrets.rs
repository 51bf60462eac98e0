//! `tollgate secrets rotate`: a new key for the upstream credentials, offline.

use super::CommandError;
use crate::config::{Config, StoreUrl};
use crate::control::{self, Rotated};
use crate::{journal, store};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `tollgate secrets …`
#[derive(Args)]
#[command(after_help = "Example:\n  tollgate secrets rotate --config tollgate.toml")]
pub(super) struct SecretsArgs {
    #[command(subcommand)]
    action: SecretsAction,
}

#[derive(Subcommand)]
enum SecretsAction {
    /// Make a new encryption key and seal every upstream credential under it; the instance is
    /// stopped meanwhile
    #[command(after_help = "Example:\n  tollgate secrets rotate --data-dir ./tollgate-data\n\n\
        The key file (secrets.encryption_key_file, or encryption.key in the data directory) is\n\
        replaced; backups of the store from before need the old one, so keep it with them.")]
    Rotate(RotateArgs),
}

#[derive(Args)]
struct RotateArgs {
    /// The instance's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its data directory, if it is not the configuration's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the old key is lost, drop the credentials that nobody can read any more
    #[arg(long)]
    drop_unreadable: bool,
}

/// Runs the command.
pub(super) fn run(args: &SecretsArgs) -> Result<String, CommandError> {
    let SecretsAction::Rotate(args) = &args.action;
    let mut config = Config::load(args.config.as_deref())
        .map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    if let Some(data_dir) = &args.data_dir {
        config.server.data_dir.clone_from(data_dir);
    }
    let data_dir = &config.server.data_dir;
    let is_embedded = config.store.url == StoreUrl::Embedded;
    if is_embedded && !data_dir.join(store::FILE_NAME).is_file() {
        let message = format!("{} holds no store: give --data-dir or --config", data_dir.display());
        return Err(CommandError::WrongUse(message));
    }
    let _lock = journal::lock(data_dir).map_err(|why| why.to_string())?;
    let Rotated { sealed, dropped } = control::rotate_credentials(&config, args.drop_unreadable)?;
    let mut text = format!("{sealed} upstream credentials are under a new key\n");
    for name in dropped {
        text.push_str(&format!("dropped, to be set again: {name}\n"));
    }
    Ok(text)
}
