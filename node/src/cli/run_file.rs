//! Run files that people wrote, and errors that name the place in them.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use paceline_model::Layout;
use paceline_protocol::runfile::place;

use super::error::CliError;
use crate::learn::{Plan, PlanError};
use crate::model_file::ModelFile;
use crate::run_file::{self, Net, RunFile};
use crate::trained::Trained;

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

/// The weights of a home or a file, for a run whose learner has this layout.
pub(super) fn given_weights(from: &Path, run_file: &RunFile, layout: &Layout) -> anyhow::Result<Vec<u8>> {
    if run_file.learning.model.weights.is_none() {
        bail!(
            "--model: this run begins with weights of its seed; `paceline init --model` writes the run file of one that doesn't"
        );
    }
    let name = from.display();
    if from.is_dir() {
        return Ok(Trained::open(from)?.weights);
    }
    let file = ModelFile::read(from)?;
    match run_file.learning.model.net() {
        Net::Trainer => file.of_layout(layout),
        Net::Preset(_) | Net::Layers(_) => file.of_net(&Plan::of(run_file)?.spec),
    }
    .with_context(|| format!("{name}"))
}

/// Where a run file has the learning rate, which a training that diverges is about.
pub(super) fn lr_place(run_file: &Path) -> String {
    let text = std::fs::read_to_string(run_file).unwrap_or_default();
    place(&text, &run_file.display().to_string(), "train", "lr", None)
}
