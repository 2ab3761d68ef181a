//! The sections of learning: `[model]`, `[data]`, `[train]`, `[aggregate]`, `[metrics]`.

use std::collections::BTreeMap;

use paceline_model::data::{Column, ColumnKind, IMAGE_SIDE_MAX, SHAPES_SAMPLES_MIN, Table};
use paceline_model::spec::{CLASSES_MAX, LAYERS_MAX, PRESETS, ParamShape};
use paceline_model::{ACCURACY, Fit, Layer, Layout, MEAN_ERROR, Partition, RMSE, Rule, Source, TrainConfig, Trainable};
use paceline_protocol::Hash;
use paceline_protocol::bounds::{METRIC_NAME_BYTES_MAX, NAME_BYTES_MAX, SAMPLES_MAX};
use paceline_protocol::record::Metric;
use paceline_protocol::runfile::{
    Document, Entry, Given, Key, Known, Learning, Result, RunSection, Schema, number, quoted,
};

use super::{columns, layers};

/// What `arch` says where a program of the node's owner has the net.
const TRAINER: &str = "trainer";

/// Local epochs of a round; beyond that the nodes' models have long drifted apart.
const EPOCHS_MAX: u64 = 10_000;

/// Shards that one node gets under `partition = { shards = S }`.
const SHARDS_MAX: u64 = 1000;

/// Patterns of tensors that are trained.
const TRAINABLE_MAX: usize = 256;

/// Least learning rate with SCAFFOLD: below it, steps drown in the rounding of the weights.
const SCAFFOLD_LR_MIN: f64 = 1e-9;

/// What is learnt in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sections {
    /// `[model]`
    pub model: ModelSection,
    /// `[data]`
    pub data: DataSection,
    /// `[train]`
    pub train: TrainSection,
    /// `[aggregate]`
    pub rule: Rule,
    /// `[metrics]`
    pub metrics: Metrics,
}

/// `[model]`: the net.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSection {
    net: Option<Net>,
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

/// `[data]`: what each node trains on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataSection {
    /// The data set; none where a trainer has its own.
    pub source: Option<Source>,
    /// How one data set is split among nodes started with `--part K/N`.
    pub partition: Partition,
}

/// `[train]`: a participant's local training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainSection {
    /// What the nets that come with every node train with.
    pub config: TrainConfig,
    /// The table `settings` as canonical TOML, for trainers.
    pub settings: Option<String>,
}

/// `[metrics]`: what is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The metric that says how good a model is.
    pub lead: String,
    /// What is better.
    pub better: Better,
}

/// Which of two values of a metric is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher one, as of an accuracy.
    Higher,
    /// The lower one, as of an error.
    Lower,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { lead: "accuracy".to_owned(), better: Better::Higher }
    }
}

impl Metrics {
    /// A value of the lead as one that is the better the higher it is; and back, since it does so twice.
    pub fn rank(&self, value: f64) -> f64 {
        match self.better {
            Better::Higher => value,
            Better::Lower => -value,
        }
    }

    /// Whether one value of the lead is better than another.
    pub fn is_better(&self, one: f64, other: f64) -> bool {
        self.rank(one) > self.rank(other)
    }
}

const MODEL: Schema<ModelSection> = Schema {
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

const DATA: Schema<DataSection> = Schema {
    name: "data",
    doc: "",
    keys: &[
        Key::<DataSection>::required(
            "dataset",
            "\"shapes\"",
            "\"shapes\" (generated, needs no file), \"cifar10\", \"mnist\"; \"folder\", \"table\": `paceline init --from PATH`",
            |entry, data| {
                data.source = Some(match entry.one_of(&["shapes", "cifar10", "mnist", "folder", "table"])? {
                    "shapes" => Source::Shapes { samples: 0 },
                    "cifar10" => Source::Cifar10,
                    "mnist" => Source::Mnist,
                    "table" => Source::Table(Table {
                        target: Column { name: String::new(), kind: ColumnKind::Categories(Vec::new()) },
                        columns: Vec::new(),
                        holdout: 0.0,
                    }),
                    _ => Source::Folder { classes: Vec::new(), image: [0; 3], holdout: 0.0, fit: Fit::Exact },
                });
                Ok(())
            },
            |data| data.source.as_ref().map(|source| quoted(source.name())),
        ),
        Key::<DataSection>::with_default(
            "samples",
            "5000",
            "shapes only: training images",
            |entry, data| match &mut data.source {
                Some(Source::Shapes { samples }) => {
                    let range = SHAPES_SAMPLES_MIN as u64..=SAMPLES_MAX;
                    entry.integer(range).map(|count| *samples = count as usize)
                }
                other => Err(goes_with(entry, "samples", "shapes", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Shapes { samples }) => Some(samples.to_string()),
                _ => None,
            },
        )
        .when(|data| matches!(data.source, Some(Source::Shapes { .. }))),
        Key::<DataSection>::required(
            "classes",
            "[\"cat\", \"dog\"]",
            "folder only: the subfolders, in the order of their labels",
            |entry, data| match &mut data.source {
                Some(Source::Folder { classes, .. }) => read_classes(entry).map(|read| *classes = read),
                other => Err(goes_with(entry, "classes", "folder", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { classes, .. }) => {
                    let classes: Vec<String> = classes.iter().map(|class| quoted(class)).collect();
                    Some(format!("[{}]", classes.join(", ")))
                }
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::required(
            "image",
            "[3, 32, 32]",
            "folder only: channels, height, width",
            |entry, data| match &mut data.source {
                Some(Source::Folder { image, .. }) => read_image(entry).map(|read| *image = read),
                other => Err(goes_with(entry, "image", "folder", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { image: [channels, height, width], .. }) => {
                    Some(format!("[{channels}, {height}, {width}]"))
                }
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::required(
            "target",
            "{ name = \"kind\", categories = [\"cat\", \"dog\"] }",
            "",
            |entry, data| match &mut data.source {
                Some(Source::Table(table)) => columns::read(entry).map(|target| table.target = target),
                other => Err(goes_with(entry, "target", "table", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Table(table)) => Some(columns::column(&table.target)),
                _ => None,
            },
        )
        .when(is_table)
        .not_in_template(),
        Key::<DataSection>::required(
            "columns",
            "[{ name = \"age\", mean = 4.0, deviation = 2.0 }]",
            "",
            |entry, data| match &mut data.source {
                Some(Source::Table(table)) => {
                    columns::read_all(entry, &table.target).map(|columns| table.columns = columns)
                }
                other => Err(goes_with(entry, "columns", "table", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Table(table)) => Some(columns::columns(&table.columns)),
                _ => None,
            },
        )
        .when(is_table)
        .not_in_template(),
        Key::<DataSection>::with_default(
            "holdout",
            "0.1",
            "folder and table: part of the examples that is the test set",
            |entry, data| match &mut data.source {
                Some(Source::Folder { holdout, .. } | Source::Table(Table { holdout, .. })) => {
                    let share = entry.number("a number above 0 and below 1", |x| x > 0.0 && x < 1.0)?;
                    *holdout = share;
                    Ok(())
                }
                other => Err(goes_with(entry, "holdout", "folder", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { holdout, .. } | Source::Table(Table { holdout, .. })) => Some(number(*holdout)),
                _ => None,
            },
        )
        .when(|data| is_folder(data) || is_table(data)),
        Key::<DataSection>::with_default(
            "fit",
            "\"exact\"",
            "folder only: how images of another size are brought to it: \"crop\", \"stretch\", or an error",
            |entry, data| match &mut data.source {
                Some(Source::Folder { fit, .. }) => {
                    *fit = match entry.one_of(&["exact", "crop", "stretch"])? {
                        "crop" => Fit::Crop,
                        "stretch" => Fit::Stretch,
                        _ => Fit::Exact,
                    };
                    Ok(())
                }
                other => Err(goes_with(entry, "fit", "folder", other.as_ref())),
            },
            // Came later than the others: where it says what was so before, the run's id stays.
            |data| match &data.source {
                Some(Source::Folder { fit: Fit::Crop, .. }) => Some(quoted("crop")),
                Some(Source::Folder { fit: Fit::Stretch, .. }) => Some(quoted("stretch")),
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::with_default(
            "partition",
            "\"iid\"",
            "how one data set is split among nodes started with --part K/N; or:",
            |entry, data| read_partition(entry).map(|partition| data.partition = partition),
            |data| Some(partition(&data.partition)),
        )
        .listing(|| {
            "  { dirichlet = 0.5 }, { shards = 2 }, { labels = 2 } (classes a node), { power_law = 1.5 } (sizes);\n  \
             `paceline data` shows what comes of it"
                .to_owned()
        }),
    ],
};

fn is_folder(data: &DataSection) -> bool {
    matches!(data.source, Some(Source::Folder { .. }))
}

fn is_table(data: &DataSection) -> bool {
    matches!(data.source, Some(Source::Table(_)))
}

fn goes_with(
    entry: &Entry,
    key: &str,
    dataset: &str,
    found: Option<&Source>,
) -> paceline_protocol::runfile::RunFileError {
    let found = found.map_or("none", Source::name);
    entry.conflict(format!("`{key}` in [data] goes with `dataset = \"{dataset}\"` and this is \"{found}\": remove one"))
}

fn read_classes(entry: &Entry) -> Result<Vec<String>> {
    let mut classes: Vec<String> = Vec::new();
    for item in entry.array(2..=CLASSES_MAX)? {
        let expected = "the name of a subfolder, at most 64 bytes, without `/`, `\\` and control characters";
        let class = item.text_where(expected, is_folder_name)?;
        if classes.iter().any(|other| other == class) {
            return Err(item.conflict(format!("class {class:?} is listed twice: remove one")));
        }
        classes.push(class.to_owned());
    }
    Ok(classes)
}

fn is_folder_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || c == '/' || c == '\\')
}

fn read_image(entry: &Entry) -> Result<[usize; 3]> {
    let sides = entry.array(3..=3)?;
    let [channels, height, width] = sides.as_slice() else { return Err(entry.wrong("a list of 3")) };
    let side = |entry: &Entry| Ok(entry.integer(1..=IMAGE_SIDE_MAX as u64)? as usize);
    match channels.integer(1..=3)? {
        2 => Err(channels.wrong("1 (grey) or 3 (colour) channels")),
        count => Ok([count as usize, side(height)?, side(width)?]),
    }
}

/// The partitions that have a parameter, each as a table of one key.
const PARTITION: Schema<Option<Partition>> = Schema {
    name: "partition",
    doc: "",
    keys: &[
        Key::optional(
            "dirichlet",
            "0.5",
            "",
            |entry, partition| {
                let alpha = entry.number("a number from 0.01 to 1e6", |x| (0.01..=1e6).contains(&x))?;
                one(entry, partition, Partition::Dirichlet(alpha))
            },
            |partition| match partition {
                Some(Partition::Dirichlet(alpha)) => Some(number(*alpha)),
                _ => None,
            },
        ),
        Key::optional(
            "shards",
            "2",
            "",
            |entry, partition| {
                let shards = entry.integer(1..=SHARDS_MAX)?;
                one(entry, partition, Partition::Shards(shards as usize))
            },
            |partition| match partition {
                Some(Partition::Shards(shards)) => Some(shards.to_string()),
                _ => None,
            },
        ),
        Key::optional(
            "labels",
            "2",
            "",
            |entry, partition| {
                let labels = entry.integer(1..=CLASSES_MAX as u64)?;
                one(entry, partition, Partition::Labels(labels as usize))
            },
            |partition| match partition {
                Some(Partition::Labels(labels)) => Some(labels.to_string()),
                _ => None,
            },
        ),
        Key::optional(
            "power_law",
            "1.5",
            "",
            |entry, partition| {
                let exponent = entry.number("a number from 0 to 10", |x| (0.0..=10.0).contains(&x))?;
                one(entry, partition, Partition::PowerLaw(exponent))
            },
            |partition| match partition {
                Some(Partition::PowerLaw(exponent)) => Some(number(*exponent)),
                _ => None,
            },
        ),
    ],
};

fn one(entry: &Entry, partition: &mut Option<Partition>, read: Partition) -> Result<()> {
    match partition.replace(read) {
        None => Ok(()),
        Some(_) => Err(entry.conflict("`partition` in [data] has two keys: keep the one that is meant")),
    }
}

fn read_partition(entry: &Entry) -> Result<Partition> {
    if entry.is_text() {
        return entry.one_of(&["iid"]).map(|_| Partition::Iid);
    }
    let expected = "\"iid\", { dirichlet = ALPHA }, { shards = COUNT }, { labels = COUNT } or { power_law = EXPONENT }";
    if !entry.is_table() {
        return Err(entry.wrong(expected));
    }
    let mut partition = None;
    PARTITION.read_keys(&entry.table("dirichlet", PARTITION.examples())?, &mut partition)?;
    partition.ok_or_else(|| entry.wrong(expected))
}

fn partition(partition: &Partition) -> String {
    match partition {
        Partition::Iid => quoted("iid"),
        other => format!("{{ {} }}", PARTITION.inline(&Some(*other))),
    }
}

/// What a number must be, and in words.
struct Range(&'static str, fn(f64) -> bool);

impl Range {
    fn read(&self, entry: &Entry) -> Result<f64> {
        entry.number(self.0, self.1)
    }
}

const ABOVE_0: Range = Range("a finite number above 0", |x| x > 0.0);
const FROM_0: Range = Range("a finite number from 0 on", |x| x >= 0.0);
const SHARE: Range = Range("a number from 0 to below 1", |x| (0.0..1.0).contains(&x));
const FACTOR: Range = Range("a number above 0, at most 1", |x| x > 0.0 && x <= 1.0);
const RATE: Range = Range("a number from 1e-9 to 1e6", |x| (1e-9..=1e6).contains(&x));

/// A number of the built-in nets' training, under the name of its field.
macro_rules! setting {
    ($field:ident, $default:literal, $range:ident, $doc:literal) => {
        Key::with_default(
            stringify!($field),
            $default,
            $doc,
            |entry, train| $range.read(entry).map(|value| train.config.$field = value),
            |train| Some(number(train.config.$field)),
        )
    };
}

const TRAIN: Schema<TrainSection> = Schema {
    name: "train",
    doc: "",
    keys: &[
        Key::with_default(
            "epochs",
            "1",
            "passes over the local data in a round",
            |entry, train| entry.integer(1..=EPOCHS_MAX).map(|epochs| train.config.epochs = epochs as usize),
            |train| Some(train.config.epochs.to_string()),
        ),
        Key::with_default(
            "batch",
            "50",
            "examples in a step",
            |entry, train| entry.integer(1..=SAMPLES_MAX).map(|batch| train.config.batch = batch as usize),
            |train| Some(train.config.batch.to_string()),
        ),
        setting!(lr, "0.05", ABOVE_0, "learning rate"),
        setting!(lr_decay, "1.0", FACTOR, "factor on it from each round to the next"),
        setting!(momentum, "0.0", SHARE, ""),
        setting!(weight_decay, "0.0", FROM_0, ""),
        setting!(clip_norm, "0.0", FROM_0, "above 0: the largest norm of a step's gradient"),
        setting!(prox_mu, "0.0", FROM_0, "above 0: FedProx"),
        Key::with_default(
            "augment",
            "true",
            "crop, flip and so on at random (cifar-cnn alone)",
            |entry, train| entry.boolean().map(|augment| train.config.augment = augment),
            |train| Some(train.config.augment.to_string()),
        ),
        Key::optional(
            "settings",
            "{ hidden = 64 }",
            "for trainers: handed over as it stands",
            |entry, train| {
                if !entry.is_table() {
                    return Err(entry.wrong("a table"));
                }
                entry.verbatim().map(|table| train.settings = Some(table))
            },
            |train| train.settings.clone(),
        ),
    ],
};

/// A parameter that some rules have.
macro_rules! parameter {
    ($name:literal, $example:literal, $of:ident, $range:ident) => {
        Key::<Rule>::optional(
            $name,
            $example,
            "",
            |entry, rule| {
                let name = rule.name();
                let Some(value) = rule.$of() else {
                    let text = format!("`{}` in [aggregate] has no meaning for `rule = \"{name}\"`: remove it", $name);
                    return Err(entry.conflict(text));
                };
                $range.read(entry).map(|read| *value = read)
            },
            |rule| {
                let mut rule = *rule;
                rule.$of().map(|value| number(*value))
            },
        )
        .not_in_template()
    };
}
const AGGREGATE: Schema<Rule> = Schema {
    name: "aggregate",
    doc: "",
    keys: &[
        Key::<Rule>::with_default(
            "rule",
            "\"fedavg\"",
            "what the mean of the updates does to the model; the others have these keys and defaults:",
            |entry, rule| {
                let name = entry.one_of(&Rule::NAMES)?;
                *rule = Rule::named(name).unwrap_or_default();
                Ok(())
            },
            |rule| Some(quoted(rule.name())),
        )
        .listing(rules),
        parameter!("lr", "0.1", lr_mut, RATE),
        parameter!("momentum", "0.9", momentum_mut, SHARE),
        parameter!("beta1", "0.9", beta1_mut, SHARE),
        parameter!("beta2", "0.99", beta2_mut, SHARE),
        parameter!("tau", "0.001", tau_mut, RATE),
    ],
};

fn rules() -> String {
    let rules = Rule::NAMES.into_iter().filter_map(Rule::named).filter(|rule| *rule != Rule::default());
    let line = |rule: Rule| {
        let keys = AGGREGATE.inline(&rule);
        let (_, parameters) = keys.split_once(", ").unwrap_or_default();
        format!("  {:<14}{parameters}", format!("\"{}\":", rule.name()))
    };
    rules.map(line).collect::<Vec<_>>().join("\n")
}

const METRICS: Schema<Metrics> = Schema {
    name: "metrics",
    doc: "",
    keys: &[
        Key::with_default(
            "lead",
            "\"accuracy\"",
            "the metric that says how good a model is",
            |entry, metrics| {
                let expected = format!("a name of a-z, 0-9 and _, at most {METRIC_NAME_BYTES_MAX} bytes");
                entry.text_where(&expected, Metric::is_name).map(|name| metrics.lead = name.to_owned())
            },
            |metrics| Some(quoted(&metrics.lead)),
        ),
        Key::with_default(
            "better",
            "\"higher\"",
            "which of its values is better: \"higher\" or \"lower\"",
            |entry, metrics| {
                let better = entry.one_of(&["higher", "lower"])?;
                metrics.better = if better == "higher" { Better::Higher } else { Better::Lower };
                Ok(())
            },
            |metrics| Some(quoted(if metrics.better == Better::Higher { "higher" } else { "lower" })),
        ),
    ],
};

impl Sections {
    /// The rule of aggregation in the words of the run file, on one line.
    pub fn aggregation(&self) -> String {
        AGGREGATE.inline(&self.rule)
    }

    /// The lines of `[train]`, and the table `settings`, for a trainer: JSON.
    pub fn for_trainer(&self) -> (serde_json::Value, serde_json::Value) {
        let blank = serde_json::Value::Object(serde_json::Map::new());
        let config = TrainSection { settings: None, ..self.train.clone() };
        let read = |text: &str| toml::from_str(text).unwrap_or_else(|_| blank.clone());
        let settings = self.train.settings.as_ref().map(|table| read(&format!("settings = {table}")));
        let settings = settings.and_then(|mut all: serde_json::Value| all.get_mut("settings").map(|s| s.take()));
        (read(&TRAIN.canonical(&config)), settings.unwrap_or(blank))
    }

    /// SCAFFOLD's control variates are means of gradients, told from steps of the learning rate, which momentum would
    /// distort.
    fn check_scaffold(&self, document: &Document, rounds: u64) -> Result<()> {
        let TrainConfig { momentum, lr, lr_decay, .. } = self.train.config;
        if !matches!(self.rule, Rule::Scaffold { .. }) {
            return Ok(());
        }
        let conflict = |section, key, text: String| match document.entry(section, key) {
            Some(entry) => Err(entry.conflict(text)),
            None => Ok(()),
        };
        if !self.model.trainable.is_all() {
            let text = "`rule = \"scaffold\"` in [aggregate] does not go with `trainable` in [model]: remove one";
            return conflict("aggregate", "rule", text.to_owned());
        }
        if *self.model.net() == Net::Trainer {
            let text = "`rule = \"scaffold\"` in [aggregate] needs the gradients of every step, which a trainer keeps to \
                        itself: take another rule";
            return conflict("aggregate", "rule", text.to_owned());
        }
        if momentum > 0.0 {
            let text = "`momentum` in [train] does not go with `rule = \"scaffold\"` in [aggregate]: remove one";
            return conflict("train", "momentum", text.to_owned());
        }
        // Multiplied out, as training does: every node must come to the same.
        let last = lr * (1..rounds).fold(1.0, |factor, _| factor * lr_decay);
        if last >= SCAFFOLD_LR_MIN {
            return Ok(());
        }
        let key = if lr < SCAFFOLD_LR_MIN { "lr" } else { "lr_decay" };
        let text = format!(
            "`{key}` in [train] makes the last round's learning rate {last:e}: with `rule = \"scaffold\"` at least \
             {SCAFFOLD_LR_MIN:e}, so raise it"
        );
        conflict("train", key, text)
    }
}

impl Sections {
    /// What leads must be among what the net's evaluations tell.
    fn check_lead(&self, document: &Document) -> Result<()> {
        let (measured, better): (&[&str], _) = match &self.data.source {
            None => return Ok(()),
            Some(Source::Table(Table { target: Column { kind: ColumnKind::Number { .. }, .. }, .. })) => {
                (&[MEAN_ERROR, RMSE, "loss"], "lower")
            }
            Some(_) => (&[ACCURACY, "loss"], "higher"),
        };
        let lead = self.metrics.lead.as_str();
        if measured.contains(&lead) {
            return Ok(());
        }
        let (first, all) = (measured[0], measured.join(", "));
        let text = format!(
            "`lead` in [metrics] is \"{lead}\", and what is measured here are {all}: say `lead = \"{first}\"` and `better = \
             \"{better}\"` there"
        );
        let entry = document.entry("metrics", "lead").or(document.entry("data", "target"));
        entry.map_or(Ok(()), |entry| Err(entry.conflict(text)))
    }
}

impl Learning for Sections {
    const SECTIONS: &'static [&'static str] = &["run", "model", "data", "train", "round", "aggregate", "metrics"];

    fn known() -> Vec<Known> {
        vec![MODEL.known(), DATA.known(), TRAIN.known(), AGGREGATE.known(), METRICS.known()]
    }

    fn read(document: &Document, run: &RunSection) -> Result<Self> {
        let model = MODEL.read(document)?;
        let data = match &model.net {
            None => return Err(MODEL.missing(document, "arch")),
            Some(Net::Trainer) => match document.entry("data", "dataset").or(document.entry("data", "partition")) {
                None => DataSection::default(),
                Some(entry) => {
                    let text = "a trainer has data of its own, which [data] can't describe: remove the section";
                    return Err(entry.conflict(text));
                }
            },
            Some(Net::Preset(_) | Net::Layers(_)) => DATA.read(document)?,
        };
        let (train, rule, metrics) = (TRAIN.read(document)?, AGGREGATE.read(document)?, METRICS.read(document)?);
        let sections = Self { model, data, train, rule, metrics };
        sections.check_scaffold(document, run.rounds)?;
        sections.check_lead(document)?;
        Ok(sections)
    }

    fn canonical(&self, section: &str) -> Option<String> {
        match section {
            "model" => Some(MODEL.canonical(&self.model)),
            "data" => self.data.source.is_some().then(|| DATA.canonical(&self.data)),
            "train" => Some(TRAIN.canonical(&self.train)),
            "aggregate" => Some(AGGREGATE.canonical(&self.rule)),
            // Came later than the others: where it says what was so before, the run's id stays.
            "metrics" => (self.metrics != Metrics::default()).then(|| METRICS.canonical(&self.metrics)),
            _ => None,
        }
    }

    fn template(section: &str, given: &Given) -> String {
        match section {
            "model" => MODEL.template(given),
            "data" if given.iter().any(|(_, key, value)| *key == "arch" && *value == quoted(TRAINER)) => String::new(),
            "data" => DATA.template(given),
            "train" => TRAIN.template(given),
            "aggregate" => AGGREGATE.template(given),
            "metrics" => METRICS.template(given),
            _ => String::new(),
        }
    }
}
