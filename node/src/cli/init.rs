//! `paceline init`: a run file to begin with, commented; or one that goes on from a model.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use paceline_model::data::{ColumnKind, look_at_folder, look_at_table};
use paceline_model::torch::{self, TorchTensor};
use paceline_model::{MEAN_ERROR, Trainable};
use paceline_protocol::bounds::NAME_BYTES_MAX;
use paceline_protocol::runfile::quoted;

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::run_file::{at_fault, read_run_file};
use crate::blobs::Manifest;
use crate::learn::Plan;
use crate::model_file::{self, ModelFile};
use crate::run_file::{self, Net, RunFile};
use crate::store::files;
use crate::trained::Trained;
use crate::ui::words;

/// Longest side of what a net sees where a folder says nothing better: larger ones take long on a CPU.
const SIDE_MAX: u32 = 64;

/// The side where photos are small.
const SIDE_SMALL: u32 = 32;

/// Examples below which steps are made smaller, so that a round has some.
const FEW_EXAMPLES: usize = 1_000;

/// What a run file is made of.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to; an existing file is left alone.
    #[arg(default_value = "run.toml")]
    file: PathBuf,
    /// Look at a folder with a subfolder of images for each class, or at a table (CSV with a header), and write a run file that
    /// fits it.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["model", "trainer"])]
    from: Option<PathBuf>,
    /// The column of the table to predict [default: the last one].
    #[arg(long, value_name = "COLUMN", requires = "from")]
    target: Option<String>,
    /// For a net that a program of yours trains (docs/trainer.md).
    #[arg(long, conflicts_with = "model")]
    trainer: bool,
    /// Begin with the weights of a model: a safetensors file, or the home of a run that has one.
    #[arg(long, value_name = "FILE | HOME")]
    model: Option<PathBuf>,
    /// The run file whose net the weights are of, and which all else is taken from; not needed for a home or an export.
    #[arg(long, value_name = "RUN.toml", requires = "model")]
    like: Option<PathBuf>,
    /// With --like: tensors that are drawn anew from the seed, for instance "linear1.*" for a head of other classes; may be
    /// given several times.
    #[arg(long, value_name = "NAME", requires = "like")]
    fresh: Vec<String>,
}

pub(super) fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let (mut found, mut weights) = (Vec::new(), options.model.clone());
    let text = match &options.model {
        None if options.from.is_some() => {
            let from = options.from.as_deref().unwrap_or(Path::new("."));
            let (text, told) = fitting(from, options.target.as_deref())?;
            found = told;
            text
        }
        Some(model) => {
            let (text, anew) = on_from(model, options.like.as_deref(), &options.fresh)?;
            if let Some(bytes) = anew {
                // Nobody else has what was drawn just now.
                let path = options.file.with_extension("safetensors");
                if let Some(there) = [&path, &options.file].into_iter().find(|path| path.exists()) {
                    let there = there.display();
                    return Err(CliError::bad_input(anyhow!("{there} exists and is left alone; give another name")));
                }
                files::write_whole(&path, &bytes).with_context(|| format!("{} can't be written", path.display()))?;
                weights = Some(path);
            }
            text
        }
        None if options.trainer => run_file::template(&[("model", "arch", quoted("trainer"))]),
        None => run_file::template(&[]),
    };
    let file = &options.file;
    let name = file.display();
    let mut out = match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(CliError::bad_input(anyhow!("{name} exists and is left alone; give another name")));
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("{name} can't be written")).into()),
    };
    out.write_all(text.as_bytes()).with_context(|| format!("{name} can't be written"))?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "wrote": file, "found": found, "weights": weights }))?,
        Format::Text => {
            found.iter().for_each(|line| print(line));
            if let Some(from) = &options.from {
                let (file, data) = (in_shell(&name.to_string()), in_shell(&from.display().to_string()));
                print(&format!("What it costs here: paceline check {file} --data {data}"));
                print(&format!("Wrote {name}. Edit it, then: paceline join {file} --data {data}"));
                return Ok(());
            }
            let file = in_shell(&name.to_string());
            print(&match &weights {
                None => format!("Wrote {name}. Edit it, then: paceline join {file}"),
                Some(weights) => format!(
                    "Wrote {name}. Edit it, then on one machine: paceline join {file} --model {}\nThe others fetch the weights: paceline join {file}",
                    in_shell(&weights.display().to_string())
                ),
            });
        }
    }
    Ok(())
}

/// A run file for the data there, and what was found.
fn fitting(from: &Path, target: Option<&str>) -> Result<(String, Vec<String>), CliError> {
    let (mut given, found) = match (from.is_dir(), target) {
        (false, target) => fitting_table(from, target)?,
        (true, target) if from.join("train.csv").is_file() => fitting_table(&from.join("train.csv"), target)?,
        (true, None) => fitting_folder(from)?,
        (true, Some(_)) => {
            let error = anyhow!("--target goes with a table, and {} is a folder: give the file", from.display());
            return Err(CliError::bad_input(error));
        }
    };
    given.push(("run", "name", quoted(&run_name(from))));
    // Files and columns may be called anything; a comment ends where its line does.
    let comment = |line: &str| format!("# {}\n", line.replace(|c: char| c.is_control(), " "));
    let made_for = comment(&format!("Made for {}:", from.display()));
    let comments: String = found.iter().map(|line| comment(line)).collect();
    let text = format!("{made_for}{comments}\n{}", run_file::template(&given));
    // What is written works: there may be names that no run file has.
    let parsed = run_file::parse(&text, "the run file for these data").map_err(CliError::bad_input)?;
    Plan::of(&parsed).map_err(CliError::bad_input)?;
    Ok((text, found))
}

/// A run's name after a file or a folder.
fn run_name(from: &Path) -> String {
    let name = from.file_stem().unwrap_or_default().to_string_lossy();
    let plain = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c));
    let name: String = plain.take(NAME_BYTES_MAX).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { "my-data".to_owned() }
}

/// Keys of a run file, with their values, and what was found, in sentences.
type Fitting = (Vec<(&'static str, &'static str, String)>, Vec<String>);

fn fitting_table(from: &Path, target: Option<&str>) -> Result<Fitting, CliError> {
    let look = look_at_table(from, target).map_err(CliError::bad_input)?;
    let mut given = vec![
        ("model", "arch", quoted("table-mlp")),
        ("data", "dataset", quoted("table")),
        ("data", "target", run_file::column(&look.target)),
        ("data", "columns", run_file::columns(&look.columns)),
        ("data", "holdout", "0.2".to_owned()),
        ("train", "momentum", "0.9".to_owned()),
    ];
    if look.rows < FEW_EXAMPLES {
        // Three nodes share them, and a fifth is held out.
        let batch = (look.rows / 5).clamp(1, 10);
        given.extend([("train", "batch", batch.to_string()), ("train", "lr", "0.01".to_owned())]);
    }
    if matches!(look.target.kind, ColumnKind::Number { .. }) {
        given.extend([("metrics", "lead", quoted(MEAN_ERROR)), ("metrics", "better", quoted("lower"))]);
    }
    Ok((given, words::looked_at_table(&look)))
}

fn fitting_folder(from: &Path) -> Result<Fitting, CliError> {
    let look = look_at_folder(from).map_err(CliError::bad_input)?;
    let (width, height) = look.middle;
    let channels = if look.is_grey { 1 } else { 3 };
    // Nets on CPUs see small pictures; what is smaller still, or of one size that is small, stays as it is.
    let size = match look.is_uniform && width.max(height) <= SIDE_MAX {
        true => [height, width],
        false => [if width.min(height) < SIDE_MAX { SIDE_SMALL } else { SIDE_MAX }; 2],
    };
    let [height, width] = size;
    let classes: Vec<String> = look.classes.iter().map(|(name, _)| quoted(name)).collect();
    let images: usize = look.classes.iter().map(|(_, count)| count).sum();
    let mut given = vec![
        ("model", "arch", quoted("resnet8")),
        ("data", "dataset", quoted("folder")),
        ("data", "classes", format!("[{}]", classes.join(", "))),
        ("data", "image", format!("[{channels}, {height}, {width}]")),
        ("train", "lr", "0.1".to_owned()),
    ];
    if !(look.is_uniform && [height, width] == [look.middle.1, look.middle.0]) {
        given.push(("data", "fit", quoted("crop")));
    }
    if images < FEW_EXAMPLES {
        given.push(("train", "batch", "10".to_owned()));
    }
    Ok((given, words::looked_at_folder(&look)))
}

/// The run file of a run that begins with the weights of a model; and the file of these, where some of them are new.
fn on_from(from: &Path, like: Option<&Path>, fresh: &[String]) -> Result<(String, Option<Vec<u8>>), CliError> {
    let bad = |error: anyhow::Error| CliError::bad_input(error.context(from.display().to_string()));
    let is_export = || ModelFile::read(from).map(|file| file.about.is_some());
    let mut anew = None;
    let (source, mut run_file, weights) = match like {
        None if from.is_dir() || is_export().map_err(CliError::bad_input)? => {
            let trained = Trained::open(from).map_err(CliError::bad_input)?;
            let source = format!("the model after round {} of {}", trained.about.round, trained.about.run);
            let mut run_file = trained.run_file.clone();
            if *run_file.learning.model.net() == Net::Trainer {
                run_file.learning.model.tensors = Some(trained.layout.clone());
            }
            (source, run_file, trained.weights)
        }
        None => foreign(from).map_err(bad)?,
        Some(like) => {
            let run_file = read_run_file(like)?;
            let weights = match run_file.learning.model.net() {
                Net::Trainer => return Err(bad(anyhow!("--like is for nets that a run file describes: leave it out"))),
                Net::Preset(_) | Net::Layers(_) => {
                    let plan = Plan::of(&run_file).map_err(|error| at_fault(error, like))?;
                    let file = likened(from, &plan, fresh).map_err(bad)?;
                    if !fresh.is_empty() {
                        anew = Some(model_file::serialized(&file.tensors, None)?);
                    }
                    file.of_net(&plan.spec).map_err(bad)?
                }
            };
            (format!("the weights in {}", from.display()), run_file, weights)
        }
    };
    run_file.learning.model.weights = Some(Manifest::of(&weights).blob().id);
    // What is in it must be a run file, whatever the tensors are called.
    run_file::parse(&run_file.canonical(), "the new run file").map_err(|error| bad(error.into()))?;
    let text = format!(
        "# This run begins with {source}. Give it a name and rounds of its own, and change what you like. The\n\
         # node that has the weights joins with --model, the others fetch them. `trainable` in [model] says which tensors are\n\
         # trained; without it all are.\n\n{}",
        run_file.canonical()
    );
    Ok((text, anew))
}

/// The tensors of a net, of a model whose other tensors are the same; those that are called so are drawn anew.
fn likened(from: &Path, plan: &Plan, fresh: &[String]) -> anyhow::Result<ModelFile> {
    let mut file = match from.is_dir() {
        true => Trained::open(from)?.as_file()?,
        false => ModelFile::read(from)?,
    };
    if !fresh.is_empty() {
        let fresh = Trainable::new(fresh.to_vec());
        let drawn = torch::tensors(&plan.spec, &plan.drawn_weights()?)?;
        let anew: Vec<TorchTensor> = drawn.into_iter().filter(|tensor| fresh.has(&tensor.name)).collect();
        if anew.is_empty() {
            bail!("--fresh {} names none of the net's tensors", fresh.patterns().join(" "));
        }
        file.tensors.retain(|tensor| !fresh.has(&tensor.name));
        file.tensors.extend(anew);
    }
    Ok(file)
}

/// A run whose net is a trainer's, with the tensors of a file that says nothing of itself.
fn foreign(from: &Path) -> anyhow::Result<(String, RunFile, Vec<u8>)> {
    let (layout, weights) = ModelFile::read(from)?.all()?;
    let text = run_file::template(&[("model", "arch", quoted("trainer"))]);
    let mut run_file = run_file::parse(&text, "the template")?;
    run_file.learning.model.tensors = Some(layout);
    Ok((format!("the weights in {}", from.display()), run_file, weights))
}

/// A path as a shell takes it.
fn in_shell(path: &str) -> String {
    shlex::try_quote(path).map_or_else(|_| path.to_owned(), |quoted| quoted.into_owned())
}
