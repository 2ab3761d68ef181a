//! Run files that people wrote, and errors that name the place in them.

use std::path::Path;

use anyhow::{Context, anyhow};
use paceline_protocol::bounds::RUN_FILE_BYTES_MAX;
use paceline_protocol::runfile::RunFile;

use super::error::CliError;
use crate::learn::PlanError;

/// Reads a run file that a person wrote.
pub(super) fn read_run_file(path: &Path) -> Result<RunFile, CliError> {
    let name = path.display().to_string();
    let read = || -> std::io::Result<String> {
        let len = std::fs::metadata(path)?.len();
        if len > RUN_FILE_BYTES_MAX as u64 {
            return Err(std::io::Error::other(format!("{len} bytes, a run file has at most {RUN_FILE_BYTES_MAX}")));
        }
        std::fs::read_to_string(path)
    };
    let text = read()
        .with_context(|| format!("{name}: the run file can't be read; `paceline init` writes one"))
        .map_err(CliError::bad_input)?;
    Ok(RunFile::parse(&text, &name)?)
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
    RunFile::place(&text, &run_file.display().to_string(), "train", "lr", None)
}
