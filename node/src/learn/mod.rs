//! The learning side of a node: its data, the trainer's thread, and the averager's.
//!
//! The run file becomes what the model crate understands in [`plan`]; the [`Trainer`] evaluates and trains when the
//! machine wants it and can be stopped; the [`Averager`] checks updates and folds them into the exact sum. Both work on
//! threads of their own and put what they make on disk before they say that it is there.

mod averager;
mod cohort;
mod controls;
mod plan;
mod trainer;

pub use averager::Averager;
pub use cohort::{Client, Cohort, Local, LocalError, Workers};
pub use controls::Controls;
pub use plan::{Plan, PlanError};
pub use trainer::{Job, Material, Outcome, Progress, Trainer};

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

/// Whether bytes from a peer are a global state of the run.
///
/// # Errors
/// Another length, or values that are not finite.
pub fn check_state(bytes: &[u8], len: u64) -> Result<(), Reject> {
    check_weights(bytes, (len / 4) as usize).map_err(|e| reject_of(&e))
}
