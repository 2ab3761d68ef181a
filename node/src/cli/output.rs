//! Results on stdout: text for people, JSON for programs.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use super::error::Exit;
use crate::ui::log;

/// How results are printed: text for people, JSON for programs. Docs on its variants would make every `--help` a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Prints a result on stdout, with an end of line.
pub(super) fn print(text: &str) {
    print_bytes(format!("{text}\n").as_bytes());
}

/// Prints on stdout as it is.
pub(super) fn print_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) else { return };
    // The commands that print hold nothing that would have to be closed.
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // Whoever reads has seen enough (`paceline rounds | head -1`), which is no failure.
        std::process::exit(Exit::Done as i32);
    }
    log::say(format_args!("error: stdout can't be written: {error}"));
    std::process::exit(Exit::Failed as i32);
}

/// Prints a result as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> serde_json::Result<()> {
    print(&serde_json::to_string(value)?);
    Ok(())
}
