//! What the run file fixes for agreement.

use super::stop::StopRule;
use crate::base::aggregation::Aggregation;
use crate::base::ids::{BlobRef, RunId};
use crate::runfile::{Learning, Quota, RunFile};

/// The parameters of a run that every node must agree on.
#[derive(Debug, Clone, PartialEq)]
pub struct RunParams {
    /// The run.
    pub run: RunId,
    /// Records with contributions until the run ends.
    pub rounds: u64,
    /// Nodes that a founding needs.
    pub min_nodes: usize,
    /// How many train in a round, and how many updates it needs.
    pub quota: Quota,
    /// Longest time from the opening of an attempt to the end of its collection.
    pub round_timeout_ms: u64,
    /// The model that every node makes from the run file's seed.
    pub initial_model: BlobRef,
    /// Bytes of an update.
    pub update_len: u64,
    /// How updates become the next model.
    pub aggregation: Aggregation,
    /// When the run ends before its rounds do.
    pub stop: StopRule,
}

/// What agreement knows of learning.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The state that every node begins with.
    pub initial_model: BlobRef,
    /// Bytes of an update.
    pub update_len: u64,
    /// How updates become the next model.
    pub aggregation: Aggregation,
    /// When the run ends before its rounds do.
    pub stop: StopRule,
}

impl RunParams {
    /// The parameters of a run file in which this is learnt.
    pub fn of<L: Learning>(run_file: &RunFile<L>, learned: Learned) -> Self {
        let Learned { initial_model, update_len, aggregation, stop } = learned;
        Self {
            run: run_file.run_id(),
            rounds: run_file.run.rounds,
            min_nodes: run_file.run.min_nodes as usize,
            quota: run_file.quota(),
            round_timeout_ms: run_file.round.timeout_ms,
            initial_model,
            update_len,
            aggregation,
            stop,
        }
    }
}
