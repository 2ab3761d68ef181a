//! What travels of a model: its tensors by name, the state of a run, the updates of its clients.
//!
//! A [`Layout`] says which tensors there are. A state and an update are bytes whose meaning their formats know, here and
//! nowhere else: raw little-endian f32 in sections of one value a parameter, as the rule of aggregation wants them.

use crate::exact::ExactSum;
use crate::rule::Rule;
use crate::spec::{PARAMETERS_MAX, ParamShape};
use crate::weights::{self, DELTA_MAX, WeightsError};

/// Tensors of a model at most.
pub const TENSORS_MAX: usize = 1 << 14;

/// Bytes of a tensor's name.
pub const TENSOR_NAME_BYTES_MAX: usize = 256;

/// The tensors of a model whose values travel, in the order of their values: all f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<ParamShape>,
    parameters: usize,
}

/// Why tensors are no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// None, or too many.
    #[error("{0} tensors: from 1 to {TENSORS_MAX}")]
    Count(usize),
    /// A name that is empty, too long, not printable, or there twice.
    #[error(
        "a tensor is called {0:?}: names are printable, at most {TENSOR_NAME_BYTES_MAX} bytes, and each stands once"
    )]
    Name(String),
    /// More values than a model may have, or none in a tensor.
    #[error(
        "tensor `{name}` of shape {shape:?}: from 1 value on, and at most {PARAMETERS_MAX} in all tensors together"
    )]
    Size {
        /// Its name.
        name: String,
        /// Its dimensions.
        shape: Vec<usize>,
    },
}

impl Layout {
    /// Of these tensors.
    ///
    /// # Errors
    /// None or too many of them, names that are none, or too many values.
    pub fn new(tensors: Vec<ParamShape>) -> Result<Self, LayoutError> {
        if !(1..=TENSORS_MAX).contains(&tensors.len()) {
            return Err(LayoutError::Count(tensors.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut parameters = 0usize;
        for ParamShape { name, shape } in &tensors {
            let is_name = (1..=TENSOR_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
            if !is_name || !names.insert(name) {
                return Err(LayoutError::Name(name.clone()));
            }
            let size = || LayoutError::Size { name: name.clone(), shape: shape.clone() };
            let values = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).ok_or_else(size)?;
            parameters = parameters.checked_add(values).filter(|all| *all <= PARAMETERS_MAX).ok_or_else(size)?;
            if values == 0 {
                return Err(size());
            }
        }
        Ok(Self { tensors, parameters })
    }

    /// The tensors.
    pub fn tensors(&self) -> &[ParamShape] {
        &self.tensors
    }

    /// Values of all tensors together.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The weights of each tensor, of bytes that hold all of them.
    pub fn split<'a>(&'a self, weights: &'a [u8]) -> impl Iterator<Item = (&'a ParamShape, &'a [u8])> {
        let mut rest = weights;
        self.tensors.iter().map(move |tensor| {
            let (own, behind) = rest.split_at((4 * tensor.len()).min(rest.len()));
            rest = behind;
            (tensor, own)
        })
    }

    /// The tensor that a value is in, and its place there.
    fn place(&self, index: usize) -> (&str, usize) {
        let mut first = 0;
        let ends = |tensor: &&ParamShape| {
            first += tensor.len();
            first > index
        };
        match self.tensors.iter().find(ends) {
            Some(tensor) => (&tensor.name, index + tensor.len() - first),
            None => ("", index),
        }
    }

    /// The update of a training that led from the old weights to new ones: each value by how much it moved.
    ///
    /// # Errors
    /// A value is not finite or moves too far: its tensor is named.
    pub fn update(&self, old: &[u8], new: &[u8]) -> Result<Vec<u8>, String> {
        let mut update = Vec::with_capacity(old.len());
        for (index, (new, old)) in weights::values(new).zip(weights::values(old)).enumerate() {
            let delta = new - old;
            if delta.abs() > DELTA_MAX || delta.is_nan() {
                let (tensor, place) = self.place(index);
                return Err(format!(
                    "value {place} of tensor `{tensor}` went from {old} to {new}: it must be finite, and move by at most {DELTA_MAX}"
                ));
            }
            update.extend_from_slice(&delta.to_le_bytes());
        }
        Ok(update)
    }
}

/// The format of a run's states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateFormat {
    /// The rule of aggregation, which keeps values of its own beside the weights.
    pub rule: Rule,
    /// Values of all tensors together.
    pub parameters: usize,
}

impl StateFormat {
    /// Bytes of a state.
    pub fn len(&self) -> u64 {
        4 * (self.parameters * self.rule.state_sections()) as u64
    }

    /// Whether a state has no bytes at all, which no layout gives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks foreign bytes.
    ///
    /// # Errors
    /// Another length, or values that no state has.
    pub fn check(&self, state: &[u8]) -> Result<(), WeightsError> {
        self.rule.check_state(state, self.parameters)
    }

    /// The state that a run with these weights begins with.
    pub fn initial(&self, weights: Vec<u8>) -> Vec<u8> {
        self.rule.initial_state(weights)
    }

    /// The weights of a state.
    pub fn weights<'a>(&self, state: &'a [u8]) -> &'a [u8] {
        self.rule.weights(state)
    }
}

/// The format of a run's updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateFormat {
    /// The rule of aggregation, which may want more than weights.
    pub rule: Rule,
    /// Values of all tensors together.
    pub parameters: usize,
}

impl UpdateFormat {
    fn values(&self) -> usize {
        self.parameters * self.rule.update_sections()
    }

    /// Bytes of an update.
    pub fn len(&self) -> u64 {
        4 * self.values() as u64
    }

    /// Whether an update has no bytes at all, which no layout gives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks foreign bytes.
    ///
    /// # Errors
    /// Another length, or values that no update has.
    pub fn check(&self, update: &[u8]) -> Result<(), WeightsError> {
        weights::check_delta(update, self.values())
    }

    /// The sum of no updates.
    pub fn sum(&self) -> ExactSum {
        ExactSum::new(self.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize]) -> ParamShape {
        ParamShape { name: name.to_owned(), shape: shape.to_vec() }
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_layout_counts_the_values_of_its_tensors() {
        let layout = Layout::new(vec![tensor("a", &[2, 3]), tensor("b", &[])]).expect("it is sound");
        assert_eq!(layout.parameters(), 7);
        let weights = bytes(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let lens: Vec<usize> = layout.split(&weights).map(|(_, own)| own.len()).collect();
        assert_eq!(lens, [24, 4]);
    }

    #[test]
    fn tensors_without_a_name_of_their_own_or_of_impossible_size_are_refused() {
        for wrong in [
            vec![],
            vec![tensor("", &[1])],
            vec![tensor("a", &[1]), tensor("a", &[1])],
            vec![tensor("a\n", &[1])],
            vec![tensor("a", &[0])],
            vec![tensor("a", &[usize::MAX, 2])],
            vec![tensor("a", &[PARAMETERS_MAX]), tensor("b", &[1])],
        ] {
            assert!(Layout::new(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_update_is_new_less_old_and_a_value_that_left_all_bounds_is_named() {
        let layout = Layout::new(vec![tensor("a", &[2]), tensor("fc.bias", &[2])]).expect("it is sound");
        let old = bytes(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(layout.update(&old, &bytes(&[1.5, 2.0, 2.0, 20.0])), Ok(bytes(&[0.5, 0.0, -1.0, 16.0])));
        for bad in [f32::NAN, f32::INFINITY, 20.5] {
            let error = layout.update(&old, &bytes(&[1.0, 2.0, 3.0, bad])).expect_err("it left all bounds");
            assert!(error.starts_with("value 1 of tensor `fc.bias` went from 4 to "), "{error}");
        }
    }
}
