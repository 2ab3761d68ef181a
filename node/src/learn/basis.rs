//! What checks of a run need to know of its learning where the learner itself is not at hand: `verify`, `model export`.

use std::fs;

use anyhow::{Context, bail};
use paceline_model::{Layout, spec::ParamShape};
use paceline_protocol::BlobRef;
use serde::{Deserialize, Serialize};

use super::{Formats, Plan};
use crate::blobs::Manifest;
use crate::run_file::{Net, RunFile};
use crate::store::Home;

/// The file of a home that has it, where the run file does not say it.
const FILE: &str = "layout.json";

/// What is learnt, without whoever learns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// The tensors.
    pub layout: Layout,
    /// What states and updates are.
    pub formats: Formats,
    /// The state that the run begins with.
    pub initial_model: BlobRef,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Names and shapes, in the order of their values.
    tensors: Vec<(String, Vec<usize>)>,
    initial_model: String,
}

impl Basis {
    /// Of a run whose node has this home: of its run file, or what its trainer said.
    ///
    /// # Errors
    /// The run file's net is impossible, or the home does not say.
    pub fn of(home: &Home, run_file: &RunFile) -> anyhow::Result<Self> {
        if *run_file.learning.model.net() != Net::Trainer {
            let plan = Plan::of(run_file)?;
            let initial_model = Manifest::of(&plan.initial_state()?).blob();
            return Ok(Self { layout: plan.layout.clone(), formats: plan.formats, initial_model });
        }
        let path = home.dir().join(FILE);
        let name = path.display();
        let advice = "start the node once with `paceline join --trainer COMMAND`, which writes it";
        let bytes =
            fs::read(&path).with_context(|| format!("{name} has the trainer's tensors and can't be read: {advice}"))?;
        let kept: Kept =
            serde_json::from_slice(&bytes).with_context(|| format!("{name} is damaged: remove it, and {advice}"))?;
        let tensors = kept.tensors.into_iter().map(|(name, shape)| ParamShape { name, shape }).collect();
        let layout = Layout::new(tensors).with_context(|| format!("{name} is damaged: remove it, and {advice}"))?;
        let formats = Formats::of(run_file.learning.rule, layout.parameters())?;
        let Ok(id) = kept.initial_model.parse() else { bail!("{name} is damaged: remove it, and {advice}") };
        Ok(Self { layout, formats, initial_model: BlobRef { id, len: formats.state.len() } })
    }

    /// Puts it into a home.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn keep(&self, home: &Home) -> anyhow::Result<()> {
        let tensors = self.layout.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let kept = Kept { tensors, initial_model: self.initial_model.id.to_string() };
        Ok(home.write(FILE, &serde_json::to_vec_pretty(&kept)?)?)
    }
}
