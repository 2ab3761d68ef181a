//! `paceline model`: what a run has come to.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::find_home;
use crate::export::export;
use crate::ui::words;

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

pub(super) fn run(command: &Command, format: Format) -> Result<(), CliError> {
    let Command::Export(Export { home, round, out, force }) = command;
    let (module, file) = (out.with_extension("py"), out.file_name().and_then(OsStr::to_str));
    let file = file.filter(|_| module != *out);
    let file = file.ok_or_else(|| CliError::usage(anyhow!("--out {} names no file for tensors", out.display())))?;
    let home = find_home(home.as_deref())?;
    if let Some(there) = [out, &module].into_iter().find(|path| !force && path.exists()) {
        let there = there.display();
        return Err(CliError::bad_input(anyhow!("{there} exists and is left alone; give another --out, or --force")));
    }
    let exported = export(&home, *round)?;
    write(out, &exported.tensors)?;
    write(&module, exported.module(file)?.as_bytes())?;
    match format {
        Format::Json => {
            print_json(&serde_json::json!({ "tensors": out, "module": module, "about": exported.about }))?;
        }
        Format::Text => print(&words::exported(&exported.about, out, &module)),
    }
    Ok(())
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = path.with_added_extension("part");
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    written.with_context(|| format!("{} can't be written", path.display()))
}
