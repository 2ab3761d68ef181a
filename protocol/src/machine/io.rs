//! What goes into the machine and what comes out: the whole contract between agreement and the world.
//!
//! One [`Input`], then drain the [`Effect`]s, then the next. A message that binds its sender is held back until the
//! [`Persist`] before it was confirmed; the shell never has to think about that.

use crate::ids::{Ballot, BlobRef, Hash, NodeId};
use crate::message::{Activity, Message, Phase, Proposal};
use crate::record::{Bind, Committed, Contribution, Evaluation, Evidence, Founding, Refusal, Vote};
use crate::reject::Reject;
use crate::roster::Part;

/// Names one `Persist` effect, so that its confirmation finds its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// What the machine is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A peer's message; `from` is authenticated by the transport, or is the signed author of a gossip.
    Received {
        /// Who said it.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A node of this run is connected.
    PeerUp(NodeId),
    /// The last connection to a node is gone and dialling it again was refused.
    PeerDown(NodeId),
    /// A `Persist` is on disk.
    Persisted(PersistId),
    /// A `Persist` failed; the disk is full, say. What waited for it is never sent.
    PersistFailed(PersistId),
    /// A `Fetch` is complete: the blob is whole, checked and on disk.
    Fetched {
        /// The blob.
        blob: Hash,
    },
    /// A `Fetch` came to nothing.
    FetchFailed {
        /// The blob.
        blob: Hash,
        /// Why.
        failure: FetchFailure,
    },
    /// A `Train` ended. The update is on disk.
    Trained {
        /// The round.
        round: u64,
        /// Hash of the record that it started from.
        parent: Hash,
        /// The update, or why there is none.
        outcome: Result<TrainedUpdate, String>,
    },
    /// An `Evaluate` ended.
    Evaluated {
        /// The closing round.
        round: u64,
        /// The evaluation; `None` without held-out data, or when it failed.
        evaluation: Option<Evaluation>,
    },
    /// A `Fold` ended.
    Folded {
        /// The ballot.
        ballot: Ballot,
        /// Whose update.
        node: NodeId,
        /// In the sum, or why not.
        result: Result<(), Reject>,
    },
    /// An `Aggregate` ended. The model is on disk.
    Aggregated {
        /// The ballot.
        ballot: Ballot,
        /// The new model, or why there is none.
        result: Result<BlobRef, String>,
    },
    /// Somebody at this node wants something.
    Command(Command),
    /// Time has passed; send when `Machine::deadline` is reached.
    Tick,
}

/// What people ask of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Come off the roster, for good.
    Leave,
}

/// What a training produced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainedUpdate {
    /// The delta.
    pub update: BlobRef,
    /// Samples trained on.
    pub samples: u64,
    /// Mean loss over the last epoch, in nats.
    pub train_loss: f64,
    /// Evaluation and training, in milliseconds.
    pub train_ms: u64,
    /// The starting model on held-out data, if there is any.
    pub evaluation: Option<Evaluation>,
}

/// Why a blob could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFailure {
    /// No holder could be reached, or none has it.
    Unreachable,
    /// It is there, and it is wrong.
    Invalid(Reject),
    /// The disk failed.
    Disk,
}

/// What a fetched blob is for; the shell checks the content accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A model: its shape and finiteness are checked.
    Model,
    /// A participant's update: only its bytes are checked, the content when it is folded.
    Update,
}

/// What the machine wants done. Effects are carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send to one peer. May be lost: the machine repeats what matters.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Gossip to all nodes of the run. May be lost. Too large for gossip, it is left out: members ask after a beat.
    Broadcast(Message),
    /// Write durably, in the order of the effects, and answer `Persisted` or `PersistFailed`.
    Persist {
        /// Names it.
        id: PersistId,
        /// What.
        item: Persist,
    },
    /// Get a blob and answer `Fetched` or `FetchFailed`. One that is complete on disk is answered at once.
    Fetch {
        /// The blob.
        blob: BlobRef,
        /// What it is for.
        purpose: Purpose,
        /// A node that has all of it.
        origin: NodeId,
        /// Nodes that have it or fetch it too: each can be asked for what it has.
        others: Vec<NodeId>,
    },
    /// Stop fetching a blob; what has come stays.
    CancelFetch {
        /// The blob.
        blob: Hash,
    },
    /// Evaluate the model and train on it; answer `Trained`. It stops what was trained before.
    Train {
        /// The round.
        round: u64,
        /// Hash of the record that the round starts from.
        parent: Hash,
        /// The model.
        model: BlobRef,
        /// What the random streams are keyed by.
        node_key: Vec<u8>,
        /// The last update of this node that is part of the chain; what it keeps from then on belongs to it.
        last_update: Option<Hash>,
    },
    /// Stop training: the round is over.
    StopTraining,
    /// Evaluate the model on held-out data; answer `Evaluated`.
    Evaluate {
        /// The closing round.
        round: u64,
        /// The model.
        model: BlobRef,
    },
    /// Check an update and add it to the ballot's exact sum; answer `Folded`. The first fold of a ballot begins its sum.
    Fold {
        /// The ballot.
        ballot: Ballot,
        /// Whose.
        node: NodeId,
        /// The update, complete on disk.
        update: BlobRef,
        /// Its weight.
        samples: u64,
    },
    /// Make the model from the ballot's sum, put it on disk, and answer `Aggregated`.
    Aggregate {
        /// The ballot.
        ballot: Ballot,
        /// The model before.
        parent_model: BlobRef,
        /// What must be in the sum: whose update, and with which weight.
        updates: Vec<(NodeId, BlobRef, u64)>,
        /// Samples of the whole roster, those of nodes that did not train included.
        roster_samples: u64,
    },
    /// The blobs that must stay on disk; others may go.
    Keep {
        /// Their ids.
        blobs: Vec<Hash>,
    },
    /// Close the connections to a peer.
    Disconnect {
        /// Which.
        peer: NodeId,
        /// Why.
        reason: Reject,
    },
    /// Something happened that people or tests want to know.
    Emit(Event),
}

/// What must be on disk before something leaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Persist {
    /// A founding that this node takes part in.
    Founding(Founding),
    /// This node's bind to a founding.
    Bind {
        /// The founding.
        founding: Hash,
        /// The bind.
        bind: Bind,
    },
    /// This node's refusal of a founding.
    Refusal {
        /// The founding.
        founding: Hash,
        /// The refusal.
        refusal: Refusal,
    },
    /// A founding is decided: this is the proof. The founding's ballots are of no use any more.
    Decided {
        /// The founding.
        founding: Hash,
        /// The decision.
        committed: Committed,
    },
    /// This node's vote; replaces the one before in that round.
    Vote {
        /// Chain or founding.
        genesis: Hash,
        /// The vote.
        vote: Vote,
    },
    /// What this node accepts, or proposes; replaces the one before in that round.
    Accepted {
        /// Chain or founding.
        genesis: Hash,
        /// The proposal.
        proposal: Proposal,
    },
    /// The next record of the chain. Ballots and contributions of its round are of no use any more.
    Committed {
        /// The chain.
        genesis: Hash,
        /// The record and its proof.
        committed: Committed,
        /// What this node measured.
        figures: Figures,
    },
    /// This node's own contribution, whose update is on disk.
    Contribution {
        /// The chain.
        genesis: Hash,
        /// The round.
        round: u64,
        /// The contribution.
        contribution: Contribution,
    },
    /// Proof that somebody lied.
    Evidence {
        /// The chain.
        genesis: Hash,
        /// The proof.
        evidence: Evidence,
    },
    /// The node moves to another chain; the old one is kept aside.
    SwitchChain {
        /// The old genesis.
        from: Hash,
        /// The new one.
        to: Hash,
    },
    /// The node came off the roster for good, at its own wish.
    Left {
        /// The chain.
        genesis: Hash,
    },
}

/// What a node measures of a round for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// From the commit before to this one, in milliseconds; `None` if this node did not see both.
    pub duration_ms: Option<u64>,
    /// `duration_ms` less the longest `train_ms` among the contributions.
    pub overhead_ms: Option<u64>,
    /// Bytes sent since the commit before; filled in by the shell.
    pub bytes_sent: u64,
    /// Bytes received since the commit before; filled in by the shell.
    pub bytes_received: u64,
}

/// What a node found on its disk when it started.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovered {
    /// The chain, genesis first; empty if there is none.
    pub chain: Vec<Committed>,
    /// The chain that this node's gave itself up for another with (`Persist::SwitchChain`), genesis first: members of it
    /// that missed its last record are shown it.
    pub aside: Vec<Committed>,
    /// Foundings that are not forgotten.
    pub foundings: Vec<RecoveredFounding>,
    /// Votes and accepted proposals, of the chain's open round and of foundings.
    pub ballots: Vec<RecoveredBallot>,
    /// This node's contribution to the open round.
    pub contribution: Option<(u64, Contribution)>,
    /// Proofs of lies.
    pub evidence: Vec<Evidence>,
    /// Whether this node came off the roster for good.
    pub left: bool,
    /// The blobs that are complete on disk.
    pub blobs: Vec<Hash>,
}

/// A founding on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveredFounding {
    /// What was proposed.
    pub founding: Founding,
    /// Whether this node bound itself.
    pub bind: Option<Bind>,
    /// Whether it refused.
    pub refusal: Option<Refusal>,
    /// How it ended, if it has.
    pub decided: Option<Committed>,
}

/// A round's ballot box on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveredBallot {
    /// Chain or founding.
    pub genesis: Hash,
    /// The round.
    pub round: u64,
    /// The vote.
    pub vote: Option<Vote>,
    /// The accepted proposal.
    pub accepted: Option<Proposal>,
}

/// What happens, for logs, the progress line, metrics and tests.
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
    /// The chain begins.
    Founded {
        /// Its genesis.
        genesis: Hash,
        /// Nodes on the roster.
        members: usize,
    },
    /// This node was elected.
    Elected {
        /// In which ballot.
        ballot: Ballot,
    },
    /// A coordinator is at work.
    Following {
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
    /// Another chain of this run was seen.
    Fork {
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
    /// The run is over and every reachable member holds its end, or was waited for long enough.
    Finished,
    /// The disk fails: this node can't vote or accept.
    DiskFailed,
}

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
    /// What it said it does.
    pub activity: Option<Activity>,
    /// Whether it is connected.
    pub reachable: bool,
    /// Milliseconds since it was last heard of.
    pub silent_ms: Option<u64>,
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
    /// The roster, or in its absence the nodes that could found.
    pub roster: Vec<MemberView>,
    /// The participants of the round and what they do.
    pub participants: Vec<(NodeId, Activity)>,
    /// The model of the last record.
    pub model: Option<BlobRef>,
    /// The last record: round and hash.
    pub head: Option<(u64, Hash)>,
    /// Records with contributions so far.
    pub trained: u64,
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
