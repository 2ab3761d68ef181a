//! Since when things are as they are: the machine tells what is, and this remembers how long it has been so.

use std::collections::BTreeMap;
use std::mem::discriminant;

use paceline_protocol::NodeId;
use paceline_protocol::io::View;
use paceline_protocol::membership::message::Activity;
use tokio::time::Instant;

use crate::report::Ages;

/// What was seen, and when it was seen first.
#[derive(Debug, Default)]
pub(super) struct Since {
    round: Option<(u64, Instant)>,
    members: BTreeMap<NodeId, (u64, Option<Activity>, Instant)>,
}

impl Since {
    /// Takes a look. Progress in what a member does is no change of it, a new round is.
    pub(super) fn see(&mut self, view: &View, now: Instant) {
        if self.round.is_none_or(|(round, _)| round != view.round) {
            self.round = Some((view.round, now));
        }
        let before = std::mem::take(&mut self.members);
        for member in &view.roster {
            let is_same = |(round, does, _): &&(u64, Option<Activity>, Instant)| {
                *round == view.round && does.map(|a| discriminant(&a)) == member.activity.map(|a| discriminant(&a))
            };
            let since = before.get(&member.node).filter(is_same).map_or(now, |(.., since)| *since);
            self.members.insert(member.node, (view.round, member.activity, since));
        }
    }

    /// How long it has been so by now.
    pub(super) fn ages(&self, now: Instant) -> Ages {
        let ms = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let members = self.members.iter().map(|(node, (.., since))| (*node, ms(*since))).collect();
        Ages { round_ms: self.round.map_or(0, |(_, since)| ms(since)), members }
    }
}
