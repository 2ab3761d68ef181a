//! `paceline verify`: whether what a node keeps holds.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::HomeChoice;
use crate::learn::cores;
use crate::ui::words;
use crate::verify::{Retrain, verify};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    choice: HomeChoice,
    /// The node's data, as `join` took it: train its own updates again from the models that are kept.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The same for a run whose data are generated.
    #[arg(long)]
    retrain: bool,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let home = options.choice.find()?;
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let retrain = options.retrain || options.data.is_some();
    let found = verify(&home, retrain.then_some(Retrain { data: options.data.as_deref(), threads }))?;
    match format {
        Format::Json => print_json(&found)?,
        Format::Text => print(&words::verification(&found)),
    }
    match found.findings.len() {
        0 => Ok(()),
        1 => Err(CliError::unsound(anyhow!("1 thing does not hold; it is listed on stdout"))),
        several => Err(CliError::unsound(anyhow!("{several} things do not hold; they are listed on stdout"))),
    }
}
