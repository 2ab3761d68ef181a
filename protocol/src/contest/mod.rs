//! One decision among one roster: single-decree Paxos with elected candidates (design 4.3).
//!
//! A contest decides the record of one round, or in round 0 whether a founding comes about. It knows ballots, votes,
//! proposals and accepts; what is proposed, and when, is its owner's business. The owner feeds it messages and time and
//! takes the [`Turn`]s: I am elected, somebody is, it is decided.
//!
//! ```text
//!            stand_at            quorum of votes                  quorum of accepts
//!  Electing ──────────► Standing ───────────────► Leading ────────────────────────► decided
//!     ▲  │ ▲  (attempt > 0: Canvassing first)        │
//!     │  │ └────────── attempt over ◄────────────────┘
//!     │  └ Opened, Proposal with valid votes ► Following ── no beat, gone, gave up ──► next attempt
//!     └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What keeps it safe is in [`ballot_box`]; the rest of the contest is about getting done.

mod ballot_box;
mod lead;
mod vote;

use std::collections::{BTreeMap, VecDeque};

use crate::bounds::ATTEMPT_WINDOW;
use crate::chain::check_votes;
use crate::core::Core;
use crate::ids::{Ballot, BlobRef, Hash, NodeId, Time};
use crate::machine::{Event, Purpose, RecoveredBallot};
use crate::message::{Ask, Beat, Message, Opened, Phase, Proposal};
use crate::record::{Accept, Committed, Evidence, Record, Vote};
use crate::reject::Reject;
use crate::roster::Roster;
use crate::sign::Scope;
use crate::timing::{
    ELECTION_DOUBLINGS_MAX, ELECTION_MS, RETRY_MS, SILENCE_MS, STEP_MS_MAX, STEP_MS_MIN, STUCK_DOUBLINGS_MAX, STUCK_MS,
};

use ballot_box::BallotBox;
use lead::Lead;

/// What a contest tells its owner.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Turn {
    /// This node is elected and free to propose what it likes.
    Elected,
    /// Another coordinator is at work, or changed its plan.
    Following,
    /// The value is decided.
    Decided(Box<Committed>),
    /// Somebody lied.
    Lie(Box<Evidence>),
}

#[derive(Debug)]
enum Stage {
    /// No coordinator is known. This node stands at `stand_at`, and gives the attempt up at `until`.
    Electing { stand_at: Option<Time>, until: Time },
    /// Asks, unbound, who would vote for it.
    Canvassing { yes: Vec<NodeId>, ask_at: Time, until: Time },
    /// Stands: its own vote is cast.
    Standing { votes: BTreeMap<NodeId, Vote>, asked: Time, ask_at: Time, until: Time },
    /// A coordinator is at work.
    Following { opened: Box<Opened>, heard: Time, since: Time },
    /// This node is the coordinator.
    Leading(Box<Lead>),
}

#[derive(Debug)]
pub(crate) struct Contest {
    scope: Scope,
    round: u64,
    roster: Roster,
    /// The model of the record before: it ranks the candidates, and only who has it stands.
    model: BlobRef,
    ballot_box: BallotBox,
    attempt: u32,
    attempt_began: Time,
    /// The owner's longest round, after which a coordinator is expected to propose.
    round_timeout_ms: u64,
    stage: Stage,
    /// The highest ballot seen elected, with proof.
    elected: Option<Ballot>,
    /// The ballot whose coordinator lived and got nothing done: this node follows it no more.
    abandoned: Option<Ballot>,
    /// Elections in a row that ended without a result.
    failures: u32,
    /// How often the window of attempts was doubled, and when last.
    window: (u32, Time),
    /// The highest attempt that a refusal told of. Hearsay: it speeds up the next attempt within the window.
    hint: u32,
    /// A valid proposal whose model is still on its way.
    awaiting: Option<Proposal>,
    /// When something was last asked for, so that a slow answer is not asked for with every beat.
    asked: BTreeMap<Hash, Time>,
    turns: VecDeque<Turn>,
}

/// How a contest begins.
#[derive(Debug)]
pub(crate) enum Start {
    /// The decision before it was just seen.
    Fresh,
    /// The node has just started, with what it found on disk: others may be at work, so it listens for a while first.
    AfterRestart(Option<RecoveredBallot>),
}

/// How the owner judges a record that is proposed.
pub(crate) type Check<'a> = &'a dyn Fn(&Record) -> Result<(), Reject>;

impl Contest {
    /// A contest for `round` among `roster`. `model`, the one before, ranks the candidates, and whoever lacks it does not
    /// stand.
    pub(crate) fn begin(
        core: &mut Core,
        scope: Scope,
        round: u64,
        roster: Roster,
        model: BlobRef,
        start: Start,
    ) -> Self {
        let (listens, found) = match start {
            Start::Fresh => (false, None),
            Start::AfterRestart(found) => (true, found),
        };
        let ballot_box = BallotBox::restored(found, core);
        let attempt = ballot_box.promised().map_or(0, |b| b.attempt);
        let mut contest = Self {
            scope,
            round,
            roster,
            model,
            ballot_box,
            attempt,
            attempt_began: core.now,
            round_timeout_ms: core.rules.round_timeout_ms,
            stage: Stage::Electing { stand_at: None, until: core.now.plus_ms(SILENCE_MS) },
            elected: None,
            abandoned: None,
            failures: 0,
            window: (0, core.now),
            hint: 0,
            awaiting: None,
            asked: BTreeMap::new(),
            turns: VecDeque::new(),
        };
        if !listens {
            contest.enter(core, 0);
        }
        contest
    }

    pub(crate) fn take_turn(&mut self) -> Option<Turn> {
        self.turns.pop_front()
    }

    /// The present ballot.
    pub(crate) fn ballot(&self) -> Ballot {
        Ballot { round: self.round, attempt: self.attempt }
    }

    pub(crate) fn attempt_began(&self) -> Time {
        self.attempt_began
    }

    /// The elected coordinator and its plan, be it another node or this one.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        match &self.stage {
            Stage::Following { opened, .. } => Some(opened),
            Stage::Leading(lead) => Some(&lead.opened),
            _ => None,
        }
    }

    /// What the coordinator does, as far as this node knows.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match &self.stage {
            Stage::Leading(lead) => Some(lead.phase),
            Stage::Following { .. } if self.awaiting.is_some() || self.has_accepted_present() => Some(Phase::Proposing),
            Stage::Following { opened, .. } if opened.opening.is_none() && self.round > 0 => Some(Phase::Recovering),
            Stage::Following { .. } => Some(Phase::Collecting),
            _ => None,
        }
    }

    fn has_accepted_present(&self) -> bool {
        self.ballot_box.accepted().is_some_and(|p| p.ballot == self.ballot())
    }

    /// The models that must stay on disk for this contest: what was accepted, and what is about to be.
    pub(crate) fn models(&self) -> impl Iterator<Item = Hash> + '_ {
        let accepted = self.ballot_box.accepted().map(|p| p.record.model.id);
        accepted.into_iter().chain(self.awaiting.as_ref().map(|p| p.record.model.id))
    }

    /// When something happens by itself.
    pub(crate) fn deadline(&self) -> Time {
        match &self.stage {
            Stage::Electing { stand_at, until } => stand_at.map_or(*until, |at| at.min(*until)),
            Stage::Canvassing { ask_at, until, .. } | Stage::Standing { ask_at, until, .. } => (*ask_at).min(*until),
            Stage::Following { heard, since, .. } => heard.plus_ms(SILENCE_MS).min(since.plus_ms(self.stuck_ms())),
            Stage::Leading(lead) => lead.deadline(),
        }
    }

    /// How long a coordinator may take although it beats.
    fn stuck_ms(&self) -> u64 {
        self.round_timeout_ms.saturating_add(STUCK_MS << self.attempt.min(STUCK_DOUBLINGS_MAX))
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, core: &mut Core) {
        let now = core.now;
        let stuck_ms = self.stuck_ms();
        match &mut self.stage {
            Stage::Electing { until, .. } | Stage::Canvassing { until, .. } | Stage::Standing { until, .. }
                if now >= *until =>
            {
                self.failures += 1;
                self.next_attempt(core, "no candidate was elected");
            }
            Stage::Electing { stand_at, .. } if stand_at.is_some_and(|at| now >= at) => {
                *stand_at = None;
                self.come_forward(core);
            }
            Stage::Canvassing { ask_at, .. } | Stage::Standing { ask_at, .. } if now >= *ask_at => {
                *ask_at = now.plus_ms(RETRY_MS);
                self.ask_for_votes(core);
            }
            Stage::Following { heard, .. } if now.since_ms(*heard) >= SILENCE_MS => {
                self.next_attempt(core, "the coordinator fell silent");
            }
            Stage::Following { since, .. } if now.since_ms(*since) >= stuck_ms => {
                self.abandoned = self.elected;
                self.next_attempt(core, "the coordinator got nothing committed");
            }
            Stage::Leading(_) => self.lead_tick(core),
            _ => {}
        }
    }

    /// A peer's connection is lost for good, as far as the shell can tell.
    pub(crate) fn peer_down(&mut self, core: &mut Core, peer: NodeId) {
        if matches!(&self.stage, Stage::Following { opened, .. } if opened.coordinator == peer) {
            self.next_attempt(core, "the coordinator is gone");
        }
    }

    /// A blob has come.
    pub(crate) fn fetched(&mut self, core: &mut Core, blob: Hash) {
        if self.awaiting.as_ref().is_some_and(|p| p.record.model.id == blob) {
            self.accept_awaiting(core);
        }
        self.lead_fetched(core, blob);
    }

    /// A blob can't be had.
    pub(crate) fn fetch_failed(&mut self, core: &mut Core, blob: Hash, invalid: Option<Reject>) {
        if let Some(proposal) = self.awaiting.take_if(|p| p.record.model.id == blob) {
            let reject = invalid.unwrap_or(Reject::ModelMissing);
            let genesis = self.scope.genesis;
            let message = Message::ProposalRefused { genesis, ballot: proposal.ballot, reject };
            core.send(proposal.coordinator, message);
            if invalid.is_some() {
                core.reject(proposal.coordinator, reject);
            }
        }
        self.lead_fetch_failed(core, blob);
    }

    fn is_voter(&self, core: &Core) -> bool {
        self.roster.contains(core.me)
    }

    fn election_ms(&self) -> u64 {
        ELECTION_MS << self.failures.min(ELECTION_DOUBLINGS_MAX)
    }

    /// The highest attempt that this node voted in or saw elected.
    fn highest(&self) -> u32 {
        let promised = self.ballot_box.promised().map_or(0, |b| b.attempt);
        promised.max(self.elected.map_or(0, |b| b.attempt))
    }

    fn highest_ballot(&self) -> Ballot {
        Ballot { round: self.round, attempt: self.highest() }
    }

    fn window_end(&self) -> u32 {
        self.highest().saturating_add(ATTEMPT_WINDOW << self.window.0.min(16))
    }

    /// The present attempt is over; the next one begins. Attempts never run further ahead of what others confirmed than
    /// others would follow.
    fn next_attempt(&mut self, core: &mut Core, why: &'static str) {
        core.emit(Event::AttemptOver { ballot: self.ballot(), why });
        let next = self.attempt.max(self.hint.min(self.window_end() - 1)) + 1;
        self.enter(core, next.min(self.highest().saturating_add(ATTEMPT_WINDOW)));
    }

    /// Begins an attempt: this node stands when those before it in the order, as far as they are connected, have had
    /// their step.
    fn enter(&mut self, core: &mut Core, attempt: u32) {
        self.attempt = attempt;
        self.attempt_began = core.now;
        // In a founding there is no model before; its id takes that place.
        let seed = if self.round == 0 { self.scope.genesis } else { self.model.id };
        let order = self.roster.candidates(seed, self.ballot());
        let before = order.iter().take_while(|n| **n != core.me).filter(|n| core.peers.is_connected(**n)).count();
        let step = (2 * core.peers.vote_ms_p95()).clamp(STEP_MS_MIN, STEP_MS_MAX);
        let stand_at = self.is_voter(core).then(|| core.now.plus_ms(before as u64 * step));
        let until = core.now.plus_ms(self.election_ms().max(4 * step));
        self.stage = Stage::Electing { stand_at, until };
    }

    /// Takes a message that belongs to this contest. `check` judges a record that is proposed.
    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, message: Message, check: Check<'_>) {
        if !self.roster.contains(from) && !matches!(message, Message::Ask(_)) {
            return core.reject(from, Reject::Stranger);
        }
        match message {
            Message::Canvass { ballot, .. } => self.on_canvass(core, from, ballot),
            Message::WouldVote { ballot, .. } => self.on_would_vote(core, from, ballot),
            Message::VoteRequest { ballot, .. } => self.on_vote_request(core, from, ballot),
            Message::Vote { vote, .. } => self.on_vote(core, from, vote),
            Message::VoteRefused { highest, .. } => self.hint = self.hint.max(highest.attempt),
            Message::Opened(opened) => self.on_opened(core, from, opened),
            Message::Beat(beat) => self.on_beat(core, from, beat),
            Message::BeatHeard { ballot, promised, .. } => self.on_beat_heard(core, from, ballot, promised),
            Message::GaveUp { ballot, .. } => self.on_gave_up(core, from, ballot),
            Message::Proposal(proposal) => self.on_proposal(core, from, proposal, check),
            Message::Accept { accept, .. } => self.on_accept(core, from, accept),
            Message::ProposalRefused { ballot, reject, .. } => self.on_proposal_refused(core, from, ballot, reject),
            Message::Ask(ask) => self.on_ask(core, from, ask),
            _ => core.reject(from, Reject::WrongKind),
        }
    }

    fn on_opened(&mut self, core: &mut Core, from: NodeId, opened: Opened) {
        if opened.ballot.round != self.round || opened.parent != self.scope.parent {
            return core.reject(from, Reject::WrongParent);
        }
        if self.ballot_box.promised().is_some_and(|p| opened.ballot < p) || self.elected > Some(opened.ballot) {
            return core.reject(from, Reject::StaleBallot);
        }
        if opened.coordinator == core.me {
            return;
        }
        // The votes prove the election, but not the plan: that is the coordinator's own word.
        if from != opened.coordinator {
            return core.reject(from, Reject::NotCoordinator);
        }
        if Some(opened.ballot) <= self.abandoned {
            return core.reject(from, Reject::StaleBallot);
        }
        let votes = check_votes(&opened.votes, &self.scope, &self.roster, opened.ballot, opened.coordinator);
        if let Err(reject) = votes {
            return core.reject(from, reject);
        }
        self.witness_votes(&opened.votes);
        self.follow(core, opened);
    }

    /// A coordinator is proven to be elected.
    fn follow(&mut self, core: &mut Core, opened: Opened) {
        let (now, ballot, coordinator) = (core.now, opened.ballot, opened.coordinator);
        let known = match &self.stage {
            Stage::Following { opened: present, since, heard } if present.ballot == ballot => Some((*since, *heard)),
            _ => None,
        };
        self.elected = self.elected.max(Some(ballot));
        self.failures = 0;
        if known.is_none() {
            self.attempt = ballot.attempt;
            self.attempt_began = now;
            core.emit(Event::Following { ballot, coordinator });
        }
        // Only beats show that a coordinator lives; its plan said again does not.
        let (since, heard) = known.unwrap_or((now, now));
        self.stage = Stage::Following { opened: Box::new(opened), heard, since };
        self.turns.push_back(Turn::Following);
    }

    fn on_beat(&mut self, core: &mut Core, from: NodeId, beat: Beat) {
        let genesis = self.scope.genesis;
        let promised = self.ballot_box.promised().unwrap_or(Ballot { round: self.round, attempt: 0 });
        if self.is_voter(core) {
            core.send(from, Message::BeatHeard { genesis, ballot: beat.ballot, promised });
        }
        if beat.ballot < promised || self.elected > Some(beat.ballot) || Some(beat.ballot) <= self.abandoned {
            return;
        }
        let followed = match &mut self.stage {
            Stage::Following { opened, heard, .. } if opened.coordinator == from && opened.ballot == beat.ballot => {
                *heard = core.now;
                Some(opened_hash(opened))
            }
            _ => None,
        };
        if followed != Some(beat.opened) {
            self.ask(core, from, beat.opened, Ask::Opened { genesis, ballot: beat.ballot });
        } else if let Some(value) = beat.proposal {
            self.on_beat_of_proposal(core, from, beat.ballot, value);
        }
    }

    /// The coordinator says what it proposes: whoever lacks it asks, whoever accepted it says so again.
    fn on_beat_of_proposal(&mut self, core: &mut Core, from: NodeId, ballot: Ballot, value: Hash) {
        let genesis = self.scope.genesis;
        let awaits = self.awaiting.as_ref().is_some_and(|p| p.ballot == ballot);
        match self.ballot_box.accept_again(core, &self.scope, ballot, value) {
            Some(accept) => core.send(from, Message::Accept { genesis, accept }),
            None if !awaits && !self.has_accepted_present() => {
                self.ask(core, from, value, Ask::Proposal { genesis, value });
            }
            None => {}
        }
    }

    fn ask(&mut self, core: &mut Core, from: NodeId, about: Hash, ask: Ask) {
        let recently = self.asked.get(&about).is_some_and(|at| core.now.since_ms(*at) < 2 * RETRY_MS);
        if !recently {
            // What a beat names changes a few times in an attempt; a peer that makes names up fills nothing.
            if self.asked.len() >= 64 {
                self.asked.clear();
            }
            self.asked.insert(about, core.now);
            core.send(from, Message::Ask(ask));
        }
    }

    fn on_gave_up(&mut self, core: &mut Core, from: NodeId, ballot: Ballot) {
        if matches!(&self.stage, Stage::Following { opened, .. } if opened.coordinator == from && opened.ballot == ballot)
        {
            self.next_attempt(core, "the coordinator gave up");
        }
    }

    fn on_proposal(&mut self, core: &mut Core, from: NodeId, proposal: Proposal, check: Check<'_>) {
        if self.lead_found(core, &proposal, check) {
            return;
        }
        if proposal.coordinator == core.me || !self.is_voter(core) {
            return;
        }
        // Another member that shows it may have made it up: the votes don't cover the record.
        if from != proposal.coordinator {
            return core.reject(from, Reject::NotCoordinator);
        }
        if let Err(reject) = self.check_proposal(core, &proposal, check) {
            core.reject(from, reject);
            let genesis = self.scope.genesis;
            let message = Message::ProposalRefused { genesis, ballot: proposal.ballot, reject };
            return core.send(proposal.coordinator, message);
        }
        self.witness_votes(&proposal.votes);
        let follows = matches!(&self.stage, Stage::Following { opened, .. } if opened.ballot == proposal.ballot);
        if !follows {
            self.follow(core, opened_of(&proposal, &self.scope, self.model));
        }
        let (model, coordinator) = (proposal.record.model, proposal.coordinator);
        self.awaiting = Some(proposal);
        if core.blobs.contains(&model.id) {
            self.accept_awaiting(core);
        } else {
            core.fetch(model, Purpose::Model, coordinator, &self.roster);
        }
    }

    /// Everything that must hold before this node accepts, but for the model's bytes.
    fn check_proposal(&self, core: &Core, proposal: &Proposal, check: Check<'_>) -> Result<(), Reject> {
        let Proposal { ballot, coordinator, record, votes, .. } = proposal;
        if ballot.round != self.round || record.parent != self.scope.parent {
            return Err(Reject::WrongParent);
        }
        let value = record.hash();
        self.ballot_box.may_accept(core, *ballot, value)?;
        let accepted = check_votes(votes, &self.scope, &self.roster, *ballot, *coordinator)?;
        let is_own = record.attempt == ballot.attempt && record.coordinator == *coordinator;
        match accepted {
            Some((_, highest)) if highest != value && !core.is_broken(crate::core::Fault::IgnoreAccepted) => {
                return Err(Reject::AcceptedPassedOver);
            }
            None if !is_own => return Err(Reject::NotCoordinator),
            _ => {}
        }
        check(record)
    }

    fn accept_awaiting(&mut self, core: &mut Core) {
        let Some(proposal) = self.awaiting.take() else { return };
        // While the model was fetched this node may have voted in a higher ballot.
        let (ballot, coordinator, value) = (proposal.ballot, proposal.coordinator, proposal.record.hash());
        if let Err(reject) = self.ballot_box.may_accept(core, ballot, value) {
            let genesis = self.scope.genesis;
            return core.send(coordinator, Message::ProposalRefused { genesis, ballot, reject });
        }
        self.ballot_box.accept(core, &self.scope, proposal);
        core.emit(Event::Accepted { ballot, value });
    }

    fn on_ask(&mut self, core: &mut Core, from: NodeId, ask: Ask) {
        match ask {
            Ask::Opened { ballot, .. } => {
                if let Stage::Leading(lead) = &self.stage
                    && lead.opened.ballot == ballot
                {
                    core.send(from, Message::Opened(lead.opened.clone()));
                }
            }
            Ask::Proposal { value, .. } => {
                // A coordinator has accepted its own proposal, so this finds it too, once it is on disk.
                if let Some(proposal) = self.ballot_box.accepted_on_disk(core).filter(|p| p.record.hash() == value) {
                    core.send(from, Message::Proposal(proposal.clone()));
                }
            }
            _ => {}
        }
    }

    fn witness_votes(&mut self, votes: &[Vote]) {
        for vote in votes {
            if let Some(evidence) = self.ballot_box.witness_vote(&self.scope, vote) {
                self.turns.push_back(Turn::Lie(Box::new(evidence)));
            }
        }
    }

    fn witness_accept(&mut self, accept: &Accept) {
        if let Some(evidence) = self.ballot_box.witness_accept(&self.scope, accept) {
            self.turns.push_back(Turn::Lie(Box::new(evidence)));
        }
    }

    /// The owner was shown the decision, and has checked its proof.
    pub(crate) fn decide(&mut self, committed: Committed) {
        self.turns.push_back(Turn::Decided(Box::new(committed)));
    }

    /// Looks through the accepts of a committed record for lies.
    pub(crate) fn witness_committed(&mut self, committed: &Committed) {
        for accept in &committed.accepts {
            self.witness_accept(accept);
        }
    }
}

/// What a beat names its `Opened` by.
fn opened_hash(opened: &Opened) -> Hash {
    Hash::of_parts("paceline opened", &[&crate::codec::encode(opened)])
}

/// Who sees a proposal before the `Opened` of its ballot follows its coordinator all the same: the votes are there. The
/// plan is asked for after the next beat.
fn opened_of(proposal: &Proposal, scope: &Scope, model: BlobRef) -> Opened {
    Opened {
        genesis: proposal.genesis,
        ballot: proposal.ballot,
        parent: scope.parent,
        coordinator: proposal.coordinator,
        votes: proposal.votes.clone(),
        model,
        opening: None,
    }
}
