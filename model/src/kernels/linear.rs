//! Fully connected layers with bias and rectifier, as one operation.
//!
//! Each of the three products reads the weight, by far its largest operand, once and in the order in which it lies.

use super::elementwise::{add_rows, relu, relu_backward};
use super::matrix::{Matrix, product, transpose};
use super::op::{self, Args, Forward, Gradient, Kernel3, Output, View, weight_gradient};
use super::{reference, scratch};
use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows or columns of the weight that one task works on.
const TILE: usize = 64;

/// The rows of `x`, `[n, in]`, times `weight`, `[in, out]`, plus `bias`, `[out]`, then rectified if `relu`.
///
/// The gradient with respect to `x` is computed if `input_gradient`; the first layer needs none. On CPUs the backward
/// pass writes the weight's gradient over `weight_grad`, if that is given, instead of handing it to candle.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    relu: bool,
    input_gradient: bool,
    weight_grad: Option<&Tensor>,
) -> Result<Tensor> {
    if x.device().is_cpu() {
        let kernel = Linear { relu, input_gradient, weight_grad: weight_grad.cloned() };
        return op::apply3(kernel, Args { x, weight, affine: bias });
    }
    reference::linear(x, weight, bias, relu)
}

struct Linear {
    relu: bool,
    input_gradient: bool,
    weight_grad: Option<Tensor>,
}

impl Kernel3 for Linear {
    const NAME: &'static str = "linear";
    type Saved = ();

    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<()>> {
        let sizes = Sizes::new(args.x.shape, args.weight.shape)?;
        if args.affine.shape.dims1()? != sizes.out {
            candle_core::bail!("a bias of {:?} for {} outputs", args.affine.shape, sizes.out)
        }
        let y = sizes.forward(args.map(|arg| arg.values), self.relu);
        Ok(Forward { y, shape: (sizes.n, sizes.out).into(), saved: () })
    }

    fn backward(&self, args: Args<View<'_>>, _saved: &(), out: Output<'_>) -> Result<Args<Gradient>> {
        let sizes = Sizes::new(args.x.shape, args.weight.shape)?;
        let (x, weight) = (args.x.values, args.weight.values);
        scratch::with([sizes.n * sizes.out], |[grad]| {
            if self.relu {
                relu_backward(out, grad);
            } else {
                grad.copy_from_slice(out.grad);
            }
            let grad = &*grad;
            let dw =
                weight_gradient(self.weight_grad.as_ref(), args.weight.shape, |dw| sizes.weight_gradient(x, grad, dw))?;
            let dx = self.input_gradient.then(|| sizes.input_gradient(weight, grad));
            let mut db = vec![0f32; sizes.out];
            add_rows(&mut db, grad);
            Ok(Args { x: dx, weight: dw, affine: Some(db) })
        })
    }
}

/// The sizes of one batch: images, and values of each before and after the layer.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    n: usize,
    inputs: usize,
    out: usize,
}

impl Sizes {
    fn new(x: &Shape, weight: &Shape) -> Result<Self> {
        let ((n, inputs), (rows, out)) = (x.dims2()?, weight.dims2()?);
        if rows != inputs {
            candle_core::bail!("a linear layer {weight:?} can't take {x:?}")
        }
        Ok(Self { n, inputs, out })
    }

    fn forward(&self, args: Args<&[f32]>, rectify: bool) -> Vec<f32> {
        let (Self { n, inputs, out }, Args { x, weight, affine: bias }) = (*self, args);
        let mut y = vec![0f32; n * out];
        // A task computes some columns of the result, which don't lie together in it: they are copied to their places
        // afterwards.
        scratch::with([n * out], |[tiles]| {
            tiles.par_chunks_mut(n * TILE).enumerate().for_each(|(i, tile)| {
                let width = tile.len() / n;
                // tile: [n, width] = x: [n, in] x columns of weight: [in, width]
                let left = Matrix::columns(&weight[i * TILE..], out);
                product([width, n, inputs], left, Matrix::columns(x, inputs), tile, width, false);
            });
            for (i, tile) in tiles.chunks(n * TILE).enumerate() {
                let width = tile.len() / n;
                for (row, values) in tile.chunks_exact(width).enumerate() {
                    let start = row * out + i * TILE;
                    for ((y, value), bias) in y[start..start + width].iter_mut().zip(values).zip(&bias[i * TILE..]) {
                        let sum = value + bias;
                        *y = if rectify { relu(sum) } else { sum };
                    }
                }
            }
        });
        y
    }

    /// Writes the weight's gradient, `[in, out]`, given that of the sums before the rectifier.
    fn weight_gradient(&self, x: &[f32], grad: &[f32], dw: &mut [f32]) {
        let Self { n, inputs, out } = *self;
        dw.par_chunks_mut(TILE * out).enumerate().for_each(|(i, dw)| {
            // rows of dw: [height, out] = columns of x, transposed: [height, n] x grad: [n, out]
            let right = Matrix::rows(&x[i * TILE..], inputs);
            product([out, dw.len() / out, n], Matrix::columns(grad, out), right, dw, out, false);
        });
    }

    /// The input's gradient, `[n, in]`, given the same.
    fn input_gradient(&self, weight: &[f32], grad: &[f32]) -> Vec<f32> {
        let Self { n, inputs, out } = *self;
        let mut dx = vec![0f32; n * inputs];
        scratch::with([inputs * n], |[columns]| {
            columns.par_chunks_mut(TILE * n).zip(weight.par_chunks(TILE * out)).for_each(|(columns, weight)| {
                let height = columns.len() / n;
                // columns of dx, transposed: [height, n] = rows of weight: [height, out] x grad^T: [out, n]
                product([n, height, out], Matrix::rows(grad, out), Matrix::columns(weight, out), columns, n, false);
            });
            transpose(columns, n, &mut dx);
        });
        dx
    }
}
