//! The roster: who may vote and contribute, and the orders that everybody can compute from it.

use serde::{Deserialize, Serialize};

use super::bounds::NAME_BYTES_MAX;
use super::ids::{Ballot, Hash, NodeId};

/// Part `index` of `of` of one data set (`--part K/N`), for experiments; `index` counts from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// K, from 1 to N.
    pub index: u32,
    /// N.
    pub of: u32,
}

impl Part {
    /// Whether K is within 1 to N.
    pub fn is_valid(&self) -> bool {
        (1..=self.of).contains(&self.index)
    }
}

impl Part {
    /// What training's random streams and the choice of participants are keyed by where there is a part.
    pub fn key(&self) -> Vec<u8> {
        format!("part {self}").into_bytes()
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// One node of the roster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// What people call it; see [`is_name`].
    pub name: String,
    /// Its part of a shared data set, if it was started with one.
    pub part: Option<Part>,
}

/// Whether a text may be shown as the name of a node or run: at most `NAME_BYTES_MAX` bytes and no control characters, which
/// would do something to the terminal that shows them. An empty one stands for no name.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control)
}

impl Member {
    /// What training's random streams and the choice of participants are keyed by: the part, so that an experiment
    /// repeats with fresh identities, or else the node id.
    pub fn key(&self) -> Vec<u8> {
        match self.part {
            Some(part) => part.key(),
            None => self.node.as_bytes().to_vec(),
        }
    }
}

/// The members, ordered by node id, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    members: Vec<Member>,
}

impl Roster {
    /// The roster of these members, in whatever order they come. Of two with the same id the first stays.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort_by_key(|m| m.node);
        members.dedup_by_key(|m| m.node);
        Self { members }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is on it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A strict majority.
    pub fn quorum(&self) -> usize {
        #[cfg(test)]
        if super::plant::is_planted(super::plant::Fault::QuorumOfThree) {
            return self.members.len().min(3) / 2 + 1;
        }
        self.members.len() / 2 + 1
    }

    /// All members, by node id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The ids, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|m| m.node)
    }

    /// The member with this id.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.binary_search_by_key(&node, |m| m.node).ok().map(|i| &self.members[i])
    }

    /// Whether the node is on it.
    pub fn contains(&self, node: NodeId) -> bool {
        self.get(node).is_some()
    }

    /// Adds a member; one that is there already stays as it was.
    pub fn insert(&mut self, member: Member) {
        if let Err(place) = self.members.binary_search_by_key(&member.node, |m| m.node) {
            self.members.insert(place, member);
        }
    }

    /// Takes a node off.
    pub fn remove(&mut self, node: NodeId) {
        self.members.retain(|m| m.node != node);
    }

    /// The order in which nodes stand for a ballot: by BLAKE3(model of the round before, round, attempt,
    /// node). All can check it and nobody can choose it.
    pub fn candidate_order(&self, model: Hash, ballot: Ballot) -> Vec<NodeId> {
        let rank = |node: &NodeId| {
            Hash::of_parts(
                "paceline candidate order",
                &[model.as_bytes(), &ballot.round.to_le_bytes(), &ballot.attempt.to_le_bytes(), node.as_bytes()],
            )
        };
        let mut nodes: Vec<NodeId> = self.nodes().collect();
        nodes.sort_by_cached_key(rank);
        nodes
    }

    /// The order in which nodes are chosen to train in a round: by BLAKE3(model of the round before, round,
    /// node key).
    pub fn participant_order(&self, model: Hash, round: u64) -> Vec<NodeId> {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by_cached_key(|m| {
            let rank =
                Hash::of_parts("paceline participant order", &[model.as_bytes(), &round.to_le_bytes(), &m.key()]);
            (rank, m.node)
        });
        members.into_iter().map(|m| m.node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(n: u8, part: bool) -> Roster {
        let member = |i: u8| Member {
            node: NodeId::from_public_key([i; 32]),
            name: format!("node {i}"),
            part: part.then_some(Part { index: u32::from(i) + 1, of: u32::from(n) }),
        };
        Roster::new((0..n).rev().map(member).collect())
    }

    #[test]
    fn a_quorum_is_a_strict_majority() {
        let quorums: Vec<usize> = (1..=7).map(|n| roster(n, false).quorum()).collect();
        assert_eq!(quorums, [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn each_attempt_ranks_the_candidates_anew() {
        let roster = roster(50, false);
        let order = |attempt| roster.candidate_order(Hash::of(b"m"), Ballot { round: 3, attempt });
        assert_eq!(order(0), order(0));
        assert_ne!(order(0), order(1));
    }

    #[test]
    fn with_parts_the_participants_do_not_depend_on_identities() {
        let one = roster(9, true);
        let fresh = Roster::new(
            one.members()
                .iter()
                .map(|m| Member { node: NodeId::from_public_key([m.node.as_bytes()[0] ^ 0x55; 32]), ..m.clone() })
                .collect(),
        );
        let parts = |r: &Roster| -> Vec<_> {
            r.participant_order(Hash::of(b"m"), 7).into_iter().map(|n| r.get(n).and_then(|m| m.part)).collect()
        };
        assert_eq!(parts(&one), parts(&fresh));
    }
}
