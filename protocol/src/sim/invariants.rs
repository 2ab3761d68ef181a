//! What must hold after every event, whatever happens: the promises of the protocol, as checks over the whole world. They
//! judge what nodes say and what is on disks, not what is left of it afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::base::codec;
use crate::base::ids::{Ballot, Hash, NodeId, Time};
use crate::base::roster::Roster;
use crate::founding::message::Message as Founding;
use crate::io::{Event, Persist};
use crate::membership::message::Message as Membership;
use crate::message::{Body, Message};
use crate::paxos::message::Message as Paxos;
use crate::record::{Committed, Kind, Proposal, Proposed, Record};

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

impl Violation {
    /// Which promise.
    pub fn law(&self) -> &str {
        self.what.split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: after {} ms: {}", self.seed, self.at_ms, self.what)
    }
}

/// What a node signs once: a vote, a proposal, an accept of one ballot; its word on a founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Vote,
    Proposed,
    Accept,
    Founding,
}

/// What was decided in a round of a chain or founding.
#[derive(Debug, Clone)]
struct Decision {
    value: Hash,
    record: Record,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Invariants {
    seed: u64,
    pub(super) now: Time,
    /// Nodes that may lie: the laws on what one says are not for them.
    hostile: BTreeSet<NodeId>,
    /// Nodes that came off the roster for good: their disks do not count any more.
    left: BTreeSet<NodeId>,
    /// What each node has signed, over all its lives.
    said: BTreeMap<(NodeId, Word, Hash, Ballot), Hash>,
    /// Who has which proposal of a ballot accepted on disk.
    accepted: BTreeMap<(Hash, Ballot, Hash), BTreeSet<NodeId>>,
    /// The one record of each round: chosen, once a quorum's accepts of one ballot are on disk.
    decided: BTreeMap<(Hash, u64), Decision>,
    decided_rounds: u64,
    /// Who decides a round: the roster after the record before it.
    deciders: BTreeMap<(Hash, u64), Roster>,
    /// Who founded which chain, and who came out of it again.
    founders: BTreeMap<Hash, BTreeSet<NodeId>>,
    came_out: BTreeSet<(NodeId, Hash)>,
    /// The proposals that nodes that lie have signed in a ballot, and the rounds in which they signed two.
    proposals: BTreeMap<(NodeId, Hash, Ballot), Hash>,
    two_proposals: BTreeSet<(Hash, u64)>,
    /// A second truth that was not promised against: it must be shown.
    second_truth: bool,
    shown: bool,
    /// The last decided round of each chain.
    heads: BTreeMap<Hash, u64>,
    pub(super) violation: Option<Violation>,
}

impl Invariants {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn distrust(&mut self, node: NodeId) {
        self.hostile.insert(node);
    }

    fn violate(&mut self, what: String) {
        let violation = Violation { what, at_ms: self.now.0, seed: self.seed };
        self.violation.get_or_insert(violation);
    }

    /// A message leaves a node. It never says two different things where one is allowed.
    pub(super) fn sent(&mut self, from: NodeId, message: &Message, disk: &Disk) {
        if self.hostile.contains(&from) {
            return;
        }
        let (word, ballot, content) = match &message.body {
            Body::Paxos { ballot, message: Paxos::Vote(vote) } if vote.by() == from => {
                (Word::Vote, *ballot, codec::encode(vote))
            }
            Body::Paxos { ballot, message: Paxos::Accept(accept) } => (Word::Accept, *ballot, codec::encode(accept)),
            Body::Paxos { message: Paxos::Proposal(proposal), .. } if proposal.coordinator() == from => {
                let ballot = proposal.proposed.vouched().ballot;
                (Word::Proposed, ballot, codec::encode(&proposal.proposed))
            }
            Body::Founding(Founding::Bind(bind)) if bind.by() == from => {
                (Word::Founding, Ballot::of_round(0), b"bind".to_vec())
            }
            Body::Founding(Founding::Refusal(refusal)) if refusal.by() == from => {
                (Word::Founding, Ballot::of_round(0), b"refusal".to_vec())
            }
            Body::Membership(Membership::Presence(presence)) => {
                if presence.held.is_some_and(|round| !disk.holds_round(message.chain, round)) {
                    self.violate(format!("a node says what it holds: {from:?} has no record {:?}", presence.held));
                }
                return;
            }
            _ => return,
        };
        let content = Hash::of(&content);
        let before = *self.said.entry((from, word, message.chain, ballot)).or_insert(content);
        if before != content {
            self.violate(format!("no word is given twice: {from:?} signed two of {word:?} in ballot {ballot}"));
        }
    }

    /// An item is on a node's disk.
    pub(super) fn written(&mut self, node: NodeId, item: &Persist) {
        match item {
            Persist::Accepted { chain, proposal } => self.accept_written(node, *chain, proposal),
            Persist::Committed { chain, committed: Committed { record, .. }, .. } => {
                if matches!(&record.kind, Kind::Forced(forced) if forced.by() == node) {
                    self.decide(*chain, record);
                }
            }
            Persist::LetGo { chain } => {
                self.came_out.insert((node, *chain));
            }
            Persist::Left => {
                self.left.insert(node);
            }
            _ => {}
        }
    }

    /// A decision counts from the moment when a quorum's accepts are on disk.
    fn accept_written(&mut self, node: NodeId, chain: Hash, proposal: &Proposal) {
        let (ballot, value) = (proposal.proposed.vouched().ballot, proposal.proposed.vouched().value);
        let roster = match &proposal.record.kind {
            _ if ballot.round > 0 => self.deciders.get(&(chain, ballot.round)).cloned(),
            Kind::Genesis { founding, .. } => Some(founding.vouched().roster()),
            _ => None,
        };
        let Some(roster) = roster else { return };
        let acceptors = self.accepted.entry((chain, ballot, value)).or_default();
        if roster.contains(node) {
            acceptors.insert(node);
        }
        if acceptors.len() >= majority(&roster) {
            self.decide(chain, &proposal.record);
        }
    }

    /// Whether any two majorities of those who decide share a node that does not lie: only then one truth is promised.
    fn is_protected(&self, chain: Hash, round: u64) -> bool {
        let Some(roster) = self.deciders.get(&(chain, round)) else { return true };
        let liars = roster.nodes().filter(|n| self.hostile.contains(n)).count();
        2 * majority(roster) - roster.len() > liars && !self.two_proposals.contains(&(chain, round))
    }

    /// A node that lies says something.
    pub(super) fn lied(&mut self, from: NodeId, message: &Message) {
        if let Body::Paxos { message: Paxos::Proposal(proposal), .. } = &message.body
            && proposal.coordinator() == from
        {
            let Proposed { ballot, value } = *proposal.proposed.vouched();
            if *self.proposals.entry((from, message.chain, ballot)).or_insert(value) != value {
                self.two_proposals.insert((message.chain, ballot.round));
            }
        }
    }

    pub(super) fn distrusts(&self, node: NodeId) -> bool {
        self.hostile.contains(&node)
    }

    /// Rounds after the founding that were decided, of all chains.
    pub(super) fn decided_rounds(&self) -> u64 {
        self.decided_rounds
    }

    /// Whether lies brought about a second truth, where none was promised against.
    pub(super) fn has_second_truth(&self) -> bool {
        self.second_truth
    }

    /// Whether what lies brought about was shown by somebody.
    pub(super) fn lies_are_shown(&self) -> bool {
        !self.second_truth || self.shown
    }

    fn decide(&mut self, chain: Hash, record: &Record) {
        let (round, value) = (record.round, record.hash());
        let decision = Decision { value, record: record.clone() };
        if round > 0 && !self.decided.contains_key(&(chain, round)) {
            self.decided_rounds += 1;
        }
        let before = self.decided.entry((chain, round)).or_insert(decision).value;
        if before != value && !self.is_protected(chain, round) {
            self.second_truth = true;
            return;
        }
        if before != value {
            return self.violate(format!("one truth: round {round} of {chain:?} decided {value:?} and {before:?}"));
        }
        let (chain, before) = match &record.kind {
            Kind::Genesis { .. } | Kind::Forced(_) => (value, Roster::default()),
            _ => (chain, self.deciders.get(&(chain, round)).cloned().unwrap_or_default()),
        };
        self.deciders.insert((chain, round + 1), record.roster_after(&before));
        if round == 0 {
            self.deciders.insert((chain, 0), record.roster_after(&before));
            self.decided.entry((chain, 0)).or_insert(Decision { value, record: record.clone() });
        }
        let head = self.heads.entry(chain).or_insert(round);
        *head = round.max(*head);
    }

    /// A node says that a record is committed: it is the one that was decided.
    pub(super) fn committed(&mut self, node: NodeId, chain: Hash, committed: &Committed) {
        let record = &committed.record;
        let (round, value) = (record.round, record.hash());
        if matches!(&record.kind, Kind::Forced(forced) if forced.by() == node) {
            // It is decided by being on its disk.
            return;
        }
        let liars = !self.hostile.is_empty();
        match self.decided.get(&(chain, round)) {
            Some(decision) if decision.value != value && !self.is_protected(chain, round) => {
                self.second_truth = true;
                return;
            }
            Some(decision) if decision.value != value => {
                let what = format!(
                    "one truth: {node:?} commits {value:?} in round {round} of {chain:?}, where {:?} is",
                    decision.value
                );
                return self.violate(what);
            }
            Some(_) => {}
            // Accepts of those who lie were never on a disk.
            None if liars => self.decide(chain, record),
            None => {
                return self.violate(format!("one truth: {node:?} commits {value:?}, which no quorum accepted"));
            }
        }
        match &record.kind {
            Kind::Yield { .. } => {
                self.came_out.insert((node, chain));
            }
            Kind::Genesis { founding, .. } => self.founded(node, chain, &founding.vouched().roster()),
            _ => {}
        }
    }

    /// Two foundings that come about share no node that did not come out of the first.
    fn founded(&mut self, node: NodeId, genesis: Hash, roster: &Roster) {
        if !roster.contains(node) || self.hostile.contains(&node) {
            return;
        }
        let shares = |(other, members): (&Hash, &BTreeSet<NodeId>)| {
            *other != genesis && members.contains(&node) && !self.came_out.contains(&(node, *other))
        };
        let shared = self.founders.iter().find(|(other, members)| shares((other, members))).map(|(other, _)| *other);
        if let Some(other) = shared {
            self.violate(format!("one truth: {node:?} founded {other:?} and {genesis:?}"));
        }
        self.founders.insert(genesis, roster.nodes().collect());
    }

    /// Something happened at a node.
    pub(super) fn happened(&mut self, node: NodeId, event: &Event) {
        match event {
            Event::Liar { node: liar } if !self.hostile.contains(liar) => {
                self.violate(format!("nobody honest is called a liar: {node:?} says so of {liar:?}"));
            }
            Event::SecondCommit { round, .. } if self.hostile.is_empty() => {
                self.violate(format!("one truth: {node:?} saw a second commit of round {round}"));
            }
            Event::SecondCommit { .. } | Event::Liar { .. } => self.shown = true,
            _ => {}
        }
    }

    /// Nothing lost: a quorum of those who decided a record holds it with its model, until a quorum holds the next one; or,
    /// when some of them left, a quorum of those who stay.
    pub(super) fn nothing_lost<'a>(&mut self, disks: impl Iterator<Item = (NodeId, &'a Disk)>) {
        let disks: BTreeMap<NodeId, &Disk> = disks.filter(|(node, _)| !self.left.contains(node)).collect();
        let mut lost = None;
        for (chain, round) in &self.heads {
            let Some(decision) = self.decided.get(&(*chain, *round)) else { continue };
            // A chain that gave itself up has nothing to lose.
            if matches!(decision.record.kind, Kind::Yield { .. }) {
                continue;
            }
            let holders = |roster: &Roster, value: Hash| {
                roster.nodes().filter(|n| disks.get(n).is_some_and(|d| d.holds(value))).count()
            };
            let deciders = self.deciders.get(&(*chain, *round));
            let staying = deciders.map(|d| decision.record.roster_after(d));
            let held = |roster: &Roster| holders(roster, decision.value) >= majority(roster);
            let hostile = deciders.is_some_and(|d| d.nodes().any(|n| self.hostile.contains(&n)));
            if !hostile && !deciders.is_some_and(held) && !staying.as_ref().is_some_and(held) {
                lost = Some(format!("nothing lost: no quorum holds record {round} of {chain:?} and its model"));
            }
        }
        lost.into_iter().for_each(|what| self.violate(what));
    }

    /// A node whose update for this round is on its disk is told to train again.
    pub(super) fn trains(&mut self, node: NodeId, round: u64, disk: &Disk) {
        if disk.has_contribution(round) {
            self.violate(format!("no training is repeated: {node:?} trains again in round {round}"));
        }
    }

    /// The chains that were founded.
    pub(super) fn chains(&self) -> impl Iterator<Item = Hash> + '_ {
        self.founders.keys().copied()
    }
}

/// What a quorum is, whatever the code under test thinks.
fn majority(roster: &Roster) -> usize {
    roster.len() / 2 + 1
}
