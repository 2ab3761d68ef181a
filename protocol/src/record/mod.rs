//! Records: what a round leaves. They form a hash chain that anybody can check offline.

pub mod change;
pub mod contribution;
pub mod evaluation;
pub mod founding;
pub mod vote;

use serde::{Deserialize, Serialize};

use crate::base::aggregation::Aggregation;
use crate::base::codec;
use crate::base::ids::{Ballot, BlobRef, Hash, NodeId};
use crate::base::roster::Roster;
use crate::base::signed::Signed;

pub use change::{Eviction, Evidence, Join, Leave, Lie, request_scope};
pub use contribution::{Contribution, Failure, FinalEvaluation, Resume};
pub use evaluation::{Evaluation, Metric, Total, Totals};
pub use founding::{AbortProof, Alive, Bind, Forced, Founder, Founding, Refusal, founding_scope};
pub use vote::{Accept, Proposal, Proposed, Vote};

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Record 0: the run begins with this roster and model; every member's bind is the proof.
    Genesis {
        /// What was proposed.
        founding: Signed<Founding>,
        /// One for each member, in the order of the roster.
        binds: Vec<Signed<Bind>>,
    },
    /// The decision that a founding comes to nothing.
    Abort,
    /// A round with contributions.
    Train,
    /// A round without enough contributions: the same model, with roster changes at most.
    Empty,
    /// After the last round: the evaluations of the final model.
    Closing,
    /// This chain, without a round of its own yet, gives itself up for another.
    Yield {
        /// The genesis of the other.
        to: Hash,
        /// A quorum of the other's newest roster says that it lives, by member.
        alive: Vec<Signed<Alive>>,
    },
    /// Record 0 of a chain that one member of another began alone, because the majority of that is gone for good.
    Forced(Signed<Forced>),
}

impl Kind {
    /// One word, as the command line prints it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Genesis { .. } => "genesis",
            Kind::Abort => "abort",
            Kind::Train => "train",
            Kind::Empty => "empty",
            Kind::Closing => "closing",
            Kind::Yield { .. } => "yield",
            Kind::Forced(_) => "forced",
        }
    }
}

/// What a committed round leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// The round, which is also the record's place in the chain.
    pub round: u64,
    /// The attempt that made it. It may be committed by a later one.
    pub attempt: u32,
    /// The coordinator that made it.
    pub coordinator: NodeId,
    /// Hash of the record before; of the founding in round 0.
    pub parent: Hash,
    /// The model after this round; none where a founding came to nothing.
    pub model: BlobRef,
    /// Who was chosen to train, those who stepped in included, in the order of `Roster::participant_order`.
    pub participants: Vec<NodeId>,
    /// The updates that were averaged, by participant.
    pub contributions: Vec<Signed<Contribution>>,
    /// For a closing record: the evaluations of the final model, by member.
    pub evaluations: Vec<Signed<FinalEvaluation>>,
    /// For an empty record: the participants whose training failed, by member, where they are why there is no update.
    pub failures: Vec<Signed<Failure>>,
    /// For an empty record in a run that stopped: the member's wish that ends the stop.
    pub resumed: Option<Signed<Resume>>,
    /// How the updates became the model.
    pub aggregation: Aggregation,
    /// Who comes onto the roster with the next round.
    pub joined: Vec<Signed<Join>>,
    /// Who leaves it.
    pub left: Vec<Signed<Leave>>,
    /// Who is taken off it.
    pub evicted: Vec<Eviction>,
    /// From open to proposal, in milliseconds of the coordinator's clock.
    pub open_ms: u64,
}

impl Record {
    /// A record without contributions, evaluations and roster changes.
    pub fn plain(kind: Kind, ballot: Ballot, coordinator: NodeId, parent: Hash, model: BlobRef) -> Self {
        Self {
            kind,
            round: ballot.round,
            attempt: ballot.attempt,
            coordinator,
            parent,
            model,
            participants: Vec::new(),
            contributions: Vec::new(),
            evaluations: Vec::new(),
            failures: Vec::new(),
            resumed: None,
            aggregation: Aggregation::default(),
            joined: Vec::new(),
            left: Vec::new(),
            evicted: Vec::new(),
            open_ms: 0,
        }
    }

    /// The hash that the next record and every accept name.
    pub fn hash(&self) -> Hash {
        Hash::of_parts("paceline record", &[&codec::encode(self)])
    }

    /// The roster of the next round, given this round's.
    pub fn roster_after(&self, roster: &Roster) -> Roster {
        match &self.kind {
            Kind::Genesis { founding, .. } => return founding.vouched().roster(),
            Kind::Forced(forced) => return Roster::new(vec![forced.vouched().member.clone()]),
            Kind::Abort | Kind::Train | Kind::Empty | Kind::Closing | Kind::Yield { .. } => {}
        }
        let mut next = roster.clone();
        self.left.iter().for_each(|l| next.remove(l.by()));
        self.evicted.iter().for_each(|e| next.remove(e.node()));
        self.joined.iter().for_each(|j| next.insert(j.member()));
        next
    }

    /// How a member began a chain alone, if this is such a record 0.
    pub fn forced(&self) -> Option<&Forced> {
        match &self.kind {
            Kind::Forced(forced) => Some(forced.vouched()),
            _ => None,
        }
    }

    /// Whose training failed and why, as the record says.
    pub fn failures(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.failures.iter().map(|f| (f.by(), f.vouched().why.as_str()))
    }

    /// The contributions, as the record says: whoever has it from a chain knows that a quorum checked them.
    pub fn contributions(&self) -> impl Iterator<Item = (NodeId, &Contribution)> {
        self.contributions.iter().map(|c| (c.by(), c.vouched()))
    }

    /// How the model *before* this round did, over all nodes that said.
    pub fn evaluation_of_parent(&self) -> Totals {
        let of_contributions = self.contributions().filter_map(|(_, c)| c.evaluation.as_ref());
        let of_closing = self.evaluations.iter().map(|e| &e.vouched().evaluation);
        of_contributions.chain(of_closing).collect()
    }

    /// Mean training loss over the contributions, weighted by samples.
    pub fn train_loss(&self) -> Option<f64> {
        let told = || self.contributions().filter_map(|(_, c)| Some((c.train_loss?, c.samples)));
        let samples: u64 = told().map(|(_, samples)| samples).fold(0, u64::saturating_add);
        let sum: f64 = told().map(|(loss, samples)| loss * samples as f64).sum();
        (samples > 0).then(|| sum / samples as f64)
    }

    /// The slowest participant's evaluation and training, in milliseconds.
    pub fn train_ms_max(&self) -> Option<u64> {
        self.contributions().map(|(_, c)| c.train_ms).max()
    }
}

/// A record with the accepts that prove its commit. They stand beside it: proposed again under a later ballot, it stays
/// the same record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// What was decided.
    pub record: Record,
    /// Accepts of one ballot by a quorum of the roster, by acceptor.
    pub accepts: Vec<Signed<Accept>>,
}

impl Committed {
    /// The ballot that committed it, and that ballot's coordinator.
    pub fn committed_in(&self) -> Option<(Ballot, NodeId)> {
        self.accepts.first().map(|a| (a.vouched().ballot, a.vouched().coordinator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fixture::{chain, empty, identities};
    use crate::chain::samples_of_all;

    #[test]
    fn figures_that_nobody_checked_are_added_up_all_the_same() {
        let keys = identities(1, 3);
        let chain = chain(&keys);
        let contribution = |key| {
            let metric = Metric { name: "accuracy".to_owned(), sum: i64::MAX, count: u64::MAX };
            let evaluation = Some(Evaluation { metrics: vec![metric; 2] });
            let (samples, update, trainer) = (u64::MAX, chain.head().model, String::new());
            let content = Contribution {
                round: 1,
                samples,
                update,
                train_loss: Some(0.5),
                train_ms: u64::MAX,
                evaluation,
                trainer,
            };
            Signed::new(key, &chain.scope(), content)
        };
        let record =
            Record { contributions: keys.iter().map(contribution).collect(), ..empty(&chain, 0, keys[0].node_id()) };
        let accuracy = record.evaluation_of_parent().get("accuracy").expect("all tell it").ratio();
        assert_eq!(accuracy, Some(i64::MAX as f64 / (1 << 20) as f64 / u64::MAX as f64));
        assert!(record.train_loss().is_some_and(f64::is_finite));
        assert!(samples_of_all([u64::MAX, 1].into_iter(), 4096) > 0);
    }
}
