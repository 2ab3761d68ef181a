//! `paceline completions` and `paceline man`: what shells and `man` know of the commands, made from the same definitions.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

use super::error::CliError;
use super::output::{print, print_bytes};

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionOptions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(options: &CompletionOptions, mut command: Command) {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "paceline", &mut script);
    print_bytes(&script);
}

/// Where the pages go.
#[derive(Debug, Args)]
pub(super) struct ManOptions {
    /// A folder for the page of paceline and one for each command; without it the first goes to stdout.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn man(options: &ManOptions, command: Command) -> Result<(), CliError> {
    match &options.dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            print_bytes(&page);
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
            clap_mangen::generate_to(command, dir).with_context(|| format!("{} can't be written", dir.display()))?;
            print(&format!("Wrote the pages into {}; read one with: man {}/paceline.1", dir.display(), dir.display()));
        }
    }
    Ok(())
}
