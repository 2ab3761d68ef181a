//! `paceline simulate`: the run of a run file in one process.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use paceline_model::{ACCURACY, Device, Learner};

use super::error::CliError;
use super::experiment::ExperimentOptions;
use super::output::{Format, print, print_json};
use super::run_file::{at_fault, given_weights, lr_place};
use super::shutdown;
use super::trainer::{self, Wanted};
use crate::blobs::Manifest;
use crate::learn::{HelloNode, PlanError, ProgramLearner, Workers, cores};
use crate::run_file::{Net, RunFile};
use crate::simulate::{Experiment, Simulation};
use crate::ui::bar::RoundsBar;
use crate::ui::words;

/// How a run is simulated.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    experiment: ExperimentOptions,
    /// The weights that it begins with, where the run file has their hash: a safetensors file or a home.
    #[arg(long, value_name = "FILE | HOME")]
    model: Option<PathBuf>,
    /// With `arch = "trainer"`: the program that trains, one process for each client and one that evaluates (docs/trainer.md).
    #[arg(long, value_name = "COMMAND")]
    trainer: Option<String>,
    /// Seconds that the trainer may show no progress before it is taken for hung [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    trainer_patience: Option<u64>,
    /// Where rounds, models and plots go; a simulation that is found there goes on [default: NAME-simulation].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// End when the leading metric has reached this: an accuracy in percent, another metric as it is.
    #[arg(long, value_name = "VALUE")]
    until: Option<String>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// The value of the leading metric that `--until` asks for.
fn goal(text: &str, lead: &str) -> anyhow::Result<f64> {
    let value = text.trim_end_matches('%').trim().parse::<f64>().ok().filter(|value| value.is_finite());
    match value {
        Some(value) if lead != ACCURACY => Ok(value),
        Some(value) if value > 0.0 && value <= 100.0 => Ok(value / 100.0),
        _ if lead == ACCURACY => {
            bail!("--until: `{text}` is no accuracy: give percent, above 0 and at most 100, for instance 99")
        }
        _ => bail!("--until: `{text}` is no number, which {lead} is"),
    }
}

pub(super) async fn run(options: Options, format: Format, quiet: bool) -> Result<(), CliError> {
    let stop = shutdown::interrupted();
    let work = move || simulate(open(options)?, &stop, format, quiet);
    tokio::task::spawn_blocking(work).await.context("the simulation's thread failed")?
}

fn open(options: Options) -> Result<Simulation, CliError> {
    let run_file = options.experiment.run_file()?;
    let out = options.out.clone().unwrap_or_else(|| format!("{}-simulation", run_file.run.name).into());
    let learner: Arc<dyn Learner> = match (run_file.learning.model.net(), &options.trainer) {
        (Net::Trainer, None) => return Err(at_fault(PlanError::Trainer, &options.experiment.run)),
        (Net::Trainer, Some(command)) => Arc::new(program(command, &options, &run_file, &out)?),
        (Net::Preset(_) | Net::Layers(_), Some(_)) => return Err(trainer::needless()),
        (Net::Preset(_) | Net::Layers(_), None) => {
            let (plan, data) = options.experiment.read(&run_file)?;
            Arc::new(plan.learner(data, Device::Cpu))
        }
    };
    let weights = match (&options.model, run_file.learning.model.weights) {
        (None, None) => None,
        (None, Some(hash)) => {
            return Err(CliError::bad_input(anyhow!(
                "the run begins with the weights {}: give the file or the home that has them with --model",
                hash.short()
            )));
        }
        (Some(from), wanted) => {
            let weights = given_weights(from, &run_file, learner.layout()).map_err(CliError::bad_input)?;
            let found = Manifest::of(&weights).blob().id;
            if wanted != Some(found) {
                let (from, found) = (from.display(), found.short());
                return Err(CliError::bad_input(anyhow!("{from} has other weights, {found}, than the run file says")));
            }
            Some(weights)
        }
    };
    let workers = Workers::new(options.threads.map_or_else(cores, NonZeroUsize::get))?;
    let lead = &run_file.learning.metrics.lead;
    let until = options.until.map(|text| goal(&text, lead)).transpose().map_err(CliError::usage)?;
    let (lr_place, clients) = (lr_place(&options.experiment.run), options.experiment.clients(&run_file));
    let experiment = Experiment { run_file, lr_place, learner, weights, clients };
    Simulation::open(experiment, until, workers, &out).map_err(CliError::bad_input)
}

/// The program that evaluates; those of the clients are parts of it.
fn program(command: &str, options: &Options, run_file: &RunFile, out: &Path) -> Result<ProgramLearner, CliError> {
    let wanted = Wanted {
        command: command.to_owned(),
        node: HelloNode { id: "all".to_owned(), name: None, part: None },
        data: options.experiment.data.clone(),
        threads: options.threads,
        patience: options.trainer_patience,
    };
    ProgramLearner::start(wanted.program(run_file, &out.join("trainer"))?).map_err(CliError::bad_input)
}

fn simulate(mut simulation: Simulation, stop: &AtomicBool, format: Format, quiet: bool) -> Result<(), CliError> {
    let began = Instant::now();
    let (before, rounds) = (simulation.rounds().len(), simulation.rounds_in_all());
    if before > 0 {
        tracing::info!("goes on after round {before}");
    }
    let bar = RoundsBar::new(rounds, before as u64, quiet);
    while !simulation.is_over() {
        let finished = simulation.rounds().len() as u64;
        let lead = simulation.metrics().lead.clone();
        let Some(round) = simulation.next_round(stop, &|share| bar.show(finished, share))? else { break };
        if format == Format::Json {
            print_json(round)?;
        }
        bar.suspend(|| tracing::info!("{}", words::simulated_round(round, rounds, &lead)));
    }
    bar.clear();
    let files = simulation.plot()?;
    if format == Format::Text {
        print(&words::simulation(&simulation.summary(before), began.elapsed()));
        files.iter().for_each(|file| print(&format!("wrote {}", file.display())));
    }
    if simulation.is_over() {
        return Ok(());
    }
    let finished = simulation.rounds().len();
    Err(CliError::failed(anyhow!("interrupted after round {finished}; the same command goes on")))
}
