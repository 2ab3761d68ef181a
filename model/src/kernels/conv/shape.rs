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

/// The sizes of a convolution of one batch.
///
/// The shapes beside the products are named so: G images of a group that shares a product, Oh·Ow output positions of
/// an image, K·K·Ci values that a position sees, Co output channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) images: usize,
    pub(crate) geometry: Geometry,
}

impl ConvShape {
    pub(crate) fn new(layer: &ConvLayer, x: &Shape, weight: &Shape) -> Result<Self> {
        let (images, height, width, channels) = x.dims4()?;
        let (kernel, kernel_x, inputs, out) = weight.dims4()?;
        if kernel != kernel_x || inputs != channels || height + 2 * layer.pad < kernel || width + 2 * layer.pad < kernel
        {
            candle_core::bail!("a convolution of {x:?} with {weight:?} is impossible")
        }
        let geometry = Geometry { height, width, channels, out, kernel, stride: layer.stride, pad: layer.pad };
        Ok(Self { images, geometry })
    }

    pub(crate) fn weight_len(&self) -> usize {
        self.geometry.window() * self.geometry.out
    }

    /// Height and width of the output, before what follows.
    pub(crate) fn out_sides(&self) -> [usize; 2] {
        [self.geometry.out_height(), self.geometry.out_width()]
    }

    /// Values of an image's output, before what follows.
    pub(crate) fn conv_out_len(&self) -> usize {
        self.geometry.positions() * self.geometry.out
    }

    /// Max pooling of the output, with windows of `size` by `size`.
    pub(crate) fn window(&self, size: usize) -> Window {
        let (height, width) = (self.geometry.out_height(), self.geometry.out_width());
        Window { height, width, channels: self.geometry.out, size }
    }

    /// Images that share one matrix product.
    fn group(&self) -> usize {
        POSITIONS_MIN.div_ceil(self.geometry.positions()).min(images_per_block(self.images))
    }

    /// Unfolds `images` one after the other.
    fn unfold(&self, images: &[f32], padded: &mut [f32], windows: &mut [f32]) {
        let len = self.geometry.positions() * self.geometry.window();
        for (i, image) in images.chunks_exact(self.geometry.image_len()).enumerate() {
            unfold::pad(image, padded, &self.geometry);
            unfold::unfold(padded, &mut windows[i * len..(i + 1) * len + SLACK], &self.geometry);
        }
    }

    /// Lengths of the scratch memory: a padded image, a group's windows, its outputs.
    fn scratch_lens(&self) -> [usize; 3] {
        let group = self.group();
        let positions = group * self.geometry.positions();
        [self.geometry.padded_len(), positions * self.geometry.window() + SLACK, group * self.conv_out_len()]
    }

    /// Convolves a block of images a group at a time and hands each image's output to `epilogue`, with the image's
    /// number in the block. The output lies in `conv_out` if that is given, else in scratch memory.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        weight: &[f32],
        mut conv_out: Option<&mut [f32]>,
        mut epilogue: impl FnMut(usize, &mut [f32]),
    ) {
        let geometry = &self.geometry;
        let (positions, len, group) = (geometry.positions(), geometry.window(), self.group());
        scratch::with(self.scratch_lens(), |[padded, windows, y]| {
            for (i, x) in x.chunks(group * geometry.image_len()).enumerate() {
                let images = x.len() / geometry.image_len();
                let y = match &mut conv_out {
                    Some(conv_out) => &mut conv_out[i * group * self.conv_out_len()..][..images * self.conv_out_len()],
                    None => &mut y[..images * self.conv_out_len()],
                };
                self.unfold(x, padded, windows);
                // y: [G·Oh·Ow, Co] = windows: [G·Oh·Ow, K·K·Ci] x weight: [K·K·Ci, Co]
                let (left, right) = (Matrix::columns(weight, geometry.out), Matrix::columns(windows, len));
                product([geometry.out, images * positions, len], left, right, y, geometry.out, false);
                y.chunks_exact_mut(self.conv_out_len()).enumerate().for_each(|(j, y)| epilogue(i * group + j, y));
            }
        });
    }

    /// Writes a block's gradients. `epilogue_backward` writes the gradient of an image's output, given the image's
    /// number in the block.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        transposed: &[f32],
        grads: ConvGrads<'_>,
        mut epilogue_backward: impl FnMut(usize, &mut [f32]),
    ) {
        let (geometry, ConvGrads { dx, dw }) = (&self.geometry, grads);
        let (positions, len, group) = (geometry.positions(), geometry.window(), self.group());
        scratch::with(self.scratch_lens(), |[padded, windows, dy]| {
            for (i, x) in x.chunks(group * geometry.image_len()).enumerate() {
                let images = x.len() / geometry.image_len();
                let n = images * positions;
                let outputs = dy.chunks_exact_mut(self.conv_out_len()).take(images);
                outputs.enumerate().for_each(|(j, dy)| epilogue_backward(i * group + j, dy));
                self.unfold(x, padded, windows);
                // dw: [K·K·Ci, Co] += windows^T: [K·K·Ci, G·Oh·Ow] x dy: [G·Oh·Ow, Co]
                let (left, right) = (Matrix::columns(dy, geometry.out), Matrix::rows(windows, len));
                product([geometry.out, len, n], left, right, dw, geometry.out, i > 0);
                if dx.is_empty() {
                    continue;
                }
                // windows: [G·Oh·Ow, K·K·Ci] = dy: [G·Oh·Ow, Co] x weight^T: [Co, K·K·Ci]
                let (left, right) = (Matrix::columns(transposed, len), Matrix::columns(dy, geometry.out));
                product([len, n, geometry.out], left, right, windows, len, false);
                let start = i * group * geometry.image_len();
                let dx = dx[start..start + x.len()].chunks_exact_mut(geometry.image_len());
                for (dx, windows) in dx.zip(windows.chunks_exact(positions * len)) {
                    unfold::fold(windows, padded, geometry);
                    unfold::crop(padded, dx, geometry);
                }
            }
        });
    }
}

/// Where a block's gradients go.
pub(crate) struct ConvGrads<'a> {
    /// That of the input; empty if it is not wanted.
    pub(crate) dx: &'a mut [f32],
    /// The block's part of that of the weight.
    pub(crate) dw: &'a mut [f32],
}
