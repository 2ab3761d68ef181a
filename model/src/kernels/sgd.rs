//! The steps of stochastic gradient descent, in place and in one pass over the values on CPUs.

use super::{slice, wide};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;

/// Values that one task updates.
const PIECE: usize = 1 << 15;

/// `to = keep · to + factor · from`, in place. `to` must own its values alone.
pub(crate) fn blend(to: &Tensor, keep: f64, from: &Tensor, factor: f64) -> Result<()> {
    to.inplace_op2(from, &Blend { keep: keep as f32, factor: factor as f32 })
}

/// `variable += factor · step` on any device.
pub(crate) fn add_scaled(variable: &Var, step: &Tensor, factor: f64) -> Result<()> {
    if variable.device().is_cpu() {
        return blend(variable.as_tensor(), 1.0, &step.contiguous()?, factor);
    }
    variable.set(&(variable.as_detached_tensor() + (step * factor)?)?)
}

struct Blend {
    keep: f32,
    factor: f32,
}

impl InplaceOp2 for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout, from: &CpuStorage, from_layout: &Layout) -> Result<()> {
        let from = slice(from, from_layout)?;
        let (Some((start, end)), CpuStorage::F32(to)) = (layout.contiguous_offsets(), to) else {
            candle_core::bail!("a variable is not contiguous f32")
        };
        if end - start != from.len() {
            candle_core::bail!("a step of {} values for a variable of {}", from.len(), end - start)
        }
        to[start..end].par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| {
            wide(|| {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *to * self.keep + from * self.factor;
                }
            });
        });
        Ok(())
    }
}
