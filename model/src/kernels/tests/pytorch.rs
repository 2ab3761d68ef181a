//! Losses and gradients of whole nets against those that PyTorch computes in double precision
//! (`model/tests/fixtures/make.py`).

use crate::kernels::loss::cross_entropy;
use crate::net::{Mode, Model};
use crate::random_stream::{Purpose, RandomStream, StreamKey};
use crate::spec::{Layer, NetSpec};
use candle_core::{Device, Tensor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixtures {
    nets: Vec<Net>,
}

#[derive(Deserialize)]
struct Net {
    name: String,
    loss: f64,
    gradients: Vec<Gradient>,
}

#[derive(Deserialize)]
struct Gradient {
    norm: f64,
    step: usize,
    elements: Vec<f64>,
}

/// As `value` of the script: a number in [-1, 1) with 10 fractional bits.
fn value(tensor: u64, index: u64) -> f32 {
    let mixed = (index * 2_654_435_761 + tensor * 40_503 + 12_345) % (1 << 32);
    let mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) % (1 << 32);
    let mixed = (mixed ^ (mixed >> 13)) % 2048;
    (mixed as f32 - 1024.0) / 1024.0
}

fn conv(out: usize, kernel: usize, stride: usize) -> Layer {
    Layer::Conv { out, kernel, stride, pad: kernel / 2 }
}

/// Images [n, h, w, c], classes and layers of the script's nets.
fn net(name: &str) -> ([usize; 4], usize, Vec<Layer>) {
    use Layer::{GlobalAvgPool, GroupNorm, Linear, MaxPool, Relu, Residual};
    match name {
        "conv and linear" => ([3, 8, 7, 2], 5, vec![conv(4, 5, 1), Relu, MaxPool { size: 2 }, Linear { out: 5 }]),
        "stride and group norm" => {
            ([4, 9, 6, 3], 4, vec![conv(6, 3, 2), GroupNorm { groups: 3 }, Relu, Linear { out: 4 }])
        }
        "residual" => {
            let blocks = [(4, 1), (6, 2)].map(|(out, stride)| Residual { out, stride, groups: 2 });
            ([3, 6, 6, 4], 3, [&blocks[..], &[GlobalAvgPool, Linear { out: 3 }]].concat())
        }
        "two hidden layers" => {
            let hidden = |out| [Linear { out }, Relu];
            ([5, 4, 4, 1], 4, [&hidden(9)[..], &hidden(7), &[Linear { out: 4 }]].concat())
        }
        other => panic!("the script has a net that this test doesn't know: {other}"),
    }
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let fixtures: Fixtures =
        serde_json::from_str(include_str!("../../../tests/fixtures/pytorch.json")).expect("the script wrote it");
    assert_eq!(fixtures.nets.len(), 4);
    for Net { name, loss, gradients } in fixtures.nets {
        let ([n, h, w, c], classes, layers) = net(&name);
        let spec = NetSpec { input: [c, h, w], classes, layers };
        let shapes = spec.parameters().expect("a net");
        let parameters = shapes.iter().enumerate().flat_map(|(i, parameter)| {
            let count = parameter.shape.iter().product::<usize>() as u64;
            (0..count).flat_map(move |index| (0.5 * value(i as u64 + 1, index)).to_le_bytes())
        });
        let model = Model::from_bytes(&spec, &Device::Cpu, &parameters.collect::<Vec<u8>>()).expect("its length");
        let pixels: Vec<f32> = (0..(n * h * w * c) as u64).map(|index| value(0, index)).collect();
        let x = Tensor::from_vec(pixels, (n, h, w, c), &Device::Cpu).and_then(|x| x.permute((0, 3, 1, 2)));
        let labels: Vec<u16> = (0..n).map(|i| (i * 7 % classes) as u16).collect();
        let mut stream =
            RandomStream::new(&StreamKey { seed: 0, round: 0, node: &[], purpose: Purpose::Dropout, index: 0 });
        let found = x
            .and_then(|x| cross_entropy(&model.forward(&x, Mode::Train(&mut stream))?, &labels))
            .expect("the shapes fit");
        let value = f64::from(found.to_scalar::<f32>().expect("a number"));
        assert!((value - loss).abs() < 1e-5 * loss, "{name}: loss {value}, PyTorch {loss}");
        let all = found.backward().expect("tracked");
        assert_eq!(gradients.len(), model.variables().len());
        for ((expected, variable), shape) in gradients.iter().zip(model.variables()).zip(&shapes) {
            let gradient = all.get(variable.as_tensor()).expect("every parameter has a gradient");
            let gradient: Vec<f32> = gradient.flatten_all().and_then(|g| g.to_vec1()).expect("f32");
            let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            let close = |found: f64, expected: f64| (found - expected).abs() < 2e-5 * (1.0 + expected.abs());
            assert!(close(norm, expected.norm), "{name}, {}: norm {norm}, PyTorch {}", shape.name, expected.norm);
            let sampled = gradient.iter().step_by(expected.step);
            assert_eq!(sampled.len(), expected.elements.len());
            for (&found, &expected) in sampled.zip(&expected.elements) {
                assert!(close(f64::from(found), expected), "{name}, {}: {found}, PyTorch {expected}", shape.name);
            }
        }
    }
}
