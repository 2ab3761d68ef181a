//! What a round waits for, for people who ask.

use crate::base::ids::{NodeId, Time};
use crate::chain::Chain;
use crate::context::Context;
use crate::membership::message::Activity;
use crate::paxos::message::{Phase, Task};

use super::Round;

/// What a round waits for, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A coordinator.
    Election,
    /// The updates of these participants, and whether most of all are done with training.
    Updates { of: Vec<NodeId>, are_most_trained: bool },
    /// The evaluations of these members, once the last round is over.
    Evaluations { of: Vec<NodeId> },
    /// What an earlier attempt accepted.
    Recovery,
    /// The average.
    Average,
    /// The model of the proposal, which this node lacks.
    ProposedModel,
    /// Accepts: so many are in, and these members have not answered. Only the coordinator knows.
    Accepts { known: Option<(usize, Vec<NodeId>)> },
    /// Nothing that is missing.
    Nothing,
}

impl Round {
    /// What the round waits for, and since when it has.
    pub(crate) fn waits(&self, ctx: &Context, chain: &Chain) -> (Waits, Time) {
        let waits = match self.paxos.phase() {
            None => Waits::Election,
            Some(Phase::Collecting) => self.waits_for_work(ctx, chain),
            Some(Phase::Recovering) => Waits::Recovery,
            Some(Phase::Aggregating) => Waits::Average,
            Some(Phase::Proposing) if self.paxos.lacks_proposed_model() => Waits::ProposedModel,
            Some(Phase::Proposing) => Waits::Accepts { known: self.paxos.answers() },
        };
        (waits, self.paxos.phase_since())
    }

    fn waits_for_work(&self, ctx: &Context, chain: &Chain) -> Waits {
        let task = self.paxos.opened().and_then(|o| o.plan.task.as_ref());
        match (task, &self.collection) {
            (Some(Task::Evaluate), Some(collection)) => {
                Waits::Evaluations { of: chain.roster().nodes().filter(|n| !collection.has_evaluation(*n)).collect() }
            }
            (Some(Task::Train { participants }), _) => {
                let is_known = self.collection.is_some() || !self.paxos.progress().is_empty();
                let does = |n: &NodeId| self.activity_of(ctx, chain, *n);
                let has_nothing = |n: &NodeId| matches!(does(n), Some(Activity::Done | Activity::Paused));
                let is_awaited = |n: &&NodeId| !has_nothing(n) && !self.has_failed(ctx, chain, **n);
                let of: Vec<NodeId> = participants.iter().filter(|n| is_known && is_awaited(n)).copied().collect();
                let has_trained = |n: &&NodeId| matches!(does(n), Some(Activity::Done | Activity::Uploading));
                let are_most_trained = 2 * participants.iter().filter(has_trained).count() > participants.len();
                Waits::Updates { of, are_most_trained }
            }
            (Some(Task::Evaluate) | None, _) => Waits::Nothing,
        }
    }

    /// The participants that are paused.
    pub(crate) fn paused(&self, ctx: &Context, chain: &Chain) -> Vec<NodeId> {
        let is_paused = |n: &&NodeId| self.activity_of(ctx, chain, **n) == Some(Activity::Paused);
        self.participants().iter().filter(is_paused).copied().collect()
    }

    /// The other participants whose training failed, and why, where this node was told.
    pub(crate) fn failed_elsewhere(&self, ctx: &Context, chain: &Chain) -> Vec<(NodeId, Option<&str>)> {
        let failed = self.participants().iter().filter(|n| **n != ctx.me && self.has_failed(ctx, chain, **n));
        failed.map(|n| (*n, self.told_failure(*n))).collect()
    }

    fn has_failed(&self, ctx: &Context, chain: &Chain, node: NodeId) -> bool {
        self.told_failure(node).is_some() || self.activity_of(ctx, chain, node) == Some(Activity::Failed)
    }

    /// What a participant told the coordinator of its failure.
    fn told_failure(&self, node: NodeId) -> Option<&str> {
        let failure = self.collection.iter().flat_map(|c| c.failures()).find(|f| f.by() == node);
        failure.map(|f| f.vouched().why.as_str())
    }
}
