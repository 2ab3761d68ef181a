//! Elections: who would vote for whom, and when a candidate has won.

use crate::core::{Core, Fault};
use crate::ids::{Ballot, NodeId};
use crate::machine::Event;
use crate::message::{Message, Opened};
use crate::record::Vote;
use crate::reject::Reject;
use crate::timing::RETRY_MS;

use super::lead::Lead;
use super::{Contest, Stage, Turn};

impl Contest {
    /// It is this node's turn to stand. In attempt 0 it asks for votes at once; later it first asks, unbound, whether a
    /// quorum would vote for it, so that a node that is cut off does not run ahead.
    pub(super) fn come_forward(&mut self, core: &mut Core) {
        let ballot = self.ballot();
        let able = core.blobs.contains(&self.model.id);
        if !able || self.ballot_box.may_vote(core, ballot, core.me).is_err() {
            return;
        }
        if self.attempt == 0 {
            return self.stand(core);
        }
        let until = self.stage_until().unwrap_or(core.now);
        self.stage = Stage::Canvassing { yes: vec![core.me], ask_at: core.now.plus_ms(RETRY_MS), until };
        self.ask_for_votes(core);
        self.count_canvass(core);
    }

    /// When the present election ends without result.
    fn stage_until(&self) -> Option<crate::ids::Time> {
        match &self.stage {
            Stage::Electing { until, .. } | Stage::Canvassing { until, .. } | Stage::Standing { until, .. } => {
                Some(*until)
            }
            _ => None,
        }
    }

    fn stand(&mut self, core: &mut Core) {
        let ballot = self.ballot();
        let now = core.now;
        let until = now.plus_ms(self.election_ms());
        self.stage = Stage::Standing { votes: Default::default(), asked: now, ask_at: now.plus_ms(RETRY_MS), until };
        let silent = core.peers.silent(&self.roster, core.me, now, self.round);
        self.ballot_box.cast(core, &self.scope, ballot, core.me, silent);
        self.ask_for_votes(core);
    }

    /// Asks those who have not answered.
    pub(super) fn ask_for_votes(&mut self, core: &mut Core) {
        let (genesis, ballot) = (self.scope.genesis, self.ballot());
        let (message, answered): (_, Vec<NodeId>) = match &self.stage {
            Stage::Canvassing { yes, .. } => (Message::Canvass { genesis, ballot }, yes.clone()),
            Stage::Standing { votes, .. } => {
                (Message::VoteRequest { genesis, ballot }, votes.keys().copied().collect())
            }
            _ => return,
        };
        let me = core.me;
        for node in self.roster.nodes().filter(|n| *n != me && !answered.contains(n)) {
            core.send(node, message.clone());
        }
    }

    /// Whether this node would vote for `candidate` in `ballot` now: nothing that it promised is against it, and the
    /// present attempt is over for it.
    fn would_vote(&mut self, core: &Core, ballot: Ballot, candidate: NodeId) -> Result<(), Reject> {
        if ballot.round != self.round {
            return Err(if ballot.round < self.round { Reject::StaleRound } else { Reject::FutureRound });
        }
        if !self.is_voter(core) || !self.roster.contains(candidate) {
            return Err(Reject::Stranger);
        }
        if core.is_broken(Fault::SkipBallotCheck) {
            return Ok(());
        }
        self.ballot_box.may_vote(core, ballot, candidate)?;
        if self.ballot_box.vote().is_some_and(|v| v.ballot == ballot && v.candidate == candidate) {
            return Ok(());
        }
        if ballot.attempt > self.window_end() {
            // Every election time in which this alone is in the way, the window doubles: whoever was away for long
            // catches up with the others.
            if core.now.since_ms(self.window.1) >= self.election_ms() {
                self.window = (self.window.0 + 1, core.now);
            }
            return Err(Reject::BallotTooHigh);
        }
        let free = match &self.stage {
            Stage::Following { .. } | Stage::Leading(_) | Stage::Standing { .. } => false,
            // Whoever voted in the present attempt gives that candidate its time.
            Stage::Electing { .. } | Stage::Canvassing { .. } => {
                self.ballot_box.vote().is_none_or(|v| v.ballot.attempt != self.attempt)
            }
        };
        if free { Ok(()) } else { Err(Reject::AttemptGoesOn) }
    }

    fn refuse_vote(&self, core: &mut Core, to: NodeId, ballot: Ballot, reject: Reject) {
        let (genesis, highest) = (self.scope.genesis, self.highest_ballot());
        core.send(to, Message::VoteRefused { genesis, ballot, reject, highest });
    }

    pub(super) fn on_canvass(&mut self, core: &mut Core, from: NodeId, ballot: Ballot) {
        match self.would_vote(core, ballot, from) {
            Ok(()) => core.send(from, Message::WouldVote { genesis: self.scope.genesis, ballot }),
            Err(reject) => self.refuse_vote(core, from, ballot, reject),
        }
    }

    pub(super) fn on_would_vote(&mut self, core: &mut Core, from: NodeId, ballot: Ballot) {
        let present = self.ballot();
        if let Stage::Canvassing { yes, .. } = &mut self.stage
            && ballot == present
            && !yes.contains(&from)
        {
            yes.push(from);
            self.count_canvass(core);
        }
    }

    fn count_canvass(&mut self, core: &mut Core) {
        if matches!(&self.stage, Stage::Canvassing { yes, .. } if yes.len() >= self.roster.quorum()) {
            self.stand(core);
        }
    }

    pub(super) fn on_vote_request(&mut self, core: &mut Core, from: NodeId, ballot: Ballot) {
        if let Err(reject) = self.would_vote(core, ballot, from) {
            return self.refuse_vote(core, from, ballot, reject);
        }
        let repeated = self.ballot_box.vote().is_some_and(|v| v.ballot == ballot);
        let silent = core.peers.silent(&self.roster, core.me, core.now, self.round);
        self.ballot_box.cast(core, &self.scope, ballot, from, silent);
        if !repeated {
            self.attempt = self.attempt.max(ballot.attempt);
            self.stage = Stage::Electing { stand_at: None, until: core.now.plus_ms(self.election_ms()) };
        }
    }

    pub(super) fn on_vote(&mut self, core: &mut Core, from: NodeId, vote: Vote) {
        let present = self.ballot();
        let fits = vote.voter == from && vote.candidate == core.me && vote.ballot == present;
        let Stage::Standing { asked, .. } = &self.stage else { return };
        let vote_ms = core.now.since_ms(*asked);
        if !fits || !vote.is_plausible() {
            return core.reject(from, Reject::StaleBallot);
        }
        if from != core.me && !vote.verifies(&self.scope) {
            return core.reject(from, Reject::BadSignature);
        }
        self.witness_votes(std::slice::from_ref(&vote));
        core.peers.note_vote_ms(vote_ms);
        let Stage::Standing { votes, .. } = &mut self.stage else { return };
        votes.insert(from, vote);
        if votes.len() >= self.roster.quorum() {
            let votes = std::mem::take(votes).into_values().collect();
            self.elected(core, votes);
        }
    }

    /// A quorum voted for this node. What they accepted before binds it.
    fn elected(&mut self, core: &mut Core, votes: Vec<Vote>) {
        let ballot = self.ballot();
        self.elected = Some(ballot);
        self.failures = 0;
        core.emit(Event::Elected { ballot });
        let bound = votes.iter().filter_map(|v| v.accepted).max_by_key(|(ballot, _)| *ballot);
        let opened = Opened {
            genesis: self.scope.genesis,
            ballot,
            parent: self.scope.parent,
            coordinator: core.me,
            votes,
            model: self.model,
            opening: None,
        };
        self.stage = Stage::Leading(Box::new(Lead::new(core.now, opened)));
        match bound {
            Some((_, value)) if !core.is_broken(Fault::IgnoreAccepted) => self.recover(core, value),
            _ => {
                self.announce(core);
                self.turns.push_back(Turn::Elected);
            }
        }
    }
}
