//! `paceline init`: a run file to begin with, commented; or one that goes on from a model.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use paceline_protocol::runfile::quoted;

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::run_file::{at_fault, read_run_file};
use crate::blobs::Manifest;
use crate::learn::Plan;
use crate::model_file::ModelFile;
use crate::run_file::{self, Net, RunFile};
use crate::trained::Trained;

/// What a run file is made of.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to; an existing file is left alone.
    #[arg(default_value = "run.toml")]
    file: PathBuf,
    /// For a net that a program of yours trains (docs/trainer.md).
    #[arg(long, conflicts_with = "model")]
    trainer: bool,
    /// Begin with the weights of a model: a safetensors file, or the home of a run that has one.
    #[arg(long, value_name = "FILE | HOME")]
    model: Option<PathBuf>,
    /// The run file whose net the weights are of, and which all else is taken from; not needed for a home or an export.
    #[arg(long, value_name = "RUN.toml", requires = "model")]
    like: Option<PathBuf>,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let text = match &options.model {
        Some(model) => on_from(model, options.like.as_deref())?,
        None if options.trainer => run_file::template(&[("model", "arch", quoted("trainer"))]),
        None => run_file::template(&[]),
    };
    let file = &options.file;
    let name = file.display();
    let mut out = match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(CliError::bad_input(anyhow!("{name} exists and is left alone; give another name")));
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("{name} can't be written")).into()),
    };
    out.write_all(text.as_bytes()).with_context(|| format!("{name} can't be written"))?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "wrote": file }))?,
        Format::Text => {
            let more = options.model.as_ref().map(|model| format!(" --model {}", model.display())).unwrap_or_default();
            let others =
                if options.model.is_some() { "\nThe other nodes fetch the weights: paceline join " } else { "" };
            let others = if others.is_empty() { String::new() } else { format!("{others}{name}") };
            print(&format!("Wrote {name}. Edit it, then: paceline join {name}{more}{others}"));
        }
    }
    Ok(())
}

/// The run file of a run that begins with the weights of a model.
fn on_from(from: &Path, like: Option<&Path>) -> Result<String, CliError> {
    let bad = |error: anyhow::Error| CliError::bad_input(error.context(from.display().to_string()));
    let is_export = || ModelFile::read(from).map(|file| file.about.is_some());
    let (source, mut run_file, weights) = match like {
        None if from.is_dir() || is_export().map_err(CliError::bad_input)? => {
            let trained = Trained::open(from).map_err(CliError::bad_input)?;
            let source = format!("the model after round {} of {}", trained.about.round, trained.about.run);
            let mut run_file = trained.run_file.clone();
            if *run_file.learning.model.net() == Net::Trainer {
                run_file.learning.model.tensors = Some(trained.layout.clone());
            }
            (source, run_file, trained.weights)
        }
        None => foreign(from).map_err(bad)?,
        Some(like) => {
            let run_file = read_run_file(like)?;
            let weights = match run_file.learning.model.net() {
                Net::Trainer => return Err(bad(anyhow!("--like is for nets that a run file describes: leave it out"))),
                Net::Preset(_) | Net::Layers(_) => {
                    let plan = Plan::of(&run_file).map_err(|error| at_fault(error, like))?;
                    ModelFile::read(from).and_then(|file| file.of_net(&plan.spec)).map_err(bad)?
                }
            };
            (format!("the weights in {}", from.display()), run_file, weights)
        }
    };
    run_file.learning.model.weights = Some(Manifest::of(&weights).blob().id);
    // What is in it must be a run file, whatever the tensors are called.
    run_file::parse(&run_file.canonical(), "the new run file").map_err(|error| bad(error.into()))?;
    Ok(format!(
        "# This run begins with {source}. Give it a name and rounds of its own, and change what you like. The\n\
         # node that has the weights joins with --model, the others fetch them. `trainable` in [model] says which tensors are\n\
         # trained; without it all are.\n\n{}",
        run_file.canonical()
    ))
}

/// A run whose net is a trainer's, with the tensors of a file that says nothing of itself.
fn foreign(from: &Path) -> anyhow::Result<(String, RunFile, Vec<u8>)> {
    let (layout, weights) = ModelFile::read(from)?.all()?;
    let text = run_file::template(&[("model", "arch", quoted("trainer"))]);
    let mut run_file = run_file::parse(&text, "the template")?;
    run_file.learning.model.tensors = Some(layout);
    Ok((format!("the weights in {}", from.display()), run_file, weights))
}
