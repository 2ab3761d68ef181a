//! Convolution with bias, and what usually follows it, as one operation: rectifier and max pooling, or group normalisation
//! and rectifier.
//!
//! With pooling, the convolution's own output, the largest tensor of a net, lives for a few images at a time in a thread's
//! scratch memory: what leaves is the pooled output and, for the backward pass, a byte an output that tells which element of
//! its window was the maximum. With normalisation it is kept for the backward pass, and each image goes through all its
//! passes while it is in the cache. The backward pass unfolds the input again, which costs less than keeping it.

use super::matrix::{Matrix, product, transpose};
use super::norm::{self, Norm};
use super::normed::Normed;
use super::pool::{NONE, Window};
use super::scratch::{self, Kept};
use super::unfold::{self, Geometry, SLACK};
use super::{channels_first, channels_last, images_per_block, slice, weight_gradient, wide, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Module, Result, Shape, Tensor};
use candle_nn::Conv2dConfig;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Output positions that a matrix product should have at least: small images share one.
const POSITIONS_MIN: usize = 128;

/// A convolution and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvLayer {
    /// Step in both directions.
    pub stride: usize,
    /// Zeros added on each side.
    pub pad: usize,
    /// What the output goes through.
    pub after: After,
    /// Whether the gradient with respect to the input is wanted; the first layer needs none.
    pub input_gradient: bool,
}

/// What the output of a convolution goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
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

/// `x`: `[n, h, w, in]`, `weight`: `[kernel, kernel, in, out]`. `rest` is the bias, `[out]`; where a norm follows, bias, scale
/// and shift one after the other, `[3 · out]`. On CPUs the backward pass writes the weight's gradient over `into`, if that is
/// given, instead of handing it to candle.
pub fn conv(x: &Tensor, weight: &Tensor, rest: &Tensor, layer: ConvLayer, into: Option<&Tensor>) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = Conv { layer, into: into.cloned(), kept: OnceLock::new() };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &rest.contiguous()?, op);
    }
    composed(x, weight, rest, layer)
}

/// The same with candle's own layers.
pub(super) fn composed(x: &Tensor, weight: &Tensor, rest: &Tensor, layer: ConvLayer) -> Result<Tensor> {
    let out = weight.dim(3)?;
    let config = Conv2dConfig { padding: layer.pad, stride: layer.stride, ..Conv2dConfig::default() };
    let weight = weight.permute((3, 2, 0, 1))?.contiguous()?;
    let conv = candle_nn::Conv2d::new(weight, Some(rest.narrow(0, 0, out)?), config);
    let y = channels_last(&conv.forward(&channels_first(x)?)?)?;
    match layer.after {
        After::Pool { relu, size } => {
            let y = if relu { y.relu()? } else { y };
            if size > 1 { super::pool::composed(&y, size) } else { Ok(y) }
        }
        After::Norm { groups, relu } => {
            norm::composed(&y, &rest.narrow(0, out, out)?, &rest.narrow(0, 2 * out, out)?, groups, relu)
        }
    }
}

struct Conv {
    layer: ConvLayer,
    into: Option<Tensor>,
    /// What the forward pass keeps for the backward pass.
    kept: OnceLock<Memory>,
}

enum Memory {
    /// For each output of the pooling which element of its window it came from.
    Pooled { window: Window, chosen: Kept<u8> },
    /// The convolution's output, and mean and inverse deviation of each image's channels.
    Normed { normed: Normed, raw: Kept<f32>, statistics: Kept<f32> },
}

/// The sizes of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    images: usize,
    conv: Geometry,
}

impl Call {
    fn new(layer: &ConvLayer, x: &Shape, weight: &Shape) -> Result<Self> {
        let (images, height, width, channels) = x.dims4()?;
        let (kernel, kernel_x, inputs, out) = weight.dims4()?;
        if kernel != kernel_x || inputs != channels || height + 2 * layer.pad < kernel || width + 2 * layer.pad < kernel
        {
            candle_core::bail!("a convolution of {x:?} with {weight:?} is impossible")
        }
        let conv = Geometry { height, width, channels, out, kernel, stride: layer.stride, pad: layer.pad };
        Ok(Self { images, conv })
    }

    /// A call with these images: height, width and channels of the input, channels of the output.
    pub(super) fn of(
        images: usize,
        [height, width, channels, out]: [usize; 4],
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> Self {
        Self { images, conv: Geometry { height, width, channels, out, kernel, stride, pad } }
    }

    pub(super) fn weight_len(&self) -> usize {
        self.conv.window() * self.conv.out
    }

    /// Height and width of the output, before what follows.
    pub(super) fn out_sides(&self) -> [usize; 2] {
        [self.conv.out_height(), self.conv.out_width()]
    }

    /// Values of an image's output, before what follows.
    pub(super) fn raw_len(&self) -> usize {
        self.conv.positions() * self.conv.out
    }

    /// The pooling of the output.
    fn window(&self, size: usize) -> Window {
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
    pub(super) fn forward(
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
                let (left, right) = (Matrix::columns(weight, conv.out), Matrix::columns(windows, len));
                product([conv.out, images * positions, len], left, right, y, conv.out, false);
                y.chunks_exact_mut(self.raw_len()).enumerate().for_each(|(j, y)| finish(i * group + j, y));
            }
        });
    }

    /// Writes a block's gradient of the weight, and that of the input where `dx` isn't empty. `spread` writes the gradient
    /// of an image's output, given its place.
    pub(super) fn backward(
        &self,
        x: &[f32],
        transposed: &[f32],
        dx: &mut [f32],
        dw: &mut [f32],
        mut spread: impl FnMut(usize, &mut [f32]),
    ) {
        let Self { conv, .. } = self;
        let (positions, len, group) = (conv.positions(), conv.window(), self.group());
        scratch::with(self.scratch_lens(), |[padded, windows, dy]| {
            for (i, x) in x.chunks(group * conv.image_len()).enumerate() {
                let images = x.len() / conv.image_len();
                let n = images * positions;
                let outputs = dy.chunks_exact_mut(self.raw_len()).take(images);
                outputs.enumerate().for_each(|(j, dy)| spread(i * group + j, dy));
                self.unfold(x, padded, windows);
                let (left, right) = (Matrix::columns(dy, conv.out), Matrix::rows(windows, len));
                product([conv.out, len, n], left, right, dw, conv.out, i > 0);
                if dx.is_empty() {
                    continue;
                }
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

/// Adds the bias to the maxima and rectifies them.
#[inline(always)]
fn finish(out: &mut [f32], chosen: &mut [u8], bias: &[f32], relu: bool) {
    for (out, chosen) in out.chunks_exact_mut(bias.len()).zip(chosen.chunks_exact_mut(bias.len())) {
        for (out, bias) in out.iter_mut().zip(bias) {
            *out += bias;
        }
        if relu {
            for (out, chosen) in out.iter_mut().zip(chosen) {
                // Written so that NaN stays NaN.
                let dead = *out <= 0.0;
                *chosen = if dead { NONE } else { *chosen };
                *out = if dead { 0.0 } else { *out };
            }
        }
    }
}

/// Adds the gradients that pass to the bias's gradient, row by row.
#[inline(always)]
fn add_passed(grad: &[f32], chosen: &[u8], sums: &mut [f32]) {
    for (grad, chosen) in grad.chunks_exact(sums.len()).zip(chosen.chunks_exact(sums.len())) {
        for ((sum, &grad), &chosen) in sums.iter_mut().zip(grad).zip(chosen) {
            *sum += if chosen == NONE { 0.0 } else { grad };
        }
    }
}

impl Conv {
    fn forward(&self, call: &Call, [x, weight, rest]: [&[f32]; 3]) -> (Vec<f32>, Memory) {
        let Call { conv, images, .. } = *call;
        let block = images_per_block(images);
        let inputs = x.par_chunks(block * conv.image_len());
        match self.layer.after {
            After::Pool { relu, size } => {
                let window = call.window(size);
                let len = window.out_len();
                let mut out = vec![0f32; images * len];
                let mut chosen = Kept::<u8>::take(images * len);
                let outputs = out.par_chunks_mut(block * len).zip(chosen.par_chunks_mut(block * len));
                inputs.zip(outputs).for_each(|(x, (out, chosen))| {
                    call.forward(x, weight, None, |image, y| {
                        let (out, chosen) = (&mut out[image * len..][..len], &mut chosen[image * len..][..len]);
                        window.pool(y, out, chosen);
                        // The bias is the same over a window and the rectifier is monotonous: both can wait for the maximum.
                        wide(|| finish(out, chosen, rest, relu));
                    });
                });
                (out, Memory::Pooled { window, chosen })
            }
            After::Norm { groups, relu } => {
                let normed = Normed { conv: *call, norm: Norm { channels: conv.out, groups, relu } };
                let (len, of_norm) = (call.raw_len(), normed.norm.statistics_len());
                let mut out = vec![0f32; images * len];
                let (mut raw, mut statistics) = (Kept::take(images * len), Kept::take(images * of_norm));
                let kept = raw.par_chunks_mut(block * len).zip(statistics.par_chunks_mut(block * of_norm));
                inputs.zip(out.par_chunks_mut(block * len).zip(kept)).for_each(|(x, (out, (raw, statistics)))| {
                    normed.forward(x, weight, rest, [raw, statistics], out);
                });
                (out, Memory::Normed { normed, raw, statistics })
            }
        }
    }

    /// The gradients of weight, which is that of the tensor `of`, and `rest`; that of the input is written where `dx` isn't empty.
    fn backward(
        &self,
        call: &Call,
        of: &Tensor,
        [x, weight, rest]: [&[f32]; 3],
        [res, grad]: [&[f32]; 2],
        dx: &mut [f32],
    ) -> Result<(Option<Tensor>, Vec<f32>)> {
        let Some(kept) = self.kept.get() else { candle_core::bail!("backward before forward") };
        let Call { conv, images, .. } = *call;
        let block = images_per_block(images);
        let blocks = images.div_ceil(block);
        let piece = block * (grad.len() / images);
        // Without an input gradient every block gets an empty piece.
        let dx_is_wanted = !dx.is_empty();
        let mut pieces: Vec<&mut [f32]> = dx.chunks_mut(block * conv.image_len()).collect();
        pieces.resize_with(blocks, Default::default);
        let turned = if dx_is_wanted { weight.len() } else { 0 };
        scratch::with([blocks * weight.len(), blocks * rest.len(), turned], |[dw, d_rest, transposed]| {
            d_rest.fill(0.0);
            if dx_is_wanted {
                transpose(weight, conv.out, transposed);
            }
            let transposed = &*transposed;
            let sums = dw.par_chunks_mut(weight.len()).zip(d_rest.par_chunks_mut(rest.len()));
            let inputs = x.par_chunks(block * conv.image_len()).zip(grad.par_chunks(piece));
            let work = inputs.zip(pieces.into_par_iter().zip(sums)).enumerate();
            work.for_each(|(number, ((x, grad), (dx, (dw, d_rest))))| match kept {
                Memory::Pooled { window, chosen } => {
                    let (chosen, len) = (&chosen[number * piece..][..grad.len()], window.out_len());
                    call.backward(x, transposed, dx, dw, |image, dy| {
                        let (grad, chosen) = (&grad[image * len..][..len], &chosen[image * len..][..len]);
                        window.spread(grad, chosen, dy);
                        wide(|| add_passed(grad, chosen, d_rest));
                    });
                }
                Memory::Normed { normed, raw, statistics } => {
                    let of_norm = block * normed.norm.statistics_len();
                    let [raw, res] = [&raw[..], res].map(|values| &values[number * piece..][..grad.len()]);
                    let given = [raw, &statistics[number * of_norm..], res, grad];
                    normed.backward([x, transposed, rest], given, [dx, dw, d_rest]);
                }
            });
            let mut sums = vec![0f32; rest.len()];
            add_blocks(d_rest, &mut sums);
            Ok((weight_gradient(self.into.as_ref(), of, |total| add_blocks(dw, total))?, sums))
        })
    }
}

/// Adds the blocks' sums in their order, so that the result is the same for any number of threads.
pub(super) fn add_blocks(sums: &[f32], totals: &mut [f32]) {
    /// Values that one thread adds at once: small enough for the cache, large enough to be worth a task.
    const PIECE: usize = 4096;
    let len = totals.len();
    let (first, others) = sums.split_at(len);
    totals.par_chunks_mut(PIECE).zip(first.par_chunks(PIECE)).enumerate().for_each(|(piece, (totals, first))| {
        totals.copy_from_slice(first);
        for block in others.chunks_exact(len) {
            wide(|| add(totals, &block[piece * PIECE..]));
        }
    });
}

#[inline(always)]
fn add(totals: &mut [f32], values: &[f32]) {
    for (total, value) in totals.iter_mut().zip(values) {
        *total += value;
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let call = Call::new(&self.layer, l1.shape(), l2.shape())?;
        let sections = match self.layer.after {
            After::Pool { .. } => 1,
            After::Norm { groups, .. } if groups > 0 && call.conv.out.is_multiple_of(groups) => 3,
            After::Norm { groups, .. } => candle_core::bail!("{groups} groups on {} channels", call.conv.out),
        };
        if l3.shape().dims1()? != sections * call.conv.out {
            candle_core::bail!("{:?} for {} output channels", l3.shape(), call.conv.out)
        }
        let (out, kept) = self.forward(&call, [slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?]);
        // An operation runs forward once; were it to run again, what it keeps would be the same.
        let _ = self.kept.set(kept);
        let Window { height, width, channels, size } = call.window(match self.layer.after {
            After::Pool { size, .. } => size,
            After::Norm { .. } => 1,
        });
        Ok((CpuStorage::F32(out), (call.images, height / size, width / size, channels).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        rest: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let call = Call::new(&self.layer, x.shape(), weight.shape())?;
        let mut dx = vec![0f32; if self.layer.input_gradient { x.elem_count() } else { 0 }];
        let weight_tensor = weight;
        let mut run = |x: &[f32], weight: &[f32], rest: &[f32], res: &[f32], grad: &[f32]| {
            self.backward(&call, weight_tensor, [x, weight, rest], [res, grad], &mut dx)
        };
        let (dw, d_rest) = with_values(x, |x| {
            with_values(weight, |weight| {
                with_values(rest, |rest| {
                    with_values(res, |res| with_values(grad, |grad| run(x, weight, rest, res, grad)))
                })
            })
        })?;
        let device = x.device();
        let dx = if dx.is_empty() { None } else { Some(Tensor::from_vec(dx, x.shape(), device)?) };
        Ok((dx, dw, Some(Tensor::from_vec(d_rest, rest.shape(), device)?)))
    }
}
