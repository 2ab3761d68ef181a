//! What a node knows of the others: who is connected, what they last said of themselves, what they were given.
//!
//! The table holds the connected and the roster alone, so nobody can fill it with names.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::bounds::{ANSWERS_PER_S, SERVED_BYTES_PER_S, SILENT_MAX, VOTE_TIMES_MAX};
use crate::base::ids::{Hash, NodeId, Time};
use crate::base::roster::Roster;
use crate::base::timing::{GONE_GRACE_MS, SERVED_AHEAD_MS, SILENT_MS, SILENT_ROUNDS};
use crate::membership::message::{Activity, Presence};

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    /// Since when it is here or not, and the round that this node was in then.
    pub(crate) since: Time,
    since_round: u64,
    /// The chain that it is in, zero for none, and the rest of its last presence over this connection.
    pub(crate) presence: Option<(Hash, Presence)>,
    /// What it was given is paid off then, at its rate.
    served_until: Time,
    doubt: Option<Doubt>,
}

/// Why a node comes last in the order of candidates, as far as this node is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It served other bytes than it should have: it lies, or its disk does.
    Bytes,
    /// It coordinated, lived and got nothing committed.
    Stuck,
}

impl Peer {
    /// The chain that it shows.
    pub(crate) fn chain(&self) -> Option<Hash> {
        self.presence.as_ref().filter(|_| self.connected).map(|(chain, _)| *chain).filter(|c| *c != Hash::ZERO)
    }

    /// See [`Peers::is_here`].
    fn is_here(&self, chain: Option<Hash>) -> bool {
        self.connected && (chain.is_none() || self.chain().is_none_or(|shown| Some(shown) == chain))
    }

    /// Whether it is here, in no chain and bound to no founding.
    pub(crate) fn is_free(&self) -> bool {
        self.connected && self.presence.as_ref().is_some_and(|(c, p)| *c == Hash::ZERO && p.founding.is_none())
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// The chain that this node is in.
    chain: Option<Hash>,
    /// The members whose entries stay while they are away.
    watched: BTreeSet<NodeId>,
    /// Vote requests answered lately, in milliseconds each: the candidates' step follows them.
    vote_ms: Vec<u64>,
}

impl Peers {
    pub(crate) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    /// The connected peers.
    pub(crate) fn connected(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().filter(|(_, p)| p.connected).map(|(node, peer)| (*node, peer))
    }

    pub(crate) fn set_connected(&mut self, node: NodeId, connected: bool, now: Time, round: u64) {
        if !connected && !self.watched.contains(&node) {
            self.peers.remove(&node);
            return;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(false, now, round));
        if peer.connected != connected {
            (peer.connected, peer.since, peer.since_round) = (connected, now, round);
        }
        if connected {
            peer.presence = None;
        }
    }

    /// These are the members of this node's chain now: entries of others stay while they are connected.
    pub(crate) fn watch(&mut self, chain: Option<Hash>, roster: &Roster, me: NodeId, now: Time, round: u64) {
        self.chain = chain;
        self.watched = roster.nodes().filter(|n| *n != me).collect();
        for node in &self.watched {
            self.peers.entry(*node).or_insert_with(|| Peer::new(false, now, round));
        }
        let watched = &self.watched;
        self.peers.retain(|node, peer| peer.connected || watched.contains(node));
    }

    /// Takes in what a connected peer says of itself; a presence that overtook a later one is dropped.
    pub(crate) fn present(&mut self, node: NodeId, chain: Hash, presence: Presence, now: Time, round: u64) {
        let own = self.chain;
        if let Some(peer) = self.peers.get_mut(&node).filter(|p| p.connected)
            && peer.presence.as_ref().is_none_or(|(_, p)| p.counter < presence.counter)
        {
            let was_here = peer.is_here(own);
            peer.presence = Some((chain, presence));
            if peer.is_here(own) != was_here {
                (peer.since, peer.since_round) = (now, round);
            }
        }
    }

    pub(crate) fn presence(&self, node: NodeId) -> Option<&(Hash, Presence)> {
        self.peers.get(&node).and_then(|p| p.presence.as_ref())
    }

    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.connected)
    }

    /// Whether a node is connected and, as far as it says, in no other chain than this node.
    pub(crate) fn is_here(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.is_here(self.chain))
    }

    /// Whether a node's connection is lost, or it is in another chain, for longer than the grace.
    pub(crate) fn is_gone(&self, node: NodeId, now: Time) -> bool {
        self.peers.get(&node).is_none_or(|p| !p.is_here(self.chain) && now.since_ms(p.since) >= GONE_GRACE_MS)
    }

    /// What a node said that it does, if that was in this round of this chain.
    pub(crate) fn activity(&self, node: NodeId, chain: Hash, round: u64) -> Option<Activity> {
        let (c, p) = self.presence(node)?;
        (*c == chain && p.round == round).then_some(p.activity)
    }

    /// When the first of these nodes that is not here will count as gone.
    pub(crate) fn next_gone(&self, nodes: &[NodeId], now: Time) -> Option<Time> {
        let lost = nodes.iter().filter_map(|n| self.peers.get(n)).filter(|p| !p.is_here(self.chain));
        lost.map(|p| p.since.plus_ms(GONE_GRACE_MS)).filter(|t| *t > now).min()
    }

    /// The members that were not here, but away or in another chain, for so long that they should be evicted; ascending, so
    /// that all who see the same ones name the same ones.
    pub(crate) fn silent(&self, roster: &Roster, me: NodeId, now: Time, round: u64) -> Vec<NodeId> {
        let is_silent = |node: &NodeId| {
            *node != me
                && self.peers.get(node).is_some_and(|p| {
                    let rounds = round.saturating_sub(p.since_round);
                    !p.is_here(self.chain) && now.since_ms(p.since) >= SILENT_MS && rounds >= SILENT_ROUNDS
                })
        };
        roster.nodes().filter(is_silent).take(SILENT_MAX).collect()
    }

    /// Whether a peer's question may be answered: each gets `ANSWERS_PER_S` small answers.
    pub(crate) fn may_answer(&mut self, node: NodeId, now: Time) -> bool {
        self.may_serve(node, now, SERVED_BYTES_PER_S / ANSWERS_PER_S)
    }

    /// Whether a peer may be given so many bytes that it asked for: what came before must be paid off but for a burst.
    pub(crate) fn may_serve(&mut self, node: NodeId, now: Time, bytes: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let due = peer.served_until.max(now);
        if due.since_ms(now) > SERVED_AHEAD_MS {
            return false;
        }
        peer.served_until = due.plus_ms((bytes * 1_000).div_ceil(SERVED_BYTES_PER_S));
        true
    }

    /// From now on a node comes last, until a record that it proposed is committed.
    pub(crate) fn doubt(&mut self, node: NodeId, why: Doubt) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.doubt = Some(why);
        }
    }

    pub(crate) fn trust(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.doubt = None;
        }
    }

    pub(crate) fn doubted(&self, node: NodeId) -> Option<Doubt> {
        self.peers.get(&node).and_then(|p| p.doubt)
    }

    pub(crate) fn note_vote_ms(&mut self, ms: u64) {
        if self.vote_ms.len() == VOTE_TIMES_MAX {
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

impl Peer {
    fn new(connected: bool, now: Time, round: u64) -> Self {
        Self { connected, since: now, since_round: round, presence: None, served_until: Time::default(), doubt: None }
    }
}
