//! The chain: committed records from genesis to head, and the rules by which the next one follows.
//!
//! [`Chain::check`] is what a member checks before it accepts a proposal, what a node that catches up checks of every
//! record, and what an offline verifier checks of all of them: one set of rules.

use std::collections::BTreeMap;

use crate::bounds::{NAME_BYTES_MAX, REQUEST_ROUNDS, ROSTER_MAX, SAMPLES_MAX};
use crate::ids::{Ballot, BlobRef, Hash, NodeId, RunId};
use crate::record::{Committed, Contribution, Eviction, Founding, Kind, Record, Vote};
use crate::reject::Reject;
use crate::roster::Roster;
use crate::rule::Rule;
use crate::runfile::RunFile;
use crate::sign::Scope;

/// What the run file fixes for agreement.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The run.
    pub run: RunId,
    /// Records with contributions until the run ends.
    pub rounds: u64,
    /// Nodes that a founding needs.
    pub min_nodes: usize,
    /// C of FedAvg: the part of the roster that trains in a round, in (0, 1].
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<usize>,
    /// Longest time from the opening of an attempt to the end of its collection.
    pub round_timeout_ms: u64,
    /// The model that every node makes from the run file's seed.
    pub initial_model: BlobRef,
    /// Bytes of an update.
    pub update_len: u64,
    /// How updates become the next model.
    pub rule: Rule,
}

impl Rules {
    /// The rules of a run file, whose seed and net give this initial model.
    pub fn of(run_file: &RunFile, initial_model: BlobRef, update_len: u64) -> Self {
        Self {
            run: run_file.run_id(),
            rounds: run_file.run.rounds,
            min_nodes: run_file.run.min_nodes as usize,
            fraction: run_file.round.fraction,
            min_updates: run_file.round.min_updates.map(|m| m as usize),
            round_timeout_ms: run_file.round.timeout_ms,
            initial_model,
            update_len,
            rule: run_file.aggregate.rule,
        }
    }

    /// How many of a roster of `nodes` train in a round: the fraction rounded up, at least one.
    pub fn participants_of(&self, nodes: usize) -> usize {
        ((self.fraction * nodes as f64).ceil() as usize).clamp(1, nodes.max(1))
    }

    /// How many updates a round needs of so many participants.
    pub fn min_updates_of(&self, participants: usize) -> usize {
        self.min_updates.unwrap_or(participants / 2 + 1).clamp(1, participants.max(1))
    }
}

/// Committed records, without a gap, from the genesis on.
#[derive(Debug, Clone)]
pub struct Chain {
    rules: Rules,
    records: Vec<Committed>,
    /// Hash of the last record.
    head: Hash,
    genesis: Hash,
    roster: Roster,
    trained: u64,
}

impl Chain {
    /// A chain that begins with this genesis, whose proofs are checked.
    pub fn begin(rules: Rules, genesis: Committed) -> Result<Self, Reject> {
        let Kind::Genesis { founding, binds } = &genesis.record.kind else { return Err(Reject::WrongKind) };
        if founding.run != rules.run {
            return Err(Reject::OtherChain);
        }
        check_founding(&rules, founding)?;
        let roster = founding.roster();
        let scope = founding.scope();
        if genesis.record.parent != founding.id() || genesis.record.round != 0 {
            return Err(Reject::WrongParent);
        }
        if genesis.record.model != founding.model {
            return Err(Reject::OtherInitialModel);
        }
        if !binds.iter().map(|b| b.node).eq(roster.nodes()) || !binds.iter().all(|b| b.verifies(&scope)) {
            return Err(Reject::BadSignature);
        }
        check_accepts(&genesis, &scope, &roster)?;
        let head = genesis.record.hash();
        Ok(Self { rules, records: vec![genesis], head, genesis: head, roster, trained: 0 })
    }

    /// The hash of record 0: the name of this chain.
    pub fn genesis(&self) -> Hash {
        self.genesis
    }

    /// What the run file fixes.
    pub fn rules(&self) -> &Rules {
        &self.rules
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

    /// Records with contributions so far.
    pub fn trained(&self) -> u64 {
        self.trained
    }

    /// Whether all rounds are done, so that only the closing record is due.
    pub fn is_trained(&self) -> bool {
        self.trained >= self.rules.rounds
    }

    /// Whether the closing record is there.
    pub fn is_closed(&self) -> bool {
        matches!(self.head().kind, Kind::Closing)
    }

    /// Samples of the whole roster, as far as contributions told, those to the next record included.
    pub fn samples_of_roster<'a>(&'a self, next: impl Iterator<Item = &'a Contribution>) -> u64 {
        let mut known = BTreeMap::new();
        let before = self.records.iter().flat_map(|c| &c.record.contributions);
        before.chain(next).filter(|c| self.roster.contains(c.node)).for_each(|c| {
            known.insert(c.node, c.samples);
        });
        samples_of_all(known.values().copied(), self.roster.len())
    }

    /// The last update of a node that was averaged in this chain.
    pub fn last_update_of(&self, node: NodeId) -> Option<Hash> {
        let contributions = self.records.iter().rev().flat_map(|c| &c.record.contributions);
        contributions.into_iter().find(|c| c.node == node).map(|c| c.update.id)
    }

    /// The chain that this one gave itself up for.
    pub fn yielded_to(&self) -> Option<Hash> {
        match self.head().kind {
            Kind::Yield { to } => Some(to),
            _ => None,
        }
    }

    /// The scope of what is signed in the next round.
    pub fn scope(&self) -> Scope {
        Scope { run: self.rules.run, genesis: self.genesis, parent: self.head }
    }

    /// Appends the next record after checking it and the accepts that prove its commit.
    pub fn append(&mut self, next: Committed) -> Result<(), Reject> {
        self.check_committed(&next)?;
        self.push(next);
        Ok(())
    }

    /// Appends a record from this node's own disk: the signatures were checked before it was written, so only its place
    /// in the chain is checked again.
    pub fn append_stored(&mut self, next: Committed) -> Result<(), Reject> {
        if next.record.round != self.next_round() || next.record.parent != self.head {
            return Err(Reject::WrongParent);
        }
        self.push(next);
        Ok(())
    }

    fn push(&mut self, next: Committed) {
        self.head = next.record.hash();
        self.roster = next.record.roster_after(&self.roster);
        self.trained += u64::from(matches!(next.record.kind, Kind::Train));
        self.records.push(next);
    }

    /// Whether this is the next record with a quorum's accepts.
    pub fn check_committed(&self, next: &Committed) -> Result<(), Reject> {
        self.check(&next.record)?;
        check_accepts(next, &self.scope(), &self.roster)
    }

    /// Whether `record` may follow: parent, round, kind, participants, contributions, roster changes, signatures.
    pub fn check(&self, record: &Record) -> Result<(), Reject> {
        if record.round != self.next_round() || record.parent != self.head {
            return Err(Reject::WrongParent);
        }
        if !self.roster.contains(record.coordinator) {
            return Err(Reject::Stranger);
        }
        if record.rule != self.rules.rule {
            return Err(Reject::WrongKind);
        }
        if self.is_closed() || self.yielded_to().is_some() {
            return Err(Reject::WrongKind);
        }
        match record.kind {
            Kind::Train if !self.is_trained() => self.check_train(record)?,
            Kind::Empty if !self.is_trained() => self.check_no_training(record)?,
            Kind::Closing if self.is_trained() => self.check_closing(record)?,
            Kind::Yield { to } if record.round == 1 && to != self.genesis => {
                self.check_no_training(record)?;
                if !(record.joined.is_empty() && record.left.is_empty() && record.evicted.is_empty()) {
                    return Err(Reject::BadRosterChange);
                }
            }
            _ => return Err(Reject::WrongKind),
        }
        self.check_changes(record)
    }

    fn check_train(&self, record: &Record) -> Result<(), Reject> {
        self.check_participants(&record.participants)?;
        let needed = self.rules.min_updates_of(self.rules.participants_of(self.roster.len()));
        if record.contributions.len() < needed {
            return Err(Reject::TooFewUpdates);
        }
        if record.model.len != self.head().model.len {
            return Err(Reject::WrongShape);
        }
        if !record.evaluations.is_empty() {
            return Err(Reject::WrongKind);
        }
        if !is_ascending(record.contributions.iter().map(|c| c.node)) {
            return Err(Reject::Twice);
        }
        record.contributions.iter().try_for_each(|c| self.check_contribution(c, &record.participants))
    }

    /// Whether `participants` are the first of the order that everybody can compute, and enough of them.
    pub fn check_participants(&self, participants: &[NodeId]) -> Result<(), Reject> {
        let order = self.roster.trainees(self.head().model.id, self.next_round());
        let enough = participants.len() >= self.rules.participants_of(self.roster.len());
        if enough && order.starts_with(participants) { Ok(()) } else { Err(Reject::WrongParticipants) }
    }

    /// Whether a contribution to the next round is one that may be averaged, as far as its metadata tell.
    pub fn check_contribution(&self, c: &Contribution, participants: &[NodeId]) -> Result<(), Reject> {
        if !participants.contains(&c.node) {
            return Err(Reject::NotParticipant);
        }
        if c.update.len != self.rules.update_len {
            return Err(Reject::WrongShape);
        }
        let evaluated = c.evaluation.is_none_or(|e| e.is_plausible());
        if !(1..=SAMPLES_MAX).contains(&c.samples) || !c.train_loss.is_finite() || !evaluated {
            return Err(Reject::BadMetrics);
        }
        if c.verifies(&self.scope(), self.next_round()) { Ok(()) } else { Err(Reject::BadSignature) }
    }

    fn check_no_training(&self, record: &Record) -> Result<(), Reject> {
        let nothing = record.contributions.is_empty() && record.evaluations.is_empty();
        if !nothing || record.model != self.head().model || record.participants.len() > self.roster.len() {
            return Err(Reject::WrongKind);
        }
        Ok(())
    }

    fn check_closing(&self, record: &Record) -> Result<(), Reject> {
        if !record.contributions.is_empty() || record.model != self.head().model || !record.participants.is_empty() {
            return Err(Reject::WrongKind);
        }
        if !is_ascending(record.evaluations.iter().map(|e| e.node)) {
            return Err(Reject::Twice);
        }
        for evaluation in &record.evaluations {
            if !self.roster.contains(evaluation.node) {
                return Err(Reject::Stranger);
            }
            if !evaluation.evaluation.is_plausible() {
                return Err(Reject::BadMetrics);
            }
            if !evaluation.verifies(&self.scope(), record.round) {
                return Err(Reject::BadSignature);
            }
        }
        Ok(())
    }

    fn check_changes(&self, record: &Record) -> Result<(), Reject> {
        for leave in &record.left {
            self.check_leave(leave)?;
        }
        for eviction in &record.evicted {
            self.check_eviction(eviction)?;
        }
        let gone = record.left.iter().map(|l| l.node).chain(record.evicted.iter().map(Eviction::node));
        let mut staying = self.roster.clone();
        gone.for_each(|node| staying.remove(node));
        if record.left.len() + record.evicted.len() != self.roster.len() - staying.len() {
            return Err(Reject::Twice);
        }
        if record.joined.len() > self.joins_max() {
            return Err(Reject::TooMany);
        }
        for join in &record.joined {
            if !join.verifies(self.rules.run, self.genesis) {
                return Err(Reject::BadSignature);
            }
            self.check_join(join, &staying)?;
            staying.insert(join.member.clone());
        }
        if staying.is_empty() || staying.len() > ROSTER_MAX { Err(Reject::BadRosterChange) } else { Ok(()) }
    }

    /// Members that one record may add: half of the roster, at least one.
    pub fn joins_max(&self) -> usize {
        (self.roster.len() / 2).max(1)
    }

    /// Whether a join request holds, its signature aside, given who stays on the roster.
    pub fn check_join(&self, join: &crate::record::JoinRequest, staying: &Roster) -> Result<(), Reject> {
        let member = &join.member;
        if is_void(join.round, self.next_round()) {
            return Err(Reject::Void);
        }
        // Whoever is on the roster of this round can't join it, also when the same record takes it off.
        if self.roster.contains(member.node) || staying.contains(member.node) || member.name.len() > NAME_BYTES_MAX {
            return Err(Reject::BadRosterChange);
        }
        match member.part {
            Some(part) if !part.is_valid() => Err(Reject::BadRosterChange),
            Some(part) if staying.members().iter().any(|m| m.part == Some(part)) => Err(Reject::PartTaken),
            _ => Ok(()),
        }
    }

    /// Whether a leave request holds.
    pub fn check_leave(&self, leave: &crate::record::LeaveRequest) -> Result<(), Reject> {
        if !self.roster.contains(leave.node) {
            return Err(Reject::BadRosterChange);
        }
        if is_void(leave.round, self.next_round()) {
            return Err(Reject::Void);
        }
        if leave.verifies(self.rules.run, self.genesis) { Ok(()) } else { Err(Reject::BadSignature) }
    }

    fn check_eviction(&self, eviction: &Eviction) -> Result<(), Reject> {
        let proven = match eviction {
            Eviction::Liar { node, evidence } => evidence.liar(self.rules.run, self.genesis) == Some(*node),
            Eviction::Silent { node, votes } => {
                let named = |v: &Vote| {
                    v.silent.contains(node)
                        && v.ballot.round == self.next_round()
                        && self.roster.contains(v.voter)
                        && v.verifies(&self.scope())
                };
                is_ascending(votes.iter().map(|v| v.voter))
                    && votes.len() >= self.roster.quorum()
                    && votes.len() <= self.roster.len()
                    && votes.iter().all(named)
            }
        };
        if proven && self.roster.contains(eviction.node()) { Ok(()) } else { Err(Reject::BadRosterChange) }
    }
}

/// Samples of so many nodes, of which some are known: the others are taken to have as many on average.
pub fn samples_of_all(known: impl Iterator<Item = u64>, nodes: usize) -> u64 {
    let (sum, count) = known.fold((0, 0), |(sum, count), samples| (sum + samples, count + 1));
    // Both factors are bounded: 2^20 samples a node, 4096 nodes.
    sum * nodes as u64 / u64::max(count, 1)
}

/// Whether a request made for `made` no longer counts in `now`, or was made for a round that has not come.
fn is_void(made: u64, now: u64) -> bool {
    made > now || now - made > REQUEST_ROUNDS
}

fn is_ascending(nodes: impl Iterator<Item = NodeId>) -> bool {
    nodes.is_sorted_by(|a, b| a < b)
}

/// Whether a founding may be voted on at all: this run, a roster in order, large enough, no part twice.
pub fn check_founding(rules: &Rules, founding: &Founding) -> Result<(), Reject> {
    let members = &founding.members;
    if founding.run != rules.run {
        return Err(Reject::OtherChain);
    }
    if members.len() < rules.min_nodes || members.len() > ROSTER_MAX {
        return Err(Reject::OverBound);
    }
    if !is_ascending(members.iter().map(|m| m.node)) {
        return Err(Reject::Twice);
    }
    let mut parts: Vec<_> = members.iter().filter_map(|m| m.part).collect();
    parts.sort();
    let parts_fit = parts.iter().all(|p| p.is_valid()) && parts.is_sorted_by(|a, b| a < b);
    if !parts_fit || members.iter().any(|m| m.name.len() > NAME_BYTES_MAX) {
        return Err(Reject::BadRosterChange);
    }
    Ok(())
}

/// Whether these votes elect `candidate` in `ballot`: a quorum of the roster, each signed, each voter once. Returns what
/// the highest of them has accepted: that must be proposed again.
pub fn check_votes(
    votes: &[Vote],
    scope: &Scope,
    roster: &Roster,
    ballot: Ballot,
    candidate: NodeId,
) -> Result<Option<(Ballot, Hash)>, Reject> {
    if !roster.contains(candidate) {
        return Err(Reject::Stranger);
    }
    if votes.len() < roster.quorum() || votes.len() > roster.len() || !is_ascending(votes.iter().map(|v| v.voter)) {
        return Err(Reject::NoQuorum);
    }
    let fits =
        |v: &Vote| v.ballot == ballot && v.candidate == candidate && roster.contains(v.voter) && v.is_plausible();
    if !votes.iter().all(fits) {
        return Err(Reject::NoQuorum);
    }
    if !votes.iter().all(|v| v.verifies(scope)) {
        return Err(Reject::BadSignature);
    }
    Ok(votes.iter().filter_map(|v| v.accepted).max_by_key(|(ballot, _)| *ballot))
}

/// Whether the accepts of `committed` prove it: one ballot, one coordinator, a quorum of the roster, each signed.
pub fn check_accepts(committed: &Committed, scope: &Scope, roster: &Roster) -> Result<(), Reject> {
    let Committed { record, accepts } = committed;
    let Some((ballot, coordinator)) = committed.committed_in() else { return Err(Reject::NoQuorum) };
    let value = record.hash();
    if accepts.len() < roster.quorum()
        || accepts.len() > roster.len()
        || !is_ascending(accepts.iter().map(|a| a.acceptor))
        || ballot.round != record.round
    {
        return Err(Reject::NoQuorum);
    }
    for accept in accepts {
        let fits = accept.ballot == ballot && accept.coordinator == coordinator && accept.value == value;
        if !fits || !roster.contains(accept.acceptor) {
            return Err(Reject::NoQuorum);
        }
        if !accept.verifies(scope) {
            return Err(Reject::BadSignature);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_never_contributed_count_as_the_mean_of_the_others() {
        assert_eq!(samples_of_all([100, 300].into_iter(), 3), 600);
        assert_eq!(samples_of_all([100, 300].into_iter(), 2), 400);
        assert_eq!(samples_of_all(std::iter::empty(), 2), 0);
    }
}
