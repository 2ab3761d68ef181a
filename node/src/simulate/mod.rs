//! `paceline simulate`: the run of a run file in one process, with virtual clients in place of nodes. Client K of N has the
//! part K/N of the data.
//!
//! What a round computes is what the nodes of a run with those parts compute: the same participants, the same streams,
//! the same exact sums, so the models have the same bits. What is left out is everything between the nodes.

mod curve;
mod folder;
mod plots;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use paceline_model::{DataSet, Device, Evaluation, TrainError};
use paceline_protocol::chain::samples_of_all;
use paceline_protocol::roster::{Member, Part, Roster};
use paceline_protocol::runfile::RunFile;
use paceline_protocol::{Hash, NodeId};

use crate::blobs::Manifest;
use crate::cli::{Coded, Exit, Experiment, Prepared, cores, lr_place, print};
use crate::learn::{Client, Cohort, Local, LocalError, Plan, Workers};
use crate::report::Round;

use curve::{best_so_far, rounds_to};
use folder::Folder;
pub use plots::accuracy;

/// How a run is simulated.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    experiment: Experiment,
    /// Where rounds, models and plots go; a simulation that is found there goes on [default: NAME-simulation].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// End when the best test accuracy so far reaches this, in percent.
    #[arg(long, value_name = "ACC", value_parser = percent)]
    until: Option<f64>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// How often the bar moves.
const BAR: Duration = Duration::from_millis(200);

/// Steps of the bar for one round.
const BAR_STEPS: u64 = 1_000;

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value / 100.0),
        _ => Err(format!("`{text}` is no accuracy: give percent, above 0 and at most 100, for instance 99")),
    }
}

pub(crate) async fn run(options: Options, json: bool, quiet: bool) -> Result<(), Coded> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            tracing::info!("stops after this batch; once more to stop at once");
            asked.store(true, Ordering::SeqCst);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    let work = move || Simulation::prepare(options)?.run(&stop, json, quiet);
    tokio::task::spawn_blocking(work).await.context("the simulation's thread failed")?
}

struct Simulation {
    run_file: RunFile,
    /// Where it has the learning rate.
    lr_place: String,
    plan: Plan,
    data: DataSet,
    roster: Roster,
    workers: Workers,
    until: Option<f64>,
    folder: Folder,
}

impl Simulation {
    fn prepare(options: Options) -> Result<Self, Coded> {
        let bad_input = |error: anyhow::Error| Coded::new(Exit::BadInput, error);
        let Prepared { run_file, plan, data, clients } = options.experiment.prepare()?;
        let workers = Workers::new(options.threads.map_or_else(cores, NonZeroUsize::get))?;
        let out = options.out.unwrap_or_else(|| format!("{}-simulation", run_file.run.name).into());
        let folder = Folder::open(&out, &run_file, clients, || Ok(plan.initial_state()?)).map_err(bad_input)?;
        Ok(Self {
            roster: roster(clients),
            lr_place: lr_place(&options.experiment.run),
            run_file,
            plan,
            data,
            workers,
            until: options.until,
            folder,
        })
    }

    fn run(mut self, stop: &AtomicBool, json: bool, quiet: bool) -> Result<(), Coded> {
        let began = Instant::now();
        let before = self.folder.rounds.len();
        if before > 0 {
            tracing::info!("goes on after round {before}");
        }
        let bar = bar(self.run_file.run.rounds, before as u64, quiet);
        while !self.is_over() {
            let round = self.folder.rounds.len() as u64 + 1;
            match self.round(round, stop, &bar)? {
                Some((report, state)) => {
                    let (text, shown) = (line(&report, self.run_file.run.rounds), serde_json::to_string(&report)?);
                    self.folder.add(report, state)?;
                    if json {
                        print(&shown);
                    }
                    bar.suspend(|| tracing::info!("{text}"));
                    self.clear_controls();
                }
                None => break,
            }
        }
        bar.finish_and_clear();
        let name = &self.run_file.run.name;
        let files = accuracy(name, &[(name.clone(), self.folder.rounds.as_slice())], self.folder.dir())?;
        let interrupted = !self.is_over();
        if !json {
            print(&self.summary(before, began.elapsed()));
            files.iter().for_each(|file| print(&format!("wrote {}", file.display())));
        }
        match interrupted {
            true => {
                Err(anyhow!("interrupted after round {}; the same command goes on", self.folder.rounds.len()).into())
            }
            false => Ok(()),
        }
    }

    /// Removes control variates that no client will ask for again.
    fn clear_controls(&self) {
        if self.plan.rule.has_controls() {
            let parts = self.roster.members().iter().filter_map(|member| member.part);
            let last: Vec<Hash> = parts.filter_map(|part| self.folder.last_update_of(part)).collect();
            self.folder.controls().retain(&last);
        }
    }

    fn is_over(&self) -> bool {
        let reached = |target| best_so_far(self.accuracies()).last().is_some_and(|best| best >= target);
        self.folder.rounds.len() as u64 >= self.run_file.run.rounds || self.until.is_some_and(reached)
    }

    fn accuracies(&self) -> impl Iterator<Item = f64> {
        self.folder.rounds.iter().map(|r| r.accuracy.unwrap_or(0.0))
    }

    /// One round; `None` if it was stopped.
    fn round(&self, round: u64, stop: &AtomicBool, bar: &ProgressBar) -> anyhow::Result<Option<(Round, Vec<u8>)>> {
        let began = Instant::now();
        let parent = &self.folder.state;
        let clients = self.participants(Manifest::of(parent).blob().id, round);
        let progress = Progress { bar, round, done: AtomicU64::new(0), of: self.batches(clients.len()), stop };
        let controls = &self.folder.controls();
        let cohort = Cohort { plan: &self.plan, data: &self.data, workers: &self.workers, controls };
        let (sum, locals) = cohort.train(parent, round, &clients, &|| progress.batch());
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let locals = self.arrived(round, &clients, locals)?;
        let state = self.plan.rule.step(parent, &sum, self.samples_of_all(&locals))?;
        let Some(evaluation) = self.evaluate(&state, stop)? else { return Ok(None) };
        let report = Round::simulated(round, &locals, &state, evaluation, began.elapsed());
        Ok(Some((report, state)))
    }

    /// The clients of a round: those that a network of nodes with these parts would choose.
    fn participants(&self, model: Hash, round: u64) -> Vec<Client> {
        let order = self.roster.trainees(model, round);
        let count = self.run_file.participants_of(self.roster.len());
        let has_controls = self.plan.rule.has_controls();
        let client = |node: &NodeId| {
            let part = self.roster.get(*node)?.part?;
            let last_update = if has_controls { self.folder.last_update_of(part) } else { None };
            Some(Client { part, last_update })
        };
        order[..count].iter().filter_map(client).collect()
    }

    /// About how many batches these clients have: exactly where all have as many images.
    fn batches(&self, clients: usize) -> u64 {
        let images = self.data.train.len() / self.roster.len();
        (clients * self.plan.config.epochs * images.div_ceil(self.plan.config.batch).max(1)) as u64
    }

    /// The updates that came. Too few are the end: nothing would change if it was tried again.
    fn arrived(
        &self,
        round: u64,
        clients: &[Client],
        locals: Vec<Result<Local, LocalError>>,
    ) -> anyhow::Result<Vec<Local>> {
        let mut arrived = Vec::with_capacity(locals.len());
        let mut last = None;
        for (client, local) in clients.iter().zip(locals) {
            match local {
                Ok(local) => arrived.push(local),
                // One client's training that diverges is its own trouble; a disk or data that fails is everybody's.
                Err(error @ LocalError::Train(TrainError::Diverged { .. })) => {
                    let error = anyhow!("{}: {error}", self.lr_place);
                    tracing::warn!("round {round}: client {} has no update: {error}", client.part);
                    last = Some(error);
                }
                Err(error) => return Err(anyhow::Error::from(error).context(format!("client {}", client.part))),
            }
        }
        let needed = self.run_file.min_updates_of(clients.len());
        match last {
            Some(error) if arrived.len() < needed => {
                let found = arrived.len();
                Err(error.context(format!("round {round}: {found} updates, {needed} are needed")))
            }
            _ => Ok(arrived),
        }
    }

    /// Samples of all clients, as the nodes of a run would know them: from contributions.
    fn samples_of_all(&self, now: &[Local]) -> u64 {
        let before = self.folder.rounds.iter().flat_map(|round| &round.contributions);
        let mut known: BTreeMap<String, u64> = before.map(|c| (c.node_id.clone(), c.samples)).collect();
        known.extend(now.iter().map(|local| (local.part.to_string(), local.samples)));
        samples_of_all(known.into_values(), self.roster.len())
    }

    fn evaluate(&self, state: &[u8], stop: &AtomicBool) -> anyhow::Result<Option<Evaluation>> {
        let go_on =
            &mut |_| if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let (plan, device) = (&self.plan, &Device::Cpu);
        let weights = plan.rule.weights(state);
        let result = paceline_model::evaluate(
            &plan.spec,
            plan.preprocess,
            weights,
            &self.data.test,
            device,
            &self.workers.all,
            go_on,
        );
        match result {
            Ok(evaluation) => Ok(Some(evaluation)),
            Err(TrainError::Cancelled) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn summary(&self, before: usize, took: Duration) -> String {
        let rounds = &self.folder.rounds;
        let best = best_so_far(self.accuracies()).last().unwrap_or(0.0);
        let mut text = format!("{} rounds, best accuracy {:.2} %", rounds.len(), 100.0 * best);
        if let Some(target) = self.until {
            let reached = rounds_to(target, self.accuracies());
            let reached = reached.map_or("not reached".to_owned(), |round| format!("reached after {round:.1} rounds"));
            text += &format!("; {:.2} % {reached}", 100.0 * target);
        }
        let here = &rounds[before..];
        let epochs = here.iter().map(|r| r.contributions.len()).sum::<usize>() * self.plan.config.epochs;
        if let (false, Some(last)) = (here.is_empty(), rounds.last()) {
            let rate = epochs as f64 / took.as_secs_f64();
            text += &format!(
                "\n{} rounds in {:.0} s, evaluation included: {rate:.2} client-epochs/s\nmodel {}",
                here.len(),
                took.as_secs_f64(),
                last.model_hash
            );
        }
        text
    }
}

/// The batches of a round as they are done.
struct Progress<'a> {
    bar: &'a ProgressBar,
    round: u64,
    done: AtomicU64,
    of: u64,
    stop: &'a AtomicBool,
}

impl Progress<'_> {
    fn batch(&self) -> ControlFlow<()> {
        let done = (self.done.fetch_add(1, Ordering::Relaxed) + 1).min(self.of);
        self.bar.set_position((self.round - 1) * BAR_STEPS + done * BAR_STEPS / self.of.max(1));
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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

/// The bar after so many rounds. What is left is reckoned from those to come: earlier ones ran at another time.
fn bar(rounds: u64, before: u64, quiet: bool) -> ProgressBar {
    let shown = std::io::stderr().is_terminal() && !quiet;
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(rounds * BAR_STEPS), target);
    if let Ok(style) = ProgressStyle::with_template("  {bar:40} {percent} % of the rounds, {left}") {
        bar.set_style(style.with_key("left", left));
    }
    bar.set_position(before * BAR_STEPS);
    bar.reset_eta();
    bar.enable_steady_tick(BAR);
    bar
}

/// What is left, once anything is known of it.
fn left(state: &ProgressState, out: &mut dyn Write) {
    let _ = match state.per_sec() > 0.0 {
        true => write!(out, "{:#} left", HumanDuration(state.eta())),
        false => write!(out, "begins"),
    };
}

fn line(r: &Round, of: u64) -> String {
    format!(
        "round {} of {of}: accuracy {}, loss {}, {} updates, {:.1} s",
        r.round,
        r.accuracy.map_or("-".into(), |a| format!("{:.2} %", 100.0 * a)),
        r.train_loss.map_or("-".into(), |l| format!("{l:.4}")),
        r.contributions.len(),
        r.duration_ms.unwrap_or(0) as f64 / 1000.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_of_an_earlier_start_count_nothing_towards_the_time_that_is_left() {
        let bar = bar(100, 20, true);
        assert_eq!((bar.position(), bar.per_sec()), (20 * BAR_STEPS, 0.0));
    }
}
