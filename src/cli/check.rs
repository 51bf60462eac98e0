//! `tollgate check`: is this configuration good? It starts nothing and writes nothing.

use super::CommandError;
use super::render::table;
use crate::config::{example, settings};
use std::path::PathBuf;

/// What to check.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  tollgate check --config tollgate.toml")]
pub(super) struct CheckArgs {
    /// The file to validate, together with the TOLLGATE_SECTION__KEY variables that are set
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Print a file with every setting, its meaning and its default instead
    #[arg(long, conflicts_with = "config")]
    example: bool,
}

/// `ok: FILE` and what is set, the example, or everything that is wrong.
pub(super) fn run(args: &CheckArgs) -> Result<String, CommandError> {
    let Some(path) = &args.config else {
        return Ok(example());
    };
    let settings =
        settings(Some(path)).map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    let ok = format!("ok: {}\n", path.display());
    let keeps = settings.iter().any(|it| it.path == "usage.keep_days" && it.value != "0");
    let kept = match keeps {
        true => "",
        false => "Usage records are kept for ever, until the disk is full: see usage.keep_days.\n",
    };
    if settings.is_empty() {
        return Ok(format!("{ok}It sets nothing: every setting has its default.\n{kept}"));
    }
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|it| vec![it.path, it.value, it.origin, it.reload.to_string()])
        .collect();
    Ok(ok + &table(&["SETTING", "VALUE", "FROM", "A CHANGE TAKES"], &rows) + kept)
}
