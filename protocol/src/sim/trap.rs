//! Moments in the life of a node, and what is set to happen in one of them: so a crash comes in the middle of a vote and not
//! at any time.

use crate::base::ids::NodeId;
use crate::io::{Effect, Event, Persist};

/// A step that a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// It begins to write that it binds itself to a founding.
    Binds,
    /// It begins to write a vote for another.
    Votes,
    /// It was elected.
    Elected,
    /// It begins to train.
    Trains,
    /// It begins to write its contribution.
    Contributes,
    /// It begins to average.
    Aggregates,
    /// It begins to write its own proposal.
    Proposes,
    /// It begins to write that it accepts another's proposal.
    Accepts,
    /// It begins to write a record.
    Commits,
}

impl Moment {
    /// Every moment.
    pub const ALL: [Moment; 9] = [
        Moment::Binds,
        Moment::Votes,
        Moment::Elected,
        Moment::Trains,
        Moment::Contributes,
        Moment::Aggregates,
        Moment::Proposes,
        Moment::Accepts,
        Moment::Commits,
    ];

    /// The moment that an effect of a node shows.
    pub(super) fn of(node: NodeId, effect: &Effect) -> Option<Moment> {
        match effect {
            Effect::Persist { item: Persist::Bound { .. }, .. } => Some(Moment::Binds),
            Effect::Persist { item: Persist::Vote { vote, .. }, .. } => {
                (vote.vouched().candidate != node).then_some(Moment::Votes)
            }
            Effect::Persist { item: Persist::Accepted { proposal, .. }, .. } if proposal.coordinator() == node => {
                Some(Moment::Proposes)
            }
            Effect::Persist { item: Persist::Accepted { .. }, .. } => Some(Moment::Accepts),
            Effect::Persist { item: Persist::Contribution { .. }, .. } => Some(Moment::Contributes),
            Effect::Persist { item: Persist::Committed { .. }, .. } => Some(Moment::Commits),
            Effect::Train { .. } => Some(Moment::Trains),
            Effect::Aggregate { .. } => Some(Moment::Aggregates),
            Effect::Emit(Event::Elected { .. }) => Some(Moment::Elected),
            _ => None,
        }
    }
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// It is killed, and started again after so long.
    Crash {
        /// In milliseconds.
        down_ms: u64,
    },
    /// It stands still for so long.
    Freeze {
        /// In milliseconds.
        ms: u64,
    },
}

/// What is set to happen to the next node that takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// The step.
    pub moment: Moment,
    /// So much later, in milliseconds.
    pub after_ms: u64,
    /// What happens to the node.
    pub blow: Blow,
}
