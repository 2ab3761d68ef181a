//! What participants and coordinator say about updates. The envelope names the coordinator's ballot.

use serde::{Deserialize, Serialize};

use crate::base::ids::Hash;
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::record::{Contribution, Failure, FinalEvaluation, Resume};

/// Between a participant and the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// My update is ready to be fetched.
    UpdateReady(Signed<Contribution>),
    /// What became of an update.
    UpdateAck {
        /// The update.
        update: Hash,
        /// In the sum, or why not.
        result: Result<(), Reject>,
    },
    /// My evaluation for the closing record.
    Evaluated(Signed<FinalEvaluation>),
    /// I have no update: my training failed.
    Failed(Signed<Failure>),
    /// The run has stopped, and I want to go on.
    Resume(Signed<Resume>),
}
