//! What a status line needs: a copy of where a node stands.

use crate::base::ids::{BlobRef, Hash, NodeId};
use crate::base::reject::Reject;
use crate::base::roster::Part;
use crate::chain::Stopped;
use crate::membership::message::Activity;
use crate::paxos::message::Phase;

/// Where a node stands in its run; the values of `state` in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Looks for enough nodes to found the run.
    Gathering,
    /// Bound to a founding that is being decided.
    Founding,
    /// Follows a chain that it is not yet on the roster of.
    Joining,
    /// On the roster.
    Member,
    /// Asked to leave, and waits until the others can do without it.
    Leaving,
    /// Off the roster.
    Left,
    /// On the roster of a run that stopped, because training failed everywhere.
    Halted,
    /// The run is over.
    Finished,
}

impl State {
    /// One word, as the command line prints it.
    pub fn name(self) -> &'static str {
        match self {
            State::Gathering => "gathering",
            State::Founding => "founding",
            State::Joining => "joining",
            State::Member => "member",
            State::Leaving => "leaving",
            State::Left => "left",
            State::Halted => "halted",
            State::Finished => "finished",
        }
    }
}

/// A member, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its part.
    pub part: Option<Part>,
    /// What it does, as far as this node knows.
    pub activity: Option<Activity>,
    /// Whether it is connected, and in no other chain.
    pub reachable: bool,
    /// Milliseconds since its connection was lost, or since it was heard over one, if that is long.
    pub silent_ms: Option<u64>,
}

/// A node that wants to come onto the roster, as this member sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewcomerView {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its part.
    pub part: Option<Part>,
    /// Why it may not come, if this member told it so.
    pub refused: Option<Reject>,
}

/// All that a status line needs: a copy, taken between two inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Where it stands.
    pub state: State,
    /// What is in the way, in words; for whom it waits.
    pub reason: Option<String>,
    /// The chain.
    pub genesis: Option<Hash>,
    /// Other chains of this run that were seen.
    pub forks: Vec<Hash>,
    /// The round being decided.
    pub round: u64,
    /// The present attempt.
    pub attempt: u32,
    /// What is going on in it.
    pub phase: ViewPhase,
    /// The coordinator, once one is elected.
    pub coordinator: Option<NodeId>,
    /// Votes and accepts that a decision needs.
    pub quorum: usize,
    /// Milliseconds since a quorum of the roster was last in sight; `None` while one is, and in no chain.
    pub quorum_lost_ms: Option<u64>,
    /// The roster, or in its absence the nodes that could found.
    pub roster: Vec<MemberView>,
    /// The participants of the round and what they do.
    pub participants: Vec<(NodeId, Activity)>,
    /// While updates are collected: how many are in, and how many a record needs.
    pub updates: Option<(usize, usize)>,
    /// While they are: milliseconds until the round goes on without those that are late.
    pub collected_in_ms: Option<u64>,
    /// Nodes in sight that want to come onto the roster.
    pub newcomers: Vec<NewcomerView>,
    /// The model of the last record.
    pub model: Option<BlobRef>,
    /// The last record: round and hash.
    pub head: Option<(u64, Hash)>,
    /// Records with contributions so far.
    pub trained: u64,
    /// Why the run ends before its rounds do, if it does.
    pub stopped: Option<Stopped>,
    /// Milliseconds that the present attempt has lasted.
    pub attempt_ms: u64,
}

/// What is going on in a round; the values of `phase` in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewPhase {
    /// No chain yet.
    Founding,
    /// No coordinator yet.
    Electing,
    /// A coordinator is at work.
    Round(Phase),
    /// Nothing more to decide.
    Done,
}

impl ViewPhase {
    /// One word, as the command line prints it.
    pub fn name(self) -> &'static str {
        match self {
            ViewPhase::Founding => "founding",
            ViewPhase::Electing => "electing",
            ViewPhase::Round(phase) => phase.name(),
            ViewPhase::Done => "done",
        }
    }
}
