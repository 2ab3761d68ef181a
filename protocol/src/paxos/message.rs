//! What is said in one decision. The envelope names chain and ballot.

use serde::{Deserialize, Serialize};

use crate::base::codec;
use crate::base::ids::{Ballot, Hash, NodeId};
use crate::base::reject::Reject;
use crate::base::signed::{Signed, Statement, StatementKind};
use crate::membership::message::Activity;
use crate::record::{Accept, Proposal, Vote};

/// The roles of Paxos talk to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me? Binds nobody (Ongaro 2014, section 9.6).
    PreVote,
    /// I would vote for you.
    PreVoteGranted,
    /// Vote for me.
    VoteRequest,
    /// I vote for you.
    Vote(Signed<Vote>),
    /// I don't vote for you, or would not.
    VoteRefused {
        /// Why.
        reject: Reject,
        /// The highest ballot that the refuser has voted in or seen elected.
        highest: Ballot,
    },
    /// A coordinator is elected, and this is its plan.
    RoundOpened(RoundOpened),
    /// The coordinator lives.
    Heartbeat(Heartbeat),
    /// The heartbeat was heard.
    HeartbeatAck {
        /// The highest ballot that the hearer has voted or accepted in.
        promised: Ballot,
    },
    /// The coordinator gives up.
    StepDown,
    /// The coordinator proposes.
    Proposal(Proposal),
    /// A member accepts.
    Accept(Signed<Accept>),
    /// A member does not accept.
    ProposalRefused {
        /// Why.
        reject: Reject,
    },
    /// What is the coordinator's plan?
    QueryPlan,
    /// A proposal that the asked has made or accepted.
    QueryProposal {
        /// Hash of the record.
        value: Hash,
    },
}

/// A coordinator shows that it is elected, and what it is about. All of it can be checked, whoever passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundOpened {
    /// The votes that elected the coordinator, by voter.
    pub votes: Vec<Signed<Vote>>,
    /// The coordinator's plan.
    pub plan: Signed<RoundPlan>,
}

impl RoundOpened {
    /// The elected candidate, as it says itself.
    pub fn coordinator(&self) -> NodeId {
        self.plan.by()
    }

    /// What a heartbeat names the plan by.
    pub(crate) fn plan_hash(&self) -> Hash {
        Hash::of_parts("paceline plan", &[&codec::encode(&self.plan)])
    }
}

/// The coordinator's plan for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundPlan {
    /// The coordinator's ballot.
    pub ballot: Ballot,
    /// Counts the plans of a ballot; the highest holds.
    pub version: u32,
    /// What members are asked to do; `None` while the coordinator takes up what was accepted before, and in a founding.
    pub task: Option<Task>,
}

impl Statement for RoundPlan {
    const KIND: StatementKind = StatementKind::Plan;
}

/// What a round asks of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// These train, in the order that everybody can compute.
    Train {
        /// Who.
        participants: Vec<NodeId>,
    },
    /// Everybody evaluates the last model, for the closing record.
    Evaluate,
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

/// What the coordinator says regularly. Who lacks what the hashes name asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What it does.
    pub phase: Phase,
    /// Hash of its latest plan.
    pub plan: Hash,
    /// Hash of the record that it proposes.
    pub proposal: Option<Hash>,
    /// What the participants do, in the order of the plan, as they told the coordinator; empty with most heartbeats.
    pub progress: Vec<Activity>,
}
