//! What `verify` found, as it prints it.

use serde::{Deserialize, Serialize};

/// What came of checking a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether nothing was found that does not hold.
    pub ok: bool,
    /// The run, hex.
    pub run_id: String,
    /// What people call it.
    pub run_name: String,
    /// The home's node; null before its first start.
    pub node_id: Option<String>,
    /// The chain that the node is in or follows, hex; null without one.
    pub genesis: Option<String>,
    /// Records of that chain, the genesis included.
    pub records: u64,
    /// Those with contributions.
    pub rounds: u64,
    /// Chains that gave themselves up, whose records are kept.
    pub given_up: u64,
    /// Averages made again from the updates that are kept, of all rounds.
    pub averages: Repeated,
    /// This node's updates trained again from models that are kept, of all that it contributed; null if it was not asked for.
    pub updates: Option<Repeated>,
    /// Models and updates on disk whose bytes were checked.
    pub blobs: u64,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// What is worth knowing and breaks nothing.
    pub notes: Vec<String>,
}

/// How many of something were made again, and came out the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repeated {
    /// All there are.
    pub all: u64,
    /// Those that could be made again with what is kept.
    pub repeated: u64,
    /// Of these the ones that came out as the records say.
    pub equal: u64,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The chain, hex, if it is about one.
    pub genesis: Option<String>,
    /// The record, if it is about one.
    pub round: Option<u64>,
    /// The node whose statement or work it is said to be, if it is anybody's.
    pub culprit: Option<Culprit>,
    /// The file, if it is about one.
    pub file: Option<String>,
    /// What does not hold, in words.
    pub what: String,
}

/// The node that a finding points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// PeerId.
    pub node_id: String,
    /// What people call it; empty if it was on no roster.
    pub name: String,
}
