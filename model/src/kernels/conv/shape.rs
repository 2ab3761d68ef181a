//! The products of a convolution, forward and backward, for a block of images on one thread.

use super::ConvLayer;
use crate::kernels::blocks::images_per_block;
use crate::kernels::matrix::{Matrix, product};
use crate::kernels::pool::Window;
use crate::kernels::scratch;
use crate::kernels::unfold::{self, Geometry, SLACK};
use candle_core::{Result, Shape};

/// Output positions that a matrix product should have at least: small images share one.
const POSITIONS_MIN: usize = 128;

/// The sizes of one call.
///
/// Shapes beside the products name them so: G images of a group that shares a product, Oh·Ow output positions of an image,
/// K·K·Ci values that a position sees, Co output channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) images: usize,
    pub(crate) conv: Geometry,
}

impl Call {
    pub(crate) fn new(layer: &ConvLayer, x: &Shape, weight: &Shape) -> Result<Self> {
        let (images, height, width, channels) = x.dims4()?;
        let (kernel, kernel_x, inputs, out) = weight.dims4()?;
        if kernel != kernel_x || inputs != channels || height + 2 * layer.pad < kernel || width + 2 * layer.pad < kernel
        {
            candle_core::bail!("a convolution of {x:?} with {weight:?} is impossible")
        }
        let conv = Geometry { height, width, channels, out, kernel, stride: layer.stride, pad: layer.pad };
        Ok(Self { images, conv })
    }

    pub(crate) fn weight_len(&self) -> usize {
        self.conv.window() * self.conv.out
    }

    /// Height and width of the output, before what follows.
    pub(crate) fn out_sides(&self) -> [usize; 2] {
        [self.conv.out_height(), self.conv.out_width()]
    }

    /// Values of an image's output, before what follows.
    pub(crate) fn raw_len(&self) -> usize {
        self.conv.positions() * self.conv.out
    }

    /// The pooling of the output.
    pub(crate) fn window(&self, size: usize) -> Window {
        let (height, width) = (self.conv.out_height(), self.conv.out_width());
        Window { height, width, channels: self.conv.out, size }
    }

    /// Images that share one matrix product.
    fn group(&self) -> usize {
        POSITIONS_MIN.div_ceil(self.conv.positions()).min(images_per_block(self.images))
    }

    /// Unfolds `images` one after the other.
    fn unfold(&self, images: &[f32], padded: &mut [f32], windows: &mut [f32]) {
        let len = self.conv.positions() * self.conv.window();
        for (i, image) in images.chunks_exact(self.conv.image_len()).enumerate() {
            unfold::pad(image, padded, &self.conv);
            unfold::unfold(padded, &mut windows[i * len..(i + 1) * len + SLACK], &self.conv);
        }
    }

    /// Lengths of the scratch memory: a padded image, a group's windows, its outputs.
    fn scratch_lens(&self) -> [usize; 3] {
        let group = self.group();
        let positions = group * self.conv.positions();
        [self.conv.padded_len(), positions * self.conv.window() + SLACK, group * self.raw_len()]
    }

    /// Convolves a block of images a group at a time and hands each image's output to `finish`, with its place. The output
    /// lies in `raw` if that is given, else in scratch memory.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        weight: &[f32],
        mut raw: Option<&mut [f32]>,
        mut finish: impl FnMut(usize, &mut [f32]),
    ) {
        let Self { conv, .. } = self;
        let (positions, len, group) = (conv.positions(), conv.window(), self.group());
        scratch::with(self.scratch_lens(), |[padded, windows, y]| {
            for (i, x) in x.chunks(group * conv.image_len()).enumerate() {
                let images = x.len() / conv.image_len();
                let y = match &mut raw {
                    Some(raw) => &mut raw[i * group * self.raw_len()..][..images * self.raw_len()],
                    None => &mut y[..images * self.raw_len()],
                };
                self.unfold(x, padded, windows);
                // y: [G·Oh·Ow, Co] = windows: [G·Oh·Ow, K·K·Ci] x weight: [K·K·Ci, Co]
                let (left, right) = (Matrix::columns(weight, conv.out), Matrix::columns(windows, len));
                product([conv.out, images * positions, len], left, right, y, conv.out, false);
                y.chunks_exact_mut(self.raw_len()).enumerate().for_each(|(j, y)| finish(i * group + j, y));
            }
        });
    }

    /// Writes a block's gradients. `spread` writes the gradient of an image's output, given its place.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        transposed: &[f32],
        grads: ConvGrads<'_>,
        mut spread: impl FnMut(usize, &mut [f32]),
    ) {
        let (Self { conv, .. }, ConvGrads { dx, dw }) = (self, grads);
        let (positions, len, group) = (conv.positions(), conv.window(), self.group());
        scratch::with(self.scratch_lens(), |[padded, windows, dy]| {
            for (i, x) in x.chunks(group * conv.image_len()).enumerate() {
                let images = x.len() / conv.image_len();
                let n = images * positions;
                let outputs = dy.chunks_exact_mut(self.raw_len()).take(images);
                outputs.enumerate().for_each(|(j, dy)| spread(i * group + j, dy));
                self.unfold(x, padded, windows);
                // dw: [K·K·Ci, Co] += windows^T: [K·K·Ci, G·Oh·Ow] x dy: [G·Oh·Ow, Co]
                let (left, right) = (Matrix::columns(dy, conv.out), Matrix::rows(windows, len));
                product([conv.out, len, n], left, right, dw, conv.out, i > 0);
                if dx.is_empty() {
                    continue;
                }
                // windows: [G·Oh·Ow, K·K·Ci] = dy: [G·Oh·Ow, Co] x weight^T: [Co, K·K·Ci]
                let (left, right) = (Matrix::columns(transposed, len), Matrix::columns(dy, conv.out));
                product([len, n, conv.out], left, right, windows, len, false);
                let start = i * group * conv.image_len();
                let dx = dx[start..start + x.len()].chunks_exact_mut(conv.image_len());
                for (dx, windows) in dx.zip(windows.chunks_exact(positions * len)) {
                    unfold::fold(windows, padded, conv);
                    unfold::crop(padded, dx, conv);
                }
            }
        });
    }
}

/// Where a block's gradients go.
pub(crate) struct ConvGrads<'a> {
    /// That of the input; empty if nobody wants it.
    pub(crate) dx: &'a mut [f32],
    /// The block's part of that of the weight.
    pub(crate) dw: &'a mut [f32],
}
