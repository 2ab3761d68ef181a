//! Reads a run file: every key typed, every value checked, every error at its place.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, RunFileError};
use super::*;
use crate::bounds::{CLASSES_MAX, LAYERS_MAX, NAME_BYTES_MAX, ROSTER_MAX, ROUNDS_MAX, RUN_FILE_BYTES_MAX, SAMPLES_MAX};

type Result<T> = std::result::Result<T, RunFileError>;

/// The keys of each section, each with a line to show as an example.
const SECTIONS: [(&str, &[Key]); 6] = [
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
    ("aggregate", &[("rule", "rule = \"fedavg\"")]),
];

const CONV: &[Key] =
    &[("type", ""), ("out", "out = 32"), ("kernel", "kernel = 5"), ("stride", "stride = 1"), ("pad", "pad = 2")];

/// The types of layer and the keys of each.
const LAYERS: [(&str, &[Key]); 7] = [
    ("conv", CONV),
    ("group_norm", &[("type", ""), ("groups", "groups = 4")]),
    ("relu", &[("type", "")]),
    ("max_pool", &[("type", ""), ("size", "size = 2")]),
    ("flatten", &[("type", "")]),
    ("linear", &[("type", ""), ("out", "out = 10")]),
    ("dropout", &[("type", ""), ("rate", "rate = 0.5")]),
];

/// A key and a line to show as an example.
type Key = (&'static str, &'static str);

/// Images of the `shapes` data set by default.
const SHAPES_SAMPLES: u32 = 5000;

/// Fewest images of the `shapes` data set: one test image for each of its 10 classes needs 5 times as many.
const SHAPES_SAMPLES_MIN: u64 = 50;

/// Characters of a found name or value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// How alike two names must be, by Jaro-Winkler, for one to be suggested for the other.
const ALIKE_MIN: f64 = 0.75;

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
    let read = RunFile {
        run: run_section(&run?)?,
        model: model_section(&model?)?,
        data: data_section(&data?)?,
        train: train_section(&train?)?,
        round: round_section(&round?)?,
        aggregate: aggregate_section(&aggregate?)?,
    };
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
    let any = Section { keys: CONV, ..item.table("type", CONV)? };
    let names = LAYERS.map(|(name, _)| name);
    let name = any.required("type")?.one_of(&names)?;
    let keys = LAYERS.iter().find(|(n, _)| *n == name).map_or(CONV, |(_, keys)| keys);
    let layer = Section { name: format!("a `{name}` layer"), keys, ..any };
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

fn partition(entry: &Entry) -> Result<Partition> {
    if entry.value.is_str() {
        return entry.one_of(&["iid"]).map(|_| Partition::Iid);
    }
    let expected = "\"iid\", { dirichlet = ALPHA } or { shards = COUNT }";
    if !entry.value.is_table() {
        return Err(entry.wrong(expected));
    }
    let table = entry.table("partition", &[("dirichlet", "dirichlet = 0.5"), ("shards", "shards = 2")])?;
    table.check_keys()?;
    match (table.get("dirichlet"), table.get("shards")) {
        (Some(alpha), None) => {
            Ok(Partition::Dirichlet(alpha.number("a number above 0, at most 1e6", |x| x > 0.0 && x <= 1e6)?))
        }
        (None, Some(shards)) => Ok(Partition::Shards(shards.integer(1..=u64::from(SHARDS_MAX))? as u32)),
        _ => Err(entry.wrong(expected)),
    }
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
    if let Some(entry) = section.get("rule") {
        entry.one_of(&["fedavg"])?;
    }
    Ok(AggregateSection::default())
}

/// The text and its name: makes errors out of byte offsets.
#[derive(Clone, Copy)]
struct File<'a> {
    text: &'a str,
    origin: &'a str,
}

impl File<'_> {
    fn error(&self, offset: usize, problem: Problem) -> RunFileError {
        // Offsets come from the parser; one inside a character, or past the end, falls back to the character's start.
        let before = (0..=offset.min(self.text.len())).rev().find_map(|at| self.text.get(..at)).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        RunFileError {
            origin: self.origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem: Box::new(problem),
        }
    }

    fn check_length(&self, len: usize, form: &'static str) -> Result<()> {
        match len <= RUN_FILE_BYTES_MAX {
            true => Ok(()),
            false => Err(self.error(0, Problem::TooLong { len, max: RUN_FILE_BYTES_MAX, form })),
        }
    }
}

/// A table whose keys are known.
struct Section<'a> {
    file: File<'a>,
    /// As errors name it: "[train]".
    name: String,
    keys: &'static [Key],
    /// `None` for a section that was left out.
    table: Option<&'a DeTable<'a>>,
    offset: usize,
}

impl<'a> Section<'a> {
    fn of_root(file: &File<'a>, root: &'a DeTable<'a>, name: &'static str, keys: &'static [Key]) -> Result<Self> {
        let mut section =
            Section { file: *file, name: format!("[{name}]"), keys, table: None, offset: file.text.len() };
        if let Some((key, value)) = root.iter().find(|(key, _)| key.get_ref() == name) {
            section.offset = key.span().start;
            let Some(table) = value.get_ref().as_table() else {
                let what = format!("`{name}`");
                let (found, example) = (shown(value.get_ref()), format!("[{name}]"));
                let problem = Problem::Value { what, found, expected: "a section".to_owned(), example };
                return Err(file.error(key.span().start, problem));
            };
            section.table = Some(table);
            section.check_keys()?;
        }
        Ok(section)
    }

    /// Refuses keys that don't exist, with the nearest that does.
    fn check_keys(&self) -> Result<()> {
        for (name, _) in self.table.into_iter().flatten() {
            if !self.keys.iter().any(|(key, _)| key == name.get_ref()) {
                let problem = Problem::Unknown {
                    what: "key",
                    name: cut(name.get_ref()),
                    place: format!(" in {}", self.name),
                    hint: self.hint(name.get_ref()),
                };
                return Err(self.file.error(name.span().start, problem));
            }
        }
        Ok(())
    }

    fn hint(&self, name: &str) -> String {
        let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.iter().any(|(key, _)| *key == name));
        if let Some((section, _)) = elsewhere {
            return format!("it belongs in [{section}]");
        }
        let known: Vec<&str> = self.keys.iter().map(|(key, _)| *key).collect();
        suggestion(name, &known)
    }

    fn get(&self, key: &'static str) -> Option<Entry<'a>> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        let example = self.keys.iter().find(|(k, _)| *k == key).map_or("", |(_, example)| example);
        let what = format!("`{}` in {}", name.get_ref(), self.name);
        Some(Entry { file: self.file, what, example, value: value.get_ref(), offset: value.span().start })
    }

    fn required(&self, key: &'static str) -> Result<Entry<'a>> {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &'static str) -> RunFileError {
        let line = self.keys.iter().find(|(k, _)| *k == key).map_or("", |(_, example)| example);
        let example = match (line, self.table) {
            ("", _) => format!("{key} = \"relu\""),
            (line, Some(_)) => line.to_owned(),
            (line, None) => format!("{}\\n{line}", self.name),
        };
        let what = format!("`{key}` in {}", self.name);
        self.file.error(self.offset, Problem::Missing { what, example })
    }

    fn integer_or(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        self.get(key).map_or(Ok(default), |entry| entry.integer(range))
    }
}

/// A value and where it stands.
struct Entry<'a> {
    file: File<'a>,
    /// As errors name it: "`lr` in [train]".
    what: String,
    example: &'static str,
    value: &'a DeValue<'a>,
    offset: usize,
}

impl<'a> Entry<'a> {
    fn integer(&self, range: RangeInclusive<u64>) -> Result<u64> {
        let wrong = || self.wrong(format!("a whole number from {} to {}", range.start(), range.end()));
        let integer = self.value.as_integer().ok_or_else(wrong)?;
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())?;
        if range.contains(&value) { Ok(value) } else { Err(wrong()) }
    }

    /// A finite number for which `ok` holds; whole numbers may leave the point out.
    fn number(&self, expected: &str, ok: impl Fn(f64) -> bool) -> Result<f64> {
        let value = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            _ => None,
        };
        // Adding 0 takes the sign from a negative zero.
        value.filter(|x: &f64| x.is_finite() && ok(*x)).map(|x| x + 0.0).ok_or_else(|| self.wrong(expected))
    }

    fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    fn text_where(&self, expected: &str, ok: impl Fn(&str) -> bool) -> Result<&'a str> {
        self.value.as_str().filter(|text| ok(text)).ok_or_else(|| self.wrong(expected))
    }

    fn one_of(&self, names: &[&'static str]) -> Result<&'static str> {
        let list = || names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
        let Some(text) = self.value.as_str() else { return Err(self.wrong(format!("one of {}", list()))) };
        if let Some(name) = names.iter().find(|name| **name == text) {
            return Ok(name);
        }
        let expected = match nearest(text, names) {
            Some(name) => format!("one of {} (did you mean {name:?}?)", list()),
            None => format!("one of {}", list()),
        };
        Err(self.wrong(expected))
    }

    fn array(&self, lengths: RangeInclusive<usize>) -> Result<Vec<Entry<'a>>> {
        let expected = || match lengths.start() == lengths.end() {
            true => format!("a list of {}", lengths.start()),
            false => format!("a list of {} to {}", lengths.start(), lengths.end()),
        };
        let array = self.value.as_array().filter(|a| lengths.contains(&a.len()));
        let item = |(i, value): (usize, &'a Spanned<DeValue<'a>>)| Entry {
            file: self.file,
            what: format!("item {} of {}", i + 1, self.what),
            example: self.example,
            value: value.get_ref(),
            offset: value.span().start,
        };
        Ok(array.ok_or_else(|| self.wrong(expected()))?.iter().enumerate().map(item).collect())
    }

    /// The inline table that the value is. Its keys are not checked yet.
    fn table(&self, name: &str, keys: &'static [Key]) -> Result<Section<'a>> {
        let table = self.value.as_table().ok_or_else(|| self.wrong(format!("a table {{ {name} = ... }}")))?;
        Ok(Section { file: self.file, name: self.what.clone(), keys, table: Some(table), offset: self.offset })
    }

    fn wrong(&self, expected: impl Display) -> RunFileError {
        let (found, example) = (shown(self.value), self.example.to_owned());
        let problem = Problem::Value { what: self.what.clone(), found, expected: expected.to_string(), example };
        self.file.error(self.offset, problem)
    }

    fn conflict(&self, text: impl Into<String>) -> RunFileError {
        self.file.error(self.offset, Problem::Conflict(text.into()))
    }
}

fn unknown_section(name: &str) -> Problem {
    let sections = SECTIONS.map(|(section, _)| section);
    let hint = match SECTIONS.iter().find(|(_, keys)| keys.iter().any(|(key, _)| *key == name)) {
        Some((section, _)) => format!("put it under [{section}]"),
        None => suggestion(name, &sections),
    };
    Problem::Unknown { what: "section", name: cut(name), place: String::new(), hint }
}

fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there is {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = cut(name).to_lowercase();
    let scored = known.iter().map(|k| (strsim::jaro_winkler(&name, k), *k));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(alike, _)| *alike >= ALIKE_MIN).map(|(_, near)| near)
}

/// A value as an error shows it.
fn shown(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", cut(text)),
        DeValue::Integer(integer) => cut(&integer.to_string()),
        DeValue::Float(float) => cut(float.as_str()),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
