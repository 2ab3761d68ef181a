//! `[model]`: the net, what it begins with, and what of it is trained.

use std::collections::BTreeMap;

use paceline_model::spec::{LAYERS_MAX, PRESETS, ParamShape};
use paceline_model::{Layer, Layout, Trainable};
use paceline_protocol::Hash;
use paceline_protocol::runfile::{Entry, Key, Result, Schema, quoted};

use super::layers;

/// What `arch` says where a program of the node's owner has the net.
pub(super) const TRAINER: &str = "trainer";

/// Patterns of tensors that are trained.
const TRAINABLE_MAX: usize = 256;

/// `[model]`: the net.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSection {
    pub(super) net: Option<Net>,
    /// The blob of the weights that the run begins with, which one node has and the others fetch; without it they follow
    /// from the seed.
    pub weights: Option<Hash>,
    /// The tensors of a net that is a trainer's, where the run begins with given weights.
    pub tensors: Option<Layout>,
    /// Which tensors are trained, and travel.
    pub trainable: Trainable,
}

/// Which net.
#[derive(Debug, Clone, PartialEq)]
pub enum Net {
    /// One of the model crate's presets.
    Preset(&'static str),
    /// Layer by layer.
    Layers(Vec<Layer>),
    /// What a program of each node's owner trains.
    Trainer,
}

impl ModelSection {
    /// The net. One is always there once a file was read.
    pub fn net(&self) -> &Net {
        self.net.as_ref().unwrap_or(&Net::Trainer)
    }
}

pub(super) const MODEL: Schema<ModelSection> = Schema {
    name: "model",
    doc: "",
    keys: &[
        Key::<ModelSection>::optional(
            "arch",
            "\"shapes-cnn\"",
            "\"cifar-cnn\", \"resnet8\", \"mnist-cnn\", \"mlp\", \"shapes-cnn\", \"table-mlp\"; \"trainer\": see docs/trainer.md",
            |entry, model| {
                let names: Vec<&str> = PRESETS.into_iter().chain([TRAINER]).collect();
                let name = entry.one_of(&names)?;
                model.net = Some(if name == TRAINER { Net::Trainer } else { Net::Preset(name) });
                Ok(())
            },
            |model| match model.net() {
                Net::Preset(name) => Some(quoted(name)),
                Net::Trainer => Some(quoted(TRAINER)),
                Net::Layers(_) => None,
            },
        )
        .in_template(),
        Key::<ModelSection>::optional(
            "layers",
            "[{ type = \"linear\", out = 10 }]",
            "",
            |entry, model| {
                if model.net.is_some() {
                    return Err(entry.conflict(
                        "[model] has both `arch` and `layers`: keep the one that is meant and remove the other",
                    ));
                }
                let layers = entry.array(1..=LAYERS_MAX)?;
                model.net = Some(Net::Layers(layers.iter().map(layers::read).collect::<Result<_>>()?));
                Ok(())
            },
            |model| match model.net() {
                Net::Layers(layers) => {
                    let lines: String = layers.iter().map(|l| format!("    {},\n", layers::canonical(l))).collect();
                    Some(format!("[\n{lines}]"))
                }
                Net::Preset(_) | Net::Trainer => None,
            },
        )
        .not_in_template()
        .listing(layers::listing),
        Key::<ModelSection>::optional(
            "weights",
            "\"3fa9...\"",
            "hash of the weights that it begins with: `paceline init --model` writes it",
            |entry, model| {
                let expected = "64 hex digits, as `paceline init --model` writes them";
                let hash = entry.text_where(expected, |text| text.parse::<Hash>().is_ok())?;
                model.weights = hash.parse().ok();
                Ok(())
            },
            |model| model.weights.map(|hash| quoted(&hash.to_string())),
        ),
        Key::<ModelSection>::optional(
            "tensors",
            "{ \"fc.weight\" = [10, 64] }",
            "",
            |entry, model| {
                if model.net() != &Net::Trainer || model.weights.is_none() {
                    let text = "`tensors` in [model] goes with `arch = \"trainer\"` and `weights`: remove it";
                    return Err(entry.conflict(text));
                }
                model.tensors = Some(read_tensors(entry)?);
                Ok(())
            },
            |model| model.tensors.as_ref().map(tensors),
        )
        .not_in_template(),
        Key::<ModelSection>::optional(
            "trainable",
            "[\"linear1.*\"]",
            "tensors that are trained, and travel; the others stay as they are",
            |entry, model| {
                if *model.net() == Net::Trainer && model.weights.is_none() {
                    return Err(entry.conflict(
                        "`trainable` in [model] needs `weights` where a trainer has the net, for what stays as it is must be the \
                         same everywhere: `paceline init --model FILE` writes them",
                    ));
                }
                let expected = "a tensor's name, in which * stands for anything";
                let items = entry.array(1..=TRAINABLE_MAX)?;
                let pattern = |item: &Entry| item.text_where(expected, |text| !text.is_empty()).map(str::to_owned);
                model.trainable = Trainable::new(items.iter().map(pattern).collect::<Result<_>>()?);
                Ok(())
            },
            |model| {
                let patterns: Vec<String> = model.trainable.patterns().iter().map(|p| quoted(p)).collect();
                (!patterns.is_empty()).then(|| format!("[{}]", patterns.join(", ")))
            },
        ),
    ],
};

/// Reads the names and shapes of tensors.
fn read_tensors(entry: &Entry) -> Result<Layout> {
    let wrong = |why: &str| entry.wrong(format!("a table of tensors with their dimensions{why}"));
    if !entry.is_table() {
        return Err(wrong(""));
    }
    let text = format!("tensors = {}", entry.verbatim()?);
    let read: BTreeMap<String, BTreeMap<String, Vec<usize>>> = toml::from_str(&text).map_err(|_| wrong(""))?;
    let shape = |(name, shape)| ParamShape { name, shape };
    let layout = Layout::new(read.into_values().flatten().map(shape).collect());
    layout.map_err(|error| wrong(&format!("; {error}")))
}

fn tensors(layout: &Layout) -> String {
    let tensor = |t: &ParamShape| format!("{} = {:?}", quoted(&t.name), t.shape);
    format!("{{ {} }}", layout.tensors().iter().map(tensor).collect::<Vec<_>>().join(", "))
}
