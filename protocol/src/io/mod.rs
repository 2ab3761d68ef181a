//! What goes into the machine and what comes out: the whole contract between agreement and the world.
//!
//! One [`Input`], then drain the [`Effect`]s, then the next. A message that binds its sender is held back until the
//! [`Persist`] before it was confirmed; the shell never has to think about that. It has to think about one thing: a write
//! that fails is the end of the process.

pub mod event;
pub mod persist;
pub mod view;

use crate::base::ids::{Ballot, BlobRef, Hash, NodeId};
use crate::base::reject::Reject;
use crate::message::Message;
use crate::record::Evaluation;

pub use event::Event;
pub use persist::{KeptAside, LocalStats, Persist, PersistId, Recovered, RecoveredBallot, RecoveredFounding};
pub use view::{MemberView, NewcomerView, State, View, ViewPhase};

/// What the machine is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A peer's message.
    Received {
        /// The peer at the other end of the connection, whom the transport has authenticated.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A message that somebody gossips. If it is one that others should have, `Effect::Relay` answers it at once.
    Gossiped {
        /// The peer that passed it on: authenticated, but not its author.
        from: NodeId,
        /// What it passed on.
        message: Message,
    },
    /// A node of this run is connected.
    PeerUp(NodeId),
    /// The last connection to a node is gone and dialling it again was refused.
    PeerDown(NodeId),
    /// A `Persist` is on disk. There is no word for one that failed: it ends the process.
    Persisted(PersistId),
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
    /// How far a `Train` or an `Evaluate` is, now and then: others are told each time.
    Progress {
        /// From 0 to 100.
        percent: u8,
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
    /// Go on with a run that stopped because training failed everywhere.
    Resume,
    /// Train no more for a while, and stop what is being trained. The node votes and serves as before.
    Pause,
    /// Train again.
    Unpause,
    /// Go on alone, in another chain: the majority of the roster is gone for good.
    DropRoster,
}

/// What a training produced.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedUpdate {
    /// The delta.
    pub update: BlobRef,
    /// Samples trained on.
    pub samples: u64,
    /// Mean loss of the training, where it is told.
    pub train_loss: Option<f64>,
    /// Evaluation and training, in milliseconds.
    pub train_ms: u64,
    /// The starting model on held-out data, if there is any.
    pub evaluation: Option<Evaluation>,
    /// What trained, in its own words; empty for the nets that come with every node.
    pub trainer: String,
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
    /// Gossip to all nodes of the run, those that follow a chain included: decisions and proofs of lies, which can be checked
    /// whoever passes them on. May be lost. Too large for gossip, it is left out: others ask.
    Broadcast(Message),
    /// The gossip that was just given is to be passed on.
    Relay,
    /// Write durably, in the order of the effects, and answer `Persisted`; or end the process.
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
        /// The same, with the rounds of a chain that this one continues: what the schedule and the random streams go by.
        training_round: u64,
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
    /// Something happened that people or tests want to know.
    Emit(Event),
}
