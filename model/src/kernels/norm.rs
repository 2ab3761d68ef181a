//! Group normalisation (Wu and He 2018, section 3), with the rectifier that usually follows.
//!
//! Federated nets use it in place of batch normalisation, whose running statistics a plain average would mix.

use super::elementwise::{add_rows, is_cut, relu};
use super::op::{self, Args, Forward, Gradient, Kernel3, Output, View};
use super::scratch::Kept;
use super::{images_per_block, reference, wide};
use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

/// Added to the variance; the paper's value.
pub(super) const EPSILON: f64 = 1e-5;

/// `x`: `[n, h, w, c]`, `scale` and `shift`: `[c]`; mean and variance are taken over height, width and a group of
/// neighbouring channels.
pub fn group_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        return op::apply3(GroupNorm { groups, relu }, Args { x, weight: scale, affine: shift });
    }
    reference::group_norm(x, scale, shift, groups, relu)
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
        let passed = std::array::from_fn(|i| if self.relu && is_cut(y[i]) { 0.0 } else { grad[i] });
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
fn apply(x: &[f32], factors: &[f32], addends: &[f32], rectify: bool, out: &mut [f32]) {
    let channels = factors.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        for (((x, out), factor), addend) in x.iter().zip(out).zip(factors).zip(addends) {
            let y = x * factor + addend;
            *out = if rectify { relu(y) } else { y };
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

    /// Normalises an image, given scale and shift.
    pub(super) fn forward(&self, args: Args<&[f32]>, statistics: &mut [f32], y: &mut [f32]) {
        let Args { x, weight: scale, affine: shift } = args;
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
        wide(|| apply(x, &factors, &addends, self.relu, y));
    }

    /// Writes the gradient of an image, and adds to those of scale and shift.
    pub(super) fn backward(&self, args: Args<&[f32]>, statistics: &[f32], out: Output<'_>, grads: Args<&mut [f32]>) {
        let Args { x, weight: scale, .. } = args;
        let count = (x.len() / self.groups) as f64;
        let (means, inverses) = statistics.split_at(self.channels);
        let passed = Passed { x, y: out.y, grad: out.grad, means, inverses, relu: self.relu };
        let [plain, products] = wide(|| totals(x.len() / self.channels, self.channels, &passed));
        let add = |to: &mut [f32], sums: &[f64]| to.iter_mut().zip(sums).for_each(|(to, &sum)| *to += sum as f32);
        add(grads.weight, &products);
        add(grads.affine, &plain);
        let means = |mut sums: Vec<f64>| -> Vec<f32> {
            sums.iter_mut().zip(scale).for_each(|(sum, &scale)| *sum *= f64::from(scale));
            over_groups(&sums, self.groups).map(|sum| (sum / count) as f32).collect()
        };
        let (plain, products) = (means(plain), means(products));
        wide(|| passed.input_gradient(&Means { scale, plain: &plain, products: &products }, grads.x));
    }
}

struct GroupNorm {
    groups: usize,
    relu: bool,
}

impl GroupNorm {
    /// Images, values of each, and their normalisation.
    fn sizes(&self, x: &Shape) -> Result<(usize, usize, Norm)> {
        let (n, height, width, channels) = x.dims4()?;
        Ok((n, height * width * channels, Norm { channels, groups: self.groups, relu: self.relu }))
    }
}

impl Kernel3 for GroupNorm {
    const NAME: &'static str = "group-norm";
    /// The statistics of each image.
    type Saved = Kept<f32>;

    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<Kept<f32>>> {
        let (n, len, norm) = self.sizes(args.x.shape)?;
        let shape = args.x.shape.clone();
        let Args { x, weight: scale, affine: shift } = args.map(|arg| arg.values);
        let Norm { channels, groups, .. } = norm;
        if scale.len() != channels || shift.len() != channels || groups == 0 || channels % groups != 0 {
            let (scales, shifts) = (scale.len(), shift.len());
            candle_core::bail!("{groups} groups, {scales} scales and {shifts} shifts on {channels} channels")
        }
        let (statistics_len, block) = (norm.statistics_len(), images_per_block(n));
        let mut y = vec![0f32; x.len()];
        let mut statistics = Kept::take(n * statistics_len);
        let outputs = y.par_chunks_mut(block * len).zip(statistics.par_chunks_mut(block * statistics_len));
        outputs.zip(x.par_chunks(block * len)).for_each(|((y, statistics), x)| {
            let images = y.chunks_exact_mut(len).zip(statistics.chunks_exact_mut(statistics_len));
            for ((y, statistics), x) in images.zip(x.chunks_exact(len)) {
                norm.forward(Args { x, weight: scale, affine: shift }, statistics, y);
            }
        });
        Ok(Forward { y, shape, saved: statistics })
    }

    fn backward(&self, args: Args<View<'_>>, statistics: &Kept<f32>, out: Output<'_>) -> Result<Args<Gradient>> {
        let (n, len, norm) = self.sizes(args.x.shape)?;
        let args = args.map(|arg| arg.values);
        let (statistics_len, block) = (norm.statistics_len(), images_per_block(n));
        // For each block the gradients of scale and shift, one after the other.
        let sums_len = 2 * norm.channels;
        let mut sums = vec![0f32; n.div_ceil(block) * sums_len];
        let mut dx = vec![0f32; args.x.len()];
        let inputs = args.x.par_chunks(block * len).zip(statistics.par_chunks(block * statistics_len));
        let outputs = out.y.par_chunks(block * len).zip(out.grad.par_chunks(block * len));
        let gradients = dx.par_chunks_mut(block * len).zip(sums.par_chunks_mut(sums_len));
        inputs.zip(outputs).zip(gradients).for_each(|(((x, statistics), (y, grad)), (dx, sums))| {
            let (d_scale, d_shift) = sums.split_at_mut(norm.channels);
            let inputs = x.chunks_exact(len).zip(statistics.chunks_exact(statistics_len));
            let outputs = y.chunks_exact(len).zip(grad.chunks_exact(len));
            for (((x, statistics), (y, grad)), dx) in inputs.zip(outputs).zip(dx.chunks_exact_mut(len)) {
                let grads = Args { x: dx, weight: &mut *d_scale, affine: &mut *d_shift };
                norm.backward(Args { x, ..args }, statistics, Output { y, grad }, grads);
            }
        });
        let mut d_scale = vec![0f32; sums_len];
        add_rows(&mut d_scale, &sums);
        let d_shift = d_scale.split_off(norm.channels);
        Ok(Args { x: Some(dx), weight: Some(d_scale), affine: Some(d_shift) })
    }
}
