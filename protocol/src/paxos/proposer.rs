//! What an elected coordinator does: heartbeats, takes up what was accepted before, proposes, counts accepts, steps down.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::bounds::MESSAGE_BYTES_MAX;
use crate::base::ids::{Ballot, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::{HEARTBEAT_MS, RECOVER_MS, RETRY_MS, SILENCE_MS};
use crate::chain::check_votes;
use crate::context::Context;
use crate::io::Purpose;
use crate::membership::message::Activity;
use crate::message::Message;
use crate::paxos::message::{Heartbeat, Message as Paxos, Phase, RoundOpened, RoundPlan, Task};
use crate::record::{Accept, Committed, Proposal, Proposed, Record};

use super::acceptor::needs_model;
use super::{Check, Instance, Opened, Output, Role};

#[derive(Debug, Clone)]
pub(super) struct Proposer {
    pub(super) opened: Opened,
    pub(super) phase: Phase,
    /// The plan, signed, as it was announced last.
    plan: Option<Signed<RoundPlan>>,
    since: Time,
    heartbeat_at: Time,
    /// When each member last answered a heartbeat without having promised anything higher.
    heard: BTreeMap<NodeId, Time>,
    recovery: Option<Recovery>,
    /// Who said no to the proposal. A member that lacked the model may still accept.
    refused: BTreeSet<NodeId>,
    /// The record that is proposed, its hash, and who accepted it.
    proposed: Option<(Record, Hash, BTreeMap<NodeId, Signed<Accept>>)>,
    /// What the participants do; told with the next heartbeat.
    progress: Vec<Activity>,
}

/// The search for a proposal that an earlier ballot accepted.
#[derive(Debug, Clone)]
struct Recovery {
    /// What the votes say, with its coordinator's signature.
    claim: Signed<Proposed>,
    proposal: Option<Proposal>,
    ask_at: Time,
    until: Time,
}

impl Proposer {
    pub(super) fn new(now: Time, opened: Opened) -> Self {
        Self {
            opened,
            phase: Phase::Collecting,
            plan: None,
            since: now,
            heartbeat_at: now,
            heard: BTreeMap::new(),
            recovery: None,
            refused: BTreeSet::new(),
            proposed: None,
            progress: Vec::new(),
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.recovery.as_ref().map_or(self.heartbeat_at, |r| r.ask_at.min(r.until).min(self.heartbeat_at))
    }

    fn ballot(&self) -> Ballot {
        self.opened.plan.ballot
    }

    /// The plan with its proof, as members are shown it.
    pub(super) fn round_opened(&self) -> Option<RoundOpened> {
        Some(RoundOpened { votes: self.opened.votes.clone(), plan: self.plan.clone()? })
    }
}

impl Instance {
    fn proposer(&mut self) -> Option<&mut Proposer> {
        match &mut self.role {
            Role::Coordinator(proposer) => Some(proposer),
            Role::Waiting { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } | Role::Follower { .. } => None,
        }
    }

    /// Whether this node coordinates the present ballot.
    pub(crate) fn is_leading(&self) -> bool {
        matches!(self.role, Role::Coordinator(_))
    }

    /// Shows the election and the plan, as far as there is one, to everybody.
    pub(super) fn announce(&mut self, ctx: &mut Context, task: Option<Task>) {
        let (scope, roster) = (self.scope, self.roster.clone());
        let Some(proposer) = self.proposer() else { return };
        let ballot = proposer.ballot();
        let plan = RoundPlan { ballot, version: proposer.opened.plan.version + 1, task };
        proposer.opened.plan = plan.clone();
        proposer.plan = Some(Signed::new(&ctx.identity, &scope, plan));
        if let Some(opened) = proposer.round_opened() {
            proposer.opened.plan_hash = opened.plan_hash();
            ctx.send_to_all(&roster, &Message::paxos(scope.chain, ballot, Paxos::RoundOpened(opened)));
        }
        self.heartbeat(ctx);
    }

    /// The owner's plan for the round, or a changed one.
    pub(crate) fn open(&mut self, ctx: &mut Context, task: Task) {
        self.announce(ctx, Some(task));
    }

    /// The owner has what it needs and averages.
    pub(crate) fn aggregating(&mut self) {
        if let Some(proposer) = self.proposer() {
            proposer.phase = Phase::Aggregating;
        }
    }

    /// What the participants do, for the next heartbeat.
    pub(crate) fn show_progress(&mut self, progress: Vec<Activity>) {
        if let Some(proposer) = self.proposer() {
            proposer.progress = progress;
        }
    }

    /// To a coordinator's proposal: how many accepts are in, and who has said neither yes nor no.
    pub(crate) fn answers(&self) -> Option<(usize, Vec<NodeId>)> {
        let Role::Coordinator(proposer) = &self.role else { return None };
        let (_, _, accepts) = proposer.proposed.as_ref()?;
        let has_answered = |n: &NodeId| accepts.contains_key(n) || proposer.refused.contains(n);
        Some((accepts.len(), self.roster.nodes().filter(|n| !has_answered(n)).collect()))
    }

    /// Bytes of the votes that elected this node: what a proposal has beside its record.
    pub(crate) fn votes_len(&self) -> usize {
        self.opened().map_or(0, |o| crate::base::codec::encode(&o.votes).len())
    }

    /// Proposes a record: the one proposal of this ballot. It is written down before anybody hears of it.
    pub(crate) fn propose(&mut self, ctx: &mut Context, record: Record) {
        let scope = self.scope;
        let Some(proposer) = self.proposer() else { return };
        let (ballot, votes) = (proposer.ballot(), proposer.opened.votes.clone());
        let value = record.hash();
        proposer.phase = Phase::Proposing;
        proposer.recovery = None;
        proposer.proposed = Some((record.clone(), value, BTreeMap::new()));
        let proposed = Signed::new(&ctx.identity, &scope, Proposed { ballot, value });
        let proposal = Proposal { proposed, record, votes };
        let message = Message::paxos(scope.chain, ballot, Paxos::Proposal(proposal.clone()));
        if message.encode().len() > MESSAGE_BYTES_MAX {
            ctx.reject(ctx.me, Reject::TooLarge);
            return self.step_down(ctx, "the record is too large for a message");
        }
        if self.acceptor.accept(ctx, proposal, &self.roster).is_err() {
            self.step_down(ctx, "something higher was promised");
        }
    }

    /// Says that this ballot comes to nothing.
    pub(crate) fn step_down(&mut self, ctx: &mut Context, why: &'static str) {
        if self.is_leading() {
            let message = Message::paxos(self.scope.chain, self.ballot(), Paxos::StepDown);
            ctx.send_to_all(&self.roster, &message);
            self.stepped_down.insert(ctx.me);
            self.next_attempt(ctx, why);
        }
    }

    fn heartbeat(&mut self, ctx: &mut Context) {
        let (chain, now) = (self.scope.chain, ctx.now);
        let Some(proposer) = self.proposer() else { return };
        proposer.heartbeat_at = now.plus_ms(HEARTBEAT_MS);
        let heartbeat = Heartbeat {
            phase: proposer.phase,
            plan: proposer.opened.plan_hash,
            proposal: proposer.proposed.as_ref().map(|(_, value, _)| *value),
            progress: std::mem::take(&mut proposer.progress),
        };
        let message = Message::paxos(chain, proposer.ballot(), Paxos::Heartbeat(heartbeat));
        ctx.send_to_all(&self.roster, &message);
    }

    pub(super) fn coordinator_tick(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        let (quorum, stuck_ms) = (self.roster.quorum(), self.stuck_ms());
        let Some(proposer) = self.proposer() else { return };
        if now.since_ms(proposer.since) >= stuck_ms {
            return self.step_down(ctx, "nothing was committed");
        }
        let heard = proposer.heard.values().filter(|at| now.since_ms(**at) < SILENCE_MS).count();
        if now.since_ms(proposer.since) >= SILENCE_MS && heard + 1 < quorum {
            return self.step_down(ctx, "no quorum answers");
        }
        if proposer.recovery.as_ref().is_some_and(|r| now >= r.until) {
            self.doubt_claims(ctx.me);
            return self.step_down(ctx, "nobody serves what was accepted");
        }
        if now >= proposer.heartbeat_at {
            self.heartbeat(ctx);
        }
        self.recover_more(ctx);
    }

    /// What the votes of others claim could not be shown, or not be served.
    fn doubt_claims(&mut self, me: NodeId) {
        let Some(proposer) = self.proposer() else { return };
        let Some(recovery) = &proposer.recovery else { return };
        let claimants = Self::others_who_claim(&proposer.opened.votes, recovery.claim, me);
        self.unproven.extend(claimants);
    }

    pub(super) fn on_heartbeat_ack(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, promised: Ballot) {
        let now = ctx.now;
        if let Some(proposer) = self.proposer()
            && proposer.ballot() == ballot
        {
            if promised <= ballot {
                proposer.heard.insert(from, now);
            } else {
                proposer.heard.remove(&from);
                self.highest_refused = self.highest_refused.max(promised.attempt);
            }
        }
    }

    /// Takes up what an earlier ballot accepted: it may be decided already.
    pub(super) fn recover(&mut self, ctx: &mut Context, claim: Signed<Proposed>) {
        let own = self.acceptor.accepted().filter(|p| p.proposed.vouched().value == claim.vouched().value).cloned();
        let now = ctx.now;
        if let Some(proposer) = self.proposer() {
            proposer.phase = Phase::Recovering;
            proposer.recovery = Some(Recovery { claim, proposal: own, ask_at: now, until: now.plus_ms(RECOVER_MS) });
            self.announce(ctx, None);
            self.recover_more(ctx);
        }
    }

    /// Asks those who accepted for the proposal, then for its model, then proposes it again.
    fn recover_more(&mut self, ctx: &mut Context) {
        let (now, chain, roster) = (ctx.now, self.scope.chain, self.roster.clone());
        let Some(proposer) = self.proposer() else { return };
        let ballot = proposer.ballot();
        let Some(recovery) = &mut proposer.recovery else { return };
        let value = recovery.claim.vouched().value;
        let holders = Self::others_who_claim(&proposer.opened.votes, recovery.claim, ctx.me);
        match &recovery.proposal {
            Some(p) if !needs_model(p) || ctx.blobs.contains(&p.record.model.id) => {
                let record = p.record.clone();
                self.propose(ctx, record);
            }
            _ if now < recovery.ask_at => {}
            Some(proposal) => {
                recovery.ask_at = now.plus_ms(2 * RETRY_MS);
                let model = proposal.record.model;
                let pick = now.0 as usize % holders.len().max(1);
                if let Some(origin) = holders.get(pick) {
                    ctx.fetch(model, Purpose::Model, *origin, &roster);
                }
            }
            None => {
                recovery.ask_at = now.plus_ms(RETRY_MS);
                let question = Message::paxos(chain, ballot, Paxos::QueryProposal { value });
                holders.iter().for_each(|h| ctx.send(*h, question.clone()));
            }
        }
    }

    /// Whether a proposal is the one that this node looks for, in the ballot that the votes name, of a coordinator that was
    /// elected in it.
    pub(super) fn take_recovered(&mut self, ctx: &mut Context, proposal: &Proposal, check: Check<'_>) -> bool {
        let Some(recovery) = self.proposer().and_then(|p| p.recovery.as_ref()) else { return false };
        if proposal.proposed != recovery.claim {
            return false;
        }
        let (ballot, coordinator) = (recovery.claim.vouched().ballot, recovery.claim.by());
        let elected = check_votes(&proposal.votes, &self.scope, &self.roster, ballot, coordinator, &ctx.verifier);
        let is_it = proposal.open(&self.scope, &ctx.verifier).is_ok() && elected.is_ok();
        let fits = is_it && check(&proposal.record, false).is_ok();
        let now = ctx.now;
        let Some(recovery) = self.proposer().and_then(|p| p.recovery.as_mut()) else { return false };
        if recovery.proposal.is_none() && fits {
            recovery.proposal = Some(proposal.clone());
            recovery.ask_at = now;
            self.recover_more(ctx);
        }
        true
    }

    pub(super) fn recovery_fetched(&mut self, ctx: &mut Context, blob: Hash) {
        let recovery = self.proposer().and_then(|p| p.recovery.as_ref());
        if recovery.is_some_and(|r| r.proposal.as_ref().is_some_and(|p| p.record.model.id == blob)) {
            self.recover_more(ctx);
        }
    }

    /// Everybody was asked for the model. It may come yet, but the others are not kept waiting where they are enough.
    pub(super) fn recovery_fetch_failed(&mut self, ctx: &mut Context, blob: Hash) {
        let now = ctx.now;
        let Some(recovery) = self.proposer().and_then(|p| p.recovery.as_mut()) else { return };
        if recovery.proposal.as_ref().is_none_or(|p| p.record.model.id != blob) {
            return;
        }
        recovery.ask_at = now.plus_ms(RETRY_MS);
        if ctx.is_disk_failing() {
            return self.step_down(ctx, "this node's disk fails");
        }
        self.doubt_claims(ctx.me);
        if self.are_enough_undoubted(ctx) {
            self.step_down(ctx, "nobody serves what was accepted");
        }
    }

    pub(super) fn on_accept(&mut self, ctx: &mut Context, from: NodeId, accept: Signed<Accept>) {
        let scope = self.scope;
        if accept.by() != from {
            return ctx.reject(from, Reject::BadSignature);
        }
        let content = match accept.open(&scope, &ctx.verifier) {
            Ok(content) => *content,
            Err(reject) => return ctx.reject(from, reject),
        };
        self.witness.saw_accept(&scope, &accept);
        let quorum = self.roster.quorum();
        #[cfg(test)]
        let quorum = match crate::base::plant::is_planted(crate::base::plant::Fault::CommitOnTooFew) {
            true if self.round > 0 => 1,
            _ => quorum,
        };
        let me = ctx.me;
        let Some(proposer) = self.proposer() else { return };
        let ballot = proposer.ballot();
        let Some((record, value, accepts)) = &mut proposer.proposed else { return };
        if content != (Accept { ballot, coordinator: me, value: *value }) {
            return ctx.reject(from, Reject::StaleBallot);
        }
        accepts.insert(from, accept);
        proposer.refused.remove(&from);
        if accepts.len() >= quorum {
            let accepts = accepts.values().copied().collect();
            let committed = Committed { record: record.clone(), accepts };
            self.outputs.push_back(Output::Decided(Box::new(committed)));
        }
    }

    pub(super) fn on_proposal_refused(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, reject: Reject) {
        let (quorum, members) = (self.roster.quorum(), self.roster.len());
        let Some(proposer) = self.proposer().filter(|p| p.ballot() == ballot) else { return };
        if reject == Reject::StaleBallot {
            proposer.heard.remove(&from);
        }
        proposer.refused.insert(from);
        if members - proposer.refused.len() < quorum {
            self.step_down(ctx, "too many refused the proposal");
        }
    }
}
