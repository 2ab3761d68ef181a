//! `paceline runs`: the runs of this machine, and those that are seen on the LAN.

use std::time::Duration;

use clap::Args;
use paceline_bootstrap::discover_runs;

use super::error::CliError;
use super::output::{Format, print, print_json};
use crate::inspect::{self, Node};
use crate::report::{HomeLine, SeenLine};
use crate::store::Home;
use crate::ui::table;

/// How long runs are looked for on the LAN.
const LAN_WAIT: Duration = Duration::from_secs(2);

/// What is listed.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// List this machine's homes alone.
    #[arg(long)]
    no_lan: bool,
}

pub(super) async fn run(options: &Options, format: Format) -> Result<(), CliError> {
    let homes: Vec<HomeLine> = Home::all().into_iter().filter_map(line).collect();
    let seen = match options.no_lan {
        true => Vec::new(),
        false => discover_runs(&[], true, LAN_WAIT).await?,
    };
    let seen = seen.into_iter().map(|run| SeenLine { run: run.name, run_id: run.run.to_string(), nodes: run.nodes });
    let seen: Vec<SeenLine> = seen.collect();
    match format {
        Format::Json => print_json(&serde_json::json!({ "homes": homes, "seen": seen }))?,
        Format::Text => {
            match homes.is_empty() {
                true => print("No node was ever started here."),
                false => print(&table::homes(&homes).to_string()),
            }
            if !options.no_lan {
                match seen.is_empty() {
                    true => print("No run is seen on the LAN."),
                    false => print(&format!("On the LAN:\n{}", table::seen(&seen))),
                }
            }
        }
    }
    Ok(())
}

fn line(home: Home) -> Option<HomeLine> {
    let run_file = inspect::run_file(&home).ok()?;
    let dir = home.dir().display().to_string();
    let status = Node::of(home).and_then(|node| node.status()).ok();
    Some(HomeLine { home: dir, run: run_file.run.name.clone(), run_id: run_file.run_id().to_string(), status })
}
