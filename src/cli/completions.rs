//! `tollgate completions` and `tollgate man`: what shells and `man` know of the commands, made of
//! the same description that parses them, so that it cannot differ.

use super::CommandError;
use clap::Command;
use clap_complete::Shell;
use std::io;
use std::path::{Path, PathBuf};

/// `tollgate completions`
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  source <(tollgate completions bash)\n  \
    tollgate completions zsh >\"${fpath[1]}/_tollgate\"\n  \
    tollgate completions fish >~/.config/fish/completions/tollgate.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// `tollgate man`
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tollgate man | man -l -\n  \
    tollgate man --dir /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder instead of the first to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The script for a shell.
pub(super) fn script(args: &CompletionsArgs, mut command: Command) -> String {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tollgate", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The manual, as roff; with a folder, the names of the pages that now are there.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<String, CommandError> {
    let Some(dir) = &args.dir else {
        return page(command).map_err(|error| format!("the page was not made: {error}").into());
    };
    pages(dir, command).map_err(|error| format!("{}: {error}", dir.display()).into())
}

fn page(command: Command) -> io::Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command).render(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn pages(dir: &Path, command: Command) -> io::Result<String> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.starts_with("tollgate").then(|| format!("{name}\n")));
    }
    names.sort();
    Ok(names.concat())
}
