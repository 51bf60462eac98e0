//! `tollgate check`: is this configuration good? It starts nothing and writes nothing.

use super::Failure;
use crate::config::{Config, example};
use std::path::PathBuf;

/// What to check.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  tollgate check --config tollgate.toml")]
pub struct CheckArgs {
    /// The file to validate, together with the TOLLGATE_SECTION__KEY variables that are set
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Print a file with every setting, its meaning and its default instead
    #[arg(long, conflicts_with = "config")]
    example: bool,
}

/// `ok: FILE`, the example, or everything that is wrong.
pub fn run(args: &CheckArgs) -> Result<String, Failure> {
    let Some(path) = &args.config else {
        return Ok(example());
    };
    Config::load(Some(path)).map_err(|errors| Failure::WrongUse(errors.to_string()))?;
    Ok(format!("ok: {}\n", path.display()))
}
