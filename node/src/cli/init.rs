//! `paceline init`: a commented run file to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, anyhow};

use super::error::CliError;
use super::output::{Format, print, print_json};
use crate::run_file;

pub(super) fn run(file: &Path, format: Format) -> Result<(), CliError> {
    let name = file.display();
    let mut out = match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(CliError::bad_input(anyhow!("{name} exists and is left alone; give another name")));
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("{name} can't be written")).into()),
    };
    out.write_all(run_file::template(&[]).as_bytes()).with_context(|| format!("{name} can't be written"))?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "wrote": file }))?,
        Format::Text => print(&format!("Wrote {name}. Edit it, then: paceline join {name}")),
    }
    Ok(())
}
