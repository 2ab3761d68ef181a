//! What a node has promised in one round, and what follows from it. Nothing else in the crate decides what may be voted
//! for or accepted: safety is here, on one page.
//!
//! * One vote a ballot, and only above every ballot voted or accepted in.
//! * One accept a ballot, at or above every ballot voted or accepted in.
//! * A vote tells what was accepted. A vote or accept leaves only when it is on disk, and is repeated as it was.

use std::collections::BTreeMap;

use crate::core::{Core, Fault, Held};
use crate::ids::{Ballot, Hash, NodeId};
use crate::machine::{Persist, PersistId, RecoveredBallot};
use crate::message::{Message, Proposal};
use crate::record::{Accept, Evidence, Vote};
use crate::reject::Reject;
use crate::sign::Scope;

#[derive(Debug, Default)]
pub(super) struct BallotBox {
    vote: Option<Vote>,
    accepted: Option<Proposal>,
    /// The writes that brought them to disk, while they may be under way.
    vote_write: Option<PersistId>,
    accepted_write: Option<PersistId>,
    /// The model that was accepted is not on disk any more: this node must not vote in this round.
    lost: bool,
    /// The last vote and accept seen of every member, to find those who sign two.
    seen_votes: BTreeMap<NodeId, Vote>,
    seen_accepts: BTreeMap<NodeId, Accept>,
}

impl BallotBox {
    pub(super) fn restored(found: Option<RecoveredBallot>, core: &Core) -> Self {
        let Some(found) = found else { return Self::default() };
        let lost = found.accepted.as_ref().is_some_and(|p| !core.blobs.contains(&p.record.model.id));
        Self { vote: found.vote, accepted: found.accepted, lost, ..Self::default() }
    }

    /// The highest ballot voted or accepted in.
    pub(super) fn promised(&self) -> Option<Ballot> {
        self.vote.as_ref().map(|v| v.ballot).max(self.accepted.as_ref().map(|p| p.ballot))
    }

    pub(super) fn vote(&self) -> Option<&Vote> {
        self.vote.as_ref()
    }

    pub(super) fn accepted(&self) -> Option<&Proposal> {
        self.accepted.as_ref()
    }

    pub(super) fn accepted_on_disk(&self, core: &Core) -> Option<&Proposal> {
        let written = self.accepted_write.is_none_or(|id| core.is_written(id));
        self.accepted.as_ref().filter(|_| written)
    }

    /// Whether this node may vote for `candidate` in `ballot`, or has.
    pub(super) fn may_vote(&self, core: &Core, ballot: Ballot, candidate: NodeId) -> Result<(), Reject> {
        if self.lost {
            return Err(Reject::ModelMissing);
        }
        if core.is_broken(Fault::SkipBallotCheck) {
            return Ok(());
        }
        match &self.vote {
            Some(vote) if vote.ballot == ballot && vote.candidate == candidate => return Ok(()),
            Some(vote) if vote.ballot == ballot => return Err(Reject::VotedForAnother),
            _ => {}
        }
        if self.promised().is_some_and(|p| ballot <= p) { Err(Reject::StaleBallot) } else { Ok(()) }
    }

    /// Votes, or repeats the vote given in this ballot; the message leaves when the vote is on disk. Call after
    /// `may_vote`.
    pub(super) fn cast(
        &mut self,
        core: &mut Core,
        scope: &Scope,
        ballot: Ballot,
        candidate: NodeId,
        silent: Vec<NodeId>,
    ) {
        let genesis = scope.genesis;
        let repeated = self.vote.as_ref().filter(|v| v.ballot == ballot && v.candidate == candidate);
        if let Some(vote) = repeated {
            let vote = vote.clone();
            let message = Message::Vote { genesis, vote: vote.clone() };
            if self.vote_write.is_none_or(|id| core.is_written(id)) {
                core.send(candidate, message);
            } else if self.vote_write.is_some_and(|id| core.has_failed(id)) {
                // The disk may have room again.
                let write = core.persist_then(Persist::Vote { genesis, vote }, vec![Held::Send(candidate, message)]);
                self.vote_write = Some(write);
            }
            return;
        }
        let accepted = self.accepted.as_ref().map(|p| (p.ballot, p.record.hash()));
        let vote = Vote::new(&core.identity, scope, ballot, candidate, accepted, silent);
        self.vote = Some(vote.clone());
        let message = Message::Vote { genesis, vote: vote.clone() };
        let write = core.persist_then(Persist::Vote { genesis, vote }, vec![Held::Send(candidate, message)]);
        self.vote_write = Some(write);
    }

    /// Whether this node may accept `value` in `ballot`.
    pub(super) fn may_accept(&self, core: &Core, ballot: Ballot, value: Hash) -> Result<(), Reject> {
        if self.lost {
            return Err(Reject::ModelMissing);
        }
        if core.is_broken(Fault::SkipBallotCheck) {
            return Ok(());
        }
        if self.promised().is_some_and(|p| ballot < p) {
            return Err(Reject::StaleBallot);
        }
        let other = |p: &Proposal| p.ballot == ballot && p.record.hash() != value;
        if self.accepted.as_ref().is_some_and(other) { Err(Reject::Twice) } else { Ok(()) }
    }

    /// Accepts a proposal, of this node or of another; the accept leaves when it is on disk, and with it, if it is this
    /// node's, the proposal. Call after `may_accept`, with the model on disk.
    pub(super) fn accept(&mut self, core: &mut Core, scope: &Scope, proposal: Proposal) {
        let genesis = scope.genesis;
        let value = proposal.record.hash();
        let accept = Accept::new(&core.identity, scope, proposal.ballot, proposal.coordinator, value);
        let mut messages = Vec::new();
        if proposal.coordinator == core.me {
            messages.push(Held::Broadcast(Message::Proposal(proposal.clone())));
        }
        messages.push(Held::Send(proposal.coordinator, Message::Accept { genesis, accept }));
        self.accepted = Some(proposal.clone());
        self.accepted_write = Some(core.persist_then(Persist::Accepted { genesis, proposal }, messages));
    }

    /// The accept given for `value` in `ballot`, if it was and is on disk.
    pub(super) fn accept_again(&self, core: &Core, scope: &Scope, ballot: Ballot, value: Hash) -> Option<Accept> {
        let proposal = self.accepted_on_disk(core).filter(|p| p.ballot == ballot && p.record.hash() == value)?;
        Some(Accept::new(&core.identity, scope, ballot, proposal.coordinator, value))
    }

    /// Remembers a vote whose signature holds. Two for one ballot are a lie.
    pub(super) fn witness_vote(&mut self, scope: &Scope, vote: &Vote) -> Option<Evidence> {
        let before = self.seen_votes.insert(vote.voter, vote.clone())?;
        let lie = before.ballot == vote.ballot && before != *vote;
        lie.then(|| Evidence::Votes { parent: scope.parent, votes: Box::new((before, vote.clone())) })
    }

    /// Remembers an accept whose signature holds. Two of different records for one ballot are a lie.
    pub(super) fn witness_accept(&mut self, scope: &Scope, accept: &Accept) -> Option<Evidence> {
        let before = self.seen_accepts.insert(accept.acceptor, *accept)?;
        let lie = before.ballot == accept.ballot && before.value != accept.value;
        lie.then_some(Evidence::Accepts { parent: scope.parent, accepts: (before, *accept) })
    }
}
