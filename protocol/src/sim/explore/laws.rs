//! The laws that hold in every state of a search: the simulator's own ([`Invariants`]), told what all nodes did, and two
//! about what foundings and chains come to.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::Hash;
use crate::io::Persist;
use crate::record::{AbortProof, Kind};
use crate::sim::invariants::Invariants;

use super::node::{Fact, Node, World};

/// The first law that these nodes together break.
pub(super) fn judge(world: &World, nodes: &[&Node]) -> Option<String> {
    if let Some(broken) = nodes.iter().find_map(|n| n.broken.clone()) {
        return Some(broken);
    }
    let mut laws = Invariants::new(0);
    let all = || nodes.iter().flat_map(|n| n.facts.iter().map(|f| (world.id(n.index), &world.facts[*f as usize])));
    // What is on disks decides, round after round: the order among nodes is not part of a state.
    let mut written: Vec<_> = all()
        .filter_map(|(node, fact)| match fact {
            Fact::Wrote(item @ Persist::Accepted { proposal, .. }) => Some((proposal.record.round, node, item)),
            _ => None,
        })
        .collect();
    written.sort_by_key(|(round, ..)| *round);
    written.into_iter().for_each(|(_, node, item)| laws.written(node, item));
    for (node, fact) in all() {
        match fact {
            Fact::Said(message) => {
                let disk = nodes.iter().find(|n| world.id(n.index) == node).map(|n| &n.disk);
                disk.into_iter().for_each(|disk| laws.sent(node, message, disk));
            }
            Fact::Wrote(Persist::Accepted { .. }) | Fact::Aborted(..) => {}
            Fact::Wrote(item) => laws.written(node, item),
            Fact::Committed(chain, committed) => laws.committed(node, *chain, committed),
            Fact::Happened(event) => laws.happened(node, event),
        }
    }
    laws.nothing_lost(nodes.iter().map(|n| (world.id(n.index), &n.disk)));
    let (violation, facts) = (laws.violation.map(|v| v.what), || all().map(|(_, fact)| fact));
    violation.or_else(|| ends_in_two_ways(facts())).or_else(|| give_way_to_each_other(facts()))
}

/// A founding comes about or comes to nothing.
fn ends_in_two_ways<'a>(facts: impl Iterator<Item = &'a Fact>) -> Option<String> {
    let (mut founded, mut aborted) = (BTreeSet::new(), BTreeSet::new());
    for fact in facts {
        match fact {
            Fact::Committed(_, committed) => {
                if let Kind::Genesis { founding, .. } = &committed.record.kind {
                    founded.insert(founding.id());
                }
            }
            Fact::Aborted(founding, _) => {
                aborted.insert(*founding);
            }
            _ => {}
        }
    }
    founded.intersection(&aborted).next().map(|id| format!("one truth: founding {id:?} came about and was aborted"))
}

/// Of two chains one stays.
fn give_way_to_each_other<'a>(facts: impl Iterator<Item = &'a Fact>) -> Option<String> {
    let yields: BTreeMap<Hash, Hash> = facts
        .filter_map(|fact| match fact {
            Fact::Committed(chain, committed) => match &committed.record.kind {
                Kind::Yield { to, .. } => Some((*chain, *to)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let mutual = yields.iter().find(|(chain, to)| yields.get(to) == Some(chain));
    mutual.map(|(chain, to)| format!("chains {chain:?} and {to:?} give way to each other"))
}

/// What came about in a state, in words: that a search came to what it is for.
pub(super) fn outcome(world: &World, nodes: &[&Node]) -> BTreeSet<String> {
    let facts = nodes.iter().flat_map(|n| n.facts.iter().map(|f| &world.facts[*f as usize]));
    facts
        .filter_map(|fact| match fact {
            Fact::Committed(_, committed) => {
                let record = &committed.record;
                let ballot = committed.committed_in().map(|(ballot, _)| ballot)?;
                let made = match (record.round, record.attempt) == (ballot.round, ballot.attempt) {
                    true => String::new(),
                    false => format!(", made in {}.{}", record.round, record.attempt),
                };
                Some(format!("{} in {ballot}{made}", record.kind.name()))
            }
            Fact::Aborted(_, AbortProof::Decided(_)) => Some("founding aborted by decision".to_owned()),
            Fact::Aborted(_, AbortProof::Refused(_)) => Some("founding refused".to_owned()),
            _ => None,
        })
        .collect()
}
