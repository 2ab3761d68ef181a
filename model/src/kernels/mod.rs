//! The arithmetic of the layers on CPUs: forward and backward passes as custom operations of candle.
//!
//! Images are kept channels last, `[image, height, width, channel]`, so that every matrix product reads its operands in
//! the order in which they lie, and pooling runs over contiguous channels.
//!
//! Every kernel has a twin made of candle's own layers and operations, for other devices; tests hold the two together.
//!
//! Results don't depend on the number of threads: work is cut into blocks of images whose borders depend on the batch
//! alone, each block is computed by one thread, and partial sums are added in the order of the blocks.

pub mod conv;
pub mod linear;
pub mod loss;
pub(crate) mod matrix;
pub mod norm;
mod normed;
pub mod pool;
#[cfg(test)]
mod pytorch;
pub mod residual;
pub(crate) mod scratch;
pub mod sgd;
#[cfg(test)]
mod tests;
mod unfold;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};

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
        #[allow(unsafe_code)]
        // SAFETY: the line above saw that this CPU has the feature that `run` is compiled for.
        return unsafe { run(work) };
    }
    work()
}

/// Images as candle's layers take them.
fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// Images as the kernels take them.
fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// The values of an operation's argument. Arguments are made contiguous before the operation.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a kernel's argument is not contiguous"),
    }
}

/// Has `write` write over all values of a tensor in CPU memory.
fn overwrite(tensor: &Tensor, write: impl Fn(&mut [f32])) -> Result<()> {
    struct Overwrite<F>(F);
    impl<F: Fn(&mut [f32])> InplaceOp1 for Overwrite<F> {
        fn name(&self) -> &'static str {
            "overwrite"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            self.0(slice_mut(storage, layout)?);
            Ok(())
        }
    }
    tensor.inplace_op1(&Overwrite(write))
}

/// The gradient of a weight: in `into` if that is given, else a tensor of its own for candle to add up. Adding up begins with
/// zeros, so the first costs three passes less over what is often the largest array of a step.
fn weight_gradient(into: Option<&Tensor>, weight: &Tensor, write: impl Fn(&mut [f32])) -> Result<Option<Tensor>> {
    match into {
        Some(into) if into.shape() == weight.shape() => overwrite(into, write).map(|()| None),
        Some(into) => candle_core::bail!("a gradient of {:?} for a weight of {:?}", into.shape(), weight.shape()),
        None => {
            let mut values = vec![0f32; weight.elem_count()];
            write(&mut values);
            Tensor::from_vec(values, weight.shape(), weight.device()).map(Some)
        }
    }
}

/// The values of what an operation changes in place.
fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("what is changed in place is not contiguous f32"),
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
