//! Each kernel once more, made of candle's own layers and operations: for other devices, and for the tests, which
//! hold the kernels to it. Arguments are those of the kernel of the same name.

use super::conv::{ConvLayer, Epilogue};
use super::norm::EPSILON;
use super::residual::ResidualLayer;
use candle_core::{D, Module, Result, Tensor};
use candle_nn::Conv2dConfig;

pub(super) fn conv(x: &Tensor, weight: &Tensor, affine: &Tensor, layer: ConvLayer) -> Result<Tensor> {
    let out = weight.dim(3)?;
    let config = Conv2dConfig { padding: layer.pad, stride: layer.stride, ..Conv2dConfig::default() };
    let weight = weight.permute((3, 2, 0, 1))?.contiguous()?;
    let conv = candle_nn::Conv2d::new(weight, Some(affine.narrow(0, 0, out)?), config);
    let y = channels_last(&conv.forward(&channels_first(x)?)?)?;
    match layer.epilogue {
        Epilogue::Pool { relu, size } => {
            let y = if relu { y.relu()? } else { y };
            if size > 1 { max_pool(&y, size) } else { Ok(y) }
        }
        Epilogue::Norm { groups, relu } => {
            group_norm(&y, &affine.narrow(0, out, out)?, &affine.narrow(0, 2 * out, out)?, groups, relu)
        }
    }
}

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    let y = candle_nn::Linear::new(weight.t()?, Some(bias.clone())).forward(x)?;
    if relu { y.relu() } else { Ok(y) }
}

pub(super) fn group_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
    let norm = candle_nn::GroupNorm::new(scale.clone(), shift.clone(), x.dim(D::Minus1)?, groups, EPSILON)?;
    let y = channels_last(&norm.forward(&channels_first(x)?)?)?;
    if relu { y.relu() } else { Ok(y) }
}

/// Of equal values all get the gradient, where the kernel gives it to the first.
pub(super) fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let (oh, ow) = (h / size, w / size);
    x.narrow(1, 0, oh * size)?
        .narrow(2, 0, ow * size)?
        .contiguous()?
        .reshape(&[n, oh, size, ow, size, c])?
        .permute(&[0, 1, 3, 5, 2, 4][..])?
        .contiguous()?
        .reshape((n, oh, ow, c, size * size))?
        .max(D::Minus1)
}

/// Made of the operations of its layers, which on CPUs are kernels themselves.
pub(super) fn residual(x: &Tensor, weights: &Tensor, affine: &Tensor, block: ResidualLayer) -> Result<Tensor> {
    let ResidualLayer { out, stride, groups, shortcut } = block;
    let inputs = x.dim(3)?;
    let layer = |x: &Tensor, number: usize, start: usize, kernel: usize, stride: usize, relu: bool| {
        let inputs = x.dim(3)?;
        let weight =
            weights.narrow(0, start, kernel * kernel * inputs * out)?.reshape((kernel, kernel, inputs, out))?;
        let affine = affine.narrow(0, 3 * out * number, 3 * out)?;
        let epilogue = Epilogue::Norm { groups, relu };
        super::conv::conv(
            x,
            &weight,
            &affine,
            ConvLayer { stride, pad: kernel / 2, epilogue, input_gradient: true },
            None,
        )
    };
    let y = layer(x, 0, 0, 3, stride, true)?;
    let y = layer(&y, 1, 9 * inputs * out, 3, 1, false)?;
    let other = if shortcut { layer(x, 2, 9 * (inputs + out) * out, 1, stride, false)? } else { x.clone() };
    (y + other)?.relu()
}

pub(super) fn cross_entropy(logits: &Tensor, labels: &[u16]) -> Result<Tensor> {
    let labels: Vec<u32> = labels.iter().map(|&label| u32::from(label)).collect();
    let labels = Tensor::from_vec(labels, logits.dim(0)?, logits.device())?;
    candle_nn::loss::cross_entropy(logits, &labels)
}

/// Images as candle's layers take them.
fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// Images as the kernels take them.
fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}
