//! The run file: the TOML that fixes model, seed, data, training and rounds of a run (docs/protocol.md, section 1).
//!
//! [`RunFile::parse`] reads what a person wrote and says where it is wrong; [`RunFile::canonical`] writes it out with
//! every key in a fixed order, so that comments, order and left-out defaults don't matter; the hash of that is the
//! [`RunId`]. Text in, text out: no file is touched here.

mod error;
mod read;
mod source;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

pub use error::{Problem, RunFileError};

use crate::base::aggregation::Rule;
use crate::base::ids::{Hash, RunId};

/// The nets that a run file can name with `arch`. The model crate builds each of them.
pub const ARCHS: [&str; 5] = ["cifar-cnn", "mnist-cnn", "mlp", "shapes-cnn", "resnet8"];

/// Largest seed: the largest integer that every TOML reader takes.
pub const SEED_MAX: u64 = i64::MAX as u64;

/// Shortest `timeout`: below a second a busy machine's scheduler decides who is late.
pub const TIMEOUT_MS_MIN: u64 = 1_000;

/// Longest `timeout`, 30 days: longer than anybody waits for a round.
pub const TIMEOUT_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Local epochs of a round; beyond that the nodes' models have long drifted apart.
pub const EPOCHS_MAX: u32 = 10_000;

/// Width of a layer: outputs or channels. Far above any net that fits the bound on a model's bytes.
pub const WIDTH_MAX: u32 = 1 << 20;

/// Kernel, stride, padding and pooling size of a layer: an image's longest side.
pub const IMAGE_SIDE_MAX: u32 = 1024;

/// Shards that one node gets under `partition = { shards = S }`.
pub const SHARDS_MAX: u32 = 1000;

/// A run file whose every value was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// `[run]`
    pub run: RunSection,
    /// `[model]`
    pub model: ModelSection,
    /// `[data]`
    pub data: DataSection,
    /// `[train]`
    pub train: TrainSection,
    /// `[round]`
    pub round: RoundSection,
    /// `[aggregate]`
    pub aggregate: AggregateSection,
}

/// `[run]`: which run this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSection {
    /// What people call it: letters, digits, `-`, `_`, `.`, at most `NAME_BYTES_MAX` bytes. It names directories.
    pub name: String,
    /// Rounds with contributions until the run ends, 1 to `ROUNDS_MAX`.
    pub rounds: u64,
    /// Nodes that a founding needs, 1 to `ROSTER_MAX`.
    pub min_nodes: u32,
    /// What initial values, shuffling and augmentation are drawn from, at most [`SEED_MAX`].
    pub seed: u64,
}

/// `[model]`: the net, either by name or layer by layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// One of [`ARCHS`]; `None` if the layers are listed.
    pub arch: Option<String>,
    /// The layers, at most `LAYERS_MAX`; empty if `arch` is given.
    pub layers: Vec<LayerSection>,
}

/// One layer of `layers = [ ... ]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerSection {
    /// `{ type = "conv", out = 32, kernel = 5 }`: a square convolution with bias.
    Conv {
        /// Output channels.
        out: u32,
        /// Side of the kernel.
        kernel: u32,
        /// Step in both directions, 1 by default.
        stride: u32,
        /// Zeros added on each side, half the kernel by default.
        pad: u32,
    },
    /// `{ type = "group_norm", groups = 4 }`
    GroupNorm {
        /// Groups of channels.
        groups: u32,
    },
    /// `{ type = "relu" }`
    Relu,
    /// `{ type = "max_pool", size = 2 }`: windows that don't overlap.
    MaxPool {
        /// Side of the window.
        size: u32,
    },
    /// `{ type = "residual", out = 32, stride = 2, groups = 8 }`: the basic block of a residual net, with group
    /// normalisation.
    Residual {
        /// Output channels.
        out: u32,
        /// Step of its first convolution, 1 by default.
        stride: u32,
        /// Groups of channels of its normalisations.
        groups: u32,
    },
    /// `{ type = "global_avg_pool" }`: the mean of each channel.
    GlobalAvgPool,
    /// `{ type = "flatten" }`
    Flatten,
    /// `{ type = "linear", out = 10 }`: fully connected with bias.
    Linear {
        /// Outputs.
        out: u32,
    },
    /// `{ type = "dropout", rate = 0.5 }`
    Dropout {
        /// Part of the values that is dropped, from 0 to below 1.
        rate: f64,
    },
}

/// `[data]`: what each node trains on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// The data set.
    pub dataset: Dataset,
    /// How one data set is split among nodes started with `--part K/N`.
    pub partition: Partition,
}

/// The data sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dataset {
    /// Generated: 10 classes, 3x32x32, no file.
    Shapes {
        /// Training images; there is one test image for each 5.
        samples: u32,
    },
    /// The binary batches of CIFAR-10.
    Cifar10,
    /// The IDX files of MNIST.
    Mnist,
    /// A folder of images with a subfolder for each class.
    Folder {
        /// Names of the classes, which are the subfolders, in the order of their labels.
        classes: Vec<String>,
        /// Channels (1 or 3), height, width.
        image: [u32; 3],
        /// Part of the images that is held out as test set, between 0 and 1.
        holdout: f64,
    },
}

/// How one data set is split among nodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Evenly at random.
    Iid,
    /// Class proportions drawn from a Dirichlet distribution with this concentration.
    Dirichlet(f64),
    /// Sorted by label and cut; each node gets this many pieces (McMahan et al. 2017, section 3).
    Shards(u32),
    /// Each node gets images of this many classes.
    Labels(u32),
    /// Every class alike, the k-th largest part in proportion to k to the power of minus this.
    PowerLaw(f64),
}

/// `[train]`: a participant's local training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainSection {
    /// E of FedAvg: passes over the local data in a round.
    pub epochs: u32,
    /// B of FedAvg: images in a step.
    pub batch: u32,
    /// Learning rate of round 1, above 0.
    pub lr: f64,
    /// Factor on the learning rate from each round to the next, above 0 and at most 1.
    pub lr_decay: f64,
    /// Momentum, from 0 to below 1.
    pub momentum: f64,
    /// L2 penalty, from 0.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient, 0 for no limit.
    pub clip_norm: f64,
    /// Weight of the proximal term (Li et al. 2020, FedProx), 0 for plain FedAvg.
    pub prox_mu: f64,
    /// Whether training images are cropped, flipped and so on at random.
    pub augment: bool,
}

/// `[round]`: who trains and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundSection {
    /// C of FedAvg: the part of the roster that trains in a round, above 0 and at most 1.
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<u32>,
    /// Longest collection of an attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Rounds whose updates are kept on disk, for those who want to recompute an average.
    pub keep_updates: u32,
}

/// `[aggregate]`: how updates become a model.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct AggregateSection {
    /// The rule with its parameters.
    pub rule: Rule,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch: 50,
            lr: 0.05,
            lr_decay: 1.0,
            momentum: 0.0,
            weight_decay: 0.0,
            clip_norm: 0.0,
            prox_mu: 0.0,
            augment: true,
        }
    }
}

impl Default for RoundSection {
    fn default() -> Self {
        Self { fraction: 1.0, min_updates: None, timeout_ms: 600_000, keep_updates: 2 }
    }
}

/// What `paceline init` writes.
const TEMPLATE: &str = include_str!("runfile/template.toml");

/// How many of a roster train in a round, and how many of their updates it needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// C of FedAvg: the part of the roster that trains in a round, in (0, 1].
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<usize>,
}

impl Quota {
    /// How many of a roster of so many train in a round: the fraction rounded up, at least one.
    pub fn participants_of(&self, roster: usize) -> usize {
        ((self.fraction * roster as f64).ceil() as usize).clamp(1, roster.max(1))
    }

    /// How many updates a round with so many participants needs: those asked for, at most all; or else a majority.
    pub fn min_updates_of(&self, participants: usize) -> usize {
        self.min_updates.unwrap_or(participants / 2 + 1).clamp(1, participants.max(1))
    }
}

impl RunFile {
    /// Reads a run file. `origin` is the file's name, for errors.
    ///
    /// # Errors
    /// The first thing that is wrong: syntax, an unknown section or key, a missing one, a value out of range, or more
    /// than `RUN_FILE_BYTES_MAX` bytes as text or in canonical form. The error says where and how to put it right.
    pub fn parse(text: &str, origin: &str) -> Result<RunFile, RunFileError> {
        read::run_file(text, origin)
    }

    /// Where a key of a section, or an item of its list, stands in a run file that [`RunFile::parse`] takes:
    /// `origin:line:column`. Where the key was left out, its section; where that was too, the file's end.
    pub fn place(text: &str, origin: &str, section: &str, key: &str, item: Option<usize>) -> String {
        read::place(text, origin, section, key, item)
    }

    /// The commented run file that `paceline init` writes.
    pub fn template() -> &'static str {
        TEMPLATE
    }

    /// TOML with every key, in fixed order, numbers in their shortest form. Parsing it gives this run file again.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String never fails");
        text
    }

    /// BLAKE3 of the canonical form's bytes: the name of the run.
    pub fn run_id(&self) -> RunId {
        Hash::of(self.canonical().as_bytes())
    }

    /// How many train in a round, and how many updates it needs.
    pub fn quota(&self) -> Quota {
        Quota { fraction: self.round.fraction, min_updates: self.round.min_updates.map(|m| m as usize) }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { run, model, data, train, round, aggregate } = self;
        writeln!(out, "[run]\nname = {}\nrounds = {}", quoted(&run.name), run.rounds)?;
        writeln!(out, "min_nodes = {}\nseed = {}\n", run.min_nodes, run.seed)?;
        out.push_str("[model]\n");
        match &model.arch {
            Some(arch) => writeln!(out, "arch = {}", quoted(arch))?,
            None => {
                out.push_str("layers = [\n");
                model.layers.iter().try_for_each(|layer| writeln!(out, "    {{ {} }},", layer.canonical()))?;
                out.push_str("]\n");
            }
        }
        writeln!(out, "\n[data]\n{}\npartition = {}", data.dataset.canonical(), data.partition.canonical())?;
        writeln!(out, "\n[train]\nepochs = {}\nbatch = {}", train.epochs, train.batch)?;
        writeln!(out, "lr = {}\nlr_decay = {}", number(train.lr), number(train.lr_decay))?;
        writeln!(out, "momentum = {}\nweight_decay = {}", number(train.momentum), number(train.weight_decay))?;
        writeln!(out, "clip_norm = {}\nprox_mu = {}", number(train.clip_norm), number(train.prox_mu))?;
        writeln!(out, "augment = {}", train.augment)?;
        writeln!(out, "\n[round]\nfraction = {}", number(round.fraction))?;
        match round.min_updates {
            Some(min_updates) => writeln!(out, "min_updates = {min_updates}")?,
            None => writeln!(out, "min_updates = \"majority\"")?,
        }
        writeln!(out, "timeout = {}\nkeep_updates = {}", quoted(&duration(round.timeout_ms)), round.keep_updates)?;
        writeln!(out, "\n[aggregate]\nrule = {}", quoted(aggregate.rule.name()))?;
        aggregate.rule.parameters().iter().try_for_each(|(key, value)| writeln!(out, "{key} = {}", number(*value)))
    }
}

impl LayerSection {
    fn canonical(&self) -> String {
        match self {
            Self::Conv { out, kernel, stride, pad } => {
                format!("type = \"conv\", out = {out}, kernel = {kernel}, stride = {stride}, pad = {pad}")
            }
            Self::GroupNorm { groups } => format!("type = \"group_norm\", groups = {groups}"),
            Self::Relu => "type = \"relu\"".to_owned(),
            Self::MaxPool { size } => format!("type = \"max_pool\", size = {size}"),
            Self::Residual { out, stride, groups } => {
                format!("type = \"residual\", out = {out}, stride = {stride}, groups = {groups}")
            }
            Self::GlobalAvgPool => "type = \"global_avg_pool\"".to_owned(),
            Self::Flatten => "type = \"flatten\"".to_owned(),
            Self::Linear { out } => format!("type = \"linear\", out = {out}"),
            Self::Dropout { rate } => format!("type = \"dropout\", rate = {}", number(*rate)),
        }
    }
}

impl Dataset {
    fn canonical(&self) -> String {
        match self {
            Self::Shapes { samples } => format!("dataset = \"shapes\"\nsamples = {samples}"),
            Self::Cifar10 => "dataset = \"cifar10\"".to_owned(),
            Self::Mnist => "dataset = \"mnist\"".to_owned(),
            Self::Folder { classes, image: [channels, height, width], holdout } => {
                let classes: Vec<String> = classes.iter().map(|class| quoted(class)).collect();
                format!(
                    "dataset = \"folder\"\nclasses = [{}]\nimage = [{channels}, {height}, {width}]\nholdout = {}",
                    classes.join(", "),
                    number(*holdout)
                )
            }
        }
    }
}

impl Partition {
    fn canonical(&self) -> String {
        match self {
            Self::Iid => "\"iid\"".to_owned(),
            Self::Dirichlet(alpha) => format!("{{ dirichlet = {} }}", number(*alpha)),
            Self::Shards(shards) => format!("{{ shards = {shards} }}"),
            Self::Labels(labels) => format!("{{ labels = {labels} }}"),
            Self::PowerLaw(exponent) => format!("{{ power_law = {} }}", number(*exponent)),
        }
    }
}

/// A basic TOML string. Names hold no control characters, so the quote and the backslash are all there is to escape.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The shortest text that reads back as the same number, always with a point or an exponent. Zero has no sign.
fn number(x: f64) -> String {
    format!("{:?}", x + 0.0)
}

/// Units of a duration, the longest first.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in the longest unit that needs no fraction.
fn duration(ms: u64) -> String {
    let (unit, length_ms) =
        DURATION_UNITS.into_iter().find(|(_, length_ms)| ms != 0 && ms.is_multiple_of(*length_ms)).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / length_ms)
}
