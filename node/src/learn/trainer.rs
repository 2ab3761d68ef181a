//! The trainer: one thread that evaluates and trains, with compute threads below it, all of low priority so that the node
//! answers while it trains.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use paceline_model::{Learner, Task, Threads, ThreadsError, TrainError, Trainable};
use paceline_protocol::io::TrainedUpdate;
use paceline_protocol::record::Evaluation;
use paceline_protocol::{BlobRef, Hash};
use tokio::sync::watch;

use super::control_variates::ControlVariates;
use super::{Formats, evaluation};
use crate::blobs::BlobStore;

/// What the trainer is asked.
#[derive(Debug, Clone)]
pub enum Job {
    /// Evaluate the model, then train on it.
    Train {
        /// The round.
        round: u64,
        /// What the schedule and the random streams go by.
        training_round: u64,
        /// The record that it starts from, handed back with the outcome.
        parent: Hash,
        /// The model.
        model: BlobRef,
        /// What the random streams are keyed by.
        node_key: Vec<u8>,
        /// This node's last averaged update, whose control variate counts.
        last_update: Option<Hash>,
    },
    /// Evaluate alone.
    Evaluate {
        /// The round.
        round: u64,
        /// The model.
        model: BlobRef,
    },
}

impl Job {
    /// The outcome of a job whose work panicked.
    fn panicked(self) -> Outcome {
        let why = "training panicked, which is a defect of this program; stderr says where".to_owned();
        match self {
            Self::Train { round, parent, .. } => Outcome::Trained { round, parent, result: Err(why) },
            Self::Evaluate { round, .. } => Outcome::Evaluated { round, evaluation: None },
        }
    }
}

/// What came of a job. A stopped one comes to nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of `Job::Train`.
    Trained {
        /// The round.
        round: u64,
        /// The record that it started from.
        parent: Hash,
        /// The update, on disk; or what went wrong.
        result: Result<TrainedUpdate, String>,
    },
    /// Of `Job::Evaluate`; `None` without held-out images, or when it failed.
    Evaluated {
        /// The round.
        round: u64,
        /// The evaluation.
        evaluation: Option<Evaluation>,
    },
}

/// How far the present job is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Whether it evaluates rather than trains.
    pub evaluating: bool,
    /// Batches done.
    pub done: u64,
    /// Batches in all; 0 when nothing is under way.
    pub of: u64,
    /// Loss of the last batch.
    pub loss: f64,
}

impl Progress {
    /// The share that is done, from 0 to 100.
    pub fn percent(&self) -> u8 {
        (100 * self.done.min(self.of)).checked_div(self.of).map_or(0, |percent| percent as u8)
    }
}

/// Gives jobs to the trainer's thread.
#[derive(Debug)]
pub struct Trainer {
    jobs: SyncSender<(u64, Job)>,
    /// The job that counts; a thread at work on another stops after its batch.
    current: Arc<AtomicU64>,
}

/// Jobs that may wait: each stops the one before, so that more than a few are never there.
const QUEUE: usize = 16;

/// What the trainer works with.
#[derive(Debug)]
pub struct TrainerContext {
    /// Who learns.
    pub learner: Arc<dyn Learner>,
    /// What states and updates are.
    pub formats: Formats,
    /// The run's seed.
    pub seed: u64,
    /// Where models lie and updates go.
    pub blobs: Arc<BlobStore>,
    /// SCAFFOLD's control variates.
    pub controls: ControlVariates,
    /// Where the run file has the learning rate, for the message of a training that diverges.
    pub lr_place: String,
}

struct Worker {
    context: TrainerContext,
    threads: Threads,
    current: Arc<AtomicU64>,
    progress: watch::Sender<Progress>,
}

impl Trainer {
    /// Starts the thread, with so many for computing, which give way by `nice`. `progress` shows how far it is, `done` hears of every outcome.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start(
        context: TrainerContext,
        (threads, nice): (usize, u8),
        progress: watch::Sender<Progress>,
        done: impl Fn(Outcome) + Send + 'static,
    ) -> Result<Self, ThreadsError> {
        let threads = Threads::with_start(threads, move |_| lower_priority(nice))?;
        let (jobs, received) = sync_channel::<(u64, Job)>(QUEUE);
        let current = Arc::new(AtomicU64::new(0));
        let worker = Worker { context, threads, current: current.clone(), progress };
        let run = move || {
            lower_priority(nice);
            while let Ok((id, job)) = received.recv() {
                // What it works on is read anew with each job, so a panic leaves nothing half done for the next.
                let worked = catch_unwind(AssertUnwindSafe(|| worker.work(id, job.clone())));
                // Of a job that was stopped meanwhile nobody wants to hear, least of all that it failed.
                let is_current = worker.current.load(Ordering::SeqCst) == id;
                if let Some(outcome) = worked.unwrap_or_else(|_| Some(job.panicked())).filter(|_| is_current) {
                    done(outcome);
                }
                worker.progress.send_replace(Progress::default());
            }
        };
        // Without its thread nothing is ever done, which the queue's end shows.
        let _ = std::thread::Builder::new().name("trainer".into()).spawn(run);
        Ok(Self { jobs, current })
    }

    /// Begins a job, which stops the one before. Whether it could be begun.
    pub fn begin(&self, job: Job) -> bool {
        let id = self.current.fetch_add(1, Ordering::SeqCst) + 1;
        self.jobs.try_send((id, job)).is_ok()
    }

    /// Stops the present job, if there is one.
    pub fn stop(&self) {
        self.current.fetch_add(1, Ordering::SeqCst);
    }
}

impl Worker {
    fn work(&self, id: u64, job: Job) -> Option<Outcome> {
        match job {
            Job::Train { round, training_round, parent, model, node_key, last_update } => {
                match self.train(id, training_round, model, &node_key, last_update) {
                    Ok(update) => Some(Outcome::Trained { round, parent, result: Ok(update) }),
                    Err(Failure::Stopped) => None,
                    Err(Failure::Failed(why)) => Some(Outcome::Trained { round, parent, result: Err(why) }),
                }
            }
            Job::Evaluate { round, model } => {
                let weights = self.context.blobs.read(model.id).map_err(own_disk);
                match weights.and_then(|weights| self.evaluate(id, &weights)) {
                    Ok(evaluation) => Some(Outcome::Evaluated { round, evaluation }),
                    Err(Failure::Stopped) => None,
                    Err(Failure::Failed(why)) => {
                        tracing::warn!("the last model can't be evaluated: {why}");
                        Some(Outcome::Evaluated { round, evaluation: None })
                    }
                }
            }
        }
    }

    fn train(
        &self,
        id: u64,
        round: u64,
        model: BlobRef,
        node_key: &[u8],
        last_update: Option<Hash>,
    ) -> Result<TrainedUpdate, Failure> {
        let began = Instant::now();
        tracing::info!("round {round}: trains");
        let parent = self.context.blobs.read(model.id).map_err(own_disk)?;
        let evaluation = self.evaluate(id, &parent)?;
        let control = self.control(round, last_update);
        let TrainerContext { learner, formats, seed, .. } = &self.context;
        let (rule, state) = (formats.rule(), parent.as_slice());
        let task = Task {
            round,
            seed: *seed,
            node_key,
            rule,
            state,
            control: control.as_deref(),
            trainable: Trainable::all(),
        };
        let trained = learner.train(&task, &self.threads, &mut |p| self.report(id, false, p));
        let trained = trained.map_err(|error| match error {
            TrainError::Diverged { .. } => Failure::Failed(format!("{}: {error}", self.context.lr_place)),
            other => other.into(),
        })?;
        let train_ms = began.elapsed().as_millis() as u64;
        let update = self.context.blobs.put(&trained.update).map_err(own_disk)?;
        if let Some(control) = &trained.control {
            let controls = &self.context.controls;
            controls.put(update.id, control).map_err(own_disk)?;
            controls.retain(&[last_update.unwrap_or(update.id), update.id]);
        }
        let (samples, train_loss, trainer) = (trained.samples, trained.train_loss, self.context.learner.name());
        Ok(TrainedUpdate { update, samples, train_loss, train_ms, evaluation, trainer })
    }

    /// SCAFFOLD's control variate of this node. In place of one that is lost it begins at zero; what the lost one added to the
    /// server's stays there, so a home that loses files costs such a run some accuracy, and replaying it doesn't repeat it.
    fn control(&self, round: u64, last_update: Option<Hash>) -> Option<Vec<u8>> {
        let formats = &self.context.formats;
        if !formats.rule().has_controls() {
            return None;
        }
        self.context.controls.read(last_update, formats.parameters()).unwrap_or_else(|error| {
            tracing::warn!("round {round}: training begins with a control variate of zero: {error}");
            None
        })
    }

    fn evaluate(&self, id: u64, state: &[u8]) -> Result<Option<Evaluation>, Failure> {
        let TrainerContext { learner, formats, .. } = &self.context;
        let weights = formats.state.weights(state);
        let measures = learner.evaluate(weights, &self.threads, &mut |p| self.report(id, true, p))?;
        match measures.is_empty() {
            true => Ok(None),
            false => Ok(Some(evaluation(&measures))),
        }
    }

    fn report(&self, id: u64, evaluating: bool, p: paceline_model::Progress) -> ControlFlow<()> {
        let done = (p.epoch.saturating_sub(1) * p.batches + p.batch) as u64;
        let of = (p.epochs * p.batches) as u64;
        self.progress.send_replace(Progress { evaluating, done, of, loss: p.loss });
        if self.current.load(Ordering::SeqCst) == id { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

enum Failure {
    Stopped,
    Failed(String),
}

/// Others are told why a training failed, and this machine's paths are nothing to them: those are in its own log.
fn own_disk(error: impl std::fmt::Display) -> Failure {
    tracing::error!("{error}");
    Failure::Failed("a file of this node can't be read or written; its log says which".to_owned())
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled => Failure::Stopped,
            other => Failure::Failed(other.to_string()),
        }
    }
}

/// Compute threads give way to everything else: to votes, beats and people who ask for the status.
fn lower_priority(nice: u8) {
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
    #[cfg(target_os = "linux")]
    {
        // On Linux a priority belongs to a thread. Without permission it stays as it is, which costs speed alone.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), i32::from(nice));
    }
}
