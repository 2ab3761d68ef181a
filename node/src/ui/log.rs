//! What goes to stderr: logs, and what people are told. stdout is for results.
//!
//! Whoever reads stderr may be gone: a pipe into `head`, a terminal that was closed, a shipper of logs that starts again.
//! That must not end a node, so nothing here may fail, and nothing elsewhere writes to stderr.

use std::fmt;
use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// Sets up logging. `RUST_LOG` has the last word.
pub(crate) fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,paceline=info,trainer=info",
        (false, 1) => "info,paceline=debug,paceline_bootstrap=debug",
        (false, _) => "debug,paceline=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would tell stderr that stderr can't be written to, and panic.
        .log_internal_errors(false)
        .init();
}

/// Says a line to whoever reads stderr, if anybody does.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
