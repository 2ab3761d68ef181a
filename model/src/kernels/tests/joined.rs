//! One operation gives what its parts give one after the other.

use super::{SIZES, check_equal, plain, random, stream};
use crate::kernels::conv::{ConvLayer, Epilogue, conv};
use crate::kernels::norm::group_norm;
use crate::kernels::pool::max_pool;
use crate::kernels::reference;
use crate::kernels::residual::{ResidualLayer, residual};

#[test]
fn a_convolution_with_pooling_is_one_after_the_other_on_odd_sizes() {
    for [n, h, w, c, out, kernel, stride, pad] in SIZES {
        let mut stream = stream();
        let arguments = [&[n, h, w, c][..], &[kernel, kernel, c, out], &[out]].map(|shape| random(&mut stream, shape));
        let [x, weight, bias] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let apart = |size: usize, relu: bool| {
            let y = conv(x, weight, bias, plain(stride, pad), None)?;
            let y = max_pool(&if relu { y.relu()? } else { y }, size)?;
            y.contiguous()
        };
        let sides = [h, w].map(|side| (side + 2 * pad - kernel) / stride + 1);
        for size in (1..=3).filter(|&size| sides.iter().all(|&side| side >= size)) {
            for relu in [false, true] {
                let layer = ConvLayer { epilogue: Epilogue::Pool { relu, size }, ..plain(stride, pad) };
                let what = format!("{n} {h}x{w}x{c} to {out} k{kernel} s{stride} p{pad}, pool {size}, relu {relu}");
                check_equal(&arguments, conv(x, weight, bias, layer, None), apart(size, relu), &what);
            }
        }
    }
}

#[test]
fn a_convolution_with_norm_is_one_after_the_other_on_odd_sizes() {
    for [n, h, w, c, out, kernel, stride, pad] in SIZES {
        let mut stream = stream();
        let shapes = [&[n, h, w, c][..], &[kernel, kernel, c, out], &[3 * out]];
        let arguments = shapes.map(|shape| random(&mut stream, shape));
        let [x, weight, affine] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let apart = |groups: usize, relu: bool| {
            let part = |i: usize| affine.narrow(0, i * out, out)?.contiguous();
            let y = conv(x, weight, &part(0)?, plain(stride, pad), None)?;
            group_norm(&y, &part(1)?, &part(2)?, groups, relu)
        };
        for groups in (1..=out).filter(|&groups| out % groups == 0) {
            for relu in [false, true] {
                let layer = ConvLayer { epilogue: Epilogue::Norm { groups, relu }, ..plain(stride, pad) };
                let what = format!("{n} {h}x{w}x{c} to {out} k{kernel} s{stride} p{pad}, groups {groups}, relu {relu}");
                check_equal(&arguments, conv(x, weight, affine, layer, None), apart(groups, relu), &what);
            }
        }
    }
}

#[test]
fn a_residual_block_is_that_of_its_layers() {
    for [n, h, w, inputs, out, stride] in
        [[3, 5, 7, 4, 4, 1], [14, 6, 5, 3, 6, 2], [2, 4, 4, 6, 4, 1], [1, 1, 1, 2, 2, 1]]
    {
        let shortcut = inputs != out || stride != 1;
        let convs = if shortcut { 3 } else { 2 };
        let weights = 9 * inputs * out + 9 * out * out + if shortcut { inputs * out } else { 0 };
        let mut stream = stream();
        let arguments =
            [&[n, h, w, inputs][..], &[weights], &[3 * convs * out]].map(|shape| random(&mut stream, shape));
        let block = ResidualLayer { out, stride, groups: 2, shortcut };
        let [x, weights, affine] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let reference = reference::residual(x, weights, affine, block);
        let what = format!("residual {n} {h}x{w}x{inputs} to {out}, stride {stride}");
        check_equal(&arguments, residual(x, weights, affine, block), reference, &what);
    }
}
