//! The result of a run, to be taken away: a model that a home holds, as PyTorch has it, with what is to be known of it.
//!
//! A safetensors file has the tensors by PyTorch's names and with its layouts, and under `paceline` in its metadata an
//! [`About`] as JSON. A Python module that is written beside it is the same net, and needs nothing of Paceline.

use std::collections::HashMap;

use anyhow::{Context, bail};
use paceline_model::{Preprocess, torch};
use paceline_protocol::Hash;
use paceline_protocol::runfile::RunFile;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::blobs::BlobFolder;
use crate::inspect::{self, Node};
use crate::learn::Plan;
use crate::report::Round;
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
    /// From 0 to 1, as the members have measured it on their images; null while unknown.
    pub accuracy: Option<f64>,
    /// The classes, in the order of the net's outputs.
    pub classes: Vec<String>,
    /// Channels, height and width of what the net sees.
    pub input: [usize; 3],
    /// How images become that: `plain` (pixels from 0..255 to -1..1) or `cifar_paper` (the crop in the middle, then each
    /// image to mean 0 and deviation 1).
    pub preprocess: String,
    /// Numbers in all tensors together.
    pub parameters: usize,
}

/// A model as PyTorch has it.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The safetensors file.
    pub tensors: Vec<u8>,
    /// What its metadata says.
    pub about: About,
    plan: Plan,
}

impl Exported {
    /// The Python module that loads the tensors from `file` beside it.
    ///
    /// # Errors
    /// The net is impossible, which the run file would have told.
    pub fn module(&self, file: &str) -> anyhow::Result<String> {
        let About { run, round, model_hash, accuracy, classes, .. } = &self.about;
        let measured = accuracy.map(|a| format!(", accuracy {:.1} %", 100.0 * a)).unwrap_or_default();
        let short: String = model_hash.chars().take(10).collect();
        let about = format!("The model after round {round} of the Paceline run {run}: {short}{measured}.");
        Ok(torch::module(&self.plan.spec, self.plan.preprocess, classes, &about, file)?)
    }
}

/// The model after a round, or after the last one, of a home whose node runs or not.
///
/// # Errors
/// The home can't be read, no such round is committed, or its model is not on this machine.
pub fn export(home: &Home, round: Option<u64>) -> anyhow::Result<Exported> {
    let run_file = inspect::run_file(home)?;
    let plan = Plan::of(&run_file)?;
    let rounds = Node::of(home.clone())?.rounds()?;
    let blobs = BlobFolder::at(home.blobs());
    let chosen = choose(&rounds, round)?;
    let id: Hash = chosen.model_hash.parse().context("the node names no model")?;
    let here = blobs.ids()?;
    if !here.contains(&id) {
        bail!(missing(&rounds, chosen.round, &here));
    }
    let state = blobs.read(id)?;
    plan.rule.check_state(&state, plan.parameters).context("the model is none of this run's net")?;
    let about = about(&run_file, &plan, chosen);
    let tensors = torch::tensors(&plan.spec, plan.rule.weights(&state))?;
    let tensors = serialized(&tensors, &about)?;
    Ok(Exported { tensors, about, plan })
}

fn choose(rounds: &[Round], round: Option<u64>) -> anyhow::Result<&Round> {
    let Some(last) = rounds.last() else { bail!("no round is committed yet: there is no trained model") };
    let Some(wanted) = round else { return Ok(last) };
    let found = rounds.iter().rev().find(|r| r.round == wanted);
    found.with_context(|| format!("round {wanted} is not committed here; the last one is {}", last.round))
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

fn about(run_file: &RunFile, plan: &Plan, round: &Round) -> About {
    About {
        run: run_file.run.name.clone(),
        run_id: run_file.run_id().to_string(),
        round: round.round,
        record_hash: round.record_hash.clone(),
        model_hash: round.model_hash.clone(),
        accuracy: round.accuracy,
        classes: plan.source.class_names(),
        input: plan.spec.input,
        preprocess: match plan.preprocess {
            Preprocess::Plain => "plain".to_owned(),
            Preprocess::CifarPaper => "cifar_paper".to_owned(),
        },
        parameters: plan.parameters,
    }
}

/// One entry of metadata: several would come in another order each time, and the same model should be the same bytes.
fn serialized(tensors: &[torch::TorchTensor], about: &About) -> anyhow::Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |(tensor, bytes): (&torch::TorchTensor, _)| {
        Ok((tensor.name.clone(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?))
    };
    let views = tensors.iter().zip(bytes.iter().map(Vec::as_slice)).map(view).collect::<anyhow::Result<Vec<_>>>()?;
    let metadata = HashMap::from([("paceline".to_owned(), serde_json::to_string(about)?)]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}
