//! What a simulation came to.

use super::curve::{best_so_far, rounds_to};
use crate::report::Round;
use crate::run_file::Metrics;

/// The ranks of the leading metric after each round; of a round without it, less than any.
pub(super) fn ranks(rounds: &[Round], metrics: &Metrics) -> impl Iterator<Item = f64> {
    let value = |round: &Round| round.metrics.get(&metrics.lead).copied();
    rounds.iter().map(move |round| value(round).map_or(f64::NEG_INFINITY, |value| metrics.rank(value)))
}

/// What was reached by all starts together, and how fast this start was.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary<'a> {
    /// Rounds that are finished, those of earlier starts included.
    pub rounds: usize,
    /// The leading metric.
    pub lead: &'a str,
    /// Its best value; `None` where it was not measured.
    pub best: Option<f64>,
    /// The value that was to be reached.
    pub target: Option<Target>,
    /// What this start did; `None` if nothing.
    pub here: Option<Here<'a>>,
}

/// A value of the leading metric that a simulation was to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Which.
    pub value: f64,
    /// Rounds after which it was reached, between two rounds as McMahan et al. interpolate.
    pub reached_after: Option<f64>,
}

/// The rounds of this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here<'a> {
    /// How many.
    pub rounds: usize,
    /// Epochs that all clients trained, added up.
    pub client_epochs: usize,
    /// The hash of the model after them.
    pub model: &'a str,
}

impl<'a> Summary<'a> {
    /// Of all rounds, with so many before this start, where a client trains so many epochs a round.
    pub(super) fn of(
        rounds: &'a [Round],
        metrics: &'a Metrics,
        before: usize,
        epochs: usize,
        until: Option<f64>,
    ) -> Self {
        let values = || ranks(rounds, metrics);
        let best = best_so_far(values()).last().filter(|best| best.is_finite());
        let here = &rounds[before..];
        Self {
            rounds: rounds.len(),
            lead: &metrics.lead,
            best: best.map(|best| metrics.rank(best)),
            target: until.map(|value| Target { value, reached_after: rounds_to(metrics.rank(value), values()) }),
            here: here.last().map(|last| Here {
                rounds: here.len(),
                client_epochs: here.iter().map(|round| round.contributions.len()).sum::<usize>() * epochs,
                model: &last.model_hash,
            }),
        }
    }
}
