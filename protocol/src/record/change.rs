//! What changes a roster: joins, leaves, evictions, and the proof of a lie.

use serde::{Deserialize, Serialize};

use super::founding::{Bind, Refusal};
use super::vote::{Accept, Proposed, Vote};
use crate::base::ids::{Hash, NodeId, RunId};
use crate::base::reject::Reject;
use crate::base::roster::{Member, Part};
use crate::base::signed::{Scope, Signed, Statement, StatementKind, Verifier};

/// A node's wish to come onto the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// What people call it.
    pub name: String,
    /// Its part of a shared data set.
    pub part: Option<Part>,
    /// The round that the request was made in; void after `REQUEST_ROUNDS`, or once the node's membership has changed.
    pub round: u64,
}

impl Statement for Join {
    const KIND: StatementKind = StatementKind::Join;
}

impl Signed<Join> {
    /// The member that this request, in a record, makes.
    pub fn member(&self) -> Member {
        let join = self.vouched();
        Member { node: self.by(), name: join.name.clone(), part: join.part }
    }
}

/// A member's wish to come off the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The round that the request was made in; void after `REQUEST_ROUNDS`, or once the node's membership has changed.
    pub round: u64,
}

impl Statement for Leave {
    const KIND: StatementKind = StatementKind::Leave;
}

/// Requests outlive their round, so their scope names no parent.
pub fn request_scope(run: RunId, chain: Hash) -> Scope {
    Scope { run, chain, parent: Hash::ZERO }
}

/// Two statements of one member that no honest node signs both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The chain, or the founding that began it.
    pub chain: Hash,
    /// Hash of the record before the round in question; the founding's id in round 0.
    pub parent: Hash,
    /// The two.
    pub lie: Lie,
}

/// The forms that a lie can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lie {
    /// Two different votes in one ballot.
    Votes(Box<[Signed<Vote>; 2]>),
    /// Accepts of two records in one ballot.
    Accepts([Signed<Accept>; 2]),
    /// Proposals of two records in one ballot.
    Proposals([Signed<Proposed>; 2]),
    /// An accept, and a vote in a later ballot of the round that does not tell of it.
    HiddenAccept {
        /// What was accepted.
        accept: Signed<Accept>,
        /// What does not tell of it.
        vote: Box<Signed<Vote>>,
    },
    /// A bind to a founding and its refusal.
    BindAndRefusal {
        /// The bind.
        bind: Signed<Bind>,
        /// The refusal.
        refusal: Signed<Refusal>,
    },
}

impl Evidence {
    /// The liar, if both signatures hold and contradict each other.
    ///
    /// # Errors
    /// [`Reject::BadSignature`], or [`Reject::BadRosterChange`] for two statements that an honest node may sign.
    pub fn liar(&self, run: RunId, verifier: &Verifier) -> Result<NodeId, Reject> {
        let scope = Scope { run, chain: self.chain, parent: self.parent };
        let (signers, contradict) = match &self.lie {
            Lie::Votes(votes) => {
                let (a, b) = (votes[0].open(&scope, verifier)?, votes[1].open(&scope, verifier)?);
                // What no vote may hold is no vote: else long ones would make records that nobody can send.
                a.accepted(&scope, verifier)?;
                b.accepted(&scope, verifier)?;
                ([votes[0].by(), votes[1].by()], a.ballot == b.ballot && a != b)
            }
            Lie::Accepts(accepts) => {
                let (a, b) = (accepts[0].open(&scope, verifier)?, accepts[1].open(&scope, verifier)?);
                ([accepts[0].by(), accepts[1].by()], a.ballot == b.ballot && a.value != b.value)
            }
            Lie::Proposals(proposals) => {
                let (a, b) = (proposals[0].open(&scope, verifier)?, proposals[1].open(&scope, verifier)?);
                ([proposals[0].by(), proposals[1].by()], a.ballot == b.ballot && a.value != b.value)
            }
            Lie::HiddenAccept { accept, vote } => {
                let (a, v) = (accept.open(&scope, verifier)?, vote.open(&scope, verifier)?);
                let told = v.accepted(&scope, verifier)?;
                ([accept.by(), vote.by()], v.hides(a, told))
            }
            Lie::BindAndRefusal { bind, refusal } => {
                bind.open(&scope, verifier)?;
                refusal.open(&scope, verifier)?;
                ([bind.by(), refusal.by()], true)
            }
        };
        match contradict && signers[0] == signers[1] {
            true => Ok(signers[0]),
            false => Err(Reject::BadRosterChange),
        }
    }
}

impl Vote {
    /// Whether this vote, which tells of having accepted `told`, hides an accept that was given before.
    pub(crate) fn hides(&self, accept: &Accept, told: Option<Proposed>) -> bool {
        let later = self.ballot.round == accept.ballot.round && self.ballot.attempt > accept.ballot.attempt;
        later && told.is_none_or(|t| t.ballot < accept.ballot || (t.ballot == accept.ballot && t.value != accept.value))
    }
}

/// Why a member is taken off against its will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Eviction {
    /// A quorum's votes of this round named it silent.
    Silent {
        /// The member.
        node: NodeId,
        /// The votes, by voter.
        votes: Vec<Signed<Vote>>,
    },
    /// It signed two statements that contradict each other.
    Liar {
        /// The member.
        node: NodeId,
        /// The two.
        evidence: Evidence,
    },
}

impl Eviction {
    /// The member that goes.
    pub fn node(&self) -> NodeId {
        match self {
            Eviction::Silent { node, .. } | Eviction::Liar { node, .. } => *node,
        }
    }
}
