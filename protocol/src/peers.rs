//! What a node knows of the others: who is connected, what they last said of themselves, when they were last heard of.

use std::collections::BTreeMap;

use crate::bounds::{ROSTER_MAX, SILENT_MAX};
use crate::ids::{Hash, NodeId, Time};
use crate::message::{Activity, Presence};
use crate::roster::Roster;
use crate::timing::{GONE_GRACE_MS, SILENT_MS, SILENT_ROUNDS};

/// Peers remembered: a full roster and as many that wish to join.
const PEERS_MAX: usize = 2 * ROSTER_MAX;

/// A presence that is so much older than the last one was not overtaken: the node has started again.
const OVERTAKEN: u64 = 16;

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    /// Since when it is (not) connected.
    pub(crate) since: Time,
    /// When it last gave a sign of life, and the round that this node was in.
    pub(crate) heard: (Time, u64),
    pub(crate) presence: Option<Presence>,
}

#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// Vote requests answered lately, in milliseconds each: the candidates' step follows them.
    vote_ms: Vec<u64>,
}

/// Vote times remembered for the 95th percentile.
const VOTE_TIMES: usize = 32;

impl Peers {
    fn entry(&mut self, node: NodeId, now: Time, round: u64) -> Option<&mut Peer> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&node) {
            return None;
        }
        let fresh = || Peer { connected: false, since: now, heard: (now, round), presence: None };
        Some(self.peers.entry(node).or_insert_with(fresh))
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(node, peer)| (*node, peer))
    }

    pub(crate) fn set_connected(&mut self, node: NodeId, connected: bool, now: Time, round: u64) {
        if let Some(peer) = self.entry(node, now, round)
            && peer.connected != connected
        {
            peer.connected = connected;
            peer.since = now;
        }
    }

    pub(crate) fn heard(&mut self, node: NodeId, now: Time, round: u64) {
        if let Some(peer) = self.entry(node, now, round) {
            peer.heard = (now, round);
        }
    }

    /// Takes in a presence; a message that overtook a later one is dropped. Whether it changed anything.
    pub(crate) fn present(&mut self, node: NodeId, presence: Presence, now: Time, round: u64) {
        if let Some(peer) = self.entry(node, now, round) {
            peer.heard = (now, round);
            if peer
                .presence
                .as_ref()
                .is_none_or(|p| p.counter < presence.counter || p.counter.saturating_sub(OVERTAKEN) > presence.counter)
            {
                peer.presence = Some(presence);
            }
        }
    }

    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.connected)
    }

    /// Whether a node's connection is lost for longer than the grace.
    pub(crate) fn is_gone(&self, node: NodeId, now: Time) -> bool {
        self.peers.get(&node).is_none_or(|p| !p.connected && now.since_ms(p.since) >= GONE_GRACE_MS)
    }

    /// Whether a node has said that no update of this round will come from it.
    pub(crate) fn has_failed(&self, node: NodeId, genesis: Hash, round: u64) -> bool {
        let presence = self.peers.get(&node).and_then(|p| p.presence.as_ref());
        presence.is_some_and(|p| p.activity == Activity::Failed && p.genesis == Some(genesis) && p.round == round)
    }

    /// When the first of these nodes that is not connected will count as gone.
    pub(crate) fn next_gone(&self, nodes: &[NodeId], now: Time) -> Option<Time> {
        let lost = nodes.iter().filter_map(|n| self.peers.get(n)).filter(|p| !p.connected);
        lost.map(|p| p.since.plus_ms(GONE_GRACE_MS)).filter(|t| *t > now).min()
    }

    /// The members that were not heard of for so long that they should be evicted, ascending.
    pub(crate) fn silent(&self, roster: &Roster, me: NodeId, now: Time, round: u64) -> Vec<NodeId> {
        let is_silent = |node: &NodeId| {
            *node != me
                && self.peers.get(node).is_some_and(|p| {
                    now.since_ms(p.heard.0) >= SILENT_MS && round.saturating_sub(p.heard.1) >= SILENT_ROUNDS
                })
        };
        // Ascending, so that all who see the same ones name the same ones.
        roster.nodes().filter(is_silent).take(SILENT_MAX).collect()
    }

    /// Begins to count a member's silence, if nothing was ever heard of it.
    pub(crate) fn watch(&mut self, roster: &Roster, me: NodeId, now: Time, round: u64) {
        roster.nodes().filter(|n| *n != me).for_each(|n| {
            self.entry(n, now, round);
        });
    }

    pub(crate) fn note_vote_ms(&mut self, ms: u64) {
        if self.vote_ms.len() == VOTE_TIMES {
            self.vote_ms.remove(0);
        }
        self.vote_ms.push(ms);
    }

    /// The 95th percentile of the time from a vote request to its vote, the voter's fsync included.
    pub(crate) fn vote_ms_p95(&self) -> u64 {
        let mut sorted = self.vote_ms.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
    }
}
