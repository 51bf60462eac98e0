//! `tollgate serve`: one instance, until a signal ends it.

use super::CommandError;
use super::log::LogArgs;
use crate::config::Config;
use crate::run::{self, Owner};
use std::path::PathBuf;

/// What to serve with.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate serve --config tollgate.toml\n\n\
    SIGTERM: finish what is in flight, then end. SIGHUP: read the configuration again;\n\
    `tollgate check --config FILE` tells which settings that can change.")]
pub(super) struct ServeArgs {
    /// The configuration; TOLLGATE_SECTION__KEY variables win over it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Serves.
pub(super) fn run(args: &ServeArgs, log: &LogArgs) -> Result<String, CommandError> {
    let read = || Config::load(Some(&args.config));
    let config = read().map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    let log = log.start(&config.log)?;
    let on_reload = |config: &Config, _: &str| log.reload(&config.log);
    let owner = Owner { read: &read, on_ready: &|_| Ok(()), on_reload: &on_reload };
    run::serve(config, &owner).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(String::new())
}
