//! A convolution with bias and the group normalisation after it, for a block of images on one thread: what the operations
//! `conv` and `residual` have in common.

use super::conv::Call;
use super::norm::Norm;
use super::wide;

/// The two together. `rest` is bias, scale and shift, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normed {
    pub(super) conv: Call,
    pub(super) norm: Norm,
}

impl Normed {
    /// Writes the output, and for the backward pass the convolution's own output and the norm's statistics.
    pub(super) fn forward(
        &self,
        x: &[f32],
        weight: &[f32],
        rest: &[f32],
        [raw, statistics]: [&mut [f32]; 2],
        out: &mut [f32],
    ) {
        let Self { conv, norm } = self;
        let (bias, scale_and_shift) = rest.split_at(norm.channels);
        let (scale, shift) = scale_and_shift.split_at(norm.channels);
        let (len, of_norm) = (conv.raw_len(), norm.statistics_len());
        conv.forward(x, weight, Some(raw), |image, y| {
            wide(|| add_bias(y, bias));
            let statistics = &mut statistics[image * of_norm..][..of_norm];
            norm.forward(y, scale, shift, statistics, &mut out[image * len..][..len]);
        });
    }

    /// Writes the gradient of the weight, and that of the input where `dx` isn't empty; adds to that of `rest`. `transposed` is
    /// the weight, `y` the output, which matters where it is rectified.
    pub(super) fn backward(
        &self,
        [x, transposed, rest]: [&[f32]; 3],
        [raw, statistics, y, grad]: [&[f32]; 4],
        [dx, dw, d_rest]: [&mut [f32]; 3],
    ) {
        let Self { conv, norm } = self;
        let (len, of_norm) = (conv.raw_len(), norm.statistics_len());
        let scale = &rest[norm.channels..2 * norm.channels];
        let (d_bias, d_norm) = d_rest.split_at_mut(norm.channels);
        conv.backward(x, transposed, dx, dw, |image, dy| {
            let [raw, y, grad] = [raw, y, grad].map(|values| &values[image * len..][..len]);
            norm.backward([raw, y, grad], &statistics[image * of_norm..][..of_norm], scale, dy, d_norm);
            wide(|| add_rows(dy, d_bias));
        });
    }
}

#[inline(always)]
fn add_bias(y: &mut [f32], bias: &[f32]) {
    for y in y.chunks_exact_mut(bias.len()) {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}

#[inline(always)]
fn add_rows(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}
