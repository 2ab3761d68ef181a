//! What is in the way of a node, in words, for people who ask for its status: who is waited for and since when, who is not
//! heard, and what helps.

use std::collections::BTreeMap;

use super::Machine;
use super::chain::failures_of;
use crate::base::bounds::FAILED_ROUNDS_MAX;
use crate::base::ids::{NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::{Member, Part};
use crate::base::timing::{HUSH_MS, LET_GO_MS, NAMED_MS};
use crate::chain::Chain;
use crate::io::State;
use crate::membership::message::Activity;
use crate::peers::Doubt;
use crate::round::{Round, Waits};

/// Names in one sentence; of more, people look at the table.
const NAMES_MAX: usize = 5;

/// A member's round, looked at.
struct Look<'a> {
    machine: &'a Machine,
    chain: &'a Chain,
    round: &'a Round,
    now: Time,
    silent_ms: &'a dyn Fn(NodeId) -> u64,
}

impl Machine {
    /// What is in the way, in words. `silent_ms` says for how long nothing came from a connected node.
    pub(super) fn reason(&self, state: State, now: Time, silent_ms: &dyn Fn(NodeId) -> u64) -> Option<String> {
        match state {
            State::Gathering => self.reason_to_gather(),
            State::Founding => {
                let (id, silent) = (self.foundings.bound()?, self.foundings.silent());
                let waits = format!("bound to founding {}; waits for {}", id.short(), silent.join(", "));
                (!silent.is_empty()).then_some(waits)
            }
            State::Joining => Some(self.reason_to_join()),
            State::Member | State::Leaving => {
                let (chain, round) = (self.chain()?, self.standing.round()?);
                Look { machine: self, chain, round, now, silent_ms }.reason()
            }
            State::Halted => {
                let failures = self.chain().map(failures_of).unwrap_or_default();
                Some(format!(
                    "the run stopped: training failed on all nodes in {FAILED_ROUNDS_MAX} rounds in a row ({failures}); mend that, then `paceline resume` on any node; what stands in the run file is mended by another run, from this model on: `paceline init --model`"
                ))
            }
            State::Finished => {
                let lacks = self.standing.in_chain().is_some_and(|c| !c.holds_head(&self.ctx));
                lacks.then(|| "the run is over, and this node fetches its last model".to_owned())
            }
            State::Left => None,
        }
    }

    fn reason_to_gather(&self) -> Option<String> {
        let (here, needed) = (self.candidates().count(), self.ctx.params.min_nodes);
        if let Some((genesis, forced)) = self.sightings.forced_in_sight(&self.ctx) {
            let (name, node, chain) = (named(&forced.member), forced.member.node.short(), forced.chain.short());
            return Some(format!(
                "{name} ({node}) says that it goes on alone with chain {chain}, behind round {}; if you know that this is right, `paceline join --switch {genesis}` on this machine takes part",
                forced.round
            ));
        }
        if let Some((genesis, here, quorum)) = self.sightings.quorum_in_sight(&self.ctx) {
            let genesis = genesis.short();
            return Some(format!(
                "chain {genesis} is shown, but only {here} of the {quorum} members that decide in it are in sight; start the others"
            ));
        }
        let aside = self.sightings.aside_in_sight(&self.ctx).map(|genesis| {
            format!("chain {genesis}, from which this node was moved away, is in sight; `paceline join --switch {genesis}` leads back")
        });
        if let Some(pinned) = self.sightings.pinned() {
            let pinned = pinned.short();
            let waits = format!(
                "chain {pinned}, the only one that this node was told to enter, is not in sight; it waits for that and founds no other; see whether its nodes run and can be reached from here"
            );
            return Some([Some(waits), aside].into_iter().flatten().collect::<Vec<_>>().join("; "));
        }
        if aside.is_some() {
            return aside;
        }
        let lacks = format!(
            "{here} of the {needed} nodes that the run needs are here; start more, with the run file or with what `paceline ticket` prints"
        );
        if here < needed {
            return Some(lacks);
        }
        self.reason_of_parts(needed)
    }

    /// That nodes have one part, of whom a roster takes one alone, where too few are left without.
    fn reason_of_parts(&self, needed: usize) -> Option<String> {
        let mut by_part: BTreeMap<Part, Vec<String>> = BTreeMap::new();
        let mut others = 0;
        for (node, name, part) in self.candidates() {
            let name = if name.is_empty() { node.short() } else { name.to_owned() };
            match part {
                Some(part) => by_part.entry(part).or_default().push(name),
                None => others += 1,
            }
        }
        let (part, names) = by_part.iter().find(|(_, names)| names.len() > 1)?;
        let names = list(names.iter().cloned());
        (others + by_part.len() < needed)
            .then(|| format!("{names} have the same part of the data, {part}; give each node another --part"))
    }

    fn reason_to_join(&self) -> String {
        let refused = self.standing.in_chain().and_then(|c| c.join_refused);
        let has_forgotten = self.standing.in_chain().is_some_and(|c| c.has_forgotten);
        let lacks_model = self.chain().is_some_and(|c| !self.ctx.blobs.contains(&c.head().model.id));
        match refused {
            _ if has_forgotten => {
                "what this node voted is not on its disk any more (it was lost, its home is a copy from earlier, or \
                 has a twin that runs), so it must not vote again, and comes off the roster; stop it, move its home \
                 away, and join under a new identity"
                    .to_owned()
            }
            _ if self.quorum_lost_ms().is_some() => {
                "no quorum of the chain that this node follows is in sight; it waits for one, or looks for another chain soon"
                    .to_owned()
            }
            Some(Reject::PartTaken) => format!(
                "join refused: {}; choose another --part, or wait until its holder is evicted",
                Reject::PartTaken
            ),
            Some(reject) => format!("join refused: {reject}"),
            None if lacks_model => "fetches the last model, and asks to join when it is here".to_owned(),
            None => "joins with the next record".to_owned(),
        }
    }
}

impl Look<'_> {
    fn reason(&self) -> Option<String> {
        let failure = self.round.failure();
        let own = failure.map(|why| format!("this node has no update for this round: {why}"));
        let disk = self
            .machine
            .ctx
            .is_disk_failing()
            .then(|| "this node's disk keeps no model and no update: it votes, and does not coordinate".to_owned());
        let lost = self.quorum_lost();
        let (waits, named) = match lost {
            Some(_) => (None, Vec::new()),
            None => self.waits().map_or((None, Vec::new()), |(text, named)| (Some(text), named)),
        };
        let unheard = if lost.is_some() { None } else { self.unheard(&named) };
        let clauses = [disk, own, lost, waits, unheard, self.failed(), self.paused(), self.misled()];
        let clauses: Vec<String> = clauses.into_iter().flatten().collect();
        (!clauses.is_empty()).then(|| clauses.join("; "))
    }

    /// How long a member has not been heard, if that is long.
    fn unheard_ms(&self, node: NodeId) -> Option<u64> {
        let ctx = &self.machine.ctx;
        let peer = ctx.peers.get(node).filter(|_| node != ctx.me)?;
        let (ms, long_ms) =
            if peer.connected { ((self.silent_ms)(node), HUSH_MS) } else { (self.now.since_ms(peer.since), NAMED_MS) };
        (ms >= long_ms).then_some(ms)
    }

    fn quorum_lost(&self) -> Option<String> {
        let (ctx, roster) = (&self.machine.ctx, self.chain.roster());
        let is_here = |n: &NodeId| *n == ctx.me || ctx.peers.is_here(*n) && (self.silent_ms)(*n) < HUSH_MS;
        let (here, gone): (Vec<NodeId>, Vec<NodeId>) = roster.nodes().partition(is_here);
        let (here, members, quorum) = (here.len(), roster.len(), roster.quorum());
        if here >= quorum {
            return None;
        }
        let names = list(gone.into_iter().map(|n| self.name(n)));
        let advice = if here == 1 { "see to this node's network, or start" } else { "start" };
        let is_long = self.machine.quorum_lost_ms().is_some_and(|ms| ms >= LET_GO_MS);
        let last_resort = match is_long {
            true => "; if they are gone for good, `paceline roster drop` says how to go on without them",
            false => "",
        };
        Some(format!("only {here} of {members} members are reachable; {quorum} must be: {advice} {names}{last_resort}"))
    }

    /// What the round waits for, once that takes long, and who was named.
    fn waits(&self) -> Option<(String, Vec<NodeId>)> {
        let (waits, since) = self.round.waits(&self.machine.ctx, self.chain);
        let (number, lasted_ms) = (self.chain.next_round(), self.now.since_ms(since));
        let (coordinator, seconds) = (self.coordinator(), seconds(lasted_ms));
        if lasted_ms < NAMED_MS {
            return None;
        }
        let head = self.chain.head();
        let lacks_model = !self.machine.ctx.blobs.contains(&head.model.id);
        Some(match waits {
            _ if lacks_model => {
                (format!("this node lacks the model of round {}, and fetches it", head.round), Vec::new())
            }
            Waits::Election => (format!("round {number} has waited {seconds} for a coordinator"), Vec::new()),
            Waits::Updates { of, are_most_trained } => {
                // That most still train is nothing in the way.
                let named: Vec<NodeId> =
                    of.into_iter().filter(|n| are_most_trained || self.unheard_ms(*n).is_some()).collect();
                if named.is_empty() {
                    return None;
                }
                let what = if named.len() == 1 { "update" } else { "updates" };
                (format!("round {number} has waited {seconds} for the {what} of {}", self.described(&named)), named)
            }
            Waits::Evaluations { of } if of.is_empty() => return None,
            Waits::Evaluations { of } => {
                (format!("the run's end has waited {seconds} for evaluations of {}", self.described(&of)), of)
            }
            Waits::Recovery => {
                (format!("{coordinator} has looked {seconds} for what an earlier attempt accepted"), Vec::new())
            }
            Waits::ProposedModel => (
                format!("this node lacks the model that {coordinator} proposed {seconds} ago, and fetches it"),
                Vec::new(),
            ),
            Waits::Accepts { known: Some((count, of)) } => {
                let (quorum, names) = (self.chain.roster().quorum(), self.described(&of));
                (
                    format!(
                        "round {number} has waited {seconds} for accepts: {count} of {quorum} are in, and none of {names}"
                    ),
                    of,
                )
            }
            Waits::Accepts { known: None } => {
                (format!("round {number} has waited {seconds} for accepts of what {coordinator} proposes"), Vec::new())
            }
            Waits::Average | Waits::Nothing => return None,
        })
    }

    /// Members that are not heard, but for those that were named already.
    fn unheard(&self, named: &[NodeId]) -> Option<String> {
        let unheard: Vec<NodeId> = self.chain.roster().nodes().filter(|n| self.unheard_ms(*n).is_some()).collect();
        let others: Vec<NodeId> = unheard.iter().copied().filter(|n| !named.contains(n)).collect();
        let advice = match unheard.len() {
            1 => "see whether it runs and has a network",
            _ => "see whether they run and have a network",
        };
        match (unheard.is_empty(), others.is_empty()) {
            (true, _) => None,
            (false, true) => Some(advice.to_owned()),
            (false, false) => {
                let names = list(others.iter().map(|n| self.described_one(*n)));
                Some(format!("the run can do without {names}; {advice}"))
            }
        }
    }

    fn failed(&self) -> Option<String> {
        let failed = self.round.failed_elsewhere(&self.machine.ctx, self.chain);
        let names = || list(failed.iter().map(|(node, _)| self.name(*node)));
        match failed.iter().find_map(|(node, why)| why.map(|why| (*node, why))) {
            Some((node, why)) => Some(format!("training failed on {} ({}: {why})", names(), self.name(node))),
            None if failed.is_empty() => None,
            None => Some(format!("training failed on {}, whose own status says why", names())),
        }
    }

    /// Who trains nothing since its owner said so; and that the round can't do without, if it can't.
    fn paused(&self) -> Option<String> {
        let ctx = &self.machine.ctx;
        let paused = self.round.paused(ctx, self.chain);
        let is_own = ctx.is_paused.then_some("this node is paused: it votes and serves, and trains nothing");
        let (needed, of) = (self.chain.updates_needed(), self.round.participants().len());
        let is_short = of > 0 && of - paused.len() < needed;
        let short = is_short.then(|| {
            let (names, verb) = (self.described(&paused), if paused.len() == 1 { "is" } else { "are" });
            format!("the round needs {needed} updates, and {names} {verb} paused")
        });
        match (is_own, short) {
            (None, None) => None,
            (Some(own), None) => Some(own.to_owned()),
            (None, Some(short)) => Some(short),
            (Some(own), Some(short)) => Some(format!("{own}; {short}")),
        }
    }

    /// Members that served other bytes than they should have.
    fn misled(&self) -> Option<String> {
        let misleads = |n: &NodeId| self.machine.ctx.peers.doubted(*n) == Some(Doubt::Bytes);
        let names = list(self.chain.roster().nodes().filter(misleads).map(|n| self.name(n)));
        (!names.is_empty()).then(|| format!("{names} served bytes that fail their hash: see to the disk there"))
    }

    fn name(&self, node: NodeId) -> String {
        self.chain.roster().get(node).map_or_else(|| node.short(), named)
    }

    fn coordinator(&self) -> String {
        match self.round.paxos.opened().map(|o| o.coordinator) {
            Some(node) if node == self.machine.ctx.me => "this node".to_owned(),
            Some(node) => self.name(node),
            None => "nobody".to_owned(),
        }
    }

    fn described(&self, nodes: &[NodeId]) -> String {
        list(nodes.iter().map(|n| self.described_one(*n)))
    }

    /// A member's name, and what is to be known of it.
    fn described_one(&self, node: NodeId) -> String {
        if node == self.machine.ctx.me {
            return "this node".to_owned();
        }
        let is_connected = self.machine.ctx.peers.is_connected(node);
        let does = self.machine.activity_of(node);
        match self.unheard_ms(node) {
            Some(ms) if is_connected => format!("{} (silent for {})", self.name(node), seconds(ms)),
            Some(ms) => format!("{} (not reachable for {})", self.name(node), seconds(ms)),
            None => match does {
                Activity::Training { percent: 0 } => format!("{} (trains)", self.name(node)),
                Activity::Training { percent } => format!("{} (trains, {} %)", self.name(node), percent.min(100)),
                _ => self.name(node),
            },
        }
    }
}

/// What a member is called.
fn named(member: &Member) -> String {
    if member.name.is_empty() { member.node.short() } else { member.name.clone() }
}

/// Names with commas and an "and".
fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    names.extend((more > 0).then(|| format!("{more} more")));
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1_000)
}
