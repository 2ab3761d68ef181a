//! Group normalisation of one image at a time: sums over the rows of an image, and loops over its channels.

use crate::kernels::elementwise::{is_cut, relu};
use crate::kernels::op::{Args, Output};
use crate::kernels::with_avx2;

/// Added to the variance; the paper's value.
pub(crate) const EPSILON: f64 = 1e-5;

/// How an image is normalised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    pub(crate) relu: bool,
}

/// Channels that are summed together.
const LANES: usize = 16;

/// Rows that are summed in f32 before the sum is added to a total in f64.
const ROWS: usize = 64;

/// What is summed over the rows of an image, channel by channel: `K` sums at a time.
trait Terms<const K: usize> {
    /// The terms of `L` neighbouring channels: `at` is the first one's index in the image, `channel` its number.
    fn at<const L: usize>(&self, at: usize, channel: usize) -> [[f32; L]; K];
}

/// Neighbouring values as an array, which the compiler keeps in wide registers.
#[inline(always)]
fn load<const L: usize>(values: &[f32], at: usize) -> [f32; L] {
    values[at..].first_chunk().copied().unwrap_or([0.0; L])
}

/// The totals of `K` sums for each channel, one after the other. The order of adding depends only on the sizes.
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

/// The values themselves: their sum gives the mean.
struct Plain<'a>(&'a [f32]);

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, _channel: usize) -> [[f32; L]; 1] {
        [load(self.0, at)]
    }
}

/// Squares of the distances from the mean: their sum gives the variance.
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
    pub(crate) fn statistics_len(&self) -> usize {
        2 * self.channels
    }

    /// Normalises an image, given scale and shift.
    pub(crate) fn forward(&self, args: Args<&[f32]>, statistics: &mut [f32], y: &mut [f32]) {
        let Args { x, weight: scale, affine: shift } = args;
        let count = (x.len() / self.groups) as f64;
        let rows = x.len() / self.channels;
        let (means, inverses) = statistics.split_at_mut(self.channels);
        let [sums] = with_avx2(|| totals(rows, self.channels, &Plain(x)));
        means.iter_mut().zip(over_groups(&sums, self.groups)).for_each(|(mean, sum)| *mean = (sum / count) as f32);
        let [squares] = with_avx2(|| totals(rows, self.channels, &Squares { x, means }));
        let inverse = |sum: f64| (1.0 / (sum / count + EPSILON).sqrt()) as f32;
        inverses.iter_mut().zip(over_groups(&squares, self.groups)).for_each(|(to, sum)| *to = inverse(sum));
        let factors: Vec<f32> = scale.iter().zip(&*inverses).map(|(scale, inverse)| scale * inverse).collect();
        let offsets = factors.iter().zip(&*means).map(|(factor, mean)| factor * mean);
        let addends: Vec<f32> = shift.iter().zip(offsets).map(|(shift, offset)| shift - offset).collect();
        with_avx2(|| apply(x, &factors, &addends, self.relu, y));
    }

    /// Writes the gradient of an image, and adds to those of scale and shift.
    pub(crate) fn backward(&self, args: Args<&[f32]>, statistics: &[f32], out: Output<'_>, grads: Args<&mut [f32]>) {
        let Args { x, weight: scale, .. } = args;
        let count = (x.len() / self.groups) as f64;
        let (means, inverses) = statistics.split_at(self.channels);
        let passed = Passed { x, y: out.y, grad: out.grad, means, inverses, relu: self.relu };
        let [plain, products] = with_avx2(|| totals(x.len() / self.channels, self.channels, &passed));
        let add = |to: &mut [f32], sums: &[f64]| to.iter_mut().zip(sums).for_each(|(to, &sum)| *to += sum as f32);
        add(grads.weight, &products);
        add(grads.affine, &plain);
        let means = |mut sums: Vec<f64>| -> Vec<f32> {
            sums.iter_mut().zip(scale).for_each(|(sum, &scale)| *sum *= f64::from(scale));
            over_groups(&sums, self.groups).map(|sum| (sum / count) as f32).collect()
        };
        let (plain, products) = (means(plain), means(products));
        with_avx2(|| passed.input_gradient(&Means { scale, plain: &plain, products: &products }, grads.x));
    }
}
