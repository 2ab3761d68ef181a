//! Group normalisation (Wu and He 2018, section 3), with the rectifier that usually follows.
//!
//! Federated nets use it in place of batch normalisation, whose running statistics a plain average would mix.

mod image;

use super::blocks::images_per_block;
use super::elementwise::add_rows;
use super::op::{self, Args, Forward, Gradient, Kernel3, Output, View};
use super::reference;
use super::scratch::Recycled;
use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

pub(super) use image::{EPSILON, Norm};

/// `x`: `[n, h, w, c]`, `scale` and `shift`: `[c]`; mean and variance are taken over height, width and a group of
/// neighbouring channels.
pub fn group_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    if x.device().is_cpu() {
        return op::apply3(GroupNorm { groups, relu }, Args { x, weight: scale, affine: shift });
    }
    reference::group_norm(x, scale, shift, groups, relu)
}

struct GroupNorm {
    groups: usize,
    relu: bool,
}

impl GroupNorm {
    /// The number of images, the values of each, and how they are normalised.
    fn sizes(&self, x: &Shape) -> Result<(usize, usize, Norm)> {
        let (n, height, width, channels) = x.dims4()?;
        Ok((n, height * width * channels, Norm { channels, groups: self.groups, relu: self.relu }))
    }
}

impl Kernel3 for GroupNorm {
    const NAME: &'static str = "group-norm";
    /// The statistics of each image, [`Norm::statistics_len`] values.
    type Saved = Recycled<f32>;

    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<Recycled<f32>>> {
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
        let mut statistics = Recycled::take(n * statistics_len);
        let outputs = y.par_chunks_mut(block * len).zip(statistics.par_chunks_mut(block * statistics_len));
        outputs.zip(x.par_chunks(block * len)).for_each(|((y, statistics), x)| {
            let images = y.chunks_exact_mut(len).zip(statistics.chunks_exact_mut(statistics_len));
            for ((y, statistics), x) in images.zip(x.chunks_exact(len)) {
                norm.forward(Args { x, weight: scale, affine: shift }, statistics, y);
            }
        });
        Ok(Forward { y, shape, saved: statistics })
    }

    fn backward(&self, args: Args<View<'_>>, statistics: &Recycled<f32>, out: Output<'_>) -> Result<Args<Gradient>> {
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
