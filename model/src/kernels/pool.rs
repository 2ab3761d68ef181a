//! Max pooling over windows that don't overlap, on images with channels last, forward and backward.
//!
//! candle's own backward pass is wrong (the gradient at a unique maximum of a 2x2 window is a quarter of what it should
//! be), so this one is used everywhere: on CPUs as a kernel, elsewhere composed of operations that are right.

use super::blocks::images_per_block;
use super::op::{self, Kernel1, View};
use super::{reference, with_avx2};
use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

/// Channels that are compared together.
const LANES: usize = 16;

/// Marks an output that no input reaches: its rectified maximum is zero.
pub(super) const NONE: u8 = u8::MAX;

/// Max pooling of `[n, h, w, c]` with a window and step of `size`; the last rows and columns that fill no window are
/// dropped. Of equal values the first in reading order gets the gradient.
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    if x.device().is_cpu() { op::apply1(MaxPool { size }, x) } else { reference::max_pool(x, size) }
}

struct MaxPool {
    size: usize,
}

/// The sizes of a pooling layer's input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) size: usize,
}

impl Window {
    pub(super) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Height and width of the output.
    pub(super) fn out_sides(&self) -> [usize; 2] {
        [self.height / self.size, self.width / self.size]
    }

    pub(super) fn out_len(&self) -> usize {
        let [height, width] = self.out_sides();
        height * width * self.channels
    }

    #[inline(always)]
    /// Where the channels of an output's window element lie in the input.
    fn at(&self, y: usize, x: usize, element: usize) -> usize {
        let (dy, dx) = (element / self.size, element % self.size);
        ((y * self.size + dy) * self.width + x * self.size + dx) * self.channels
    }

    /// The maxima of an image, and which element of its window each was.
    pub(super) fn pool(&self, image: &[f32], out: &mut [f32], chosen: &mut [u8]) {
        with_avx2(|| self.pool_inline(image, out, chosen));
    }

    /// Writes each output's gradient to the element that was chosen, and zero elsewhere.
    pub(super) fn unpool(&self, grad: &[f32], chosen: &[u8], image: &mut [f32]) {
        if !self.height.is_multiple_of(self.size) || !self.width.is_multiple_of(self.size) {
            // Some values belong to no window.
            image.fill(0.0);
        }
        with_avx2(|| self.unpool_inline(grad, chosen, image));
    }

    #[inline(always)]
    fn pool_inline(&self, image: &[f32], out: &mut [f32], chosen: &mut [u8]) {
        let c = self.channels;
        let mut outputs = out.chunks_exact_mut(c).zip(chosen.chunks_exact_mut(c));
        for y in 0..self.height / self.size {
            for x in 0..self.width / self.size {
                let Some((out, chosen)) = outputs.next() else { return };
                let (out, out_rest) = out.as_chunks_mut::<LANES>();
                let (chosen, chosen_rest) = chosen.as_chunks_mut::<LANES>();
                let rest = out.len() * LANES;
                for (i, (out, chosen)) in out.iter_mut().zip(chosen).enumerate() {
                    self.pool_lanes(image, self.at(y, x, 0) + i * LANES, out, chosen);
                }
                for (i, (out, chosen)) in out_rest.iter_mut().zip(chosen_rest).enumerate() {
                    let (out, chosen) = (std::slice::from_mut(out), std::slice::from_mut(chosen));
                    if let (Some(out), Some(chosen)) = (out.first_chunk_mut(), chosen.first_chunk_mut()) {
                        self.pool_lanes::<1>(image, self.at(y, x, 0) + rest + i, out, chosen);
                    }
                }
            }
        }
    }

    /// The maxima of neighbouring channels; `start` is where they lie in the window's first element.
    #[inline(always)]
    fn pool_lanes<const N: usize>(&self, image: &[f32], start: usize, out: &mut [f32; N], chosen: &mut [u8; N]) {
        let load = |element: usize| -> [f32; N] {
            image[start + self.at(0, 0, element)..].first_chunk().copied().unwrap_or([0.0; N])
        };
        // As wide as the values, so that one comparison selects both.
        let (mut best, mut which) = (load(0), [0u32; N]);
        for element in 1..self.size * self.size {
            let values = load(element);
            for lane in 0..N {
                // Negated, so that a NaN is taken and not lost: training has to notice it.
                #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN must count as better")]
                let better = !(values[lane] <= best[lane]);
                best[lane] = if better { values[lane] } else { best[lane] };
                which[lane] = if better { element as u32 } else { which[lane] };
            }
        }
        *out = best;
        *chosen = which.map(|which| which as u8);
    }

    #[inline(always)]
    fn unpool_inline(&self, grad: &[f32], chosen: &[u8], image: &mut [f32]) {
        let c = self.channels;
        let mut outputs = grad.chunks_exact(c).zip(chosen.chunks_exact(c));
        for y in 0..self.height / self.size {
            for x in 0..self.width / self.size {
                let Some((grad, chosen)) = outputs.next() else { return };
                for element in 0..self.size * self.size {
                    let image = &mut image[self.at(y, x, element)..][..c];
                    for ((value, &grad), &which) in image.iter_mut().zip(grad).zip(chosen) {
                        *value = if u32::from(which) == element as u32 { grad } else { 0.0 };
                    }
                }
            }
        }
    }
}

impl MaxPool {
    fn window(&self, shape: &Shape) -> Result<(usize, Window)> {
        let (n, height, width, channels) = shape.dims4()?;
        Ok((n, Window { height, width, channels, size: self.size }))
    }
}

impl Kernel1 for MaxPool {
    const NAME: &'static str = "max-pool";

    fn forward(&self, x: View<'_>) -> Result<(Vec<f32>, Shape)> {
        let (n, window) = self.window(x.shape)?;
        let (block, image_len, out_len) = (images_per_block(n), window.image_len(), window.out_len());
        let mut y = vec![0f32; n * out_len];
        let blocks = y.par_chunks_mut(block * out_len).zip(x.values.par_chunks(block * image_len));
        blocks.for_each(|(y, x)| {
            let mut chosen = vec![0u8; out_len];
            for (y, x) in y.chunks_exact_mut(out_len).zip(x.chunks_exact(image_len)) {
                window.pool(x, y, &mut chosen);
            }
        });
        let [height, width] = window.out_sides();
        Ok((y, (n, height, width, window.channels).into()))
    }

    fn backward(&self, x: View<'_>, grad: &[f32]) -> Result<Vec<f32>> {
        let (n, window) = self.window(x.shape)?;
        let (block, image_len, out_len) = (images_per_block(n), window.image_len(), window.out_len());
        let mut dx = vec![0f32; n * image_len];
        let blocks = dx.par_chunks_mut(block * image_len).zip(x.values.par_chunks(block * image_len));
        blocks.zip(grad.par_chunks(block * out_len)).for_each(|((dx, x), grad)| {
            let (mut best, mut chosen) = (vec![0f32; out_len], vec![0u8; out_len]);
            let images = dx.chunks_exact_mut(image_len).zip(x.chunks_exact(image_len));
            for ((dx, x), grad) in images.zip(grad.chunks_exact(out_len)) {
                window.pool(x, &mut best, &mut chosen);
                window.unpool(grad, &chosen, dx);
            }
        });
        Ok(dx)
    }
}
