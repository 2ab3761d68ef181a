//! What the kernels are held to, a file a claim.

mod definition;
mod differences;
mod joined;
mod pytorch;
mod reference;
mod threads;

use super::conv::{ConvLayer, Epilogue};
use crate::random_stream::{Purpose, RandomStream, StreamKey};
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

fn plain(stride: usize, pad: usize) -> ConvLayer {
    ConvLayer { stride, pad, epilogue: Epilogue::NONE, input_gradient: true }
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

/// Compares the values of a kernel with those of what it is held to, and the gradients of the sums of their squares.
fn check_equal(arguments: &[Var], found: Result<Tensor>, expected: Result<Tensor>, what: &str) {
    let (found, expected) = (found.expect(what), expected.expect(what));
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let gradient = |y: &Tensor| y.sqr().and_then(|y| y.sum_all()?.backward()).expect(what);
    let (of_found, of_expected) = (gradient(&found), gradient(&expected));
    let mut pairs = vec![(values(&found), values(&expected))];
    for argument in arguments {
        let [a, b] = [&of_found, &of_expected].map(|all| values(all.get(argument.as_tensor()).expect("tracked")));
        pairs.push((a, b));
    }
    for (a, b) in pairs.iter().flat_map(|(a, b)| a.iter().zip(b)) {
        assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{what}, seed {SEED}: {a} {b}");
    }
}
