//! One decision among one roster: single-decree Paxos (Lamport 2001) with elected candidates.
//!
//! An instance decides the record of one round, or in round 0 whether a founding comes about. It knows ballots, votes,
//! proposals and accepts; what is proposed, and when, is its owner's business. The owner feeds it messages and time and
//! takes the `Output`s: I am elected, somebody is, it is decided.
//!
//! ```text
//!         campaign_at             quorum of votes                     quorum of accepts
//!  Waiting ────────► Candidate ───────────────────► Coordinator ────────────────────────► decided
//!     ▲  │ ▲  (attempt > 0: PreCandidate first)        │
//!     │  │ └────────── attempt over ◄──────────────────┘
//!     │  └ RoundOpened, Proposal with valid votes ► Follower ── no heartbeat, gone, stepped down ──► next attempt
//!     └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What keeps it safe is in `acceptor`; the rest is about getting done.

mod acceptor;
mod election;
pub mod message;
mod proposer;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::bounds::{ASKED_MAX, ATTEMPT_WINDOW};
use crate::base::ids::{Ballot, BlobRef, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::Roster;
use crate::base::signed::{Scope, Signed};
use crate::base::timing::{RETRY_MS, SILENCE_MS, STUCK_DOUBLINGS_MAX, STUCK_MS};
use crate::chain::check_votes;
use crate::context::Context;
use crate::io::{Event, Purpose, RecoveredBallot};
use crate::membership::message::Activity;
use crate::message::Message;
use crate::paxos::message::{Heartbeat, Message as Paxos, Phase, RoundOpened, RoundPlan};
use crate::peers::Doubt;
use crate::record::{Committed, Evidence, Proposal, Record, Vote};

use acceptor::{Acceptor, needs_model};
use election::Request;
use proposer::Proposer;
use witness::Witness;

/// What an instance tells its owner.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// This node is elected and free to propose what it likes.
    Elected,
    /// Another coordinator is at work, or changed its plan.
    Following,
    /// The value is decided.
    Decided(Box<Committed>),
    /// Somebody lied.
    Lie(Box<Evidence>),
    /// A yield is proposed to a chain that was not shown here: this coordinator can show it.
    Unshown {
        /// The other chain.
        chain: Hash,
        /// Who proposes to yield to it.
        coordinator: NodeId,
    },
}

/// An elected coordinator and its plan, as its votes and its signature prove.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) coordinator: NodeId,
    pub(crate) plan: RoundPlan,
    /// What its heartbeats name the plan by; zero until the plan is known.
    plan_hash: Hash,
    pub(crate) votes: Vec<Signed<Vote>>,
}

#[derive(Debug, Clone)]
enum Role {
    /// No coordinator is known. This node campaigns at `campaign_at`, and gives the attempt up at `until`.
    Waiting { campaign_at: Option<Time>, until: Time },
    /// Asks, unbound, who would vote for it.
    PreCandidate { granted: Vec<NodeId>, ask_at: Time, until: Time },
    /// Its own vote is cast.
    Candidate { votes: BTreeMap<NodeId, Signed<Vote>>, asked: Time, ask_at: Time, until: Time },
    /// A coordinator is at work.
    Follower { opened: Box<Opened>, heard: Time, since: Time, progress: Vec<Activity> },
    /// This node is the coordinator.
    Coordinator(Box<Proposer>),
}

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    scope: Scope,
    round: u64,
    roster: Roster,
    /// The model of the record before: only who has it campaigns.
    model: BlobRef,
    acceptor: Acceptor,
    witness: Witness,
    attempt: u32,
    attempt_began: Time,
    /// The candidates of the present attempt in their order.
    order: Vec<NodeId>,
    /// The owner's longest round, after which a coordinator is expected to propose.
    round_timeout_ms: u64,
    role: Role,
    /// Requests for a vote whose candidate's turn has not come.
    requests: BTreeMap<NodeId, Request>,
    /// The highest ballot seen elected, with proof, and how many were.
    elected: Option<Ballot>,
    elections: u32,
    /// The ballot whose coordinator lived and got nothing done: this node follows it no more.
    abandoned: Option<Ballot>,
    /// Coordinators that gave up in this round: nobody waits for them in the order again.
    stepped_down: BTreeSet<NodeId>,
    /// Voters that claimed to have accepted what nobody could show, or served.
    unproven: BTreeSet<NodeId>,
    /// Elections in a row that ended without a result.
    failures: u32,
    /// How often the window of attempts was doubled, and when last.
    window_doublings: u32,
    window_doubled_at: Time,
    /// The highest attempt that a refusal told of. Hearsay: it speeds up the next attempt within the window.
    highest_refused: u32,
    /// A valid proposal whose model is still on its way.
    awaiting: Option<Proposal>,
    /// When something was last asked for, so that a slow answer is not asked for with every heartbeat.
    last_asked: BTreeMap<Hash, Time>,
    outputs: VecDeque<Output>,
    /// The phase that was seen last, and since when it is that.
    phase_seen: Option<Phase>,
    phase_since: Time,
}

/// How an instance begins.
#[derive(Debug)]
pub(crate) enum Start {
    /// The decision before it was just seen.
    Fresh,
    /// The node has just started, with what it found on disk: others may be at work, so it listens for a while first.
    AfterRestart(Option<RecoveredBallot>),
}

/// How the owner judges a record that is proposed: whether it may follow, and, for one that is proposed for the first time
/// (`true`), whether what only its proposer has seen holds.
pub(crate) type Check<'a> = &'a dyn Fn(&Record, bool) -> Result<(), Reject>;

impl Instance {
    /// An instance for `round` among `roster`. Whoever lacks `model`, the one before, does not campaign.
    pub(crate) fn begin(
        ctx: &mut Context,
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
        let acceptor = Acceptor::new(ctx, scope, round, found);
        let attempt = acceptor.promised(ctx, round).map_or(0, |b| b.attempt);
        let mut instance = Self {
            scope,
            round,
            roster,
            model,
            acceptor,
            witness: Witness::default(),
            attempt,
            attempt_began: ctx.now,
            order: Vec::new(),
            round_timeout_ms: ctx.params.round_timeout_ms,
            role: Role::Waiting { campaign_at: None, until: ctx.now.plus_ms(SILENCE_MS) },
            requests: BTreeMap::new(),
            elected: None,
            elections: 0,
            abandoned: None,
            stepped_down: BTreeSet::new(),
            unproven: BTreeSet::new(),
            failures: 0,
            window_doublings: 0,
            window_doubled_at: ctx.now,
            highest_refused: 0,
            awaiting: None,
            last_asked: BTreeMap::new(),
            outputs: VecDeque::new(),
            phase_seen: None,
            phase_since: ctx.now,
        };
        instance.order = instance.candidate_order(ctx);
        if !listens {
            instance.enter(ctx, 0);
        }
        instance
    }

    pub(crate) fn take_output(&mut self) -> Option<Output> {
        for evidence in self.witness.take_found() {
            self.outputs.push_back(Output::Lie(Box::new(evidence)));
        }
        self.outputs.pop_front()
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
        match &self.role {
            Role::Follower { opened, .. } => Some(opened),
            Role::Coordinator(proposer) => Some(&proposer.opened),
            Role::Waiting { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => None,
        }
    }

    /// What the participants do, as the coordinator told last.
    pub(crate) fn progress(&self) -> &[Activity] {
        match &self.role {
            Role::Follower { progress, .. } => progress,
            _ => &[],
        }
    }

    /// What the coordinator does, as far as this node knows.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match &self.role {
            Role::Coordinator(proposer) => Some(proposer.phase),
            Role::Follower { .. } if self.awaiting.is_some() || self.has_accepted_present() => Some(Phase::Proposing),
            Role::Follower { opened, .. } if opened.plan.task.is_none() && self.round > 0 => Some(Phase::Recovering),
            Role::Follower { .. } => Some(Phase::Collecting),
            Role::Waiting { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => None,
        }
    }

    /// Notes when the phase changed, for people who ask how long it lasts.
    pub(crate) fn note_phase(&mut self, now: Time) {
        let phase = self.phase();
        if self.phase_seen != phase {
            (self.phase_seen, self.phase_since) = (phase, now);
        }
    }

    /// Since when the phase is what it is; after a change as of the last input.
    pub(crate) fn phase_since(&self) -> Time {
        self.phase_since
    }

    /// Whether what is proposed waits for its model to come here.
    pub(crate) fn lacks_proposed_model(&self) -> bool {
        self.awaiting.is_some()
    }

    fn has_accepted_present(&self) -> bool {
        self.acceptor.accepted_in().is_some_and(|p| p.ballot == self.ballot())
    }

    /// The models that must stay on disk for this decision: what was accepted, and what is about to be.
    pub(crate) fn models(&self) -> impl Iterator<Item = Hash> + '_ {
        let accepted = self.acceptor.accepted().map(|p| p.record.model.id);
        accepted.into_iter().chain(self.awaiting.as_ref().map(|p| p.record.model.id))
    }

    /// When something happens by itself.
    pub(crate) fn deadline(&self, ctx: &Context) -> Time {
        let due = match &self.role {
            Role::Waiting { campaign_at: Some(at), until } if self.has_model(ctx) => (*at).min(*until),
            Role::Waiting { until, .. } => *until,
            Role::PreCandidate { ask_at, until, .. } | Role::Candidate { ask_at, until, .. } => (*ask_at).min(*until),
            Role::Follower { heard, since, .. } => heard.plus_ms(SILENCE_MS).min(since.plus_ms(self.stuck_ms())),
            Role::Coordinator(proposer) => proposer.deadline(),
        };
        self.requests_due(ctx).map_or(due, |at| at.min(due))
    }

    /// Whether the model of the record before is here: only who has it campaigns.
    fn has_model(&self, ctx: &Context) -> bool {
        self.round == 0 || ctx.blobs.contains(&self.model.id)
    }

    /// How long a coordinator may take although it lives.
    fn stuck_ms(&self) -> u64 {
        let doublings = self.elections.saturating_sub(1).min(STUCK_DOUBLINGS_MAX);
        self.round_timeout_ms.saturating_add(STUCK_MS << doublings)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        let (stuck_ms, has_model) = (self.stuck_ms(), self.has_model(ctx));
        match &mut self.role {
            Role::Waiting { until, .. } | Role::PreCandidate { until, .. } | Role::Candidate { until, .. }
                if now >= *until =>
            {
                self.failures += 1;
                self.next_attempt(ctx, "no candidate was elected");
            }
            // Whoever is still fetching the model when its turn comes stands when it is here.
            Role::Waiting { campaign_at, .. } if has_model && campaign_at.is_some_and(|at| now >= at) => {
                *campaign_at = None;
                self.campaign(ctx);
            }
            Role::PreCandidate { ask_at, .. } | Role::Candidate { ask_at, .. } if now >= *ask_at => {
                *ask_at = now.plus_ms(RETRY_MS);
                self.ask_for_votes(ctx);
            }
            Role::Follower { heard, .. } if now.since_ms(*heard) >= SILENCE_MS => {
                self.next_attempt(ctx, "the coordinator fell silent");
            }
            Role::Follower { opened, since, .. } if now.since_ms(*since) >= stuck_ms => {
                self.abandoned = self.elected;
                let coordinator = opened.coordinator;
                ctx.peers.doubt(coordinator, Doubt::Stuck);
                self.next_attempt(ctx, "the coordinator got nothing committed");
            }
            Role::Coordinator(_) => self.coordinator_tick(ctx),
            Role::Waiting { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } | Role::Follower { .. } => {}
        }
        self.answer_requests(ctx);
    }

    /// A peer's connection is lost for good, as far as the shell can tell.
    pub(crate) fn peer_down(&mut self, ctx: &mut Context, peer: NodeId) {
        self.requests.remove(&peer);
        if matches!(&self.role, Role::Follower { opened, .. } if opened.coordinator == peer) {
            self.next_attempt(ctx, "the coordinator is gone");
        }
    }

    /// A blob has come.
    pub(crate) fn fetched(&mut self, ctx: &mut Context, blob: Hash) {
        if self.awaiting.as_ref().is_some_and(|p| p.record.model.id == blob) {
            self.accept_awaiting(ctx);
        }
        self.recovery_fetched(ctx, blob);
    }

    /// A blob can't be had.
    pub(crate) fn fetch_failed(&mut self, ctx: &mut Context, blob: Hash, invalid: Option<Reject>) {
        if let Some(proposal) = self.awaiting.take_if(|p| p.record.model.id == blob) {
            let reject = invalid.unwrap_or(Reject::ModelMissing);
            self.refuse_proposal(ctx, &proposal, reject);
            if invalid.is_some() {
                ctx.reject(proposal.coordinator(), reject);
            }
        }
        self.recovery_fetch_failed(ctx, blob);
    }

    fn refuse_proposal(&self, ctx: &mut Context, proposal: &Proposal, reject: Reject) {
        let ballot = proposal.proposed.vouched().ballot;
        let message = Message::paxos(self.scope.chain, ballot, Paxos::ProposalRefused { reject });
        ctx.send(proposal.coordinator(), message);
    }

    fn is_voter(&self, ctx: &Context) -> bool {
        self.roster.contains(ctx.me)
    }

    /// The highest attempt that this node voted in or saw elected.
    fn highest(&self, ctx: &Context) -> u32 {
        let promised = self.acceptor.promised(ctx, self.round).map_or(0, |b| b.attempt);
        promised.max(self.elected.map_or(0, |b| b.attempt))
    }

    fn window_end(&self, ctx: &Context) -> u32 {
        self.highest(ctx).saturating_add(ATTEMPT_WINDOW << self.window_doublings.min(16))
    }

    fn saw_elected(&mut self, ballot: Ballot) {
        if self.elected < Some(ballot) {
            self.elected = Some(ballot);
            self.elections += 1;
        }
        self.failures = 0;
    }

    /// The present attempt is over; the next one begins: the one that others ask for votes in, or the one after those that
    /// were refused. By itself a node never runs further ahead of what others confirmed than others would follow; what it
    /// is asked for was within its window, however often that was doubled.
    fn next_attempt(&mut self, ctx: &mut Context, why: &'static str) {
        ctx.emit(Event::AttemptOver { ballot: self.ballot(), why });
        let asked = self.requests.values().map(|r| r.ballot.attempt).max().unwrap_or(0);
        let refused = self.highest_refused.min(self.window_end(ctx) - 1) + 1;
        let own = self.attempt.saturating_add(1).max(refused).min(self.highest(ctx).saturating_add(ATTEMPT_WINDOW));
        self.enter(ctx, own.max(asked).max(self.attempt));
    }

    /// Those that this node doubts come last: what they proposed nobody could accept.
    fn candidate_order(&self, ctx: &Context) -> Vec<NodeId> {
        // In a founding there is no model before; its id takes that place.
        let seed = if self.round == 0 { self.scope.chain } else { self.model.id };
        let mut order = self.roster.candidate_order(seed, self.ballot());
        order.sort_by_key(|node| ctx.peers.doubted(*node).is_some());
        order
    }

    /// Begins an attempt: this node campaigns when those before it in the order have had their step.
    fn enter(&mut self, ctx: &mut Context, attempt: u32) {
        self.attempt = attempt;
        self.attempt_began = ctx.now;
        self.order = self.candidate_order(ctx);
        let step_ms = Self::step_ms(ctx);
        let wait_ms = self.rank(ctx, ctx.me) * step_ms;
        let campaign_at = self.is_voter(ctx).then(|| ctx.now.plus_ms(wait_ms));
        let until = ctx.now.plus_ms(self.election_ms().max(4 * step_ms));
        self.role = Role::Waiting { campaign_at, until };
    }

    /// Takes a message that belongs to this decision. `check` judges a record that is proposed.
    pub(crate) fn receive(
        &mut self,
        ctx: &mut Context,
        from: NodeId,
        ballot: Ballot,
        message: Paxos,
        check: Check<'_>,
    ) {
        if ballot.round != self.round {
            let reject = if ballot.round < self.round { Reject::StaleRound } else { Reject::FutureRound };
            return ctx.reject(from, reject);
        }
        match message {
            // These prove themselves, whoever passes them on.
            Paxos::RoundOpened(opened) => self.on_round_opened(ctx, from, ballot, opened),
            Paxos::Proposal(proposal) => self.on_proposal(ctx, from, ballot, proposal, check),
            Paxos::QueryPlan => self.on_query_plan(ctx, from, ballot),
            Paxos::QueryProposal { value } => self.on_query_proposal(ctx, from, value),
            _ if !self.roster.contains(from) => ctx.reject(from, Reject::Stranger),
            Paxos::PreVote => self.on_request(ctx, from, Request { ballot, binding: false }),
            Paxos::PreVoteGranted => self.on_pre_vote_granted(ctx, from, ballot),
            Paxos::VoteRequest => self.on_request(ctx, from, Request { ballot, binding: true }),
            Paxos::Vote(vote) => self.on_vote(ctx, from, vote),
            Paxos::VoteRefused { highest, .. } => {
                if highest.round == self.round {
                    self.highest_refused = self.highest_refused.max(highest.attempt);
                }
            }
            Paxos::Heartbeat(heartbeat) => self.on_heartbeat(ctx, from, ballot, heartbeat),
            Paxos::HeartbeatAck { promised } => self.on_heartbeat_ack(ctx, from, ballot, promised),
            Paxos::StepDown => self.on_step_down(ctx, from, ballot),
            Paxos::Accept(accept) => self.on_accept(ctx, from, accept),
            Paxos::ProposalRefused { reject } => self.on_proposal_refused(ctx, from, ballot, reject),
        }
    }

    fn is_stale(&self, ctx: &Context, ballot: Ballot) -> bool {
        self.acceptor.promised(ctx, self.round).is_some_and(|p| ballot < p) || self.elected > Some(ballot)
    }

    fn on_round_opened(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, opened: RoundOpened) {
        let coordinator = opened.coordinator();
        if coordinator == ctx.me {
            return;
        }
        if self.is_stale(ctx, ballot) || Some(ballot) <= self.abandoned {
            return ctx.reject(from, Reject::StaleBallot);
        }
        let plan = match self.check_opened(ctx, ballot, &opened) {
            Ok(plan) => plan,
            Err(reject) => return ctx.reject(from, reject),
        };
        self.witness_votes(&opened.votes);
        let plan_hash = opened.plan_hash();
        self.follow(ctx, Opened { coordinator, plan, plan_hash, votes: opened.votes });
    }

    fn check_opened(&self, ctx: &Context, ballot: Ballot, opened: &RoundOpened) -> Result<RoundPlan, Reject> {
        let coordinator = opened.coordinator();
        check_votes(&opened.votes, &self.scope, &self.roster, ballot, coordinator, &ctx.verifier)?;
        let plan = opened.plan.open(&self.scope, &ctx.verifier)?;
        if plan.ballot == ballot { Ok(plan.clone()) } else { Err(Reject::StaleBallot) }
    }

    /// A coordinator is proven to be elected. Of two plans of one ballot the newer one holds.
    fn follow(&mut self, ctx: &mut Context, opened: Opened) {
        let (now, ballot, coordinator) = (ctx.now, opened.plan.ballot, opened.coordinator);
        self.saw_elected(ballot);
        if let Role::Follower { opened: present, progress, .. } = &mut self.role
            && present.plan.ballot == ballot
        {
            if opened.plan.version > present.plan.version {
                **present = opened;
                progress.clear();
                self.outputs.push_back(Output::Following);
            }
            return;
        }
        self.attempt = ballot.attempt;
        self.attempt_began = now;
        self.order = self.candidate_order(ctx);
        ctx.emit(Event::CoordinatorSeen { ballot, coordinator });
        // Only heartbeats show that a coordinator lives; its plan said again does not.
        self.role = Role::Follower { opened: Box::new(opened), heard: now, since: now, progress: Vec::new() };
        self.outputs.push_back(Output::Following);
    }

    fn on_heartbeat(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, heartbeat: Heartbeat) {
        let chain = self.scope.chain;
        let promised = self.acceptor.promised(ctx, self.round).unwrap_or(Ballot::of_round(self.round));
        if self.is_voter(ctx) {
            ctx.send(from, Message::paxos(chain, ballot, Paxos::HeartbeatAck { promised }));
        }
        if self.is_stale(ctx, ballot) {
            return;
        }
        if Some(ballot) > self.abandoned {
            let followed = match &mut self.role {
                Role::Follower { opened, heard, progress, .. }
                    if opened.coordinator == from && opened.plan.ballot == ballot =>
                {
                    *heard = ctx.now;
                    if !heartbeat.progress.is_empty() && heartbeat.progress.len() <= self.roster.len() {
                        *progress = heartbeat.progress;
                    }
                    Some(opened.plan_hash)
                }
                _ => None,
            };
            if followed != Some(heartbeat.plan) {
                self.ask(ctx, from, heartbeat.plan, Message::paxos(chain, ballot, Paxos::QueryPlan));
            }
        }
        if let Some(value) = heartbeat.proposal {
            self.on_heartbeat_of_proposal(ctx, from, ballot, value);
        }
    }

    /// A coordinator waits for accepts. Who lacks the proposal asks; whoever accepted it says so again.
    fn on_heartbeat_of_proposal(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, value: Hash) {
        let awaits = self.awaiting.as_ref().is_some_and(|p| p.proposed.vouched().ballot == ballot);
        if !self.acceptor.repeat_accept(ctx, ballot, value) && !awaits {
            let question = Message::paxos(self.scope.chain, ballot, Paxos::QueryProposal { value });
            self.ask(ctx, from, value, question);
        }
    }

    fn ask(&mut self, ctx: &mut Context, from: NodeId, about: Hash, question: Message) {
        let recently = self.last_asked.get(&about).is_some_and(|at| ctx.now.since_ms(*at) < 2 * RETRY_MS);
        if !recently {
            if self.last_asked.len() >= ASKED_MAX {
                self.last_asked.clear();
            }
            self.last_asked.insert(about, ctx.now);
            ctx.send(from, question);
        }
    }

    fn on_step_down(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot) {
        if matches!(&self.role, Role::Follower { opened, .. } if opened.coordinator == from && opened.plan.ballot == ballot)
        {
            self.stepped_down.insert(from);
            self.next_attempt(ctx, "the coordinator gave up");
        }
    }

    fn on_proposal(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, proposal: Proposal, check: Check<'_>) {
        if self.take_recovered(ctx, &proposal, check) || proposal.coordinator() == ctx.me || !self.is_voter(ctx) {
            return;
        }
        let proves_itself = self.proves_itself(ctx, &proposal);
        if proves_itself {
            // Also where the first of two was accepted, so that the second is refused.
            self.witness.saw_proposed(&self.scope, &proposal.proposed);
        }
        if let Err(reject) = self.check_proposal(ctx, ballot, &proposal, check) {
            if reject == Reject::NotAlive {
                self.ask_for_proof(&proposal);
            } else {
                ctx.reject(from, reject);
                if proves_itself {
                    self.refuse_proposal(ctx, &proposal, reject);
                }
            }
            return;
        }
        self.witness_votes(&proposal.votes);
        let proposed = *proposal.proposed.vouched();
        if self.acceptor.repeat_accept(ctx, proposed.ballot, proposed.value) {
            return;
        }
        let follows = matches!(&self.role, Role::Follower { opened, .. } if opened.plan.ballot == ballot);
        if !follows && Some(ballot) > self.abandoned {
            self.follow(ctx, opened_of(&proposal));
        }
        let (model, coordinator) = (proposal.record.model, proposal.coordinator());
        let is_here = !needs_model(&proposal) || ctx.blobs.contains(&model.id);
        self.awaiting = Some(proposal);
        if is_here {
            self.accept_awaiting(ctx);
        } else {
            ctx.fetch(model, Purpose::Model, coordinator, &self.roster);
        }
    }

    /// Whether a proposal is its coordinator's own, who should hear of a refusal and must not make two.
    fn proves_itself(&self, ctx: &Context, proposal: &Proposal) -> bool {
        self.roster.contains(proposal.coordinator()) && proposal.open(&self.scope, &ctx.verifier).is_ok()
    }

    fn ask_for_proof(&mut self, proposal: &Proposal) {
        if let crate::record::Kind::Yield { to, .. } = proposal.record.kind {
            self.outputs.push_back(Output::Unshown { chain: to, coordinator: proposal.coordinator() });
        }
    }

    /// Everything that must hold before this node accepts, but for the model's bytes.
    fn check_proposal(
        &self,
        ctx: &Context,
        ballot: Ballot,
        proposal: &Proposal,
        check: Check<'_>,
    ) -> Result<(), Reject> {
        let proposed = proposal.open(&self.scope, &ctx.verifier)?;
        let (record, coordinator) = (&proposal.record, proposal.coordinator());
        if proposed.ballot != ballot || record.parent != self.scope.parent {
            return Err(Reject::WrongParent);
        }
        self.acceptor.would_accept(ctx, proposed)?;
        let accepted = check_votes(&proposal.votes, &self.scope, &self.roster, ballot, coordinator, &ctx.verifier)?;
        let is_own = record.attempt == ballot.attempt && record.coordinator == coordinator;
        let again = accepted.is_some_and(|highest| highest.vouched().value == proposed.value);
        #[cfg(test)]
        let accepted =
            accepted.filter(|_| !crate::base::plant::is_planted(crate::base::plant::Fault::AcceptedPassedOver));
        match accepted {
            Some(_) if !again => return Err(Reject::AcceptedPassedOver),
            None if !is_own => return Err(Reject::NotCoordinator),
            _ => {}
        }
        check(record, !again)
    }

    fn accept_awaiting(&mut self, ctx: &mut Context) {
        let Some(proposal) = self.awaiting.take() else { return };
        let proposed = *proposal.proposed.vouched();
        // While the model was fetched this node may have voted in a higher ballot.
        match self.acceptor.accept(ctx, proposal.clone(), &self.roster) {
            Ok(()) => ctx.emit(Event::Accepted { ballot: proposed.ballot, value: proposed.value }),
            Err(reject) => self.refuse_proposal(ctx, &proposal, reject),
        }
    }

    fn on_query_plan(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot) {
        if let Role::Coordinator(proposer) = &self.role
            && proposer.opened.plan.ballot == ballot
            && let Some(opened) = proposer.round_opened()
            && (self.roster.contains(from) || ctx.peers.may_answer(from, ctx.now))
        {
            ctx.send(from, Message::paxos(self.scope.chain, ballot, Paxos::RoundOpened(opened)));
        }
    }

    fn on_query_proposal(&mut self, ctx: &mut Context, from: NodeId, value: Hash) {
        // A coordinator has accepted its own proposal, so this finds it too, once it is on disk.
        let found = self.acceptor.accepted_on_disk(ctx).filter(|p| p.proposed.vouched().value == value);
        if let Some(proposal) = found.filter(|_| self.roster.contains(from)) {
            let ballot = proposal.proposed.vouched().ballot;
            let message = Message::paxos(self.scope.chain, ballot, Paxos::Proposal(proposal.clone()));
            ctx.send(from, message);
        }
    }

    fn witness_votes(&mut self, votes: &[Signed<Vote>]) {
        for vote in votes {
            self.witness.saw_vote(&self.scope, vote);
            vote.vouched().accepted.iter().for_each(|claim| self.witness.saw_proposed(&self.scope, claim));
        }
    }

    /// The owner was shown the decision, and has checked its proof.
    pub(crate) fn decide(&mut self, committed: Committed) {
        self.outputs.push_back(Output::Decided(Box::new(committed)));
    }

    /// Looks through the accepts of a decision for lies.
    pub(crate) fn witness_committed(&mut self, committed: &Committed) {
        committed.accepts.iter().for_each(|accept| self.witness.saw_accept(&self.scope, accept));
    }

    /// Lies that were found and not told yet: the instance is about to end.
    pub(crate) fn take_lies(&mut self) -> Vec<Evidence> {
        let mut lies = self.witness.take_found();
        lies.extend(self.outputs.drain(..).filter_map(|output| match output {
            Output::Lie(evidence) => Some(*evidence),
            _ => None,
        }));
        lies
    }
}

/// Who sees a proposal before the plan of its ballot follows its coordinator all the same: the votes are there. The plan is
/// asked for after the next heartbeat.
fn opened_of(proposal: &Proposal) -> Opened {
    Opened {
        coordinator: proposal.coordinator(),
        plan: RoundPlan { ballot: proposal.proposed.vouched().ballot, version: 0, task: None },
        plan_hash: Hash::ZERO,
        votes: proposal.votes.clone(),
    }
}
