//! `tollgate serve`: one instance, until a signal ends it.

use super::Failure;
use crate::config::Config;
use crate::run;
use std::path::PathBuf;

/// What to serve with.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate serve --config tollgate.toml")]
pub struct ServeArgs {
    /// The configuration; TOLLGATE_SECTION__KEY variables win over it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Serves.
pub fn run(args: &ServeArgs) -> Result<String, Failure> {
    let config =
        Config::load(Some(&args.config)).map_err(|errors| Failure::WrongUse(errors.to_string()))?;
    run::serve(config, |_| Ok(())).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(String::new())
}
