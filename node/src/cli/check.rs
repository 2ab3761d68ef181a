//! `paceline check`: what a run would be on this machine, before it is one.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use paceline_protocol::base::roster::Part;

use super::error::CliError;
use super::join::part;
use super::output::{Format, print, print_json};
use super::run_file::{at_fault, read_run_file};
use crate::check::{CheckError, check};
use crate::learn::{Plan, cores};
use crate::ui::words;

/// What is tried.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The run file.
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// The data, as `join` takes them.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Take part K/N of the data, as `join` does.
    #[arg(long, value_name = "K/N", value_parser = part)]
    part: Option<Part>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let run_file = read_run_file(&options.run)?;
    let plan = Plan::of(&run_file).map_err(|error| at_fault(error, &options.run))?;
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let checked = check(&plan, options.data.as_deref(), options.part, threads).map_err(|error| match error {
        CheckError::Plan(error) => at_fault(error, &options.run),
        other => CliError::failed(other),
    })?;
    match format {
        Format::Json => print_json(&checked)?,
        Format::Text => print(&words::checked(&run_file.run.name, &checked)),
    }
    Ok(())
}
