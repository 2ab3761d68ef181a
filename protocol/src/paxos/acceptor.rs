//! What a node has voted for and accepted in one round, and what it may still. Nothing else in the crate decides that:
//! safety is here, on one page.
//!
//! * One vote a ballot, and only above the promise: the highest ballot voted or accepted in, or decided.
//! * One accept a ballot, at or above the promise.
//! * A vote tells what was accepted, with its coordinator's signature. A vote or accept leaves only when it is on disk, and
//!   is repeated as it was.
//!
//! The promise is the chain's (`Context::promise`) and outlives rounds, records and restarts.

use crate::base::ids::{Ballot, Hash, NodeId};
#[cfg(test)]
use crate::base::plant::{Fault, is_planted};
use crate::base::reject::Reject;
use crate::base::roster::Roster;
use crate::base::signed::{Scope, Signed};
use crate::context::{Context, Held};
use crate::io::{Persist, PersistId, RecoveredBallot};
use crate::message::Message;
use crate::paxos::message::Message as Paxos;
use crate::record::{Accept, Proposal, Proposed, Vote};

#[derive(Debug, Clone)]
pub(super) struct Acceptor {
    scope: Scope,
    vote: Option<Signed<Vote>>,
    accepted: Option<Proposal>,
    /// The writes that brought them to disk. `None` for what was found there at the start: after a failed write it may be
    /// read back and not be durable, so it is written again before it is repeated.
    vote_write: Option<PersistId>,
    accepted_write: Option<PersistId>,
    /// What this node promised in this round is not all there any more, or the model that it accepted is not: it must not
    /// vote or accept in this round.
    abstains: bool,
}

impl Acceptor {
    pub(super) fn new(ctx: &Context, scope: Scope, round: u64, found: Option<RecoveredBallot>) -> Self {
        let (vote, accepted) = found.map_or((None, None), |f| (f.vote, f.accepted));
        let told = vote.as_ref().map(|v| v.vouched().ballot);
        let explained = told.max(accepted.as_ref().map(|p| p.proposed.vouched().ballot));
        let promised = ctx.promise(scope.chain).filter(|p| p.round == round);
        let has_model = |p: &Proposal| !needs_model(p) || ctx.blobs.contains(&p.record.model.id);
        let abstains = promised > explained || !accepted.as_ref().is_none_or(has_model);
        Self { scope, vote, accepted, vote_write: None, accepted_write: None, abstains }
    }

    /// The highest ballot of this round that was voted or accepted in.
    pub(super) fn promised(&self, ctx: &Context, round: u64) -> Option<Ballot> {
        ctx.promise(self.scope.chain).filter(|p| p.round == round)
    }

    pub(super) fn has_voted_in(&self, ballot: Ballot) -> bool {
        self.vote.as_ref().is_some_and(|v| v.vouched().ballot == ballot)
    }

    /// What was accepted last, on disk or on its way there.
    pub(super) fn accepted(&self) -> Option<&Proposal> {
        self.accepted.as_ref()
    }

    pub(super) fn accepted_in(&self) -> Option<Proposed> {
        self.accepted.as_ref().map(|p| *p.proposed.vouched())
    }

    /// What was accepted last, once it is on disk: so that whoever is shown it is shown a fact.
    pub(super) fn accepted_on_disk(&self, ctx: &Context) -> Option<&Proposal> {
        self.accepted.as_ref().filter(|_| self.accepted_write.is_none_or(|id| ctx.is_written(id)))
    }

    /// Whether [`Acceptor::vote`] would vote. Binds nobody.
    pub(super) fn would_vote(&self, ctx: &Context, ballot: Ballot, candidate: NodeId) -> Result<(), Reject> {
        if self.abstains {
            return Err(Reject::ModelMissing);
        }
        match self.vote.as_ref().map(Signed::vouched).filter(|v| v.ballot == ballot) {
            Some(vote) if vote.candidate == candidate => return Ok(()),
            Some(_) => return Err(Reject::VotedForAnother),
            None => {}
        }
        #[cfg(test)]
        if is_planted(Fault::VoteBelowPromise) {
            return Ok(());
        }
        if ctx.promise(self.scope.chain).is_some_and(|promise| ballot <= promise) {
            return Err(Reject::StaleBallot);
        }
        Ok(())
    }

    /// Votes for `candidate` in `ballot`, or says again that it has; the vote leaves when it is on disk.
    pub(super) fn vote(
        &mut self,
        ctx: &mut Context,
        ballot: Ballot,
        candidate: NodeId,
        silent: Vec<NodeId>,
    ) -> Result<(), Reject> {
        self.would_vote(ctx, ballot, candidate)?;
        let chain = self.scope.chain;
        let vote = match self.vote.take().filter(|v| v.vouched().ballot == ballot) {
            Some(vote) => vote,
            None => {
                self.vote_write = None;
                let accepted = self.accepted.as_ref().map(|p| p.proposed);
                Signed::new(&ctx.identity, &self.scope, Vote { ballot, candidate, accepted, silent })
            }
        };
        let message = Message::paxos(chain, ballot, Paxos::Vote(vote.clone()));
        self.vote = Some(vote.clone());
        match self.vote_write {
            Some(id) if ctx.is_written(id) => ctx.send(candidate, message),
            // It leaves when it is on disk.
            Some(_) => {}
            None => {
                let held = vec![Held::Send(candidate, message)];
                self.vote_write = Some(ctx.persist_then(Persist::Vote { chain, vote }, held));
            }
        }
        Ok(())
    }

    fn may_accept(&self, ctx: &Context, proposed: Proposed) -> Result<(), Reject> {
        if self.abstains {
            return Err(Reject::ModelMissing);
        }
        #[cfg(test)]
        if is_planted(Fault::AcceptBelowPromise) {
            return Ok(());
        }
        if ctx.promise(self.scope.chain).is_some_and(|promise| proposed.ballot < promise) {
            return Err(Reject::StaleBallot);
        }
        let other = |p: &Proposed| p.ballot == proposed.ballot && p.value != proposed.value;
        if self.accepted_in().as_ref().is_some_and(other) { Err(Reject::Twice) } else { Ok(()) }
    }

    /// Whether [`Acceptor::accept`] would accept, were the model on disk.
    pub(super) fn would_accept(&self, ctx: &Context, proposed: Proposed) -> Result<(), Reject> {
        self.may_accept(ctx, proposed)
    }

    /// Accepts a proposal, of this node or of another, whose coordinator's word was checked; the accept leaves when it is on
    /// disk, and with it, if it is this node's, the proposal to the whole roster.
    pub(super) fn accept(&mut self, ctx: &mut Context, proposal: Proposal, roster: &Roster) -> Result<(), Reject> {
        let (proposed, coordinator) = (*proposal.proposed.vouched(), proposal.coordinator());
        self.may_accept(ctx, proposed)?;
        if needs_model(&proposal) && !ctx.blobs.contains(&proposal.record.model.id) {
            return Err(Reject::ModelMissing);
        }
        let chain = self.scope.chain;
        let mut held = Vec::new();
        if coordinator == ctx.me {
            let message = Message::paxos(chain, proposed.ballot, Paxos::Proposal(proposal.clone()));
            let others = roster.nodes().filter(|node| *node != ctx.me);
            held.extend(others.map(|node| Held::Send(node, message.clone())));
        }
        held.push(Held::Send(coordinator, self.accept_message(ctx, proposed, coordinator)));
        self.accepted = Some(proposal.clone());
        self.accepted_write = Some(ctx.persist_then(Persist::Accepted { chain, proposal }, held));
        Ok(())
    }

    fn accept_message(&self, ctx: &Context, proposed: Proposed, coordinator: NodeId) -> Message {
        let Proposed { ballot, value } = proposed;
        let accept = Signed::new(&ctx.identity, &self.scope, Accept { ballot, coordinator, value });
        Message::paxos(self.scope.chain, ballot, Paxos::Accept(accept))
    }

    /// Says again that `value` was accepted in `ballot`, if it was. Answers whether it was.
    pub(super) fn repeat_accept(&mut self, ctx: &mut Context, ballot: Ballot, value: Hash) -> bool {
        let Some(proposal) = &self.accepted else { return false };
        let (proposed, coordinator) = (*proposal.proposed.vouched(), proposal.coordinator());
        if self.abstains || proposed != (Proposed { ballot, value }) {
            return false;
        }
        let message = self.accept_message(ctx, proposed, coordinator);
        match self.accepted_write {
            Some(id) if ctx.is_written(id) => ctx.send(coordinator, message),
            Some(_) => {}
            None => {
                let item = Persist::Accepted { chain: self.scope.chain, proposal: proposal.clone() };
                self.accepted_write = Some(ctx.persist_then(item, vec![Held::Send(coordinator, message)]));
            }
        }
        true
    }
}

/// Whether a proposal can be accepted only with its model on disk: all but those that name none.
pub(super) fn needs_model(proposal: &Proposal) -> bool {
    proposal.record.model != crate::base::ids::BlobRef::NONE
}
