//! The options of commands that work on a whole data set, and what is made of them.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use paceline_protocol::bounds::ROSTER_MAX;

use super::error::CliError;
use super::run_file::{at_fault, given_weights, lr_place, read_run_file};
use crate::blobs::Manifest;
use crate::learn::{Plan, PlanError};
use crate::simulate::Experiment;

/// One data set, divided among clients by a run file.
#[derive(Debug, Args)]
pub(super) struct ExperimentOptions {
    /// The run file.
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// Clients; client K has the part K/N of the data [default: the run file's min_nodes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=ROSTER_MAX as i64))]
    clients: Option<u32>,
    /// The weights that it begins with, where the run file has their hash: a safetensors file or a home.
    #[arg(long, value_name = "FILE | HOME")]
    model: Option<PathBuf>,
    /// The data, if the run file's data set needs any.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

impl ExperimentOptions {
    /// Reads the run file and the data. What is wrong with the run file is told with its line.
    pub(super) fn prepare(&self) -> Result<Experiment, CliError> {
        let run_file = read_run_file(&self.run)?;
        let plan = Plan::of(&run_file).map_err(|e| at_fault(e, &self.run))?;
        let clients = self.clients.unwrap_or(run_file.run.min_nodes);
        let data = plan.whole_data(self.data.as_deref(), clients).map_err(|e| match (&e, self.clients) {
            // The run file is not at fault for what an option asks.
            (PlanError::Clients { .. }, Some(_)) => CliError::bad_input(e),
            _ => at_fault(e, &self.run),
        })?;
        let weights = match (&self.model, run_file.learning.model.weights) {
            (None, None) => None,
            (None, Some(hash)) => {
                let error = anyhow!(
                    "the run begins with the weights {}: give the file or the home that has them with --model",
                    hash.short()
                );
                return Err(CliError::bad_input(error));
            }
            (Some(from), wanted) => {
                let weights = given_weights(from, &run_file, &plan.layout).map_err(CliError::bad_input)?;
                let found = Manifest::of(&weights).blob().id;
                if wanted != Some(found) {
                    let error =
                        anyhow!("{} has other weights, {}, than the run file says", from.display(), found.short());
                    return Err(CliError::bad_input(error));
                }
                Some(weights)
            }
        };
        Ok(Experiment { run_file, lr_place: lr_place(&self.run), plan, data, weights, clients })
    }
}
