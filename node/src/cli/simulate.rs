//! `paceline simulate`: the run of a run file in one process.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use paceline_model::ACCURACY;

use super::error::CliError;
use super::experiment::ExperimentOptions;
use super::output::{Format, print, print_json};
use super::shutdown;
use crate::learn::{Workers, cores};
use crate::simulate::Simulation;
use crate::ui::bar::RoundsBar;
use crate::ui::words;

/// How a run is simulated.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    experiment: ExperimentOptions,
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
    let experiment = options.experiment.prepare()?;
    let workers = Workers::new(options.threads.map_or_else(cores, NonZeroUsize::get))?;
    let out = options.out.unwrap_or_else(|| format!("{}-simulation", experiment.run_file.run.name).into());
    let lead = &experiment.run_file.learning.metrics.lead;
    let until = options.until.map(|text| goal(&text, lead)).transpose().map_err(CliError::usage)?;
    Simulation::open(experiment, until, workers, &out).map_err(CliError::bad_input)
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
