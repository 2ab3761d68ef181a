//! The disk of a simulated node: what was written is there after a crash, by the rules that `io::persist` gives a store.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::{Ballot, Hash};
use crate::base::signed::Signed;
use crate::io::{KeptAside, Persist, Recovered, RecoveredBallot, RecoveredFounding};
use crate::record::{Bind, Committed, Contribution, Evidence, Founding, Kind, Proposal, Vote};

/// A node's vote and what it accepted in a round.
type Promised = (Option<Signed<Vote>>, Option<Proposal>);

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    promises: BTreeMap<Hash, Ballot>,
    forgotten: BTreeSet<Hash>,
    /// The chain that the node is in or follows.
    current: Option<Hash>,
    chains: BTreeMap<Hash, Vec<Committed>>,
    bound: Option<(Signed<Founding>, Signed<Bind>)>,
    aborted: Vec<RecoveredFounding>,
    ballots: BTreeMap<(Hash, u64), Promised>,
    contribution: Option<Signed<Contribution>>,
    evidence: Vec<Evidence>,
    pub(super) second_commits: Vec<Committed>,
    switched: Option<Hash>,
    leaving: bool,
    left: bool,
    pub(super) blobs: BTreeSet<Hash>,
    /// The records of all chains by their hash, with the model of each.
    values: BTreeMap<Hash, Hash>,
}

impl Disk {
    /// Writes an item. A record behind a gap is an error of the store, as in the real one.
    pub(super) fn write(&mut self, item: Persist) -> Result<(), &'static str> {
        for (chain, ballot) in item.promises() {
            let promise = self.promises.entry(chain).or_insert(ballot);
            *promise = ballot.max(*promise);
        }
        match item {
            Persist::Bound { founding, bind } => self.bound = Some((founding, bind)),
            Persist::Aborted { founding, proof } => {
                self.bound = None;
                self.ballots.remove(&(founding, 0));
                self.aborted.push(RecoveredFounding::Aborted { founding, proof });
            }
            Persist::Vote { chain, vote } => {
                let round = vote.vouched().ballot.round;
                self.ballots.entry((chain, round)).or_default().0 = Some(vote);
            }
            Persist::Accepted { chain, proposal } => {
                let round = proposal.proposed.vouched().ballot.round;
                self.ballots.entry((chain, round)).or_default().1 = Some(proposal);
            }
            Persist::Committed { chain, committed, .. } => return self.write_record(chain, committed),
            Persist::Contribution { contribution, .. } => self.contribution = Some(contribution),
            Persist::Evidence(evidence) => self.evidence.push(evidence),
            Persist::SecondCommit(committed) => self.second_commits.push(committed),
            Persist::LetGo { chain } => {
                self.chains.remove(&chain);
                self.current = None;
            }
            Persist::Switched { to } => {
                self.current = Some(to).filter(|to| self.chains.contains_key(to));
                self.switched = Some(to).filter(|_| self.current.is_none());
                self.contribution = None;
                self.leaving = false;
            }
            Persist::Forgotten { chain } => {
                self.forgotten.insert(chain);
            }
            Persist::Leaving => self.leaving = true,
            Persist::Left => self.left = true,
        }
        Ok(())
    }

    fn write_record(&mut self, chain: Hash, committed: Committed) -> Result<(), &'static str> {
        let round = committed.record.round;
        match &committed.record.kind {
            Kind::Genesis { founding, .. } => {
                self.bound = None;
                self.ballots.remove(&(founding.id(), 0));
                self.current = Some(chain);
            }
            Kind::Forced(_) => {
                self.current = Some(chain);
                self.leaving = false;
            }
            Kind::Abort | Kind::Train | Kind::Empty | Kind::Closing | Kind::Yield { .. } => {}
        }
        if round == 0 {
            self.switched = None;
        }
        let records = self.chains.entry(chain).or_default();
        if round != records.len() as u64 {
            return Err("a record behind a gap");
        }
        if matches!(committed.record.kind, Kind::Yield { .. }) {
            self.current = None;
        }
        self.values.insert(committed.record.hash(), committed.record.model.id);
        records.push(committed);
        self.ballots.remove(&(chain, round));
        self.contribution = None;
        Ok(())
    }

    /// What a node finds when it starts.
    pub(super) fn read(&self) -> Recovered {
        let ballots = self.ballots.iter().map(|((chain, round), (vote, accepted))| RecoveredBallot {
            chain: *chain,
            round: *round,
            vote: vote.clone(),
            accepted: accepted.clone(),
        });
        let bound = self
            .bound
            .iter()
            .map(|(founding, bind)| RecoveredFounding::Bound { founding: founding.clone(), bind: *bind });
        let given_up = self.chains.values().filter_map(|records| match records.as_slice() {
            [genesis, yielded] if matches!(yielded.record.kind, Kind::Yield { .. }) => {
                Some([genesis.clone(), yielded.clone()])
            }
            _ => None,
        });
        let ballots: Vec<RecoveredBallot> = ballots.collect();
        let is_aside = |(chain, records): &(&Hash, &Vec<Committed>)| {
            let has_yielded = records.last().is_some_and(|last| matches!(last.record.kind, Kind::Yield { .. }));
            Some(**chain) != self.current && !has_yielded
        };
        let kept_aside =
            self.chains.iter().filter(is_aside).filter_map(|(_, records)| KeptAside::of(records, &ballots));
        Recovered {
            kept_aside: kept_aside.collect(),
            switched: self.switched,
            promises: self.promises.iter().map(|(chain, ballot)| (*chain, *ballot)).collect(),
            forgotten: self.forgotten.iter().copied().collect(),
            chain: self.current.and_then(|c| self.chains.get(&c)).cloned().unwrap_or_default(),
            given_up: given_up.collect(),
            foundings: self.aborted.iter().cloned().chain(bound).collect(),
            ballots,
            contribution: self.contribution.clone(),
            evidence: self.evidence.clone(),
            leaving: self.leaving,
            left: self.left,
            blobs: self.blobs.iter().copied().collect(),
        }
    }

    /// Planted: accepts are gone, and the promise with them.
    #[cfg(test)]
    pub(super) fn forget_accepts(&mut self) {
        for ((chain, _), (vote, accepted)) in &mut self.ballots {
            if accepted.take().is_some() {
                match vote {
                    Some(vote) => self.promises.insert(*chain, vote.vouched().ballot),
                    None => self.promises.remove(chain),
                };
            }
        }
    }

    /// Whether this disk holds a record, accepted or committed, and its model.
    pub(super) fn holds(&self, value: Hash) -> bool {
        let accepted = self.ballots.values().filter_map(|(_, accepted)| accepted.as_ref());
        let accepted = accepted.filter(|p| p.proposed.vouched().value == value).map(|p| p.record.model.id);
        let committed = self.values.get(&value).copied();
        accepted.chain(committed).any(|model| model == Hash::ZERO || self.blobs.contains(&model))
    }

    /// Whether the record of a round of a chain, committed, is here with its model.
    pub(super) fn holds_round(&self, chain: Hash, round: u64) -> bool {
        let record = self.chains.get(&chain).and_then(|records| records.get(round as usize));
        record.is_some_and(|c| self.blobs.contains(&c.record.model.id))
    }

    /// The promise of a chain or founding.
    pub(super) fn promise(&self, chain: Hash) -> Option<Ballot> {
        self.promises.get(&chain).copied()
    }

    /// Whether the node is bound to a founding.
    pub(super) fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// Whether the node's own contribution to what follows on this record is here.
    pub(super) fn has_contribution(&self, round: u64) -> bool {
        self.contribution.as_ref().is_some_and(|c| c.vouched().round == round)
    }

    /// The rounds of the current chain that are here.
    #[cfg(test)]
    pub(super) fn rounds(&self) -> Vec<u64> {
        let current = self.current.and_then(|c| self.chains.get(&c));
        current.into_iter().flatten().map(|c| c.record.round).collect()
    }
}
