//! The seam between learning and everything else: what a node needs of a learner, whoever it is.
//!
//! The nets that come with every node are one ([`crate::NetLearner`]), a candle model of one's own another
//! ([`crate::CandleLearner`]), and a node makes a third of any program that speaks its trainers' protocol.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::format::Layout;
use crate::rule::Rule;
use crate::threads::Threads;
use crate::train::{Progress, TrainError, Trained};
use crate::tuned_learner::Trainable;

/// Hears how far a training or an evaluation is, and can stop it.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// One node's training in one round.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The round, from 1.
    pub round: u64,
    /// The run's seed: with round and node key it fixes every random draw.
    pub seed: u64,
    /// The node key (docs/protocol.md, section 14).
    pub node_key: &'a [u8],
    /// The rule of aggregation, which says what the state holds beside the weights.
    pub rule: &'a Rule,
    /// The global state that training begins with.
    pub state: &'a [u8],
    /// SCAFFOLD: the node's control variate after its last committed update; `None` is all zeros.
    pub control: Option<&'a [u8]>,
    /// Which tensors are trained; the others must stay as they are.
    pub trainable: &'a Trainable,
}

impl<'a> Task<'a> {
    /// One of FedAvg, in which all tensors are trained.
    pub fn plain(round: u64, seed: u64, node_key: &'a [u8], state: &'a [u8]) -> Self {
        Self { round, seed, node_key, rule: &Rule::FedAvg, state, control: None, trainable: Trainable::all() }
    }

    /// The weights that training begins with: raw little-endian f32, in the order of the layout.
    pub fn weights(&self) -> &'a [u8] {
        self.rule.weights(self.state)
    }

    /// What a training that led to these weights comes to.
    ///
    /// # Errors
    /// A value is not finite or moved too far.
    pub fn trained(
        &self,
        layout: &Layout,
        new: &[u8],
        samples: u64,
        train_loss: Option<f64>,
    ) -> Result<Trained, TrainError> {
        let update = layout.update(self.weights(), new).map_err(TrainError::Failed)?;
        Ok(Trained { update, control: None, samples, train_loss })
    }
}

/// One figure of an evaluation: what it is called, a sum, and what the sum is divided by, so that it averages exactly over
/// nodes. An accuracy is the count of what is right and of all; an F1 score twice the true positives, and those and all that
/// was wrong. A `perplexity` is exp of its ratio, a mean loss in nats; an `rmse` the root of its own, a mean squared error.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// `a-z`, `0-9` and `_`, at most 32 bytes.
    pub name: String,
    /// Finite, within ±2^43; kept to 2^-20.
    pub sum: f64,
    /// What the sum is divided by.
    pub count: u64,
}

impl Measure {
    /// A figure of an evaluation.
    pub fn new(name: impl Into<String>, sum: f64, count: u64) -> Self {
        Self { name: name.into(), sum, count }
    }
}

/// Whoever learns. A node calls it from one thread at a time; a simulation from several.
pub trait Learner: Send + Sync + fmt::Debug {
    /// The tensors that travel. All learners of a run have the same.
    fn layout(&self) -> &Layout;

    /// The weights that a run with this seed begins with, raw little-endian f32 in the order of the layout: the same bits
    /// on every machine.
    ///
    /// # Errors
    /// There is not enough memory, or whatever makes them fails.
    fn initial(&self, seed: u64) -> Result<Vec<u8>, TrainError>;

    /// Trains on this node's data. `watch` hears of each step and can stop it, which is [`TrainError::Cancelled`].
    ///
    /// # Errors
    /// It was stopped, or it failed. The round goes on without this update.
    fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError>;

    /// Measures weights on this node's held-out data; nothing where there are none.
    ///
    /// # Errors
    /// It was stopped, or it failed.
    fn evaluate(&self, weights: &[u8], threads: &Threads, watch: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError>;

    /// The same over part K of N of its data, for runs in one process.
    ///
    /// # Errors
    /// There is no such part, or its data can't be divided.
    fn part(&self, k: usize, n: usize) -> Result<Box<dyn Learner>, TrainError> {
        Err(TrainError::Invalid(format!("part {k}/{n}: the data of this learner can't be divided")))
    }

    /// What trains, as the records of its updates say: at most 64 bytes. Empty for what every node has, whose training
    /// others can repeat.
    fn name(&self) -> String {
        String::new()
    }

    /// Whether it can train under this rule: SCAFFOLD needs control variates, which few have.
    fn takes(&self, rule: &Rule) -> bool {
        !rule.has_controls()
    }
}

impl<L: Learner + ?Sized> Learner for Arc<L> {
    fn layout(&self) -> &Layout {
        (**self).layout()
    }

    fn initial(&self, seed: u64) -> Result<Vec<u8>, TrainError> {
        (**self).initial(seed)
    }

    fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        (**self).train(task, threads, watch)
    }

    fn evaluate(&self, weights: &[u8], threads: &Threads, watch: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
        (**self).evaluate(weights, threads, watch)
    }

    fn part(&self, k: usize, n: usize) -> Result<Box<dyn Learner>, TrainError> {
        (**self).part(k, n)
    }

    fn name(&self) -> String {
        (**self).name()
    }

    fn takes(&self, rule: &Rule) -> bool {
        (**self).takes(rule)
    }
}
