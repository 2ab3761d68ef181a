//! `paceline data`: how a run file's partition divides the labels of its data set.

use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::experiment::ExperimentOptions;
use super::output::{Format, print, print_json};
use crate::plot::Shares;
use crate::report::PartLabels;
use crate::ui::table;

/// Which data set is divided, and whether it is drawn.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    experiment: ExperimentOptions,
    /// Draw it: writes FILE.svg and FILE.png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let run_file = options.experiment.run_file()?;
    let (plan, data) = options.experiment.read(&run_file)?;
    let parts = options.experiment.clients(&run_file) as usize;
    let (labels, classes) = (data.train.labels(), data.train.classes());
    let lines: Vec<PartLabels> = paceline_model::partition(labels, classes, parts, &plan.partition, plan.seed)
        .iter()
        .enumerate()
        .map(|(part, indices)| {
            let mut counts = vec![0u64; classes];
            indices.iter().for_each(|&index| counts[usize::from(labels[index as usize])] += 1);
            PartLabels { part: format!("{}/{parts}", part + 1), examples: indices.len() as u64, labels: counts }
        })
        .collect();
    match format {
        Format::Json => lines.iter().try_for_each(print_json)?,
        Format::Text => print(&table::parts(&lines, classes, data.train.noun()).to_string()),
    }
    if let Some(path) = &options.plot {
        let title = format!("{}: {} training {} in {parts} parts", run_file.run.name, labels.len(), data.train.noun());
        let classes = plan.source.class_names();
        let shares = Shares { title, classes, counts: lines.into_iter().map(|line| line.labels).collect() };
        for file in shares.write(path)? {
            tracing::info!("wrote {}", file.display());
        }
    }
    Ok(())
}
