//! The steps of stochastic gradient descent, in place and in one pass over the values on CPUs.

use super::{slice, slice_mut, wide, with_values};
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;

/// Values that one task updates.
const PIECE: usize = 1 << 15;

/// `variable += factor · step` on any device.
pub fn add_scaled(variable: &Var, step: &Tensor, factor: f64) -> Result<()> {
    if variable.device().is_cpu() {
        return variable.inplace_op2(&step.contiguous()?, &AddScaled { factor: factor as f32 });
    }
    variable.set(&(variable.as_detached_tensor() + (step * factor)?)?)
}

/// `gradient + factor · from`. On CPUs in the gradient's own memory, which nobody else may hold.
pub(crate) fn plus(gradient: Tensor, from: &Tensor, factor: f64) -> Result<Tensor> {
    if !gradient.device().is_cpu() {
        return gradient + (from * factor)?;
    }
    let gradient = gradient.contiguous()?;
    gradient.inplace_op2(&from.contiguous()?, &AddScaled { factor: factor as f32 })?;
    Ok(gradient)
}

/// `factor · gradient`, likewise.
pub(crate) fn times(gradient: Tensor, factor: f64) -> Result<Tensor> {
    if !gradient.device().is_cpu() {
        return gradient * factor;
    }
    let gradient = gradient.contiguous()?;
    gradient.inplace_op1(&Times { factor: factor as f32 })?;
    Ok(gradient)
}

/// The sum of the squares, added in f64, piece by piece in a fixed order.
pub(crate) fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    if !gradient.device().is_cpu() {
        return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    with_values(gradient, |values| {
        let squares = |piece: &[f32]| piece.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let pieces: Vec<f64> = values.par_chunks(PIECE).map(squares).collect();
        Ok(pieces.iter().sum())
    })
}

struct AddScaled {
    factor: f32,
}

impl InplaceOp2 for AddScaled {
    fn name(&self) -> &'static str {
        "add-scaled"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        let from = slice(from, from_layout)?;
        let to = slice_mut(to, layout)?;
        if to.len() != from.len() {
            candle_core::bail!("a step of {} values for a variable of {}", from.len(), to.len())
        }
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| {
            wide(|| {
                for (to, from) in to.iter_mut().zip(from) {
                    *to += from * self.factor;
                }
            });
        });
        Ok(())
    }
}

struct Times {
    factor: f32,
}

impl InplaceOp1 for Times {
    fn name(&self) -> &'static str {
        "times"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout) -> Result<()> {
        slice_mut(to, layout)?.par_chunks_mut(PIECE).for_each(|to| {
            wide(|| to.iter_mut().for_each(|to| *to *= self.factor));
        });
        Ok(())
    }
}
