//! How a round's updates became its model, in the words of the run file's `[aggregate]`. What a rule computes is the
//! learner's business; here it is a text that the run fixes and every record repeats.

use serde::{Deserialize, Serialize};

/// `rule = "fedadam", lr = 0.01, ...`: the canonical form on one line. Empty in a record without a round of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Aggregation(pub String);
