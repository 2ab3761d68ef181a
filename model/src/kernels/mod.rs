//! The arithmetic of the layers on CPUs: forward and backward passes as custom operations of candle.
//!
//! Images are kept channels last, `[image, height, width, channel]`, so that every matrix product reads its operands in
//! the order in which they lie, and pooling runs over contiguous channels.
//!
//! Every kernel has a reference made of candle's own layers and operations, for other devices; tests hold the kernels
//! to it.
//!
//! Results don't depend on the number of threads: work is cut into blocks of images whose borders depend only on the
//! batch, each block is computed by one thread, and partial sums are added in the order of the blocks.
//!
//! - `op` makes kernels operations of candle; `reference` has each of them in candle's own operations.
//! - [`conv`], [`linear`], [`norm`], [`pool`], [`residual`] and [`loss`] are the kernels, [`sgd`] the steps of an
//!   optimiser.
//! - `matrix`, `unfold`, `elementwise`, `blocks` and `scratch` are what they are made of.

mod blocks;
pub mod conv;
mod elementwise;
pub mod linear;
pub mod loss;
pub(crate) mod matrix;
pub mod norm;
mod op;
pub mod pool;
mod reference;
pub mod residual;
pub(crate) mod scratch;
pub mod sgd;
#[cfg(test)]
mod tests;
mod unfold;

/// Runs a loop over contiguous values, compiled for AVX2 where the CPU has it (the build itself targets SSE2 only).
///
/// Only for loops that take one element after the other: their results are the same bits either way. What `work`
/// calls must be `inline(always)` to be compiled along.
#[inline(always)]
fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn run<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        #[allow(unsafe_code)]
        // SAFETY: the line above saw that this CPU has the feature that `run` is compiled for.
        return unsafe { run(work) };
    }
    work()
}
