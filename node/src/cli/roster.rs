//! `paceline roster drop`: the last resort where a majority of the members is gone for good.

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::Target;
use crate::ui::words;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Go on without the others, where so many of them are gone for good that nothing can be decided any more.
    ///
    /// This node begins a chain of its own with the last model that it has, and is its only member at first. The others,
    /// those that are there and those that come back, go on in the old chain until their owners move them, one by one, with
    /// `paceline join --switch GENESIS`. Should the majority come back, there are two runs.
    #[command(after_help = "Examples:
  paceline roster drop             says what would happen
  paceline roster drop --force     does it
  paceline join --switch 3fa9...   then, on each other machine: takes part in what this node began")]
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(super) struct Drop {
    #[command(flatten)]
    target: Target,
    /// Do it; the others are not asked.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(command: &Command, format: Format) -> Result<(), CliError> {
    let Command::Drop(Drop { target, force }) = command;
    let node = target.node()?;
    let status = node.status()?;
    if !force {
        let refusal = status.refuses_to_drop().map(|why| anyhow!(why));
        return Err(CliError::usage(refusal.unwrap_or_else(|| anyhow!(words::drop_warning(&status)))));
    }
    let status = node.drop_roster()?;
    match format {
        Format::Json => print_json(&status)?,
        Format::Text => print(&words::dropped(&status)),
    }
    Ok(())
}
