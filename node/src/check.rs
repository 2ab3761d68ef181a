//! What a run would cost on this machine: its sizes, the bytes of a round, and times from a short trial.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use paceline_model::{Device, Learner, Progress, Task, Threads, TrainError};
use paceline_protocol::base::roster::Part;
use serde::{Deserialize, Serialize};

use crate::learn::{Plan, PlanError};
use crate::memory;

/// How long the trial trains.
const TRIAL: Duration = Duration::from_secs(3);

/// Steps before the clock starts: the first ones fill caches.
const WARM_UP: u64 = 2;

/// What a run would be here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Numbers in all tensors together.
    pub parameters: usize,
    /// Those that are trained, and travel.
    pub trained: usize,
    /// Bytes of a model as a node fetches it in a round.
    pub model_bytes: u64,
    /// Bytes of an update as a node uploads it in a round; a coordinator receives one of each participant.
    pub update_bytes: u64,
    /// Training examples here.
    pub examples: usize,
    /// Examples here that are held out.
    pub held_out: usize,
    /// What they are: images or rows.
    pub noun: String,
    /// Classes of which there is no training example here.
    pub missing_classes: Vec<String>,
    /// What is strange in the data.
    pub notes: Vec<String>,
    /// Threads that trained in the trial.
    pub threads: usize,
    /// Steps of a round.
    pub steps: u64,
    /// Seconds of a step, in the trial.
    pub step_s: f64,
    /// Seconds that a round would train here; evaluation is less than that.
    pub round_s: f64,
    /// Largest memory of this process so far, data included; null where the system does not tell.
    pub memory_bytes: Option<u64>,
}

/// Reads the data, and trains for a few seconds on them.
///
/// # Errors
/// The data can't be read or don't go with the run file, or training fails.
pub fn check(plan: &Plan, path: Option<&Path>, part: Option<Part>, threads: usize) -> Result<Checked, CheckError> {
    let data = plan.data(path, part)?;
    let here: BTreeSet<u16> = data.train.labels().iter().copied().collect();
    let names = plan.source.class_names().into_iter().enumerate();
    let missing = names.filter(|(label, _)| !u16::try_from(*label).is_ok_and(|label| here.contains(&label)));
    let missing_classes = missing.map(|(_, name)| name).collect();
    let (examples, noun, held_out, notes) = (data.train.len(), data.train.noun(), data.test.len(), data.notes.clone());
    let state = plan.initial_state(&plan.drawn_weights()?);
    let learner = plan.learner(data, Device::Cpu);
    // A trial from drawn weights: from given ones a step takes as long.
    let drawn = learner.initial(plan.seed)?;
    let task = Task { trainable: &plan.trainable, ..Task::plain(1, plan.seed, b"check", &drawn) };
    let in_a_round = (examples.div_ceil(plan.config.batch) * plan.config.epochs) as u64;
    // Of a short round every step counts: the first ones are all that there are.
    let warm_up = if in_a_round > 2 * WARM_UP { WARM_UP } else { 0 };
    let (mut steps, mut began) = (0u64, Instant::now());
    let trial = learner.train(&task, &Threads::new(threads)?, &mut |_: Progress| {
        steps += 1;
        if steps == warm_up {
            began = Instant::now();
        }
        if began.elapsed() < TRIAL || steps <= warm_up { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match trial {
        Ok(_) | Err(TrainError::Cancelled) => {}
        Err(error) => return Err(error.into()),
    }
    let counted = steps.saturating_sub(warm_up).max(1);
    let step_s = began.elapsed().as_secs_f64() / counted as f64;
    Ok(Checked {
        parameters: plan.layout.parameters(),
        trained: plan.formats.parameters(),
        model_bytes: state.len() as u64,
        update_bytes: plan.formats.update.len(),
        examples,
        noun: noun.to_owned(),
        held_out,
        missing_classes,
        notes,
        threads,
        steps: in_a_round,
        step_s,
        round_s: step_s * in_a_round as f64,
        memory_bytes: memory::peak(),
    })
}

/// Why a run can't be tried.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The run file or the data.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The system gives no threads.
    #[error(transparent)]
    Threads(#[from] paceline_model::ThreadsError),
}
