//! Local training: what a node does with its own images in a round.
//!
//! FedAvg's client update (McMahan et al. 2017, algorithm 1): from the global model, some epochs of mini-batch SGD
//! over all of the node's images. What leaves is the difference of the weights; with SCAFFOLD (Karimireddy et al.
//! 2020, algorithm 1) that of the node's control variate, too.

use crate::data::{EXAMPLES_MAX, Examples, Preprocess};
use crate::kernels::loss;
use crate::learner::Task;
use crate::local_optimizer::{self, LocalOptimizer};
use crate::net::{Mode, Model, ModelError};
use crate::random_stream::{Purpose, RandomStream, StreamKey};
use crate::rule::Rule;
use crate::spec::NetSpec;
use crate::threads::Threads;
use crate::weights::{self, DELTA_MAX};
use candle_core::{Device, Tensor};
use std::ops::ControlFlow;

/// How a node trains.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainConfig {
    /// Passes over the node's images.
    pub epochs: usize,
    /// Images a step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// Learning rate of round 1.
    pub lr: f64,
    /// What the learning rate is multiplied by each round.
    pub lr_decay: f64,
    /// Share of the last step that is added to the next, in [0, 1); starts anew each round.
    pub momentum: f64,
    /// Weight of the L2 penalty on the parameters.
    pub weight_decay: f64,
    /// What the norm of a step's gradient is cut to (Pascanu et al. 2013); 0 for no limit.
    pub clip_norm: f64,
    /// Weight of the pull towards the global model (FedProx, Li et al. 2020, section 3.2); 0 is FedAvg.
    pub prox_mu: f64,
    /// Whether training images are distorted at random ([`Preprocess`]).
    pub augment: bool,
}

impl TrainConfig {
    /// Plain mini-batch SGD, FedAvg's local training, with the images distorted at random.
    pub const fn sgd(epochs: usize, batch: usize, lr: f64) -> Self {
        Self {
            epochs,
            batch,
            lr,
            lr_decay: 1.0,
            momentum: 0.0,
            weight_decay: 0.0,
            clip_norm: 0.0,
            prox_mu: 0.0,
            augment: true,
        }
    }
}

/// One node's training in one round.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    /// The round, whose state begins with the net's parameters.
    pub task: Task<'a>,
    /// The net.
    pub spec: &'a NetSpec,
    /// How an example becomes the net's input.
    pub preprocess: Preprocess,
    /// The node's training examples, at most [`EXAMPLES_MAX`].
    pub data: &'a Examples,
    /// How to train.
    pub config: &'a TrainConfig,
    /// Where to compute.
    pub device: &'a Device,
}

/// The result of one node's training in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// New minus old weights, and with SCAFFOLD new minus old control variate: raw little-endian f32, every value
    /// within ±16.
    pub update: Vec<u8>,
    /// SCAFFOLD: the node's control variate, should the update be committed.
    pub control: Option<Vec<u8>>,
    /// The node's training images, the weight of its delta.
    pub samples: u64,
    /// Mean loss over all the images seen, before the step that each was part of.
    pub train_loss: Option<f64>,
}

/// How far training or evaluation is, told after each batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Batches of this epoch that are done.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Mean loss of the last batch.
    pub loss: f64,
}

impl Progress {
    /// The share that is done, from 0 to 1; 0 where nobody knows how much there is.
    pub fn share(&self) -> f64 {
        let Self { epoch, epochs, batch, batches, .. } = *self;
        let all = (epochs * batches).max(1) as f64;
        ((epoch.saturating_sub(1) * batches + batch) as f64 / all).min(1.0)
    }
}

/// Why training or evaluation gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The callback asked to stop.
    #[error("stopped before the end")]
    Cancelled,
    /// The loss or a weight left all bounds.
    #[error("training diverged in round {round}, epoch {epoch}, batch {batch} ({what}): lower {lower}")]
    Diverged {
        /// The round, from 1.
        round: u64,
        /// The epoch, from 1.
        epoch: usize,
        /// The batch, from 1.
        batch: usize,
        /// The loss, weight or control variate that went out of bounds.
        what: String,
        /// The run file's settings that may be too large.
        lower: String,
    },
    /// Whoever trains says that it failed, or what it made is no update.
    #[error("{0}")]
    Failed(String),
    /// The data, the net or the settings don't fit together.
    #[error("{0}")]
    Invalid(String),
    /// The model can't be made of the parent's bytes.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed during a step.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// Trains on `job.data`. `on_progress` is called after each batch on the calling thread and can stop the training.
///
/// The result is a function of the job, the same bits for any number of threads on one kind of CPU.
pub fn train(
    job: &TrainJob<'_>,
    threads: &Threads,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    job.check()?;
    let mut model = Model::from_bytes(job.spec, job.device, job.task.weights())?;
    let config = job.config;
    let parameters = job.spec.parameters().map_err(ModelError::Spec)?;
    let trained: Vec<bool> = parameters.iter().map(|parameter| job.task.trainable.has(&parameter.name)).collect();
    model.train_only(job.spec, &trained)?;
    let mut optimizer =
        LocalOptimizer::new(model.variables(), config, job.lr(), local_optimizer::correction(&model, job)?)?;
    let mut order: Vec<u32> = (0..job.data.len() as u32).collect();
    let batches = order.len().div_ceil(config.batch);
    let (mut losses, mut last) = (0f64, (config.epochs, batches));
    for epoch in 1..=config.epochs {
        let mut streams = job.streams(epoch);
        streams.shuffle.shuffle(&mut order);
        for (batch, indices) in order.chunks(config.batch).enumerate() {
            let loss = threads.run(|| step(job, &model, &trained, &mut optimizer, indices, &mut streams))?;
            last = (epoch, batch + 1);
            if !loss.is_finite() {
                return Err(job.diverged(last, format!("the loss is {loss}")));
            }
            losses += loss * indices.len() as f64;
            let progress = Progress { epoch, epochs: config.epochs, batch: batch + 1, batches, loss };
            if on_progress(progress).is_break() {
                return Err(TrainError::Cancelled);
            }
        }
    }
    let mut update = job.delta(&model, last)?;
    let control = match job.task.rule.control(job.task.state) {
        Some(server) => Some(job.control(server, &mut update, config.epochs * batches, last)?),
        None => None,
    };
    let seen = (job.data.len() * config.epochs) as f64;
    Ok(Trained { update, control, samples: job.data.len() as u64, train_loss: Some(losses / seen) })
}

/// The streams of one epoch.
struct Streams {
    shuffle: RandomStream,
    augment: Option<RandomStream>,
    dropout: RandomStream,
}

impl TrainJob<'_> {
    fn check(&self) -> Result<(), TrainError> {
        check_fit(self.spec, self.preprocess, self.data)?;
        let TrainConfig { epochs, batch, lr, lr_decay, momentum, weight_decay, prox_mu, clip_norm, .. } = *self.config;
        let len = 4 * self.spec.parameter_count().map_err(ModelError::Spec)?;
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        let wrong = [
            (epochs == 0, "epochs = 0: at least 1"),
            (batch == 0, "batch = 0: at least 1"),
            (self.data.is_empty(), "there is no example to train on"),
            (self.data.len() > EXAMPLES_MAX, "more examples than a contribution may count"),
            (!(positive(lr) && positive(lr_decay)), "lr and lr_decay must be finite and not negative"),
            (!(0.0..1.0).contains(&momentum), "momentum must be at least 0 and below 1"),
            (
                !(positive(weight_decay) && positive(prox_mu) && positive(clip_norm)),
                "weight_decay, prox_mu and clip_norm must be finite and not negative",
            ),
            (
                self.task.rule.has_controls() && (momentum > 0.0 || self.lr() < f64::from(f32::MIN_POSITIVE)),
                "SCAFFOLD's control variates are means of gradients: momentum must be 0 and lr above 0",
            ),
            (
                self.task.state.len() != len * self.task.rule.state_sections(),
                "the state has another length than the net's",
            ),
            (
                self.task.control.is_some_and(|own| own.len() != len),
                "the control variate has another length than the net's",
            ),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, what)) => Err(TrainError::Invalid((*what).to_owned())),
            None => Ok(()),
        }
    }

    fn streams(&self, epoch: usize) -> Streams {
        let stream = |purpose| {
            let Task { seed, round, node_key: node, .. } = self.task;
            let index = epoch as u64;
            RandomStream::new(&StreamKey { seed, round, node, purpose, index })
        };
        Streams {
            shuffle: stream(Purpose::Shuffle),
            augment: self.config.augment.then(|| stream(Purpose::Augment)),
            dropout: stream(Purpose::Dropout),
        }
    }

    pub(crate) fn lr(&self) -> f64 {
        learning_rate(self.config, self.task.round)
    }

    fn diverged(&self, at: (usize, usize), what: String) -> TrainError {
        diverged(self.config, &self.task, at, what)
    }

    fn delta(&self, model: &Model, last: (usize, usize)) -> Result<Vec<u8>, TrainError> {
        let new = model.to_bytes()?;
        let mut delta = vec![0; new.len()];
        let values = weights::values(&new).zip(weights::values(self.task.state));
        for (place, (new, old)) in delta.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&(new - old).to_le_bytes());
        }
        match weights::first_not(&delta, is_in_range) {
            Some((index, _)) => {
                let weight = |of: &[u8]| weights::values(of).nth(index).unwrap_or(f32::NAN);
                let (old, new) = (weight(self.task.state), weight(&new));
                Err(self.diverged(last, format!("a weight went from {old} to {new}")))
            }
            None => Ok(delta),
        }
    }

    /// Adds to the update the change of the control variate, c_i⁺ - c_i = (x - y)/(K·lr) - c after K steps, and gives
    /// c_i⁺ (Karimireddy et al. 2020, algorithm 1, option II of line 12).
    fn control(
        &self,
        server: &[u8],
        update: &mut Vec<u8>,
        steps: usize,
        last: (usize, usize),
    ) -> Result<Vec<u8>, TrainError> {
        let divisor = steps as f64 * self.lr();
        let mut changes = Vec::with_capacity(server.len());
        let mut new = Vec::with_capacity(server.len());
        let mut own = self.task.control.map(weights::values);
        for (delta, c) in weights::values(update).zip(weights::values(server)) {
            let change = (-f64::from(delta) / divisor - f64::from(c)) as f32;
            if !is_in_range(change) {
                return Err(self.diverged(last, format!("a control variate changes by {change}")));
            }
            let before = own.as_mut().and_then(Iterator::next).unwrap_or(0.0);
            changes.extend_from_slice(&change.to_le_bytes());
            new.extend_from_slice(&(before + change).to_le_bytes());
        }
        update.extend_from_slice(&changes);
        Ok(new)
    }
}

/// The learning rate of a round: lr · lr_decay^(round - 1).
pub(crate) fn learning_rate(config: &TrainConfig, round: u64) -> f64 {
    // Multiplied out rather than powf, whose rounding differs between systems.
    config.lr * (1..round).fold(1.0, |factor, _| factor * config.lr_decay)
}

/// A training whose loss or weights left all bounds in this epoch and batch, with the settings that may be too large.
pub(crate) fn diverged(
    config: &TrainConfig,
    task: &Task<'_>,
    (epoch, batch): (usize, usize),
    what: String,
) -> TrainError {
    let settings = [
        (true, "`lr`"),
        (config.weight_decay > 0.0, "`weight_decay`"),
        (config.prox_mu > 0.0, "`prox_mu`"),
        (*task.rule != Rule::FedAvg && task.round > 1, "`lr` in [aggregate]"),
    ];
    let lower: Vec<&str> = settings.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
    TrainError::Diverged { round: task.round, epoch, batch, what, lower: lower.join(" or ") }
}

/// Whether a value may be in an update; NaN may not.
fn is_in_range(value: f32) -> bool {
    value.abs() <= DELTA_MAX
}

pub(crate) fn check_fit(spec: &NetSpec, preprocess: Preprocess, data: &Examples) -> Result<(), TrainError> {
    let seen = preprocess.seen(data.shape());
    if seen != spec.input || data.classes() != spec.classes {
        return Err(TrainError::Invalid(format!(
            "the net sees {:?} and tells {} classes apart, the data gives {seen:?} and has {}",
            spec.input,
            spec.classes,
            data.classes()
        )));
    }
    Ok(())
}

/// A batch with channels last as the `[n, channels, height, width]` that a model takes, without a copy.
pub(crate) fn input_tensor(
    values: Vec<f32>,
    [channels, height, width]: [usize; 3],
    device: &Device,
) -> candle_core::Result<Tensor> {
    let n = values.len() / (channels * height * width);
    Tensor::from_vec(values, (n, height, width, channels), device)?.permute((0, 3, 1, 2))
}

fn chosen<T: Copy>(of: &[T], indices: &[u32]) -> Vec<T> {
    indices.iter().map(|&index| of[index as usize]).collect()
}

/// One step of SGD; gives the batch's mean loss.
fn step(
    job: &TrainJob<'_>,
    model: &Model,
    trained: &[bool],
    optimizer: &mut LocalOptimizer,
    indices: &[u32],
    streams: &mut Streams,
) -> Result<f64, TrainError> {
    let batch = job.preprocess.batch(job.data, indices, streams.augment.as_mut());
    let x = input_tensor(batch, job.spec.input, job.device)?;
    let outputs = model.forward(&x, Mode::Train(&mut streams.dropout))?;
    let loss = match job.data.numbers() {
        None => loss::cross_entropy(&outputs, &chosen(job.data.labels(), indices))?,
        Some((numbers, _)) => loss::squared_error(&outputs, &chosen(numbers, indices))?,
    };
    let value = f64::from(loss.to_scalar::<f32>()?);
    if value.is_finite() {
        let mut all = loss.backward()?;
        let gradients = trained.iter().enumerate().map(|(i, is)| model.gradient(i, &mut all).filter(|_| *is)).collect();
        optimizer.apply(model.variables(), gradients)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Source, load};
    use crate::spec::Layer;
    use crate::tuned_learner::Trainable;

    use crate::evaluate::{EvaluationJob, evaluate};

    const CONFIG: TrainConfig = TrainConfig { augment: false, ..TrainConfig::sgd(2, 7, 0.05) };

    /// The job with another task.
    fn in_task<'a>(mut job: TrainJob<'a>, change: impl FnOnce(&mut Task<'a>)) -> TrainJob<'a> {
        change(&mut job.task);
        job
    }

    /// A small net and what it trains on.
    struct World {
        spec: NetSpec,
        data: Examples,
        parent: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let data = load(&Source::Shapes { samples: 30 }, None, 1).expect("it is generated").train;
            let layers = vec![
                Layer::Conv { out: 4, kernel: 3, stride: 2, pad: 1 },
                Layer::Relu,
                Layer::MaxPool { size: 4 },
                Layer::Linear { out: 10 },
            ];
            let spec = NetSpec { input: [3, 32, 32], classes: 10, layers };
            let parent = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
            Self { spec, data, parent }
        }

        fn job<'a>(&'a self, config: &'a TrainConfig) -> TrainJob<'a> {
            let task = Task::plain(1, 1, b"node", &self.parent);
            TrainJob {
                task,
                spec: &self.spec,
                preprocess: Preprocess::Plain,
                data: &self.data,
                config,
                device: &Device::Cpu,
            }
        }

        fn run(&self, job: &TrainJob<'_>) -> Result<Trained, TrainError> {
            train(job, &Threads::new(1).expect("a thread"), &mut |_| ControlFlow::Continue(()))
        }
    }

    fn size(delta: &[u8]) -> f64 {
        weights::values(delta).map(|x| f64::from(x) * f64::from(x)).sum()
    }

    #[test]
    fn training_repeats_and_depends_on_seed_round_and_node() {
        let world = World::new();
        let job = world.job(&CONFIG);
        let first = world.run(&job).expect("it trains");
        assert_eq!(world.run(&job).expect("it trains"), first);
        let task = job.task;
        for other in [Task { seed: 2, ..task }, Task { round: 2, ..task }, Task { node_key: b"other", ..task }] {
            assert_ne!(world.run(&TrainJob { task: other, ..job }).expect("it trains").update, first.update);
        }
    }

    #[test]
    fn a_single_step_is_the_gradient_times_the_learning_rate() {
        let world = World::new();
        let one = |lr| {
            let config = TrainConfig { epochs: 1, batch: 30, lr, ..CONFIG };
            world.run(&world.job(&config)).expect("it trains").update
        };
        let (small, large) = (one(0.01), one(0.02));
        for (small, large) in weights::values(&small).zip(weights::values(&large)) {
            assert!((2.0 * small - large).abs() < 1e-6, "{small} {large}");
        }
    }

    #[test]
    fn progress_counts_every_batch_and_the_loss_falls() {
        let world = World::new();
        let config = TrainConfig { epochs: 20, ..CONFIG };
        let mut seen = Vec::new();
        let threads = Threads::new(2).expect("threads");
        let trained = train(&world.job(&config), &threads, &mut |progress| {
            seen.push(progress);
            ControlFlow::Continue(())
        })
        .expect("it trains");
        assert_eq!(seen.len(), 20 * 5);
        let last = seen[seen.len() - 1];
        assert_eq!((last.epoch, last.epochs, last.batch, last.batches), (20, 20, 5, 5));
        assert!(last.loss < seen[0].loss && trained.train_loss.is_some_and(|loss| loss < seen[0].loss));
        assert_eq!(trained.samples, 30);
    }

    #[test]
    fn a_break_cancels_at_once() {
        let world = World::new();
        let mut calls = 0;
        let threads = Threads::new(1).expect("a thread");
        let result = train(&world.job(&CONFIG), &threads, &mut |_| {
            calls += 1;
            ControlFlow::Break(())
        });
        assert!(matches!(result, Err(TrainError::Cancelled)));
        assert_eq!(calls, 1);
        let stop = &mut |_| ControlFlow::Break(());
        let (spec, weights, data, device) = (&world.spec, &world.parent, &world.data, &Device::Cpu);
        let job = EvaluationJob { spec, preprocess: Preprocess::Plain, weights, data, device };
        let result = evaluate(&job, &threads, stop);
        assert!(matches!(result, Err(TrainError::Cancelled)));
    }

    #[test]
    fn divergence_names_round_epoch_and_batch() {
        let world = World::new();
        let config = TrainConfig { lr: 1e30, ..CONFIG };
        let error = world.run(&world.job(&config)).expect_err("it diverges");
        assert!(matches!(error, TrainError::Diverged { round: 1, epoch: 1, batch: 2.., .. }), "{error}");
        assert!(error.to_string().ends_with(": lower `lr`"), "{error}");
        let config = TrainConfig { lr: 1e30, prox_mu: 0.1, ..CONFIG };
        let job = world.job(&config);
        let task = Task { rule: &Rule::FedAvgM { lr: 1.0, momentum: 0.9 }, round: 2, ..job.task };
        let state = [world.parent.clone(), vec![0; world.parent.len()]].concat();
        let error =
            world.run(&TrainJob { task: Task { state: &state, ..task }, ..job }).expect_err("it diverges").to_string();
        assert!(error.ends_with(": lower `lr` or `prox_mu` or `lr` in [aggregate]"), "{error}");
        let config = TrainConfig { lr: 1e3, epochs: 1, batch: 30, ..CONFIG };
        let error = world.run(&world.job(&config)).expect_err("a weight moves too far");
        assert!(error.to_string().contains("a weight went from"), "{error}");
    }

    #[test]
    fn decay_and_proximity_hold_the_weights_back() {
        let world = World::new();
        let config = TrainConfig { epochs: 10, ..CONFIG };
        let free = world.run(&world.job(&config)).expect("it trains");
        let held = TrainConfig { prox_mu: 1.0, ..config.clone() };
        let held = world.run(&world.job(&held)).expect("it trains");
        assert!(size(&held.update) < size(&free.update));
        let decayed = TrainConfig { weight_decay: 0.5, ..config.clone() };
        let decayed = world.run(&world.job(&decayed)).expect("it trains");
        let norm = |delta: &[u8]| -> f64 {
            weights::values(&world.parent).zip(weights::values(delta)).map(|(a, b)| f64::from(a + b).powi(2)).sum()
        };
        assert!(norm(&decayed.update) < norm(&free.update));
    }

    #[test]
    fn momentum_lengthens_the_path() {
        let world = World::new();
        let free = world.run(&world.job(&CONFIG)).expect("it trains");
        let config = TrainConfig { momentum: 0.9, ..CONFIG };
        assert!(size(&world.run(&world.job(&config)).expect("it trains").update) > size(&free.update));
    }

    #[test]
    fn the_learning_rate_of_a_round_is_decayed_once_a_round_before_it() {
        let world = World::new();
        // A single batch of everything: the draws of a round change nothing but the order of the sum.
        let decayed = TrainConfig { epochs: 1, batch: 30, lr_decay: 0.5, ..CONFIG };
        let third = world.run(&in_task(world.job(&decayed), |task| task.round = 3)).expect("it trains").update;
        let quarter = one_step(&world, &TrainConfig { lr: CONFIG.lr / 4.0, ..CONFIG });
        for (found, expected) in weights::values(&third).zip(quarter) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn every_preset_trains_to_the_same_bits_on_any_number_of_threads() {
        let data = load(&Source::Shapes { samples: 60 }, None, 1).expect("it is generated").train;
        for arch in crate::spec::PRESETS {
            let spec = NetSpec::preset(arch, data.shape(), data.classes()).expect("it fits");
            let preprocess = Preprocess::for_preset(arch, data.shape());
            let parent = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
            let world = World { spec, data: data.clone(), parent };
            let config = TrainConfig { epochs: 1, batch: 25, augment: true, ..CONFIG };
            let job = TrainJob { preprocess, ..world.job(&config) };
            let run = |threads: usize| {
                let threads = Threads::new(threads).expect("threads");
                train(&job, &threads, &mut |_| ControlFlow::Continue(())).expect("it trains").update
            };
            let one = run(1);
            assert!([2, 3, 7].into_iter().all(|threads| run(threads) == one), "{arch}");
        }
    }

    #[test]
    fn what_is_frozen_changes_no_bit_of_a_step_of_the_others() {
        let data = load(&Source::Shapes { samples: 60 }, None, 1).expect("it is generated").train;
        let config = TrainConfig { epochs: 1, batch: 60, ..CONFIG };
        for (arch, pattern) in [
            ("shapes-cnn", "linear*"),
            ("shapes-cnn", "norm*"),
            ("resnet8", "conv4.weight"),
            ("resnet8", "linear1.bias"),
            ("mlp", "linear2.*"),
        ] {
            let spec = NetSpec::preset(arch, data.shape(), data.classes()).expect("it fits");
            let parent = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
            let layout = crate::format::Layout::new(spec.parameters().expect("it fits")).expect("it has names");
            let world = World { spec, data: data.clone(), parent };
            let trainable = Trainable::new(vec![pattern.to_owned()]);
            let update = |trainable| {
                world.run(&in_task(world.job(&config), |task| task.trainable = trainable)).expect("it trains").update
            };
            let (some, all) = (update(&trainable), update(Trainable::all()));
            for ((tensor, some), (_, all)) in layout.split(&some).zip(layout.split(&all)) {
                match trainable.has(&tensor.name) {
                    true => assert_eq!(some, all, "{arch} {pattern}: {}", tensor.name),
                    false => assert!(some.iter().all(|byte| *byte == 0), "{arch} {pattern}: {}", tensor.name),
                }
            }
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        let world = World::new();
        let wrong = [
            TrainConfig { epochs: 0, ..CONFIG },
            TrainConfig { batch: 0, ..CONFIG },
            TrainConfig { lr: f64::NAN, ..CONFIG },
            TrainConfig { momentum: 1.0, ..CONFIG },
            TrainConfig { prox_mu: -1.0, ..CONFIG },
            TrainConfig { clip_norm: f64::NAN, ..CONFIG },
        ];
        for config in wrong {
            assert!(matches!(world.run(&world.job(&config)), Err(TrainError::Invalid(_))), "{config:?}");
        }
        let empty = world.data.select(&[]);
        assert!(world.run(&TrainJob { data: &empty, ..world.job(&CONFIG) }).is_err());
        let cropped = TrainJob { preprocess: Preprocess::CifarPaper, ..world.job(&CONFIG) };
        assert!(matches!(world.run(&cropped), Err(TrainError::Invalid(_))));
        assert!(world.run(&in_task(world.job(&CONFIG), |task| task.state = &world.parent[4..])).is_err());
    }

    /// The update of one step over all 30 images under these settings.
    fn one_step(world: &World, config: &TrainConfig) -> Vec<f64> {
        let config = TrainConfig { epochs: 1, batch: 30, ..config.clone() };
        let update = world.run(&world.job(&config)).expect("it trains").update;
        weights::values(&update).map(f64::from).collect()
    }

    #[test]
    fn clipping_shortens_a_step_to_its_bound_and_leaves_its_direction() {
        let world = World::new();
        let free = one_step(&world, &CONFIG);
        let norm = |step: &[f64]| step.iter().map(|x| x * x).sum::<f64>().sqrt();
        // A step is the gradient times the learning rate.
        let bound = norm(&free) / CONFIG.lr / 4.0;
        let clipped = one_step(&world, &TrainConfig { clip_norm: bound, ..CONFIG });
        assert!((norm(&clipped) / norm(&free) - 0.25).abs() < 1e-4);
        assert!(free.iter().zip(&clipped).all(|(free, clipped)| (free / 4.0 - clipped).abs() < 1e-6));
        assert_eq!(one_step(&world, &TrainConfig { clip_norm: 8.0 * bound, ..CONFIG }), free);
    }

    /// SGD over the gradients of single steps, written out over whole vectors.
    #[test]
    fn momentum_decay_and_pull_follow_a_plain_reference() {
        let world = World::new();
        let config = TrainConfig { epochs: 3, batch: 30, momentum: 0.9, weight_decay: 0.1, prox_mu: 0.3, ..CONFIG };
        let found: Vec<f64> = {
            let update = world.run(&world.job(&config)).expect("it trains").update;
            weights::values(&update).map(f64::from).collect()
        };
        let start: Vec<f64> = weights::values(&world.parent).map(f64::from).collect();
        let (mut x, mut velocity) = (start.clone(), vec![0.0; start.len()]);
        for _ in 0..3 {
            // The gradient at x, from a plain step of it with a learning rate of 1/64.
            let parent: Vec<u8> = x.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
            let plain = TrainConfig { epochs: 1, batch: 30, lr: 1.0 / 64.0, ..CONFIG };
            let step = world.run(&in_task(world.job(&plain), |task| task.state = &parent)).expect("it trains").update;
            let gradients = weights::values(&step).map(|d| -64.0 * f64::from(d));
            for (i, gradient) in gradients.enumerate() {
                let gradient = gradient + 0.3 * (x[i] - start[i]) + 0.1 * x[i];
                velocity[i] = 0.9 * velocity[i] + gradient;
                x[i] -= config.lr * velocity[i];
            }
        }
        for (i, found) in found.iter().enumerate() {
            assert!((x[i] - start[i] - found).abs() < 2e-5, "value {i}: {found}, by hand {}", x[i] - start[i]);
        }
    }

    #[test]
    fn scaffold_corrects_every_step_and_keeps_the_mean_gradient() {
        let world = World::new();
        let config = TrainConfig { epochs: 1, batch: 15, ..CONFIG };
        let rule = Rule::Scaffold { lr: 1.0 };
        let n = world.parent.len() / 4;
        let constant = |value: f32| value.to_le_bytes().repeat(n);
        let plain = world.run(&world.job(&config)).expect("it trains");
        // With c = c_i the path is that of SGD.
        let parent = [world.parent.clone(), constant(0.25)].concat();
        let own = constant(0.25);
        let job = in_task(world.job(&config), |task| {
            (task.rule, task.state, task.control) = (&rule, &parent, Some(own.as_slice()))
        });
        let trained = world.run(&job).expect("it trains");
        assert_eq!(trained.update[..4 * n], plain.update[..]);
        // Two steps of lr 0.05: c_i+ is the mean of the gradients, c_i+ - c_i goes with the update.
        let new: Vec<f32> = weights::values(&trained.control.expect("of SCAFFOLD")).collect();
        let sent: Vec<f32> = weights::values(&trained.update[4 * n..]).collect();
        for (i, delta) in weights::values(&plain.update).enumerate() {
            let mean = -f64::from(delta) / (2.0 * 0.05);
            assert!((f64::from(new[i]) - mean).abs() < 1e-5 && (f64::from(sent[i]) - (mean - 0.25)).abs() < 1e-5);
        }
        // With c - c_i = 0.5 a single step over everything goes 0.5·lr further down.
        let config = TrainConfig { epochs: 1, batch: 30, ..CONFIG };
        let parent = [world.parent.clone(), constant(0.5)].concat();
        let job = in_task(world.job(&config), |task| (task.rule, task.state) = (&rule, &parent));
        let corrected = world.run(&job).expect("it trains");
        let plain = world.run(&world.job(&config)).expect("it trains").update;
        for (corrected, plain) in weights::values(&corrected.update).zip(weights::values(&plain)) {
            assert!((corrected - (plain - 0.5 * 0.05)).abs() < 1e-6);
        }
        // (x - y)/lr is the corrected gradient g + c - c_i; c_i+ = c_i - c + (x - y)/lr is g again, whatever c is.
        let new = corrected.control.expect("of SCAFFOLD");
        for (new, plain) in weights::values(&new).zip(weights::values(&plain)) {
            assert!((f64::from(new) + f64::from(plain) / 0.05).abs() < 1e-4, "{new} {plain}");
        }
    }
}
