//! Which node a command is about.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::anyhow;
use clap::Args;

use super::error::CliError;
use crate::inspect::{self, Node};
use crate::store::Home;

/// Which home a command is about.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct HomeChoice {
    /// The node's home [default: of the node that runs, else of the run that was active last].
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Or the name of its run, as `paceline runs` lists them.
    #[arg(long = "run", id = "run_name", value_name = "NAME", conflicts_with = "home")]
    run: Option<String>,
}

/// Which node a command asks.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    #[command(flatten)]
    choice: HomeChoice,
    /// Or the address of its control API, for instance http://127.0.0.1:4100
    #[arg(long, value_name = "URL", conflicts_with_all = ["home", "run_name"])]
    node: Option<String>,
}

impl Target {
    /// The node, whether it runs or not.
    pub(super) fn node(&self) -> Result<Node, CliError> {
        match &self.node {
            // As HOME/http has it.
            Some(address) if !address.contains("://") => {
                Node::at(&format!("http://{address}")).map_err(CliError::not_found)
            }
            Some(url) => Node::at(url).map_err(CliError::not_found),
            None => Ok(Node::of(self.choice.find()?)?),
        }
    }
}

impl HomeChoice {
    /// Whether somebody said which.
    pub(super) fn is_given(&self) -> bool {
        self.home.is_some() || self.run.is_some()
    }

    /// The home that is meant: the one given, or the likeliest.
    pub(super) fn find(&self) -> Result<Home, CliError> {
        match &self.home {
            Some(dir) => given_home(dir),
            None => likeliest(self.run.as_deref(), Home::is_running),
        }
    }
}

/// A home that somebody names.
fn given_home(dir: &Path) -> Result<Home, CliError> {
    let home = Home::at(dir);
    match home.run_file().exists() {
        true if dir.join("rounds.jsonl").exists() => Err(CliError::not_found(anyhow!(
            "{0} is the folder of a simulation, whose rounds are in {0}/rounds.jsonl; `paceline compare` takes it as it is",
            dir.display()
        ))),
        true => Ok(home),
        false if home.is_running() => Ok(home),
        false => Err(CliError::not_found(anyhow!("{} is no home of a node: it has no run.toml", dir.display()))),
    }
}

/// Of the homes in the usual folder, of runs of this name if one is given, the one that is preferred, and of several the one
/// that was used last. Where there was a choice it says which.
pub(super) fn likeliest(run: Option<&str>, is_preferred: impl Fn(&Home) -> bool) -> Result<Home, CliError> {
    let all = Home::all();
    let is_meant = |home: &&Home| run.is_none_or(|name| is_called(home, name));
    let mut homes: Vec<&Home> = all.iter().filter(is_meant).collect();
    homes.sort_by_key(|home| (is_preferred(home), last_used(home)));
    let Some(home) = homes.last() else {
        return Err(CliError::not_found(match run {
            Some(name) if !all.is_empty() => {
                anyhow!("no node of a run called {name} was ever started here; `paceline runs` lists those that were")
            }
            _ => anyhow!("no node was ever started here; begin with `paceline join`, or give --home or --node"),
        }));
    };
    if homes.len() > 1 {
        tracing::info!("of {} homes: {}; another with --run or --home", homes.len(), home.dir().display());
    }
    Ok((*home).clone())
}

/// The home of a run by its name, the one that was used last.
pub(super) fn home_of_run(name: &Path) -> Option<Home> {
    let name = name.to_str()?;
    Home::all().into_iter().filter(|home| is_called(home, name)).max_by_key(last_used)
}

/// Whether a home's folder or its run has this name.
fn is_called(home: &Home, name: &str) -> bool {
    let folder = home.dir().file_name().and_then(|folder| folder.to_str()).unwrap_or_default();
    // Before its first start a home has its folder's name alone: NAME-ID.
    let is_usual = folder.rsplit_once('-').is_some_and(|(run, _)| run == name) && !home.run_file().exists();
    folder == name || is_usual || inspect::run_file(home).is_ok_and(|run_file| run_file.run.name == name)
}

/// When a home's node was there last: of files that nobody writes who only looks.
fn last_used(home: &Home) -> SystemTime {
    let written = |path: PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    let all = [home.run_file(), home.options(), home.peers(), home.ports(), home.http()];
    all.into_iter().filter_map(written).max().unwrap_or(SystemTime::UNIX_EPOCH)
}
