//! What an elected coordinator does: beats, takes up what was accepted before, proposes, counts accepts, gives up.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::check_votes;
use crate::core::{Core, Fault};
use crate::ids::{Ballot, Hash, NodeId, Time};
use crate::machine::Purpose;
use crate::message::{Ask, Beat, Message, Opened, Opening, Phase, Proposal};
use crate::record::{Accept, Committed, Record};
use crate::reject::Reject;
use crate::timing::{BEAT_MS, RECOVER_MS, RETRY_MS, SILENCE_MS};

use super::{Check, Contest, Stage, Turn, opened_hash};

#[derive(Debug)]
pub(super) struct Lead {
    pub(super) opened: Opened,
    pub(super) phase: Phase,
    since: Time,
    beat_at: Time,
    /// When each member last answered a beat without having promised anything higher.
    heard: BTreeMap<NodeId, Time>,
    recovery: Option<Recovery>,
    /// Who said no to the proposal. A member that lacked the model may still accept.
    refused: BTreeSet<NodeId>,
    /// The record that is proposed, and who accepted it.
    proposed: Option<(Record, Hash, BTreeMap<NodeId, Accept>)>,
}

/// The search for a proposal that an earlier ballot accepted.
#[derive(Debug)]
struct Recovery {
    value: Hash,
    record: Option<Record>,
    ask_at: Time,
    until: Time,
}

impl Lead {
    pub(super) fn new(now: Time, opened: Opened) -> Self {
        Self {
            opened,
            phase: Phase::Collecting,
            since: now,
            beat_at: now,
            heard: BTreeMap::new(),
            recovery: None,
            refused: BTreeSet::new(),
            proposed: None,
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.recovery.as_ref().map_or(self.beat_at, |r| r.ask_at.min(r.until).min(self.beat_at))
    }
}

impl Contest {
    fn lead(&mut self) -> Option<&mut Lead> {
        match &mut self.stage {
            Stage::Leading(lead) => Some(lead),
            _ => None,
        }
    }

    /// Whether this node coordinates the present ballot.
    pub(crate) fn is_leading(&self) -> bool {
        matches!(self.stage, Stage::Leading(_))
    }

    /// Shows the election, and the plan as far as there is one, to everybody.
    pub(super) fn announce(&mut self, core: &mut Core) {
        if let Some(lead) = self.lead() {
            let opened = lead.opened.clone();
            core.broadcast(Message::Opened(opened));
            self.beat(core);
        }
    }

    /// The owner's plan for the round, or a changed one.
    pub(crate) fn open(&mut self, core: &mut Core, opening: Opening) {
        if let Some(lead) = self.lead() {
            lead.opened.opening = Some(opening);
            self.announce(core);
        }
    }

    /// The owner has what it needs and averages.
    pub(crate) fn aggregating(&mut self) {
        if let Some(lead) = self.lead() {
            lead.phase = Phase::Aggregating;
        }
    }

    /// Proposes a record: the one proposal of this ballot. It is written down before anybody hears of it.
    pub(crate) fn propose(&mut self, core: &mut Core, record: Record) {
        let scope = self.scope;
        let Some(lead) = self.lead() else { return };
        let (ballot, votes) = (lead.opened.ballot, lead.opened.votes.clone());
        let value = record.hash();
        lead.phase = Phase::Proposing;
        lead.recovery = None;
        lead.proposed = Some((record.clone(), value, BTreeMap::new()));
        let proposal = Proposal { genesis: scope.genesis, ballot, coordinator: core.me, record, votes };
        if self.ballot_box.may_accept(core, ballot, value).is_err() {
            return self.give_up(core, "something higher was promised");
        }
        self.ballot_box.accept(core, &scope, proposal);
    }

    /// Says that this ballot comes to nothing.
    pub(crate) fn give_up(&mut self, core: &mut Core, why: &'static str) {
        if self.is_leading() {
            let message = Message::GaveUp { genesis: self.scope.genesis, ballot: self.ballot() };
            core.send_to_all(&self.roster, &message);
            self.next_attempt(core, why);
        }
    }

    fn beat(&mut self, core: &mut Core) {
        let (genesis, now) = (self.scope.genesis, core.now);
        let Some(lead) = self.lead() else { return };
        lead.beat_at = now.plus_ms(BEAT_MS);
        let beat = Beat {
            genesis,
            ballot: lead.opened.ballot,
            phase: lead.phase,
            opened: opened_hash(&lead.opened),
            proposal: lead.proposed.as_ref().map(|(_, value, _)| *value),
        };
        core.send_to_all(&self.roster, &Message::Beat(beat));
    }

    pub(super) fn lead_tick(&mut self, core: &mut Core) {
        let now = core.now;
        let (quorum, stuck_ms) = (self.roster.quorum(), self.stuck_ms());
        let Some(lead) = self.lead() else { return };
        if now.since_ms(lead.since) >= stuck_ms {
            return self.give_up(core, "nothing was committed");
        }
        let heard = lead.heard.values().filter(|at| now.since_ms(**at) < SILENCE_MS).count();
        if now.since_ms(lead.since) >= SILENCE_MS && heard + 1 < quorum {
            return self.give_up(core, "no quorum answers");
        }
        if lead.recovery.as_ref().is_some_and(|r| now >= r.until) {
            return self.give_up(core, "nobody serves what was accepted");
        }
        if now >= lead.beat_at {
            self.beat(core);
        }
        self.recover_more(core);
    }

    pub(super) fn on_beat_heard(&mut self, core: &mut Core, from: NodeId, ballot: Ballot, promised: Ballot) {
        let now = core.now;
        if let Some(lead) = self.lead()
            && lead.opened.ballot == ballot
        {
            if promised <= ballot {
                lead.heard.insert(from, now);
            } else {
                lead.heard.remove(&from);
                self.hint = self.hint.max(promised.attempt);
            }
        }
    }

    /// Takes up what an earlier ballot accepted: it may be decided already.
    pub(super) fn recover(&mut self, core: &mut Core, value: Hash) {
        let own = self.ballot_box.accepted().filter(|p| p.record.hash() == value).map(|p| p.record.clone());
        let now = core.now;
        if let Some(lead) = self.lead() {
            lead.phase = Phase::Recovering;
            lead.recovery = Some(Recovery { value, record: own, ask_at: now, until: now.plus_ms(RECOVER_MS) });
            self.announce(core);
            self.recover_more(core);
        }
    }

    /// Asks those who accepted for the record, then for its model, then proposes it again.
    fn recover_more(&mut self, core: &mut Core) {
        let (now, genesis) = (core.now, self.scope.genesis);
        let Some(lead) = self.lead() else { return };
        let Some(recovery) = &mut lead.recovery else { return };
        let value = recovery.value;
        let accepted_it = |v: &&crate::record::Vote| v.accepted.is_some_and(|(_, hash)| hash == value);
        let holders: Vec<NodeId> =
            lead.opened.votes.iter().filter(accepted_it).map(|v| v.voter).filter(|n| *n != core.me).collect();
        match &recovery.record {
            Some(record) if core.blobs.contains(&record.model.id) => {
                let record = record.clone();
                self.propose(core, record);
            }
            _ if now < recovery.ask_at => {}
            Some(record) => {
                recovery.ask_at = now.plus_ms(2 * RETRY_MS);
                let model = record.model;
                let pick = now.0 as usize % holders.len().max(1);
                if let Some(origin) = holders.get(pick) {
                    core.fetch(model, Purpose::Model, *origin, &self.roster);
                }
            }
            None => {
                recovery.ask_at = now.plus_ms(RETRY_MS);
                holders.iter().for_each(|h| core.send(*h, Message::Ask(Ask::Proposal { genesis, value })));
            }
        }
    }

    /// Whether a proposal is the one that this node looks for.
    pub(super) fn lead_found(&mut self, core: &mut Core, proposal: &Proposal, check: Check<'_>) -> bool {
        let Some(recovery) = self.lead().and_then(|l| l.recovery.as_ref()) else { return false };
        if proposal.record.hash() != recovery.value {
            return false;
        }
        // What is said to be accepted must have been proposed by somebody who was elected.
        let Proposal { ballot, coordinator, votes, .. } = proposal;
        let elected = check_votes(votes, &self.scope, &self.roster, *ballot, *coordinator).is_ok();
        let Some(recovery) = self.lead().and_then(|l| l.recovery.as_mut()) else { return false };
        if recovery.record.is_none() && elected && check(&proposal.record).is_ok() {
            recovery.record = Some(proposal.record.clone());
            recovery.ask_at = core.now;
            self.recover_more(core);
        }
        true
    }

    pub(super) fn lead_fetched(&mut self, core: &mut Core, blob: Hash) {
        let recovery = self.lead().and_then(|l| l.recovery.as_ref());
        if recovery.is_some_and(|r| r.record.as_ref().is_some_and(|record| record.model.id == blob)) {
            self.recover_more(core);
        }
    }

    pub(super) fn lead_fetch_failed(&mut self, core: &mut Core, blob: Hash) {
        let now = core.now;
        if let Some(recovery) = self.lead().and_then(|l| l.recovery.as_mut())
            && recovery.record.as_ref().is_some_and(|record| record.model.id == blob)
        {
            recovery.ask_at = now.plus_ms(RETRY_MS);
        }
    }

    pub(super) fn on_accept(&mut self, core: &mut Core, from: NodeId, accept: Accept) {
        let scope = self.scope;
        if accept.acceptor != from {
            return core.reject(from, Reject::BadSignature);
        }
        let quorum = if core.is_broken(Fault::CommitOnTooFew) && self.round > 0 { 1 } else { self.roster.quorum() };
        let Some(lead) = self.lead() else { return };
        let ballot = lead.opened.ballot;
        let Some((record, value, accepts)) = &mut lead.proposed else { return };
        if accept.ballot != ballot || accept.coordinator != core.me || accept.value != *value {
            return core.reject(from, Reject::StaleBallot);
        }
        if from != core.me && !accept.verifies(&scope) {
            return core.reject(from, Reject::BadSignature);
        }
        accepts.insert(from, accept);
        lead.refused.remove(&from);
        if accepts.len() >= quorum {
            let accepts = accepts.values().copied().collect();
            let committed = Committed { record: record.clone(), accepts };
            self.turns.push_back(Turn::Decided(Box::new(committed)));
        }
        self.witness_accept(&accept);
    }

    pub(super) fn on_proposal_refused(&mut self, core: &mut Core, from: NodeId, ballot: Ballot, reject: Reject) {
        let quorum = self.roster.quorum();
        let members = self.roster.len();
        let Some(lead) = self.lead().filter(|l| l.opened.ballot == ballot) else { return };
        if reject == Reject::StaleBallot {
            lead.heard.remove(&from);
        }
        lead.refused.insert(from);
        if members - lead.refused.len() < quorum {
            self.give_up(core, "too many refused the proposal");
        }
    }
}
