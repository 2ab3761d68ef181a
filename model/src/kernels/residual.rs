//! The basic block of a residual net (He et al. 2016, section 3.3) with group normalisation, as one operation:
//! between its convolutions a block of images stays in the cache, and no tensor of candle's has to be made and added
//! up.

use super::blocks::{add_blocks, images_per_block, optional};
use super::conv::{ConvNorm, ConvNormSaved, ConvShape};
use super::elementwise::{add, add_relu, relu_backward};
use super::matrix::transpose;
use super::norm::Norm;
use super::op::{self, Args, Forward, Gradient, Kernel3, Output, View};
use super::scratch::{self, Recycled};
use super::unfold::Geometry;
use super::{reference, with_avx2};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// The sizes of a residual block that its tensors don't tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidualLayer {
    /// Output channels.
    pub out: usize,
    /// Stride of the first convolution and of the shortcut.
    pub stride: usize,
    /// Groups of channels of the norms.
    pub groups: usize,
    /// Whether the shortcut is a 1x1 convolution with a norm; else it is the input itself.
    pub shortcut: bool,
}

/// `x`: `[n, h, w, in]`. `weights`: those of the two 3x3 convolutions and of the shortcut, each `[kernel, kernel, in,
/// out]`, one after the other. `affine`: for each of them bias, scale and shift, `[out]` each.
pub fn residual(x: &Tensor, weights: &Tensor, affine: &Tensor, layer: ResidualLayer) -> Result<Tensor> {
    if x.device().is_cpu() {
        return op::apply3(Residual { layer }, Args { x, weight: weights, affine });
    }
    reference::residual(x, weights, affine, layer)
}

struct Residual {
    layer: ResidualLayer,
}

/// Something of each convolution of a residual block.
#[derive(Debug, Clone, Copy)]
struct PerConv<T> {
    first: T,
    second: T,
    /// None where the shortcut is the input itself.
    shortcut: Option<T>,
}

impl<T> PerConv<T> {
    fn as_ref(&self) -> PerConv<&T> {
        PerConv { first: &self.first, second: &self.second, shortcut: self.shortcut.as_ref() }
    }

    fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerConv<U> {
        PerConv { first: f(self.first), second: f(self.second), shortcut: self.shortcut.map(f) }
    }

    fn zip<U>(self, other: PerConv<U>) -> PerConv<(T, U)> {
        PerConv {
            first: (self.first, other.first),
            second: (self.second, other.second),
            shortcut: self.shortcut.zip(other.shortcut),
        }
    }

    fn each(self) -> impl Iterator<Item = T> {
        [self.first, self.second].into_iter().chain(self.shortcut)
    }
}

impl PerConv<ConvNorm> {
    /// Cuts values that lie one convolution after the other, each with as many as `len` says.
    fn cut<'a>(&self, values: &'a [f32], len: impl Fn(&ConvNorm) -> usize) -> PerConv<&'a [f32]> {
        let (first, others) = values.split_at(len(&self.first));
        let (second, others) = others.split_at(len(&self.second));
        PerConv { first, second, shortcut: self.shortcut.map(|_| others) }
    }

    /// Cuts values that will be written, likewise.
    fn cut_mut<'a>(&self, values: &'a mut [f32], len: impl Fn(&ConvNorm) -> usize) -> PerConv<&'a mut [f32]> {
        let (first, others) = values.split_at_mut(len(&self.first));
        let (second, others) = others.split_at_mut(len(&self.second));
        PerConv { first, second, shortcut: self.shortcut.map(|_| others) }
    }

    /// The convolutions with their parameters.
    fn layers<'a>(&self, weights: &'a [f32], affine: &'a [f32]) -> PerConv<Layer<'a>> {
        let parameters = self.cut(weights, ConvNorm::weight_len).zip(self.cut(affine, ConvNorm::affine_len));
        self.as_ref().zip(parameters).map(|(conv_norm, (weight, affine))| Layer {
            conv_norm: *conv_norm,
            weight,
            affine,
        })
    }
}

/// A convolution and its norm with their parameters; for the backward pass the weight is transposed.
#[derive(Debug, Clone, Copy)]
struct Layer<'a> {
    conv_norm: ConvNorm,
    weight: &'a [f32],
    affine: &'a [f32],
}

impl Layer<'_> {
    fn forward(&self, x: &[f32], saved: ConvNormSaved<&mut [f32]>, y: &mut [f32]) {
        self.conv_norm.forward(Args { x, weight: self.weight, affine: self.affine }, saved, y);
    }

    fn backward(&self, x: &[f32], saved: ConvNormSaved<&[f32]>, out: Output<'_>, grads: Args<&mut [f32]>) {
        self.conv_norm.backward(Args { x, weight: self.weight, affine: self.affine }, saved, out, grads);
    }
}

/// The sizes of a residual block for one batch.
struct ResidualShape {
    images: usize,
    convs: PerConv<ConvNorm>,
}

impl ResidualShape {
    fn new(layer: &ResidualLayer, args: &Args<View<'_>>) -> Result<Self> {
        let ResidualLayer { out, stride, groups, shortcut } = *layer;
        let (images, height, width, inputs) = args.x.shape.dims4()?;
        let (weights, affine) = (args.weight.shape.dims1()?, args.affine.shape.dims1()?);
        let x = args.x.shape;
        if height == 0 || width == 0 || out == 0 || stride == 0 || groups == 0 || out % groups != 0 {
            candle_core::bail!("a residual block of {x:?} to {out} channels in {groups} groups is impossible")
        }
        let norm = |relu: bool| Norm { channels: out, groups, relu };
        let conv = |geometry: Geometry, relu: bool| ConvNorm { conv: ConvShape { images, geometry }, norm: norm(relu) };
        let first = Geometry { height, width, channels: inputs, out, kernel: 3, stride, pad: 1 };
        let [hidden_height, hidden_width] = [first.out_height(), first.out_width()];
        let second = Geometry { height: hidden_height, width: hidden_width, channels: out, stride: 1, ..first };
        let convs = PerConv {
            first: conv(first, true),
            second: conv(second, false),
            shortcut: shortcut.then(|| conv(Geometry { kernel: 1, pad: 0, ..first }, false)),
        };
        let sum = |len: fn(&ConvNorm) -> usize| convs.as_ref().each().map(len).sum::<usize>();
        let same = shortcut || (inputs == out && stride == 1);
        if sum(ConvNorm::weight_len) != weights || sum(ConvNorm::affine_len) != affine || !same {
            candle_core::bail!("{weights} weights and {affine} other parameters for a residual block of {x:?}")
        }
        Ok(Self { images, convs })
    }

    /// Values of an image's output, and of what goes into the second convolution.
    fn out_len(&self) -> usize {
        self.convs.first.conv.conv_out_len()
    }
}

/// What the forward pass leaves for the backward pass.
struct Saved {
    convs: PerConv<ConvNormSaved<Recycled<f32>>>,
    /// What goes into the second convolution.
    hidden: Recycled<f32>,
}

impl Saved {
    fn take(shape: &ResidualShape) -> Self {
        Self {
            convs: shape.convs.map(|conv| conv.take(shape.images)),
            hidden: Recycled::take(shape.images * shape.out_len()),
        }
    }

    /// What each block of so many images writes.
    fn blocks_mut(
        &mut self,
        shape: &ResidualShape,
        block: usize,
    ) -> impl IndexedParallelIterator<Item = SavedBlock<'_>> {
        let PerConv { first, second, shortcut } = &mut self.convs;
        let (of_first, of_second) =
            (first.blocks_mut(&shape.convs.first, block), second.blocks_mut(&shape.convs.second, block));
        let of_shortcut = shortcut.as_mut().zip(shape.convs.shortcut.as_ref());
        let of_shortcut = of_shortcut.map(|(saved, conv)| saved.blocks_mut(conv, block));
        let hidden = self.hidden.par_chunks_mut(block * shape.out_len());
        let convs = of_first.zip(of_second).zip(optional(of_shortcut, shape.images.div_ceil(block)));
        let convs = convs.map(|((first, second), shortcut)| PerConv { first, second, shortcut });
        convs.zip(hidden).map(|(convs, hidden)| SavedBlock { convs, hidden })
    }
}

/// What is saved of a block of images, while it is written.
struct SavedBlock<'a> {
    convs: PerConv<ConvNormSaved<&'a mut [f32]>>,
    hidden: &'a mut [f32],
}

/// A block of images in the backward pass.
struct BackwardBlock<'a> {
    x: &'a [f32],
    hidden: &'a [f32],
    saved: PerConv<ConvNormSaved<&'a [f32]>>,
    out: Output<'a>,
}

/// Where the gradients of a block of images go.
struct BlockGrads<'a> {
    dx: &'a mut [f32],
    /// Of each convolution's weight and affine parameters.
    parameters: PerConv<(&'a mut [f32], &'a mut [f32])>,
}

impl Kernel3 for Residual {
    const NAME: &'static str = "residual";
    type Saved = Saved;

    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<Saved>> {
        let shape = ResidualShape::new(&self.layer, &args)?;
        let Args { x, weight: weights, affine } = args.map(|arg| arg.values);
        let (images, block, len) = (shape.images, images_per_block(shape.images), shape.out_len());
        let image_len = x.len() / images.max(1);
        let layers = shape.convs.layers(weights, affine);
        let mut saved = Saved::take(&shape);
        let mut y = vec![0f32; images * len];
        let outputs = y.par_chunks_mut(block * len).zip(saved.blocks_mut(&shape, block));
        x.par_chunks(block * image_len).zip(outputs).for_each(|(x, (y, saved))| forward_block(&layers, x, saved, y));
        let [height, width] = shape.convs.first.conv.out_sides();
        Ok(Forward { y, shape: (images, height, width, self.layer.out).into(), saved })
    }

    fn backward(&self, args: Args<View<'_>>, saved: &Saved, out: Output<'_>) -> Result<Args<Gradient>> {
        let shape = ResidualShape::new(&self.layer, &args)?;
        let Args { x, weight: weights, affine } = args.map(|arg| arg.values);
        let (convs, block, len) = (&shape.convs, images_per_block(shape.images), shape.out_len());
        let (blocks, image_len) = (shape.images.div_ceil(block), x.len() / shape.images.max(1));
        let mut dx = vec![0f32; x.len()];
        let lens = [blocks * weights.len(), blocks * affine.len(), weights.len()];
        let [d_weights, d_affine] = scratch::with(lens, |[d_weights, d_affine, transposed]| {
            d_affine.fill(0.0);
            let pairs = convs.cut(weights, ConvNorm::weight_len).zip(convs.cut_mut(transposed, ConvNorm::weight_len));
            for (weight, transposed) in pairs.each() {
                transpose(weight, self.layer.out, transposed);
            }
            let layers = convs.layers(transposed, affine);
            let inputs = x.par_chunks(block * image_len).zip(saved.hidden.par_chunks(block * len));
            let outputs = out.y.par_chunks(block * len).zip(out.grad.par_chunks(block * len));
            let sums = d_weights.par_chunks_mut(weights.len()).zip(d_affine.par_chunks_mut(affine.len()));
            let gradients = dx.par_chunks_mut(block * image_len).zip(sums);
            let work = inputs.zip(outputs).zip(gradients).enumerate();
            work.for_each(|(number, (((x, hidden), (y, grad)), (dx, (d_weights, d_affine))))| {
                let (start, count) = (number * block, x.len() / image_len);
                let saved = saved.convs.as_ref().zip(convs.as_ref());
                let saved = saved.map(|(saved, conv)| saved.images(conv, start, count));
                let d_weights = convs.cut_mut(d_weights, ConvNorm::weight_len);
                let parameters = d_weights.zip(convs.cut_mut(d_affine, ConvNorm::affine_len));
                let block = BackwardBlock { x, hidden, saved, out: Output { y, grad } };
                backward_block(&layers, block, BlockGrads { dx, parameters });
            });
            [(d_weights, weights.len()), (d_affine, affine.len())].map(|(sums, len)| {
                let mut totals = vec![0f32; len];
                add_blocks(sums, &mut totals);
                Some(totals)
            })
        });
        Ok(Args { x: Some(dx), weight: d_weights, affine: d_affine })
    }
}

fn forward_block(layers: &PerConv<Layer<'_>>, x: &[f32], saved: SavedBlock<'_>, y: &mut [f32]) {
    let SavedBlock { convs, hidden } = saved;
    layers.first.forward(x, convs.first, hidden);
    layers.second.forward(hidden, convs.second, y);
    match layers.shortcut.zip(convs.shortcut) {
        None => with_avx2(|| add_relu(y, x)),
        Some((shortcut, saved)) => scratch::with([y.len()], |[other]| {
            shortcut.forward(x, saved, other);
            with_avx2(|| add_relu(y, other));
        }),
    }
}

fn backward_block(layers: &PerConv<Layer<'_>>, block: BackwardBlock<'_>, grads: BlockGrads<'_>) {
    let BackwardBlock { x, hidden, saved, out } = block;
    let BlockGrads { dx, parameters } = grads;
    let shortcut_len = if layers.shortcut.is_some() { dx.len() } else { 0 };
    scratch::with([out.grad.len(), out.grad.len(), shortcut_len], |[passed, d_hidden, other]| {
        with_avx2(|| relu_backward(out, passed));
        let passed = &*passed;
        // The second norm and the shortcut's are not rectified themselves, so their outputs don't matter.
        let after_norm = |conv_out| Output { y: conv_out, grad: passed };
        let (weight, affine) = parameters.second;
        layers.second.backward(
            hidden,
            saved.second,
            after_norm(saved.second.conv_out),
            Args { x: &mut *d_hidden, weight, affine },
        );
        let (weight, affine) = parameters.first;
        let of_hidden = Output { y: hidden, grad: d_hidden };
        layers.first.backward(x, saved.first, of_hidden, Args { x: &mut *dx, weight, affine });
        match layers.shortcut.zip(saved.shortcut).zip(parameters.shortcut) {
            None => with_avx2(|| add(dx, passed)),
            Some(((shortcut, saved), (weight, affine))) => {
                shortcut.backward(x, saved, after_norm(saved.conv_out), Args { x: &mut *other, weight, affine });
                with_avx2(|| add(dx, other));
            }
        }
    });
}
