//! A learner that begins with given weights, and trains some of its tensors: the others stay as they are, don't travel, and
//! cost nothing.

use std::sync::Arc;

use crate::format::{Layout, LayoutError};
use crate::learner::{Learner, Measure, Task, Watch};
use crate::rule::Rule;
use crate::spec::ParamShape;
use crate::threads::Threads;
use crate::train::{TrainError, Trained};

/// Which tensors are trained: names, in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trainable(Vec<String>);

impl Trainable {
    /// All tensors.
    pub fn all() -> &'static Self {
        static ALL: Trainable = Trainable(Vec::new());
        &ALL
    }

    /// Of these patterns; of none, all are trained.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// The patterns.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }

    /// Whether all tensors are trained.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a tensor is trained.
    pub fn has(&self, name: &str) -> bool {
        self.is_all() || self.0.iter().any(|pattern| is_like(name, pattern))
    }

    /// The values of the trained tensors, of values of all.
    pub fn select(&self, layout: &Layout, all: &[u8]) -> Vec<u8> {
        layout.split(all).filter(|(tensor, _)| self.has(&tensor.name)).flat_map(|(_, own)| own).copied().collect()
    }

    /// The tensors of a layout that are trained.
    ///
    /// # Errors
    /// There are none.
    pub fn of(&self, layout: &Layout) -> Result<Layout, LayoutError> {
        let trained = layout.tensors().iter().filter(|tensor| self.has(&tensor.name));
        Layout::new(trained.cloned().collect())
    }
}

/// Whether a name is like a pattern.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name == pattern };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

/// Some of another learner's tensors, from given weights on.
#[derive(Debug)]
pub struct TunedLearner {
    whole: Arc<dyn Learner>,
    /// All weights that training began with, in the order of the whole's layout.
    base: Vec<u8>,
    trainable: Trainable,
    layout: Layout,
}

impl TunedLearner {
    /// Trains those tensors, from these weights of all on.
    ///
    /// # Errors
    /// The weights are not the whole's, or no tensor is trained.
    pub fn new(whole: Arc<dyn Learner>, base: Vec<u8>, trainable: Trainable) -> Result<Self, TrainError> {
        let parameters = whole.layout().parameters();
        crate::weights::check_weights(&base, parameters).map_err(|error| TrainError::Invalid(error.to_string()))?;
        let layout = trainable.of(whole.layout()).map_err(|_| {
            let names: Vec<&str> = whole.layout().tensors().iter().map(|t| t.name.as_str()).collect();
            TrainError::Invalid(format!(
                "`trainable` in [model] names none of the net's tensors, which are: {}",
                names.join(", ")
            ))
        })?;
        Ok(Self { whole, base, trainable, layout })
    }

    /// All weights, given those that are trained.
    pub fn all(&self, trained: &[u8]) -> Vec<u8> {
        joined(self.whole.layout(), &self.base, &self.trainable, trained)
    }

    fn own(&self, all: &[u8]) -> Vec<u8> {
        self.trainable.select(self.whole.layout(), all)
    }
}

/// All weights, given those that are trained and those that training began with.
pub fn joined(layout: &Layout, base: &[u8], trainable: &Trainable, trained: &[u8]) -> Vec<u8> {
    let (mut all, mut rest) = (Vec::with_capacity(base.len()), trained);
    for (tensor, own) in layout.split(base) {
        if trainable.has(&tensor.name) {
            let (new, behind) = rest.split_at(own.len().min(rest.len()));
            all.extend_from_slice(new);
            rest = behind;
        } else {
            all.extend_from_slice(own);
        }
    }
    all
}

impl Learner for TunedLearner {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initial(&self, _: u64) -> Result<Vec<u8>, TrainError> {
        Ok(self.own(&self.base))
    }

    fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        if self.trainable.is_all() {
            return self.whole.train(task, threads, watch);
        }
        let all = self.all(task.weights());
        let trainable = &self.trainable;
        let whole = Task { rule: &Rule::FedAvg, state: &all, control: None, trainable, ..*task };
        let trained = self.whole.train(&whole, threads, watch)?;
        let moved = |(tensor, own): &(&ParamShape, &[u8])| {
            !self.trainable.has(&tensor.name) && own.chunks_exact(4).any(|delta| delta != [0; 4])
        };
        match self.whole.layout().split(&trained.update).find(moved) {
            Some((tensor, _)) => Err(TrainError::Failed(format!(
                "tensor `{}` is none of those that this run trains, and was changed",
                tensor.name
            ))),
            None => Ok(Trained { update: self.own(&trained.update), ..trained }),
        }
    }

    fn evaluate(&self, weights: &[u8], threads: &Threads, watch: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
        self.whole.evaluate(&self.all(weights), threads, watch)
    }

    fn part(&self, k: usize, n: usize) -> Result<Box<dyn Learner>, TrainError> {
        let (base, trainable) = (self.base.clone(), self.trainable.clone());
        Ok(Box::new(Self::new(self.whole.part(k, n)?.into(), base, trainable)?))
    }

    fn name(&self) -> String {
        self.whole.name()
    }

    fn takes(&self, rule: &Rule) -> bool {
        // A control variate would have to be told of all gradients.
        self.whole.takes(rule) && (self.trainable.is_all() || !rule.has_controls())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use candle_core::Device;

    use super::*;
    use crate::data::{Partition, Preprocess, Source, load};
    use crate::net_learner::NetLearner;
    use crate::spec::{Layer, NetSpec};
    use crate::train::TrainConfig;

    fn images() -> NetLearner {
        let data = load(&Source::Shapes { samples: 50 }, None, 1).expect("it is generated");
        let layers =
            vec![Layer::MaxPool { size: 8 }, Layer::Linear { out: 12 }, Layer::Relu, Layer::Linear { out: 10 }];
        let spec = NetSpec { input: [3, 32, 32], classes: 10, layers };
        let layout = Layout::new(spec.parameters().expect("it is possible")).expect("it has names");
        let config = TrainConfig { augment: false, ..TrainConfig::sgd(1, 10, 0.1) };
        let (partition, seed, preprocess, device) = (Partition::Iid, 1, Preprocess::Plain, Device::Cpu);
        let (train, test) = (data.train.into(), data.test.into());
        NetLearner { spec, preprocess, config, partition, seed, device, train, test, layout }
    }

    fn train(learner: &dyn Learner, state: &[u8]) -> Result<Trained, TrainError> {
        let task = Task::plain(1, 1, b"node", state);
        learner.train(&task, &Threads::new(1).expect("a thread"), &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn patterns_have_stars() {
        let cases = [
            ("head.weight", "head.*", true),
            ("body.head.weight", "head.*", false),
            ("a.lora_b", "*.lora_*", true),
            ("a.lora", "*.lora_*", false),
            ("linear1.bias", "linear1.bias", true),
            ("aa", "a*a", true),
            ("a", "a*a", false),
            ("x", "*", true),
        ];
        for (name, pattern, is) in cases {
            assert_eq!(Trainable::new(vec![pattern.to_owned()]).has(name), is, "{name} {pattern}");
        }
    }

    #[test]
    fn only_what_is_trained_travels_and_the_rest_stays_as_it_is() {
        let head = Trainable::new(vec!["linear2.*".to_owned()]);
        let whole = images();
        let base = whole.initial(5).expect("memory");
        let learner = TunedLearner::new(Arc::new(whole), base.clone(), head).expect("it has a head");
        let state = learner.initial(0).expect("it is kept");
        assert_eq!((learner.layout().parameters(), state.len()), (130, 520));
        assert_eq!(learner.all(&state), base);
        let trained = train(&learner, &state).expect("it trains");
        assert_eq!(trained.update.len(), 520);
        assert!(trained.update.iter().any(|byte| *byte != 0));
    }

    #[test]
    fn training_all_tensors_from_given_weights_is_training_as_ever() {
        let whole = images();
        let base = whole.initial(5).expect("memory");
        let learner = TunedLearner::new(Arc::new(whole.clone()), base.clone(), Trainable::default()).expect("it fits");
        assert_eq!(train(&learner, &base).expect("it trains"), train(&whole, &base).expect("it trains"));
    }

    /// Trains all tensors, whatever it is told.
    #[derive(Debug)]
    struct Disobedient(NetLearner);

    impl Learner for Disobedient {
        fn layout(&self) -> &Layout {
            self.0.layout()
        }

        fn initial(&self, seed: u64) -> Result<Vec<u8>, TrainError> {
            self.0.initial(seed)
        }

        fn train(&self, task: &Task<'_>, threads: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
            self.0.train(&Task { trainable: Trainable::all(), ..*task }, threads, watch)
        }

        fn evaluate(&self, _: &[u8], _: &Threads, _: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_tensor_that_must_not_change_and_does_is_named() {
        let whole = Disobedient(images());
        let base = whole.initial(5).expect("memory");
        let head = Trainable::new(vec!["linear2.*".to_owned()]);
        let learner = TunedLearner::new(Arc::new(whole), base, head).expect("it has a head");
        let error = train(&learner, &learner.initial(0).expect("it is kept")).expect_err("all are trained");
        assert!(error.to_string().starts_with("tensor `linear1.weight` is none of those"), "{error}");
    }

    #[test]
    fn patterns_that_name_nothing_and_weights_of_another_net_are_refused() {
        let whole = || Arc::new(images());
        let base = whole().initial(5).expect("memory");
        let none = Trainable::new(vec!["head.*".to_owned()]);
        let error = TunedLearner::new(whole(), base.clone(), none).expect_err("there is no head").to_string();
        assert!(error.contains("linear1.weight, linear1.bias"), "{error}");
        assert!(TunedLearner::new(whole(), base[4..].to_vec(), Trainable::default()).is_err());
    }
}
