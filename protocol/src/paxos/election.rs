//! Elections: who campaigns when, whom a voter votes for and when, and when a candidate has won.
//!
//! The order of candidates is kept by both sides. A candidate of rank k campaigns after k steps; a voter holds its request
//! back until k steps of its own waiting are over. Who is not connected, or gave up in this round, is passed over. The wait
//! ends after half of an election, so it costs time and never the round.

use std::collections::BTreeMap;

use crate::base::ids::{Ballot, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::{ELECTION_DOUBLINGS_MAX, ELECTION_MS, RETRY_MS, STEP_MS_MAX, STEP_MS_MIN};
use crate::chain::highest_accepted;
use crate::context::Context;
use crate::io::Event;
use crate::message::Message;
use crate::paxos::message::{Message as Paxos, RoundPlan};
use crate::record::{Proposed, Vote};

use super::proposer::Proposer;
use super::{Instance, Opened, Output, Role};

/// A request that waits for its candidate's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) ballot: Ballot,
    /// Whether a vote is asked for, or only whether there would be one.
    pub(super) binding: bool,
}

impl Instance {
    pub(super) fn election_ms(&self) -> u64 {
        ELECTION_MS << self.failures.min(ELECTION_DOUBLINGS_MAX)
    }

    /// How long each candidate is given before the next one.
    pub(super) fn step_ms(ctx: &Context) -> u64 {
        (2 * ctx.peers.vote_ms_p95()).clamp(STEP_MS_MIN, STEP_MS_MAX)
    }

    /// How many candidates come before this one in the present attempt, those left out that can't be waited for.
    pub(super) fn rank(&self, ctx: &Context, candidate: NodeId) -> u64 {
        let can_stand = |node: &NodeId| {
            let is_here = *node == ctx.me || ctx.peers.is_here(*node);
            is_here && !self.stepped_down.contains(node)
        };
        self.order.iter().take_while(|n| **n != candidate).filter(|n| can_stand(n)).count() as u64
    }

    /// When a voter may vote for this candidate in the present attempt.
    fn turn_of(&self, ctx: &Context, candidate: NodeId) -> Time {
        let wait_ms = self.rank(ctx, candidate) * Self::step_ms(ctx);
        self.attempt_began.plus_ms(wait_ms.min(self.election_ms() / 2))
    }

    /// It is this node's turn. In attempt 0 it asks for votes at once; later it first asks, unbound, whether a quorum would
    /// vote for it, so that a node that is cut off does not run ahead. Whose disk fails leaves it to others: it could take no
    /// update.
    pub(super) fn campaign(&mut self, ctx: &mut Context) {
        let ballot = self.ballot();
        if !self.has_model(ctx) || ctx.is_disk_failing() || self.acceptor.would_vote(ctx, ballot, ctx.me).is_err() {
            return;
        }
        if self.attempt == 0 {
            return self.stand(ctx);
        }
        let until = self.election_ends().unwrap_or(ctx.now);
        self.role = Role::PreCandidate { granted: vec![ctx.me], ask_at: ctx.now.plus_ms(RETRY_MS), until };
        self.ask_for_votes(ctx);
        self.count_pre_votes(ctx);
    }

    /// When the present election ends without result.
    pub(super) fn election_ends(&self) -> Option<Time> {
        match &self.role {
            Role::Waiting { until, .. } | Role::PreCandidate { until, .. } | Role::Candidate { until, .. } => {
                Some(*until)
            }
            Role::Follower { .. } | Role::Coordinator(_) => None,
        }
    }

    fn stand(&mut self, ctx: &mut Context) {
        let (ballot, now, me) = (self.ballot(), ctx.now, ctx.me);
        let until = now.plus_ms(self.election_ms());
        let silent = ctx.peers.silent(&self.roster, me, now, self.round);
        if self.acceptor.vote(ctx, ballot, me, silent).is_err() {
            return;
        }
        self.role = Role::Candidate { votes: BTreeMap::new(), asked: now, ask_at: now.plus_ms(RETRY_MS), until };
        self.ask_for_votes(ctx);
    }

    /// Asks those who have not answered.
    pub(super) fn ask_for_votes(&mut self, ctx: &mut Context) {
        let (message, answered): (_, Vec<NodeId>) = match &self.role {
            Role::PreCandidate { granted, .. } => (Paxos::PreVote, granted.clone()),
            Role::Candidate { votes, .. } => (Paxos::VoteRequest, votes.keys().copied().collect()),
            Role::Waiting { .. } | Role::Follower { .. } | Role::Coordinator(_) => return,
        };
        let message = Message::paxos(self.scope.chain, self.ballot(), message);
        let me = ctx.me;
        for node in self.roster.nodes().filter(|n| *n != me && !answered.contains(n)) {
            ctx.send(node, message.clone());
        }
    }

    /// Somebody asks for this node's vote, or whether it would have it.
    pub(super) fn on_request(&mut self, ctx: &mut Context, from: NodeId, request: Request) {
        match self.judge(ctx, from, request.ballot) {
            Ok(turn) if turn <= ctx.now => self.answer(ctx, from, request),
            Ok(_) => {
                self.requests.insert(from, request);
            }
            Err(reject) => self.refuse(ctx, from, request.ballot, reject),
        }
    }

    /// When this node would vote for `candidate` in `ballot`: what it promised is not against it, and the present attempt
    /// leaves it free.
    fn judge(&mut self, ctx: &Context, candidate: NodeId, ballot: Ballot) -> Result<Time, Reject> {
        if !self.is_voter(ctx) || !self.roster.contains(candidate) {
            return Err(Reject::Stranger);
        }
        self.acceptor.would_vote(ctx, ballot, candidate)?;
        if self.acceptor.has_voted_in(ballot) {
            return Ok(ctx.now);
        }
        if ballot.attempt > self.window_end(ctx) {
            // Every election time in which this alone is in the way, the window doubles: whoever was away for long
            // catches up with the others.
            if ctx.now.since_ms(self.window_doubled_at) >= self.election_ms() {
                (self.window_doublings, self.window_doubled_at) = (self.window_doublings + 1, ctx.now);
            }
            return Err(Reject::BallotTooHigh);
        }
        match &self.role {
            Role::Follower { .. } | Role::Coordinator(_) | Role::Candidate { .. } => Err(Reject::AttemptGoesOn),
            // Whoever voted in the present attempt gives that candidate its time.
            Role::Waiting { .. } | Role::PreCandidate { .. } if self.acceptor.has_voted_in(self.ballot()) => {
                Err(Reject::AttemptGoesOn)
            }
            // One for a later attempt has to wait until the present one is over.
            Role::Waiting { until, .. } | Role::PreCandidate { until, .. } if ballot.attempt > self.attempt => {
                Ok(until.plus_ms(1))
            }
            Role::Waiting { .. } | Role::PreCandidate { .. } => Ok(self.turn_of(ctx, candidate)),
        }
    }

    fn answer(&mut self, ctx: &mut Context, to: NodeId, request: Request) {
        let Request { ballot, binding } = request;
        if !binding {
            return ctx.send(to, Message::paxos(self.scope.chain, ballot, Paxos::PreVoteGranted));
        }
        let fresh = !self.acceptor.has_voted_in(ballot);
        let silent = ctx.peers.silent(&self.roster, ctx.me, ctx.now, self.round);
        match self.acceptor.vote(ctx, ballot, to, silent) {
            Ok(()) if fresh => {
                self.attempt = self.attempt.max(ballot.attempt);
                let until = ctx.now.plus_ms(self.election_ms());
                self.role = Role::Waiting { campaign_at: None, until };
            }
            Ok(()) => {}
            Err(reject) => self.refuse(ctx, to, ballot, reject),
        }
    }

    fn refuse(&self, ctx: &mut Context, to: NodeId, ballot: Ballot, reject: Reject) {
        let highest = Ballot { round: self.round, attempt: self.highest(ctx) };
        ctx.send(to, Message::paxos(self.scope.chain, ballot, Paxos::VoteRefused { reject, highest }));
    }

    /// When the first of the requests that wait is due.
    pub(super) fn requests_due(&self, ctx: &Context) -> Option<Time> {
        let present = self.requests.iter().filter(|(_, r)| r.ballot.attempt == self.attempt);
        present.map(|(candidate, _)| self.turn_of(ctx, *candidate)).min()
    }

    /// Answers the requests whose turn has come, those of the first in the order first.
    pub(super) fn answer_requests(&mut self, ctx: &mut Context) {
        if self.requests.is_empty() {
            return;
        }
        self.requests.retain(|_, r| r.ballot.attempt >= self.attempt);
        let present = |n: &NodeId| self.requests.get(n).is_some_and(|r| r.ballot.attempt == self.attempt);
        let in_order: Vec<NodeId> = self.order.iter().filter(|n| present(n)).copied().collect();
        for candidate in in_order {
            if self.turn_of(ctx, candidate) <= ctx.now
                && let Some(request) = self.requests.remove(&candidate)
            {
                self.on_request(ctx, candidate, request);
            }
        }
    }

    pub(super) fn on_pre_vote_granted(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot) {
        let present = self.ballot();
        // Its vote may not count.
        if self.is_doubted(ctx, from) && self.are_enough_undoubted(ctx) {
            return;
        }
        if let Role::PreCandidate { granted, .. } = &mut self.role
            && ballot == present
            && !granted.contains(&from)
        {
            granted.push(from);
            self.count_pre_votes(ctx);
        }
    }

    /// Whether what a voter claims to have accepted is better left alone. Any quorum of votes will do: where it was
    /// decided, others claim it too.
    fn is_doubted(&self, ctx: &Context, voter: NodeId) -> bool {
        self.unproven.contains(&voter) || ctx.peers.doubted(voter).is_some()
    }

    /// Whether those that are here make a quorum without the doubted ones.
    pub(super) fn are_enough_undoubted(&self, ctx: &Context) -> bool {
        let is_counted = |n: &NodeId| *n == ctx.me || ctx.peers.is_here(*n) && !self.is_doubted(ctx, *n);
        self.roster.nodes().filter(is_counted).count() >= self.roster.quorum()
    }

    fn count_pre_votes(&mut self, ctx: &mut Context) {
        if matches!(&self.role, Role::PreCandidate { granted, .. } if granted.len() >= self.roster.quorum()) {
            self.stand(ctx);
        }
    }

    pub(super) fn on_vote(&mut self, ctx: &mut Context, from: NodeId, vote: Signed<Vote>) {
        let Role::Candidate { asked, .. } = &self.role else { return };
        let (vote_ms, present, scope) = (ctx.now.since_ms(*asked), self.ballot(), self.scope);
        let opened = vote.open(&scope, &ctx.verifier).and_then(|v| Ok((v, v.accepted(&scope, &ctx.verifier)?)));
        let (content, claim) = match opened {
            Ok(opened) => opened,
            Err(reject) => return ctx.reject(from, reject),
        };
        if vote.by() != from || content.candidate != ctx.me || content.ballot != present {
            return ctx.reject(from, Reject::StaleBallot);
        }
        if claim.is_some() && self.is_doubted(ctx, from) && self.are_enough_undoubted(ctx) {
            return;
        }
        self.witness_votes(std::slice::from_ref(&vote));
        ctx.peers.note_vote_ms(vote_ms);
        let Role::Candidate { votes, .. } = &mut self.role else { return };
        votes.insert(from, vote);
        if votes.len() >= self.roster.quorum() {
            let votes = std::mem::take(votes).into_values().collect();
            self.elected(ctx, votes);
        }
    }

    /// A quorum voted for this node. What they accepted before binds it.
    fn elected(&mut self, ctx: &mut Context, votes: Vec<Signed<Vote>>) {
        let ballot = self.ballot();
        self.saw_elected(ballot);
        ctx.emit(Event::Elected { ballot });
        let bound = highest_accepted(&votes);
        #[cfg(test)]
        let bound = bound.filter(|_| !crate::base::plant::is_planted(crate::base::plant::Fault::AcceptedPassedOver));
        let plan = RoundPlan { ballot, version: 0, task: None };
        let opened = Opened { coordinator: ctx.me, plan, plan_hash: crate::base::ids::Hash::ZERO, votes };
        self.role = Role::Coordinator(Box::new(Proposer::new(ctx.now, opened)));
        match bound {
            Some(claim) => self.recover(ctx, claim),
            None => {
                self.announce(ctx, None);
                self.outputs.push_back(Output::Elected);
            }
        }
    }

    /// The other voters that say that they accepted this.
    pub(super) fn others_who_claim(votes: &[Signed<Vote>], claim: Signed<Proposed>, me: NodeId) -> Vec<NodeId> {
        let value = claim.vouched().value;
        let claims = |v: &&Signed<Vote>| v.vouched().accepted.is_some_and(|a| a.vouched().value == value);
        votes.iter().filter(claims).map(Signed::by).filter(|n| *n != me).collect()
    }
}
