//! Kernels agree with candle's own operations.

use super::{check_equal, plain, random, stream};
use crate::kernels::conv::{ConvLayer, Epilogue, conv};
use crate::kernels::linear::linear;
use crate::kernels::loss::cross_entropy;
use crate::kernels::norm::group_norm;
use crate::kernels::pool::max_pool;
use crate::kernels::reference;
use candle_core::{Tensor, Var};

/// Arguments of these shapes, with random values.
fn arguments<const N: usize>(shapes: [&[usize]; N]) -> [Var; N] {
    let mut stream = stream();
    shapes.map(|shape| random(&mut stream, shape))
}

fn tensors<const N: usize>(arguments: &[Var; N]) -> [&Tensor; N] {
    arguments.each_ref().map(|argument| argument.as_tensor())
}

#[test]
fn a_convolution_with_pooling_agrees() {
    for (size, relu) in [(1, true), (2, false), (2, true), (3, true)] {
        let arguments = arguments([&[7, 7, 9, 3], &[3, 3, 3, 5], &[5]]);
        let [x, weight, bias] = tensors(&arguments);
        let layer = ConvLayer { epilogue: Epilogue::Pool { relu, size }, ..plain(1, 1) };
        let expected = reference::conv(x, weight, bias, layer);
        check_equal(&arguments, conv(x, weight, bias, layer, None), expected, &format!("pool {size}, relu {relu}"));
    }
}

#[test]
fn a_convolution_with_norm_agrees() {
    for (relu, [h, w, out, stride]) in [(false, [9, 5, 6, 2]), (true, [5, 5, 20, 1]), (true, [12, 11, 34, 1])] {
        let arguments = arguments([&[7, h, w, 3], &[3, 3, 3, out], &[3 * out]]);
        let [x, weight, affine] = tensors(&arguments);
        let layer = ConvLayer { epilogue: Epilogue::Norm { groups: 2, relu }, ..plain(stride, 1) };
        let expected = reference::conv(x, weight, affine, layer);
        check_equal(&arguments, conv(x, weight, affine, layer, None), expected, &format!("{out} out, relu {relu}"));
    }
}

#[test]
fn a_linear_layer_agrees() {
    for relu in [false, true] {
        let arguments = arguments([&[9, 70], &[70, 130], &[130]]);
        let [x, weight, bias] = tensors(&arguments);
        let expected = reference::linear(x, weight, bias, relu);
        check_equal(&arguments, linear(x, weight, bias, relu, true, None), expected, &format!("relu {relu}"));
    }
}

#[test]
fn group_norm_agrees() {
    for relu in [false, true] {
        let arguments = arguments([&[5, 3, 7, 8], &[8], &[8]]);
        let [x, scale, shift] = tensors(&arguments);
        let expected = reference::group_norm(x, scale, shift, 4, relu);
        check_equal(&arguments, group_norm(x, scale, shift, 4, relu), expected, &format!("relu {relu}"));
    }
}

#[test]
fn max_pooling_agrees() {
    let arguments = arguments([&[3, 5, 7, 2]]);
    let [x] = tensors(&arguments);
    check_equal(&arguments, max_pool(x, 2), reference::max_pool(x, 2), "max pool");
}

#[test]
fn cross_entropy_agrees() {
    let arguments = arguments([&[4, 6]]);
    let ([logits], labels) = (tensors(&arguments), [5, 0, 2, 2]);
    let expected = reference::cross_entropy(logits, &labels);
    check_equal(&arguments, cross_entropy(logits, &labels), expected, "cross-entropy");
}
