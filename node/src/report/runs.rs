//! What `runs` prints.

use serde::{Deserialize, Serialize};

use super::Status;

/// A home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HomeLine {
    /// Its folder.
    pub home: String,
    /// The run's name.
    pub run: String,
    /// The run's id, hex.
    pub run_id: String,
    /// As in `status`; null where the node is just starting, or its home can't be read.
    pub status: Option<Status>,
}

/// A run on the LAN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenLine {
    /// Its name.
    pub run: String,
    /// Its id, hex.
    pub run_id: String,
    /// Nodes of it that were heard of.
    pub nodes: u32,
}
