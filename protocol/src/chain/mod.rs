//! The chain: committed records from genesis to head.
//!
//! What may follow is in [`check`]: what a member checks before it accepts a proposal, what a node that catches up checks
//! of every record, and what an offline verifier checks of all of them is one set of rules.

pub mod check;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod fixture;
pub mod flaws;
pub mod params;
pub mod stop;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::base::bounds::FAILED_ROUNDS_MAX;
use crate::base::ids::{Hash, NodeId};
use crate::base::reject::Reject;
use crate::base::roster::Roster;
use crate::base::signed::{Scope, Verifier};
use crate::record::{Committed, Contribution, Forced, Kind, Record};

pub use check::{check_accepts, check_forced, check_founding, check_outcome, check_votes, highest_accepted};
pub use params::{Learned, RunParams};
pub use stop::{StopRule, StopWatch, Stopped};

/// Committed records, without a gap, from the genesis on.
#[derive(Debug, Clone)]
pub struct Chain {
    params: RunParams,
    verifier: Verifier,
    records: Vec<Committed>,
    /// Hash of the last record.
    head: Hash,
    genesis: Hash,
    founding: Hash,
    roster: Roster,
    trained: u64,
    /// Rounds since the last update or resumption in which training failed everywhere.
    failed_rounds: u32,
    stop: StopWatch,
}

impl Chain {
    /// A chain that begins with this genesis, whose proofs are checked.
    ///
    /// # Errors
    /// What is wrong with the genesis.
    pub fn begin(params: RunParams, genesis: Committed, verifier: Verifier) -> Result<Self, Reject> {
        let (scope, trained) = match &genesis.record.kind {
            Kind::Genesis { founding, .. } => {
                check_founding(&params, founding, &verifier)?;
                check_outcome(founding, &genesis.record, &verifier)?;
                (founding.scope(), 0)
            }
            Kind::Forced(forced) => {
                check_forced(&params, forced, &genesis.record, &verifier)?;
                (forced.scope(params.run), forced.vouched().trained)
            }
            Kind::Abort | Kind::Train | Kind::Empty | Kind::Closing | Kind::Yield { .. } => {
                return Err(Reject::WrongKind);
            }
        };
        let roster = genesis.record.roster_after(&Roster::default());
        check_accepts(&genesis, &scope, &roster, &verifier)?;
        let head = genesis.record.hash();
        let records = vec![genesis];
        Ok(Self {
            params,
            verifier,
            records,
            head,
            genesis: head,
            founding: scope.chain,
            roster,
            trained,
            failed_rounds: 0,
            stop: StopWatch::beginning(trained > 0),
        })
    }

    /// How a member began this chain alone, if one did.
    pub fn forced(&self) -> Option<&Forced> {
        self.records.first().and_then(|c| c.record.forced())
    }

    /// The next round, with those of the chain that this one continues: training goes on where that was.
    pub fn training_round(&self) -> u64 {
        self.forced().map_or(0, |forced| forced.round) + self.next_round()
    }

    /// The hash of record 0: the name of this chain.
    pub fn genesis(&self) -> Hash {
        self.genesis
    }

    /// The id of the founding that it began with, or of the member's word that stands for one.
    pub fn founding(&self) -> Hash {
        self.founding
    }

    /// What the run file fixes.
    pub fn params(&self) -> &RunParams {
        &self.params
    }

    /// All records, the genesis first.
    pub fn records(&self) -> &[Committed] {
        &self.records
    }

    /// The last record.
    pub fn head(&self) -> &Record {
        let last = self.records.last().expect("a chain begins with its genesis and only grows");
        &last.record
    }

    /// Hash of the last record.
    pub fn head_hash(&self) -> Hash {
        self.head
    }

    /// The roster that decides the next round.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The round after the last record.
    pub fn next_round(&self) -> u64 {
        self.records.len() as u64
    }

    /// Records with contributions so far, those of a chain that this one continues included.
    pub fn trained(&self) -> u64 {
        self.trained
    }

    /// Rounds up to this one and those with contributions among them, of the chain that this one continues, too.
    pub fn progress_at(&self, round: u64) -> (u64, u64) {
        let later = self.records.iter().map(|c| &c.record).filter(|record| record.round > round);
        let trained_later = later.filter(|record| matches!(record.kind, Kind::Train)).count() as u64;
        (self.training_round() - self.next_round() + round, self.trained - trained_later)
    }

    /// Updates without which the next round has no model.
    pub fn updates_needed(&self) -> usize {
        let quota = self.params.quota;
        quota.min_updates_of(quota.participants_of(self.roster.len()))
    }

    /// Whether so many failures leave too few members for the next round's updates, whatever the others do.
    pub fn is_hopeless(&self, failures: usize) -> bool {
        self.roster.len() - failures.min(self.roster.len()) < self.updates_needed()
    }

    /// Whether the run has stopped: training failed everywhere in `FAILED_ROUNDS_MAX` rounds, and nobody has resumed it.
    pub fn is_halted(&self) -> bool {
        self.failed_rounds >= FAILED_ROUNDS_MAX && !self.is_trained()
    }

    /// Whether all rounds are done, or the run ends before, so that only the closing record is due.
    pub fn is_trained(&self) -> bool {
        self.trained >= self.params.rounds || self.stop.stopped().is_some()
    }

    /// Why the run ends before its rounds do, if it does.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stop.stopped()
    }

    /// Whether the closing record is there.
    pub fn is_closed(&self) -> bool {
        matches!(self.head().kind, Kind::Closing)
    }

    /// The chain that this one gave itself up for.
    pub fn yielded_to(&self) -> Option<Hash> {
        match self.head().kind {
            Kind::Yield { to, .. } => Some(to),
            _ => None,
        }
    }

    /// Whether nothing can follow.
    pub fn is_over(&self) -> bool {
        self.is_closed() || self.yielded_to().is_some()
    }

    /// The scope of what is signed in the next round.
    pub fn scope(&self) -> Scope {
        Scope { run: self.params.run, chain: self.genesis, parent: self.head }
    }

    /// The scope of what was signed in a round that is decided, round 0 being the founding; `None` for one that is not.
    pub fn scope_of(&self, round: u64) -> Option<Scope> {
        let record = &self.records.get(usize::try_from(round).ok()?)?.record;
        let chain = if round == 0 { self.founding } else { self.genesis };
        Some(Scope { run: self.params.run, chain, parent: record.parent })
    }

    /// The roster that decided a round, by going over the records before it.
    pub fn roster_of(&self, round: u64) -> Roster {
        let before = usize::try_from(round).unwrap_or(usize::MAX).max(1);
        self.records.iter().take(before).fold(Roster::default(), |roster, c| c.record.roster_after(&roster))
    }

    /// Samples of the whole roster, as far as contributions told, those to the next record included.
    pub fn samples_of_roster(&self, next: impl Iterator<Item = (NodeId, u64)>) -> u64 {
        let before = self.records.iter().flat_map(|c| c.record.contributions()).map(|(node, c)| (node, c.samples));
        let known: BTreeMap<NodeId, u64> = before.chain(next).filter(|(node, _)| self.roster.contains(*node)).collect();
        samples_of_all(known.values().copied(), self.roster.len())
    }

    /// The last contribution of a node that was averaged in this chain.
    pub fn last_contribution_of(&self, node: NodeId) -> Option<&Contribution> {
        let mut contributions = self.records.iter().rev().flat_map(|c| c.record.contributions());
        contributions.find(|(by, _)| *by == node).map(|(_, c)| c)
    }

    /// Whether a record at or after `round` put a node on the roster or took it off.
    pub fn has_changed_since(&self, node: NodeId, round: u64) -> bool {
        let from = usize::try_from(round).unwrap_or(usize::MAX).min(self.records.len());
        self.records[from..].iter().map(|c| &c.record).any(|r| {
            r.joined.iter().any(|j| j.by() == node)
                || r.left.iter().any(|l| l.by() == node)
                || r.evicted.iter().any(|e| e.node() == node)
        })
    }

    /// Appends the next record after checking it and the accepts that prove its commit.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn append(&mut self, next: Committed) -> Result<(), Reject> {
        self.check_committed(&next)?;
        self.push(next);
        Ok(())
    }

    /// Appends a record from this node's own disk: the signatures were checked before it was written, so only its place
    /// in the chain is checked again.
    ///
    /// # Errors
    /// [`Reject::WrongParent`].
    pub fn append_stored(&mut self, next: Committed) -> Result<(), Reject> {
        if next.record.round != self.next_round() || next.record.parent != self.head {
            return Err(Reject::WrongParent);
        }
        self.push(next);
        Ok(())
    }

    fn push(&mut self, next: Committed) {
        let record = &next.record;
        self.failed_rounds = match record.kind {
            Kind::Train => 0,
            _ if record.resumed.is_some() => 0,
            _ if !record.failures.is_empty() && self.is_hopeless(record.failures.len()) => self.failed_rounds + 1,
            _ => self.failed_rounds,
        };
        self.stop.see_record(&self.params.stop, self.params.round_timeout_ms, record);
        self.head = next.record.hash();
        self.roster = next.record.roster_after(&self.roster);
        self.trained += u64::from(matches!(next.record.kind, Kind::Train));
        self.records.push(next);
    }
}

/// Samples of so many nodes, of which some are known: the others are taken to have as many on average.
pub fn samples_of_all(known: impl Iterator<Item = u64>, nodes: usize) -> u64 {
    let (sum, count) = known.fold((0u64, 0), |(sum, count), samples| (sum.saturating_add(samples), count + 1));
    // Both factors are bounded, 2^20 samples a node and 4096 nodes, but in a chain that nobody believes.
    sum.saturating_mul(nodes as u64) / u64::max(count, 1)
}
