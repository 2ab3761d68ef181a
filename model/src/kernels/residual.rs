//! Where a residual block's two ways meet: their sum, rectified, as one operation.

use super::{slice, wide, with_values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Values that one task works on.
const PIECE: usize = 1 << 14;

/// max(a + b, 0), of the same shape.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { a.contiguous()?.apply_op2(&b.contiguous()?, AddRelu) } else { composed(a, b) }
}

/// The same, composed of candle's operations.
pub(super) fn composed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a + b)?.relu()
}

struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add-relu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (slice(s1, l1)?, slice(s2, l2)?);
        if l1.shape() != l2.shape() {
            candle_core::bail!("a sum of {:?} and {:?}", l1.shape(), l2.shape())
        }
        let mut out = vec![0f32; a.len()];
        out.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE).zip(b.par_chunks(PIECE))).for_each(|(out, (a, b))| {
            wide(|| {
                for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
                    let sum = a + b;
                    // Written so that NaN stays NaN.
                    *out = if sum <= 0.0 { 0.0 } else { sum };
                }
            });
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, a: &Tensor, _b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut passed = vec![0f32; res.elem_count()];
        with_values(res, |res| {
            with_values(grad, |grad| {
                let inputs = res.par_chunks(PIECE).zip(grad.par_chunks(PIECE));
                passed.par_chunks_mut(PIECE).zip(inputs).for_each(|(passed, (res, grad))| {
                    wide(|| {
                        for (passed, (res, grad)) in passed.iter_mut().zip(res.iter().zip(grad)) {
                            *passed = if *res <= 0.0 { 0.0 } else { *grad };
                        }
                    });
                });
                Ok(())
            })
        })?;
        let passed = Tensor::from_vec(passed, a.shape(), a.device())?;
        Ok((Some(passed.clone()), Some(passed)))
    }
}
