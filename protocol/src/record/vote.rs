//! What members sign in a decision: votes, proposals, accepts.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::base::bounds::SILENT_MAX;
use crate::base::ids::{Ballot, Hash, NodeId};
use crate::base::reject::Reject;
use crate::base::signed::{Scope, Signed, Statement, StatementKind, Verifier};

/// A vote for a candidate in a ballot. It leaves its node only after it was persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// In which ballot.
    pub ballot: Ballot,
    /// For whom.
    pub candidate: NodeId,
    /// What the voter has accepted last in this round: its coordinator's word is the proof that it was proposed.
    pub accepted: Option<Signed<Proposed>>,
    /// The members that the voter has not been connected to for so long that they should be evicted.
    pub silent: Vec<NodeId>,
}

impl Statement for Vote {
    const KIND: StatementKind = StatementKind::Vote;
}

impl Vote {
    /// What the voter has accepted, if its coordinator did propose that: in an earlier ballot of the round.
    ///
    /// # Errors
    /// The claim is not one that an honest voter makes: [`Reject::BadSignature`], or [`Reject::NoQuorum`] for an accept
    /// that is not earlier, or too many or unordered silent members.
    pub fn accepted(&self, scope: &Scope, verifier: &Verifier) -> Result<Option<Proposed>, Reject> {
        if self.silent.len() > SILENT_MAX || !self.silent.is_sorted_by(|a, b| a < b) {
            return Err(Reject::NoQuorum);
        }
        let Some(accepted) = &self.accepted else { return Ok(None) };
        let proposed = *accepted.open(scope, verifier)?;
        let earlier = proposed.ballot.round == self.ballot.round && proposed.ballot.attempt < self.ballot.attempt;
        if earlier { Ok(Some(proposed)) } else { Err(Reject::NoQuorum) }
    }
}

/// A coordinator's word that it proposes a record in a ballot: the one proposal of that ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// The ballot, which may be later than the record's own attempt.
    pub ballot: Ballot,
    /// The record's hash.
    pub value: Hash,
}

impl Statement for Proposed {
    const KIND: StatementKind = StatementKind::Proposed;
}

/// A proposal: the record, its coordinator's word, and the votes that elected the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The coordinator's word.
    pub proposed: Signed<Proposed>,
    /// What is proposed.
    pub record: Record,
    /// The votes that elected the coordinator, by voter.
    pub votes: Vec<Signed<Vote>>,
}

impl Proposal {
    /// The ballot and the record's hash, if the coordinator did sign them and the record has that hash.
    ///
    /// # Errors
    /// [`Reject::BadSignature`] or [`Reject::WrongHash`].
    pub fn open(&self, scope: &Scope, verifier: &Verifier) -> Result<Proposed, Reject> {
        let proposed = *self.proposed.open(scope, verifier)?;
        if proposed.value == self.record.hash() { Ok(proposed) } else { Err(Reject::WrongHash) }
    }

    /// Who proposes it.
    pub fn coordinator(&self) -> NodeId {
        self.proposed.by()
    }
}

/// A member's word that it holds the proposal and its model on disk, and accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// In which ballot.
    pub ballot: Ballot,
    /// The coordinator of that ballot.
    pub coordinator: NodeId,
    /// The record's hash.
    pub value: Hash,
}

impl Statement for Accept {
    const KIND: StatementKind = StatementKind::Accept;
}
