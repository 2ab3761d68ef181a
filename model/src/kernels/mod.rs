//! The arithmetic of the layers on CPUs: forward and backward passes as custom operations of candle.
//!
//! Images are kept channels last, `[image, height, width, channel]`, so that every matrix product reads its operands in
//! the order in which they lie, and pooling runs over contiguous channels.
//!
//! Every kernel has a twin that is composed of candle's operations, for other devices; tests hold the two together.
//!
//! Results don't depend on the number of threads: work is cut into blocks of images whose borders depend on the batch
//! alone, each block is computed by one thread, and partial sums are added in the order of the blocks.

pub mod conv;
pub mod linear;
pub mod loss;
pub(crate) mod matrix;
pub mod norm;
pub mod pool;
#[cfg(test)]
mod pytorch;
pub mod residual;
pub(crate) mod scratch;
pub mod sgd;
#[cfg(test)]
mod tests;
mod unfold;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

/// Blocks that a batch is cut into at most. Each block of a convolution keeps partial sums of the weights' gradient, which
/// bounds memory; and it bounds the threads that can work at once.
const BLOCKS_MAX: usize = 12;

/// Images in a block, given those in the batch: the same for any number of threads.
fn images_per_block(images: usize) -> usize {
    images.div_ceil(BLOCKS_MAX).max(1)
}

/// Runs a loop over contiguous values, compiled for AVX2 where the CPU has it (the build's own target knows SSE2 alone).
///
/// For loops whose operations are element by element: their results are the same bits either way. What `work` calls must be
/// `inline(always)` to be compiled along.
#[inline(always)]
fn wide<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn run<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        // SAFETY: the line above saw that this CPU has the feature that `run` is compiled for.
        return unsafe { run(work) };
    }
    work()
}

/// The values of an operation's argument. Arguments are made contiguous before the operation.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a kernel's argument is not contiguous"),
    }
}

/// Calls `read` with the values of a tensor in CPU memory.
fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(slice(storage, layout)?),
        _ => candle_core::bail!("a CPU kernel got a tensor of another device"),
    }
}
