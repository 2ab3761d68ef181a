//! What a participant adds to a round.

use serde::{Deserialize, Serialize};

use super::evaluation::Evaluation;
use crate::base::bounds::{NAME_BYTES_MAX, SAMPLES_MAX};
use crate::base::ids::BlobRef;
use crate::base::signed::{Statement, StatementKind};

/// An update's reference, its weight and its metrics, signed by the participant. It names no attempt: a contribution
/// outlives its coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The round that it was made in.
    pub round: u64,
    /// Samples trained on: the weight in the average.
    pub samples: u64,
    /// The delta: raw little-endian f32.
    pub update: BlobRef,
    /// Mean loss of the training, where it is told: in nats, of the nets that tell classes apart.
    pub train_loss: Option<f64>,
    /// Evaluation and training, in milliseconds.
    pub train_ms: u64,
    /// The round's starting model on the participant's held-out data; `None` if it has none.
    pub evaluation: Option<Evaluation>,
    /// What trained, in its own words: at most `NAME_BYTES_MAX` bytes, empty for the nets that come with every node. Whoever
    /// repeats a run knows by it what can't be repeated.
    pub trainer: String,
}

impl Contribution {
    /// Whether samples, loss and evaluation can be what they claim to be.
    pub fn is_plausible(&self) -> bool {
        let evaluated = self.evaluation.as_ref().is_none_or(Evaluation::is_plausible);
        let is_named = self.trainer.len() <= NAME_BYTES_MAX && !self.trainer.chars().any(char::is_control);
        (1..=SAMPLES_MAX).contains(&self.samples) && self.train_loss.is_none_or(f64::is_finite) && evaluated && is_named
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalEvaluation {
    /// The closing round.
    pub round: u64,
    /// The last model on its signer's held-out data.
    pub evaluation: Evaluation,
}

impl Statement for FinalEvaluation {
    const KIND: StatementKind = StatementKind::Evaluation;
}
