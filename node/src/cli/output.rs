//! Results on stdout: text for people, JSON for programs.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use super::error::Exit;

/// How results are printed: text for people, JSON for programs. Docs on its variants would make every `--help` a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Prints a result on stdout, with an end of line.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        // Whoever reads has seen enough (`paceline rounds | head -1`), which is no failure; the commands that print hold
        // nothing that would have to be closed.
        std::process::exit(Exit::Done as i32);
    }
}

/// Prints a result as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    print(&serde_json::to_string(value)?);
    Ok(())
}
