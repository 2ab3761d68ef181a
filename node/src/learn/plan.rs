//! From the run file to what the model crate understands.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use paceline_model::{
    DataError, DataSet, Device, Layout, LayoutError, Model, ModelError, NetLearner, NetSpec, Partition, Preprocess,
    Source, SpecError, Totals, TrainConfig, Trainable,
};
use paceline_protocol::base::roster::Part;
use paceline_protocol::runfile::place;
use thiserror::Error;

use super::{Formats, TooLarge};
use crate::run_file::{Net, RunFile};

/// Why a run file, sound in itself, can't be trained.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The layers do not fit the input, or each other.
    #[error("[model]: {0}; the input is {1:?} (channels, height, width)")]
    Net(SpecError, [usize; 3]),
    /// A net by name does not fit the input.
    #[error(
        "`arch = \"{arch}\"` does not fit an input of {input:?} (channels, height, width): {error}; take another net, or images \
         of another size"
    )]
    Preset {
        /// Its name.
        arch: &'static str,
        /// What is wrong.
        error: SpecError,
        /// Channels, height and width.
        input: [usize; 3],
    },
    /// What a layer gives for a step's examples is too large for memory.
    #[error(
        "`batch` in [train] makes steps of {step} examples, and a layer of this net fits in memory for {most} at most: make it \
         smaller"
    )]
    Memory {
        /// Examples of the largest step.
        step: usize,
        /// Examples that a step may have.
        most: usize,
    },
    /// The data can't be had.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The initial model can't be made.
    #[error("the initial model: {0}")]
    Model(#[from] ModelError),
    /// Files were given for a data set that is generated.
    #[error(
        "--data {}: `dataset = \"shapes\"` in [data] is generated and reads no files; name the data set that these are, or leave --data out",
        .0.display()
    )]
    Needless(PathBuf),
    /// This build has no such device.
    #[error("{0}")]
    Device(String),
    /// The part is not one.
    #[error("--part {0}: K must be from 1 to N")]
    Part(Part),
    /// A node without examples can't take part.
    #[error("there are no training examples for this node: give it other --data, or a --part of fewer parts")]
    Empty,
    /// The files hold images of another size.
    #[error(
        "the images are {found:?} (channels, height, width), and those of this data set {expected:?}: scale them, or describe \
         them as `dataset = \"folder\"`"
    )]
    Size {
        /// What the run file's data set has.
        expected: [usize; 3],
        /// What is there.
        found: [usize; 3],
    },
    /// Nobody has an example of some class.
    #[error(
        "all training examples together are of {found} of the {classes} classes that the net tells apart: give --data with some \
         of each{}",
        if .listed.is_some() { ", lower `holdout`, or take classes out" } else { ", or use `dataset = \"folder\"` with `classes`" }
    )]
    Classes {
        /// The key of `[data]` that lists them, if one does.
        listed: Option<&'static str>,
        /// Classes that have any.
        found: usize,
        /// Classes of the data set.
        classes: usize,
    },
    /// Some clients would have nothing to train on.
    #[error(
        "{clients} clients for {examples} training examples: at least one each, so let there be fewer (--clients, or `min_nodes` in [run])"
    )]
    Clients {
        /// How many there should be.
        clients: u32,
        /// Examples of all of them.
        examples: usize,
    },
    /// More examples a step than there are at all.
    #[error("`batch` in [train] is {batch}, and there are {examples} training examples in all: make it smaller")]
    Batch {
        /// Examples a step.
        batch: usize,
        /// Examples there are.
        examples: usize,
    },
    /// Weights and the rule's own values together are too large to be moved.
    #[error(transparent)]
    State(#[from] TooLarge),
    /// No tensor is trained.
    #[error("`trainable` in [model] names none of the net's tensors, which are: {}", names(.0))]
    Trainable(Layout),
    /// More tensors than a model may have.
    #[error("[model]: {0}")]
    Layout(#[from] LayoutError),
    /// The net is a trainer's.
    #[error(
        "`arch = \"trainer\"` in [model]: what trains is a program of the node's owner: give it with --trainer COMMAND to \
         `join` or `simulate` (docs/trainer.md)"
    )]
    Trainer,
}

fn names(layout: &Layout) -> String {
    layout.tensors().iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ")
}

impl PlanError {
    /// Where the run file is at fault: `origin:line:column`.
    pub fn place(&self, text: &str, origin: &str) -> Option<String> {
        let (section, key, item) = match self {
            Self::Net(SpecError::Layer { number, .. }, _) => ("model", "layers", Some(number - 1)),
            Self::Net(..) => ("model", "layers", None),
            Self::Preset { .. } => ("model", "arch", None),
            Self::Batch { .. } | Self::Memory { .. } => ("train", "batch", None),
            Self::Data(DataError::Unexpected { key: Some(key), .. }) => ("data", *key, None),
            Self::Classes { listed: Some(key), .. } => ("data", *key, None),
            Self::Size { .. } | Self::Classes { .. } => ("data", "dataset", None),
            Self::Clients { .. } => ("run", "min_nodes", None),
            Self::State(_) => ("aggregate", "rule", None),
            Self::Layout(_) => ("model", "layers", None),
            Self::Trainable(_) => ("model", "trainable", None),
            Self::Trainer => ("model", "arch", None),
            Self::Data(_) | Self::Model(_) | Self::Device(_) | Self::Part(_) | Self::Empty | Self::Needless(_) => {
                return None;
            }
        };
        Some(place(text, origin, section, key, item))
    }
}

/// All that learning needs of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The net.
    pub spec: NetSpec,
    /// What it sees of an example.
    pub preprocess: Preprocess,
    /// Where the examples come from.
    pub source: Source,
    /// How they are split among parts.
    pub partition: Partition,
    /// How a node trains.
    pub config: TrainConfig,
    /// What states and updates are.
    pub formats: Formats,
    /// The net's tensors.
    pub layout: Layout,
    /// Which of them are trained, and travel.
    pub trainable: Trainable,
    /// The run's seed.
    pub seed: u64,
    /// Examples that a step may have, for the memory that it takes.
    batch_max: usize,
}

impl Plan {
    /// The plan of a run file.
    ///
    /// # Errors
    /// The net does not fit the input, or something is too large.
    pub fn of(run_file: &RunFile) -> Result<Self, PlanError> {
        let learning = &run_file.learning;
        let source = learning.data.source.clone().ok_or(PlanError::Trainer)?;
        let (input, classes) = (source.shape(), source.classes());
        let (spec, preprocess) = match learning.model.net() {
            Net::Preset(arch) => {
                let preset = |error| PlanError::Preset { arch, error, input };
                (NetSpec::preset(arch, input, classes).map_err(preset)?, Preprocess::for_preset(arch, input))
            }
            Net::Layers(layers) => (NetSpec { input, classes, layers: layers.clone() }, Preprocess::Plain),
            Net::Trainer => return Err(PlanError::Trainer),
        };
        let net = |error| PlanError::Net(error, input);
        let layout = Layout::new(spec.parameters().map_err(net)?)?;
        let batch_max = spec.batch_max().map_err(net)?;
        let trainable = learning.model.trainable.clone();
        let travels = trainable.of(&layout).map_err(|_| PlanError::Trainable(layout.clone()))?;
        let formats = Formats::of(learning.rule, travels.parameters())?;
        let (partition, config) = (learning.data.partition, learning.train.config.clone());
        let seed = run_file.run.seed;
        Ok(Self { spec, preprocess, source, partition, config, formats, layout, trainable, seed, batch_max })
    }

    /// The learner of this net on these examples.
    pub fn learner(&self, data: DataSet, device: Device) -> NetLearner {
        let Self { spec, preprocess, config, partition, seed, layout, .. } = self.clone();
        let (train, test) = (Arc::new(data.train), Arc::new(data.test));
        NetLearner { spec, preprocess, config, partition, seed, device, train, test, layout }
    }

    /// The whole data set, which these clients divide among them.
    ///
    /// # Errors
    /// Files are missing or malformed or don't go with the run file, or there are fewer examples than clients or in a step.
    pub fn whole_data(&self, path: Option<&Path>, clients: u32) -> Result<DataSet, PlanError> {
        let data = self.examples(path)?;
        let totals = data.train.totals();
        self.check_totals(totals)?;
        if clients as usize > totals.examples {
            return Err(PlanError::Clients { clients, examples: totals.examples });
        }
        let (labels, classes) = (data.train.labels(), data.train.classes());
        let parts = paceline_model::partition(labels, classes, clients as usize, &self.partition, self.seed);
        self.check_memory(parts.iter().map(Vec::len).max().unwrap_or(0))?;
        Ok(data)
    }

    /// This node's examples: all that are there, or a part of them.
    ///
    /// # Errors
    /// Files are missing or malformed or don't go with the run file, the part is not one, nothing is left to train on, or a
    /// step would take too much memory.
    pub fn data(&self, path: Option<&Path>, part: Option<Part>) -> Result<DataSet, PlanError> {
        let data = match part {
            Some(part) if !part.is_valid() => return Err(PlanError::Part(part)),
            Some(Part { index, of }) => {
                self.check_path(path)?;
                let (k, n) = (index as usize, of as usize);
                let (data, totals) = paceline_model::load_part(&self.source, path, (k, n), &self.partition, self.seed)?;
                self.check_size(&data)?;
                self.check_totals(totals)?;
                data
            }
            None => self.examples(path)?,
        };
        self.check_memory(data.train.len())?;
        Ok(data)
    }

    /// All examples that are there.
    ///
    /// # Errors
    /// Files are missing or malformed or don't go with the run file, or there is nothing to train on.
    pub fn examples(&self, path: Option<&Path>) -> Result<DataSet, PlanError> {
        self.check_path(path)?;
        let data = paceline_model::load(&self.source, path, self.seed)?;
        self.check_size(&data)?;
        if data.train.is_empty() { Err(PlanError::Empty) } else { Ok(data) }
    }

    fn check_path(&self, path: Option<&Path>) -> Result<(), PlanError> {
        match (path, &self.source) {
            (Some(path), Source::Shapes { .. }) => Err(PlanError::Needless(path.to_owned())),
            _ => Ok(()),
        }
    }

    /// Files of a data set in the format of another may hold images of any size.
    fn check_size(&self, data: &DataSet) -> Result<(), PlanError> {
        let (expected, found) = (self.source.shape(), data.train.shape());
        if found == expected { Ok(()) } else { Err(PlanError::Size { expected, found }) }
    }

    /// Refuses a batch larger than all examples together, and classes of which there is none. A client may well have fewer
    /// examples than a batch, whose steps are smaller then, and fewer classes.
    fn check_totals(&self, Totals { examples, classes: found }: Totals) -> Result<(), PlanError> {
        let (batch, classes) = (self.config.batch, self.spec.classes);
        if found < classes {
            let listed = match &self.source {
                Source::Folder { .. } => Some("classes"),
                Source::Table(_) => Some("target"),
                Source::Shapes { .. } | Source::Cifar10 | Source::Mnist => None,
            };
            return Err(PlanError::Classes { listed, found, classes });
        }
        if batch > examples { Err(PlanError::Batch { batch, examples }) } else { Ok(()) }
    }

    /// Refuses steps that no memory holds, given the examples of the client that has most.
    fn check_memory(&self, examples: usize) -> Result<(), PlanError> {
        let (step, most) = (self.config.batch.min(examples), self.batch_max);
        if step > most { Err(PlanError::Memory { step, most }) } else { Ok(()) }
    }

    /// The weights of all tensors that the run file's seed gives.
    ///
    /// # Errors
    /// There is not enough memory for them.
    pub fn drawn_weights(&self) -> Result<Vec<u8>, PlanError> {
        Ok(Model::initial(&self.spec, &Device::Cpu, self.seed)?.to_bytes()?)
    }

    /// The state that a run begins with, which has these weights of all tensors.
    pub fn initial_state(&self, weights: &[u8]) -> Vec<u8> {
        self.formats.state.initial(self.trainable.select(&self.layout, weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(model: &str, data: &str) -> Result<Plan, PlanError> {
        let text = format!("[run]\nname = \"t\"\nrounds = 1\n[model]\n{model}\n[data]\n{data}\n");
        Plan::of(&crate::run_file::parse(&text, "run.toml").expect("the run file is sound"))
    }

    #[test]
    fn the_cnn_of_the_paper_has_its_parameters() {
        let plan = plan("arch = \"cifar-cnn\"", "dataset = \"cifar10\"").expect("it fits");
        assert_eq!(plan.formats.parameters(), 1_068_298);
    }

    #[test]
    fn a_net_that_does_not_fit_its_images_is_named_with_them() {
        let layers =
            "layers = [{ type = \"max_pool\", size = 64 }, { type = \"flatten\" }, { type = \"linear\", out = 10 }]";
        let error = plan(layers, "dataset = \"mnist\"").expect_err("a pool larger than the image");
        assert!(error.to_string().contains("[1, 28, 28]"), "{error}");
    }

    #[test]
    fn a_part_beyond_the_parts_is_refused() {
        let plan = plan("arch = \"shapes-cnn\"", "dataset = \"shapes\"\nsamples = 100").expect("it fits");
        let error = plan.data(None, Some(Part { index: 3, of: 2 })).expect_err("3 of 2");
        assert!(error.to_string().contains("3/2"), "{error}");
    }
}
