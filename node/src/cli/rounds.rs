//! `paceline rounds` and `paceline compare`: what a run has come to, round by round; two runs side by side.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::{Target, home_of_run};
use crate::inspect::{self, Node};
use crate::plot::{Curve, Curves, write_below_each_other};
use crate::report::{Round, Status};
use crate::run_file::{self, Metrics};
use crate::store::{Home, write_whole};
use crate::tensorboard;
use crate::ui::words::short_hash;
use crate::ui::{log, table, words};

/// Which rounds are shown, and how.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// The last ones alone.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Print them for other programs.
    #[arg(long, value_enum, value_name = "KIND")]
    export: Option<Export>,
    /// The folder for `--export tensorboard` [default: tensorboard/NAME of the run].
    #[arg(long, value_name = "DIR", requires = "export")]
    to: Option<PathBuf>,
    /// Draw the leading metric and the loss: writes FILE.svg and FILE.png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What other programs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Export {
    Csv,
    Jsonl,
    /// TensorBoard's event file, in the folder that --to gives. Records have no clock times: the last round is dated now.
    Tensorboard,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let node = options.target.node()?;
    let mut rounds = node.rounds()?;
    let skipped = options.last.map_or(0, |last| rounds.len().saturating_sub(last));
    rounds.drain(..skipped);
    match (options.export, format) {
        (Some(Export::Csv), _) => print_csv(&rounds)?,
        (Some(Export::Tensorboard), _) => {
            let dir = options.to.clone();
            let file = write_events(&rounds, &node.status()?, dir)?;
            match format {
                Format::Json => print_json(&serde_json::json!({ "file": file }))?,
                Format::Text => print(&words::events_written(&file)),
            }
        }
        (Some(Export::Jsonl), _) | (None, Format::Json) => rounds.iter().try_for_each(print_json)?,
        (None, Format::Text) if rounds.is_empty() => print("No round is committed yet."),
        (None, Format::Text) => {
            let status = node.status()?;
            print(&table::rounds(&rounds, |id| status.name_of(id)).to_string());
        }
    }
    if let Some(path) = &options.plot {
        let name = node.status()?.run_name;
        let metrics: BTreeSet<&str> = rounds.iter().flat_map(|r| r.metrics.keys().map(String::as_str)).collect();
        // Each has a scale of its own.
        let measured = metrics.into_iter().map(|metric| curve(metric, &rounds, metric));
        let losses = rounds.iter().filter_map(|r| Some((r.round as f64, r.train_loss?))).collect();
        let losses = Curve { name: "training loss".to_owned(), points: losses };
        let panels: Vec<Curves> =
            measured.chain([losses]).map(|curve| curves(&name, &curve.name, vec![curve.clone()])).collect();
        tell_of_plots(&write_below_each_other(path, &panels)?);
    }
    Ok(())
}

/// Writes TensorBoard's event file of the rounds into a folder, in place of an earlier one: TensorBoard would show both.
fn write_events(rounds: &[Round], status: &Status, dir: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let dir = dir.unwrap_or_else(|| Path::new("tensorboard").join(&status.run_name));
    let fails = || format!("{} can't be written", dir.display());
    std::fs::create_dir_all(&dir).with_context(fails)?;
    let end = SystemTime::now();
    // One file a node and run.
    let name = format!("{}-{}", status.name.replace(['/', '\\'], "-"), short_hash(&status.run_id));
    let file = dir.join(tensorboard::file_name(end, &name));
    write_whole(&file, &tensorboard::events(rounds, end)).with_context(fails)?;
    let earlier = std::fs::read_dir(&dir).with_context(fails)?.filter_map(Result::ok).map(|entry| entry.path());
    for before in earlier.filter(|path| *path != file && tensorboard::is_event_file(path, &name)) {
        std::fs::remove_file(&before).with_context(|| format!("{} can't be removed", before.display()))?;
    }
    Ok(file)
}

/// A line for each round and a column for each metric, with the header that names them.
fn print_csv(rounds: &[Round]) -> Result<(), CliError> {
    let metrics: BTreeSet<&String> = rounds.iter().flat_map(|r| r.metrics.keys()).collect();
    let fixed = [
        "round",
        "kind",
        "coordinator",
        "updates",
        "samples",
        "train_loss",
        "evaluated",
        "duration_ms",
        "overhead_ms",
        "bytes_sent",
        "bytes_received",
        "model_hash",
        "record_hash",
    ];
    fn cell(value: Option<impl ToString>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let mut out = csv::Writer::from_writer(Vec::new());
    let written = (|| {
        out.write_record(fixed.into_iter().chain(metrics.iter().map(|name| name.as_str())))?;
        for r in rounds {
            let samples: u64 = r.contributions.iter().map(|c| c.samples).fold(0, u64::saturating_add);
            let own = [
                r.round.to_string(),
                r.kind.clone(),
                cell(r.committed_by.as_ref()),
                r.contributions.len().to_string(),
                samples.to_string(),
                cell(r.train_loss),
                cell(r.evaluated),
                cell(r.duration_ms),
                cell(r.overhead_ms),
                r.bytes_sent.to_string(),
                r.bytes_received.to_string(),
                r.model_hash.clone(),
                cell(r.record_hash.as_ref()),
            ];
            out.write_record(own.into_iter().chain(metrics.iter().map(|name| cell(r.metrics.get(*name)))))?;
        }
        out.flush()
    })();
    written.map_err(|error: std::io::Error| CliError::failed(anyhow!(error)))?;
    let text = out.into_inner().map_err(|error| CliError::failed(anyhow!("{error}")))?;
    print(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

/// Two runs.
#[derive(Debug, Args)]
pub(super) struct CompareOptions {
    /// A home, the folder of a simulation, or the name of a run.
    #[arg(value_name = "A")]
    one: PathBuf,
    /// Another.
    #[arg(value_name = "B")]
    other: PathBuf,
    /// Draw both curves: writes FILE.svg and FILE.png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(super) fn compare(options: &CompareOptions, format: Format) -> Result<(), CliError> {
    let open = |path: &Path| Run::open(path).map_err(CliError::bad_input);
    let (one, other) = (open(&options.one)?, open(&options.other)?);
    let lead = one.metrics.lead.clone();
    if lead != other.metrics.lead {
        let error = anyhow!("one run is judged by {lead}, the other by {}", other.metrics.lead);
        return Err(CliError::bad_input(error));
    }
    match format {
        Format::Json => print_json(&serde_json::json!({
            "metric": lead,
            "one": one.rounds, "other": other.rounds,
            "differences": run_file::differences(&one.run_file, &other.run_file),
        }))?,
        Format::Text => {
            print(&table::compared(&one.rounds, &other.rounds, [&one.name, &other.name], &lead).to_string());
            let both = [&one.run_file, &other.run_file];
            let differences = run_file::differences_of(both, ["in the first", "in the second"]);
            differences.iter().for_each(|line| print(line));
        }
    }
    if let Some(path) = &options.plot {
        let both = [&one, &other].map(|run| curve(&run.name, &run.rounds, &lead)).to_vec();
        let both = curves(&format!("{} and {}", one.name, other.name), &lead.replace('_', " "), both);
        tell_of_plots(&both.write(path)?);
    }
    Ok(())
}

/// A run that was, of nodes or simulated.
struct Run {
    name: String,
    run_file: run_file::RunFile,
    metrics: Metrics,
    rounds: Vec<Round>,
}

impl Run {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let home = match path.join("run.toml").exists() {
            true => Home::at(path),
            false => home_of_run(path).with_context(|| {
                format!(
                    "{} is no home of a node, no folder of a simulation, and no run that `paceline runs` lists",
                    path.display()
                )
            })?,
        };
        let run_file = inspect::run_file(&home)?;
        let simulated = path.join("rounds.jsonl");
        let rounds = match simulated.exists() {
            true => {
                let text = std::fs::read_to_string(&simulated)?;
                let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
                lines.with_context(|| format!("{} is damaged", simulated.display()))?
            }
            false => Node::of(home)?.rounds()?,
        };
        let name =
            path.file_name().map_or_else(|| run_file.run.name.clone(), |name| name.to_string_lossy().into_owned());
        Ok(Self { name, metrics: run_file.learning.metrics.clone(), run_file, rounds })
    }
}

fn curve(name: &str, rounds: &[Round], metric: &str) -> Curve {
    let points = rounds.iter().filter_map(|r| Some((r.round as f64, *r.metrics.get(metric)?))).collect();
    Curve { name: name.replace('_', " "), points }
}

fn curves(title: &str, y: &str, curves: Vec<Curve>) -> Curves {
    Curves { title: title.to_owned(), x: "round".to_owned(), y: y.to_owned(), curves }
}

fn tell_of_plots(files: &[PathBuf]) {
    files.iter().for_each(|file| log::say(format_args!("wrote {}", file.display())));
}
