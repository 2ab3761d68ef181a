//! Run files as nodes know them: agreement's sections, and what is learnt.
//!
//! Each section is a schema in a module of its name; `sections` has them all. What they are read into are
//! the model crate's own types; that a net fits its data is for `learn::Plan` to find out.

mod aggregate;
mod columns;
mod data;
mod layers;
mod metrics;
mod model;
mod partition;
mod range;
mod sections;
mod stop;
#[cfg(test)]
mod tests;
mod train;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use paceline_protocol::bounds::RUN_FILE_BYTES_MAX;
use paceline_protocol::runfile::{self, Given, RunFileError};

pub use columns::{column, columns};
pub use data::DataSection;
pub use metrics::{Better, Metrics};
pub use model::{ModelSection, Net};
pub use sections::Sections;
pub use stop::StopSection;
pub use train::TrainSection;

/// A run file whose every value was checked.
pub type RunFile = runfile::RunFile<Sections>;

/// Reads the run file that a person wrote.
///
/// # Errors
/// The file can't be read or is too large, or it is wrong, with its place in it.
pub fn read(path: &Path) -> anyhow::Result<RunFile> {
    let name = path.display().to_string();
    let read = || -> std::io::Result<String> {
        let len = std::fs::metadata(path)?.len();
        if len > RUN_FILE_BYTES_MAX as u64 {
            return Err(std::io::Error::other(format!("{len} bytes, a run file has at most {RUN_FILE_BYTES_MAX}")));
        }
        std::fs::read_to_string(path)
    };
    let text = read().with_context(|| format!("{name}: the run file can't be read; `paceline init` writes one"))?;
    Ok(parse(&text, &name)?)
}

/// Reads the text of a run file. `origin` is its name, for errors.
///
/// # Errors
/// The first thing that is wrong in it.
pub fn parse(text: &str, origin: &str) -> Result<RunFile, RunFileError> {
    RunFile::parse(text, origin)
}

/// The commented run file that `paceline init` writes, with these values in place of its own.
pub fn template(given: &Given) -> String {
    RunFile::template(given)
}

/// The keys in which a run file elsewhere differs from the one here, each with both values: `[train] lr: 0.05 there, 0.1 here`.
pub fn differences(there: &RunFile, here: &RunFile) -> Vec<String> {
    differences_of([there, here], ["there", "here"])
}

/// The keys in which two run files differ, each with both values and what says whose they are.
pub fn differences_of(files: [&RunFile; 2], whose: [&str; 2]) -> Vec<String> {
    let read = |file: &RunFile| toml::from_str::<toml::Table>(&file.canonical()).unwrap_or_default();
    let ([there, here], [is_there, is_here]) = (files.map(read), whose);
    let sections: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
    let mut found = Vec::new();
    for section in sections {
        let of = |file: &toml::Table| file.get(section).and_then(|value| value.as_table()).cloned().unwrap_or_default();
        let (there, here) = (of(&there), of(&here));
        let keys: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
        let told = |value: Option<&toml::Value>| value.map_or_else(|| "nothing".to_owned(), short_value);
        let differing = keys.into_iter().filter(|key| there.get(*key) != here.get(*key));
        let line = |key: &String| {
            format!("[{section}] {key}: {} {is_there}, {} {is_here}", told(there.get(key)), told(here.get(key)))
        };
        found.extend(differing.map(line));
    }
    found
}

/// A value as a run file has it, in as many letters as fit a line.
fn short_value(value: &toml::Value) -> String {
    const MOST: usize = 40;
    let text = value.to_string().replace('\n', " ");
    if text.chars().count() <= MOST { text } else { format!("{}...", text.chars().take(MOST).collect::<String>()) }
}
