//! What `status`, `rounds`, `peers`, `simulate` and `data` print, as JSON: the one place where the machine's words and a simulation's become those that
//! scripts read. `ui` makes of it what people read.

mod part;
mod round;
mod runs;
mod status;
mod verification;

pub use part::PartLabels;
pub use round::{ContributionReport, Newcomer, RecordReport, Round, Split};
pub use runs::{HomeLine, SeenLine};
pub use status::{
    Ages, Figure, ForcedChain, LEFT, LastCommit, Lead, MemberStatus, NetworkRefusals, NewcomerStatus, NodeInfo,
    ParticipantStatus, Peer, Status, Training,
};
pub(crate) use status::{Named, Records, name_of, name_or_id, short_id};
pub use verification::{Culprit, Finding, Repeated, Verification};
