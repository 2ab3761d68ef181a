//! One node of a search, and all that can happen to it next.
//!
//! A node is its machine, its disk, the writes under way, and what it has given to the world so far: its messages and its
//! blobs. A step takes a node and one thing that happens to it, and makes another node; nothing else in the world changes.
//! So the world is its nodes, side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::ids::{BlobRef, Hash, Identity, NodeId, Time};
use crate::base::signed::Verifier;
use crate::chain::fixture::accuracy;
use crate::chain::{Chain, RunParams};
use crate::founding::message::Message as Founding;
use crate::io::{Effect, Event, Input, Persist, PersistId, TrainedUpdate};
use crate::machine::{Config, Machine};
use crate::message::{Body, Message};
use crate::paxos::message::Message as Paxos;
use crate::record::{AbortProof, Committed, Kind};
use crate::sim::disk::Disk;
use crate::sim::invariants::Invariants;

use super::digest::digest;
use super::scene::is_presence;

/// What is the same for all nodes of a search, and what it lets happen.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) params: RunParams,
    pub(super) identities: Vec<Identity>,
    /// Ballots of a later round or attempt are beyond the search: nobody hears of them, and no time passes for who is there.
    pub(super) round_max: u64,
    pub(super) attempt_max: u32,
    /// Messages that are all lost.
    pub(super) loses: fn(&Message) -> bool,
    /// Whether a node that is beyond the search still hears, so that it helps those behind.
    pub(super) helps: bool,
    /// How often a node hears a message of a founding in one life; `None` is any number of times.
    pub(super) foundings_heard: Option<u8>,
    /// How long a `Sleep` lasts.
    pub(super) sleep_ms: u64,
    /// Whether the trainer takes its time.
    pub(super) trains_later: bool,
    /// Planted: these items are confirmed before they are on disk.
    pub(super) early: Option<fn(&Persist) -> bool>,
    /// Planted: a restart forgets what was accepted.
    pub(super) forgets_accepts: bool,
}

/// What may still happen to a node by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Budget {
    /// How often its clock goes on to the next thing that is due.
    pub(super) wakes: u8,
    /// How often it sleeps past everything that is due.
    pub(super) sleeps: u8,
    /// How often it crashes.
    pub(super) crashes: u8,
}

/// What a node gives to another. It stays: it may come at any time, any number of times, or never.
#[derive(Debug, Clone)]
pub(super) struct Word {
    from: usize,
    pub(super) to: usize,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Said {
        message: Message,
        gossip: bool,
    },
    /// A blob is whole there.
    Holds(Hash),
    /// The process of that life ended, or began. Noticed once, and in this order.
    Ended {
        life: u32,
    },
    Began {
        life: u32,
    },
}

impl Word {
    pub(super) fn is_presence(&self) -> bool {
        matches!(&self.what, What::Said { message, .. } if is_presence(message))
    }
}

/// What the laws judge of a node, in the order in which it did it.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    Said(Message),
    Wrote(Persist),
    Committed(Hash, Committed),
    Aborted(Hash, AbortProof),
    Happened(Event),
}

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// Something that another gave arrives.
    Hear(u32),
    /// Time goes on to the next thing that is due.
    Wake,
    /// Time goes on past all that is due.
    Sleep,
    /// The oldest write is on disk, and confirmed.
    Write,
    /// kill -9, when so many of the writes under way were done.
    Crash(usize),
    Restart,
    /// The trainer is done.
    Train,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) machine: Option<Machine>,
    pub(super) now: Time,
    pub(super) disk: Disk,
    /// Writes under way, oldest first, and whether they were confirmed too early.
    writing: VecDeque<(PersistId, Persist, bool)>,
    fetching: BTreeSet<Hash>,
    training: Option<(u64, Hash)>,
    pub(super) budget: Budget,
    life: u32,
    /// How often it heard what is not to be heard without end.
    pub(super) heard: BTreeMap<u32, u8>,
    /// All that it ever gave to others.
    pub(super) said: BTreeSet<u32>,
    pub(super) facts: Vec<u32>,
    /// Whether its chain gave itself up: what it does from then on is beyond the search.
    gave_up: bool,
    /// A law that it broke on its own.
    pub(super) broken: Option<String>,
}

/// All nodes' words and facts, each kept once.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    ids: Vec<NodeId>,
    verifier: Verifier,
    pub(super) words: Vec<Word>,
    pub(super) facts: Vec<Fact>,
    known_words: BTreeMap<Hash, u32>,
    known_facts: BTreeMap<Hash, u32>,
    /// Inputs that machines have handled.
    pub(super) handled: u64,
}

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        let ids = rules.identities.iter().map(Identity::node_id).collect();
        Self {
            rules,
            ids,
            verifier: Verifier::default(),
            words: Vec::new(),
            facts: Vec::new(),
            known_words: BTreeMap::new(),
            known_facts: BTreeMap::new(),
            handled: 0,
        }
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.ids[node]
    }

    pub(super) fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.ids.len()).filter(move |other| *other != node)
    }

    /// A node that has just been started for the first time, connected to nobody.
    pub(super) fn begin(&mut self, index: usize) -> Node {
        let mut disk = Disk::default();
        disk.blobs.insert(self.rules.params.initial_model.id);
        let mut node = Node {
            index,
            machine: None,
            now: Time::default(),
            disk,
            writing: VecDeque::new(),
            fetching: BTreeSet::new(),
            training: None,
            budget: Budget::default(),
            life: 0,
            heard: BTreeMap::new(),
            said: BTreeSet::new(),
            facts: Vec::new(),
            gave_up: false,
            broken: None,
        };
        self.start(&mut node);
        node
    }

    /// Two nodes are connected.
    pub(super) fn connect(&mut self, node: &mut Node, other: usize) {
        let id = self.id(other);
        self.give(node, Input::PeerUp(id));
    }

    /// What becomes of `node` when this happens; `None` if it can't, or changes nothing.
    pub(super) fn step(&mut self, node: &Node, act: Act) -> Option<Node> {
        let mut next = node.clone();
        self.act(&mut next, act).then_some(next)
    }

    /// What can happen to a node without another's doing.
    pub(super) fn own_acts(&self, node: &Node) -> Vec<Act> {
        if node.machine.is_none() {
            return vec![Act::Restart];
        }
        let mut acts = Vec::new();
        if self.is_within(node) {
            acts.extend([Act::Wake, Act::Sleep]);
            acts.extend(node.training.map(|_| Act::Train));
        }
        if !node.writing.is_empty() {
            acts.push(Act::Write);
        }
        if node.budget.crashes > 0 {
            acts.extend((0..=node.writing.len()).map(Act::Crash));
        }
        acts
    }

    /// Whether a node is where the search looks at.
    fn is_within(&self, node: &Node) -> bool {
        let within = |m: &Machine| {
            let round = m.chain().map_or(0, Chain::next_round);
            round <= self.rules.round_max && m.view(node.now, |_| 0).attempt <= self.rules.attempt_max
        };
        !node.gave_up && node.machine.as_ref().is_some_and(within)
    }

    fn act(&mut self, node: &mut Node, act: Act) -> bool {
        match act {
            Act::Restart if node.machine.is_none() => self.start(node),
            _ if node.machine.is_none() => return false,
            Act::Restart => return false,
            Act::Hear(word) => return self.hear(node, word),
            Act::Wake => {
                let Some(due) = node.machine.as_ref().and_then(Machine::deadline) else { return false };
                if due > node.now {
                    if node.budget.wakes == 0 {
                        return false;
                    }
                    node.budget.wakes -= 1;
                }
                node.now = due.max(node.now);
                self.give(node, Input::Tick);
            }
            Act::Sleep => {
                if node.budget.sleeps == 0 {
                    return false;
                }
                node.budget.sleeps -= 1;
                node.now = node.now.plus_ms(self.rules.sleep_ms);
                self.give(node, Input::Tick);
            }
            Act::Write => self.write(node),
            Act::Train => {
                let Some((round, parent)) = node.training.take() else { return false };
                self.train(node, round, parent);
            }
            Act::Crash(done) => {
                node.budget.crashes -= 1;
                for _ in 0..done {
                    if let Some((_, item, _)) = node.writing.pop_front() {
                        self.put(node, item);
                    }
                }
                node.machine = None;
                node.writing.clear();
                node.fetching.clear();
                node.training = None;
                self.tell_all(node, What::Ended { life: node.life });
            }
        }
        true
    }

    fn start(&mut self, node: &mut Node) {
        node.life += 1;
        node.heard.clear();
        #[cfg(test)]
        if self.rules.forgets_accepts {
            node.disk.forget_accepts();
        }
        let seed = Hash::of_parts("explored seed", &[&[node.index as u8], &node.life.to_le_bytes()]);
        let config = Config {
            resumes: false,
            params: self.rules.params.clone(),
            identity: self.rules.identities[node.index].clone(),
            name: format!("node {}", node.index),
            part: None,
            pinned: None,
            verifier: self.verifier.clone(),
        };
        node.machine = Some(Machine::new(config, *seed.as_bytes(), node.now, node.disk.read()));
        self.carry_out(node);
        if node.life > 1 {
            for other in self.others(node.index) {
                self.connect(node, other);
            }
            self.tell_all(node, What::Began { life: node.life });
        }
    }

    fn hear(&mut self, node: &mut Node, word: u32) -> bool {
        let Word { from, what, .. } = self.words[word as usize].clone();
        let is_deaf = node.gave_up || !self.rules.helps && !self.is_within(node);
        if is_deaf && matches!(what, What::Said { .. }) {
            return false;
        }
        let times_max = match &what {
            What::Ended { .. } | What::Began { .. } => Some(1),
            What::Said { message, .. } if matches!(message.body, Body::Founding(_)) => self.rules.foundings_heard,
            What::Said { .. } | What::Holds(_) => None,
        };
        if let Some(max) = times_max {
            let times = node.heard.entry(word).or_default();
            if *times >= max {
                return false;
            }
            *times += 1;
        }
        if let What::Began { .. } = what {
            // That the life before ended is no news any more.
            let ended = |w: &u32| matches!(self.words[*w as usize], Word { from: f, what: What::Ended { .. }, .. } if f == from);
            let stale: Vec<u32> = (0..self.words.len() as u32).filter(ended).collect();
            node.heard.extend(stale.into_iter().filter(|w| self.words[*w as usize].to == node.index).map(|w| (w, 1)));
        }
        let from = self.id(from);
        match what {
            What::Said { message, gossip: false } => self.give(node, Input::Received { from, message }),
            What::Said { message, gossip: true } => self.give(node, Input::Gossiped { from, message }),
            What::Ended { .. } => self.give(node, Input::PeerDown(from)),
            What::Began { .. } => self.give(node, Input::PeerUp(from)),
            What::Holds(blob) => {
                if !node.fetching.remove(&blob) {
                    return false;
                }
                self.hold(node, blob);
                self.give(node, Input::Fetched { blob });
            }
        }
        true
    }

    fn give(&mut self, node: &mut Node, input: Input) {
        if let Some(machine) = &mut node.machine {
            self.handled += 1;
            machine.handle(node.now, input);
            self.carry_out(node);
        }
    }

    /// A blob is on a node's disk, for others to fetch.
    fn hold(&mut self, node: &mut Node, blob: Hash) {
        node.disk.blobs.insert(blob);
        self.tell_all(node, What::Holds(blob));
    }

    fn train(&mut self, node: &mut Node, round: u64, parent: Hash) {
        let update = Hash::of_parts("explored update", &[parent.as_bytes(), &[node.index as u8]]);
        self.hold(node, update);
        let trained = TrainedUpdate {
            update: BlobRef { id: update, len: self.rules.params.update_len },
            samples: 100,
            train_loss: Some(1.0),
            train_ms: 1_000,
            evaluation: Some(accuracy(5, 10)),
            trainer: String::new(),
        };
        self.give(node, Input::Trained { round, parent, outcome: Ok(trained) });
    }

    /// The oldest write is done.
    fn write(&mut self, node: &mut Node) {
        if let Some((id, item, early)) = node.writing.pop_front() {
            self.put(node, item);
            if !early {
                self.give(node, Input::Persisted(id));
            }
        }
    }

    fn put(&mut self, node: &mut Node, item: Persist) {
        if let Err(why) = node.disk.write(item.clone()) {
            node.broken.get_or_insert(why.to_owned());
        }
        if matches!(item, Persist::Accepted { .. } | Persist::LetGo { .. } | Persist::Left) {
            self.note(node, Fact::Wrote(item));
        }
    }

    /// Does what a machine wants: what takes no time at once, then the writes, unless a crash may lose them.
    fn carry_out(&mut self, node: &mut Node) {
        while let Some(effect) = node.machine.as_mut().and_then(Machine::poll_effect) {
            self.carry_out_one(node, effect);
        }
        if node.budget.crashes == 0 && !node.writing.is_empty() {
            self.write(node);
            self.carry_out(node);
        }
    }

    fn carry_out_one(&mut self, node: &mut Node, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                if let Some(to) = self.ids.iter().position(|id| *id == to) {
                    self.say(node, to, message, false);
                }
            }
            Effect::Broadcast(message) => {
                for to in self.others(node.index) {
                    self.say(node, to, message.clone(), true);
                }
            }
            Effect::Persist { id, item } => {
                match &item {
                    Persist::Committed { chain, committed, .. } => {
                        node.gave_up |= matches!(committed.record.kind, Kind::Yield { .. });
                        self.note(node, Fact::Committed(*chain, committed.clone()));
                    }
                    Persist::Aborted { founding, proof } => self.note(node, Fact::Aborted(*founding, proof.clone())),
                    _ => {}
                }
                let early = self.rules.early.is_some_and(|early| early(&item));
                node.writing.push_back((id, item, early));
                if early {
                    self.give(node, Input::Persisted(id));
                }
            }
            Effect::Fetch { blob, .. } if node.disk.blobs.contains(&blob.id) => {
                self.give(node, Input::Fetched { blob: blob.id });
            }
            Effect::Fetch { blob, .. } => {
                node.fetching.insert(blob.id);
            }
            Effect::CancelFetch { blob } => {
                node.fetching.remove(&blob);
            }
            Effect::Train { round, parent, .. } => {
                let mut laws = Invariants::new(0);
                laws.trains(self.id(node.index), round, &node.disk);
                node.broken = node.broken.take().or(laws.violation.map(|v| v.what));
                node.training = Some((round, parent));
                if !self.rules.trains_later && round <= self.rules.round_max {
                    node.training = None;
                    self.train(node, round, parent);
                }
            }
            Effect::StopTraining => node.training = None,
            Effect::Fold { ballot, node: whose, .. } => {
                self.give(node, Input::Folded { ballot, node: whose, result: Ok(()) });
            }
            Effect::Aggregate { ballot, updates, .. } => {
                let id = Hash::of_parts("explored model", &[&crate::base::codec::encode(&updates)]);
                self.hold(node, id);
                let model = BlobRef { id, len: self.rules.params.initial_model.len };
                self.give(node, Input::Aggregated { ballot, result: Ok(model) });
            }
            Effect::Keep { blobs } => {
                let keep: BTreeSet<Hash> = blobs.into_iter().collect();
                node.disk.blobs.retain(|b| keep.contains(b));
            }
            Effect::Emit(event @ (Event::Liar { .. } | Event::SecondCommit { .. })) => {
                self.note(node, Fact::Happened(event));
            }
            // Nobody evaluates within the rounds of a search, and everybody hears gossip at first hand.
            Effect::Emit(_) | Effect::Evaluate { .. } | Effect::Relay => {}
        }
    }

    fn say(&mut self, node: &mut Node, to: usize, message: Message, gossip: bool) {
        let me = self.id(node.index);
        let mut laws = Invariants::new(0);
        laws.sent(me, &message, &node.disk);
        node.broken = node.broken.take().or(laws.violation.map(|v| v.what));
        if binds(me, &message) {
            self.note(node, Fact::Said(message.clone()));
        }
        if !self.is_beyond(&message) && !(self.rules.loses)(&message) {
            self.tell(node, to, What::Said { message, gossip });
        }
    }

    fn is_beyond(&self, message: &Message) -> bool {
        match &message.body {
            Body::Paxos { ballot, .. } | Body::Round { ballot, .. } => {
                ballot.round > self.rules.round_max || ballot.attempt > self.rules.attempt_max
            }
            Body::Founding(_) | Body::Membership(_) | Body::Sync(_) => false,
        }
    }

    fn tell_all(&mut self, node: &mut Node, what: What) {
        for to in self.others(node.index) {
            self.tell(node, to, what.clone());
        }
    }

    fn tell(&mut self, node: &mut Node, to: usize, what: What) {
        let from = node.index;
        let bytes = match &what {
            What::Said { message, gossip } => [message.encode(), vec![u8::from(*gossip)]].concat(),
            What::Holds(blob) => blob.as_bytes().to_vec(),
            What::Ended { life } => format!("ended {life}").into_bytes(),
            What::Began { life } => format!("began {life}").into_bytes(),
        };
        let key = Hash::of_parts("explored word", &[&[from as u8, to as u8], &bytes]);
        let next = self.words.len() as u32;
        let word = *self.known_words.entry(key).or_insert(next);
        if word == next {
            self.words.push(Word { from, to, what });
        }
        node.said.insert(word);
    }

    fn note(&mut self, node: &mut Node, fact: Fact) {
        let key = digest(Time::default(), &fact);
        let next = self.facts.len() as u32;
        let id = *self.known_facts.entry(key).or_insert(next);
        if id == next {
            self.facts.push(fact);
        }
        if !node.facts.contains(&id) {
            node.facts.push(id);
        }
    }

    /// What happens, for people.
    pub(super) fn describe(&self, act: Act) -> String {
        match act {
            Act::Hear(word) => {
                let Word { from, what, .. } = &self.words[word as usize];
                let said: String = match what {
                    What::Said { message, .. } => format!("{:?}", message.body).chars().take(140).collect(),
                    What::Holds(_) | What::Ended { .. } | What::Began { .. } => format!("{what:?}"),
                };
                format!("hears from {from}: {said}")
            }
            act => format!("{act:?}"),
        }
    }
}

impl Node {
    /// By what the search knows it again.
    pub(super) fn digest(&self) -> Hash {
        digest(self.now, self)
    }

    /// By what the laws judge it.
    pub(super) fn digest_of_facts(&self) -> Hash {
        digest(self.now, &(self.index, &self.facts, &self.disk, &self.broken))
    }
}

/// Whether a message is one that its sender gives once.
fn binds(me: NodeId, message: &Message) -> bool {
    match &message.body {
        Body::Paxos { message: Paxos::Vote(vote), .. } => vote.by() == me,
        Body::Paxos { message: Paxos::Accept(_), .. } => true,
        Body::Paxos { message: Paxos::Proposal(proposal), .. } => proposal.coordinator() == me,
        Body::Founding(Founding::Bind(bind)) => bind.by() == me,
        Body::Founding(Founding::Refusal(refusal)) => refusal.by() == me,
        _ => false,
    }
}
