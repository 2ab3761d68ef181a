//! What a partition gives to each part, as `data` prints it.

use serde::{Deserialize, Serialize};

/// One line of `data --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLabels {
    /// `K/N`, as `--part` takes it.
    pub part: String,
    /// Training images of the part.
    pub images: u64,
    /// How many of them each class has.
    pub labels: Vec<u64>,
}
