//! Logs, which go to stderr: stdout is for results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up logging. `RUST_LOG` has the last word.
pub(crate) fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,paceline=info",
        (false, 1) => "info,paceline=debug,paceline_bootstrap=debug",
        (false, _) => "debug,paceline=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
