//! What a node shows while it runs: one line a phase, and on a terminal a bar while it trains.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use paceline_protocol::machine::Event;
use tokio::sync::broadcast::error::RecvError;
use tracing_subscriber::EnvFilter;

use crate::driver::Shared;

/// How often the bar moves.
const BAR: Duration = Duration::from_millis(200);

/// Sets up logging on stderr. `RUST_LOG` has the last word.
pub(crate) fn log(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,paceline=info",
        (false, 1) => "info,paceline=debug,paceline_bootstrap=debug",
        (false, _) => "debug,paceline=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .init();
}

/// Shows what happens until the node ends.
pub(crate) async fn follow(shared: Arc<Shared>, quiet: bool) {
    let terminal = std::io::stderr().is_terminal() && !quiet;
    let bar = ProgressBar::with_draw_target(
        None,
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    if let Ok(style) = ProgressStyle::with_template("  {msg:12} {bar:32} {pos}/{len} batches, {eta} left") {
        bar.set_style(style);
    }
    let mut events = shared.events();
    let progress = shared.progress();
    let mut tick = tokio::time::interval(BAR);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    if let Some(line) = line(&shared, &event) {
                        if terminal { bar.suspend(|| eprintln!("{line}")) } else { tracing::info!("{line}") }
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick(), if terminal => {
                let now = *progress.borrow();
                if now.of == 0 {
                    bar.set_draw_target(ProgressDrawTarget::hidden());
                } else {
                    if bar.is_hidden() {
                        bar.set_draw_target(ProgressDrawTarget::stderr());
                        bar.reset();
                    }
                    bar.set_length(now.of);
                    bar.set_position(now.done);
                    bar.set_message(if now.evaluating { "evaluating".to_owned() } else { format!("loss {:.3}", now.loss) });
                }
            }
        }
    }
}

/// An event in words; `None` for those that are of interest to programs alone.
fn line(shared: &Shared, event: &Event) -> Option<String> {
    let name = |node: &paceline_protocol::NodeId| {
        let id = node.to_string();
        let roster = shared.status().map(|s| s.roster).unwrap_or_default();
        roster.into_iter().find(|m| m.node_id == id && !m.name.is_empty()).map_or_else(|| node.short(), |m| m.name)
    };
    Some(match event {
        Event::FoundingBegun { members, .. } => format!("proposes to found the run with {members} nodes"),
        Event::FoundingAborted { .. } => "the founding came to nothing; looks for nodes again".to_owned(),
        Event::Founded { genesis, members } => {
            format!("the run begins with {members} nodes, chain {}", genesis.short())
        }
        Event::Elected { ballot } => format!("round {}: coordinates attempt {}", ballot.round, ballot.attempt),
        Event::Following { ballot, coordinator } => {
            format!("round {}: {} coordinates attempt {}", ballot.round, name(coordinator), ballot.attempt)
        }
        Event::AttemptOver { ballot, why } => {
            format!("round {}: attempt {} is over: {why}", ballot.round, ballot.attempt)
        }
        Event::UpdateIn { ballot, node } => format!("round {}: the update of {} is in", ballot.round, name(node)),
        Event::Committed { round, model, .. } => format!("round {round}: committed, model {}", model.id.short()),
        Event::Liar { node } => format!("{} signed two answers for one ballot and will be evicted", name(node)),
        Event::Fork { genesis } => format!("another chain of this run was seen: {genesis}"),
        Event::Joined { round } => format!("is on the roster from round {round} on"),
        Event::TrainingFailed { round, why } => format!("round {round}: training failed here: {why}"),
        Event::Left => "is off the roster".to_owned(),
        Event::Evicted => "was taken off the roster; joins again".to_owned(),
        Event::Finished => "the run is over".to_owned(),
        Event::DiskFailed => "the disk fails: this node can't vote or accept; make room or look at the disk".to_owned(),
        Event::Accepted { .. } | Event::Rejected { .. } => return None,
    })
}
