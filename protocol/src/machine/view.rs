//! A copy of what a status line needs.

use super::Machine;
use super::chain::failures_of;
use super::standing::Standing;
use crate::base::bounds::FAILED_ROUNDS_MAX;
use crate::base::ids::{NodeId, Time};
use crate::base::reject::Reject;
use crate::chain::Chain;
use crate::io::{MemberView, State, View, ViewPhase};
use crate::membership::message::Activity;
use crate::round::Round;

impl Machine {
    /// Where the node stands at `now`.
    pub fn view(&self, now: Time) -> View {
        let state = self.state();
        let (chain, round) = (self.chain(), self.standing.round());
        let phase = match &self.standing {
            Standing::Gathering => ViewPhase::Founding,
            Standing::Following(_) => ViewPhase::Electing,
            Standing::Member(_, round) => round.paxos.phase().map_or(ViewPhase::Electing, ViewPhase::Round),
            Standing::Over(..) => ViewPhase::Done,
        };
        let participants = round.map(Round::participants).unwrap_or_default();
        View {
            me: self.ctx.me,
            state,
            reason: self.reason(state),
            genesis: chain.map(Chain::genesis),
            forks: self.sightings.forks(&self.ctx, chain.map(Chain::genesis)),
            round: self.next_round(),
            attempt: round.map_or(0, |r| r.paxos.ballot().attempt),
            phase,
            coordinator: round.and_then(|r| r.paxos.opened()).map(|o| o.coordinator),
            quorum: chain.map_or(0, |c| c.roster().quorum()),
            roster: self.members(now),
            participants: participants.iter().map(|n| (*n, self.activity_of(*n))).collect(),
            model: chain.map(|c| c.head().model),
            head: chain.map(|c| (c.head().round, c.head_hash())),
            trained: chain.map_or(0, Chain::trained),
            attempt_ms: round.map_or(0, |r| now.since_ms(r.paxos.attempt_began())),
        }
    }

    fn activity_of(&self, node: NodeId) -> Activity {
        match &self.standing {
            _ if node == self.ctx.me => self.activity(),
            Standing::Member(c, round) => round.activity_of(&self.ctx, &c.chain, node).unwrap_or(Activity::Idle),
            Standing::Gathering | Standing::Following(_) | Standing::Over(..) => {
                let said = self.ctx.peers.presence(node).map(|(_, p)| p.activity);
                said.filter(|a| *a != Activity::Failed).unwrap_or(Activity::Idle)
            }
        }
    }

    /// The roster; before the founding, this node and those that could found with it.
    fn members(&self, now: Time) -> Vec<MemberView> {
        let me = self.ctx.me;
        let view = |node: NodeId, name: &str, part| {
            let peer = self.ctx.peers.get(node);
            let is_known = node == me || peer.is_some_and(|p| p.presence.is_some());
            MemberView {
                node,
                name: name.to_owned(),
                part,
                activity: is_known.then(|| self.activity_of(node)),
                reachable: node == me || self.ctx.peers.is_connected(node),
                silent_ms: peer.filter(|p| node != me && !p.connected).map(|p| now.since_ms(p.since)),
            }
        };
        match self.chain() {
            Some(chain) => chain.roster().members().iter().map(|m| view(m.node, &m.name, m.part)).collect(),
            None => {
                let present = |(node, p): (NodeId, &crate::peers::Peer)| {
                    let (_, presence) = p.presence.as_ref()?;
                    Some(view(node, &presence.name, presence.part))
                };
                let own = view(me, &self.ctx.name, self.ctx.part);
                [own].into_iter().chain(self.ctx.peers.connected().filter_map(present)).collect()
            }
        }
    }

    /// What is in the way, in words.
    fn reason(&self, state: State) -> Option<String> {
        match state {
            State::Gathering => self.reason_to_gather(),
            State::Founding => {
                let (id, silent) = (self.foundings.bound()?, self.foundings.silent());
                let waits = format!("bound to founding {}; waits for {}", id.short(), silent.join(", "));
                (!silent.is_empty()).then_some(waits)
            }
            State::Joining => Some(self.reason_to_join()),
            State::Member | State::Leaving => {
                let chain = self.chain()?;
                let there = |n: &NodeId| *n == self.ctx.me || self.ctx.peers.is_connected(*n);
                let (here, quorum) = (chain.roster().nodes().filter(there).count(), chain.roster().quorum());
                if here < quorum {
                    let members = chain.roster().len();
                    return Some(format!("only {here} of {members} members are reachable; {quorum} must be"));
                }
                let failure = self.standing.round().and_then(Round::failure);
                failure.map(|why| format!("this node has no update for this round: {why}"))
            }
            State::Halted => {
                let failures = self.chain().map(failures_of).unwrap_or_default();
                Some(format!(
                    "the run stopped: training failed on all nodes in {FAILED_ROUNDS_MAX} rounds in a row ({failures}); mend that, then `paceline resume` on any node"
                ))
            }
            State::Left | State::Finished => None,
        }
    }

    fn reason_to_gather(&self) -> Option<String> {
        let (here, needed) = (self.members(self.ctx.now).len(), self.ctx.params.min_nodes);
        if let Some((genesis, here, quorum)) = self.sightings.quorum_in_sight(&self.ctx) {
            let genesis = genesis.short();
            return Some(format!(
                "chain {genesis} is shown, but only {here} of the {quorum} members that decide in it are in sight"
            ));
        }
        if let Some(pinned) = self.sightings.pinned() {
            let pinned = pinned.short();
            return Some(format!(
                "chain {pinned} that the ticket names is not in sight; this node waits for it and founds no other"
            ));
        }
        (here < needed).then(|| format!("{here} of the {needed} nodes that the run needs are here"))
    }

    fn reason_to_join(&self) -> String {
        let refused = self.standing.in_chain().and_then(|c| c.join_refused);
        let has_forgotten = self.standing.in_chain().is_some_and(|c| c.has_forgotten);
        match refused {
            _ if has_forgotten => {
                "this node is on the roster, but what it voted is not on its disk any more (it was lost, its \
                                   home is a copy from earlier, or has a twin that runs), so it must not vote \
                                   again; stop it, move its home away, and join under a new identity"
                    .to_owned()
            }
            _ if !self.sees_quorum() => {
                "no quorum of the chain that this node follows is in sight; it lets go of it soon".to_owned()
            }
            Some(Reject::PartTaken) => format!(
                "join refused: {}; choose another --part, or wait until its holder is evicted",
                Reject::PartTaken
            ),
            Some(reject) => format!("join refused: {reject}"),
            None => "joins with the next record".to_owned(),
        }
    }
}
