//! What is known of a run's learning where the learner itself is not at hand: for `verify`, `model export` and others that
//! look at a home.

use std::fs;

use anyhow::{Context, bail};
use paceline_model::spec::ParamShape;
use paceline_model::{Layout, joined};
use paceline_protocol::{BlobRef, Hash};
use serde::{Deserialize, Serialize};

use super::{Formats, Plan};
use crate::blobs::{BlobFolder, Manifest};
use crate::run_file::{Net, RunFile};
use crate::store::Home;

/// The file of a home that has it, where the run file alone does not say it.
const FILE: &str = "layout.json";

/// What is learnt, without whoever learns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// All tensors, those that stay as they are included.
    pub layout: Layout,
    /// What states and updates are.
    pub formats: Formats,
    /// The state that the run begins with.
    pub initial_model: BlobRef,
    /// The blob of all weights that it begins with, where those that are not trained are kept in it.
    pub base: Option<Hash>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Names and shapes, in the order of their values.
    tensors: Vec<(String, Vec<usize>)>,
    initial_model: String,
    base: Option<String>,
}

impl Basis {
    /// Whether a run file alone does not say it.
    pub fn is_kept(run_file: &RunFile) -> bool {
        let model = &run_file.learning.model;
        *model.net() == Net::Trainer || model.weights.is_some() || !model.trainable.is_all()
    }

    /// Of a run whose node has this home.
    ///
    /// # Errors
    /// The run file's net is impossible, or the home does not say.
    pub fn of(home: &Home, run_file: &RunFile) -> anyhow::Result<Self> {
        if !Self::is_kept(run_file) {
            let plan = Plan::of(run_file)?;
            let initial_model = Manifest::of(&plan.initial_state(&plan.drawn_weights()?)).blob();
            return Ok(Self { layout: plan.layout.clone(), formats: plan.formats, initial_model, base: None });
        }
        let path = home.dir().join(FILE);
        let name = path.display();
        let advice = "start the node once with `paceline join`, which writes it";
        let bytes =
            fs::read(&path).with_context(|| format!("{name} has the run's tensors and can't be read: {advice}"))?;
        let damaged = || format!("{name} is damaged: remove it, and {advice}");
        let kept: Kept = serde_json::from_slice(&bytes).with_context(damaged)?;
        let tensors = kept.tensors.into_iter().map(|(name, shape)| ParamShape { name, shape }).collect();
        let layout = Layout::new(tensors).with_context(damaged)?;
        let travels = run_file.learning.model.trainable.of(&layout).with_context(damaged)?;
        let formats = Formats::of(run_file.learning.rule, travels.parameters())?;
        let base = kept.base.map(|hash| hash.parse()).transpose();
        let (Ok(id), Ok(base)) = (kept.initial_model.parse(), base) else { bail!(damaged()) };
        if run_file.learning.model.weights.is_some_and(|weights| base != Some(weights)) {
            bail!(damaged());
        }
        Ok(Self { layout, formats, initial_model: BlobRef { id, len: formats.state.len() }, base })
    }

    /// Puts it into a home.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn keep(&self, home: &Home) -> anyhow::Result<()> {
        let tensors = self.layout.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let base = self.base.map(|hash| hash.to_string());
        let kept = Kept { tensors, initial_model: self.initial_model.id.to_string(), base };
        Ok(home.write(FILE, &serde_json::to_vec_pretty(&kept)?)?)
    }

    /// The weights of all tensors in a state, those that are not trained included.
    ///
    /// # Errors
    /// The state is none of this run, or the weights that stay as they are can't be read.
    pub fn weights(&self, run_file: &RunFile, blobs: &BlobFolder, state: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.formats.state.check(state).context("the model is none of this run's net")?;
        let (own, trainable) = (self.formats.state.weights(state), &run_file.learning.model.trainable);
        match self.base {
            Some(base) if !trainable.is_all() => Ok(joined(&self.layout, &blobs.read(base)?, trainable, own)),
            _ => Ok(own.to_vec()),
        }
    }
}
