//! Initial values: a function of the run's seed alone, the same bits on every CPU.

use crate::random_stream::{Purpose, RandomStream, StreamKey};
use crate::spec::ParamShape;

/// The initial values of the net's parameter number `index`, from 0.
///
/// Weights and biases are uniform in ±1/sqrt(fan in) (LeCun et al. 1998, section 4.6; the width is that of PyTorch's
/// defaults), scales are 1 and shifts 0. Each parameter draws from its own ChaCha20 stream. Only a square root, a
/// division and products are used, which IEEE 754 rounds exactly.
pub(crate) fn values(parameters: &[ParamShape], index: usize, seed: u64) -> Vec<f32> {
    let parameter = &parameters[index];
    let len = parameter.shape.iter().product();
    if parameter.name.ends_with(".scale") {
        return vec![1.0; len];
    }
    if parameter.name.ends_with(".shift") {
        return vec![0.0; len];
    }
    // A bias follows the weight of its layer and shares its fan-in, all dimensions but the last.
    let weight = if parameter.name.ends_with(".bias") { &parameters[index - 1] } else { parameter };
    let fan_in: usize = weight.shape[..weight.shape.len() - 1].iter().product();
    let bound = (1.0 / (fan_in as f64).sqrt()) as f32;
    let mut stream =
        RandomStream::new(&StreamKey { seed, round: 0, node: &[], purpose: Purpose::Init, index: index as u64 });
    (0..len).map(|_| (stream.unit() * 2.0 - 1.0) * bound).collect()
}
