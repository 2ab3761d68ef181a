//! The threads that compute. Results never depend on how many there are.
//!
//! candle adds up gradients on a pool of its own, as wide as the machine and spinning while it waits. Where several
//! processes share a machine that costs half the speed: start them with `CANDLE_NUM_THREADS=1` in their environment.

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads at most: beyond the blocks of a batch more would only wait.
pub const THREADS_MAX: usize = 256;

/// A pool of threads for training and evaluation.
#[derive(Debug)]
pub struct Threads {
    pool: ThreadPool,
}

/// The system refused to start so many threads.
#[derive(Debug, thiserror::Error)]
#[error("can't start {count} training threads: {source}: ask for fewer with --threads")]
pub struct ThreadsError {
    count: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Threads {
    /// A pool of `count` threads, from 1 to [`THREADS_MAX`] (clamped).
    pub fn new(count: usize) -> Result<Self, ThreadsError> {
        Self::with_start(count, |_| {})
    }

    /// A pool of `count` threads, likewise; each first calls `start` with its number, for instance to lower its
    /// priority.
    pub fn with_start(count: usize, start: impl Fn(usize) + Send + Sync + 'static) -> Result<Self, ThreadsError> {
        let count = count.clamp(1, THREADS_MAX);
        let builder = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("train-{i}"));
        let pool = builder.start_handler(start).build().map_err(|source| ThreadsError { count, source })?;
        Ok(Self { pool })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Computes on these threads and waits for the result.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}
