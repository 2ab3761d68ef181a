//! `paceline model`: what a run has come to.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::find_home;
use crate::learn::cores;
use crate::store::files;
use crate::trained::Trained;
use crate::ui::{bar, table, words};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a model for PyTorch: its tensors as safetensors, and beside them a Python module that is the same net.
    ///
    /// The module needs torch and safetensors, and nothing of Paceline. Both files are left alone where they exist.
    #[command(after_help = "Examples:
  paceline model export                            the last model, as model.safetensors and model.py
  paceline model export --home ~/lab --round 12    another one that this machine still has
  paceline model export --out lab.safetensors      with lab.py beside it

In Python:
  import model
  net = model.load()
  model.predict(net, images)                       images: a tensor of uint8, [n, channels, height, width]")]
    Export(Export),
    /// Measure a model on the images that are held out for testing.
    #[command(after_help = "Examples:
  paceline model eval --data ~/photos            the last model; how good it is at each class
  paceline model eval --data ~/photos --format json | jq .classes[0].taken_for")]
    Eval(Eval),
}

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// The node's home; not needed where there is one alone. Its node may run.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The model after this round [default: the last one].
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// The data, as `join` takes them; not needed where they are generated.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Threads that compute [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The node's home; not needed where there is one alone. Its node may run.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The model after this round [default: the last one].
    #[arg(long, value_name = "N")]
    round: Option<u64>,
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
    }
}

fn export(Export { home, round, out, force }: &Export, format: Format) -> Result<(), CliError> {
    let (module, file) = (out.with_extension("py"), out.file_name().and_then(OsStr::to_str));
    let file = file.filter(|_| module != *out);
    let file = file.ok_or_else(|| CliError::usage(anyhow!("--out {} names no file for tensors", out.display())))?;
    let home = find_home(home.as_deref())?;
    if let Some(there) = [out, &module].into_iter().find(|path| !force && path.exists()) {
        let there = there.display();
        return Err(CliError::bad_input(anyhow!("{there} exists and is left alone; give another --out, or --force")));
    }
    let trained = Trained::of(&home, *round)?;
    write(out, &trained.tensors()?)?;
    let source = trained.module(file)?;
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

fn eval(Eval { home, round, data, threads }: &Eval, format: Format, quiet: bool) -> Result<(), CliError> {
    let trained = Trained::of(&find_home(home.as_deref())?, *round)?;
    let mut show = bar::evaluation(bar::is_shown(quiet));
    let measured =
        trained.measure(data.as_deref(), threads.map_or_else(cores, NonZeroUsize::get), &mut |progress| {
            show(progress.batch as u64, progress.batches as u64);
            ControlFlow::Continue(())
        })?;
    match format {
        Format::Json => print_json(&measured)?,
        Format::Text => print(&format!("{}\n\n{}", words::measured(&measured), table::classes(&measured))),
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    files::write_whole(path, bytes).with_context(|| format!("{} can't be written", path.display()))
}
