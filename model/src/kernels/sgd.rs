//! The steps of stochastic gradient descent, in place and in one pass over the values on CPUs.

use super::op;
use super::with_avx2;
use candle_core::{Result, Tensor, Var};
use rayon::prelude::*;

/// Values that one task updates.
const PIECE: usize = 1 << 15;

/// `variable += factor · step` on any device.
pub fn add_scaled(variable: &Var, step: &Tensor, factor: f64) -> Result<()> {
    if variable.device().is_cpu() {
        return op::change_by(variable, step, |to, step| add_scaled_values(to, step, factor as f32));
    }
    variable.set(&(variable.as_detached_tensor() + (step * factor)?)?)
}

/// `gradient + factor · from`. On CPUs in the gradient's own memory, so no other tensor may share it.
pub(crate) fn plus(gradient: Tensor, from: &Tensor, factor: f64) -> Result<Tensor> {
    if !gradient.device().is_cpu() {
        return gradient + (from * factor)?;
    }
    let gradient = gradient.contiguous()?;
    op::change_by(&gradient, from, |to, from| add_scaled_values(to, from, factor as f32))?;
    Ok(gradient)
}

/// `factor · gradient`. On CPUs in the gradient's own memory, so no other tensor may share it.
pub(crate) fn times(gradient: Tensor, factor: f64) -> Result<Tensor> {
    if !gradient.device().is_cpu() {
        return gradient * factor;
    }
    let gradient = gradient.contiguous()?;
    op::change(&gradient, |to| multiply(to, factor as f32))?;
    Ok(gradient)
}

/// The sum of the squares, added in f64, piece by piece in a fixed order.
pub(crate) fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    if !gradient.device().is_cpu() {
        return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    op::read(gradient, |values| {
        let squares = |piece: &[f32]| piece.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let pieces: Vec<f64> = values.par_chunks(PIECE).map(squares).collect();
        pieces.iter().sum()
    })
}

fn add_scaled_values(to: &mut [f32], from: &[f32], factor: f32) {
    to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| {
        with_avx2(|| to.iter_mut().zip(from).for_each(|(to, from)| *to += from * factor));
    });
}

fn multiply(values: &mut [f32], factor: f32) {
    values.par_chunks_mut(PIECE).for_each(|values| {
        with_avx2(|| values.iter_mut().for_each(|value| *value *= factor));
    });
}
