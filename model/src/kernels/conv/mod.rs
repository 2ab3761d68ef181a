//! Convolution with bias, and what usually follows it, as one operation: rectifier and max pooling, or group
//! normalisation and rectifier.
//!
//! With pooling, the convolution's own output, the largest tensor of a net, lives for a few images at a time in a
//! thread's scratch memory: what leaves is the pooled output and, for the backward pass, a byte an output that tells
//! which element of its window was the maximum. With normalisation it is kept for the backward pass, and each image
//! goes through all its passes while it is in the cache. The backward pass unfolds the input again, which costs less
//! than keeping it.

mod norm;
mod shape;

use super::blocks::{add_blocks, images_per_block, optional};
use super::elementwise::{add, is_cut, relu};
use super::matrix::transpose;
use super::norm::Norm;
use super::op::{self, Args, Forward, Gradient, Kernel3, Output, View, weight_gradient};
use super::pool::{NONE, Window};
use super::scratch::{self, Recycled};
use super::{reference, with_avx2};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

pub(super) use norm::{ConvNorm, ConvNormSaved};
pub(super) use shape::{ConvGrads, ConvShape};

/// A convolution, but for the sizes that its tensors have, and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvLayer {
    /// Distance between neighbouring windows, in pixels of the input.
    pub stride: usize,
    /// Zeros added on each side.
    pub pad: usize,
    /// What follows it.
    pub epilogue: Epilogue,
    /// Whether the gradient with respect to the input is wanted; the first layer needs none.
    pub input_gradient: bool,
}

/// What the output of a convolution goes through before it leaves the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Rectified or not, then max pooling.
    Pool {
        /// Whether it is rectified.
        relu: bool,
        /// Side of the window; 1 for no pooling.
        size: usize,
    },
    /// Group normalisation, then rectified or not.
    Norm {
        /// Groups of channels.
        groups: usize,
        /// Whether it is rectified.
        relu: bool,
    },
}

impl Epilogue {
    /// Nothing follows.
    pub const NONE: Self = Self::Pool { relu: false, size: 1 };
}

/// `x`: `[n, h, w, in]`, `weight`: `[kernel, kernel, in, out]`. `affine` is the bias, `[out]`; where a norm follows,
/// bias, scale and shift one after the other, `[3 · out]`.
///
/// On CPUs the backward pass writes the weight's gradient over `weight_grad`, if that is given, instead of handing it
/// to candle.
pub fn conv(
    x: &Tensor,
    weight: &Tensor,
    affine: &Tensor,
    layer: ConvLayer,
    weight_grad: Option<&Tensor>,
) -> Result<Tensor> {
    if x.device().is_cpu() {
        let kernel = Conv { layer, weight_grad: weight_grad.cloned() };
        return op::apply3(kernel, Args { x, weight, affine });
    }
    reference::conv(x, weight, affine, layer)
}

struct Conv {
    layer: ConvLayer,
    weight_grad: Option<Tensor>,
}

/// What the forward pass leaves for the backward pass.
enum Saved {
    Pool(Pooled),
    Norm { conv_norm: ConvNorm, saved: ConvNormSaved<Recycled<f32>> },
}

/// A convolution's pooling, and for each of its outputs which element of its window it came from.
struct Pooled {
    window: Window,
    chosen: Recycled<u8>,
}

impl Kernel3 for Conv {
    const NAME: &'static str = "conv";
    type Saved = Saved;

    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<Saved>> {
        let shape = ConvShape::new(&self.layer, args.x.shape, args.weight.shape)?;
        let (images, out) = (shape.images, shape.geometry.out);
        let sections = match self.layer.epilogue {
            Epilogue::Pool { .. } => 1,
            Epilogue::Norm { groups, .. } if groups > 0 && out.is_multiple_of(groups) => 3,
            Epilogue::Norm { groups, .. } => candle_core::bail!("{groups} groups on {out} channels"),
        };
        if args.affine.shape.dims1()? != sections * out {
            candle_core::bail!("{:?} for {out} output channels", args.affine.shape)
        }
        let args = args.map(|arg| arg.values);
        let (y, [height, width], saved) = match self.layer.epilogue {
            Epilogue::Pool { relu, size } => {
                let (y, pooled) = forward_pool(&shape, args, shape.window(size), relu);
                (y, pooled.window.out_sides(), Saved::Pool(pooled))
            }
            Epilogue::Norm { groups, relu } => {
                let conv_norm = ConvNorm { conv: shape, norm: Norm { channels: out, groups, relu } };
                let (y, saved) = forward_norm(&conv_norm, args);
                (y, shape.out_sides(), Saved::Norm { conv_norm, saved })
            }
        };
        Ok(Forward { y, shape: (images, height, width, out).into(), saved })
    }

    fn backward(&self, args: Args<View<'_>>, saved: &Saved, out: Output<'_>) -> Result<Args<Gradient>> {
        let shape = ConvShape::new(&self.layer, args.x.shape, args.weight.shape)?;
        let weight_shape = args.weight.shape;
        let Args { x, weight, affine } = args.map(|arg| arg.values);
        let block = images_per_block(shape.images);
        let (blocks, image_len, out_len) =
            (shape.images.div_ceil(block), shape.geometry.image_len(), out.y.len() / shape.images);
        let mut dx = self.layer.input_gradient.then(|| vec![0f32; x.len()]);
        // The gradient of the input is the only one that reads the weight.
        let transposed_len = if dx.is_some() { weight.len() } else { 0 };
        let dx_blocks = optional(dx.as_mut().map(|dx| dx.par_chunks_mut(block * image_len)), blocks);
        let lens = [blocks * weight.len(), blocks * affine.len(), transposed_len];
        let [dw, d_affine] = scratch::with(lens, |[dw, d_affine, transposed]| {
            d_affine.fill(0.0);
            if !transposed.is_empty() {
                transpose(weight, shape.geometry.out, transposed);
            }
            let transposed = &*transposed;
            let inputs = x.par_chunks(block * image_len);
            let outputs = out.y.par_chunks(block * out_len).zip(out.grad.par_chunks(block * out_len));
            let sums = dw.par_chunks_mut(weight.len()).zip(d_affine.par_chunks_mut(affine.len()));
            let work = inputs.zip(outputs).zip(dx_blocks.zip(sums)).enumerate();
            work.for_each(|(number, ((x, (y, grad)), (dx, (dw, d_affine))))| {
                let (args, out) = (Args { x, weight: transposed, affine }, Output { y, grad });
                let (start, grads) = (number * block, Args { x: dx.unwrap_or_default(), weight: dw, affine: d_affine });
                match saved {
                    Saved::Pool(pooled) => pooled.backward(&shape, start, args, out.grad, grads),
                    Saved::Norm { conv_norm, saved } => {
                        let saved = saved.images(conv_norm, start, x.len() / image_len);
                        conv_norm.backward(args, saved, out, grads);
                    }
                }
            });
            let mut affine = vec![0f32; affine.len()];
            add_blocks(d_affine, &mut affine);
            let dw = weight_gradient(self.weight_grad.as_ref(), weight_shape, |total| add_blocks(dw, total))?;
            Result::Ok([dw, Some(affine)])
        })?;
        Ok(Args { x: dx, weight: dw, affine: d_affine })
    }
}

fn forward_pool(shape: &ConvShape, args: Args<&[f32]>, window: Window, relu: bool) -> (Vec<f32>, Pooled) {
    let Args { x, weight, affine: bias } = args;
    let (block, len) = (images_per_block(shape.images), window.out_len());
    let mut y = vec![0f32; shape.images * len];
    let mut chosen = Recycled::<u8>::take(shape.images * len);
    let outputs = y.par_chunks_mut(block * len).zip(chosen.par_chunks_mut(block * len));
    x.par_chunks(block * shape.geometry.image_len()).zip(outputs).for_each(|(x, (y, chosen))| {
        shape.forward(x, weight, None, |image, conv_out| {
            let (y, chosen) = (&mut y[image * len..][..len], &mut chosen[image * len..][..len]);
            window.pool(conv_out, y, chosen);
            // The bias is the same over a window and the rectifier is monotonous: both can wait for the maximum.
            with_avx2(|| bias_relu(y, chosen, bias, relu));
        });
    });
    (y, Pooled { window, chosen })
}

impl Pooled {
    /// Writes the gradients of a block of images from `start` on.
    fn backward(&self, shape: &ConvShape, start: usize, args: Args<&[f32]>, grad: &[f32], grads: Args<&mut [f32]>) {
        let len = self.window.out_len();
        let chosen = &self.chosen[start * len..][..grad.len()];
        let gradients = ConvGrads { dx: grads.x, dw: grads.weight };
        shape.backward(args.x, args.weight, gradients, |image, d_conv_out| {
            let (grad, chosen) = (&grad[image * len..][..len], &chosen[image * len..][..len]);
            self.window.unpool(grad, chosen, d_conv_out);
            with_avx2(|| add_passed(grad, chosen, grads.affine));
        });
    }
}

fn forward_norm(conv_norm: &ConvNorm, args: Args<&[f32]>) -> (Vec<f32>, ConvNormSaved<Recycled<f32>>) {
    let ConvShape { images, geometry } = conv_norm.conv;
    let (block, len) = (images_per_block(images), conv_norm.conv.conv_out_len());
    let mut y = vec![0f32; images * len];
    let mut saved = conv_norm.take(images);
    let outputs = y.par_chunks_mut(block * len).zip(saved.blocks_mut(conv_norm, block));
    args.x.par_chunks(block * geometry.image_len()).zip(outputs).for_each(|(x, (y, saved))| {
        conv_norm.forward(Args { x, ..args }, saved, y);
    });
    (y, saved)
}

/// Adds the bias to the maxima and rectifies them; a maximum that the rectifier cuts has come from nowhere.
#[inline(always)]
fn bias_relu(out: &mut [f32], chosen: &mut [u8], bias: &[f32], rectify: bool) {
    for (out, chosen) in out.chunks_exact_mut(bias.len()).zip(chosen.chunks_exact_mut(bias.len())) {
        add(out, bias);
        if rectify {
            for (out, chosen) in out.iter_mut().zip(chosen) {
                *chosen = if is_cut(*out) { NONE } else { *chosen };
                *out = relu(*out);
            }
        }
    }
}

/// Adds to the bias's gradient what the rectifier lets pass, row by row.
#[inline(always)]
fn add_passed(grad: &[f32], chosen: &[u8], sums: &mut [f32]) {
    for (grad, chosen) in grad.chunks_exact(sums.len()).zip(chosen.chunks_exact(sums.len())) {
        for ((sum, &grad), &chosen) in sums.iter_mut().zip(grad).zip(chosen) {
            *sum += if chosen == NONE { 0.0 } else { grad };
        }
    }
}
