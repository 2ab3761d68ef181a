//! The messages between nodes. Small ones, and metadata of large things; weights travel as blobs.
//!
//! Every message that belongs to a chain names its genesis; in a founding the founding id stands for it. A ballot
//! carries the round.

use serde::{Deserialize, Serialize};

use crate::bounds::MESSAGE_BYTES_MAX;
use crate::codec::{self, CodecError};
use crate::ids::{Ballot, BlobRef, Hash, NodeId};
use crate::record::{
    Accept, Bind, Committed, Contribution, Evidence, Founding, JoinRequest, LeaveRequest, Record, Refusal,
    SignedEvaluation, Vote,
};
use crate::reject::Reject;
use crate::roster::Part;

/// What a node is busy with, as others may show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Nothing to do now.
    Idle,
    /// Fetching the model.
    Fetching,
    /// Evaluating or training.
    Training,
    /// The update is ready and offered.
    Uploading,
    /// The update is in.
    Done,
    /// Coordinates: averages or proposes.
    Coordinating,
    /// Not on the roster yet.
    Joining,
    /// Its training failed: unless it is started again, no update of this round will come from it.
    Failed,
}

/// A node's sign of life, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Makes every presence a different message; grows.
    pub counter: u64,
    /// What people call the node.
    pub name: String,
    /// Its part of a shared data set.
    pub part: Option<Part>,
    /// The chain that it is in.
    pub genesis: Option<Hash>,
    /// The round that it is in.
    pub round: u64,
    /// The founding that it is bound to.
    pub founding: Option<Hash>,
    /// What it does.
    pub activity: Activity,
    /// Whether it holds the end of the run: the closing record, or the last round when nobody closes.
    pub finished: bool,
}

/// The coordinator's plan for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Whether the closing record is collected rather than updates.
    pub closing: bool,
    /// Who trains, in the order that everybody can compute.
    pub participants: Vec<NodeId>,
    /// Milliseconds until the collection ends.
    pub remaining_ms: u64,
}

/// A coordinator shows that it is elected, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Chain or founding.
    pub genesis: Hash,
    /// The ballot.
    pub ballot: Ballot,
    /// Hash of the record before.
    pub parent: Hash,
    /// The elected candidate.
    pub coordinator: NodeId,
    /// The votes that elected it.
    pub votes: Vec<Vote>,
    /// The model that the round starts from.
    pub model: BlobRef,
    /// The plan; `None` while it takes up what was accepted before, and in a founding.
    pub opening: Option<Opening>,
}

/// What a coordinator is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Fetches what an earlier ballot accepted.
    Recovering,
    /// Waits for updates, evaluations or binds.
    Collecting,
    /// Averages.
    Aggregating,
    /// Waits for accepts.
    Proposing,
}

impl Phase {
    /// One word, as the command line prints it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Recovering => "recovering",
            Phase::Collecting => "collecting",
            Phase::Aggregating => "aggregating",
            Phase::Proposing => "proposing",
        }
    }
}

/// The coordinator lives. Who lacks what the hashes name asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Chain or founding.
    pub genesis: Hash,
    /// The ballot.
    pub ballot: Ballot,
    /// What it does.
    pub phase: Phase,
    /// Hash of its latest `Opened`.
    pub opened: Hash,
    /// Hash of the record that it proposes.
    pub proposal: Option<Hash>,
}

/// A proposal: the record, and the votes that elected the one who proposes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Chain or founding.
    pub genesis: Hash,
    /// The ballot, which may be later than the record's own attempt.
    pub ballot: Ballot,
    /// The elected candidate.
    pub coordinator: NodeId,
    /// What is proposed.
    pub record: Record,
    /// The votes that elected it.
    pub votes: Vec<Vote>,
}

/// A question to one peer, answered if it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// What a founding id stands for; answered with `Founding`, `Bind`s and, if it is decided, `Committed`.
    Founding {
        /// Its id.
        id: Hash,
    },
    /// The coordinator's latest `Opened`.
    Opened {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
    },
    /// A proposal that the asked has made or accepted.
    Proposal {
        /// Chain or founding.
        genesis: Hash,
        /// Hash of the record.
        value: Hash,
    },
    /// Records from a round on, as many as fit.
    Records {
        /// The chain.
        genesis: Hash,
        /// The first round wanted.
        from: u64,
    },
}

/// Everything that nodes say to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A sign of life.
    Presence(Presence),
    /// A founding is proposed, or shown to who asked.
    Founding(Founding),
    /// A member binds itself to a founding.
    Bind {
        /// The founding.
        founding: Hash,
        /// Its word.
        bind: Bind,
    },
    /// A member refuses a founding.
    Refusal {
        /// The founding.
        founding: Hash,
        /// Its word.
        refusal: Refusal,
    },
    /// Would you vote for me? Binds nobody.
    Canvass {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
    },
    /// I would vote for you.
    WouldVote {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
    },
    /// Vote for me.
    VoteRequest {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
    },
    /// I vote for you.
    Vote {
        /// Chain or founding.
        genesis: Hash,
        /// The vote.
        vote: Vote,
    },
    /// I don't vote for you, or would not.
    VoteRefused {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot asked for.
        ballot: Ballot,
        /// Why.
        reject: Reject,
        /// The highest ballot that the refuser has voted in or seen elected.
        highest: Ballot,
    },
    /// A round is open.
    Opened(Opened),
    /// The coordinator lives.
    Beat(Beat),
    /// The beat was heard.
    BeatHeard {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot of the beat.
        ballot: Ballot,
        /// The highest ballot that the hearer has voted or accepted in.
        promised: Ballot,
    },
    /// The coordinator gives up.
    GaveUp {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
    },
    /// An update is ready to be fetched.
    Offer {
        /// The chain.
        genesis: Hash,
        /// The ballot of the coordinator that it is meant for.
        ballot: Ballot,
        /// What it is.
        contribution: Contribution,
    },
    /// What became of an offer.
    OfferAnswer {
        /// The chain.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
        /// The update.
        update: Hash,
        /// In the sum, or why not.
        result: Result<(), Reject>,
    },
    /// An evaluation for the closing record.
    Evaluated {
        /// The chain.
        genesis: Hash,
        /// The ballot of the coordinator that it is meant for.
        ballot: Ballot,
        /// What it is.
        evaluation: SignedEvaluation,
    },
    /// The coordinator proposes.
    Proposal(Proposal),
    /// A member accepts.
    Accept {
        /// Chain or founding.
        genesis: Hash,
        /// Its word.
        accept: Accept,
    },
    /// A member does not accept.
    ProposalRefused {
        /// Chain or founding.
        genesis: Hash,
        /// The ballot.
        ballot: Ballot,
        /// Why.
        reject: Reject,
    },
    /// A decision with its proof.
    Committed {
        /// Chain or founding.
        genesis: Hash,
        /// The record and the accepts.
        committed: Committed,
    },
    /// A question.
    Ask(Ask),
    /// Records of the chain, in order.
    Records {
        /// The chain.
        genesis: Hash,
        /// The records.
        records: Vec<Committed>,
    },
    /// A node wants to come onto the roster.
    Join {
        /// The chain.
        genesis: Hash,
        /// Its request.
        request: JoinRequest,
    },
    /// What is wrong with a join request.
    JoinRefused {
        /// The chain.
        genesis: Hash,
        /// Why.
        reject: Reject,
    },
    /// A member wants to come off the roster.
    Leave {
        /// The chain.
        genesis: Hash,
        /// Its request.
        request: LeaveRequest,
    },
    /// Proof that a member lied.
    Evidence {
        /// The chain.
        genesis: Hash,
        /// The proof.
        evidence: Evidence,
    },
}

impl Message {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads bytes from a peer. Their length is bounded; what they say is judged by the machine.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<Self, MESSAGE_BYTES_MAX>(bytes)
    }
}
