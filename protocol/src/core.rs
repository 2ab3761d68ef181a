//! What all parts of a machine share: the time it was told, its identity, what it knows of its peers, and the effects
//! that it has to give.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chain::Rules;
use crate::ids::{BlobRef, Hash, Identity, NodeId, Time};
use crate::machine::{Effect, Event, Persist, PersistId, Purpose};
use crate::message::Message;
use crate::peers::Peers;
use crate::reject::Reject;
use crate::roster::{Part, Roster};

/// What a test can break, to see that the simulator notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A vote leaves before it is on disk.
    VoteBeforePersist,
    /// A vote is given whatever was voted or accepted before.
    SkipBallotCheck,
    /// One accept commits.
    CommitOnTooFew,
    /// The value that the votes show as accepted is passed over.
    IgnoreAccepted,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) now: Time,
    pub(crate) identity: Identity,
    pub(crate) me: NodeId,
    pub(crate) name: String,
    pub(crate) part: Option<Part>,
    pub(crate) rules: Rules,
    pub(crate) peers: Peers,
    /// Blobs that are whole on this node's disk.
    pub(crate) blobs: BTreeSet<Hash>,
    /// Blobs that are being fetched.
    fetching: BTreeSet<Hash>,
    effects: VecDeque<Effect>,
    /// What waits for a `Persist` to be confirmed.
    held: BTreeMap<PersistId, Vec<Held>>,
    /// Writes that failed: what they were to bring to disk is not there.
    failed: BTreeSet<PersistId>,
    /// Messages of this node to itself.
    loopback: VecDeque<Message>,
    next_persist: u64,
    seed: [u8; 32],
    draws: u64,
    #[cfg(test)]
    pub(crate) faults: BTreeSet<Fault>,
}

/// A message that leaves once something is on disk.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Send(NodeId, Message),
    Broadcast(Message),
}

impl Core {
    pub(crate) fn new(
        rules: Rules,
        identity: Identity,
        name: String,
        part: Option<Part>,
        seed: [u8; 32],
        now: Time,
        blobs: BTreeSet<Hash>,
    ) -> Self {
        let me = identity.node_id();
        Self {
            now,
            identity,
            me,
            name,
            part,
            rules,
            peers: Peers::default(),
            blobs,
            fetching: BTreeSet::new(),
            effects: VecDeque::new(),
            held: BTreeMap::new(),
            failed: BTreeSet::new(),
            loopback: VecDeque::new(),
            next_persist: 0,
            seed,
            draws: 0,
            #[cfg(test)]
            faults: BTreeSet::new(),
        }
    }

    /// Whether a test has broken this.
    pub(crate) fn is_broken(&self, fault: Fault) -> bool {
        #[cfg(test)]
        return self.faults.contains(&fault);
        #[cfg(not(test))]
        {
            let _ = fault;
            false
        }
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

    pub(crate) fn broadcast(&mut self, message: Message) {
        self.effect(Effect::Broadcast(message));
    }

    pub(crate) fn persist(&mut self, item: Persist) -> PersistId {
        self.persist_then(item, Vec::new())
    }

    /// Writes `item` down, and lets `messages` go only when it is on disk. The one way for a message that binds its
    /// sender to leave.
    pub(crate) fn persist_then(&mut self, item: Persist, messages: Vec<Held>) -> PersistId {
        let id = PersistId(self.next_persist);
        self.next_persist += 1;
        let early = matches!(item, Persist::Vote { .. }) && self.is_broken(Fault::VoteBeforePersist);
        self.effect(Effect::Persist { id, item });
        if early {
            self.held.insert(id, Vec::new());
            messages.into_iter().for_each(|m| self.release(m));
        } else {
            self.held.insert(id, messages);
        }
        id
    }

    fn release(&mut self, held: Held) {
        match held {
            Held::Send(to, message) => self.send(to, message),
            Held::Broadcast(message) => self.broadcast(message),
        }
    }

    /// A persist is on disk: what waited for it goes out.
    pub(crate) fn persisted(&mut self, id: PersistId) {
        self.held.remove(&id).into_iter().flatten().for_each(|m| self.release(m));
    }

    /// A persist failed: what waited for it is never sent.
    pub(crate) fn persist_failed(&mut self, id: PersistId) {
        self.held.remove(&id);
        self.failed.insert(id);
        self.emit(Event::DiskFailed);
    }

    /// Whether a persist was confirmed.
    pub(crate) fn is_written(&self, id: PersistId) -> bool {
        !self.held.contains_key(&id) && !self.failed.contains(&id)
    }

    /// Whether a persist failed.
    pub(crate) fn has_failed(&self, id: PersistId) -> bool {
        self.failed.contains(&id)
    }

    /// Gets a blob, unless it is here or on its way.
    pub(crate) fn fetch(&mut self, blob: BlobRef, purpose: Purpose, origin: NodeId, roster: &Roster) {
        if self.blobs.contains(&blob.id) || !self.fetching.insert(blob.id) {
            return;
        }
        let others = match purpose {
            Purpose::Model => roster.nodes().filter(|n| *n != origin && *n != self.me).collect(),
            Purpose::Update => Vec::new(),
        };
        self.effect(Effect::Fetch { blob, purpose, origin, others });
    }

    pub(crate) fn fetched(&mut self, blob: Hash) {
        // One that was cancelled meanwhile may be cleared away already.
        if self.fetching.remove(&blob) {
            self.blobs.insert(blob);
        }
    }

    pub(crate) fn fetch_failed(&mut self, blob: Hash) {
        self.fetching.remove(&blob);
    }

    pub(crate) fn is_fetching(&self, blob: Hash) -> bool {
        self.fetching.contains(&blob)
    }

    /// Stops every fetch but those of `wanted`.
    pub(crate) fn cancel_fetches_but(&mut self, wanted: &BTreeSet<Hash>) {
        let stale: Vec<Hash> = self.fetching.difference(wanted).copied().collect();
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
