//! Group normalisation (Wu and He 2018, section 3), with the rectifier that usually follows.
//!
//! Federated nets use it in place of batch normalisation, whose running statistics a plain average would mix.

use super::{images_per_block, slice, wide, with_values};
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
    composed(x, scale, shift, groups, relu)
}

/// The same, composed of candle's operations.
pub(super) fn composed(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
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

/// Mean and inverse deviation of an image's groups, repeated for each of their channels: loops over channels are the ones
/// that a CPU does several at a time.
struct Statistics {
    means: Vec<f32>,
    inverses: Vec<f32>,
}

impl Statistics {
    fn new(image: &[f32], channels: usize, groups: usize) -> Self {
        let count = (image.len() / groups) as f64;
        let mut sums = vec![0f64; channels];
        wide(|| add_rows(image, &mut sums));
        let means: Vec<f32> = over_groups(&sums, groups).map(|sum| (sum / count) as f32).collect();
        sums.fill(0.0);
        wide(|| add_squares(image, &means, &mut sums));
        let inverse = |sum: f64| (1.0 / (sum / count + EPSILON).sqrt()) as f32;
        let inverses = over_groups(&sums, groups).map(inverse).collect();
        Self { means, inverses }
    }
}

/// The sum over each channel's group, for each channel.
fn over_groups(sums: &[f64], groups: usize) -> impl Iterator<Item = f64> + '_ {
    let per_group = sums.len() / groups;
    sums.chunks_exact(per_group).flat_map(move |group| std::iter::repeat_n(group.iter().sum(), per_group))
}

#[inline(always)]
fn add_rows(image: &[f32], sums: &mut [f64]) {
    for pixel in image.chunks_exact(sums.len()) {
        for (sum, &x) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(x);
        }
    }
}

#[inline(always)]
fn add_squares(image: &[f32], means: &[f32], sums: &mut [f64]) {
    for pixel in image.chunks_exact(sums.len()) {
        for ((sum, &x), &mean) in sums.iter_mut().zip(pixel).zip(means) {
            *sum += f64::from((x - mean) * (x - mean));
        }
    }
}

/// `y = x · factor + addend`, rectified or not, channel by channel.
#[inline(always)]
fn apply(x: &[f32], factors: &[f32], addends: &[f32], relu: bool, out: &mut [f32]) {
    let channels = factors.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        for (((x, out), factor), addend) in x.iter().zip(out).zip(factors).zip(addends) {
            let y = x * factor + addend;
            // Written so that NaN stays NaN.
            *out = if relu && y <= 0.0 { 0.0 } else { y };
        }
    }
}

/// What the loops of the backward pass read, besides the image's statistics.
struct Passed<'a> {
    x: &'a [f32],
    y: &'a [f32],
    grad: &'a [f32],
    relu: bool,
}

impl Passed<'_> {
    /// The gradient that the rectifier lets pass.
    #[inline(always)]
    fn grad(&self, i: usize) -> f32 {
        if self.relu && self.y[i] <= 0.0 { 0.0 } else { self.grad[i] }
    }

    /// Adds to each channel's sums of the gradient and of its product with the normalised value.
    #[inline(always)]
    fn add(&self, statistics: &Statistics, plain: &mut [f64], products: &mut [f64]) {
        let channels = plain.len();
        let (means, inverses) = (&statistics.means[..channels], &statistics.inverses[..channels]);
        let products = &mut products[..channels];
        for start in (0..self.x.len()).step_by(channels) {
            for c in 0..channels {
                let grad = self.grad(start + c);
                let normal = (self.x[start + c] - means[c]) * inverses[c];
                plain[c] += f64::from(grad);
                products[c] += f64::from(grad * normal);
            }
        }
    }

    /// With x̂ = (x - mean)/deviation and g = grad·scale: dx = (g - mean(g) - x̂·mean(g·x̂)) / deviation.
    #[inline(always)]
    fn input(&self, statistics: &Statistics, scale: &[f32], plain: &[f32], products: &[f32], dx: &mut [f32]) {
        let channels = scale.len();
        let (means, inverses) = (&statistics.means[..channels], &statistics.inverses[..channels]);
        let (plain, products) = (&plain[..channels], &products[..channels]);
        for (row, dx) in dx.chunks_exact_mut(channels).enumerate() {
            for (c, dx) in dx.iter_mut().enumerate() {
                let i = row * channels + c;
                let normal = (self.x[i] - means[c]) * inverses[c];
                *dx = (self.grad(i) * scale[c] - plain[c] - normal * products[c]) * inverses[c];
            }
        }
    }
}

impl GroupNorm {
    fn forward(&self, x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32]) {
        let statistics = Statistics::new(x, scale.len(), self.groups);
        let factors: Vec<f32> =
            scale.iter().zip(&statistics.inverses).map(|(scale, inverse)| scale * inverse).collect();
        let offsets = factors.iter().zip(&statistics.means).map(|(factor, mean)| factor * mean);
        let addends: Vec<f32> = shift.iter().zip(offsets).map(|(shift, offset)| shift - offset).collect();
        wide(|| apply(x, &factors, &addends, self.relu, out));
    }

    /// Adds to `sums`, the gradients of scale and shift, and writes that of the image.
    fn backward(&self, [x, y, grad]: [&[f32]; 3], scale: &[f32], dx: &mut [f32], sums: &mut [f64]) {
        let channels = scale.len();
        let count = (x.len() / self.groups) as f64;
        let statistics = Statistics::new(x, channels, self.groups);
        let passed = Passed { x, y, grad, relu: self.relu };
        let (mut plain, mut products) = (vec![0f64; channels], vec![0f64; channels]);
        wide(|| passed.add(&statistics, &mut plain, &mut products));
        sums.iter_mut().zip(products.iter().chain(&plain)).for_each(|(sum, value)| *sum += value);
        let means = |mut sums: Vec<f64>| -> Vec<f32> {
            sums.iter_mut().zip(scale).for_each(|(sum, &scale)| *sum *= f64::from(scale));
            over_groups(&sums, self.groups).map(|sum| (sum / count) as f32).collect()
        };
        let (plain, products) = (means(plain), means(products));
        wide(|| passed.input(&statistics, scale, &plain, &products, dx));
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
