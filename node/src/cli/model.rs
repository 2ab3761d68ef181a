//! `paceline model`: what a run has come to.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::HomeChoice;
use crate::learn::cores;
use crate::store::files;
use crate::trained::{Trained, Which, difference};
use crate::ui::{bar, table, words};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a model for PyTorch: its tensors as safetensors, and beside them a Python module that is the same net.
    ///
    /// The module needs torch and safetensors, and nothing of Paceline. Both files are left alone where they exist.
    #[command(after_help = "Examples:
  paceline model export                            the last model, as model.safetensors and model.py
  paceline model export --home ~/lab --best        the one that did best
  paceline model export --home ~/lab --round 12    another one that this machine still has
  paceline model export --out lab.safetensors      with lab.py beside it

In Python:
  import model
  net = model.load()
  model.predict(net, images)                       images: a tensor of uint8, [n, channels, height, width]
  model.predict(net, rows)                         of a table: dicts, as csv.DictReader gives them")]
    Export(Export),
    /// Measure a model on the examples that are held out for testing.
    #[command(after_help = "Examples:
  paceline model eval --data ~/photos            the last model; how good it is at each class
  paceline model eval --model lab.safetensors --data ~/photos                 one that was exported
  paceline model eval --data ~/photos --format json | jq .classes[0].taken_for")]
    Eval(Eval),
    /// What a model says of images, or of the rows of a table.
    #[command(after_help = "Examples:
  paceline model predict cat.jpg dog.png
  paceline model predict patients.csv            the rows of a table
  paceline model predict --model lab.safetensors photos/*.jpg --format json | jq -r .label")]
    Predict(Predict),
    /// How two models differ, tensor by tensor.
    #[command(after_help = "Examples:
  paceline model diff ~/lab ~/lab-2
  paceline model diff before.safetensors after.safetensors --format json")]
    Diff {
        /// A home, or a file that `model export` has written.
        #[arg(value_name = "FILE | HOME")]
        one: PathBuf,
        /// Another.
        #[arg(value_name = "FILE | HOME")]
        other: PathBuf,
    },
}

/// Which model a command is about.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    choice: HomeChoice,
    /// A file that `model export` has written, in place of a home; or a home.
    #[arg(long, value_name = "FILE | HOME", conflicts_with_all = ["home", "run_name", "round", "best"])]
    model: Option<PathBuf>,
    /// The model after this round [default: the last one].
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// The model that did best, as the nodes have measured it.
    #[arg(long, conflicts_with = "round")]
    best: bool,
}

impl Chosen {
    fn open(&self) -> Result<Trained, CliError> {
        if let Some(from) = &self.model {
            return Trained::open(from).map_err(CliError::bad_input);
        }
        let which = match (self.round, self.best) {
            (Some(round), _) => Which::After(round),
            (None, true) => Which::Best,
            (None, false) => Which::Last,
        };
        Ok(Trained::of(&self.choice.find()?, which)?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Eval {
    #[command(flatten)]
    chosen: Chosen,
    /// The data, as `join` takes them; not needed where they are generated.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Threads that compute [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct Predict {
    #[command(flatten)]
    chosen: Chosen,
    /// Images, brought to the size that the net sees; or, of a model of a table, CSV files with the columns that it predicts from.
    #[arg(value_name = "IMAGE | CSV", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    chosen: Chosen,
    /// Where the tensors go; the module goes beside them.
    #[arg(long, value_name = "FILE", default_value = "model.safetensors")]
    out: PathBuf,
    /// Write over what is there.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(command: &Command, format: Format, quiet: bool) -> Result<(), CliError> {
    match command {
        Command::Export(options) => export(options, format),
        Command::Eval(options) => eval(options, format, quiet),
        Command::Predict(options) => predict(options, format),
        Command::Diff { one, other } => diff(one, other, format),
    }
}

fn export(Export { chosen, out, force }: &Export, format: Format) -> Result<(), CliError> {
    let (module, file) = (out.with_extension("py"), out.file_name().and_then(OsStr::to_str));
    let file = file.filter(|_| module != *out);
    let file = file.ok_or_else(|| CliError::usage(anyhow!("--out {} names no file for tensors", out.display())))?;
    if let Some(there) = [out, &module].into_iter().find(|path| !force && path.exists()) {
        let there = there.display();
        return Err(CliError::bad_input(anyhow!("{there} exists and is left alone; give another --out, or --force")));
    }
    let trained = chosen.open()?;
    write(out, &trained.tensors()?)?;
    let source = trained.module(file, &words::measured_behind(&trained.about.metrics))?;
    if let Some(source) = &source {
        write(&module, source.as_bytes())?;
    }
    let (about, module) = (&trained.about, source.map(|_| module.as_path()));
    match format {
        Format::Json => print_json(&serde_json::json!({ "tensors": out, "module": module, "about": about }))?,
        Format::Text => print(&words::exported(about, out, module)),
    }
    Ok(())
}

fn eval(Eval { chosen, data, threads }: &Eval, format: Format, quiet: bool) -> Result<(), CliError> {
    let trained = chosen.open()?;
    let mut show = bar::evaluation(bar::is_shown(quiet));
    let measured =
        trained.measure(data.as_deref(), threads.map_or_else(cores, NonZeroUsize::get), &mut |progress| {
            show(progress.batch as u64, progress.batches as u64);
            ControlFlow::Continue(())
        })?;
    match format {
        Format::Json => print_json(&measured)?,
        Format::Text if measured.classes.is_empty() => print(&words::measured(&measured)),
        Format::Text => print(&format!("{}\n\n{}", words::measured(&measured), table::classes(&measured))),
    }
    Ok(())
}

fn predict(Predict { chosen, files }: &Predict, format: Format) -> Result<(), CliError> {
    let warn = |note: &str| tracing::warn!("{note}");
    let predictions = chosen.open()?.predict(files, cores(), warn).map_err(CliError::bad_input)?;
    match format {
        Format::Json => predictions.iter().try_for_each(print_json)?,
        Format::Text => print(&table::predictions(&predictions)),
    }
    Ok(())
}

fn diff(one: &Path, other: &Path, format: Format) -> Result<(), CliError> {
    let open = |from: &Path| Trained::open(from).map_err(CliError::bad_input);
    let (one, other) = (open(one)?, open(other)?);
    let tensors = difference(&one, &other).map_err(CliError::bad_input)?;
    match format {
        Format::Json => {
            print_json(&serde_json::json!({ "one": one.about, "other": other.about, "tensors": tensors }))?;
        }
        Format::Text => {
            print(&format!("{}\n\n{}", words::compared(&one.about, &other.about, &tensors), table::tensors(&tensors)))
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    files::write_whole(path, bytes).with_context(|| format!("{} can't be written", path.display()))
}
