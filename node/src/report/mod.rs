//! What `status`, `rounds`, `peers` and `simulate` print, as JSON: the one place where the machine's words and a simulation's become those that
//! scripts read.

mod round;
mod status;

pub use round::{ContributionReport, Round};
pub use status::{LEFT, LastCommit, MemberStatus, NodeInfo, ParticipantStatus, Peer, Status, Training};
