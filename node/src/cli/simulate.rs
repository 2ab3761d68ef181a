//! `paceline simulate`: the run of a run file in one process.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;

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
    /// End when the best test accuracy so far reaches this, in percent.
    #[arg(long, value_name = "ACC", value_parser = percent)]
    until: Option<f64>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value / 100.0),
        _ => Err(format!("`{text}` is no accuracy: give percent, above 0 and at most 100, for instance 99")),
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
    Simulation::open(experiment, options.until, workers, &out).map_err(CliError::bad_input)
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
        let Some(round) = simulation.next_round(stop, &|share| bar.show(finished, share))? else { break };
        if format == Format::Json {
            print_json(round)?;
        }
        bar.suspend(|| tracing::info!("{}", words::simulated_round(round, rounds)));
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
