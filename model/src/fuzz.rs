//! What must hold for any bytes that come to this crate: a function a target. `fuzz/` looks for bytes that break it, and the
//! tests below try those that are kept there.
//!
//! Each takes bytes, and panics where the crate does or something does not hold that must.

use crate::exact::{CONTRIBUTIONS_MAX, ExactSum, SAMPLES_MAX};
use crate::net::Model;
use crate::rule::EVERY_RULE;
use crate::spec::{Layer, NetSpec};
use crate::weights::{DELTA_MAX, check_delta, check_weights, values};
use candle_core::Device;

pub use crate::data::fuzz::{cifar, mnist, picture, table};

/// Weights, deltas and states, as they come from other nodes: what is taken has the right length and sane values, goes into a
/// sum that no order changes, and gives a state that is taken again, or an error.
pub fn weights(bytes: &[u8]) {
    let [rule, samples, cut, bytes @ ..] = bytes else { return };
    let rule = EVERY_RULE[usize::from(*rule) % EVERY_RULE.len()];
    let (state, updates) = bytes.split_at(4 * (usize::from(*cut) % 16) * rule.state_sections() % bytes.len().max(1));
    let parameters = state.len() / 4 / rule.state_sections();
    let takes_state = rule.check_state(state, parameters).is_ok();
    assert_eq!(takes_state && parameters > 0, takes_state && !state.is_empty());
    assert!(!takes_state || values(rule.weights(state)).all(f32::is_finite));
    let len = parameters * rule.update_sections();
    let deltas: Vec<&[u8]> = updates.chunks((4 * len).max(1)).take(8).collect();
    let weight = |index: usize| (u64::from(*samples) + index as u64) << (samples & 15);
    let mut sum = ExactSum::new(len);
    for (index, delta) in deltas.iter().enumerate() {
        let takes = check_delta(delta, len).is_ok();
        assert!(!takes || values(delta).all(|value| value.abs() <= DELTA_MAX) && check_weights(delta, len).is_ok());
        let added = sum.add(delta, weight(index)).is_ok();
        assert_eq!(added, takes && (1..=SAMPLES_MAX).contains(&weight(index)));
    }
    let mut backwards = ExactSum::new(len);
    for (index, delta) in deltas.iter().enumerate().rev() {
        // What is refused now was refused before.
        let _ = backwards.add(delta, weight(index));
    }
    assert_eq!(sum, backwards, "the order of arrival changes the sum");
    assert!(sum.contributions() <= CONTRIBUTIONS_MAX);
    if let Ok(next) = rule.step(state, &sum, u64::from(*samples)) {
        assert!(takes_state && sum.contributions() > 0);
        assert!(rule.check_state(&next, parameters).is_ok(), "{rule:?} makes a state that nobody takes");
    }
    net(state);
}

/// A net takes the bytes that are weights of it, and gives them back.
fn net(bytes: &[u8]) {
    let spec = NetSpec { input: [1, 2, 1], classes: 1, layers: vec![Layer::Linear { out: 1 }] };
    let count = spec.parameter_count().expect("a net of one layer");
    let model = Model::from_bytes(&spec, &Device::Cpu, bytes);
    assert_eq!(model.is_ok(), check_weights(bytes, count).is_ok());
    if let Ok(model) = model {
        assert_eq!(model.to_bytes().expect("memory is there"), bytes);
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fuzz as files;

    replay::tests!(seeds(), weights, cifar, mnist, picture, table);

    /// Real values for each target to begin with.
    fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let floats = |count: u8| (0..count).flat_map(|i| (f32::from(i) / 8.0).to_le_bytes()).collect::<Vec<u8>>();
        let weights = (0..6u8).map(|rule| ("weights", [&[rule, 3, 2], &floats(40)[..]].concat()));
        weights.chain(files::seeds()).collect()
    }
}
