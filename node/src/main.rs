//! The binary `paceline`: every node of every run.

use std::process::ExitCode;

/// Training frees and takes large buffers all the time; the system's allocator gives them back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    paceline::cli::run()
}
