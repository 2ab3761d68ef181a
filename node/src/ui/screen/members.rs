//! The members in the order that the screen shows them.

use std::cmp::Reverse;

use crate::report::{MemberStatus, Status, name_of};
use crate::ui::status::is_late;

/// The order of the members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// Who holds the round up comes first.
    #[default]
    Lateness,
    /// By name.
    Name,
    /// By how far they are, the last first.
    Progress,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Lateness => Self::Name,
            Self::Name => Self::Progress,
            Self::Progress => Self::Lateness,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lateness => "the late first",
            Self::Name => "by name",
            Self::Progress => "by progress",
        }
    }
}

/// How much a member's state wants to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Concern {
    /// Nothing of it is awaited.
    None,
    /// It is at work.
    Busy,
    /// It is far slower than it usually is.
    Late,
    /// Nothing is heard of it, or its training failed.
    Lost,
}

pub(super) fn concern(m: &MemberStatus) -> Concern {
    let is_late = m.since_ms.zip(m.usual_ms).is_some_and(|(since, usual)| is_late(since, usual));
    match m.state.as_str() {
        _ if m.silent_ms.is_some() => Concern::Lost,
        "failed" => Concern::Lost,
        "training" if is_late => Concern::Late,
        "training" | "fetching" | "uploading" | "coordinating" | "joining" => Concern::Busy,
        _ => Concern::None,
    }
}

/// The members of a status in this order.
pub(super) fn sorted(status: &Status, sort: Sort) -> Vec<&MemberStatus> {
    let mut members: Vec<&MemberStatus> = status.roster.iter().collect();
    let name = |m: &&MemberStatus| name_of(&status.roster, &m.node_id);
    match sort {
        Sort::Lateness => {
            members.sort_by_cached_key(|m| (Reverse(concern(m)), Reverse(m.since_ms.unwrap_or_default()), name(m)));
        }
        Sort::Name => members.sort_by_cached_key(name),
        Sort::Progress => members.sort_by_cached_key(|m| (m.percent.unwrap_or(100), name(m))),
    }
    members
}
