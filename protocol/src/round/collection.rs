//! What a coordinator has of its round: who was asked, whose update is where, and when it has waited long enough.

use std::collections::BTreeMap;

use crate::base::ids::{Ballot, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::STRAGGLER_MS_MIN;
use crate::record::{Contribution, Failure, FinalEvaluation};

#[derive(Debug, Clone)]
pub(super) struct Collection {
    pub(super) ballot: Ballot,
    pub(super) began: Time,
    pub(super) ends: Time,
    /// Whether the closing record is collected rather than updates.
    pub(super) closing: bool,
    pub(super) participants: Vec<NodeId>,
    /// Updates that the round needs.
    pub(super) needed: usize,
    /// When that many were in.
    enough: Option<Time>,
    intakes: BTreeMap<NodeId, (Signed<Contribution>, Intake)>,
    evaluations: BTreeMap<NodeId, Signed<FinalEvaluation>>,
    failures: BTreeMap<NodeId, Signed<Failure>>,
    /// Whether the record is being made: what comes now is too late.
    pub(super) is_done: bool,
}

/// How far an update has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    Fetching,
    Folding,
    In,
    Refused(Reject),
}

impl Collection {
    pub(super) fn new(ballot: Ballot, began: Time, ends: Time, closing: bool) -> Self {
        Self {
            ballot,
            began,
            ends,
            closing,
            participants: Vec::new(),
            needed: 0,
            enough: None,
            intakes: BTreeMap::new(),
            evaluations: BTreeMap::new(),
            failures: BTreeMap::new(),
            is_done: false,
        }
    }

    /// The update of a participant, and how far it has come.
    pub(super) fn intake(&self, node: NodeId) -> Option<(&Contribution, Intake)> {
        self.intakes.get(&node).map(|(c, intake)| (c.vouched(), *intake))
    }

    pub(super) fn begin_intake(&mut self, contribution: Signed<Contribution>) {
        self.intakes.insert(contribution.by(), (contribution, Intake::Fetching));
    }

    pub(super) fn set_intake(&mut self, node: NodeId, intake: Intake, now: Time) {
        if let Some((_, present)) = self.intakes.get_mut(&node) {
            *present = intake;
        }
        if self.enough.is_none() && self.contributions().count() >= self.needed {
            self.enough = Some(now);
        }
    }

    /// The participant may offer again.
    pub(super) fn forget_intake(&mut self, node: NodeId) {
        self.intakes.remove(&node);
    }

    /// The participants whose update is this blob and has come so far.
    pub(super) fn waiting_for(&self, blob: Hash, intake: Intake) -> Vec<NodeId> {
        let is_it = |(c, i): &(Signed<Contribution>, Intake)| c.vouched().update.id == blob && *i == intake;
        self.intakes.iter().filter(|(_, entry)| is_it(entry)).map(|(node, _)| *node).collect()
    }

    pub(super) fn is_folding(&self) -> bool {
        self.intakes.values().any(|(_, intake)| *intake == Intake::Folding)
    }

    /// Blobs that are needed until the record is made.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Hash> + '_ {
        self.intakes.values().map(|(c, _)| c.vouched().update.id)
    }

    /// The updates that are in, by participant.
    pub(super) fn contributions(&self) -> impl Iterator<Item = &Signed<Contribution>> {
        self.intakes.values().filter(|(_, intake)| *intake == Intake::In).map(|(contribution, _)| contribution)
    }

    pub(super) fn add_evaluation(&mut self, evaluation: Signed<FinalEvaluation>) {
        self.evaluations.entry(evaluation.by()).or_insert(evaluation);
    }

    pub(super) fn has_evaluation(&self, node: NodeId) -> bool {
        self.evaluations.contains_key(&node)
    }

    pub(super) fn evaluations(&self) -> Vec<Signed<FinalEvaluation>> {
        self.evaluations.values().cloned().collect()
    }

    pub(super) fn add_failure(&mut self, failure: Signed<Failure>) {
        self.failures.entry(failure.by()).or_insert(failure);
    }

    /// Those whose training failed and that have brought no update since, by member.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Signed<Failure>> {
        self.failures.values().filter(|f| !self.intakes.contains_key(&f.by()))
    }

    /// The participants whose updates are neither in nor refused.
    pub(super) fn awaited(&self) -> Vec<NodeId> {
        let settled = |n: &NodeId| {
            self.intakes.get(n).is_some_and(|(_, intake)| matches!(intake, Intake::In | Intake::Refused(_)))
        };
        self.participants.iter().filter(|n| !settled(n)).copied().collect()
    }

    pub(super) fn has_enough(&self) -> bool {
        self.enough.is_some()
    }

    /// With enough updates in hand the others get as long again as it took to get these.
    pub(super) fn patience_ends(&self) -> Option<Time> {
        self.enough.map(|at| at.plus_ms(at.since_ms(self.began).max(STRAGGLER_MS_MIN)))
    }
}
