//! `paceline doctor`: what would stop a run, and the fix.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use paceline_bootstrap::{Address, Ticket};

use super::error::CliError;
use super::join::{JoinOptions, looks_like_ticket, usual_home};
use super::output::{Format, print, print_json};
use super::run_file::read_run_file;
use super::target::HomeChoice;
use crate::doctor::{Level, Patient, examine};
use crate::inspect::{self, Node};
use crate::store::known_addresses;
use crate::ui::words;

/// What is looked at.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A run file that is to be run here, or a ticket; by default the run of the home.
    #[arg(value_name = "RUN.toml | TICKET", conflicts_with_all = ["home", "run_name"])]
    target: Option<String>,
    #[command(flatten)]
    choice: HomeChoice,
    /// The data, where the home does not know them.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// An address to try, host:port or a multiaddr; may be given several times.
    #[arg(long, value_name = "ADDR")]
    peer: Vec<Address>,
    /// Don't look for nodes on the LAN.
    #[arg(long)]
    no_mdns: bool,
}

pub(super) async fn run(options: Options, format: Format) -> Result<(), CliError> {
    let mut patient = Patient { mdns: !options.no_mdns, asked: Address::all(&options.peer), ..Patient::default() };
    let home = match options.target.as_deref() {
        Some(text) if looks_like_ticket(text) => {
            let ticket: Ticket = text.parse().map_err(CliError::bad_input)?;
            patient.asked.extend(ticket.addresses);
            None
        }
        Some(file) => {
            let run_file = read_run_file(file.as_ref())?;
            // Where `join` would have it.
            let home = usual_home(&run_file.run.name, run_file.run_id())?;
            patient.run_file = Some(run_file);
            Some(home)
        }
        None if options.choice.is_given() => Some(options.choice.find()?),
        // Without any home the machine alone is looked at.
        None => options.choice.find().ok(),
    };
    if let Some(home) = home {
        if patient.run_file.is_none() {
            patient.run_file = Some(inspect::run_file(&home).map_err(CliError::bad_input)?);
        }
        patient.peers = known_addresses(&home);
        if home.run_file().exists() {
            let mut join = JoinOptions::default();
            join.recall(&home)?;
            join.examined(&mut patient)?;
            let roster = Node::of(home.clone()).and_then(|node| node.status()).map(|status| status.roster);
            patient.names = roster.unwrap_or_default().into_iter().map(|m| (m.node_id, m.name)).collect();
        }
        patient.home = Some(home);
    }
    patient.data = options.data.or(patient.data);
    let findings = examine(patient).await?;
    match format {
        Format::Json => findings.iter().try_for_each(print_json)?,
        Format::Text => print(&words::findings(&findings)),
    }
    match findings.iter().filter(|finding| finding.level == Level::Problem).count() {
        0 => Ok(()),
        1 => Err(CliError::failed(anyhow!("1 problem was found"))),
        count => Err(CliError::failed(anyhow!("{count} problems were found"))),
    }
}
