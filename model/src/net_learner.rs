//! The learner that every node has: the nets of the run file, on labelled images or the rows of a table.

use std::sync::Arc;

use candle_core::Device;

use crate::data::{DataSet, Examples, Partition, Preprocess};
use crate::evaluate::{EvaluationJob, evaluate};
use crate::format::Layout;
use crate::learner::{Learner, Measure, Task, Watch};
use crate::net::Model;
use crate::rule::Rule;
use crate::spec::NetSpec;
use crate::threads::Threads;
use crate::train::{TrainConfig, TrainError, TrainJob, Trained, train};

/// A net, examples, and how to train the one on the others.
#[derive(Debug, Clone)]
pub struct NetLearner {
    /// The net.
    pub spec: NetSpec,
    /// How an example becomes the net's input.
    pub preprocess: Preprocess,
    /// How to train.
    pub config: TrainConfig,
    /// How the examples are divided into parts.
    pub partition: Partition,
    /// The run's seed, which that division goes by.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
    /// What to train on.
    pub train: Arc<Examples>,
    /// What to test with.
    pub test: Arc<Examples>,
    /// The net's parameters.
    pub layout: Layout,
}

impl NetLearner {
    /// The same with other examples.
    pub fn with(&self, data: DataSet) -> Self {
        Self { train: Arc::new(data.train), test: Arc::new(data.test), ..self.clone() }
    }
}

impl Learner for NetLearner {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initial(&self, seed: u64) -> Result<Vec<u8>, TrainError> {
        Ok(Model::initial(&self.spec, &Device::Cpu, seed)?.to_bytes()?)
    }

    fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        let job = TrainJob {
            task: *task,
            spec: &self.spec,
            preprocess: self.preprocess,
            data: &self.train,
            config: &self.config,
            device: &self.device,
        };
        train(&job, threads, watch)
    }

    fn evaluate(&self, weights: &[u8], threads: &Threads, watch: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
        if self.test.is_empty() {
            return Ok(Vec::new());
        }
        let (spec, device) = (&self.spec, &self.device);
        let job = EvaluationJob { spec, preprocess: self.preprocess, weights, data: &self.test, device };
        let found = evaluate(&job, threads, watch)?.evaluation;
        // A model whose outputs are no numbers has no loss, and is none the less right or wrong.
        let mean = |name, mean: f64| {
            let sum = mean * found.total as f64;
            (sum.abs() <= SUM_MAX).then(|| Measure::new(name, sum, found.total))
        };
        let mut all = match (found.error, self.test.numbers()) {
            // In deviations, which fit whatever the number's unit is.
            (Some(error), Some((_, unit))) => vec![mean(MEAN_ERROR, error / unit), mean(RMSE, found.loss)],
            _ => vec![Some(Measure::new(ACCURACY, found.correct as f64, found.total))],
        };
        all.push(mean("loss", found.loss));
        Ok(all.into_iter().flatten().collect())
    }

    fn part(&self, k: usize, n: usize) -> Result<Box<dyn Learner>, TrainError> {
        let part = self.train.part(k, n, &self.partition, self.seed);
        let train = Arc::new(part.map_err(|error| TrainError::Invalid(error.to_string()))?);
        Ok(Box::new(Self { train, ..self.clone() }))
    }

    fn takes(&self, _: &Rule) -> bool {
        true
    }
}

/// The metric of nets that tell classes apart: what share of the examples they name right.
pub const ACCURACY: &str = "accuracy";

/// The metric of nets that learn a number: how far they are off in the mean. Records have it in deviations.
pub const MEAN_ERROR: &str = "mean_error";

/// Another: the root of the mean squared error, likewise.
pub const RMSE: &str = "rmse";

/// Largest sum of losses or errors that is told.
const SUM_MAX: f64 = 1e12;
