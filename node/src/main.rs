//! The binary `paceline`: every node of every run.

use std::process::ExitCode;

/// Training frees and takes large buffers all the time; the system's allocator gives them back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// candle adds up gradients on a pool of its own, which spins at full priority and knows nothing of `--threads`. This holds
/// it to the thread that asks.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

fn main() -> ExitCode {
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: this is the first thing that the process does; there is no other thread that could read the environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(CANDLE_THREADS, "1");
        }
    }
    paceline::cli::run()
}
