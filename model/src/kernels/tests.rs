//! Every kernel against its definition and against central finite differences.

use super::conv::{ConvLayer, Epilogue, conv};
use super::linear::linear;
use super::loss::cross_entropy;
use super::norm::group_norm;
use super::pool::max_pool;
use super::reference;
use super::residual::{ResidualLayer, residual};
use super::sgd;
use crate::net::{Mode, Model};
use crate::random_stream::{Purpose, RandomStream, StreamKey};
use crate::spec::{Layer, NetSpec};
use crate::threads::Threads;
use candle_core::{Device, Result, Tensor, Var};

const SEED: u64 = 3;

fn stream() -> RandomStream {
    RandomStream::new(&StreamKey { seed: SEED, round: 0, node: b"kernels", purpose: Purpose::Init, index: 0 })
}

fn random(stream: &mut RandomStream, shape: &[usize]) -> Var {
    let values = (0..shape.iter().product()).map(|_| stream.between(-1.0, 1.0)).collect::<Vec<f32>>();
    Var::from_vec(values, shape, &Device::Cpu).expect("the lengths agree")
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32 on the CPU")
}

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

fn plain(stride: usize, pad: usize) -> ConvLayer {
    ConvLayer { stride, pad, epilogue: Epilogue::Pool { relu: false, size: 1 }, input_gradient: true }
}

/// Images, height, width, channels, outputs, kernel, stride, pad: odd sizes, and borders of every kind.
const SIZES: [[usize; 8]; 10] = [
    [1, 1, 1, 1, 1, 1, 1, 0],
    [2, 5, 7, 3, 4, 3, 1, 1],
    [3, 6, 5, 2, 5, 5, 1, 2],
    [1, 7, 7, 1, 3, 3, 2, 0],
    [2, 8, 5, 3, 2, 3, 2, 1],
    [5, 4, 4, 17, 3, 2, 1, 1],
    [13, 3, 3, 2, 2, 3, 3, 2],
    [2, 9, 4, 5, 16, 4, 3, 3],
    [25, 6, 6, 4, 3, 3, 1, 1],
    [2, 5, 6, 3, 4, 1, 2, 0],
];

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

/// Holds a kernel and its reference together: values, and gradients of the sum of squares.
fn check_against(arguments: &[Var], kernel: Result<Tensor>, reference: Result<Tensor>, what: &str) {
    let (kernel, reference) = (kernel.expect(what), reference.expect(what));
    assert_eq!(kernel.shape(), reference.shape(), "{what}");
    let gradient = |y: &Tensor| y.sqr().and_then(|y| y.sum_all()?.backward()).expect(what);
    let (of_kernel, of_reference) = (gradient(&kernel), gradient(&reference));
    let mut pairs = vec![(values(&kernel), values(&reference))];
    for argument in arguments {
        let [a, b] = [&of_kernel, &of_reference].map(|all| values(all.get(argument.as_tensor()).expect("tracked")));
        pairs.push((a, b));
    }
    for (a, b) in pairs.iter().flat_map(|(a, b)| a.iter().zip(b)) {
        assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{what}, seed {SEED}: {a} {b}");
    }
}

#[test]
fn kernels_and_their_references_of_candle_operations_agree() {
    for (pool, relu) in [(1, true), (2, false), (2, true), (3, true)] {
        let mut stream = stream();
        let arguments = [&[7, 7, 9, 3][..], &[3, 3, 3, 5], &[5]].map(|shape| random(&mut stream, shape));
        let layer = ConvLayer { epilogue: Epilogue::Pool { relu, size: pool }, ..plain(1, 1) };
        let [x, weight, bias] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let reference = reference::conv(x, weight, bias, layer);
        check_against(
            &arguments,
            conv(x, weight, bias, layer, None),
            reference,
            &format!("conv, pool {pool}, relu {relu}"),
        );
    }
    for (relu, [h, w, out, stride]) in [(false, [9, 5, 6, 2]), (true, [5, 5, 20, 1]), (true, [12, 11, 34, 1])] {
        let mut stream = stream();
        let arguments = [&[7, h, w, 3][..], &[3, 3, 3, out], &[3 * out]].map(|shape| random(&mut stream, shape));
        let layer = ConvLayer { epilogue: Epilogue::Norm { groups: 2, relu }, ..plain(stride, 1) };
        let [x, weight, affine] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let reference = reference::conv(x, weight, affine, layer);
        check_against(
            &arguments,
            conv(x, weight, affine, layer, None),
            reference,
            &format!("conv and norm, relu {relu}"),
        );
    }
    for relu in [false, true] {
        let mut stream = stream();
        let arguments = [&[9, 70][..], &[70, 130], &[130]].map(|shape| random(&mut stream, shape));
        let [x, weight, bias] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let reference = reference::linear(x, weight, bias, relu);
        check_against(
            &arguments,
            linear(x, weight, bias, relu, true, None),
            reference,
            &format!("linear, relu {relu}"),
        );
        let arguments = [&[5, 3, 7, 8][..], &[8], &[8]].map(|shape| random(&mut stream, shape));
        let [x, scale, shift] = [0, 1, 2].map(|i| arguments[i].as_tensor());
        let reference = reference::group_norm(x, scale, shift, 4, relu);
        check_against(&arguments, group_norm(x, scale, shift, 4, relu), reference, &format!("group norm, relu {relu}"));
        let x = random(&mut stream, &[3, 5, 7, 2]);
        let reference = reference::max_pool(x.as_tensor(), 2);
        check_against(std::slice::from_ref(&x), max_pool(x.as_tensor(), 2), reference, "max pool");
        let x = random(&mut stream, &[4, 6]);
        let reference = reference::cross_entropy(x.as_tensor(), &[5, 0, 2, 2]);
        check_against(
            std::slice::from_ref(&x),
            cross_entropy(x.as_tensor(), &[5, 0, 2, 2]),
            reference,
            "cross-entropy",
        );
    }
}

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
                check_against(&arguments, conv(x, weight, bias, layer, None), apart(size, relu), &what);
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
                check_against(&arguments, conv(x, weight, affine, layer, None), apart(groups, relu), &what);
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
        check_against(&arguments, residual(x, weights, affine, block), reference, &what);
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
fn pooling_takes_maxima_and_sends_gradients_to_them_alone() {
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
fn group_norm_gives_mean_zero_and_variance_one_a_group_and_right_gradients() {
    let mut stream = stream();
    let x = random(&mut stream, &[3, 3, 5, 6]);
    let ones = Tensor::ones(6, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
    let zeros = ones.zeros_like().expect("a tensor");
    let y = group_norm(x.as_tensor(), &ones, &zeros, 2, false).expect("possible");
    let first: Vec<f32> = values(&y)[..90].chunks(3).step_by(2).flatten().copied().collect();
    let mean = first.iter().sum::<f32>() / first.len() as f32;
    let variance = first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32;
    assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
    for groups in [1, 2, 3, 6] {
        let arguments = [x.clone(), random(&mut stream, &[6]), random(&mut stream, &[6])];
        let f = |t: &[Tensor]| group_norm(&t[0], &t[1], &t[2], groups, false);
        check_gradients(&arguments, f, &format!("group norm of {groups}"));
    }
}

#[test]
fn cross_entropy_is_that_of_the_definition_and_its_gradient_that_of_differences() {
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
    check_gradients(std::slice::from_ref(&logits), |t| cross_entropy(&t[0], &labels), "cross-entropy");
    assert!(cross_entropy(logits.as_tensor(), &[0, 7, 0, 0, 0]).is_err());
    assert!(cross_entropy(logits.as_tensor(), &[0; 4]).is_err());
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

#[test]
fn kernels_give_the_same_bits_for_any_number_of_threads() {
    let run = |count: usize| {
        Threads::new(count).expect("threads").run(|| {
            let mut stream = stream();
            let [x, weight, bias] = [&[50, 9, 8, 5][..], &[3, 3, 5, 6], &[6]].map(|shape| random(&mut stream, shape));
            let layer = ConvLayer { epilogue: Epilogue::Pool { relu: true, size: 2 }, ..plain(1, 1) };
            let y = conv(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), layer, None).expect("possible");
            let gradients = y.sqr().and_then(|y| y.sum_all()?.backward()).expect("tracked");
            let all = [&x, &weight, &bias].map(|var| values(gradients.get(var.as_tensor()).expect("tracked")));
            all.concat().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!((2..=4).all(|count| run(count) == one));
}

#[test]
fn a_step_moves_a_variable_by_its_factor() {
    let variable = Var::from_vec(vec![1f32, 2.0], 2, &Device::Cpu).expect("a tensor");
    let step = Tensor::from_vec(vec![10f32, -10.0], 2, &Device::Cpu).expect("a tensor");
    sgd::add_scaled(&variable, &step, -0.1).expect("possible");
    assert_eq!(values(variable.as_tensor()), [0.0, 3.0]);
}
