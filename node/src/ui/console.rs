//! What a node shows while it runs: a line for each event, and on a terminal a bar while it trains.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;

use super::bar::{self, TrainingBar};
use super::{log, words};
use crate::driver::NodeState;
use crate::report::Training;

/// Shows what happens until the node ends.
pub(crate) async fn follow(node_state: Arc<NodeState>, quiet: bool) {
    let on_terminal = bar::is_shown(quiet);
    let bar = TrainingBar::hidden();
    let mut events = node_state.events();
    let progress = node_state.progress();
    let mut tick = tokio::time::interval(bar::INTERVAL);
    let roster = || node_state.status().map(|status| status.roster).unwrap_or_default();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => match words::event(&event, roster) {
                    Some(line) if on_terminal => bar.suspend(|| log::say(format_args!("{line}"))),
                    Some(line) => tracing::info!("{line}"),
                    None => {}
                },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick(), if on_terminal => bar.show(Training::of(*progress.borrow())),
        }
    }
}
