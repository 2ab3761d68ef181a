//! What a simulation came to.

use super::curve::{best_so_far, rounds_to};
use crate::report::Round;

/// What was reached by all starts together, and how fast this start was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary<'a> {
    /// Rounds that are finished, those of earlier starts included.
    pub(crate) rounds: usize,
    /// From 0 to 1.
    pub(crate) best_accuracy: f64,
    /// The accuracy that was to be reached.
    pub(crate) target: Option<Target>,
    /// What this start did; `None` if nothing.
    pub(crate) here: Option<Here<'a>>,
}

/// An accuracy that a simulation was to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// From 0 to 1.
    pub(crate) accuracy: f64,
    /// Rounds after which it was reached, between two rounds as McMahan et al. interpolate.
    pub(crate) reached_after: Option<f64>,
}

/// The rounds of this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Here<'a> {
    pub(crate) rounds: usize,
    /// Epochs that all clients trained, added up.
    pub(crate) client_epochs: usize,
    /// The hash of the model after them.
    pub(crate) model: &'a str,
}

impl<'a> Summary<'a> {
    /// Of all rounds, with so many before this start, where a client trains so many epochs a round.
    pub(super) fn of(rounds: &'a [Round], before: usize, epochs: usize, until: Option<f64>) -> Self {
        let accuracies = || rounds.iter().map(|round| round.accuracy.unwrap_or(0.0));
        let here = &rounds[before..];
        Self {
            rounds: rounds.len(),
            best_accuracy: best_so_far(accuracies()).last().unwrap_or(0.0),
            target: until.map(|accuracy| Target { accuracy, reached_after: rounds_to(accuracy, accuracies()) }),
            here: here.last().map(|last| Here {
                rounds: here.len(),
                client_epochs: here.iter().map(|round| round.contributions.len()).sum::<usize>() * epochs,
                model: &last.model_hash,
            }),
        }
    }
}
