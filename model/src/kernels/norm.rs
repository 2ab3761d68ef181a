//! Group normalisation (Wu and He 2018, section 3), with the rectifier that usually follows.
//!
//! Federated nets use it in place of batch normalisation, whose running statistics a plain average would mix.

use super::scratch::Kept;
use super::{channels_first, channels_last, images_per_block, slice, wide, with_values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Module, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Added to the variance; the paper's value.
const EPSILON: f64 = 1e-5;

/// `x`: `[n, h, w, c]`, `scale` and `shift`: `[c]`; mean and variance are taken over height, width and a group of
/// neighbouring channels.
pub fn group_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = GroupNorm { groups, relu, statistics: OnceLock::new() };
        return x.contiguous()?.apply_op3(&scale.contiguous()?, &shift.contiguous()?, op);
    }
    composed(x, scale, shift, groups, relu)
}

/// The same with candle's own layer.
pub(super) fn composed(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    let norm = candle_nn::GroupNorm::new(scale.clone(), shift.clone(), x.dim(D::Minus1)?, groups, EPSILON)?;
    let y = channels_last(&norm.forward(&channels_first(x)?)?)?;
    if relu { y.relu() } else { Ok(y) }
}

/// The normalisation of one image at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norm {
    pub(super) channels: usize,
    pub(super) groups: usize,
    pub(super) relu: bool,
}

/// Channels that are summed together.
const LANES: usize = 16;

/// Rows that are summed in f32 before the sum is added to a total in f64.
const ROWS: usize = 64;

/// What is summed over the rows of an image, channel by channel: `K` sums at a time.
trait Terms<const K: usize> {
    /// The terms of `L` neighbouring channels: `at` is the first one's place in the image, `channel` its number.
    fn at<const L: usize>(&self, at: usize, channel: usize) -> [[f32; L]; K];
}

/// Values one after the other, as an array that a CPU handles at once.
#[inline(always)]
fn load<const L: usize>(values: &[f32], at: usize) -> [f32; L] {
    values[at..].first_chunk().copied().unwrap_or([0.0; L])
}

/// The totals of `K` sums for each channel, one after the other. Their order depends on the sizes alone.
#[inline(always)]
fn totals<const K: usize>(rows: usize, channels: usize, terms: &impl Terms<K>) -> [Vec<f64>; K] {
    let mut all = [const { Vec::new() }; K];
    all.iter_mut().for_each(|total| total.resize(channels, 0.0));
    let whole = channels - channels % LANES;
    for channel in (0..whole).step_by(LANES) {
        add_columns::<K, LANES>(rows, channels, channel, terms, &mut all);
    }
    for channel in whole..channels {
        add_columns::<K, 1>(rows, channels, channel, terms, &mut all);
    }
    all
}

#[inline(always)]
fn add_columns<const K: usize, const L: usize>(
    rows: usize,
    channels: usize,
    channel: usize,
    terms: &impl Terms<K>,
    all: &mut [Vec<f64>; K],
) {
    for first in (0..rows).step_by(ROWS) {
        let mut sums = [[0f32; L]; K];
        for row in first..rows.min(first + ROWS) {
            let values = terms.at::<L>(row * channels + channel, channel);
            for (sums, values) in sums.iter_mut().zip(&values) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += value;
                }
            }
        }
        for (total, sums) in all.iter_mut().zip(&sums) {
            for (total, &sum) in total[channel..].iter_mut().zip(sums) {
                *total += f64::from(sum);
            }
        }
    }
}

/// The values themselves.
struct Plain<'a>(&'a [f32]);

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, _channel: usize) -> [[f32; L]; 1] {
        [load(self.0, at)]
    }
}

/// Squares of the distances from the mean.
struct Squares<'a> {
    x: &'a [f32],
    means: &'a [f32],
}

impl Terms<1> for Squares<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, channel: usize) -> [[f32; L]; 1] {
        let (x, means) = (load::<L>(self.x, at), load::<L>(self.means, channel));
        [std::array::from_fn(|i| (x[i] - means[i]) * (x[i] - means[i]))]
    }
}

/// What the backward pass reads of an image.
struct Passed<'a> {
    x: &'a [f32],
    y: &'a [f32],
    grad: &'a [f32],
    means: &'a [f32],
    inverses: &'a [f32],
    relu: bool,
}

impl Passed<'_> {
    /// The gradients that the rectifier lets pass, and the normalised values.
    #[inline(always)]
    fn load<const L: usize>(&self, at: usize, channel: usize) -> ([f32; L], [f32; L]) {
        let (x, y, grad) = (load::<L>(self.x, at), load::<L>(self.y, at), load::<L>(self.grad, at));
        let (means, inverses) = (load::<L>(self.means, channel), load::<L>(self.inverses, channel));
        let passed = std::array::from_fn(|i| if self.relu && y[i] <= 0.0 { 0.0 } else { grad[i] });
        (passed, std::array::from_fn(|i| (x[i] - means[i]) * inverses[i]))
    }
}

/// The gradients, and their products with the normalised values.
impl Terms<2> for Passed<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, channel: usize) -> [[f32; L]; 2] {
        let (grad, normal) = self.load::<L>(at, channel);
        [grad, std::array::from_fn(|i| grad[i] * normal[i])]
    }
}

/// What the input's gradient is made of, besides [`Passed`], channel by channel.
struct Means<'a> {
    scale: &'a [f32],
    plain: &'a [f32],
    products: &'a [f32],
}

impl Passed<'_> {
    /// With x̂ = (x - mean)/deviation and g = grad·scale: dx = (g - mean(g) - x̂·mean(g·x̂)) / deviation.
    #[inline(always)]
    fn input_gradient(&self, means: &Means<'_>, dx: &mut [f32]) {
        let channels = means.scale.len();
        for (row, dx) in dx.chunks_exact_mut(channels).enumerate() {
            let (lanes, rest) = dx.as_chunks_mut::<LANES>();
            let whole = lanes.len() * LANES;
            for (i, dx) in lanes.iter_mut().enumerate() {
                *dx = self.gradients(means, row * channels, i * LANES);
            }
            for (i, dx) in rest.iter_mut().enumerate() {
                [*dx] = self.gradients(means, row * channels, whole + i);
            }
        }
    }

    #[inline(always)]
    fn gradients<const L: usize>(&self, means: &Means<'_>, row: usize, channel: usize) -> [f32; L] {
        let (grad, normal) = self.load::<L>(row + channel, channel);
        let [scale, plain, products, inverses] =
            [means.scale, means.plain, means.products, self.inverses].map(|values| load::<L>(values, channel));
        std::array::from_fn(|i| (grad[i] * scale[i] - plain[i] - normal[i] * products[i]) * inverses[i])
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

/// The sum over each channel's group, for each channel.
fn over_groups(sums: &[f64], groups: usize) -> impl Iterator<Item = f64> + '_ {
    let per_group = sums.len() / groups;
    sums.chunks_exact(per_group).flat_map(move |group| std::iter::repeat_n(group.iter().sum(), per_group))
}

impl Norm {
    /// Values that the forward pass leaves for the backward pass: the mean and the inverse deviation of each channel's
    /// group. Repeated for each channel, since loops over channels are the ones that a CPU does several at a time.
    pub(super) fn statistics_len(&self) -> usize {
        2 * self.channels
    }

    /// Normalises an image.
    pub(super) fn forward(&self, x: &[f32], scale: &[f32], shift: &[f32], statistics: &mut [f32], out: &mut [f32]) {
        let count = (x.len() / self.groups) as f64;
        let rows = x.len() / self.channels;
        let (means, inverses) = statistics.split_at_mut(self.channels);
        let [sums] = wide(|| totals(rows, self.channels, &Plain(x)));
        means.iter_mut().zip(over_groups(&sums, self.groups)).for_each(|(mean, sum)| *mean = (sum / count) as f32);
        let [squares] = wide(|| totals(rows, self.channels, &Squares { x, means }));
        let inverse = |sum: f64| (1.0 / (sum / count + EPSILON).sqrt()) as f32;
        inverses.iter_mut().zip(over_groups(&squares, self.groups)).for_each(|(to, sum)| *to = inverse(sum));
        let factors: Vec<f32> = scale.iter().zip(&*inverses).map(|(scale, inverse)| scale * inverse).collect();
        let offsets = factors.iter().zip(&*means).map(|(factor, mean)| factor * mean);
        let addends: Vec<f32> = shift.iter().zip(offsets).map(|(shift, offset)| shift - offset).collect();
        wide(|| apply(x, &factors, &addends, self.relu, out));
    }

    /// Adds to `sums`, the gradients of scale and shift one after the other, and writes that of the image.
    pub(super) fn backward(
        &self,
        [x, y, grad]: [&[f32]; 3],
        statistics: &[f32],
        scale: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let count = (x.len() / self.groups) as f64;
        let (means, inverses) = statistics.split_at(self.channels);
        let passed = Passed { x, y, grad, means, inverses, relu: self.relu };
        let [plain, products] = wide(|| totals(x.len() / self.channels, self.channels, &passed));
        sums.iter_mut().zip(products.iter().chain(&plain)).for_each(|(sum, &value)| *sum += value as f32);
        let means = |mut sums: Vec<f64>| -> Vec<f32> {
            sums.iter_mut().zip(scale).for_each(|(sum, &scale)| *sum *= f64::from(scale));
            over_groups(&sums, self.groups).map(|sum| (sum / count) as f32).collect()
        };
        let (plain, products) = (means(plain), means(products));
        wide(|| passed.input_gradient(&Means { scale, plain: &plain, products: &products }, dx));
    }
}

struct GroupNorm {
    groups: usize,
    relu: bool,
    /// What the forward pass keeps for the backward pass.
    statistics: OnceLock<Kept<f32>>,
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
        let norm = Norm { channels: c, groups: self.groups, relu: self.relu };
        let (len, of_norm, block) = (h * w * c, norm.statistics_len(), images_per_block(n));
        let mut out = vec![0f32; x.len()];
        let mut statistics = Kept::take(n * of_norm);
        let outputs = out.par_chunks_mut(block * len).zip(statistics.par_chunks_mut(block * of_norm));
        outputs.zip(x.par_chunks(block * len)).for_each(|((out, statistics), x)| {
            let images = out.chunks_exact_mut(len).zip(statistics.chunks_exact_mut(of_norm));
            for ((out, statistics), x) in images.zip(x.chunks_exact(len)) {
                norm.forward(x, scale, shift, statistics, out);
            }
        });
        // An operation runs forward once; were it to run again, what it keeps would be the same.
        let _ = self.statistics.set(statistics);
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
        let Some(statistics) = self.statistics.get() else { candle_core::bail!("backward before forward") };
        let (n, h, w, c) = x.dims4()?;
        let norm = Norm { channels: c, groups: self.groups, relu: self.relu };
        let (len, of_norm, block) = (h * w * c, norm.statistics_len(), images_per_block(n));
        let mut dx = vec![0f32; x.elem_count()];
        let mut sums = vec![0f32; n.div_ceil(block) * 2 * c];
        let mut run = |x: &[f32], y: &[f32], grad: &[f32], scale: &[f32]| {
            let kept = statistics.par_chunks(block * of_norm);
            let inputs = x.par_chunks(block * len).zip(y.par_chunks(block * len)).zip(grad.par_chunks(block * len));
            let outputs = dx.par_chunks_mut(block * len).zip(sums.par_chunks_mut(2 * c));
            inputs.zip(kept).zip(outputs).for_each(|((((x, y), grad), statistics), (dx, sums))| {
                let images = x.chunks_exact(len).zip(y.chunks_exact(len)).zip(grad.chunks_exact(len));
                let images = images.zip(statistics.chunks_exact(of_norm)).zip(dx.chunks_exact_mut(len));
                for ((((x, y), grad), statistics), dx) in images {
                    norm.backward([x, y, grad], statistics, scale, dx, sums);
                }
            });
            Ok(())
        };
        with_values(x, |x| {
            with_values(res, |y| with_values(grad, |grad| with_values(scale, |scale| run(x, y, grad, scale))))
        })?;
        let mut totals = vec![0f32; 2 * c];
        for block in sums.chunks_exact(2 * c) {
            totals.iter_mut().zip(block).for_each(|(total, sum)| *total += sum);
        }
        let tensor = |values: &[f32], like: &Tensor| Tensor::from_slice(values, like.shape(), like.device());
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(tensor(&totals[..c], scale)?), Some(tensor(&totals[c..], shift)?)))
    }
}
