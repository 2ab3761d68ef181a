//! `--trainer`: from a command line to a program that learns (docs/trainer.md).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::error::CliError;
use crate::learn::{Hello, HelloNode, HelloRun, Program, cores};
use crate::run_file::RunFile;

/// Seconds that a trainer may show no progress.
const PATIENCE_S: u64 = 120;

/// What was said of a program that trains.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its command, as a shell would split it.
    pub(super) command: String,
    /// The node that it trains for.
    pub(super) node: HelloNode,
    /// Where its data are.
    pub(super) data: Option<PathBuf>,
    /// Threads that it may compute with.
    pub(super) threads: Option<NonZeroUsize>,
    /// Seconds that it may show no progress.
    pub(super) patience: Option<u64>,
}

impl Wanted {
    /// The program, with all that it is told of a run, and a folder of its own.
    ///
    /// # Errors
    /// The command is none, or a path can't be told in JSON.
    pub(super) fn program(self, run_file: &RunFile, folder: &Path) -> Result<Program, CliError> {
        let command = words(&self.command)?;
        let folder = std::path::absolute(folder).context("the trainer's folder has no path")?;
        let data = self.data.map(std::path::absolute).transpose().context("the data have no path")?;
        if [Some(&folder), data.as_ref()].into_iter().flatten().any(|path| path.to_str().is_none()) {
            return Err(CliError::bad_input(anyhow!(
                "a trainer can't be told paths that are no UTF-8: move the home or the data"
            )));
        }
        let (train, settings) = run_file.learning.for_trainer();
        let hello = Hello {
            protocol: Hello::PROTOCOL,
            paceline: env!("CARGO_PKG_VERSION").to_owned(),
            run: HelloRun {
                id: run_file.run_id().to_string(),
                name: run_file.run.name.clone(),
                rounds: run_file.run.rounds,
            },
            seed: run_file.run.seed,
            node: self.node,
            data,
            folder,
            threads: self.threads.map_or_else(cores, NonZeroUsize::get),
            train,
            settings,
            trainable: run_file.learning.model.trainable.patterns().to_vec(),
        };
        let patience = Duration::from_secs(self.patience.unwrap_or(PATIENCE_S));
        Ok(Program { command, hello, patience, layout: run_file.learning.model.tensors.clone() })
    }
}

/// A command as a shell splits it.
pub(super) fn words(command: &str) -> Result<Vec<String>, CliError> {
    match shlex::split(command) {
        Some(words) if !words.is_empty() => Ok(words),
        _ => {
            Err(CliError::usage(anyhow!("--trainer {command:?} is no command: a quote is not closed, or it is empty")))
        }
    }
}

/// The error of a command for a run that has a net of its own.
pub(super) fn needless() -> CliError {
    CliError::bad_input(anyhow!(
        "--trainer goes with `arch = \"trainer\"` in [model], and this run has a net of its own"
    ))
}
