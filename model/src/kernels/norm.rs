//! Group normalisation (Wu and He 2018, section 3), with the rectifier that usually follows.
//!
//! Federated nets use it in place of batch normalisation, whose running statistics a plain average would mix.

use super::{images_per_block, slice, with_values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Added to the variance; the paper's value.
const EPSILON: f64 = 1e-5;

/// `x`: `[n, h, w, c]`, `scale` and `shift`: `[c]`; mean and variance are taken over height, width and a group of
/// neighbouring channels.
pub(crate) fn group_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = GroupNorm { groups, relu };
        return x.contiguous()?.apply_op3(&scale.contiguous()?, &shift.contiguous()?, op);
    }
    let (n, h, w, c) = x.dims4()?;
    let grouped = x.reshape((n, h * w, groups, c / groups))?.transpose(1, 2)?.contiguous()?;
    let flat = grouped.reshape((n, groups, h * w * (c / groups)))?;
    let centred = flat.broadcast_sub(&flat.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    let normal = normal.reshape((n, groups, h * w, c / groups))?.transpose(1, 2)?.contiguous()?;
    let y = normal.reshape((n, h, w, c))?.broadcast_mul(scale)?.broadcast_add(shift)?;
    if relu { y.relu() } else { Ok(y) }
}

struct GroupNorm {
    groups: usize,
    relu: bool,
}

/// Mean and inverse deviation of each group of an image.
fn statistics(image: &[f32], channels: usize, groups: usize) -> Vec<(f32, f32)> {
    let per_group = channels / groups;
    let count = (image.len() / groups) as f64;
    let mut means = vec![0f64; groups];
    for pixel in image.chunks_exact(channels) {
        for (mean, values) in means.iter_mut().zip(pixel.chunks_exact(per_group)) {
            *mean += values.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
    }
    means.iter_mut().for_each(|mean| *mean /= count);
    let mut squares = vec![0f64; groups];
    for pixel in image.chunks_exact(channels) {
        for ((square, mean), values) in squares.iter_mut().zip(&means).zip(pixel.chunks_exact(per_group)) {
            *square += values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
        }
    }
    let inverse = |square: f64| (1.0 / (square / count + EPSILON).sqrt()) as f32;
    means.iter().zip(squares).map(|(&mean, square)| (mean as f32, inverse(square))).collect()
}

impl GroupNorm {
    fn forward(&self, x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32]) {
        let channels = scale.len();
        let per_group = channels / self.groups;
        let statistics = statistics(x, channels, self.groups);
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (c, (x, out)) in x.iter().zip(out).enumerate() {
                let (mean, inverse) = statistics[c / per_group];
                let y = (x - mean) * inverse * scale[c] + shift[c];
                // Written so that NaN stays NaN.
                *out = if self.relu && y <= 0.0 { 0.0 } else { y };
            }
        }
    }

    /// Adds to `sums`, the gradients of scale and shift, and writes that of the image.
    ///
    /// With x̂ = (x - mean)/deviation and g = grad·scale: dx = (g - mean(g) - x̂·mean(g·x̂)) / deviation.
    fn backward(&self, [x, y, grad]: [&[f32]; 3], scale: &[f32], dx: &mut [f32], sums: &mut [f64]) {
        let channels = scale.len();
        let per_group = channels / self.groups;
        let count = (x.len() / self.groups) as f64;
        let statistics = statistics(x, channels, self.groups);
        let passed = |grad: f32, y: f32| if self.relu && y <= 0.0 { 0.0 } else { grad };
        let mut means = vec![[0f64; 2]; self.groups];
        let (scale_sums, shift_sums) = sums.split_at_mut(channels);
        for ((x, y), grad) in x.chunks_exact(channels).zip(y.chunks_exact(channels)).zip(grad.chunks_exact(channels)) {
            for c in 0..channels {
                let (mean, inverse) = statistics[c / per_group];
                let normal = f64::from((x[c] - mean) * inverse);
                let grad = f64::from(passed(grad[c], y[c]));
                scale_sums[c] += grad * normal;
                shift_sums[c] += grad;
                means[c / per_group][0] += grad * f64::from(scale[c]);
                means[c / per_group][1] += grad * f64::from(scale[c]) * normal;
            }
        }
        for (i, dx) in dx.iter_mut().enumerate() {
            let c = i % channels;
            let (mean, inverse) = statistics[c / per_group];
            let [gradients, products] = means[c / per_group].map(|sum| (sum / count) as f32);
            let normal = (x[i] - mean) * inverse;
            *dx = (passed(grad[i], y[i]) * scale[c] - gradients - normal * products) * inverse;
        }
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
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
        let (x, scale, shift) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (n, h, w, c) = l1.shape().dims4()?;
        if scale.len() != c || shift.len() != c || self.groups == 0 || c % self.groups != 0 {
            candle_core::bail!(
                "{} groups, {} scales and {} shifts on {c} channels",
                self.groups,
                scale.len(),
                shift.len()
            )
        }
        let (len, block) = (h * w * c, images_per_block(n));
        let mut out = vec![0f32; x.len()];
        out.par_chunks_mut(block * len).zip(x.par_chunks(block * len)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(len).zip(x.chunks_exact(len)) {
                self.forward(x, scale, shift, out);
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, h, w, c) = x.dims4()?;
        let (len, block) = (h * w * c, images_per_block(n));
        let mut dx = vec![0f32; x.elem_count()];
        let mut sums = vec![0f64; n.div_ceil(block) * 2 * c];
        let mut run = |x: &[f32], y: &[f32], grad: &[f32], scale: &[f32]| {
            let inputs = x.par_chunks(block * len).zip(y.par_chunks(block * len)).zip(grad.par_chunks(block * len));
            let outputs = dx.par_chunks_mut(block * len).zip(sums.par_chunks_mut(2 * c));
            inputs.zip(outputs).for_each(|(((x, y), grad), (dx, sums))| {
                let images = x.chunks_exact(len).zip(y.chunks_exact(len)).zip(grad.chunks_exact(len));
                for (((x, y), grad), dx) in images.zip(dx.chunks_exact_mut(len)) {
                    self.backward([x, y, grad], scale, dx, sums);
                }
            });
            Ok(())
        };
        with_values(x, |x| {
            with_values(res, |y| with_values(grad, |grad| with_values(scale, |scale| run(x, y, grad, scale))))
        })?;
        let mut totals = vec![0f64; 2 * c];
        for block in sums.chunks_exact(2 * c) {
            totals.iter_mut().zip(block).for_each(|(total, sum)| *total += sum);
        }
        let tensor = |values: &[f64], like: &Tensor| {
            Tensor::from_vec(values.iter().map(|&x| x as f32).collect(), like.shape(), like.device())
        };
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(tensor(&totals[..c], scale)?), Some(tensor(&totals[c..], shift)?)))
    }
}
