//! Fully connected layers with bias and rectifier, as one operation.
//!
//! Each of the three products reads the weight, by far its largest operand, once and in the order in which it lies.

use super::matrix::{Matrix, product, transpose};
use super::{scratch, slice, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Module, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows or columns of the weight that one task works on.
const TILE: usize = 64;

/// `x`: `[n, in]`, `weight`: `[in, out]`, `bias`: `[out]`. The gradient with respect to `x` is computed if
/// `input_gradient`; the first layer needs none. On CPUs the backward pass writes the weight's gradient over `into`, if that
/// is given, instead of handing it to candle.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    relu: bool,
    input_gradient: bool,
    into: Option<&Tensor>,
) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = Linear { relu, input_gradient, into: into.cloned() };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    composed(x, weight, bias, relu)
}

/// The same with candle's own layer.
pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    let y = candle_nn::Linear::new(weight.t()?, Some(bias.clone())).forward(x)?;
    if relu { y.relu() } else { Ok(y) }
}

struct Linear {
    relu: bool,
    input_gradient: bool,
    into: Option<Tensor>,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (n, inputs) = l1.shape().dims2()?;
        let (rows, out) = l2.shape().dims2()?;
        if rows != inputs || l3.shape().dims1()? != out {
            candle_core::bail!("a linear layer {:?} can't take {:?}", l2.shape(), l1.shape())
        }
        let y = self.forward(slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?, [n, inputs, out]);
        Ok((CpuStorage::F32(y), (n, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, inputs) = x.dims2()?;
        let sizes @ [_, _, out] = [n, inputs, weight.dim(1)?];
        let (dw, dx, db) = scratch::with([n * out], |[passed]| {
            with_values(grad, |grad| {
                with_values(res, |res| {
                    self.pass(grad, res, passed);
                    Ok(())
                })
            })?;
            let passed = &*passed;
            let dw = with_values(x, |x| {
                super::weight_gradient(self.into.as_ref(), weight, |dw| weight_gradient(x, passed, sizes, dw))
            })?;
            let dx = match self.input_gradient {
                true => Some(with_values(weight, |weight| Ok(input_gradient(weight, passed, sizes)))?),
                false => None,
            };
            let mut db = vec![0f32; out];
            for row in passed.chunks_exact(out) {
                db.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            Result::Ok((dw, dx, db))
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?;
        Ok((dx, dw, Some(Tensor::from_vec(db, bias.shape(), x.device())?)))
    }
}

impl Linear {
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], [n, inputs, out]: [usize; 3]) -> Vec<f32> {
        let mut y = vec![0f32; n * out];
        // Each task has columns of the result, which are no slice of it: they are put together afterwards.
        scratch::with([n * out], |[tiles]| {
            tiles.par_chunks_mut(n * TILE).enumerate().for_each(|(i, tile)| {
                let width = tile.len() / n;
                let left = Matrix::columns(&weight[i * TILE..], out);
                product([width, n, inputs], left, Matrix::columns(x, inputs), tile, width, false);
            });
            for (i, tile) in tiles.chunks(n * TILE).enumerate() {
                let width = tile.len() / n;
                for (row, values) in tile.chunks_exact(width).enumerate() {
                    let start = row * out + i * TILE;
                    for ((y, value), bias) in y[start..start + width].iter_mut().zip(values).zip(&bias[i * TILE..]) {
                        let sum = value + bias;
                        // Written so that NaN stays NaN.
                        *y = if self.relu && sum <= 0.0 { 0.0 } else { sum };
                    }
                }
            }
        });
        y
    }

    /// Writes the gradient that the rectifier lets pass.
    fn pass(&self, grad: &[f32], res: &[f32], passed: &mut [f32]) {
        for (passed, (&grad, &res)) in passed.iter_mut().zip(grad.iter().zip(res)) {
            *passed = if self.relu && res <= 0.0 { 0.0 } else { grad };
        }
    }
}

/// `x^T · grad`, `[in, out]`.
fn weight_gradient(x: &[f32], grad: &[f32], [n, inputs, out]: [usize; 3], dw: &mut [f32]) {
    dw.par_chunks_mut(TILE * out).enumerate().for_each(|(i, dw)| {
        let right = Matrix::rows(&x[i * TILE..], inputs);
        product([out, dw.len() / out, n], Matrix::columns(grad, out), right, dw, out, false);
    });
}

/// `grad · weight^T`, `[n, in]`.
fn input_gradient(weight: &[f32], grad: &[f32], [n, inputs, out]: [usize; 3]) -> Vec<f32> {
    let mut dx = vec![0f32; n * inputs];
    scratch::with([inputs * n], |[columns]| {
        columns.par_chunks_mut(TILE * n).zip(weight.par_chunks(TILE * out)).for_each(|(columns, weight)| {
            let height = columns.len() / n;
            product([n, height, out], Matrix::rows(grad, out), Matrix::columns(weight, out), columns, n, false);
        });
        transpose(columns, n, &mut dx);
    });
    dx
}
