//! The options of commands that work on a whole data set, and what is made of them.

use std::path::PathBuf;

use clap::Args;
use paceline_model::DataSet;
use paceline_protocol::bounds::ROSTER_MAX;

use super::error::CliError;
use super::run_file::{at_fault, read_run_file};
use crate::learn::{Plan, PlanError};
use crate::run_file::RunFile;

/// One data set, divided among clients by a run file.
#[derive(Debug, Args)]
pub(super) struct ExperimentOptions {
    /// The run file.
    #[arg(value_name = "RUN.toml")]
    pub(super) run: PathBuf,
    /// Clients; client K has the part K/N of the data [default: the run file's min_nodes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=ROSTER_MAX as i64))]
    clients: Option<u32>,
    /// The data, if the run file's data set needs any.
    #[arg(long, value_name = "PATH")]
    pub(super) data: Option<PathBuf>,
}

impl ExperimentOptions {
    /// Reads the run file.
    pub(super) fn run_file(&self) -> Result<RunFile, CliError> {
        read_run_file(&self.run)
    }

    /// How many clients there are.
    pub(super) fn clients(&self, run_file: &RunFile) -> u32 {
        self.clients.unwrap_or(run_file.run.min_nodes)
    }

    /// The plan, and the data that the clients divide among them. What is wrong with the run file is told with its line.
    pub(super) fn read(&self, run_file: &RunFile) -> Result<(Plan, DataSet), CliError> {
        let plan = Plan::of(run_file).map_err(|e| at_fault(e, &self.run))?;
        let data =
            plan.whole_data(self.data.as_deref(), self.clients(run_file)).map_err(|e| match (&e, self.clients) {
                // The run file is not at fault for what an option asks.
                (PlanError::Clients { .. }, Some(_)) => CliError::bad_input(e),
                _ => at_fault(e, &self.run),
            })?;
        Ok((plan, data))
    }
}
