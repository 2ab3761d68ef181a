//! What a partition gives to each part, as `data` prints it.

use serde::{Deserialize, Serialize};

/// One line of `data --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLabels {
    /// `K/N`, as `--part` takes it.
    pub part: String,
    /// Training examples of the part.
    pub examples: u64,
    /// How many of them each class has.
    pub labels: Vec<u64>,
}
