//! Run files that people wrote, and errors that name the place in them.

use std::path::Path;

use anyhow::anyhow;
use paceline_protocol::runfile::place;

use super::error::CliError;
use crate::learn::PlanError;
use crate::run_file::{self, RunFile};

/// Reads a run file that a person wrote.
pub(super) fn read_run_file(path: &Path) -> Result<RunFile, CliError> {
    run_file::read(path).map_err(CliError::bad_input)
}

/// An error of a plan, which names the place in the run file if that is at fault.
pub(super) fn at_fault(error: PlanError, run_file: &Path) -> CliError {
    let text = std::fs::read_to_string(run_file).ok();
    match text.and_then(|text| error.place(&text, &run_file.display().to_string())) {
        Some(place) => CliError::bad_input(anyhow!("{place}: {error}")),
        None => CliError::bad_input(error),
    }
}

/// Where a run file has the learning rate, which a training that diverges is about.
pub(super) fn lr_place(run_file: &Path) -> String {
    let text = std::fs::read_to_string(run_file).unwrap_or_default();
    place(&text, &run_file.display().to_string(), "train", "lr", None)
}
