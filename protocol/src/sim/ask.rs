//! What can be asked of a world.

use std::collections::BTreeSet;

use crate::base::ids::{Hash, NodeId};
use crate::chain::Chain;
use crate::io::{Event, Persist, State, View, ViewPhase};
use crate::machine::Machine;
use crate::paxos::message::Phase;
use crate::record::Kind;

use super::Rng;
use super::invariants::Violation;
use super::tally::Tally;
use super::world::{Sim, SimNode};

impl Sim {
    /// Node ids, by index.
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    fn view(&self, node: usize) -> Option<View> {
        let this = &self.nodes[node];
        this.machine.as_ref().map(|m| m.view(this.clock.read(self.now), |_| 0))
    }

    /// Whether a node is honest and its chain not dead.
    fn is_counted_on(&self, node: usize) -> bool {
        !self.invariants.distrusts(self.nodes[node].id) && !self.nodes[node].stranded
    }

    /// Virtual milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now.0
    }

    /// The first broken promise.
    pub fn violation(&self) -> Option<&Violation> {
        self.invariants.violation.as_ref()
    }

    /// What befell this world so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// A hash over all that happened: the same seed gives the same.
    pub fn trace(&self) -> Hash {
        self.trace
    }

    /// Rounds that were decided, of all chains.
    pub fn decided(&self) -> u64 {
        self.invariants.decided_rounds()
    }

    /// Whether nodes that lie brought about a second truth where none was promised against.
    pub fn has_second_truth(&self) -> bool {
        self.invariants.has_second_truth()
    }

    /// A node that has a vote for another under way to its disk, which a crash may lose.
    pub fn writes_vote(&self) -> Option<usize> {
        let is_for_another = |n: &SimNode| {
            n.writing.iter().any(|item| matches!(item, Persist::Vote { vote, .. } if vote.vouched().candidate != n.id))
        };
        self.nodes.iter().position(is_for_another)
    }

    /// The machine of a node that runs.
    pub fn machine(&self, node: usize) -> Option<&Machine> {
        self.nodes[node].machine.as_ref()
    }

    /// What a node said that happened, in all its lives.
    pub fn events(&self, node: usize) -> &[Event] {
        &self.nodes[node].events
    }

    /// How often a node began to train in a round.
    pub fn trainings(&self, node: usize, round: u64) -> u32 {
        self.nodes[node].trainings.get(&round).copied().unwrap_or(0)
    }

    /// Messages and bytes that a node has sent since [`Sim::weigh`].
    pub fn sent(&self, node: usize) -> (u64, u64) {
        self.nodes[node].sent.values().fold((0, 0), |(messages, bytes), (m, b)| (messages + m, bytes + b))
    }

    /// The bytes of it that went to this other.
    pub fn sent_to(&self, node: usize, to: usize) -> u64 {
        self.nodes[node].sent.get(&to).map_or(0, |(_, bytes)| *bytes)
    }

    /// The chains that were founded.
    pub fn chains(&self) -> Vec<Hash> {
        self.invariants.chains().collect()
    }

    /// The state of a node that runs.
    pub fn state(&self, node: usize) -> Option<State> {
        self.machine(node).map(Machine::state)
    }

    /// What is in a node's way, in its own words.
    pub fn reason(&self, node: usize) -> Option<String> {
        self.view(node).and_then(|v| v.reason)
    }

    /// The round that a node is in; 0 without a chain.
    pub fn round(&self, node: usize) -> u64 {
        self.chain(node).map_or(0, Chain::next_round)
    }

    /// A node's chain.
    pub fn chain(&self, node: usize) -> Option<&Chain> {
        self.machine(node).and_then(Machine::chain)
    }

    /// The hash of a node's last record.
    pub fn head(&self, node: usize) -> Option<Hash> {
        self.chain(node).map(Chain::head_hash)
    }

    /// Who coordinates with a plan of its own, in which phase.
    pub fn coordinator(&self) -> Option<(usize, Phase)> {
        (0..self.nodes.len()).find_map(|n| {
            let view = self.view(n)?;
            match view.phase {
                ViewPhase::Round(phase) if view.coordinator == Some(view.me) => Some((n, phase)),
                _ => None,
            }
        })
    }

    /// Whether every honest node that runs and did not leave holds the closing record, the same one.
    pub fn all_closed(&self) -> bool {
        let honest = |n: &usize| self.is_counted_on(*n) && self.state(*n) != Some(State::Left);
        let running: Vec<&Machine> = (0..self.nodes.len()).filter(honest).filter_map(|n| self.machine(n)).collect();
        let heads: BTreeSet<_> = running.iter().map(|m| m.chain().map(Chain::head_hash)).collect();
        heads.len() == 1 && running.iter().all(|m| m.chain().is_some_and(Chain::is_closed))
    }

    /// Whether every honest node that runs and did not leave is at the end of a run. Groups that founded apart and had a
    /// round each go on as two.
    pub fn all_ended(&self) -> bool {
        let honest = (0..self.nodes.len()).filter(|n| self.is_counted_on(*n));
        honest
            .filter(|n| !self.is_left_behind(*n))
            .filter_map(|n| self.state(n))
            .all(|state| matches!(state, State::Finished | State::Left))
    }

    /// Whether a node is in a chain that decides nothing without one that lies: strangers joined it; or other members are in
    /// another chain, since a founder that lied led them to abort the founding, or they let go of the chain, behind a wire
    /// that was cut, while it took them in. Nothing is promised to it (docs/protocol.md, 2.2).
    pub fn is_left_behind(&self, node: usize) -> bool {
        let Some(chain) = self.chain(node) else { return false };
        let roster = chain.roster();
        let is_elsewhere = |n: &usize| {
            roster.contains(self.id(*n)) && self.chain(*n).is_some_and(|other| other.genesis() != chain.genesis())
        };
        let elsewhere: Vec<NodeId> = (0..self.nodes.len()).filter(is_elsewhere).map(|n| self.id(n)).collect();
        let honest = roster.nodes().filter(|n| !elsewhere.contains(n) && !self.invariants.distrusts(*n)).count();
        let lies = roster.nodes().any(|n| self.invariants.distrusts(n));
        lies && honest < roster.quorum()
    }

    /// Whether, where a node that lies brought about a second truth, an honest one has shown it.
    pub fn lies_are_shown(&self) -> bool {
        self.invariants.lies_are_shown()
    }

    /// Records with contributions on the chain of a node.
    pub fn trained(&self, node: usize) -> u64 {
        self.chain(node).map_or(0, Chain::trained)
    }

    /// The kinds of the records of a node's chain, from the genesis on.
    pub fn kinds(&self, node: usize) -> Vec<&'static str> {
        let records = self.chain(node).map(Chain::records).unwrap_or_default();
        records.iter().map(|c| Kind::name(&c.record.kind)).collect()
    }

    /// Whether a node's disk says that it is bound to a founding.
    #[cfg(test)]
    pub(super) fn is_bound_on_disk(&self, node: usize) -> bool {
        self.nodes[node].disk.is_bound()
    }

    /// The rounds of the chain that is on a node's disk.
    #[cfg(test)]
    pub(super) fn rounds_on_disk(&self, node: usize) -> Vec<u64> {
        self.nodes[node].disk.rounds()
    }

    /// Where every node stands, a line each: what a failing test prints.
    pub fn describe(&self) -> String {
        let line = |n: usize| match self.view(n) {
            Some(v) => format!(
                "node {n} {:?}: {} chain {:?} round {}.{} {} coordinator {:?} reason {:?}\n",
                v.me,
                v.state.name(),
                v.genesis,
                v.round,
                v.attempt,
                v.phase.name(),
                v.coordinator,
                v.reason
            ),
            None => format!("node {n} {:?}: down\n", self.nodes[n].id),
        };
        (0..self.nodes.len()).map(line).collect()
    }

    /// Random numbers of this world, for a test's own choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}
