//! Whether others are here with another run file of the same name. Whoever changed a value on one machine and forgot another
//! would wait for ever, and so would both; and who waits beside a run that goes on is told of in that run as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use paceline_bootstrap::{FoundRun, discover_runs, fetch_run_file};
use paceline_protocol::RunId;

use crate::driver::NodeState;
use crate::run_file::{self, RunFile};

/// How long a node waits before it looks for the first time: others of its run are found sooner.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// States in which nobody is waited for any more.
const OVER: [&str; 2] = ["left", "finished"];

/// Between two looks at most; the pauses double.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// How long others are listened for.
const LISTEN: Duration = Duration::from_secs(3);

/// How long a run file may take.
const FETCH: Duration = Duration::from_secs(5);

/// Where others are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// This node's run.
    pub(crate) run_file: RunFile,
    /// The addresses that it was given.
    pub(crate) at: Vec<Multiaddr>,
    /// Whether it looks on the local network.
    pub(crate) mdns: bool,
}

impl Search {
    /// Looks now and then, more often in the beginning, and tells the node's state what is found.
    pub(crate) async fn run(self, node_state: Arc<NodeState>) {
        if !self.mdns && self.at.is_empty() {
            return;
        }
        let (mut pause, mut told) = (FIRST_LOOK, BTreeSet::new());
        loop {
            tokio::time::sleep(pause).await;
            pause = LOOK_MAX.min(pause * 2);
            if node_state.status().is_none_or(|status| OVER.contains(&status.state.as_str())) {
                node_state.set_neighbours(None);
                continue;
            }
            // Without a network there is nobody to find.
            let found = discover_runs(&self.at, self.mdns, LISTEN).await.unwrap_or_default();
            let other = found.into_iter().find(|run| self.is_mistaken(run));
            let text = match &other {
                Some(other) => Some(self.described(other).await),
                None => None,
            };
            if let (Some(other), Some(text)) = (&other, &text)
                && told.insert(other.run)
            {
                tracing::warn!("{text}");
            }
            node_state.set_neighbours(text);
        }
    }

    fn is_mistaken(&self, other: &FoundRun) -> bool {
        other.name == self.run_file.run.name && other.run != self.run_file.run_id()
    }

    async fn described(&self, other: &FoundRun) -> String {
        let differ = differences(&other.addresses, other.run, &self.run_file, FETCH).await;
        let nodes = if other.nodes > 1 { "other nodes are" } else { "another node is" };
        format!(
            "{nodes} here with another run file named {} ({}){}; all nodes of a run need the same file, so copy one to all, or join with a ticket",
            other.name,
            other.run.short(),
            differ
        )
    }
}

/// How the run file of another run, which is asked for at these addresses, differs from this one: `: ` and the keys; nothing
/// where nobody hands it out.
pub(crate) async fn differences(at: &[Multiaddr], other: RunId, own: &RunFile, wait: Duration) -> String {
    let theirs = fetch_run_file(at, other, wait).await.ok();
    let theirs = theirs.and_then(|published| run_file::parse(&published.text, "theirs").ok());
    theirs.map(|theirs| format!(": {}", run_file::differences(&theirs, own).join("; "))).unwrap_or_default()
}
