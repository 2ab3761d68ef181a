//! What commands that work on a whole data set take, and what they make of it.

use std::path::PathBuf;

use clap::Args;
use paceline_model::DataSet;
use paceline_protocol::bounds::ROSTER_MAX;
use paceline_protocol::runfile::RunFile;

use super::{Coded, Exit, at_fault, read_run_file};
use crate::learn::{Plan, PlanError};

/// One data set, divided among clients by a run file.
#[derive(Debug, Args)]
pub(crate) struct Experiment {
    /// The run file.
    #[arg(value_name = "RUN.toml")]
    pub(crate) run: PathBuf,
    /// Clients; client K has the part K/N of the data [default: the run file's min_nodes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=ROSTER_MAX as i64))]
    clients: Option<u32>,
    /// The data, if the run file's data set needs any.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

/// An experiment that can be run.
pub(crate) struct Prepared {
    pub(crate) run_file: RunFile,
    pub(crate) plan: Plan,
    pub(crate) data: DataSet,
    pub(crate) clients: u32,
}

impl Experiment {
    /// Reads the run file and the data. What is wrong with the run file is told with its line.
    pub(crate) fn prepare(&self) -> Result<Prepared, Coded> {
        let run_file = read_run_file(&self.run)?;
        let plan = Plan::of(&run_file).map_err(|e| at_fault(e, &self.run))?;
        let clients = self.clients.unwrap_or(run_file.run.min_nodes);
        let data = plan.whole_data(self.data.as_deref(), clients).map_err(|e| match (&e, self.clients) {
            // The run file is not at fault for what an option asks.
            (PlanError::Clients { .. }, Some(_)) => Coded::new(Exit::BadInput, e),
            _ => at_fault(e, &self.run),
        })?;
        Ok(Prepared { run_file, plan, data, clients })
    }
}
