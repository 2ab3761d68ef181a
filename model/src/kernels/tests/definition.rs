//! Each kernel gives what its definition says.

use super::{SIZES, plain, random, stream, values};
use crate::kernels::conv::{ConvLayer, conv};
use crate::kernels::elementwise::{add_relu, relu_backward};
use crate::kernels::linear::linear;
use crate::kernels::loss::cross_entropy;
use crate::kernels::norm::group_norm;
use crate::kernels::op::Output;
use crate::kernels::pool::max_pool;
use crate::kernels::residual::{ResidualLayer, residual};
use crate::kernels::sgd;
use candle_core::{Device, Tensor, Var};

/// The definition of a convolution, in f64.
fn naive(x: &Tensor, weight: &Tensor, bias: &Tensor, layer: ConvLayer) -> Vec<f32> {
    let (n, h, w, c) = x.dims4().expect("an image");
    let (kernel, _, _, out) = weight.dims4().expect("a kernel");
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let side = |side: usize| (side + 2 * layer.pad - kernel) / layer.stride + 1;
    let mut y = Vec::new();
    for (image, oy, ox, o) in (0..n).flat_map(|i| {
        (0..side(h)).flat_map(move |oy| (0..side(w)).flat_map(move |ox| (0..out).map(move |o| (i, oy, ox, o))))
    }) {
        let mut sum = f64::from(bias[o]);
        for (ky, kx, channel) in
            (0..kernel).flat_map(|ky| (0..kernel).flat_map(move |kx| (0..c).map(move |channel| (ky, kx, channel))))
        {
            let (iy, ix) =
                ((oy * layer.stride + ky).wrapping_sub(layer.pad), (ox * layer.stride + kx).wrapping_sub(layer.pad));
            if iy < h && ix < w {
                let at = ((image * h + iy) * w + ix) * c + channel;
                sum += f64::from(x[at]) * f64::from(weight[((ky * kernel + kx) * c + channel) * out + o]);
            }
        }
        y.push(sum as f32);
    }
    y
}

#[test]
fn a_convolution_is_that_of_the_definition() {
    for [n, h, w, c, out, kernel, stride, pad] in SIZES {
        let mut stream = stream();
        let [x, weight, bias] =
            [&[n, h, w, c][..], &[kernel, kernel, c, out], &[out]].map(|shape| random(&mut stream, shape));
        let layer = plain(stride, pad);
        let expected = naive(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), layer);
        let found = values(&conv(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), layer, None).expect("possible"));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{n} {h}x{w}x{c} k{kernel} s{stride} p{pad}: {found} {expected}");
        }
    }
}

#[test]
fn pooling_takes_maxima_and_sends_gradients_only_to_them() {
    let x = Var::from_vec((0..30).map(|i| ((i * 7) % 30) as f32).collect::<Vec<_>>(), (1, 5, 3, 2), &Device::Cpu)
        .expect("the lengths agree");
    let y = max_pool(x.as_tensor(), 2).expect("possible");
    assert_eq!((y.dims(), values(&y)), (&[1, 2, 1, 2][..], vec![26.0, 21.0, 24.0, 27.0]));
    let gradients = y.sum_all().and_then(|sum| sum.backward()).expect("tracked");
    let gradient = values(gradients.get(x.as_tensor()).expect("tracked"));
    let expected =
        values(x.as_tensor()).iter().map(|v| f32::from([26.0, 21.0, 24.0, 27.0].contains(v) as u8)).collect::<Vec<_>>();
    assert_eq!(gradient, expected);
}

#[test]
fn group_norm_gives_each_group_mean_zero_and_variance_one() {
    let mut stream = stream();
    let x = random(&mut stream, &[3, 3, 5, 6]);
    let ones = Tensor::ones(6, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
    let zeros = ones.zeros_like().expect("a tensor");
    let y = group_norm(x.as_tensor(), &ones, &zeros, 2, false).expect("possible");
    let first: Vec<f32> = values(&y)[..90].chunks(3).step_by(2).flatten().copied().collect();
    let mean = first.iter().sum::<f32>() / first.len() as f32;
    let variance = first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32;
    assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
}

#[test]
fn cross_entropy_is_that_of_the_definition() {
    let logits = random(&mut stream(), &[5, 7]);
    let labels = [0u16, 6, 3, 3, 1];
    let found = values(&cross_entropy(logits.as_tensor(), &labels).expect("possible"))[0];
    let expected: f32 = values(logits.as_tensor())
        .chunks(7)
        .zip(labels)
        .map(|(row, label)| row.iter().map(|x| x.exp()).sum::<f32>().ln() - row[usize::from(label)])
        .sum::<f32>()
        / 5.0;
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
}

#[test]
fn cross_entropy_refuses_labels_that_are_no_class_or_too_few() {
    let logits = random(&mut stream(), &[5, 7]);
    assert!(cross_entropy(logits.as_tensor(), &[0, 7, 0, 0, 0]).is_err());
    assert!(cross_entropy(logits.as_tensor(), &[0; 4]).is_err());
}

#[test]
fn a_step_moves_a_variable_by_its_factor() {
    let variable = Var::from_vec(vec![1f32, 2.0], 2, &Device::Cpu).expect("a tensor");
    let step = Tensor::from_vec(vec![10f32, -10.0], 2, &Device::Cpu).expect("a tensor");
    sgd::add_scaled(&variable, &step, -0.1).expect("possible");
    assert_eq!(values(variable.as_tensor()), [0.0, 3.0]);
}

#[test]
fn the_rectifier_keeps_nan() {
    let out = Output { y: &[f32::NAN, -1.0, 2.0], grad: &[3.0, 4.0, 5.0] };
    let (mut rectified, mut passed) = (out.y.to_vec(), [0.0; 3]);
    add_relu(&mut rectified, &[0.0; 3]);
    relu_backward(out, &mut passed);
    assert!(rectified[0].is_nan());
    assert_eq!((&rectified[1..], passed), (&[0.0, 2.0][..], [3.0, 0.0, 5.0]));
}

#[test]
fn kernels_refuse_arguments_that_do_not_fit_each_other() {
    let mut stream = stream();
    let [x, weight, affine, row] = [&[2, 5, 5, 3][..], &[3, 3, 4, 6], &[6], &[2, 5]].map(|s| random(&mut stream, s));
    let [x, weight, affine, row] = [&x, &weight, &affine, &row].map(|argument| argument.as_tensor());
    assert!(conv(x, weight, affine, plain(1, 1), None).is_err(), "4 input channels, not 3");
    assert!(linear(row, &weight.flatten(0, 2).expect("a matrix"), affine, false, true, None).is_err(), "36, not 5");
    assert!(group_norm(x, affine, affine, 3, false).is_err(), "6 scales for 3 channels");
    let layer = ResidualLayer { out: 6, stride: 1, groups: 2, shortcut: false };
    assert!(
        residual(x, &weight.flatten_all().expect("a row"), affine, layer).is_err(),
        "3 channels can't be added to 6"
    );
}
