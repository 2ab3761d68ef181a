//! What happens, for logs, the progress line, metrics and tests.

use crate::base::ids::{Ballot, BlobRef, Hash, NodeId};
use crate::base::reject::Reject;

/// Something that people or tests want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// This node proposed or joined a founding.
    FoundingBegun {
        /// The founding.
        id: Hash,
        /// Nodes on it.
        members: usize,
    },
    /// A founding came to nothing.
    FoundingAborted {
        /// The founding.
        id: Hash,
    },
    /// The chain begins, with this node on its roster.
    Founded {
        /// Its genesis.
        genesis: Hash,
        /// Nodes on the roster.
        members: usize,
    },
    /// This node goes on without the others, in a chain of its own.
    GoesOnAlone {
        /// The genesis of that.
        genesis: Hash,
        /// The round behind which it goes on, with those of chains that were continued before.
        round: u64,
    },
    /// This node was elected.
    Elected {
        /// In which ballot.
        ballot: Ballot,
    },
    /// A coordinator is at work.
    CoordinatorSeen {
        /// In which ballot.
        ballot: Ballot,
        /// Who.
        coordinator: NodeId,
    },
    /// An attempt ended without a commit.
    AttemptOver {
        /// Which.
        ballot: Ballot,
        /// Why.
        why: &'static str,
    },
    /// An update came in.
    UpdateIn {
        /// The ballot.
        ballot: Ballot,
        /// Whose.
        node: NodeId,
    },
    /// A proposal was accepted here.
    Accepted {
        /// In which ballot.
        ballot: Ballot,
        /// The record.
        value: Hash,
    },
    /// A record is committed.
    Committed {
        /// The chain.
        genesis: Hash,
        /// The round.
        round: u64,
        /// The record's hash.
        value: Hash,
        /// The model.
        model: BlobRef,
    },
    /// A peer was refused.
    Rejected {
        /// Who.
        peer: NodeId,
        /// Why.
        reject: Reject,
    },
    /// A member lied, provably.
    Liar {
        /// Who.
        node: NodeId,
    },
    /// A round of this chain was committed twice: somebody lied.
    SecondCommit {
        /// The round.
        round: u64,
        /// The record that this node has.
        ours: Hash,
        /// The other.
        theirs: Hash,
        /// Who accepted both.
        suspects: Vec<NodeId>,
    },
    /// Another chain of this run was seen.
    Fork {
        /// Its genesis.
        genesis: Hash,
    },
    /// This node's chain gave itself up for another.
    Yielded {
        /// The chain given up.
        from: Hash,
        /// The other.
        to: Hash,
    },
    /// This node follows a chain from now on, and will ask to join it.
    Following {
        /// Its genesis.
        genesis: Hash,
    },
    /// This node let go of a chain that it only followed: no quorum of it was in sight.
    LetGo {
        /// Its genesis.
        genesis: Hash,
    },
    /// This node is on the roster now.
    Joined {
        /// From this round on.
        round: u64,
    },
    /// Training failed here; the round goes on without this node.
    TrainingFailed {
        /// The round.
        round: u64,
        /// Why.
        why: String,
    },
    /// This node is off the roster and may stop.
    Left,
    /// This node was taken off the roster.
    Evicted,
    /// Training failed everywhere, too often in a row: the run stops, and whoever wants to may resume it.
    Halted {
        /// The last round that failed.
        round: u64,
        /// Whose training failed and why, in words.
        why: String,
    },
    /// The run is over and whoever is in sight holds its end, or was waited for long enough.
    Finished {
        /// Whether this node holds the last record and its model on disk. If not, nobody served them in time.
        complete: bool,
    },
}
