//! Each kernel by itself, forward and backward, at the sizes of the presets:
//!
//! `CANDLE_NUM_THREADS=1 cargo bench -p paceline-model`, with one thread; `-- NAME` for some of them.
//!
//! What is timed includes the tensors that candle's graph makes around a kernel.

use candle_core::{Device, Result, Tensor, Var};
use divan::Bencher;
use divan::counter::ItemsCount;
use paceline_model::Threads;
use paceline_model::kernels::conv::{ConvLayer, Epilogue, conv};
use paceline_model::kernels::{linear, loss, norm, pool, residual, sgd};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

fn variable(shape: &[usize]) -> Var {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i * 37 % 101) as f32 / 101.0 - 0.5).collect();
    Var::from_vec(values, shape, &Device::Cpu).expect("the lengths agree")
}

/// Times `forward`, or forward and backward, on one thread, counted in images.
fn run(bencher: Bencher<'_, '_>, backward: bool, images: usize, forward: impl Fn() -> Result<Tensor> + Sync) {
    let threads = Threads::new(1).expect("a thread");
    bencher.counter(ItemsCount::new(images)).bench_local(|| {
        threads.run(|| {
            let y = forward().expect("the shapes fit");
            if backward {
                y.backward().expect("tracked");
            }
        });
    });
}

const WAYS: [bool; 2] = [false, true];

/// Batch, side, channels in and out, kernel, pooling or norm.
const CONVS: [(&str, [usize; 5], Epilogue); 6] = [
    ("cifar-cnn 1", [50, 24, 3, 64, 5], Epilogue::Pool { relu: true, size: 2 }),
    ("cifar-cnn 2", [50, 12, 64, 64, 5], Epilogue::Pool { relu: true, size: 2 }),
    ("mnist-cnn 2", [10, 14, 32, 64, 5], Epilogue::Pool { relu: true, size: 2 }),
    ("resnet8 16", [50, 32, 16, 16, 3], Epilogue::Norm { groups: 8, relu: true }),
    ("resnet8 32", [50, 16, 32, 32, 3], Epilogue::Norm { groups: 8, relu: true }),
    ("resnet8 64", [50, 8, 64, 64, 3], Epilogue::Norm { groups: 8, relu: true }),
];

#[divan::bench(args = CONVS.map(|(name, ..)| name), consts = WAYS)]
fn convolution<const BACKWARD: bool>(bencher: Bencher<'_, '_>, name: &str) {
    let Some((_, [n, side, inputs, out, kernel], epilogue)) = CONVS.into_iter().find(|(other, ..)| *other == name)
    else {
        return;
    };
    let affine = if matches!(epilogue, Epilogue::Norm { .. }) { 3 * out } else { out };
    let [x, weight, affine] = [&[n, side, side, inputs][..], &[kernel, kernel, inputs, out], &[affine]].map(variable);
    let layer = ConvLayer { stride: 1, pad: kernel / 2, epilogue, input_gradient: inputs > 3 };
    run(bencher, BACKWARD, n, || conv(x.as_tensor(), weight.as_tensor(), affine.as_tensor(), layer, None));
}

#[divan::bench(args = [(10, 3136, 512), (50, 3136, 512), (50, 2304, 384)], consts = WAYS)]
fn fully_connected<const BACKWARD: bool>(bencher: Bencher<'_, '_>, (n, inputs, out): (usize, usize, usize)) {
    let [x, weight, bias] = [&[n, inputs][..], &[inputs, out], &[out]].map(variable);
    run(bencher, BACKWARD, n, || linear::linear(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), true, true, None));
}

#[divan::bench(args = [(32, 16), (8, 64)], consts = WAYS)]
fn group_norm<const BACKWARD: bool>(bencher: Bencher<'_, '_>, (side, channels): (usize, usize)) {
    let [x, scale, shift] = [&[50, side, side, channels][..], &[channels], &[channels]].map(variable);
    run(bencher, BACKWARD, 50, || norm::group_norm(x.as_tensor(), scale.as_tensor(), shift.as_tensor(), 8, true));
}

#[divan::bench(args = [(24, 64), (28, 32)], consts = WAYS)]
fn max_pool<const BACKWARD: bool>(bencher: Bencher<'_, '_>, (side, channels): (usize, usize)) {
    let x = variable(&[50, side, side, channels]);
    run(bencher, BACKWARD, 50, || pool::max_pool(x.as_tensor(), 2));
}

/// Side, channels in and out, stride: the blocks of `resnet8`.
#[divan::bench(args = [(32, 16, 16, 1), (32, 16, 32, 2), (16, 32, 64, 2)], consts = WAYS)]
fn residual_block<const BACKWARD: bool>(
    bencher: Bencher<'_, '_>,
    (side, inputs, out, stride): (usize, usize, usize, usize),
) {
    let shortcut = inputs != out;
    let convs = if shortcut { 3 } else { 2 };
    let weights = 9 * (inputs + out) * out + if shortcut { inputs * out } else { 0 };
    let [x, weights, affine] = [&[50, side, side, inputs][..], &[weights], &[3 * convs * out]].map(variable);
    let block = residual::ResidualLayer { out, stride, groups: 8, shortcut };
    run(bencher, BACKWARD, 50, || residual::residual(x.as_tensor(), weights.as_tensor(), affine.as_tensor(), block));
}

#[divan::bench(consts = WAYS)]
fn cross_entropy<const BACKWARD: bool>(bencher: Bencher<'_, '_>) {
    let (logits, labels) = (variable(&[50, 10]), [3u16; 50]);
    run(bencher, BACKWARD, 50, || loss::cross_entropy(logits.as_tensor(), &labels));
}

/// The step of an optimiser over the largest layer of `mnist-cnn`.
#[divan::bench]
fn sgd_step(bencher: Bencher<'_, '_>) {
    let [weights, step] = [&[3136, 512][..]; 2].map(variable);
    run(bencher, false, 1, || {
        sgd::add_scaled(&weights, step.as_tensor(), -0.01)?;
        Ok(weights.as_detached_tensor())
    });
}
