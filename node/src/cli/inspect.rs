//! The commands that look at a node, `status`, `rounds`, `peers` and `ticket`, and those that ask it for something, `leave`
//! and `resume`.

use std::io::IsTerminal;
use std::time::Duration;

use super::error::CliError;
use super::output::{Format, print, print_json};
use super::target::Target;
use crate::report::Status;
use crate::ui::{status, table};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn status(target: &Target, format: Format, watch: bool) -> Result<(), CliError> {
    let clear = if watch && std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let status = fetch_status(target)?;
        match format {
            Format::Json => print_json(&status)?,
            Format::Text => print(&format!("{clear}{}", status::status(&status))),
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn fetch_status(target: &Target) -> Result<Status, CliError> {
    Ok(target.node()?.status()?)
}

pub(super) fn rounds(target: &Target, format: Format) -> Result<(), CliError> {
    let rounds = target.node()?.rounds()?;
    match format {
        Format::Json => rounds.iter().try_for_each(print_json)?,
        Format::Text if rounds.is_empty() => print("No round is committed yet."),
        Format::Text => print(&table::rounds(&rounds).to_string()),
    }
    Ok(())
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
    let ticket = target.node()?.ticket()?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "ticket": ticket }))?,
        Format::Text => print(&ticket),
    }
    Ok(())
}

pub(super) fn leave(target: &Target, format: Format) -> Result<(), CliError> {
    target.node()?.leave()?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "leaving": true }))?,
        Format::Text => print("The node leaves with the next record, and ends when the others can do without it."),
    }
    Ok(())
}

pub(super) fn resume(target: &Target, format: Format) -> Result<(), CliError> {
    target.node()?.resume()?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "resuming": true }))?,
        Format::Text => print("The run goes on as soon as a quorum of its members is there."),
    }
    Ok(())
}
