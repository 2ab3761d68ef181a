//! `paceline data`: how a run file's partition divides the labels of its data set.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::experiment::{Experiment, Prepared};
use super::{Coded, Exit, Format, print};
use crate::plot::Shares;

/// What is shown.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    experiment: Experiment,
    /// Draw it: writes FILE.svg and FILE.png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// One line of `data --format json`.
#[derive(Debug, Serialize)]
struct Line {
    /// `K/N`, as `--part` takes it.
    part: String,
    /// Training images.
    images: u64,
    /// Of each class.
    labels: Vec<u64>,
}

/// Heights of the drawn columns, from nothing to all.
const COLUMNS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Classes that a line has room to draw.
const CLASSES_DRAWN: usize = 40;

pub(super) fn run(options: &Options, format: Format) -> Result<(), Coded> {
    let Prepared { run_file, plan, data, clients } = options.experiment.prepare()?;
    let parts = clients as usize;
    let (labels, classes) = (data.train.labels(), data.train.classes());
    let lines: Vec<Line> = paceline_model::partition(labels, classes, parts, &plan.partition, plan.seed)
        .iter()
        .enumerate()
        .map(|(part, indices)| {
            let mut counts = vec![0u64; classes];
            indices.iter().for_each(|&index| counts[usize::from(labels[index as usize])] += 1);
            Line { part: format!("{}/{parts}", part + 1), images: indices.len() as u64, labels: counts }
        })
        .collect();
    match format {
        Format::Json => lines.iter().try_for_each(|line| serde_json::to_string(line).map(|line| print(&line)))?,
        Format::Text => print(&table(&lines, classes)),
    }
    if let Some(path) = &options.plot {
        let title = format!("{}: {} training images in {parts} parts", run_file.run.name, labels.len());
        let shares = Shares { title, counts: lines.into_iter().map(|line| line.labels).collect() };
        for file in shares.write(path).map_err(|e| Coded::new(Exit::Failed, e))? {
            tracing::info!("wrote {}", file.display());
        }
    }
    Ok(())
}

fn table(lines: &[Line], classes: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["part", "images", "classes", "of each class, drawn", "of each class"]);
    let largest = lines.iter().flat_map(|line| &line.labels).copied().max().unwrap_or(0).max(1);
    for line in lines {
        // A class that is there is drawn, however few its images are.
        let column = |count: &u64| COLUMNS[((count * 8).div_ceil(largest)) as usize];
        let drawn: String = line.labels.iter().take(CLASSES_DRAWN).map(column).collect();
        let held = line.labels.iter().filter(|count| **count > 0).count();
        let counts: Vec<String> = line.labels.iter().take(CLASSES_DRAWN).map(u64::to_string).collect();
        table.add_row([
            line.part.clone(),
            line.images.to_string(),
            format!("{held} of {classes}"),
            format!("|{drawn}|"),
            counts.join(" "),
        ]);
    }
    table.to_string()
}
