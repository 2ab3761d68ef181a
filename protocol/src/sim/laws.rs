//! What must hold after every event, whatever happens: the promises of the protocol, as checks over the whole world.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::{Hash, NodeId, Time};
use crate::record::Record;
use crate::roster::Roster;

use super::disk::Disk;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, and how.
    pub what: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// The seed that shows it.
    pub seed: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: after {} ms: {}", self.seed, self.at_ms, self.what)
    }
}

#[derive(Debug, Default)]
pub(super) struct Laws {
    /// The one record of each round of each chain, and the roster that decided it.
    decided: BTreeMap<(Hash, u64), Hash>,
    /// Who founded which chain.
    founders: BTreeMap<Hash, BTreeSet<NodeId>>,
    pub(super) violation: Option<Violation>,
}

impl Laws {
    fn violate(&mut self, seed: u64, now: Time, what: String) {
        self.violation.get_or_insert(Violation { what, at_ms: now.0, seed });
    }

    /// A node calls `record` committed in the chain `genesis`; `roster` decided it.
    pub(super) fn committed<'a>(
        &mut self,
        (seed, now): (u64, Time),
        genesis: Hash,
        record: &Record,
        roster: &Roster,
        disks: impl Iterator<Item = (NodeId, &'a Disk)>,
    ) {
        let value = record.hash();
        match self.decided.insert((genesis, record.round), value) {
            Some(before) if before != value => {
                let what = format!("one truth: round {} committed {value:?} and {before:?}", record.round);
                return self.violate(seed, now, what);
            }
            Some(_) => return,
            None => {}
        }
        // Nothing lost: when the first node calls it committed, a majority of those who decide holds it on disk.
        let holders = disks.filter(|(node, disk)| roster.contains(*node) && disk.holds(value)).count();
        if holders < roster.quorum() {
            let what = format!(
                "nothing lost: round {} called committed with {holders} of {} copies on disk",
                record.round,
                roster.len()
            );
            self.violate(seed, now, what);
        }
        if record.round == 0 {
            self.founded((seed, now), genesis, roster);
        }
    }

    /// Two committed foundings share no node.
    fn founded(&mut self, (seed, now): (u64, Time), genesis: Hash, roster: &Roster) {
        let members: BTreeSet<NodeId> = roster.nodes().collect();
        let shared = self.founders.iter().find(|(other, m)| **other != genesis && !m.is_disjoint(&members));
        if let Some((other, _)) = shared {
            let what = format!("one truth: the foundings {genesis:?} and {other:?} share a node");
            self.violate(seed, now, what);
        }
        self.founders.insert(genesis, members);
    }

    /// A node whose update for this round is on its disk is told to train again.
    pub(super) fn trains(&mut self, (seed, now): (u64, Time), node: NodeId, round: u64, disk: &Disk) {
        if disk.has_contribution(round) {
            self.violate(seed, now, format!("no training is repeated: {node:?} trains again in round {round}"));
        }
    }

    /// The chains that were founded.
    pub(super) fn chains(&self) -> impl Iterator<Item = Hash> + '_ {
        self.founders.keys().copied()
    }
}
