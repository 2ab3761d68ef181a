//! Reads a run file: every key typed, every value checked, every error at its place.

use toml::de::DeTable;

use super::error::Problem;
use super::source::{Entry, File, Key, Result, Section, suggestion};
use super::*;
use crate::base::bounds::{CLASSES_MAX, LAYERS_MAX, NAME_BYTES_MAX, ROSTER_MAX, ROUNDS_MAX, SAMPLES_MAX};

const AGGREGATE: &[Key] = &[
    ("rule", "rule = \"fedavg\""),
    ("lr", "lr = 0.1"),
    ("momentum", "momentum = 0.9"),
    ("beta1", "beta1 = 0.9"),
    ("beta2", "beta2 = 0.99"),
    ("tau", "tau = 0.001"),
];

/// The keys of each section, each with a line to show as an example.
pub(super) const SECTIONS: [(&str, &[Key]); 6] = [
    (
        "run",
        &[
            ("name", "name = \"shapes\""),
            ("rounds", "rounds = 10"),
            ("min_nodes", "min_nodes = 3"),
            ("seed", "seed = 1"),
        ],
    ),
    ("model", &[("arch", "arch = \"shapes-cnn\""), ("layers", "layers = [{ type = \"linear\", out = 10 }]")]),
    (
        "data",
        &[
            ("dataset", "dataset = \"shapes\""),
            ("samples", "samples = 5000"),
            ("classes", "classes = [\"cat\", \"dog\"]"),
            ("image", "image = [3, 32, 32]"),
            ("holdout", "holdout = 0.1"),
            ("partition", "partition = { dirichlet = 0.5 }"),
        ],
    ),
    (
        "train",
        &[
            ("epochs", "epochs = 1"),
            ("batch", "batch = 50"),
            ("lr", "lr = 0.05"),
            ("lr_decay", "lr_decay = 0.99"),
            ("momentum", "momentum = 0.9"),
            ("weight_decay", "weight_decay = 0.0001"),
            ("clip_norm", "clip_norm = 10.0"),
            ("prox_mu", "prox_mu = 0.01"),
            ("augment", "augment = true"),
        ],
    ),
    (
        "round",
        &[
            ("fraction", "fraction = 1.0"),
            ("min_updates", "min_updates = 2"),
            ("timeout", "timeout = \"10min\""),
            ("keep_updates", "keep_updates = 2"),
        ],
    ),
    ("aggregate", AGGREGATE),
];

const CONV: &[Key] =
    &[("type", ""), ("out", "out = 32"), ("kernel", "kernel = 5"), ("stride", "stride = 1"), ("pad", "pad = 2")];

/// The types of layer and the keys of each.
pub(super) const LAYERS: [(&str, &[Key]); 9] = [
    ("conv", CONV),
    ("group_norm", &[("type", ""), ("groups", "groups = 4")]),
    ("relu", &[("type", "")]),
    ("max_pool", &[("type", ""), ("size", "size = 2")]),
    ("residual", &[("type", ""), ("out", "out = 32"), ("stride", "stride = 2"), ("groups", "groups = 8")]),
    ("global_avg_pool", &[("type", "")]),
    ("flatten", &[("type", "")]),
    ("linear", &[("type", ""), ("out", "out = 10")]),
    ("dropout", &[("type", ""), ("rate", "rate = 0.5")]),
];

/// Images of the `shapes` data set by default.
const SHAPES_SAMPLES: u32 = 5000;

/// Fewest images of the `shapes` data set: one test image for each of its 10 classes needs 5 times as many.
const SHAPES_SAMPLES_MIN: u64 = 50;

/// Least learning rate with SCAFFOLD: below it, steps drown in the rounding of the weights.
const SCAFFOLD_LR_MIN: f64 = 1e-9;

pub(super) fn run_file(text: &str, origin: &str) -> Result<RunFile> {
    let file = File { text, origin };
    file.check_length(text.len(), "of text")?;
    let root = DeTable::parse(text)
        .map_err(|e| file.error(e.span().map_or(0, |s| s.start), Problem::Syntax(e.message().trim().to_owned())))?;
    for (name, _) in root.get_ref() {
        if !SECTIONS.iter().any(|(section, _)| section == name.get_ref()) {
            return Err(file.error(name.span().start, unknown_section(name.get_ref())));
        }
    }
    let [run, model, data, train, round, aggregate] =
        SECTIONS.map(|(name, keys)| Section::of_root(&file, root.get_ref(), name, keys));
    let train = train?;
    let read = RunFile {
        run: run_section(&run?)?,
        model: model_section(&model?)?,
        data: data_section(&data?)?,
        train: train_section(&train)?,
        round: round_section(&round?)?,
        aggregate: aggregate_section(&aggregate?)?,
    };
    check_scaffold(&train, &read)?;
    file.check_length(read.canonical().len(), "in canonical form")?;
    Ok(read)
}

fn run_section(section: &Section) -> Result<RunSection> {
    let name = section.required("name")?;
    let expected = "letters, digits, `-`, `_` or `.`, a letter or digit first, at most 64 bytes";
    Ok(RunSection {
        name: name.text_where(expected, is_name)?.to_owned(),
        rounds: section.required("rounds")?.integer(1..=ROUNDS_MAX)?,
        min_nodes: section.integer_or("min_nodes", 1..=ROSTER_MAX as u64, 3)? as u32,
        seed: section.integer_or("seed", 0..=SEED_MAX, 1)?,
    })
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn model_section(section: &Section) -> Result<ModelSection> {
    match (section.get("arch"), section.get("layers")) {
        (Some(_), Some(layers)) => {
            Err(layers
                .conflict("[model] has both `arch` and `layers`: keep the one that is meant and remove the other"))
        }
        (Some(arch), None) => Ok(ModelSection { arch: Some(arch.one_of(&ARCHS)?.to_owned()), layers: Vec::new() }),
        (None, Some(layers)) => {
            let items = layers.array(1..=LAYERS_MAX)?;
            Ok(ModelSection { arch: None, layers: items.iter().map(layer).collect::<Result<_>>()? })
        }
        (None, None) => Err(section.missing("arch")),
    }
}

fn layer(item: &Entry) -> Result<LayerSection> {
    let any = item.table("type", CONV)?;
    let names = LAYERS.map(|(name, _)| name);
    let name = any.required("type")?.one_of(&names)?;
    let keys = LAYERS.iter().find(|(n, _)| *n == name).map_or(CONV, |(_, keys)| keys);
    let layer = any.known_as(format!("a `{name}` layer"), keys);
    layer.check_keys()?;
    let count = |key, max: u32| Ok(layer.required(key)?.integer(1..=u64::from(max))? as u32);
    Ok(match name {
        "conv" => {
            let (out, kernel) = (count("out", WIDTH_MAX)?, count("kernel", IMAGE_SIDE_MAX)?);
            let stride = layer.integer_or("stride", 1..=u64::from(IMAGE_SIDE_MAX), 1)? as u32;
            let pad = layer.integer_or("pad", 0..=u64::from(IMAGE_SIDE_MAX), u64::from(kernel / 2))? as u32;
            LayerSection::Conv { out, kernel, stride, pad }
        }
        "group_norm" => LayerSection::GroupNorm { groups: count("groups", WIDTH_MAX)? },
        "relu" => LayerSection::Relu,
        "max_pool" => LayerSection::MaxPool { size: count("size", IMAGE_SIDE_MAX)? },
        "residual" => {
            let stride = layer.integer_or("stride", 1..=u64::from(IMAGE_SIDE_MAX), 1)? as u32;
            LayerSection::Residual { out: count("out", WIDTH_MAX)?, stride, groups: count("groups", WIDTH_MAX)? }
        }
        "global_avg_pool" => LayerSection::GlobalAvgPool,
        "flatten" => LayerSection::Flatten,
        "linear" => LayerSection::Linear { out: count("out", WIDTH_MAX)? },
        _ => {
            let rate = layer.required("rate")?;
            LayerSection::Dropout { rate: rate.number("a number from 0 to below 1", |x| (0.0..1.0).contains(&x))? }
        }
    })
}

fn data_section(section: &Section) -> Result<DataSection> {
    let dataset = section.required("dataset")?;
    let name = dataset.one_of(&["shapes", "cifar10", "mnist", "folder"])?;
    for (key, of) in [("samples", "shapes"), ("classes", "folder"), ("image", "folder"), ("holdout", "folder")] {
        if let Some(entry) = section.get(key).filter(|_| name != of) {
            let text = format!("`{key}` in [data] goes with `dataset = \"{of}\"` and this is \"{name}\": remove one");
            return Err(entry.conflict(text));
        }
    }
    let dataset = match name {
        "shapes" => {
            let samples = section.integer_or("samples", SHAPES_SAMPLES_MIN..=SAMPLES_MAX, u64::from(SHAPES_SAMPLES))?;
            Dataset::Shapes { samples: samples as u32 }
        }
        "cifar10" => Dataset::Cifar10,
        "mnist" => Dataset::Mnist,
        _ => folder(section)?,
    };
    Ok(DataSection { dataset, partition: section.get("partition").map_or(Ok(Partition::Iid), |p| partition(&p))? })
}

fn folder(section: &Section) -> Result<Dataset> {
    let mut classes: Vec<String> = Vec::new();
    for item in section.required("classes")?.array(2..=CLASSES_MAX)? {
        let expected = "the name of a subfolder, at most 64 bytes, without `/`, `\\` and control characters";
        let class = item.text_where(expected, is_folder_name)?;
        if classes.iter().any(|other| other == class) {
            return Err(item.conflict(format!("class {class:?} is listed twice: remove one")));
        }
        classes.push(class.to_owned());
    }
    let image = section.required("image")?;
    let sides = image.array(3..=3)?;
    let [channels, height, width] = sides.as_slice() else { return Err(section.missing("image")) };
    let channels = match channels.integer(1..=3)? {
        2 => return Err(channels.wrong("1 (grey) or 3 (colour) channels")),
        channels => channels as u32,
    };
    let side = |entry: &Entry| Ok(entry.integer(1..=u64::from(IMAGE_SIDE_MAX))? as u32);
    let holdout = match section.get("holdout") {
        Some(entry) => entry.number("a number above 0 and below 1", |x| x > 0.0 && x < 1.0)?,
        None => 0.1,
    };
    Ok(Dataset::Folder { classes, image: [channels, side(height)?, side(width)?], holdout })
}

fn is_folder_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || c == '/' || c == '\\')
}

/// The partitions that have a parameter.
const PARTITIONS: &[Key] = &[
    ("dirichlet", "dirichlet = 0.5"),
    ("shards", "shards = 2"),
    ("labels", "labels = 2"),
    ("power_law", "power_law = 1.5"),
];

fn partition(entry: &Entry) -> Result<Partition> {
    if entry.value.is_str() {
        return entry.one_of(&["iid"]).map(|_| Partition::Iid);
    }
    let expected = "\"iid\", { dirichlet = ALPHA }, { shards = COUNT }, { labels = COUNT } or { power_law = EXPONENT }";
    if !entry.value.is_table() {
        return Err(entry.wrong(expected));
    }
    let table = entry.table("dirichlet", PARTITIONS)?;
    table.check_keys()?;
    let given: Vec<(&str, Entry)> = PARTITIONS.iter().filter_map(|(key, _)| Some((*key, table.get(key)?))).collect();
    let [(key, value)] = given.as_slice() else { return Err(entry.wrong(expected)) };
    Ok(match *key {
        "dirichlet" => Partition::Dirichlet(value.number("a number from 0.01 to 1e6", |x| (0.01..=1e6).contains(&x))?),
        "shards" => Partition::Shards(value.integer(1..=u64::from(SHARDS_MAX))? as u32),
        "labels" => Partition::Labels(value.integer(1..=CLASSES_MAX as u64)? as u32),
        _ => Partition::PowerLaw(value.number("a number from 0 to 10", |x| (0.0..=10.0).contains(&x))?),
    })
}

fn train_section(section: &Section) -> Result<TrainSection> {
    let default = TrainSection::default();
    let number = |key, default, expected, ok: fn(f64) -> bool| {
        section.get(key).map_or(Ok(default), |entry| entry.number(expected, ok))
    };
    Ok(TrainSection {
        epochs: section.integer_or("epochs", 1..=u64::from(EPOCHS_MAX), u64::from(default.epochs))? as u32,
        batch: section.integer_or("batch", 1..=SAMPLES_MAX, u64::from(default.batch))? as u32,
        lr: number("lr", default.lr, "a finite number above 0", |x| x > 0.0)?,
        lr_decay: number("lr_decay", default.lr_decay, "a number above 0, at most 1", |x| x > 0.0 && x <= 1.0)?,
        momentum: number("momentum", default.momentum, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
        weight_decay: number("weight_decay", default.weight_decay, "a finite number from 0 on", |x| x >= 0.0)?,
        clip_norm: number("clip_norm", default.clip_norm, "a finite number from 0 on", |x| x >= 0.0)?,
        prox_mu: number("prox_mu", default.prox_mu, "a finite number from 0 on", |x| x >= 0.0)?,
        augment: section.get("augment").map_or(Ok(default.augment), |entry| entry.boolean())?,
    })
}

fn round_section(section: &Section) -> Result<RoundSection> {
    let default = RoundSection::default();
    let fraction = match section.get("fraction") {
        Some(entry) => entry.number("a number above 0, at most 1", |x| x > 0.0 && x <= 1.0)?,
        None => default.fraction,
    };
    let min_updates = match section.get("min_updates") {
        Some(entry) if entry.value.is_str() => entry.one_of(&["majority"]).map(|_| None)?,
        Some(entry) => Some(entry.integer(1..=ROSTER_MAX as u64)? as u32),
        None => default.min_updates,
    };
    Ok(RoundSection {
        fraction,
        min_updates,
        timeout_ms: section.get("timeout").map_or(Ok(default.timeout_ms), |entry| timeout(&entry))?,
        keep_updates: section.integer_or("keep_updates", 0..=ROUNDS_MAX, u64::from(default.keep_updates))? as u32,
    })
}

fn timeout(entry: &Entry) -> Result<u64> {
    let wrong = || entry.wrong("a duration from \"1s\" to \"30d\": a whole number and one of ms, s, min, h, d");
    let text = entry.value.as_str().ok_or_else(wrong)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let (_, length_ms) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    count.checked_mul(length_ms).filter(|ms| (TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(ms)).ok_or_else(wrong)
}

fn aggregate_section(section: &Section) -> Result<AggregateSection> {
    let name = section.get("rule").map_or(Ok(Rule::default().name()), |entry| entry.one_of(&Rule::NAMES))?;
    let mut rule = Rule::named(name).unwrap_or_default();
    let mut parameters = rule.parameters_mut();
    for (key, _) in AGGREGATE.iter().filter(|(key, _)| *key != "rule") {
        let Some(entry) = section.get(key) else { continue };
        let Some((_, value)) = parameters.iter_mut().find(|(name, _)| name == key) else {
            return Err(
                entry.conflict(format!("`{key}` in [aggregate] has no meaning for `rule = \"{name}\"`: remove it"))
            );
        };
        **value = match *key {
            "lr" | "tau" => entry.number("a number from 1e-9 to 1e6", |x| (1e-9..=1e6).contains(&x))?,
            _ => entry.number("a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
        };
    }
    Ok(AggregateSection { rule })
}

/// SCAFFOLD's control variates are means of gradients, told from steps of the learning rate, which momentum would distort.
fn check_scaffold(train: &Section, read: &RunFile) -> Result<()> {
    let TrainSection { momentum, lr, lr_decay, .. } = read.train;
    if !matches!(read.aggregate.rule, Rule::Scaffold { .. }) {
        return Ok(());
    }
    let conflict = |key, text: String| match train.get(key) {
        Some(entry) => Err(entry.conflict(text)),
        None => Ok(()),
    };
    if momentum > 0.0 {
        let text = "`momentum` in [train] does not go with `rule = \"scaffold\"` in [aggregate]: remove one";
        return conflict("momentum", text.to_owned());
    }
    // Multiplied out, as training does: every node must come to the same.
    let last = lr * (1..read.run.rounds).fold(1.0, |factor, _| factor * lr_decay);
    if last >= SCAFFOLD_LR_MIN {
        return Ok(());
    }
    let key = if lr < SCAFFOLD_LR_MIN { "lr" } else { "lr_decay" };
    let text = format!(
        "`{key}` in [train] makes the last round's learning rate {last:e}: with `rule = \"scaffold\"` at least \
         {SCAFFOLD_LR_MIN:e}, so raise it"
    );
    conflict(key, text)
}

pub(super) fn place(text: &str, origin: &str, section: &str, key: &str, item: Option<usize>) -> String {
    let file = File { text, origin };
    let find = || -> Option<usize> {
        let root = DeTable::parse(text).ok()?;
        let (name, table) = root.get_ref().iter().find(|(name, _)| name.get_ref() == section)?;
        let entry = table.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key);
        let Some((name, value)) = entry else { return Some(name.span().start) };
        let item = item.and_then(|i| Some(value.get_ref().as_array()?.get(i)?.span().start));
        Some(item.unwrap_or(name.span().start))
    };
    file.place(find().unwrap_or(text.len()))
}

fn unknown_section(name: &str) -> Problem {
    let sections = SECTIONS.map(|(section, _)| section);
    let hint = match SECTIONS.iter().find(|(_, keys)| keys.iter().any(|(key, _)| *key == name)) {
        Some((section, _)) => format!("put it under [{section}]"),
        None => suggestion(name, &sections),
    };
    Problem::Unknown { what: "section", name: super::source::cut(name), place: String::new(), hint }
}
