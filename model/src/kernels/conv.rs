//! Convolution with bias, and what usually follows it (rectifier, max pooling), as one operation.
//!
//! The convolution's own output is the largest tensor of a net. Here it lives for a few images at a time in a thread's
//! scratch memory: what leaves is the pooled output and, for the backward pass, a byte an output that tells which element of
//! its window was the maximum. The backward pass unfolds the input again, which costs less than keeping it.

use super::matrix::{Matrix, product, transpose};
use super::pool::{NONE, Window};
use super::unfold::{self, Geometry, SLACK};
use super::{images_per_block, scratch, slice, wide, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Output positions that a matrix product should have at least: small images share one.
const POSITIONS_MIN: usize = 128;

/// A convolution and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvLayer {
    pub(crate) stride: usize,
    pub(crate) pad: usize,
    /// Whether the output is rectified.
    pub(crate) relu: bool,
    /// Side of the pooling window after that; 1 for none.
    pub(crate) pool: usize,
    /// Whether the gradient with respect to the input is wanted; the first layer needs none.
    pub(crate) input_gradient: bool,
}

/// `x`: `[n, h, w, in]`, `weight`: `[kernel, kernel, in, out]`, `bias`: `[out]`.
pub(crate) fn conv(x: &Tensor, weight: &Tensor, bias: &Tensor, layer: ConvLayer) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = Conv { layer, chosen: OnceLock::new() };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    composed(x, weight, bias, layer)
}

/// The same, composed of candle's operations.
pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, layer: ConvLayer) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let weight = weight.permute((3, 2, 0, 1))?.contiguous()?;
    let y = x.conv2d(&weight, layer.pad, layer.stride, 1, 1)?;
    let mut y = y.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?;
    if layer.relu {
        y = y.relu()?;
    }
    if layer.pool > 1 { super::pool::composed(&y, layer.pool) } else { Ok(y) }
}

struct Conv {
    layer: ConvLayer,
    /// For each output which element of its window it came from, kept from the forward pass for the backward pass.
    chosen: OnceLock<Vec<u8>>,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Call {
    images: usize,
    conv: Geometry,
    /// What the convolution's output goes through; a window of 1 passes it on.
    window: Window,
    relu: bool,
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
        let (height, width) = (conv.out_height(), conv.out_width());
        let window = Window { height, width, channels: out, size: layer.pool };
        Ok(Self { images, conv, window, relu: layer.relu })
    }

    /// Images that share one matrix product.
    fn group(&self) -> usize {
        POSITIONS_MIN.div_ceil(self.conv.positions()).min(images_per_block(self.images))
    }

    fn out_shape(&self) -> Shape {
        let Window { height, width, channels, size } = self.window;
        (self.images, height / size, width / size, channels).into()
    }

    /// Unfolds `images` one after the other.
    fn unfold(&self, images: &[f32], padded: &mut [f32], windows: &mut [f32]) {
        let len = self.conv.positions() * self.conv.window();
        for (i, image) in images.chunks_exact(self.conv.image_len()).enumerate() {
            unfold::pad(image, padded, &self.conv);
            unfold::unfold(padded, &mut windows[i * len..(i + 1) * len + SLACK], &self.conv);
        }
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32], chosen: &mut [u8]) {
        let Self { conv, window, .. } = self;
        let (positions, len) = (conv.positions(), conv.window());
        let group = self.group();
        let lens = [conv.padded_len(), group * positions * len + SLACK, group * positions * conv.out];
        scratch::with(lens, |[padded, windows, y]| {
            let groups = x.chunks(group * conv.image_len()).zip(out.chunks_mut(group * window.out_len()));
            for ((x, out), chosen) in groups.zip(chosen.chunks_mut(group * window.out_len())) {
                let n = x.len() / conv.image_len() * positions;
                self.unfold(x, padded, windows);
                let (left, right) = (Matrix::columns(weight, conv.out), Matrix::columns(windows, len));
                product([conv.out, n, len], left, right, y, conv.out, false);
                let images = y.chunks_exact(window.image_len()).zip(out.chunks_exact_mut(window.out_len()));
                for ((y, out), chosen) in images.zip(chosen.chunks_exact_mut(window.out_len())) {
                    window.pool(y, out, chosen);
                    // The bias is the same over a window and the rectifier is monotonous: both can wait for the maximum.
                    wide(|| finish(out, chosen, bias, self.relu));
                }
            }
        });
    }

    /// Writes a block's gradients of weight and bias, and that of the input where `dx` isn't empty.
    fn backward(&self, x: &[f32], transposed: &[f32], grad: &[f32], chosen: &[u8], dx: &mut [f32], sums: Sums<'_>) {
        let Self { conv, window, .. } = self;
        let (positions, len) = (conv.positions(), conv.window());
        let group = self.group();
        sums.db.fill(0.0);
        let lens = [conv.padded_len(), group * positions * len + SLACK, group * positions * conv.out];
        scratch::with(lens, |[padded, windows, dy]| {
            let groups = x.chunks(group * conv.image_len()).zip(grad.chunks(group * window.out_len()));
            for (i, ((x, grad), chosen)) in groups.zip(chosen.chunks(group * window.out_len())).enumerate() {
                let n = x.len() / conv.image_len() * positions;
                let images = dy.chunks_exact_mut(window.image_len()).zip(grad.chunks_exact(window.out_len()));
                for ((dy, grad), chosen) in images.zip(chosen.chunks_exact(window.out_len())) {
                    window.spread(grad, chosen, dy);
                }
                wide(|| add_rows(grad, chosen, sums.db));
                self.unfold(x, padded, windows);
                let (left, right) = (Matrix::columns(dy, conv.out), Matrix::rows(windows, len));
                product([conv.out, len, n], left, right, sums.dw, conv.out, i > 0);
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

/// One block's part of the gradients of weight and bias.
struct Sums<'a> {
    dw: &'a mut [f32],
    db: &'a mut [f32],
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
fn add_rows(grad: &[f32], chosen: &[u8], sums: &mut [f32]) {
    for (grad, chosen) in grad.chunks_exact(sums.len()).zip(chosen.chunks_exact(sums.len())) {
        for ((sum, &grad), &chosen) in sums.iter_mut().zip(grad).zip(chosen) {
            *sum += if chosen == NONE { 0.0 } else { grad };
        }
    }
}

impl Conv {
    fn backward(&self, call: &Call, [x, weight, grad]: [&[f32]; 3], dx: &mut [f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let Some(chosen) = self.chosen.get() else { candle_core::bail!("backward before forward") };
        let Call { conv, window, images, .. } = *call;
        let block = images_per_block(images);
        let blocks = images.div_ceil(block);
        let transposed = if dx.is_empty() { Vec::new() } else { transpose(weight, conv.out) };
        let inputs = x.par_chunks(block * conv.image_len());
        let outputs = grad.par_chunks(block * window.out_len()).zip(chosen.par_chunks(block * window.out_len()));
        Ok(scratch::with([blocks * weight.len(), blocks * conv.out], |[dw, db]| {
            let sums = dw.par_chunks_mut(weight.len()).zip(db.par_chunks_mut(conv.out));
            let work = inputs.zip(outputs).zip(sums);
            if dx.is_empty() {
                work.for_each(|((x, (grad, chosen)), (dw, db))| {
                    call.backward(x, &transposed, grad, chosen, &mut [], Sums { dw, db });
                });
            } else {
                work.zip(dx.par_chunks_mut(block * conv.image_len())).for_each(
                    |(((x, (grad, chosen)), (dw, db)), dx)| {
                        call.backward(x, &transposed, grad, chosen, dx, Sums { dw, db });
                    },
                );
            }
            (add_blocks(dw, weight.len()), add_blocks(db, conv.out))
        }))
    }
}

/// Adds the blocks' sums in their order, so that the result is the same for any number of threads.
fn add_blocks(sums: &[f32], len: usize) -> Vec<f32> {
    /// Values that one thread adds at once: small enough for the cache, large enough to be worth a task.
    const PIECE: usize = 4096;
    let (first, others) = sums.split_at(len);
    let mut totals = first.to_vec();
    totals.par_chunks_mut(PIECE).enumerate().for_each(|(piece, totals)| {
        for block in others.chunks_exact(len) {
            wide(|| add(totals, &block[piece * PIECE..]));
        }
    });
    totals
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
        let (x, weight, bias) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let call = Call::new(&self.layer, l1.shape(), l2.shape())?;
        let (image_len, out_len) = (call.conv.image_len(), call.window.out_len());
        let block = images_per_block(call.images);
        let (mut out, mut chosen) = (vec![0f32; call.images * out_len], vec![0u8; call.images * out_len]);
        let outputs = out.par_chunks_mut(block * out_len).zip(chosen.par_chunks_mut(block * out_len));
        x.par_chunks(block * image_len)
            .zip(outputs)
            .for_each(|(x, (out, chosen))| call.forward(x, weight, bias, out, chosen));
        // An operation runs forward once; were it to run again, the shapes and so the choice would be the same.
        let _ = self.chosen.set(chosen);
        Ok((CpuStorage::F32(out), call.out_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let call = Call::new(&self.layer, x.shape(), weight.shape())?;
        let mut dx = vec![0f32; if self.layer.input_gradient { x.elem_count() } else { 0 }];
        let (dw, db) = with_values(x, |x| {
            with_values(weight, |weight| with_values(grad, |grad| self.backward(&call, [x, weight, grad], &mut dx)))
        })?;
        let device = x.device();
        let dx = if dx.is_empty() { None } else { Some(Tensor::from_vec(dx, x.shape(), device)?) };
        let dw = Tensor::from_vec(dw, weight.shape(), device)?;
        Ok((dx, Some(dw), Some(Tensor::from_vec(db, bias.shape(), device)?)))
    }
}
