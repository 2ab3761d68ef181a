//! Which node a command is about.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::error::CliError;
use crate::inspect::Node;
use crate::store::Home;

/// Which node a command asks.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The node's home; not needed where there is one alone.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Or the address of its control API, for instance http://127.0.0.1:4100
    #[arg(long, value_name = "URL", conflicts_with = "home")]
    node: Option<String>,
}

impl Target {
    /// The node, whether it runs or not.
    pub(super) fn node(&self) -> Result<Node, CliError> {
        match &self.node {
            Some(url) => Node::at(url).map_err(CliError::not_found),
            None => Ok(Node::of(find_home(self.home.as_deref())?)?),
        }
    }
}

/// The home that is meant: the one given, or the only one there is.
pub(super) fn find_home(given: Option<&Path>) -> Result<Home, CliError> {
    if let Some(dir) = given {
        let home = Home::at(dir);
        if !home.run_file().exists() {
            return Err(CliError::not_found(anyhow!("{} is no home of a node: it has no run.toml", dir.display())));
        }
        return Ok(home);
    }
    match Home::all().as_slice() {
        [home] => Ok(home.clone()),
        [] => Err(CliError::not_found(anyhow!(
            "no node was ever started here; begin with `paceline join`, or give --home or --node"
        ))),
        several => {
            let names: Vec<String> = several.iter().map(|home| home.dir().display().to_string()).collect();
            Err(CliError::not_found(anyhow!(
                "there is more than one home; give one of them with --home: {}",
                names.join(", ")
            )))
        }
    }
}
