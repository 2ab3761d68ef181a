//! A learner of a candle model of one's own: what the net is and what its loss is say the caller; epochs, batches, the local
//! optimiser and repeatable randomness are the same as for the nets that come with every node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::{Init, NormalOrUniform};
use candle_nn::var_builder::SimpleBackend;

use crate::format::Layout;
use crate::learner::{Learner, Measure, Task, Watch};
use crate::local_optimizer::LocalOptimizer;
use crate::random_stream::{Purpose, RandomStream, StreamKey};
use crate::spec::ParamShape;
use crate::threads::Threads;
use crate::train::{Progress, TrainConfig, TrainError, Trained, diverged, learning_rate};
use crate::weights;

/// Bytes of a learner's name.
const NAME_MAX: usize = 64;

/// A candle model and its data.
pub trait CandleModel: Send + Sync + fmt::Debug {
    /// The net, with its tensors.
    type Net: Send + Sync;

    /// Builds the net from named tensors. Whatever it takes from `tensors` is trained, and travels.
    ///
    /// # Errors
    /// candle's.
    fn net(&self, tensors: VarBuilder<'_>) -> CandleResult<Self::Net>;

    /// Examples that this node trains on: the weight of its update.
    fn examples(&self) -> usize;

    /// The mean loss of the net on some of these examples.
    ///
    /// # Errors
    /// candle's.
    fn loss(&self, net: &Self::Net, examples: &[u32]) -> CandleResult<Tensor>;

    /// How good the net is on what this node holds out; nothing if that is none.
    ///
    /// # Errors
    /// candle's.
    fn evaluate(&self, net: &Self::Net) -> CandleResult<Vec<Measure>>;
}

/// Trains a [`CandleModel`] by mini-batch SGD as `[train]` of the run file says, on the CPU.
#[derive(Debug)]
pub struct CandleLearner<M> {
    model: M,
    config: TrainConfig,
    layout: Layout,
}

impl<M: CandleModel> CandleLearner<M> {
    /// Of a model, whose net is built once to see its tensors.
    ///
    /// # Errors
    /// The net can't be built, or has no tensor.
    pub fn new(model: M, config: TrainConfig) -> Result<Self, TrainError> {
        let tensors = Tensors::drawn(0);
        model.net(tensors.builder())?;
        let shape = |(name, var): (String, Var)| ParamShape { name, shape: var.dims().to_vec() };
        let layout = Layout::new(tensors.all().into_iter().map(shape).collect());
        Ok(Self { model, config, layout: layout.map_err(|error| TrainError::Invalid(error.to_string()))? })
    }

    /// The net with these weights, and its tensors in the order of the layout.
    fn net(&self, weights: &[u8]) -> Result<(M::Net, Vec<Var>), TrainError> {
        let tensors = Tensors::given(&self.layout, weights)?;
        let net = self.model.net(tensors.builder())?;
        Ok((net, tensors.all().into_values().collect()))
    }
}

impl<M: CandleModel> Learner for CandleLearner<M> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initial(&self, seed: u64) -> Result<Vec<u8>, TrainError> {
        let tensors = Tensors::drawn(seed);
        self.model.net(tensors.builder())?;
        bytes(&tensors.all().into_values().collect::<Vec<_>>())
    }

    fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        let TrainConfig { epochs, batch, .. } = self.config;
        let (net, variables) = self.net(task.weights())?;
        let mut optimizer =
            LocalOptimizer::new(&variables, &self.config, learning_rate(&self.config, task.round), Vec::new())?;
        let mut order: Vec<u32> = (0..self.model.examples() as u32).collect();
        if order.is_empty() {
            return Err(TrainError::Invalid("there is no example to train on".to_owned()));
        }
        let (batches, mut losses) = (order.len().div_ceil(batch), 0f64);
        for epoch in 1..=epochs {
            let (seed, round, node, purpose) = (task.seed, task.round, task.node_key, Purpose::Shuffle);
            RandomStream::new(&StreamKey { seed, round, node, purpose, index: epoch as u64 }).shuffle(&mut order);
            for (number, examples) in order.chunks(batch).enumerate() {
                let loss = threads.run(|| -> Result<f64, TrainError> {
                    let loss = self.model.loss(&net, examples)?;
                    let value = f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
                    if value.is_finite() {
                        optimizer.apply(&variables, self.gradients(&variables, &loss, task)?)?;
                    }
                    Ok(value)
                })?;
                if !loss.is_finite() {
                    return Err(diverged(&self.config, task, (epoch, number + 1), format!("the loss is {loss}")));
                }
                losses += loss * examples.len() as f64;
                if watch(Progress { epoch, epochs, batch: number + 1, batches, loss }).is_break() {
                    return Err(TrainError::Cancelled);
                }
            }
        }
        let seen = (order.len() * epochs) as f64;
        task.trained(&self.layout, &bytes(&variables)?, order.len() as u64, Some(losses / seen))
    }

    fn evaluate(&self, weights: &[u8], threads: &Threads, _: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
        let (net, _) = self.net(weights)?;
        threads.run(|| Ok(self.model.evaluate(&net)?))
    }

    /// The model's type: not every node has it.
    fn name(&self) -> String {
        let name = std::any::type_name::<M>();
        name.rsplit("::").next().unwrap_or(name).chars().filter(char::is_ascii).take(NAME_MAX).collect()
    }
}

impl<M: CandleModel> CandleLearner<M> {
    /// The gradient of each variable that is trained. Some of candle's fused operations have none and say nothing, and such a tensor would
    /// never be trained: it is named.
    fn gradients(&self, variables: &[Var], loss: &Tensor, task: &Task<'_>) -> Result<Vec<Option<Tensor>>, TrainError> {
        let mut store = loss.backward()?;
        let mut gradients = Vec::with_capacity(variables.len());
        for (variable, tensor) in variables.iter().zip(self.layout.tensors()) {
            if !task.trainable.has(&tensor.name) {
                gradients.push(None);
                continue;
            }
            let gradient = store.remove(variable.as_tensor()).ok_or_else(|| {
                TrainError::Invalid(format!(
                    "tensor `{}` gets no gradient: the loss does not depend on it, or does so through one of candle's fused \
                     operations without a backward pass (softmax_last_dim, layer_norm, rms_norm, rope); use the slow \
                     variant of that",
                    tensor.name
                ))
            })?;
            // The optimiser works in its memory, which candle may share.
            gradients.push(Some(gradient.copy()?));
        }
        Ok(gradients)
    }
}

/// Where a net's tensors come from: given, or drawn as candle's layers ask for it, each name from a stream of its own.
#[derive(Debug, Clone)]
struct Tensors {
    seed: u64,
    /// `None` where they are drawn.
    given: Option<Arc<BTreeMap<String, Tensor>>>,
    taken: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Tensors {
    fn drawn(seed: u64) -> Self {
        Self { seed, given: None, taken: Arc::default() }
    }

    fn given(layout: &Layout, weights: &[u8]) -> CandleResult<Self> {
        let tensor = |(shape, own): (&ParamShape, &[u8])| {
            let values: Vec<f32> = weights::values(own).collect();
            Ok((shape.name.clone(), Tensor::from_vec(values, shape.shape.as_slice(), &Device::Cpu)?))
        };
        let given = layout.split(weights).map(tensor).collect::<CandleResult<_>>()?;
        Ok(Self { seed: 0, given: Some(Arc::new(given)), taken: Arc::default() })
    }

    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// Those that were asked for, by name.
    fn all(&self) -> BTreeMap<String, Var> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn draw(&self, shape: &Shape, name: &str, init: Init) -> CandleResult<Tensor> {
        let (seed, purpose) = (self.seed, Purpose::Init);
        let mut stream = RandomStream::new(&StreamKey { seed, round: 0, node: name.as_bytes(), purpose, index: 0 });
        let mut normal = |mean: f64, deviation: f64| (mean + deviation * stream.normal()) as f32;
        let values = match init {
            Init::Const(value) => vec![value as f32; shape.elem_count()],
            Init::Randn { mean, stdev } => (0..shape.elem_count()).map(|_| normal(mean, stdev)).collect(),
            Init::Uniform { lo, up } => (0..shape.elem_count()).map(|_| stream.between(lo as f32, up as f32)).collect(),
            Init::Kaiming { dist, fan, non_linearity } => {
                // He et al. 2015, section 2.2.
                let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                let bound = (3f64.sqrt() * deviation) as f32;
                match dist {
                    NormalOrUniform::Normal => (0..shape.elem_count()).map(|_| normal(0.0, deviation)).collect(),
                    NormalOrUniform::Uniform => {
                        (0..shape.elem_count()).map(|_| stream.between(-bound, bound)).collect()
                    }
                }
            }
        };
        Tensor::from_vec(values, shape.clone(), &Device::Cpu)
    }
}

impl SimpleBackend for Tensors {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> CandleResult<Tensor> {
        let tensor = match &self.given {
            None => self.draw(&shape, name, init)?,
            Some(given) => match given.get(name).filter(|tensor| *tensor.shape() == shape) {
                Some(tensor) => tensor.clone(),
                None => candle_core::bail!("tensor `{name}` of shape {shape:?} is not in this run's layout"),
            },
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let variable = match taken.get(name) {
            // Asked for twice it is shared, as tied embeddings are.
            Some(variable) => variable.clone(),
            None => Var::from_tensor(&tensor)?,
        };
        taken.insert(name.to_owned(), variable.clone());
        variable.as_tensor().to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        candle_core::bail!("tensor `{name}` is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.given.as_ref().is_none_or(|given| given.contains_key(name))
    }
}

/// Variables as raw little-endian f32, one after the other.
fn bytes(variables: &[Var]) -> Result<Vec<u8>, TrainError> {
    let mut all = Vec::new();
    for variable in variables {
        let values = variable.flatten_all()?.to_vec1::<f32>()?;
        all.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use candle_nn::{Linear, Module, linear, ops};

    use super::*;

    use crate::tuned_learner::Trainable;

    /// Points on a line, and whether they are beyond its middle.
    #[derive(Debug)]
    struct Halves {
        /// Through which operation the loss goes.
        softmax: fn(&Tensor) -> CandleResult<Tensor>,
    }

    fn slow(scores: &Tensor) -> CandleResult<Tensor> {
        ops::softmax(scores, 1)
    }

    impl CandleModel for Halves {
        type Net = [Linear; 2];

        fn net(&self, tensors: VarBuilder<'_>) -> CandleResult<Self::Net> {
            Ok([linear(1, 8, tensors.pp("one"))?, linear(8, 2, tensors.pp("two"))?])
        }

        fn examples(&self) -> usize {
            20
        }

        fn loss(&self, net: &Self::Net, examples: &[u32]) -> CandleResult<Tensor> {
            let answers = self.answers(net, examples)?;
            let wanted: Vec<f32> =
                examples.iter().flat_map(|i| if *i < 10 { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
            let wanted = Tensor::from_vec(wanted, (examples.len(), 2), &Device::Cpu)?;
            (answers - wanted)?.sqr()?.mean_all()
        }

        fn evaluate(&self, net: &Self::Net) -> CandleResult<Vec<Measure>> {
            let all: Vec<u32> = (0..20).collect();
            let answers = self.answers(net, &all)?.to_vec2::<f32>()?;
            let right = answers.iter().enumerate().filter(|(i, answer)| (answer[0] > answer[1]) == (*i < 10)).count();
            Ok(vec![Measure::new("accuracy", right as f64, 20)])
        }
    }

    impl Halves {
        fn answers(&self, net: &[Linear; 2], examples: &[u32]) -> CandleResult<Tensor> {
            let points: Vec<f32> = examples.iter().map(|i| *i as f32 / 10.0 - 0.95).collect();
            let points = Tensor::from_vec(points, (examples.len(), 1), &Device::Cpu)?;
            (self.softmax)(&net[1].forward(&net[0].forward(&points)?.tanh()?)?)
        }
    }

    fn learner(softmax: fn(&Tensor) -> CandleResult<Tensor>) -> CandleLearner<Halves> {
        CandleLearner::new(Halves { softmax }, TrainConfig { momentum: 0.9, ..TrainConfig::sgd(20, 5, 0.1) })
            .expect("a net")
    }

    fn train(learner: &dyn Learner, threads: usize) -> Result<Trained, TrainError> {
        let state = learner.initial(1).expect("memory");
        let task = Task::plain(1, 1, b"node", &state);
        learner.train(&task, &Threads::new(threads).expect("threads"), &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn initial_weights_follow_from_the_seed_alone() {
        let learner = learner(slow);
        assert_eq!(learner.initial(1).expect("memory"), learner.initial(1).expect("memory"));
        assert_ne!(learner.initial(1).expect("memory"), learner.initial(2).expect("memory"));
        let names: Vec<&str> = learner.layout().tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["one.bias", "one.weight", "two.bias", "two.weight"]);
    }

    #[test]
    fn a_model_of_ones_own_learns_and_repeats_for_any_number_of_threads() {
        let learner = learner(slow);
        let trained = train(&learner, 1).expect("it trains");
        assert_eq!(train(&learner, 3).expect("it trains"), trained);
        let state = learner.initial(1).expect("memory");
        let new: Vec<u8> = weights::values(&state)
            .zip(weights::values(&trained.update))
            .flat_map(|(old, delta)| (old + delta).to_le_bytes())
            .collect();
        let threads = Threads::new(1).expect("a thread");
        let measured = learner.evaluate(&new, &threads, &mut |_| ControlFlow::Continue(())).expect("it measures");
        assert!(measured[0].sum >= 18.0, "{measured:?}");
    }

    #[test]
    fn a_tensor_that_a_fused_operation_gives_no_gradient_is_named() {
        let error = train(&learner(ops::softmax_last_dim), 1).expect_err("it has no backward pass").to_string();
        assert!(error.starts_with("tensor `one.bias` gets no gradient"), "{error}");
    }

    #[test]
    fn frozen_tensors_of_a_model_of_ones_own_stay_as_they_are() {
        let whole = learner(slow);
        let base = whole.initial(1).expect("memory");
        let tuned = crate::TunedLearner::new(Arc::new(whole), base, Trainable::new(vec!["two.*".to_owned()]));
        let update = train(&tuned.expect("it names tensors"), 1).expect("it trains").update;
        assert_eq!(update.len(), 4 * (2 * 8 + 2));
        assert!(weights::values(&update).all(|delta| delta != 0.0));
    }

    #[test]
    fn a_training_is_stopped_by_whoever_watches_it() {
        let learner = learner(slow);
        let state = learner.initial(1).expect("memory");
        let task = Task::plain(1, 1, b"node", &state);
        let stopped = learner.train(&task, &Threads::new(1).expect("a thread"), &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(TrainError::Cancelled)));
    }
}
