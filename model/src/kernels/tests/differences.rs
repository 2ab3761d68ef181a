//! The gradients of the kernels, and of nets made of them, are those of central differences.

use super::{SEED, SIZES, plain, random, stream, values};
use crate::kernels::conv::conv;
use crate::kernels::linear::linear;
use crate::kernels::loss::cross_entropy;
use crate::kernels::norm::group_norm;
use crate::kernels::pool::max_pool;
use crate::net::{Mode, Model};
use crate::spec::{Layer, NetSpec};
use candle_core::{Device, Result, Tensor, Var};

/// Compares the gradient of `sum(weights * f(arguments))` with central differences in `f64` sums.
fn check_gradients(arguments: &[Var], f: impl Fn(&[Tensor]) -> Result<Tensor>, what: &str) {
    let tensors = || arguments.iter().map(|argument| argument.as_tensor().clone()).collect::<Vec<_>>();
    let shape = f(&tensors()).expect(what).shape().clone();
    let weights = random(&mut stream(), shape.dims());
    let weights = weights.as_detached_tensor();
    let total = || -> f64 {
        let y = f(&tensors()).expect(what);
        values(&y).iter().zip(values(&weights)).map(|(&y, w)| f64::from(y) * f64::from(w)).sum()
    };
    let loss = f(&tensors()).and_then(|y| (y * &weights)?.sum_all()).expect(what);
    let gradients = loss.backward().expect(what);
    for (number, argument) in arguments.iter().enumerate() {
        let gradient = values(gradients.get(argument.as_tensor()).expect("every argument has a gradient"));
        let start = values(argument.as_tensor());
        let set = |i: usize, value: f32| {
            let mut changed = start.clone();
            changed[i] = value;
            let changed = Tensor::from_vec(changed, argument.shape(), &Device::Cpu).expect("the same shape");
            argument.set(&changed).expect("the same shape");
        };
        // A prime step visits the whole argument without taking every element of the large ones.
        for i in (0..start.len()).step_by(if start.len() > 100 { 7 } else { 1 }) {
            let h = 1e-2f32;
            set(i, start[i] + h);
            let above = total();
            set(i, start[i] - h);
            let below = total();
            set(i, start[i]);
            let expected = (above - below) / f64::from(2.0 * h);
            let found = f64::from(gradient[i]);
            assert!(
                (found - expected).abs() <= 2e-2 * (1.0 + expected.abs()),
                "{what}, seed {SEED}: argument {number}, element {i}: {found}, by differences {expected}"
            );
        }
    }
}

#[test]
fn the_gradients_of_convolutions_are_those_of_differences() {
    for [n, h, w, c, out, kernel, stride, pad] in SIZES {
        let mut stream = stream();
        let arguments = [&[n, h, w, c][..], &[kernel, kernel, c, out], &[out]].map(|shape| random(&mut stream, shape));
        let f = |t: &[Tensor]| conv(&t[0], &t[1], &t[2], plain(stride, pad), None);
        check_gradients(&arguments, f, &format!("conv {n} {h}x{w}x{c} to {out} k{kernel} s{stride} p{pad}"));
    }
}

#[test]
fn the_gradients_of_pooling_are_those_of_differences_on_odd_sizes() {
    for (size, [n, h, w, c]) in [(2, [2, 5, 7, 3]), (3, [13, 7, 3, 2]), (1, [1, 2, 2, 1])] {
        // Distinct values a whole step apart: a difference must not change which is the maximum.
        let mut order: Vec<f32> = (0..n * h * w * c).map(|i| i as f32 * 0.1).collect();
        stream().shuffle(&mut order);
        let x = Var::from_vec(order, (n, h, w, c), &Device::Cpu).expect("the lengths agree");
        check_gradients(&[x], |t| max_pool(&t[0], size), &format!("pool {size}"));
    }
}

#[test]
fn the_gradients_of_linear_layers_are_those_of_differences() {
    for [n, inputs, out] in [[1, 1, 1], [3, 7, 5], [5, 70, 3], [2, 3, 67]] {
        let mut stream = stream();
        let arguments = [&[n, inputs][..], &[inputs, out], &[out]].map(|shape| random(&mut stream, shape));
        let f = |t: &[Tensor]| linear(&t[0], &t[1], &t[2], false, true, None);
        check_gradients(&arguments, f, &format!("linear {n}x{inputs} to {out}"));
    }
}

#[test]
fn the_gradients_of_group_norm_are_those_of_differences() {
    let mut stream = stream();
    let x = random(&mut stream, &[3, 3, 5, 6]);
    for groups in [1, 2, 3, 6] {
        let arguments = [x.clone(), random(&mut stream, &[6]), random(&mut stream, &[6])];
        let f = |t: &[Tensor]| group_norm(&t[0], &t[1], &t[2], groups, false);
        check_gradients(&arguments, f, &format!("group norm of {groups}"));
    }
}

#[test]
fn the_gradient_of_cross_entropy_is_that_of_differences() {
    let logits = random(&mut stream(), &[5, 7]);
    let f = |t: &[Tensor]| cross_entropy(&t[0], &[0, 6, 3, 3, 1]);
    check_gradients(std::slice::from_ref(&logits), f, "cross-entropy");
}

#[test]
fn the_gradients_of_a_whole_net_are_those_of_differences() {
    // Only smooth layers: near a kink differences say nothing.
    let layers = vec![
        Layer::Conv { out: 4, kernel: 3, stride: 1, pad: 1 },
        Layer::GroupNorm { groups: 2 },
        Layer::Conv { out: 3, kernel: 3, stride: 2, pad: 1 },
        Layer::Flatten,
        Layer::Dropout { rate: 0.4 },
        Layer::Linear { out: 5 },
    ];
    let spec = NetSpec { input: [2, 7, 9], classes: 5, layers };
    let model = Model::initial(&spec, &Device::Cpu, SEED).expect("possible");
    let x = random(&mut stream(), &[3, 2, 7, 9]).as_detached_tensor();
    let f = |_: &[Tensor]| {
        let logits = model.forward(&x, Mode::Train(&mut stream()))?;
        cross_entropy(&logits, &[1, 4, 0])
    };
    check_gradients(model.variables(), f, "a net");
}

#[test]
fn the_gradients_of_a_residual_net_are_those_of_differences() {
    let layers = vec![
        Layer::Residual { out: 4, stride: 1, groups: 2 },
        Layer::Residual { out: 6, stride: 2, groups: 2 },
        Layer::Residual { out: 6, stride: 1, groups: 3 },
        Layer::GlobalAvgPool,
        Layer::Linear { out: 3 },
    ];
    let spec = NetSpec { input: [4, 6, 5], classes: 3, layers };
    let model = Model::initial(&spec, &Device::Cpu, SEED).expect("it is possible");
    assert_eq!(model.variables().len(), 8 + 12 + 8 + 2);
    let x = random(&mut stream(), &[3, 4, 6, 5]).as_detached_tensor();
    let f = |_: &[Tensor]| {
        let logits = model.forward(&x, Mode::Train(&mut stream()))?;
        cross_entropy(&logits, &[1, 2, 0])
    };
    check_gradients(model.variables(), f, "a residual net");
}
