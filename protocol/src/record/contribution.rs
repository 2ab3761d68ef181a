//! What a participant adds to a round.

use serde::{Deserialize, Serialize};

use crate::base::bounds::SAMPLES_MAX;
use crate::base::ids::BlobRef;
use crate::base::signed::{Statement, StatementKind};

/// How well a model does on a node's held-out data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Images classified rightly.
    pub correct: u64,
    /// Images in all.
    pub total: u64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

impl Evaluation {
    /// Whether the numbers can be what they claim to be.
    pub fn is_plausible(&self) -> bool {
        self.correct <= self.total && self.total <= SAMPLES_MAX && self.loss.is_finite()
    }
}

/// An update's reference, its weight and its metrics, signed by the participant. It names no attempt: a contribution
/// outlives its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The round that it was made in.
    pub round: u64,
    /// Samples trained on: the weight in the average.
    pub samples: u64,
    /// The delta: raw little-endian f32.
    pub update: BlobRef,
    /// Mean training loss over the last epoch, in nats.
    pub train_loss: f64,
    /// Evaluation and training, in milliseconds.
    pub train_ms: u64,
    /// The round's starting model on the participant's held-out data; `None` if it has none.
    pub evaluation: Option<Evaluation>,
}

impl Contribution {
    /// Whether samples, loss and evaluation can be what they claim to be.
    pub fn is_plausible(&self) -> bool {
        let evaluated = self.evaluation.is_none_or(|e| e.is_plausible());
        (1..=SAMPLES_MAX).contains(&self.samples) && self.train_loss.is_finite() && evaluated
    }
}

impl Statement for Contribution {
    const KIND: StatementKind = StatementKind::Contribution;
}

/// A participant's word that it brings no update in this round: its training failed. Enough of them end the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The round.
    pub round: u64,
    /// Why, in words for people, at most `FAILURE_BYTES_MAX`.
    pub why: String,
}

impl Statement for Failure {
    const KIND: StatementKind = StatementKind::Failure;
}

/// A member's wish to go on with a run that stopped because training failed everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The round that it was made in.
    pub round: u64,
}

impl Statement for Resume {
    const KIND: StatementKind = StatementKind::Resume;
}

/// An evaluation of the last model that comes without an update, for the closing record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FinalEvaluation {
    /// The closing round.
    pub round: u64,
    /// The last model on its signer's held-out data.
    pub evaluation: Evaluation,
}

impl Statement for FinalEvaluation {
    const KIND: StatementKind = StatementKind::Evaluation;
}
