//! What nodes say of themselves, and of their wish to come or go.

use serde::{Deserialize, Serialize};

use crate::base::ids::Hash;
use crate::base::reject::Reject;
use crate::base::roster::Part;
use crate::base::signed::Signed;
use crate::record::{Evidence, Join, Leave};

/// Who is there, who comes, who goes, who must.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Where I stand. The envelope names the chain that the sender is in.
    Presence(Presence),
    /// I want to come onto the roster.
    Join(Signed<Join>),
    /// What is wrong with your request to join.
    JoinRefused {
        /// Why.
        reject: Reject,
    },
    /// I want to come off the roster.
    Leave(Signed<Leave>),
    /// A member lied, and this is the proof.
    Evidence(Evidence),
}

/// Where a node stands, said to the peer at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Grows, so that one that was overtaken on its way is known.
    pub counter: u64,
    /// What people call the node.
    pub name: String,
    /// Its part of a shared data set.
    pub part: Option<Part>,
    /// The round that it is in; 0 in no chain.
    pub round: u64,
    /// The last record that it has on disk, with its model.
    pub held: Option<u64>,
    /// The founding that it is bound to.
    pub founding: Option<Hash>,
    /// What it does.
    pub activity: Activity,
    /// Whether it holds all that there is to hold: the run is over, or has stopped.
    pub at_rest: bool,
}

/// What a node is busy with, as others may show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Nothing to do now.
    Idle,
    /// Fetching the model.
    Fetching,
    /// Evaluating or training, and how much of that is done.
    Training {
        /// From 0 to 100; what is above says nothing.
        percent: u8,
    },
    /// The update is ready and offered.
    Uploading,
    /// The update is in.
    Done,
    /// Coordinates: averages or proposes.
    Coordinating,
    /// Not on the roster yet.
    Joining,
    /// Its training failed: unless it is started again, no update of this round will come from it.
    Failed,
    /// Its owner lets it train nothing for a while.
    Paused,
}
