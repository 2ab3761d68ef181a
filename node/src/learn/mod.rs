//! The learning side of a node: its data, the trainer's thread, and the aggregator's.
//!
//! The run file becomes what the model crate understands in `plan`; the [`Trainer`] evaluates and trains when the
//! machine wants it and can be stopped; the [`Aggregator`] checks updates and folds them into the exact sum. Both work on
//! threads of their own and put what they make on disk before they say that it is there.

mod aggregator;
mod control_variates;
mod local_clients;
mod plan;
mod trainer;

pub use aggregator::Aggregator;
pub use control_variates::{ControlVariateError, ControlVariates};
pub use local_clients::{Client, ClientError, ClientUpdate, LocalClients, Workers};
pub use plan::{Plan, PlanError};
pub use trainer::{Job, Outcome, Progress, Trainer, TrainerContext};

use paceline_model::{Rule, WeightsError};
use paceline_protocol::Reject;

/// Threads that train where nothing else is asked for: one a core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Why weights are refused, in the protocol's words.
fn reject_of(error: &WeightsError) -> Reject {
    match error {
        WeightsError::WrongLength { .. } => Reject::WrongShape,
        WeightsError::NotFinite { .. } => Reject::NotFinite,
        WeightsError::OutOfRange { .. } => Reject::OutOfRange,
    }
}

/// What bytes from a peer must be to be a global state of the run.
#[derive(Debug, Clone, Copy)]
pub struct StateCheck {
    /// The rule of aggregation.
    pub rule: Rule,
    /// How many parameters the net has.
    pub parameters: usize,
}

impl StateCheck {
    /// Checks them.
    ///
    /// # Errors
    /// Another length, or values that no state has.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Reject> {
        self.rule.check_state(bytes, self.parameters).map_err(|e| reject_of(&e))
    }
}
