//! The sections of learning as a whole, and what must hold between them.

use paceline_model::data::{Column, ColumnKind, Table};
use paceline_model::{ACCURACY, MEAN_ERROR, RMSE, Rule, Source, TrainConfig};
use paceline_protocol::runfile::{Document, Given, Known, Learning, Result, RunSection, quoted};

use super::aggregate::AGGREGATE;
use super::data::{DATA, DataSection};
use super::metrics::{Better, METRICS, Metrics};
use super::model::{MODEL, ModelSection, Net, TRAINER};
use super::stop::{STOP, StopSection};
use super::train::{TRAIN, TrainSection};

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
    /// `[stop]`
    pub stop: StopSection,
}

impl Sections {
    /// The rule of aggregation in the words of the run file, on one line.
    pub fn aggregation(&self) -> String {
        AGGREGATE.inline(&self.rule)
    }

    /// What a deviation of the number is that is predicted, in its own unit; 1 where none is.
    pub fn unit(&self) -> f64 {
        match &self.data.source {
            Some(Source::Table(Table {
                target: Column { kind: ColumnKind::Number { deviation, .. }, .. }, ..
            })) => *deviation,
            _ => 1.0,
        }
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
    /// A target that no value can reach, or every value does, is a mistake: percents for a share, mostly.
    fn check_target(&self, document: &Document) -> Result<()> {
        let (Some(target), Some(entry)) = (self.stop.target, document.entry("stop", "target")) else { return Ok(()) };
        let lead = self.metrics.lead.as_str();
        match lead {
            ACCURACY if !(target > 0.0 && target <= 1.0) => Err(entry.conflict(format!(
                "`target` in [stop] is {target}, and an accuracy is a share from 0 to 1: for 90 % say 0.9"
            ))),
            "perplexity" | "loss" | MEAN_ERROR | RMSE if target <= 0.0 => {
                Err(entry.conflict(format!("`target` in [stop] is {target}, and {lead} is above 0")))
            }
            _ => Ok(()),
        }
    }

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
        let conflict = |key, text: String| {
            let entry = document.entry("metrics", key).or(document.entry("data", "target"));
            entry.map_or(Ok(()), |entry| Err(entry.conflict(text)))
        };
        if measured.contains(&lead) {
            let (better, word) = if lead == ACCURACY { (Better::Higher, "higher") } else { (Better::Lower, "lower") };
            let text = format!("{word} values of {lead} are the better ones: say `better = \"{word}\"` in [metrics]");
            let key = if document.entry("metrics", "better").is_some() { "better" } else { "lead" };
            return if self.metrics.better == better { Ok(()) } else { conflict(key, text) };
        }
        let (first, all) = (measured[0], measured.join(", "));
        let text = format!(
            "`lead` in [metrics] is \"{lead}\", and what is measured here are {all}: say `lead = \"{first}\"` and `better = \
             \"{better}\"` there"
        );
        conflict("lead", text)
    }
}

impl Learning for Sections {
    const SECTIONS: &'static [&'static str] =
        &["run", "model", "data", "train", "round", "aggregate", "metrics", "stop"];

    fn known() -> Vec<Known> {
        vec![MODEL.known(), DATA.known(), TRAIN.known(), AGGREGATE.known(), METRICS.known(), STOP.known()]
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
        let stop = STOP.read(document)?;
        let sections = Self { model, data, train, rule, metrics, stop };
        sections.check_scaffold(document, run.rounds)?;
        sections.check_lead(document)?;
        sections.check_target(document)?;
        Ok(sections)
    }

    fn canonical(&self, section: &str) -> Option<String> {
        match section {
            "model" => Some(MODEL.canonical(&self.model)),
            "data" => self.data.source.is_some().then(|| DATA.canonical(&self.data)),
            "train" => Some(TRAIN.canonical(&self.train)),
            "aggregate" => Some(AGGREGATE.canonical(&self.rule)),
            // These came later than the others: where they say what was so before, the run's id stays.
            "stop" => (self.stop != StopSection::default()).then(|| STOP.canonical(&self.stop)),
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
            "stop" => STOP.template(given),
            _ => String::new(),
        }
    }
}
