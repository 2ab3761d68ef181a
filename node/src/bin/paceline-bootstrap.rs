//! The binary `paceline-bootstrap`: the address that a new node dials first, and a relay for those that can't be dialled.

use std::process::ExitCode;

fn main() -> ExitCode {
    paceline_bootstrap::command::run(|path| Ok(paceline::run_file::read(path)?.published()))
}
