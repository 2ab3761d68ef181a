//! What a node shows while it runs: a line for each thing that happens, and on a terminal a bar while it trains.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use paceline_protocol::io::Event;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

use super::bar::{self, TrainingBar};
use super::{status, words};
use crate::driver::NodeState;
use crate::report::{Status, Training, short_id};

/// How often it is looked for what no event tells.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Lines about newcomers at most, of which each comes once.
const NEWCOMERS_MAX: usize = 256;

/// Shows what happens until the node ends. Without a bar, since a screen is there, each line goes to the log alone.
/// Whether it `serves_on` when the run is over: else its end says what that came to.
pub(crate) async fn follow(node_state: Arc<NodeState>, with_bar: bool, serves_on: bool) {
    let on_terminal = with_bar;
    let bar = TrainingBar::hidden();
    let mut events = node_state.events();
    let progress = node_state.progress();
    let mut tick = tokio::time::interval(bar::INTERVAL);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    let say = |line: &str| match on_terminal {
        true => bar.suspend(|| tracing::info!("{line}")),
        false => tracing::info!("{line}"),
    };
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => line(&event, &node_state, serves_on).iter().for_each(|line| say(line)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => {
                if let Some(status) = node_state.status() {
                    told.news(&status).iter().for_each(|line| say(line));
                }
            }
            _ = tick.tick(), if on_terminal => bar.show(Training::of(*progress.borrow())),
        }
    }
}

/// An event in a line; nothing of those that are for programs, and of rounds that others had before this node.
fn line(event: &Event, node_state: &NodeState, serves_on: bool) -> Option<String> {
    let roster = || node_state.status().map(|status| status.roster).unwrap_or_default();
    let status = || node_state.status();
    match event {
        // Behind the last round there is one for the end.
        Event::Elected { .. } | Event::CoordinatorSeen { .. } | Event::AttemptOver { .. }
            if status().is_some_and(|s| s.trained >= s.rounds || s.ends_by.is_some()) =>
        {
            return None;
        }
        Event::Finished { complete: true } if serves_on => {
            let status = status();
            let outcome = words::outcome(&node_state.rounds(), &node_state.info().metrics, status.as_ref());
            let best = words::best_option(status.as_ref());
            return Some(format!("{outcome}. It goes on serving the others; the model: paceline model export{best}"));
        }
        _ => {}
    }
    let Event::Committed { round, .. } = event else { return words::event(event, roster) };
    let rounds = node_state.rounds();
    let place = rounds.iter().rposition(|shown| shown.round == *round)?;
    let is_last = place + 1 == rounds.len();
    let (before, in_all) = (place.checked_sub(1).and_then(|i| rounds.get(i)), node_state.rounds_in_all());
    is_last.then(|| {
        words::committed_round(&rounds[place], before, in_all, |id| {
            status().map_or_else(|| short_id(id), |s| s.name_of(id))
        })
    })
}

/// What was told that no event tells.
#[derive(Debug, Default)]
struct Told {
    reason: Option<String>,
    /// What was the reason at the look before: one that goes by at once is not told.
    seen: Option<String>,
    newcomers: BTreeSet<String>,
}

impl Told {
    /// What is new: why a node waits before its run has begun, and who may not come.
    fn news(&mut self, status: &Status) -> Vec<String> {
        let mut lines = Vec::new();
        let reason = status.reason.clone().filter(|_| ["gathering", "joining"].contains(&status.state.as_str()));
        if reason != self.reason && reason == self.seen {
            lines.extend(reason.clone());
            self.reason.clone_from(&reason);
        }
        self.seen = reason;
        for newcomer in status.newcomers.iter().filter(|n| n.refused.is_some()) {
            let line = status::newcomer(newcomer);
            if self.newcomers.len() < NEWCOMERS_MAX && self.newcomers.insert(line.clone()) {
                lines.push(line);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::NewcomerStatus;

    #[test]
    fn a_reason_to_wait_and_a_refused_newcomer_are_told_once() {
        let (node_id, name, part) = ("x".to_owned(), "pc6".to_owned(), None);
        let refused = Some("the part is taken".to_owned());
        let mut status = Status {
            state: "gathering".to_owned(),
            reason: Some("1 of the 3 nodes that the run needs are here".to_owned()),
            newcomers: vec![NewcomerStatus { node_id, name, part, refused }],
            ..Status::default()
        };
        let mut told = Told::default();
        assert_eq!(told.news(&status), ["pc6 wants to join and can't: the part is taken"], "a reason may go by");
        assert_eq!(told.news(&status), ["1 of the 3 nodes that the run needs are here"]);
        assert!(told.news(&status).is_empty());
        status.reason = Some("2 of the 3 nodes that the run needs are here".to_owned());
        assert!(told.news(&status).is_empty());
        assert_eq!(told.news(&status).len(), 1);
        status.state = "member".to_owned();
        assert!(told.news(&status).is_empty(), "while it takes part, status says what it waits for");
    }
}
