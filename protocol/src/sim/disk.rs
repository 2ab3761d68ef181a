//! The disk of a simulated node: what was written is there after a crash, in the form that a real store keeps it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Hash;
use crate::machine::{Persist, Recovered, RecoveredBallot, RecoveredFounding};
use crate::message::Proposal;
use crate::record::{Committed, Contribution, Evidence, Vote};

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) chain: Vec<Committed>,
    aside: Vec<Committed>,
    foundings: BTreeMap<Hash, RecoveredFounding>,
    ballots: BTreeMap<(Hash, u64), (Option<Vote>, Option<Proposal>)>,
    contribution: Option<(u64, Contribution)>,
    evidence: Vec<Evidence>,
    left: bool,
    pub(super) blobs: BTreeSet<Hash>,
}

impl Disk {
    pub(super) fn write(&mut self, item: Persist) {
        match item {
            Persist::Founding(founding) => {
                let fresh = RecoveredFounding { founding, bind: None, refusal: None, decided: None };
                self.foundings.entry(fresh.founding.id()).or_insert(fresh);
            }
            Persist::Bind { founding, bind } => {
                self.foundings.entry(founding).and_modify(|f| f.bind = Some(bind));
            }
            Persist::Refusal { founding, refusal } => {
                self.foundings.entry(founding).and_modify(|f| f.refusal = Some(refusal));
            }
            Persist::Decided { founding, committed } => {
                self.foundings.entry(founding).and_modify(|f| f.decided = Some(committed));
                self.ballots.remove(&(founding, 0));
            }
            Persist::Vote { genesis, vote } => {
                let round = vote.ballot.round;
                self.ballots.entry((genesis, round)).or_default().0 = Some(vote);
            }
            Persist::Accepted { genesis, proposal } => {
                let round = proposal.ballot.round;
                self.ballots.entry((genesis, round)).or_default().1 = Some(proposal);
            }
            Persist::Committed { genesis, committed, .. } => {
                self.ballots.remove(&(genesis, committed.record.round));
                self.contribution = None;
                self.chain.push(committed);
            }
            Persist::Contribution { round, contribution, .. } => self.contribution = Some((round, contribution)),
            Persist::Evidence { evidence, .. } => self.evidence.push(evidence),
            Persist::SwitchChain { .. } => {
                self.aside = std::mem::take(&mut self.chain);
                self.contribution = None;
            }
            Persist::Left { .. } => self.left = true,
        }
    }

    /// What a node finds when it starts.
    pub(super) fn read(&self) -> Recovered {
        let ballots = self.ballots.iter().map(|((genesis, round), (vote, accepted))| RecoveredBallot {
            genesis: *genesis,
            round: *round,
            vote: vote.clone(),
            accepted: accepted.clone(),
        });
        Recovered {
            chain: self.chain.clone(),
            aside: self.aside.clone(),
            foundings: self.foundings.values().cloned().collect(),
            ballots: ballots.collect(),
            contribution: self.contribution.clone(),
            evidence: self.evidence.clone(),
            left: self.left,
            blobs: self.blobs.iter().copied().collect(),
        }
    }

    /// Whether this disk holds a record, accepted or committed, and its model.
    pub(super) fn holds(&self, value: Hash) -> bool {
        let accepted = self.ballots.values().filter_map(|(_, accepted)| accepted.as_ref().map(|p| &p.record));
        let committed = self
            .chain
            .iter()
            .chain(&self.aside)
            .map(|c| &c.record)
            .chain(self.foundings.values().filter_map(|f| f.decided.as_ref().map(|c| &c.record)));
        accepted.chain(committed).any(|r| r.hash() == value && self.blobs.contains(&r.model.id))
    }

    /// Whether the node's own contribution to this round is here.
    pub(super) fn has_contribution(&self, round: u64) -> bool {
        self.contribution.as_ref().is_some_and(|(r, _)| *r == round)
    }
}
