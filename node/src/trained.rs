//! The result of a run: a model that a home or a file holds, with what is to be known of it. It is taken away, measured, and
//! asked.
//!
//! For PyTorch a safetensors file has the tensors by its names and with its layouts, and under `paceline` in its metadata an
//! [`About`] as JSON. A Python module that is written beside it is the same net, and needs nothing of Paceline.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use paceline_model::data::{ColumnKind, image_files};
use paceline_model::torch::Sees;
use paceline_model::torch::{self, TorchTensor};
use paceline_model::{
    Device, Evaluation, EvaluationJob, Examples, Fit, Layout, Preprocess, Progress, Source, Threads, evaluate, predict,
};
use paceline_protocol::Hash;
use serde::{Deserialize, Serialize};

use crate::blobs::BlobFolder;
use crate::inspect::{self, Node};
use crate::learn::{Basis, Plan};
use crate::model_file::{self, ModelFile};
use crate::report::Round;
use crate::run_file::{self, Metrics, Net, RunFile};
use crate::store::Home;

/// What is to be known of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The run's name.
    pub run: String,
    /// The run's id, hex.
    pub run_id: String,
    /// The round that it is the model after.
    pub round: u64,
    /// The hash of that round's record, hex.
    pub record_hash: Option<String>,
    /// The hash of the state that the record names, hex; it covers what a rule keeps beside the weights.
    pub model_hash: String,
    /// From 0 to 1, as the members have measured it on their examples; null while unknown.
    pub accuracy: Option<f64>,
    /// All that the members have measured, by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// The classes, in the order of the net's outputs; none of a net that a trainer brought, like what follows.
    pub classes: Vec<String>,
    /// Channels, height and width of what the net sees; a row of a table is as many channels of one pixel.
    pub input: Option<[usize; 3]>,
    /// How an example becomes that: `plain` (pixels from 0..255 to -1..1), `cifar_paper` (the crop in the middle, then each
    /// image to mean 0 and deviation 1), or `table` (as `[data]` in the run file says).
    pub preprocess: Option<String>,
    /// Numbers in all tensors together.
    pub parameters: usize,
    /// The run file in canonical form, by which a file alone is enough.
    pub run_file: String,
}

/// A model that a home or a file holds.
#[derive(Debug, Clone)]
pub struct Trained {
    /// What is to be known of it.
    pub about: About,
    /// The run that it comes from.
    pub run_file: RunFile,
    /// All tensors.
    pub layout: Layout,
    /// Their values, raw little-endian f32 in that order.
    pub weights: Vec<u8>,
    /// The net, where the run file has it; a trainer's is its owner's alone.
    plan: Option<Plan>,
}

/// Which model of a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one after the last round.
    Last,
    /// The one that did best, as the members have measured it by the run's leading metric.
    Best,
    /// The one after this round.
    After(u64),
}

/// What a model says of an image or a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The image, or the table.
    pub file: PathBuf,
    /// The row's line in the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The most probable class, of a model that tells classes apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The number, of a model that tells one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<f64>,
    /// Every class with its probability, the most probable first.
    pub probabilities: Vec<(String, f32)>,
}

/// How a tensor differs between two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// The norm of the first model's values.
    pub norm: f64,
    /// The norm of the difference.
    pub difference: f64,
    /// The largest difference of a value.
    pub largest: f64,
    /// Values that are not the same bits.
    pub changed: u64,
}

/// How good a model is on examples that are here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model.
    pub about: About,
    /// How many examples there were.
    pub examples: u64,
    /// What they are: images or rows.
    pub noun: String,
    /// Examples whose class the model names; null where it tells a number.
    pub correct: Option<u64>,
    /// `correct` of `examples`.
    pub accuracy: Option<f64>,
    /// How far a model that tells a number is off in the mean, in its own unit.
    pub mean_error: Option<f64>,
    /// Mean cross-entropy in nats, or mean squared error in squared deviations.
    pub loss: f64,
    /// Each class, in the order of the net's outputs; none where it tells a number.
    pub classes: Vec<MeasuredClass>,
}

/// The examples of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredClass {
    /// Its name.
    pub name: String,
    /// Examples of it.
    pub examples: u64,
    /// Those that the model names right.
    pub correct: u64,
    /// How many of them the model takes for each class: a row of the confusion matrix.
    pub taken_for: Vec<u64>,
}

impl Trained {
    /// The last model in a home, whose node runs or not; or the one in a file of an export.
    ///
    /// # Errors
    /// The home or the file can't be read, the file doesn't say what it is, no such round is committed, or its model is not
    /// on this machine.
    pub fn open(from: &Path) -> anyhow::Result<Self> {
        if from.is_dir() { Self::of(&Home::at(from), Which::Last) } else { Self::in_file(from) }
    }

    /// A model of a home whose node runs or not.
    ///
    /// # Errors
    /// The home can't be read, no such round is committed, or its model is not on this machine.
    pub fn of(home: &Home, which: Which) -> anyhow::Result<Self> {
        let run_file = inspect::run_file(home)?;
        let (basis, plan) = (Basis::of(home, &run_file)?, plan(&run_file)?);
        let rounds = Node::of(home.clone())?.rounds()?;
        let blobs = BlobFolder::at(home.blobs());
        let chosen = choose(&rounds, which, &run_file.learning.metrics)?;
        let id: Hash = chosen.model_hash.parse().context("the node names no model")?;
        let here = blobs.ids()?;
        if !here.contains(&id) {
            bail!(missing(&rounds, chosen.round, &here));
        }
        let weights = basis.weights(&run_file, &blobs, &blobs.read(id)?)?;
        let about = about(&run_file, &basis.layout, plan.as_ref(), chosen);
        Ok(Self { about, run_file, layout: basis.layout, weights, plan })
    }

    /// The model in a file that an export has written.
    ///
    /// # Errors
    /// The file can't be read, or doesn't say what it is.
    fn in_file(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let file = ModelFile::read(path)?;
        let Some(about) = &file.about else {
            bail!(
                "{name} doesn't say which net it is of: give a file that `paceline model export` has written, or a home"
            )
        };
        let run_file = run_file::parse(&about.run_file, "the run file in it").with_context(|| format!("{name}"))?;
        let plan = plan(&run_file)?;
        let (layout, weights) = match &plan {
            Some(plan) => (plan.layout.clone(), file.of_net(&plan.spec).with_context(|| format!("{name}"))?),
            None => file.all()?,
        };
        Ok(Self { about: about.clone(), run_file, layout, weights, plan })
    }

    /// The tensors, as PyTorch has them.
    fn torch_tensors(&self) -> anyhow::Result<Vec<TorchTensor>> {
        Ok(match &self.plan {
            Some(plan) => torch::tensors(&plan.spec, &self.weights)?,
            None => self.layout.split(&self.weights).map(|(shape, own)| TorchTensor::plain(shape, own)).collect(),
        })
    }

    /// Its tensors as a file has them.
    ///
    /// # Errors
    /// The weights are none of this net, which they were checked to be.
    pub(crate) fn as_file(&self) -> anyhow::Result<ModelFile> {
        Ok(ModelFile { about: Some(self.about.clone()), tensors: self.torch_tensors()? })
    }

    /// The safetensors file. The same model gives the same bytes.
    ///
    /// # Errors
    /// The weights are none of this net, which they were checked to be.
    pub fn tensors(&self) -> anyhow::Result<Vec<u8>> {
        model_file::serialized(&self.torch_tensors()?, Some(&self.about))
    }

    /// The Python module that loads the tensors from `file` beside it; none where the net is a trainer's, which has it
    /// itself. `measured` is how good it is, in words that go behind others.
    ///
    /// # Errors
    /// The net is impossible, which the run file would have told.
    pub fn module(&self, file: &str, measured: &str) -> anyhow::Result<Option<String>> {
        let Some(plan) = &self.plan else { return Ok(None) };
        let About { run, round, model_hash, classes, .. } = &self.about;
        let model = model_hash.parse::<Hash>().context("the node names no model")?.short();
        let about = format!("The model after round {round} of the Paceline run {run}: {model}{measured}.");
        let sees = match &plan.source {
            Source::Table(table) => Sees::Rows(table),
            _ => Sees::Images(plan.preprocess),
        };
        Ok(Some(torch::module(&plan.spec, sees, classes, &about, file)?))
    }

    /// What the model says of image files, or of the rows of tables, which need not have the column that it tells. `on_note`
    /// hears what is strange in them.
    ///
    /// # Errors
    /// A file is no image of the size that the net sees or no such table, or the net is a trainer's.
    pub fn predict(
        &self,
        files: &[PathBuf],
        threads: usize,
        mut on_note: impl FnMut(&str),
    ) -> anyhow::Result<Vec<Prediction>> {
        let Some(plan) = &self.plan else { bail!("the net is a trainer's, which alone can ask it") };
        let threads = Threads::new(threads)?;
        let told = |examples: &Examples| predict(&self.job(plan, examples), &threads);
        let Source::Table(table) = &plan.source else {
            let fit = if let Source::Folder { fit, .. } = &plan.source { *fit } else { Fit::Exact };
            let rows = told(&image_files(files, plan.source.shape(), plan.spec.classes, fit)?)?;
            return Ok(files.iter().zip(rows).map(|(file, row)| self.prediction(file, None, row)).collect());
        };
        let mut all = Vec::new();
        for file in files {
            let (examples, lines, notes) = table.read(file)?;
            notes.iter().for_each(|note| on_note(note));
            for (line, row) in lines.into_iter().zip(told(&examples)?) {
                all.push(match &table.target.kind {
                    ColumnKind::Categories(_) => self.prediction(file, Some(line), row),
                    ColumnKind::Number { mean, deviation } => Prediction {
                        file: file.clone(),
                        line: Some(line),
                        label: None,
                        number: row.first().map(|told| mean + deviation * f64::from(*told)),
                        probabilities: Vec::new(),
                    },
                });
            }
        }
        Ok(all)
    }

    fn job<'a>(&'a self, plan: &'a Plan, data: &'a Examples) -> EvaluationJob<'a> {
        let Plan { spec, preprocess, .. } = plan;
        EvaluationJob { spec, preprocess: *preprocess, weights: &self.weights, data, device: &Device::Cpu }
    }

    fn prediction(&self, file: &Path, line: Option<u64>, probabilities: Vec<f32>) -> Prediction {
        let mut probabilities: Vec<(String, f32)> = self.about.classes.iter().cloned().zip(probabilities).collect();
        probabilities.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let label = probabilities.first().map(|(name, _)| name.clone());
        Prediction { file: file.to_owned(), line, label, number: None, probabilities }
    }

    /// Measures the model on the examples that are held out for testing, of the data at `path` as `join` takes it.
    /// `on_progress` hears of each batch.
    ///
    /// # Errors
    /// The data can't be read or don't go with the run file, or hold nothing to test with.
    pub fn measure(
        &self,
        path: Option<&Path>,
        threads: usize,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> anyhow::Result<Measured> {
        let Some(plan) = &self.plan else {
            bail!("the net is a trainer's, which alone can measure it: `paceline rounds` shows what it measured")
        };
        let examples = plan.examples(path)?.test;
        if examples.is_empty() {
            bail!("these data hold nothing to test with");
        }
        let threads = Threads::new(threads)?;
        let found = evaluate(&self.job(plan, &examples), &threads, on_progress)?;
        let (Evaluation { correct, total, loss, error }, about) = (found.evaluation, self.about.clone());
        let count = |label: usize, answer: usize| {
            let pair = (u16::try_from(label), u16::try_from(answer));
            let (Ok(label), Ok(answer)) = pair else { return 0 };
            found.counts.get(&(label, Some(answer))).copied().unwrap_or(0)
        };
        let all = about.classes.len();
        let examples_of = |label: usize| found.counts.iter().filter(move |((l, _), _)| usize::from(*l) == label);
        let classes = about.classes.iter().enumerate().map(|(label, name)| MeasuredClass {
            name: name.clone(),
            examples: examples_of(label).map(|(_, n)| n).sum(),
            correct: count(label, label),
            taken_for: (0..all).map(|answer| count(label, answer)).collect(),
        });
        let classes = classes.collect();
        let correct = error.is_none().then_some(correct);
        let accuracy = correct.map(|correct| correct as f64 / total as f64);
        let noun = examples.noun().to_owned();
        Ok(Measured { about, examples: total, noun, correct, accuracy, mean_error: error, loss, classes })
    }
}

/// The differences between two models of one layout, tensor by tensor.
///
/// # Errors
/// Their tensors are not the same.
pub fn difference(one: &Trained, other: &Trained) -> anyhow::Result<Vec<TensorDifference>> {
    let (ours, theirs) = (one.torch_tensors()?, other.torch_tensors()?);
    let names = |tensors: &[TorchTensor]| -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    };
    if let Some((a, b)) = names(&ours).iter().zip(&names(&theirs)).find(|(a, b)| a != b) {
        bail!("the models are of two nets: `{}` of {:?} is `{}` of {:?} in the other", a.0, a.1, b.0, b.1);
    }
    if ours.len() != theirs.len() {
        bail!("the models are of two nets: one has {} tensors, the other {}", ours.len(), theirs.len());
    }
    let of = |(a, b): (&TorchTensor, &TorchTensor)| {
        let pairs = || a.values.iter().zip(&b.values);
        let deltas = || pairs().map(|(a, b)| (f64::from(*b) - f64::from(*a)).abs());
        TensorDifference {
            name: a.name.clone(),
            shape: a.shape.clone(),
            norm: a.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt(),
            difference: deltas().map(|delta| delta * delta).sum::<f64>().sqrt(),
            largest: deltas().fold(0.0, f64::max),
            changed: pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count() as u64,
        }
    };
    Ok(ours.iter().zip(&theirs).map(of).collect())
}

fn choose<'a>(rounds: &'a [Round], which: Which, metrics: &Metrics) -> anyhow::Result<&'a Round> {
    let Some(last) = rounds.last() else { bail!("no round is committed yet: there is no trained model") };
    match which {
        Which::Last => Ok(last),
        Which::After(wanted) => {
            let found = rounds.iter().rev().find(|r| r.round == wanted);
            found.with_context(|| format!("round {wanted} is not committed here; the last one is {}", last.round))
        }
        Which::Best => {
            let lead = &metrics.lead;
            let measured = rounds.iter().filter_map(|r| Some((r, *r.metrics.get(lead)?)));
            let better = |best: (&'a Round, f64), this: (&'a Round, f64)| {
                if metrics.is_better(this.1, best.1) { this } else { best }
            };
            let best = measured.reduce(better).map(|(round, _)| round);
            best.with_context(|| format!("nobody has measured {lead} yet, so there is no best model"))
        }
    }
}

fn missing(rounds: &[Round], wanted: u64, here: &[Hash]) -> String {
    let is_here = |r: &&Round| r.model_hash.parse().is_ok_and(|id: Hash| here.contains(&id));
    let others: Vec<String> = rounds.iter().filter(is_here).map(|r| r.round.to_string()).collect();
    let hint = match others.as_slice() {
        [] => "a node fetches the last one while it runs: start it with `paceline join --home DIR`".to_owned(),
        others => format!("take another one with --round: {}", others.join(", ")),
    };
    format!("the model after round {wanted} is not on this machine, where the last ones alone are kept; {hint}")
}

/// The net of a run file, if it has one.
fn plan(run_file: &RunFile) -> anyhow::Result<Option<Plan>> {
    match run_file.learning.model.net() {
        Net::Trainer => Ok(None),
        Net::Preset(_) | Net::Layers(_) => Ok(Some(Plan::of(run_file)?)),
    }
}

fn about(run_file: &RunFile, layout: &Layout, plan: Option<&Plan>, round: &Round) -> About {
    About {
        run: run_file.run.name.clone(),
        run_id: run_file.run_id().to_string(),
        round: round.round,
        record_hash: round.record_hash.clone(),
        model_hash: round.model_hash.clone(),
        accuracy: round.accuracy,
        metrics: round.metrics.clone(),
        classes: plan.map(|plan| plan.source.class_names()).unwrap_or_default(),
        input: plan.map(|plan| plan.spec.input),
        preprocess: plan.map(|plan| match (&plan.source, plan.preprocess) {
            (Source::Table(_), _) => "table".to_owned(),
            (_, Preprocess::Plain) => "plain".to_owned(),
            (_, Preprocess::CifarPaper) => "cifar_paper".to_owned(),
        }),
        parameters: layout.parameters(),
        run_file: run_file.canonical(),
    }
}
