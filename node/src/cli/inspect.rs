//! The commands that look at a node, `status`, `peers` and `ticket`, and those that ask it for something, `leave`,
//! `pause` and `resume`.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::anyhow;
use paceline_protocol::io::State;

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::shutdown::shutdown;
use super::target::Target;
use super::watch;
use crate::inspect::Resumed;
use crate::report::{Status, name_or_id};
use crate::ui::{log, screen, status, table};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn status(target: &Target, format: Format, watch: bool, plain: bool) -> Result<(), CliError> {
    if watch && format == Format::Text && screen::is_possible(plain) {
        let target = target.clone();
        return tokio::select! {
            shown = tokio::task::spawn_blocking(move || watch::node(&target)) => shown?,
            () = shutdown(false)? => Ok(()),
        };
    }
    let mut is_first = true;
    loop {
        match fetch_status(target) {
            Ok(status) if format == Format::Json => print_json(&status)?,
            Ok(status) => print(&status::status(&status)),
            // Who watches goes on while a node starts again.
            Err(CliError { error, .. }) if watch && !is_first => tracing::warn!("{error:#}"),
            Err(error) => return Err(error),
        }
        if !watch {
            return Ok(());
        }
        is_first = false;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn fetch_status(target: &Target) -> Result<Status, CliError> {
    Ok(target.node()?.status()?)
}

pub(super) fn peers(target: &Target, format: Format) -> Result<(), CliError> {
    let peers = target.node()?.peers()?;
    match format {
        Format::Json => print_json(&peers)?,
        Format::Text => print(&table::peers(&peers).to_string()),
    }
    Ok(())
}

pub(super) fn ticket(target: &Target, format: Format) -> Result<(), CliError> {
    let node = target.node()?;
    let ticket = node.ticket()?;
    if !node.is_running() {
        tracing::warn!("this node does not run: the ticket leads to others that it knows, if they are up");
    }
    match format {
        Format::Json => print_json(&serde_json::json!({ "ticket": ticket }))?,
        Format::Text => print(&ticket),
    }
    Ok(())
}

pub(super) fn leave(target: &Target, yes: bool, format: Format) -> Result<(), CliError> {
    let node = target.node()?;
    let status = node.status()?;
    if status.state == State::Finished.name() {
        return Err(CliError::failed(anyhow!("the run is over: there is no roster to leave; Ctrl-C stops the node")));
    }
    if !yes && !std::io::stdin().is_terminal() {
        return Err(CliError::usage(anyhow!("leaving is for good, and there is no terminal to ask at: say --yes")));
    }
    if !yes && !confirms(&status)? {
        return Err(CliError::failed(anyhow!("nothing was done: the node stays on the roster")));
    }
    node.leave()?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "leaving": true }))?,
        Format::Text => print("The node leaves with the next record, and ends when the others can do without it."),
    }
    Ok(())
}

/// Asks whoever sits at the terminal.
fn confirms(status: &Status) -> Result<bool, CliError> {
    let (me, run) = (name_or_id(&status.name, &status.node_id), &status.run_name);
    log::say(format_args!(
        "{me} would come off the roster of {run} for good: to take part again it needs another home, as another node. To stop it \
         for a while, Ctrl-C is enough. Leave? [y/N]"
    ));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(anyhow::Error::from)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

pub(super) fn pause(target: &Target, format: Format) -> Result<(), CliError> {
    target.node()?.pause()?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "paused": true }))?,
        Format::Text => print("The node trains nothing until `paceline resume`; it votes and serves as before."),
    }
    Ok(())
}

pub(super) fn resume(target: &Target, format: Format) -> Result<(), CliError> {
    let resumed = target.node()?.resume()?;
    match format {
        Format::Json => print_json(&match resumed {
            Resumed::Node => serde_json::json!({ "paused": false }),
            Resumed::Run => serde_json::json!({ "resuming": true }),
        })?,
        Format::Text => print(match resumed {
            Resumed::Node => "The node trains again, within its --hours if it has any.",
            Resumed::Run => "The run goes on as soon as a quorum of its members is there.",
        }),
    }
    Ok(())
}
