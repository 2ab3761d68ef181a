//! The live screen over a node of another process, and over one of this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::CliError;
use super::target::Target;
use crate::driver::NodeState;
use crate::inspect::Node;
use crate::report::{Figure, LastCommit, Round, Status};
use crate::store::Home;
use crate::ui::screen::{self, Ended, Snapshot};
use crate::ui::{log, status, words};

/// Lines of the past that a screen begins with.
const EVENTS: usize = 100;

/// Shows the node that is meant until somebody quits. A node that stops meanwhile is shown as what it has become.
pub(super) fn node(target: &Target) -> Result<(), CliError> {
    let (mut node, target) = (target.node()?, target.clone());
    let mut rounds = Rounds::default();
    let look = move || {
        let found = rounds.snapshot(&node);
        if found.is_err() {
            // It may have stopped, or started again at another port.
            node = target.node().map_err(|error| error.error)?;
        }
        found.map(Some)
    };
    screen::show(look, "quit")?;
    Ok(())
}

/// The rounds of a node of another process, which are asked for only when there is news of them.
#[derive(Default)]
struct Rounds {
    known: Arc<Vec<Round>>,
    /// The last commit and evaluation that they know of.
    of: Option<(Option<LastCommit>, Option<Figure>)>,
}

impl Rounds {
    /// What the node tells.
    fn snapshot(&mut self, node: &Node) -> anyhow::Result<Snapshot> {
        let status = node.status()?;
        let of = Some((status.last_commit.clone(), status.evaluated.clone()));
        if self.of != of {
            (self.known, self.of) = (Arc::new(node.rounds()?), of);
        }
        let mut events = history(&status, &self.known);
        events.extend(status.newcomers.iter().map(status::newcomer));
        Ok(Snapshot { status: Some(status), rounds: self.known.clone(), events, trouble: None })
    }
}

/// The last rounds as lines.
fn history(status: &Status, rounds: &[Round]) -> Vec<String> {
    let name = |id: &str| status.name_of(id);
    let line = |place: usize| {
        let before = place.checked_sub(1).and_then(|before| rounds.get(before));
        words::committed_round(&rounds[place], before, status.rounds, name)
    };
    (rounds.len().saturating_sub(EVENTS)..rounds.len()).map(line).collect()
}

/// Shows a node of this process until somebody quits or it `is_over`. Ctrl-C stops the process as it does without a screen.
pub(super) async fn own(node_state: Arc<NodeState>, is_over: Arc<AtomicBool>) -> anyhow::Result<Ended> {
    let shown = tokio::task::spawn_blocking(move || {
        let look = move || {
            let (status, rounds) = (node_state.status(), node_state.rounds());
            let events = log::last_lines();
            let is_over = is_over.load(Ordering::SeqCst);
            Ok((!is_over).then_some(Snapshot { status, rounds, events, trouble: None }))
        };
        screen::show(look, "leave the screen; the node goes on, and Ctrl-C stops it")
    });
    let ended = shown.await??;
    if ended == Ended::Interrupted {
        super::shutdown::interrupt();
    }
    Ok(ended)
}

/// Shows a node of a demo until somebody quits or the demo `is_over`.
pub(super) fn demo(home: &Path, is_over: Arc<AtomicBool>) -> anyhow::Result<Ended> {
    let (mut last, mut rounds, home) = (Snapshot::default(), Rounds::default(), Home::at(home));
    let look = move || {
        if is_over.load(Ordering::SeqCst) {
            return Ok(None);
        }
        // Its node may just be starting, or ending.
        last = Node::of(home.clone()).and_then(|node| rounds.snapshot(&node)).unwrap_or_else(|_| last.clone());
        Ok(Some(last.clone()))
    };
    screen::show(look, "leave the screen; the demo goes on")
}
