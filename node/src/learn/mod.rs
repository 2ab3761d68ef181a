//! The learning side of a node: its data, the trainer's thread, and the aggregator's.
//!
//! The run file becomes what the model crate understands in `plan`; the [`Trainer`] evaluates and trains when the
//! machine wants it and can be stopped; the [`Aggregator`] checks updates and folds them into the exact sum. Both work on
//! threads of their own and put what they make on disk before they say that it is there.

mod aggregator;
mod basis;
mod control_variates;
mod local_clients;
mod plan;
mod program;
mod trainer;

pub use aggregator::Aggregator;
pub use basis::Basis;
pub use control_variates::{ControlVariateError, ControlVariates};
pub use local_clients::{Client, ClientError, ClientUpdate, LocalClients, Workers};
pub use plan::{Plan, PlanError};
pub(crate) use program::end_all;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use program::trainer_answer;
pub use program::{Hello, HelloNode, HelloRun, Program, ProgramError, ProgramLearner};
pub use trainer::{Job, Outcome, Progress, Trainer, TrainerContext};

use std::sync::Arc;

use paceline_model::{
    Learner, MEAN_ERROR, Measure, RMSE, Rule, StateFormat, TrainError, TunedLearner, UpdateFormat, WeightsError,
};
use paceline_protocol::base::aggregation::Aggregation;
use paceline_protocol::bounds::{BLOB_BYTES_MAX, METRICS_MAX};
use paceline_protocol::chain::{Learned, StopRule};
use paceline_protocol::record::{Evaluation, Metric, Total};
use paceline_protocol::{BlobRef, Reject};

use crate::run_file::{Better, ModelSection, RunFile, Sections};

/// Threads that train where nothing else is asked for: one a core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Why weights are refused, in the protocol's words.
pub(crate) fn reject_of(error: &WeightsError) -> Reject {
    match error {
        WeightsError::WrongLength { .. } => Reject::WrongShape,
        WeightsError::NotFinite { .. } => Reject::NotFinite,
        WeightsError::OutOfRange { .. } => Reject::OutOfRange,
    }
}

/// The formats of a run's states and updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Formats {
    /// Of states.
    pub state: StateFormat,
    /// Of updates.
    pub update: UpdateFormat,
}

/// A state that is too large to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a state of `rule = \"{rule}\"` in [aggregate] has {len} bytes with this net, {BLOB_BYTES_MAX} at most: make a layer \
     smaller or take another rule"
)]
pub struct TooLarge {
    /// The rule.
    pub rule: &'static str,
    /// Bytes of a state.
    pub len: u64,
}

impl Formats {
    /// Under this rule, of so many parameters.
    ///
    /// # Errors
    /// A state is too large to be moved.
    pub fn of(rule: Rule, parameters: usize) -> Result<Self, TooLarge> {
        let formats = Self { state: StateFormat { rule, parameters }, update: UpdateFormat { rule, parameters } };
        match formats.state.len() {
            0..=BLOB_BYTES_MAX => Ok(formats),
            len => Err(TooLarge { rule: rule.name(), len }),
        }
    }

    /// The rule of aggregation.
    pub fn rule(&self) -> &Rule {
        &self.state.rule
    }

    /// How many parameters the net has.
    pub fn parameters(&self) -> usize {
        self.state.parameters
    }

    /// What agreement knows of learning, where this state is the first.
    pub fn learned(&self, run_file: &RunFile, initial_model: BlobRef) -> Learned {
        let aggregation = Aggregation(run_file.learning.aggregation());
        Learned { initial_model, update_len: self.update.len(), aggregation, stop: stop_rule(run_file) }
    }
}

/// A learner as a run file wants it: from these weights on, and with some tensors that stay as they are.
///
/// # Errors
/// The weights are none of the learner's, or `trainable` names none of its tensors.
pub fn tuned(learner: Arc<dyn Learner>, base: Vec<u8>, model: &ModelSection) -> Result<Arc<dyn Learner>, TrainError> {
    if model.weights.is_none() && model.trainable.is_all() {
        return Ok(learner);
    }
    Ok(Arc::new(TunedLearner::new(learner, base, model.trainable.clone())?))
}

/// The value of a metric over several nodes: the ratio of its sum to its count, from which two metrics are made that are no
/// ratios. Of a `perplexity` the ratio is a mean loss in nats, of an `rmse` a mean squared error.
///
/// Errors of a number that the run file describes are in deviations, so that they fit records whatever its unit is; `unit` is
/// what a deviation is, and 1 elsewhere ([`Sections::unit`](crate::run_file::Sections::unit)).
pub fn figure(name: &str, total: Total, unit: f64) -> Option<f64> {
    let ratio = total.ratio()?;
    let value = match name {
        "perplexity" => ratio.exp(),
        RMSE => unit * ratio.sqrt(),
        MEAN_ERROR => unit * ratio,
        _ => ratio,
    };
    value.is_finite().then_some(value)
}

/// When a run ends before its rounds do, in the terms of records.
pub fn stop_rule(run_file: &RunFile) -> StopRule {
    let Sections { stop, metrics, .. } = &run_file.learning;
    StopRule {
        metric: metrics.lead.clone(),
        higher_is_better: metrics.better == Better::Higher,
        target: stop.target.map(|target| ratio(&metrics.lead, target, run_file.learning.unit())),
        patience: stop.patience,
        time_ms: stop.time_ms,
    }
}

/// The ratio whose [`figure`] this is. Every node must come to the same, whatever its CPU.
fn ratio(name: &str, figure: f64, unit: f64) -> f64 {
    let in_units = figure / unit;
    match name {
        "perplexity" => libm::log(figure),
        RMSE => in_units * in_units,
        MEAN_ERROR => in_units,
        _ => figure,
    }
}

/// What a learner measured, as records have it. What can't be is left out, and told: an update does not hang on it.
pub fn evaluation(measures: &[Measure]) -> Evaluation {
    let mut metrics: Vec<Metric> = Vec::new();
    for m in measures {
        let made = Metric::new(&m.name, m.sum, m.count);
        let fits = |metric: &Metric| Evaluation::of(vec![metric.clone()]).is_plausible();
        match made.filter(fits) {
            None => tracing::warn!(
                "metric {:?} is left out, with a sum of {} and a count of {}: names are of a-z, 0-9 and _, sums within 2^43, and \
                 an accuracy is a share",
                m.name,
                m.sum,
                m.count
            ),
            Some(metric) if metrics.len() >= METRICS_MAX || metrics.iter().any(|other| other.name == metric.name) => {
                tracing::warn!("metric {:?} is left out: it stands twice, or behind {METRICS_MAX} others", m.name);
            }
            Some(metric) => metrics.push(metric),
        }
    }
    Evaluation::of(metrics)
}

#[cfg(test)]
mod tests {
    use paceline_protocol::record::Totals;

    use super::*;

    #[test]
    fn a_target_is_told_in_the_terms_of_records() {
        for (name, value) in [("accuracy", 0.9), ("perplexity", 12.5), (RMSE, 3.0), (MEAN_ERROR, 0.7)] {
            let count = 1 << 20;
            let metric = Metric::new(name, ratio(name, value, 2.0) * count as f64, count).expect("it fits");
            let totals: Totals = [Evaluation::of(vec![metric])].iter().collect();
            let told = figure(name, totals.get(name).expect("it is there"), 2.0).expect("it is a number");
            assert!((told - value).abs() < 1e-6, "{name}: {told} for {value}");
        }
    }

    #[test]
    fn a_perplexity_and_an_rmse_are_made_of_their_ratios_over_all_nodes() {
        let told = |name: &str, parts: &[(f64, u64)]| {
            let evaluation = |(sum, count): &(f64, u64)| evaluation(&[Measure::new(name, *sum, *count)]);
            let all: Vec<Evaluation> = parts.iter().map(evaluation).collect();
            figure(name, all.iter().collect::<Totals>().get(name).expect("all tell it"), 2.0)
        };
        assert_eq!(told("rmse", &[(10.0, 1), (8.0, 1)]), Some(6.0));
        assert_eq!(told("mean_error", &[(10.0, 1), (8.0, 1)]), Some(18.0));
        assert_eq!(told("perplexity", &[(1.5, 1), (0.5, 3)]), Some(0.5f64.exp()));
        assert_eq!(told("f1", &[(3.0, 4), (3.0, 8)]), Some(0.5));
        assert_eq!(told("perplexity", &[(1e6, 1)]), None, "it is no number");
    }

    #[test]
    fn a_metric_that_no_record_takes_is_left_out_and_the_others_stay() {
        let good = Measure::new("loss", 2.0, 4);
        let wrong = [
            Measure::new("mse", 1e13, 4),
            Measure::new("loss2", f64::NAN, 4),
            Measure::new("accuracy", 5.0, 4),
            Measure::new("A name", 1.0, 4),
            Measure::new("loss", 1.0, 4),
        ];
        let all: Vec<Measure> = [good].into_iter().chain(wrong).collect();
        let taken = evaluation(&all);
        assert_eq!((taken.metrics.len(), taken.metrics[0].name.as_str()), (1, "loss"));
        let many: Vec<Measure> = (0..20).map(|i| Measure::new(format!("m{i}"), 1.0, 1)).collect();
        assert_eq!(evaluation(&many).metrics.len(), METRICS_MAX);
    }
}
