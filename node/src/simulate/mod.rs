//! The run of a run file in one process, with virtual clients in place of nodes. Client K of N has the part K/N of the data.
//!
//! What a round computes is what the nodes of a run with those parts compute: the same participants, the same streams,
//! the same exact sums, so the models have the same bits. What is left out is everything between the nodes.
//!
//! `Simulation` computes rounds, `Folder` keeps them, `Summary` and [`plot`] show what they came to.

mod curve;
mod folder;
mod plots;
mod progress;
mod summary;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{anyhow, bail};
use paceline_model::{Learner, TrainError};
use paceline_protocol::base::roster::{Member, Part, Roster};
use paceline_protocol::chain::{StopRule, StopWatch, samples_of_all};
use paceline_protocol::record::Evaluation;
use paceline_protocol::{Hash, NodeId};

use crate::blobs::Manifest;
use crate::learn::{Client, ClientError, ClientUpdate, Formats, LocalClients, Workers, evaluation, stop_rule, tuned};
use crate::report::Round;
use crate::run_file::{Metrics, RunFile};

use curve::best_so_far;
use folder::Folder;
pub use plots::plot;
use progress::Progress;
use summary::ranks;
pub use summary::{Here, Summary, Target};

/// One data set, divided among clients by a run file.
#[derive(Debug)]
pub struct Experiment {
    /// The run.
    pub run_file: RunFile,
    /// Where the run file has the learning rate, for the message of a training that diverges.
    pub lr_place: String,
    /// What learns, with all the data: each client is a part of it.
    pub learner: Arc<dyn Learner>,
    /// The weights of all tensors that it begins with; the learner's own by default.
    pub weights: Option<Vec<u8>>,
    /// How many clients there are.
    pub clients: u32,
}

/// An experiment whose rounds are computed one after another.
#[derive(Debug)]
pub struct Simulation {
    run_file: RunFile,
    lr_place: String,
    learner: Arc<dyn Learner>,
    formats: Formats,
    roster: Roster,
    workers: Workers,
    /// The value of the leading metric at which it ends before its rounds do.
    until: Option<f64>,
    folder: Folder,
}

impl Simulation {
    /// Begins in a folder, or goes on in one that holds rounds of the same simulation.
    ///
    /// # Errors
    /// The folder holds something else, or the disk fails.
    pub fn open(experiment: Experiment, until: Option<f64>, workers: Workers, out: &Path) -> anyhow::Result<Self> {
        let Experiment { run_file, lr_place, learner, weights, clients } = experiment;
        let (learning, seed) = (&run_file.learning, run_file.run.seed);
        let base = weights.map_or_else(|| learner.initial(seed), Ok)?;
        let learner = tuned(learner, base, &learning.model)?;
        let formats = Formats::of(learning.rule, learner.layout().parameters())?;
        if !learner.takes(&learning.rule) {
            bail!("this learner can't train with `rule = \"{}\"` in [aggregate]: take another", learning.rule.name());
        }
        let folder = Folder::open(out, &run_file, clients, || Ok(formats.state.initial(learner.initial(seed)?)))?;
        Ok(Self { run_file, lr_place, learner, formats, roster: roster(clients), workers, until, folder })
    }

    /// The rounds that are finished, those of earlier starts included.
    pub fn rounds(&self) -> &[Round] {
        &self.folder.rounds
    }

    /// Rounds of the run in all.
    pub fn rounds_in_all(&self) -> u64 {
        self.run_file.run.rounds
    }

    /// Whether all rounds are finished, or the value is reached.
    pub fn is_over(&self) -> bool {
        let metrics = self.metrics();
        let best = || best_so_far(ranks(self.rounds(), metrics)).last();
        let reached = |value| best().is_some_and(|best| best >= metrics.rank(value));
        self.rounds().len() as u64 >= self.rounds_in_all() || self.until.is_some_and(reached) || self.is_stopped()
    }

    /// Whether the rounds before the last one end the run. A network knows what a model is worth one round later, and so it is
    /// here.
    fn is_stopped(&self) -> bool {
        let (rule, lead) = (stop_rule(&self.run_file), &self.metrics().lead);
        let rule = StopRule { target: self.run_file.learning.stop.target, ..rule };
        let mut watch = StopWatch::default();
        for (place, round) in self.rounds().iter().enumerate() {
            let before = place.checked_sub(1).and_then(|before| self.rounds()[before].metrics.get(lead));
            watch.see(&rule, before.copied(), round.duration_ms.unwrap_or(0));
        }
        watch.stopped().is_some()
    }

    /// What rounds are judged by.
    pub fn metrics(&self) -> &Metrics {
        &self.run_file.learning.metrics
    }

    /// Computes a round and puts it on disk; `None` if it was stopped, and nothing of it counts. `show` hears the share of the
    /// round that is done, from 0 to 1, from all threads.
    ///
    /// # Errors
    /// Too few clients could train, or the disk fails.
    pub fn next_round(&mut self, stop: &AtomicBool, show: &(dyn Fn(f64) + Sync)) -> anyhow::Result<Option<&Round>> {
        let began = Instant::now();
        let number = self.rounds().len() as u64 + 1;
        let parent = &self.folder.state;
        let clients = self.participants(Manifest::of(parent).blob().id, number);
        let progress = Progress::new(clients.len(), stop, show);
        let controls = &self.folder.controls();
        let Self { formats, workers, .. } = &*self;
        let learner = self.learner.as_ref();
        let seed = self.run_file.run.seed;
        let local_clients = LocalClients { learner, formats: *formats, seed, workers, controls };
        let (sum, updates) = local_clients.train(parent, number, &clients, &|share| progress.step(share));
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let updates = self.arrived(number, &clients, updates)?;
        let state = self.formats.rule().step(parent, &sum, self.samples_of_all(&updates))?;
        let Some(evaluation) = self.evaluate(&state, stop)? else { return Ok(None) };
        let evaluation = (&evaluation, self.run_file.learning.unit());
        let round = Round::simulated(number, &updates, &state, evaluation, began.elapsed());
        self.folder.add(round, state)?;
        self.clear_controls();
        Ok(self.rounds().last())
    }

    /// Draws the leading metric of all rounds. Gives the files.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn plot(&self) -> anyhow::Result<Vec<PathBuf>> {
        let name = &self.run_file.run.name;
        plot(name, &self.metrics().lead, &[(name.clone(), self.rounds())], self.folder.dir())
    }

    /// What it came to; the rounds after the first `before` are those of this start.
    pub fn summary(&self, before: usize) -> Summary<'_> {
        let epochs = self.run_file.learning.train.config.epochs;
        Summary::of(self.rounds(), self.metrics(), before, epochs, self.until)
    }

    /// Removes control variates that no client will ask for again.
    fn clear_controls(&self) {
        if self.formats.rule().has_controls() {
            let parts = self.roster.members().iter().filter_map(|member| member.part);
            let last: Vec<Hash> = parts.filter_map(|part| self.folder.last_update_of(part)).collect();
            self.folder.controls().retain(&last);
        }
    }

    /// The clients of a round: those that a network of nodes with these parts would choose.
    fn participants(&self, model: Hash, round: u64) -> Vec<Client> {
        let order = self.roster.participant_order(model, round);
        let count = self.run_file.quota().participants_of(self.roster.len());
        let has_controls = self.formats.rule().has_controls();
        let client = |node: &NodeId| {
            let part = self.roster.get(*node)?.part?;
            let last_update = if has_controls { self.folder.last_update_of(part) } else { None };
            Some(Client { part, last_update })
        };
        order[..count].iter().filter_map(client).collect()
    }

    /// The updates that came. Too few are the end: nothing would change if it was tried again.
    fn arrived(
        &self,
        round: u64,
        clients: &[Client],
        updates: Vec<Result<ClientUpdate, ClientError>>,
    ) -> anyhow::Result<Vec<ClientUpdate>> {
        let mut arrived = Vec::with_capacity(updates.len());
        let mut last = None;
        for (client, update) in clients.iter().zip(updates) {
            match update {
                Ok(update) => arrived.push(update),
                // One client's training that fails is its own trouble; a disk or data that fails is everybody's.
                Err(error @ ClientError::Train(TrainError::Diverged { .. } | TrainError::Failed(_))) => {
                    let place = matches!(error, ClientError::Train(TrainError::Diverged { .. }));
                    let place = if place { format!("{}: ", self.lr_place) } else { String::new() };
                    let error = anyhow!("{place}{error}");
                    tracing::warn!("round {round}: client {} has no update: {error}", client.part);
                    last = Some(error);
                }
                Err(error) => return Err(anyhow::Error::from(error).context(format!("client {}", client.part))),
            }
        }
        let needed = self.run_file.quota().min_updates_of(clients.len());
        match last {
            Some(error) if arrived.len() < needed => {
                let found = arrived.len();
                Err(error.context(format!("round {round}: {found} updates, {needed} are needed")))
            }
            _ => Ok(arrived),
        }
    }

    /// Samples of all clients, as the nodes of a run would know them: from contributions.
    fn samples_of_all(&self, now: &[ClientUpdate]) -> u64 {
        let before = self.rounds().iter().flat_map(|round| &round.contributions);
        let mut known: BTreeMap<String, u64> = before.map(|c| (c.node_id.clone(), c.samples)).collect();
        known.extend(now.iter().map(|update| (update.part.to_string(), update.samples)));
        samples_of_all(known.into_values(), self.roster.len())
    }

    /// What a state is worth on the test set; `None` if it was stopped.
    fn evaluate(&self, state: &[u8], stop: &AtomicBool) -> anyhow::Result<Option<Evaluation>> {
        let go_on =
            &mut |_| if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        match self.learner.evaluate(self.formats.state.weights(state), &self.workers.all, go_on) {
            Ok(measures) => Ok(Some(evaluation(&measures))),
            Err(TrainError::Cancelled) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A roster of clients, whose node ids stand for nothing but their numbers.
fn roster(clients: u32) -> Roster {
    let member = |index: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&index.to_be_bytes());
        let part = Some(Part { index, of: clients });
        Member { node: NodeId::from_public_key(key), name: format!("client {index}"), part }
    };
    Roster::new((1..=clients).map(member).collect())
}
