//! A convolution with bias and the group normalisation after it, for a block of images on one thread: what the
//! operations `conv` and `residual` have in common.

use super::{ConvGrads, ConvShape};
use crate::kernels::elementwise::{add_rows, add_to_rows};
use crate::kernels::norm::Norm;
use crate::kernels::op::{Args, Output};
use crate::kernels::scratch::Recycled;
use crate::kernels::with_avx2;
use rayon::prelude::*;

/// The two together. Their affine parameters are bias, scale and shift, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvNorm {
    pub(crate) conv: ConvShape,
    pub(crate) norm: Norm,
}

/// What the forward pass saves for the backward pass: of a batch, or of a block of its images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvNormSaved<T> {
    /// The convolution's output, with bias.
    pub(crate) conv_out: T,
    /// Mean and inverse deviation, [`Norm::statistics_len`] values an image.
    pub(crate) statistics: T,
}

impl ConvNormSaved<Recycled<f32>> {
    /// Of the images of a batch, to be written a block at a time.
    pub(crate) fn blocks_mut(
        &mut self,
        conv_norm: &ConvNorm,
        block: usize,
    ) -> impl IndexedParallelIterator<Item = ConvNormSaved<&mut [f32]>> {
        let conv_out = self.conv_out.par_chunks_mut(block * conv_norm.conv.conv_out_len());
        let statistics = self.statistics.par_chunks_mut(block * conv_norm.norm.statistics_len());
        conv_out.zip(statistics).map(|(conv_out, statistics)| ConvNormSaved { conv_out, statistics })
    }

    /// Of so many images from `start` on.
    pub(crate) fn images(&self, conv_norm: &ConvNorm, start: usize, count: usize) -> ConvNormSaved<&[f32]> {
        let (len, statistics_len) = (conv_norm.conv.conv_out_len(), conv_norm.norm.statistics_len());
        ConvNormSaved {
            conv_out: &self.conv_out[start * len..][..count * len],
            statistics: &self.statistics[start * statistics_len..][..count * statistics_len],
        }
    }
}

impl ConvNorm {
    pub(crate) fn weight_len(&self) -> usize {
        self.conv.weight_len()
    }

    /// Bias, scale and shift of each output channel.
    pub(crate) fn affine_len(&self) -> usize {
        3 * self.norm.channels
    }

    /// Memory for what a batch of so many images saves.
    pub(crate) fn take(&self, images: usize) -> ConvNormSaved<Recycled<f32>> {
        ConvNormSaved {
            conv_out: Recycled::take(images * self.conv.conv_out_len()),
            statistics: Recycled::take(images * self.norm.statistics_len()),
        }
    }

    /// Writes a block's output, and what the backward pass will need.
    pub(crate) fn forward(&self, args: Args<&[f32]>, saved: ConvNormSaved<&mut [f32]>, y: &mut [f32]) {
        let Self { conv, norm } = self;
        let (bias, scale_and_shift) = args.affine.split_at(norm.channels);
        let (scale, shift) = scale_and_shift.split_at(norm.channels);
        let (len, statistics_len) = (conv.conv_out_len(), norm.statistics_len());
        conv.forward(args.x, args.weight, Some(saved.conv_out), |image, conv_out| {
            with_avx2(|| add_to_rows(conv_out, bias));
            let args = Args { x: &*conv_out, weight: scale, affine: shift };
            let statistics = &mut saved.statistics[image * statistics_len..][..statistics_len];
            norm.forward(args, statistics, &mut y[image * len..][..len]);
        });
    }

    /// Writes a block's gradient of the weight, and that of the input where its slice isn't empty; adds to that of the
    /// affine parameters. The weight is given transposed; the output matters where it is rectified.
    pub(crate) fn backward(
        &self,
        args: Args<&[f32]>,
        saved: ConvNormSaved<&[f32]>,
        out: Output<'_>,
        grads: Args<&mut [f32]>,
    ) {
        let Self { conv, norm } = self;
        let (len, statistics_len) = (conv.conv_out_len(), norm.statistics_len());
        let (_, scale_and_shift) = args.affine.split_at(norm.channels);
        let (scale, shift) = scale_and_shift.split_at(norm.channels);
        let (d_bias, d_scale_and_shift) = grads.affine.split_at_mut(norm.channels);
        let (d_scale, d_shift) = d_scale_and_shift.split_at_mut(norm.channels);
        let gradients = ConvGrads { dx: grads.x, dw: grads.weight };
        conv.backward(args.x, args.weight, gradients, |image, d_conv_out| {
            let of_image = image * len..(image + 1) * len;
            let statistics = &saved.statistics[image * statistics_len..][..statistics_len];
            let args = Args { x: &saved.conv_out[of_image.clone()], weight: scale, affine: shift };
            let out = Output { y: &out.y[of_image.clone()], grad: &out.grad[of_image] };
            let grads = Args { x: &mut *d_conv_out, weight: &mut *d_scale, affine: &mut *d_shift };
            norm.backward(args, statistics, out, grads);
            with_avx2(|| add_rows(d_bias, d_conv_out));
        });
    }
}
