//! What all parts of a machine share: the time it was told, its identity, its promises, what it knows of its peers, and the
//! effects that it has to give.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::{Part, Roster};
use crate::base::signed::Verifier;
use crate::base::timing::{DISK_REST_MS, RETRY_MS};
use crate::chain::RunParams;
use crate::io::{Effect, Event, FetchFailure, Persist, PersistId, Purpose};
use crate::message::Message;
use crate::peers::{Doubt, Peers};

#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) now: Time,
    pub(crate) identity: Identity,
    pub(crate) me: NodeId,
    pub(crate) name: String,
    pub(crate) part: Option<Part>,
    pub(crate) params: RunParams,
    pub(crate) verifier: Verifier,
    pub(crate) peers: Peers,
    /// Blobs that are whole on this node's disk.
    pub(crate) blobs: BTreeSet<Hash>,
    /// For each chain and founding the highest ballot that this node voted or accepted in, or saw decided. It only grows.
    promises: BTreeMap<Hash, Ballot>,
    /// Blobs that are being fetched, each with whom it should come from.
    fetching: BTreeMap<Hash, NodeId>,
    /// Whether this node's owner lets it train nothing now.
    pub(crate) is_paused: bool,
    /// When this node's disk last took or gave no blob, unless it has taken one since.
    disk_failed_at: Option<Time>,
    effects: VecDeque<Effect>,
    /// What waits for a `Persist` to be confirmed.
    held: BTreeMap<PersistId, Vec<Held>>,
    /// Messages of this node to itself.
    loopback: VecDeque<Message>,
    /// Whether the present input is gossip that nobody has vouched for yet.
    is_gossip: bool,
    next_persist: u64,
    seed: [u8; 32],
    draws: u64,
}

/// What happens once something is on disk.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Send(NodeId, Message),
    Emit(Event),
}

/// What a context is made of.
pub(crate) struct Parts {
    pub(crate) params: RunParams,
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) part: Option<Part>,
    pub(crate) verifier: Verifier,
    pub(crate) seed: [u8; 32],
    pub(crate) now: Time,
    pub(crate) blobs: BTreeSet<Hash>,
    pub(crate) promises: BTreeMap<Hash, Ballot>,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { params, identity, name, part, verifier, seed, now, blobs, promises } = parts;
        Self {
            now,
            me: identity.node_id(),
            identity,
            name,
            part,
            params,
            verifier,
            peers: Peers::default(),
            blobs,
            promises,
            fetching: BTreeMap::new(),
            is_paused: false,
            disk_failed_at: None,
            effects: VecDeque::new(),
            held: BTreeMap::new(),
            loopback: VecDeque::new(),
            is_gossip: false,
            next_persist: 0,
            seed,
            draws: 0,
        }
    }

    /// The promise of a chain or founding: nothing at or below it is promised again.
    pub(crate) fn promise(&self, chain: Hash) -> Option<Ballot> {
        self.promises.get(&chain).copied()
    }

    /// A hash that nobody else draws: of the seed and a count.
    pub(crate) fn draw(&mut self) -> Hash {
        self.draws += 1;
        Hash::of_parts("paceline draw", &[&self.seed, &self.draws.to_le_bytes()])
    }

    /// A number below `bound`, which is small: the bias of the remainder does not matter for waiting times.
    pub(crate) fn draw_below(&mut self, bound: u64) -> u64 {
        let hash = self.draw();
        let (low, _) = hash.as_bytes().split_at(8);
        low.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b)) % bound.max(1)
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(crate) fn take_loopback(&mut self) -> Option<Message> {
        self.loopback.pop_front()
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.effect(Effect::Emit(event));
    }

    /// Notes a refusal where there is nothing to answer.
    pub(crate) fn reject(&mut self, peer: NodeId, reject: Reject) {
        self.emit(Event::Rejected { peer, reject });
    }

    /// Sends a message that binds nobody.
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.me {
            self.loopback.push_back(message);
        } else {
            self.effect(Effect::Send { to, message });
        }
    }

    /// Sends to all others on a roster.
    pub(crate) fn send_to_all(&mut self, roster: &Roster, message: &Message) {
        let me = self.me;
        roster.nodes().filter(|n| *n != me).for_each(|to| self.effect(Effect::Send { to, message: message.clone() }));
    }

    /// The input at hand is gossip, or not.
    pub(crate) fn begin_input(&mut self, is_gossip: bool) {
        self.is_gossip = is_gossip;
    }

    /// The message at hand is valid and of use to others: if it is gossip, it is passed on, once.
    pub(crate) fn relay(&mut self) {
        if std::mem::take(&mut self.is_gossip) {
            self.effect(Effect::Relay);
        }
    }

    pub(crate) fn broadcast(&mut self, message: Message) {
        self.effect(Effect::Broadcast(message));
    }

    pub(crate) fn persist(&mut self, item: Persist) -> PersistId {
        self.persist_then(item, Vec::new())
    }

    /// Writes `item` down, its promise with it, and lets `held` go only when it is on disk. The one way for a message that
    /// binds its sender to leave.
    pub(crate) fn persist_then(&mut self, item: Persist, held: Vec<Held>) -> PersistId {
        let id = PersistId(self.next_persist);
        self.next_persist += 1;
        for (chain, ballot) in item.promises() {
            let promise = self.promises.entry(chain).or_insert(ballot);
            *promise = ballot.max(*promise);
        }
        self.effect(Effect::Persist { id, item });
        self.held.insert(id, held);
        id
    }

    /// A persist is on disk: what waited for it goes out.
    pub(crate) fn persisted(&mut self, id: PersistId) {
        for held in self.held.remove(&id).into_iter().flatten() {
            match held {
                Held::Send(to, message) => self.send(to, message),
                Held::Emit(event) => self.emit(event),
            }
        }
    }

    /// Whether a persist was confirmed.
    pub(crate) fn is_written(&self, id: PersistId) -> bool {
        !self.held.contains_key(&id)
    }

    /// Gets a blob, unless it is here or on its way, or the disk has just failed: whoever wants it asks again.
    pub(crate) fn fetch(&mut self, blob: BlobRef, purpose: Purpose, origin: NodeId, roster: &Roster) {
        if self.disk_failed_at.is_some_and(|at| self.now.since_ms(at) < RETRY_MS) {
            return;
        }
        if self.blobs.contains(&blob.id) || self.fetching.contains_key(&blob.id) {
            return;
        }
        self.fetching.insert(blob.id, origin);
        let others = match purpose {
            Purpose::Model => roster.nodes().filter(|n| *n != origin && *n != self.me).collect(),
            Purpose::Update => Vec::new(),
        };
        self.effect(Effect::Fetch { blob, purpose, origin, others });
    }

    pub(crate) fn fetched(&mut self, blob: Hash) {
        self.disk_failed_at = None;
        // One that was cancelled meanwhile may be cleared away already.
        if self.fetching.remove(&blob).is_some() {
            self.blobs.insert(blob);
        }
    }

    /// A blob can't be had. Whose bytes were wrong is remembered.
    pub(crate) fn fetch_failed(&mut self, blob: Hash, failure: FetchFailure) {
        let origin = self.fetching.remove(&blob);
        match failure {
            FetchFailure::Invalid(_) => origin.into_iter().for_each(|origin| self.peers.doubt(origin, Doubt::Bytes)),
            FetchFailure::Disk => self.disk_failed(),
            FetchFailure::Unreachable => {}
        }
    }

    /// A blob can't be written here, or not be read back.
    pub(crate) fn disk_failed(&mut self) {
        self.disk_failed_at = Some(self.now);
    }

    /// Whether this node's disk failed a moment ago, so that it had better not coordinate.
    pub(crate) fn is_disk_failing(&self) -> bool {
        self.disk_failed_at.is_some_and(|at| self.now.since_ms(at) < DISK_REST_MS)
    }

    pub(crate) fn is_fetching(&self, blob: Hash) -> bool {
        self.fetching.contains_key(&blob)
    }

    /// Stops every fetch but those of `wanted`.
    pub(crate) fn cancel_fetches_but(&mut self, wanted: &BTreeSet<Hash>) {
        let stale: Vec<Hash> = self.fetching.keys().filter(|blob| !wanted.contains(blob)).copied().collect();
        for blob in stale {
            self.fetching.remove(&blob);
            self.effect(Effect::CancelFetch { blob });
        }
    }

    /// Says which blobs must stay, and forgets the others.
    pub(crate) fn keep(&mut self, blobs: BTreeSet<Hash>) {
        self.blobs.retain(|b| blobs.contains(b));
        self.effect(Effect::Keep { blobs: blobs.into_iter().collect() });
    }
}
