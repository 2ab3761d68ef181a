//! The basic block of a residual net (He et al. 2016, section 3.3) with group normalisation, as one operation: between its
//! convolutions a block of images stays in the cache, and no tensor of candle's has to be made and added up.

use super::conv::{After, Call, ConvLayer, add_blocks, conv};
use super::matrix::transpose;
use super::norm::Norm;
use super::normed::Normed;
use super::scratch::{self, Kept};
use super::{images_per_block, slice, wide, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// The sizes of a block that its tensors don't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Output channels.
    pub out: usize,
    /// Step of the first convolution and of the shortcut.
    pub stride: usize,
    /// Groups of channels of the norms.
    pub groups: usize,
    /// Whether the shortcut is a 1x1 convolution with a norm; else it is the input itself.
    pub shortcut: bool,
}

/// `x`: `[n, h, w, in]`. `weights`: those of the two 3x3 convolutions and of the shortcut, each `[kernel, kernel, in, out]`,
/// one after the other. `rest`: for each of them bias, scale and shift, `[out]` each.
pub fn residual(x: &Tensor, weights: &Tensor, rest: &Tensor, block: Block) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = Residual { block, kept: OnceLock::new() };
        return x.contiguous()?.apply_op3(&weights.contiguous()?, &rest.contiguous()?, op);
    }
    composed(x, weights, rest, block)
}

/// The same, composed of the operations of its layers.
pub(super) fn composed(x: &Tensor, weights: &Tensor, rest: &Tensor, block: Block) -> Result<Tensor> {
    let Block { out, stride, groups, shortcut } = block;
    let inputs = x.dim(3)?;
    let layer = |x: &Tensor, number: usize, start: usize, kernel: usize, stride: usize, relu: bool| {
        let inputs = x.dim(3)?;
        let weight =
            weights.narrow(0, start, kernel * kernel * inputs * out)?.reshape((kernel, kernel, inputs, out))?;
        let rest = rest.narrow(0, 3 * out * number, 3 * out)?;
        let after = After::Norm { groups, relu };
        conv(x, &weight, &rest, ConvLayer { stride, pad: kernel / 2, after, input_gradient: true }, None)
    };
    let y = layer(x, 0, 0, 3, stride, true)?;
    let y = layer(&y, 1, 9 * inputs * out, 3, 1, false)?;
    let other = if shortcut { layer(x, 2, 9 * (inputs + out) * out, 1, stride, false)? } else { x.clone() };
    (y + other)?.relu()
}

struct Residual {
    block: Block,
    /// What the forward pass keeps for the backward pass.
    kept: OnceLock<Memory>,
}

/// The output of each convolution and the statistics of each norm, and what goes into the second convolution.
struct Memory {
    raw: [Kept<f32>; 3],
    statistics: [Kept<f32>; 3],
    hidden: Kept<f32>,
}

/// The convolutions of a block, each with its norm: the first, the second, the shortcut's.
struct Calls {
    images: usize,
    layers: [Normed; 3],
    /// How many of them there are.
    count: usize,
}

impl Calls {
    fn new(block: &Block, x: &Shape, weights: usize, rest: usize) -> Result<Self> {
        let Block { out, stride, groups, shortcut } = *block;
        let (images, height, width, inputs) = x.dims4()?;
        let count = if shortcut { 3 } else { 2 };
        if height == 0 || width == 0 || out == 0 || stride == 0 || groups == 0 || out % groups != 0 {
            candle_core::bail!("a residual block of {x:?} to {out} channels in {groups} groups is impossible")
        }
        let layer = |sides: [usize; 4], kernel: usize, stride: usize, relu: bool| Normed {
            conv: Call::of(images, sides, kernel, stride, kernel / 2),
            norm: Norm { channels: out, groups, relu },
        };
        let layers = [
            layer([height, width, inputs, out], 3, stride, true),
            layer([height.div_ceil(stride), width.div_ceil(stride), out, out], 3, 1, false),
            layer([height, width, inputs, out], 1, stride, false),
        ];
        let expected: usize = layers[..count].iter().map(|layer| layer.conv.weight_len()).sum();
        let same = shortcut || (inputs == out && stride == 1);
        if expected != weights || rest != 3 * count * out || !same {
            candle_core::bail!("{weights} weights and {rest} other parameters for a residual block of {x:?}")
        }
        Ok(Self { images, layers, count })
    }

    /// Values of an image's output.
    fn len(&self) -> usize {
        self.layers[0].conv.raw_len()
    }

    /// Values that the norm of a layer leaves of an image.
    fn statistics_len(&self) -> usize {
        self.layers[0].norm.statistics_len()
    }

    /// The weights of each layer; nothing for a shortcut that is none.
    fn split<'a>(&self, weights: &'a [f32]) -> [&'a [f32]; 3] {
        let (first, others) = weights.split_at(self.layers[0].conv.weight_len());
        let (second, shortcut) = others.split_at(self.layers[1].conv.weight_len());
        [first, second, shortcut]
    }

    /// Bias, scale and shift of each layer, likewise.
    fn split_rest<'a>(&self, rest: &'a [f32]) -> [&'a [f32]; 3] {
        let (first, others) = rest.split_at(rest.len() / self.count);
        let (second, shortcut) = others.split_at(first.len());
        [first, second, shortcut]
    }
}

/// max(out + other, 0) in place.
#[inline(always)]
fn add_relu(out: &mut [f32], other: &[f32]) {
    for (out, other) in out.iter_mut().zip(other) {
        let sum = *out + other;
        // Written so that NaN stays NaN.
        *out = if sum <= 0.0 { 0.0 } else { sum };
    }
}

#[inline(always)]
fn pass(grad: &[f32], res: &[f32], passed: &mut [f32]) {
    for (passed, (grad, res)) in passed.iter_mut().zip(grad.iter().zip(res)) {
        *passed = if *res <= 0.0 { 0.0 } else { *grad };
    }
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// One block of images: its pieces of what the backward pass reads and writes.
struct Piece<'a> {
    x: &'a [f32],
    res: &'a [f32],
    grad: &'a [f32],
    /// The first image's number.
    start: usize,
    dx: &'a mut [f32],
    d_weights: &'a mut [f32],
    d_rest: &'a mut [f32],
}

impl Residual {
    fn forward(&self, calls: &Calls, [x, weights, rest]: [&[f32]; 3]) -> (Vec<f32>, Memory) {
        let (images, len, of_norm) = (calls.images, calls.len(), calls.statistics_len());
        let block = images_per_block(images);
        let has = |number: usize| if number < calls.count { images } else { 0 };
        let mut memory = Memory {
            raw: [0, 1, 2].map(|i| Kept::take(has(i) * len)),
            statistics: [0, 1, 2].map(|i| Kept::take(has(i) * of_norm)),
            hidden: Kept::take(images * len),
        };
        let mut out = vec![0f32; images * len];
        let image_len = x.len() / images.max(1);
        let ([w1, w2, w3], [r1, r2, r3]) = (calls.split(weights), calls.split_rest(rest));
        let Memory { raw: [raw1, raw2, raw3], statistics: [of1, of2, of3], hidden } = &mut memory;
        let mut pieces3: Vec<[&mut [f32]; 2]> =
            raw3.chunks_mut(block * len).zip(of3.chunks_mut(block * of_norm)).map(|(raw, of)| [raw, of]).collect();
        pieces3.resize_with(images.div_ceil(block), || [&mut [], &mut []]);
        let kept = raw1.par_chunks_mut(block * len).zip(of1.par_chunks_mut(block * of_norm));
        let kept = kept.zip(raw2.par_chunks_mut(block * len).zip(of2.par_chunks_mut(block * of_norm)));
        let kept = kept.zip(pieces3).zip(hidden.par_chunks_mut(block * len));
        let work = x.par_chunks(block * image_len).zip(out.par_chunks_mut(block * len)).zip(kept);
        let [first, second, third] = &calls.layers;
        work.for_each(|((x, out), ((((raw1, of1), (raw2, of2)), kept3), hidden))| {
            first.forward(x, w1, r1, [raw1, of1], hidden);
            second.forward(hidden, w2, r2, [raw2, of2], out);
            if calls.count < 3 {
                return wide(|| add_relu(out, x));
            }
            scratch::with([out.len()], |[other]| {
                third.forward(x, w3, r3, kept3, other);
                wide(|| add_relu(out, other));
            });
        });
        (out, memory)
    }

    /// The gradients of the weights and of the rest; that of the input goes to `dx`.
    fn backward(
        &self,
        calls: &Calls,
        [x, weights, rest]: [&[f32]; 3],
        [res, grad]: [&[f32]; 2],
        dx: &mut [f32],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let Some(memory) = self.kept.get() else { candle_core::bail!("backward before forward") };
        let (images, len) = (calls.images, calls.len());
        let block = images_per_block(images);
        let (blocks, image_len) = (images.div_ceil(block), x.len() / images.max(1));
        scratch::with(
            [blocks * weights.len(), blocks * rest.len(), weights.len()],
            |[d_weights, d_rest, transposed]| {
                d_rest.fill(0.0);
                let mut at = 0;
                for weight in calls.split(weights) {
                    transpose(weight, self.block.out, &mut transposed[at..at + weight.len()]);
                    at += weight.len();
                }
                let transposed = &*transposed;
                let sums = d_weights.par_chunks_mut(weights.len()).zip(d_rest.par_chunks_mut(rest.len()));
                let inputs = x.par_chunks(block * image_len).zip(dx.par_chunks_mut(block * image_len));
                let outputs = res.par_chunks(block * len).zip(grad.par_chunks(block * len));
                let work = inputs.zip(outputs).zip(sums).enumerate();
                work.for_each(|(number, (((x, dx), (res, grad)), (d_weights, d_rest)))| {
                    let piece = Piece { x, res, grad, start: number * block, dx, d_weights, d_rest };
                    backward_piece(calls, memory, [transposed, rest], piece);
                });
                let (mut of_weights, mut of_rest) = (vec![0f32; weights.len()], vec![0f32; rest.len()]);
                add_blocks(d_weights, &mut of_weights);
                add_blocks(d_rest, &mut of_rest);
                Ok((of_weights, of_rest))
            },
        )
    }
}

fn backward_piece(calls: &Calls, memory: &Memory, [transposed, rest]: [&[f32]; 2], piece: Piece<'_>) {
    let Piece { x, res, grad, start, dx, d_weights, d_rest } = piece;
    let (len, of_norm) = (calls.len(), calls.statistics_len());
    let ([w1, w2, w3], [r1, r2, r3]) = (calls.split(transposed), calls.split_rest(rest));
    let (dw1, others) = d_weights.split_at_mut(w1.len());
    let (dw2, dw3) = others.split_at_mut(w2.len());
    let (dr1, others) = d_rest.split_at_mut(r1.len());
    let (dr2, dr3) = others.split_at_mut(r2.len());
    let hidden = &memory.hidden[start * len..][..grad.len()];
    let kept = |number: usize| [&memory.raw[number][start * len..], &memory.statistics[number][start * of_norm..]];
    let ([raw1, of1], [raw2, of2]) = (kept(0), kept(1));
    let [first, second, third] = &calls.layers;
    let of_shortcut = if calls.count < 3 { 0 } else { dx.len() };
    scratch::with([grad.len(), grad.len(), of_shortcut], |[passed, d_hidden, other]| {
        wide(|| pass(grad, res, passed));
        // The second and the third norm are not rectified themselves, so their outputs don't matter.
        second.backward([hidden, w2, r2], [raw2, of2, raw2, passed], [d_hidden, dw2, dr2]);
        first.backward([x, w1, r1], [raw1, of1, hidden, d_hidden], [&mut *dx, dw1, dr1]);
        if calls.count < 3 {
            return wide(|| add(dx, passed));
        }
        let [raw3, of3] = kept(2);
        third.backward([x, w3, r3], [raw3, of3, raw3, passed], [&mut *other, dw3, dr3]);
        wide(|| add(dx, other));
    });
}

impl CustomOp3 for Residual {
    fn name(&self) -> &'static str {
        "residual"
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
        let calls = Calls::new(&self.block, l1.shape(), l2.shape().dims1()?, l3.shape().dims1()?)?;
        let (out, memory) = self.forward(&calls, [slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?]);
        // An operation runs forward once; were it to run again, what it keeps would be the same.
        let _ = self.kept.set(memory);
        let [height, width] = calls.layers[0].conv.out_sides();
        Ok((CpuStorage::F32(out), (calls.images, height, width, self.block.out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        rest: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let calls = Calls::new(&self.block, x.shape(), weights.dims1()?, rest.dims1()?)?;
        let mut dx = vec![0f32; x.elem_count()];
        let mut run = |x: &[f32], weights: &[f32], rest: &[f32], res: &[f32], grad: &[f32]| {
            self.backward(&calls, [x, weights, rest], [res, grad], &mut dx)
        };
        let (d_weights, d_rest) = with_values(x, |x| {
            with_values(weights, |weights| {
                with_values(rest, |rest| {
                    with_values(res, |res| with_values(grad, |grad| run(x, weights, rest, res, grad)))
                })
            })
        })?;
        let device = x.device();
        let dx = Tensor::from_vec(dx, x.shape(), device)?;
        let d_weights = Tensor::from_vec(d_weights, weights.shape(), device)?;
        Ok((Some(dx), Some(d_weights), Some(Tensor::from_vec(d_rest, rest.shape(), device)?)))
    }
}
