//! A copy of what a status line needs.

use super::Machine;
use super::standing::Standing;
use crate::base::bounds::NEWCOMERS_MAX;
use crate::base::ids::{NodeId, Time};
use crate::base::roster::Part;
use crate::base::timing::HUSH_MS;
use crate::chain::Chain;
use crate::io::{MemberView, NewcomerView, View, ViewPhase};
use crate::membership::message::Activity;
use crate::peers::Peer;
use crate::round::Round;

impl Machine {
    /// Where the node stands at `now`. `silent_ms` says of a connected node for how long nothing has come from it, in
    /// milliseconds, as the transport knows.
    pub fn view(&self, now: Time, silent_ms: impl Fn(NodeId) -> u64) -> View {
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
            reason: self.reason(state, now, &silent_ms),
            genesis: chain.map(Chain::genesis),
            forks: self.sightings.forks(&self.ctx, chain.map(Chain::genesis)),
            round: self.next_round(),
            attempt: round.map_or(0, |r| r.paxos.ballot().attempt),
            phase,
            coordinator: round.and_then(|r| r.paxos.opened()).map(|o| o.coordinator),
            quorum: chain.map_or(0, |c| c.roster().quorum()),
            quorum_lost_ms: self.quorum_lost_ms(),
            roster: self.members(now, &silent_ms),
            participants: participants.iter().map(|n| (*n, self.activity_of(*n))).collect(),
            updates: chain.zip(round).and_then(|(chain, round)| round.updates(&self.ctx, chain)),
            collected_in_ms: chain.zip(round).and_then(|(chain, round)| Some(round.collected_by(chain)?.since_ms(now))),
            newcomers: self.newcomers(),
            model: chain.map(|c| c.head().model),
            head: chain.map(|c| (c.head().round, c.head_hash())),
            trained: chain.map_or(0, Chain::trained),
            stopped: chain.and_then(Chain::stopped),
            attempt_ms: round.map_or(0, |r| now.since_ms(r.paxos.attempt_began())),
        }
    }

    pub(super) fn activity_of(&self, node: NodeId) -> Activity {
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
    fn members(&self, now: Time, silent_ms: &dyn Fn(NodeId) -> u64) -> Vec<MemberView> {
        let me = self.ctx.me;
        let view = |node: NodeId, name: &str, part| {
            let peer = self.ctx.peers.get(node);
            let is_known = node == me || peer.is_some_and(|p| p.presence.is_some());
            MemberView {
                node,
                name: name.to_owned(),
                part,
                activity: is_known.then(|| self.activity_of(node)),
                reachable: node == me || self.ctx.peers.is_here(node),
                silent_ms: peer.filter(|_| node != me).and_then(|p| match p.connected {
                    true => Some(silent_ms(node)).filter(|ms| *ms >= HUSH_MS),
                    false => Some(now.since_ms(p.since)),
                }),
            }
        };
        match self.chain() {
            Some(chain) => chain.roster().members().iter().map(|m| view(m.node, &m.name, m.part)).collect(),
            None => self.candidates().map(|(node, name, part)| view(node, name, part)).collect(),
        }
    }

    /// Nodes in sight that say that they join this member's chain.
    fn newcomers(&self) -> Vec<NewcomerView> {
        let Standing::Member(c, _) = &self.standing else { return Vec::new() };
        let (genesis, roster) = (c.chain.genesis(), c.chain.roster());
        let joins = |(node, peer): (NodeId, &Peer)| {
            let (chain, presence) = peer.presence.as_ref()?;
            let is_one = *chain == genesis && presence.activity == Activity::Joining && !roster.contains(node);
            let (name, part, refused) = (presence.name.clone(), presence.part, c.refused.get(&node).copied());
            is_one.then_some(NewcomerView { node, name, part, refused })
        };
        self.ctx.peers.connected().filter_map(joins).take(NEWCOMERS_MAX).collect()
    }

    /// This node and those in sight that could found with it.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (NodeId, &str, Option<Part>)> {
        fn present((node, peer): (NodeId, &Peer)) -> Option<(NodeId, &str, Option<Part>)> {
            let (_, presence) = peer.presence.as_ref()?;
            Some((node, presence.name.as_str(), presence.part))
        }
        let own = (self.ctx.me, self.ctx.name.as_str(), self.ctx.part);
        [own].into_iter().chain(self.ctx.peers.connected().filter_map(present))
    }
}
