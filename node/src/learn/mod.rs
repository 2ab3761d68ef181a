//! The learning side of a node: its data, the trainer's thread, and the averager's.
//!
//! The run file becomes what the model crate understands in [`plan`]; the [`Trainer`] evaluates and trains when the
//! machine wants it and can be stopped; the [`Averager`] checks updates and folds them into the exact sum. Both work on
//! threads of their own and put what they make on disk before they say that it is there.

mod averager;
mod cohort;
mod plan;
mod trainer;

pub use averager::Averager;
pub use cohort::{Cohort, Local, LocalError, Workers};
pub use plan::{Plan, PlanError};
pub use trainer::{Job, Outcome, Progress, Trainer};

use paceline_model::{WeightsError, check_weights};
use paceline_protocol::Reject;

/// Why weights are refused, in the protocol's words.
fn reject_of(error: &WeightsError) -> Reject {
    match error {
        WeightsError::WrongLength { .. } => Reject::WrongShape,
        WeightsError::NotFinite { .. } => Reject::NotFinite,
        WeightsError::OutOfRange { .. } => Reject::OutOfRange,
    }
}

/// Whether bytes from a peer are a model of the run.
///
/// # Errors
/// Another length, or values that are not finite.
pub fn check_model(bytes: &[u8], parameters: usize) -> Result<(), Reject> {
    check_weights(bytes, parameters).map_err(|e| reject_of(&e))
}
