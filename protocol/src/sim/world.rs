//! The world itself: a queue of events in virtual time, and the nodes that they happen to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::aggregation::Aggregation;
use crate::base::bounds::GOSSIP_BYTES_MAX;
use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::Part;
use crate::base::signed::{Scope, Verifier};
use crate::chain::fixture::accuracy;
use crate::chain::{Chain, RunParams, StopRule};
use crate::io::{Effect, Event, FetchFailure, Input, Persist, PersistId, TrainedUpdate};
use crate::machine::{Config, Machine};
use crate::message::{Body, Message};
use crate::runfile::Quota;

use super::clock::Clock;
use super::disk::Disk;
use super::hostile::{Hostility, Liar};
use super::invariants::Invariants;
use super::rng::Rng;
use super::tally::Tally;
use super::trap::{Blow, Moment, Trap};
use super::wires::Wires;

/// What kind of world.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Nodes that exist; all are started by `Sim::start_all`.
    pub nodes: usize,
    /// Rounds of the run.
    pub rounds: u64,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Nodes that a founding needs.
    pub min_nodes: usize,
    /// C of FedAvg.
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<usize>,
    /// The probability that a message is lost.
    pub loss: f64,
    /// The probability that a message comes twice.
    pub duplicate: f64,
    /// How long a message takes, in ms.
    pub latency_ms: (u64, u64),
    /// The probability that a message is much slower, and how long it takes then: it may overtake nothing and arrive when
    /// nobody expects it any more.
    pub slow: (f64, (u64, u64)),
    /// How long a durable write takes.
    pub disk_ms: (u64, u64),
    /// The probability that a write fails, which ends the process.
    pub fail_write: f64,
    /// How long evaluation and training take.
    pub train_ms: (u64, u64),
    /// Bytes of the model.
    pub model_bytes: u64,
    /// Bytes of a blob that a node receives in a millisecond.
    pub bytes_per_ms: u64,
    /// The longest round.
    pub round_timeout_ms: u64,
    /// When the run ends before its rounds do.
    pub stop: StopRule,
}

impl SimOptions {
    /// A calm world: a LAN without loss.
    pub fn calm(nodes: usize, rounds: u64, seed: u64) -> Self {
        Self {
            nodes,
            rounds,
            seed,
            min_nodes: nodes.min(3),
            fraction: 1.0,
            min_updates: None,
            loss: 0.0,
            duplicate: 0.0,
            latency_ms: (1, 5),
            slow: (0.0, (0, 0)),
            disk_ms: (1, 10),
            fail_write: 0.0,
            train_ms: (500, 1_500),
            model_bytes: 4_000,
            bytes_per_ms: 100,
            round_timeout_ms: 60_000,
            stop: StopRule::default(),
        }
    }

    /// The network that a world begins with.
    pub fn network(&self) -> Network {
        Network {
            loss: self.loss,
            duplicate: self.duplicate,
            latency_ms: self.latency_ms,
            slow: self.slow,
            bytes_per_ms: self.bytes_per_ms,
        }
    }

    /// How every node is in the beginning.
    pub fn health(&self) -> Health {
        Health {
            disk_ms: self.disk_ms,
            fail_write: self.fail_write,
            is_full: false,
            trainer: Trainer::Takes(self.train_ms),
        }
    }
}

/// How the network is, for everybody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// The probability that a message is lost.
    pub loss: f64,
    /// The probability that a message comes twice.
    pub duplicate: f64,
    /// How long a message takes, in ms.
    pub latency_ms: (u64, u64),
    /// The probability that a message is much slower, and how long it takes then.
    pub slow: (f64, (u64, u64)),
    /// Bytes of a blob that a node receives in a millisecond.
    pub bytes_per_ms: u64,
}

/// How training goes at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trainer {
    /// Evaluation and training take so long, in ms.
    Takes((u64, u64)),
    /// It fails, after so long.
    Fails((u64, u64)),
    /// It neither ends nor fails.
    Hangs,
}

/// How a node's disk and trainer are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// How long a durable write takes, in ms.
    pub disk_ms: (u64, u64),
    /// The probability that a write fails, which ends the process.
    pub fail_write: f64,
    /// Whether every write fails, of blobs, too.
    pub is_full: bool,
    /// The trainer.
    pub trainer: Trainer,
}

/// What is yet to happen. What belongs to a process ends with it: `boot` tells its life.
#[derive(Debug)]
enum Happening {
    Deliver { to: usize, from: NodeId, message: Box<Message>, gossip: bool },
    Tick { node: usize },
    Written { node: usize, boot: u32, id: PersistId, item: Box<Persist> },
    Confirmed { node: usize, boot: u32, id: PersistId },
    Done { node: usize, boot: u32, outcome: Outcome },
    Link { a: usize, b: usize },
    Unlink { a: usize, b: usize },
    Start { node: usize },
    Mischief { node: usize },
    Strike { node: usize, boot: u32, blow: Blow },
}

/// What a node's own workers come back with.
#[derive(Debug)]
enum Outcome {
    Fetched { blob: BlobRef, origin: NodeId, others: Vec<NodeId> },
    Trained { work: u64, round: u64, parent: Hash },
    Evaluated { work: u64, round: u64 },
    Folded { ballot: Ballot, node: NodeId },
    Aggregated { ballot: Ballot, updates: Vec<(NodeId, BlobRef, u64)> },
}

#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) identity: Identity,
    pub(super) id: NodeId,
    pub(super) part: Option<Part>,
    pub(super) pinned: Option<Hash>,
    pub(super) machine: Option<Machine>,
    pub(super) liar: Option<Liar>,
    /// Whether its chain is dead for good, so that it waits for ever.
    pub(super) stranded: bool,
    /// Where its latencies, writes and trainings come from: what befalls others changes none of them.
    rng: Rng,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    /// An earlier state of it.
    pub(super) copy: Option<Disk>,
    pub(super) health: Health,
    /// The next write of a record of this round or a later one fails.
    pub(super) fails_record: Option<u64>,
    pub(super) boot: u32,
    /// The write that was begun last ends then: writes are in order.
    disk_free: Time,
    /// Writes under way, oldest first.
    pub(super) writing: VecDeque<Persist>,
    /// Counts trainings and evaluations, so that one that was stopped comes to nothing.
    work: u64,
    tick_at: Option<Time>,
    pub(super) frozen_until: Time,
    pub(super) links: BTreeSet<usize>,
    /// Trainings begun, for assertions.
    pub(super) trainings: BTreeMap<u64, u32>,
    /// Messages that left, and their bytes, by receiver, for assertions on amplification.
    pub(super) sent: BTreeMap<usize, (u64, u64)>,
    pub(super) events: Vec<Event>,
}

/// Many machines in one world.
#[derive(Debug)]
pub struct Sim {
    options: SimOptions,
    pub(super) params: RunParams,
    verifier: Verifier,
    pub(super) now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    pub(super) nodes: Vec<SimNode>,
    /// The index of a node in `nodes`.
    places: BTreeMap<NodeId, usize>,
    pub(super) wires: Wires,
    pub(super) network: Network,
    pub(super) traps: Vec<Trap>,
    pub(super) rng: Rng,
    pub(super) invariants: Invariants,
    pub(super) tally: Tally,
    /// A hash over all that happened.
    pub(super) trace: Hash,
    /// Planted: these items are confirmed before they are on disk.
    pub(super) early: Option<fn(&Persist) -> bool>,
    /// Planted: a restart forgets what was accepted.
    #[cfg(test)]
    pub(super) forgets_accepts: bool,
    /// Whether messages are counted by their bytes.
    pub(super) weighs: bool,
}

/// How long a process that ended by itself stays down, as under a service manager.
const RESTART_MS: (u64, u64) = (500, 3_000);

impl Sim {
    /// A world in which nothing runs yet.
    pub fn new(options: SimOptions) -> Self {
        let initial_model = BlobRef { id: Hash::of(b"initial model"), len: options.model_bytes };
        let params = RunParams {
            run: Hash::of(b"simulated run"),
            rounds: options.rounds,
            min_nodes: options.min_nodes,
            quota: Quota { fraction: options.fraction, min_updates: options.min_updates },
            round_timeout_ms: options.round_timeout_ms,
            initial_model,
            update_len: options.model_bytes,
            aggregation: Aggregation::default(),
            stop: options.stop.clone(),
        };
        let mut rng = Rng::new(options.seed);
        let nodes: Vec<SimNode> =
            (0..options.nodes).map(|_| SimNode::new(&mut rng, &options, initial_model.id)).collect();
        let places = nodes.iter().enumerate().map(|(place, n)| (n.id, place)).collect();
        let invariants = Invariants::new(options.seed);
        let network = options.network();
        Self {
            options,
            params,
            verifier: Verifier::default(),
            now: Time::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            places,
            wires: Wires::default(),
            network,
            traps: Vec::new(),
            rng,
            invariants,
            tally: Tally::default(),
            trace: Hash::ZERO,
            early: None,
            #[cfg(test)]
            forgets_accepts: false,
            weighs: false,
        }
    }

    /// The first node takes on this identity. Before it starts.
    pub(super) fn adopt(&mut self, identity: Identity) {
        let this = &mut self.nodes[0];
        self.places.remove(&this.id);
        this.id = identity.node_id();
        this.identity = identity;
        self.places.insert(this.id, 0);
    }

    /// Starts a node with what is on its disk.
    pub fn start(&mut self, node: usize) {
        let seed = *Hash::of_parts("sim seed", &[&self.rng.draw().to_le_bytes()]).as_bytes();
        let this = &mut self.nodes[node];
        this.boot += 1;
        this.writing.clear();
        this.disk_free = self.now;
        this.clock.begin(self.now);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.link_later(node, other);
        }
        if self.is_stranger(node) {
            self.schedule(self.now.plus_ms(1), Happening::Mischief { node });
            return;
        }
        #[cfg(test)]
        if self.forgets_accepts {
            self.nodes[node].disk.forget_accepts();
        }
        let this = &mut self.nodes[node];
        let config = Config {
            resumes: false,
            params: self.params.clone(),
            identity: this.identity.clone(),
            name: format!("node {node}"),
            part: this.part,
            pinned: this.pinned,
            verifier: self.verifier.clone(),
        };
        this.machine = Some(Machine::new(config, seed, this.clock.read(self.now), this.disk.read()));
        self.drain(node);
    }

    pub(super) fn is_stranger(&self, node: usize) -> bool {
        self.nodes[node].liar.as_ref().is_some_and(|l| l.hostility == Hostility::Stranger)
    }

    /// kill -9: what was not on disk is gone; of the writes under way some were done.
    pub fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.machine.take().is_none() {
            return;
        }
        let (done, under_way) = (this.rng.below(this.writing.len() + 1), this.writing.len());
        self.tally.fault(match done {
            _ if under_way == 0 => "crash",
            0 => "crash that loses what was being written",
            _ if done < under_way => "crash that tears what was being written",
            _ => "crash after what was being written",
        });
        for _ in 0..done {
            // What comes after a write that failed is never written.
            if !self.nodes[node].writing.pop_front().is_some_and(|item| self.write(node, item)) {
                break;
            }
        }
        self.end_process(node);
    }

    pub(super) fn end_process(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.machine = None;
        this.writing.clear();
        this.tick_at = None;
        this.frozen_until = Time::default();
        let links = std::mem::take(&mut this.links);
        for other in links {
            self.unlink_later(node, other, (20, 80));
        }
        self.check_disks();
    }

    /// A write failed: the process ends, and is started again as a service manager does.
    fn fail(&mut self, node: usize) {
        self.tally.fault("failed write");
        self.end_process(node);
        self.start_after(node, RESTART_MS);
    }

    /// Writes an item, if the disk lets it. Whether it did.
    fn write(&mut self, node: usize, item: Persist) -> bool {
        let this = &mut self.nodes[node];
        if this.health.is_full || this.rng.chance(this.health.fail_write) {
            return false;
        }
        if let Persist::Committed { committed, .. } = &item
            && this.fails_record.is_some_and(|round| committed.record.round >= round)
        {
            this.fails_record = None;
            return false;
        }
        let this = &mut self.nodes[node];
        if this.disk.write(item.clone()).is_err() {
            return false;
        }
        let id = this.id;
        self.invariants.now = self.now;
        self.invariants.written(id, &item);
        true
    }

    /// Runs until `done` or until so much virtual time has passed. Whether `done` came true; never, once a promise is
    /// broken.
    pub fn run_until(&mut self, within_ms: u64, mut done: impl FnMut(&Sim) -> bool) -> bool {
        let end = self.now.plus_ms(within_ms);
        while self.invariants.violation.is_none() {
            if done(self) {
                return true;
            }
            let Some((&(at, _), _)) = self.queue.first_key_value() else {
                self.now = end;
                return false;
            };
            if at > end {
                self.now = end;
                return false;
            }
            let Some((_, happening)) = self.queue.pop_first() else { return false };
            self.now = at;
            self.invariants.now = at;
            self.happen(happening);
        }
        false
    }

    fn schedule(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn after(&mut self, node: usize, ms: (u64, u64)) -> Time {
        self.now.plus_ms(self.nodes[node].rng.between(ms))
    }

    pub(super) fn start_after(&mut self, node: usize, ms: (u64, u64)) {
        let at = self.after(node, ms);
        self.schedule(at, Happening::Start { node });
    }

    pub(super) fn link_later(&mut self, a: usize, b: usize) {
        let at = self.after(a, (5, 500));
        self.schedule(at, Happening::Link { a, b });
    }

    pub(super) fn unlink_later(&mut self, a: usize, b: usize, ms: (u64, u64)) {
        let at = self.after(a, ms);
        self.schedule(at, Happening::Unlink { a, b });
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some() || (self.is_stranger(node) && self.nodes[node].boot > 0)
    }

    /// Whether two nodes can have a connection now.
    fn meet(&self, a: usize, b: usize) -> bool {
        self.is_up(a) && self.is_up(b) && self.wires.join(a, b)
    }

    fn index_of(&self, id: NodeId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    fn happen(&mut self, happening: Happening) {
        let (first, second) = match &happening {
            Happening::Deliver { to: node, .. }
            | Happening::Tick { node }
            | Happening::Written { node, .. }
            | Happening::Confirmed { node, .. }
            | Happening::Start { node }
            | Happening::Mischief { node }
            | Happening::Strike { node, .. }
            | Happening::Done { node, .. } => (*node, *node),
            Happening::Link { a, b } | Happening::Unlink { a, b } => (*a, *b),
        };
        let thaws = self.nodes[first].frozen_until.max(self.nodes[second].frozen_until);
        // The disk goes on, whatever the process does.
        if thaws > self.now && !matches!(happening, Happening::Written { .. }) {
            if let Happening::Tick { node } = happening {
                let at = thaws.plus_ms(1);
                self.nodes[node].tick_at = Some(at);
                return self.schedule(at, happening);
            }
            return self.schedule(thaws, happening);
        }
        self.note(&happening, first, second);
        match happening {
            Happening::Deliver { to, from, message, gossip } => self.deliver(to, from, *message, gossip),
            Happening::Tick { node } => {
                if self.nodes[node].tick_at == Some(self.now) {
                    self.nodes[node].tick_at = None;
                    self.give(node, Input::Tick);
                }
            }
            Happening::Written { node, boot, id, item } => {
                if self.nodes[node].boot == boot && self.nodes[node].machine.is_some() {
                    self.nodes[node].writing.pop_front();
                    let early = self.early.is_some_and(|early| early(&item));
                    match self.write(node, *item) {
                        true if early => {}
                        true => self.happen(Happening::Confirmed { node, boot, id }),
                        false => self.fail(node),
                    }
                }
            }
            Happening::Confirmed { node, boot, id } => {
                if self.nodes[node].boot == boot {
                    self.give(node, Input::Persisted(id));
                }
            }
            Happening::Done { node, boot, outcome } => {
                if self.nodes[node].boot == boot && self.nodes[node].machine.is_some() {
                    self.outcome(node, outcome);
                }
            }
            Happening::Link { a, b } => {
                if self.meet(a, b) && (self.nodes[a].links.insert(b) | self.nodes[b].links.insert(a)) {
                    let (ida, idb) = (self.nodes[a].id, self.nodes[b].id);
                    self.give(a, Input::PeerUp(idb));
                    self.give(b, Input::PeerUp(ida));
                }
            }
            Happening::Unlink { a, b } => {
                if !self.meet(a, b) {
                    for (this, other) in [(a, b), (b, a)] {
                        self.nodes[this].links.remove(&other);
                        let id = self.nodes[other].id;
                        self.give(this, Input::PeerDown(id));
                    }
                }
            }
            Happening::Start { node } => {
                if self.nodes[node].machine.is_none() {
                    self.start(node);
                }
            }
            Happening::Mischief { node } => self.mischief(node),
            Happening::Strike { node, boot, blow } => {
                if self.nodes[node].boot == boot {
                    self.strike(node, blow);
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, from: NodeId, message: Message, gossip: bool) {
        if !self.index_of(from).is_some_and(|s| self.wires.carry(s, to)) {
            return self.tally.fault("message cut off");
        }
        if let Some(liar) = &mut self.nodes[to].liar {
            liar.hear(&mut self.rng, &message);
        }
        self.give(to, if gossip { Input::Gossiped { from, message } } else { Input::Received { from, message } });
    }

    /// A stranger says something to somebody.
    fn mischief(&mut self, node: usize) {
        let chain = self.nodes.iter().find_map(|n| n.machine.as_ref()?.chain());
        let chain = chain.map(|c| (c.genesis(), c.next_round(), c.head_hash(), c.head().model));
        let others: Vec<usize> = (0..self.nodes.len()).filter(|o| *o != node).collect();
        let ids: Vec<NodeId> = others.iter().map(|o| self.nodes[*o].id).collect();
        let to = others[self.rng.below(others.len())];
        if let Some(liar) = &mut self.nodes[node].liar {
            let message = liar.mischief(&mut self.rng, chain, &ids);
            let gossip = self.rng.chance(0.3);
            self.transmit(node, to, message, gossip);
        }
        let at = self.after(node, (20, 300));
        self.schedule(at, Happening::Mischief { node });
    }

    fn outcome(&mut self, node: usize, outcome: Outcome) {
        let full = self.nodes[node].health.is_full;
        let input = match outcome {
            Outcome::Fetched { blob, .. } if full => Input::FetchFailed { blob: blob.id, failure: FetchFailure::Disk },
            Outcome::Fetched { blob, origin, others } => {
                let holder = |id: &NodeId| {
                    let source = self.index_of(*id).filter(|s| *s == node || self.meet(node, *s))?;
                    let has_it = self.nodes[source].disk.blobs.contains(&blob.id);
                    has_it.then_some(self.nodes[source].liar.as_ref())
                };
                let serves = |id: &NodeId| holder(id).is_some_and(|liar| liar.is_none_or(Liar::serves_blobs));
                let garbles = holder(&origin).flatten().is_some_and(|l| l.hostility == Hostility::Garbles);
                let failure = match garbles {
                    true => FetchFailure::Invalid(Reject::WrongHash),
                    false => FetchFailure::Unreachable,
                };
                match others.iter().chain([&origin]).any(serves) {
                    true => {
                        self.nodes[node].disk.blobs.insert(blob.id);
                        Input::Fetched { blob: blob.id }
                    }
                    false => Input::FetchFailed { blob: blob.id, failure },
                }
            }
            Outcome::Trained { work, round, parent } => {
                if self.nodes[node].work != work {
                    return;
                }
                if full || matches!(self.nodes[node].health.trainer, Trainer::Fails(_)) {
                    self.tally.fault("failed training");
                    return self.give(node, Input::Trained { round, parent, outcome: Err("it diverged".to_owned()) });
                }
                let id = Hash::of_parts("sim update", &[parent.as_bytes(), &node.to_le_bytes()]);
                self.nodes[node].disk.blobs.insert(id);
                let trained = TrainedUpdate {
                    update: BlobRef { id, len: self.options.model_bytes },
                    samples: 100 + node as u64,
                    train_loss: Some(1.0),
                    train_ms: 1_000,
                    evaluation: Some(accuracy(5, 10)),
                    trainer: String::new(),
                };
                Input::Trained { round, parent, outcome: Ok(trained) }
            }
            Outcome::Evaluated { work, round } => {
                if self.nodes[node].work != work {
                    return;
                }
                Input::Evaluated { round, evaluation: Some(accuracy(6, 10)) }
            }
            Outcome::Folded { ballot, node: whose } => Input::Folded { ballot, node: whose, result: Ok(()) },
            Outcome::Aggregated { ballot, .. } if full => {
                Input::Aggregated { ballot, result: Err("the disk is full".to_owned()) }
            }
            Outcome::Aggregated { ballot, updates } => {
                let id = Hash::of_parts("sim model", &[&crate::base::codec::encode(&updates)]);
                self.nodes[node].disk.blobs.insert(id);
                Input::Aggregated { ballot, result: Ok(BlobRef { id, len: self.options.model_bytes }) }
            }
        };
        self.give(node, input);
    }

    pub(super) fn give(&mut self, node: usize, input: Input) {
        let this = &mut self.nodes[node];
        if let Some(machine) = &mut this.machine {
            machine.handle(this.clock.read(self.now), input);
            self.drain(node);
        }
    }

    /// Carries out what a machine wants, and sets its alarm.
    pub(super) fn drain(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].machine.as_mut().and_then(Machine::poll_effect) {
            self.carry_out(node, effect);
        }
        let this = &self.nodes[node];
        let deadline = this.machine.as_ref().and_then(Machine::deadline).map(|shown| this.clock.when(shown, self.now));
        // An alarm that is due and changes nothing would stop virtual time: a millisecond always passes.
        let tick_at = deadline.map(|d| d.max(self.now.plus_ms(1)));
        if let Some(at) = tick_at.filter(|_| tick_at != self.nodes[node].tick_at) {
            self.nodes[node].tick_at = Some(at);
            self.schedule(at, Happening::Tick { node });
        }
    }

    /// A message leaves a node, or what a lying node says in its place.
    fn post(&mut self, from: usize, to: usize, message: Message, gossip: bool) {
        self.invariants.sent(self.nodes[from].id, &message, &self.nodes[from].disk);
        if self.nodes[from].liar.is_none() {
            return self.transmit(from, to, message, gossip);
        }
        let chain = self.nodes[from].machine.as_ref().and_then(Machine::chain);
        let scope: Option<Scope> = chain.map(Chain::scope).filter(|s| s.chain == message.chain);
        let others: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        let Some(liar) = &mut self.nodes[from].liar else { return };
        for (whom, said) in liar.twist(&mut self.rng, others[to], message, scope, &others) {
            self.invariants.lied(self.nodes[from].id, &said);
            if let Some(whom) = self.index_of(whom).filter(|w| *w != from) {
                self.transmit(from, whom, said, gossip);
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, message: Message, gossip: bool) {
        if self.weighs {
            let len = message.encode().len() as u64;
            let (messages, bytes) = self.nodes[from].sent.entry(to).or_default();
            (*messages, *bytes) = (*messages + 1, *bytes + len);
        }
        if !self.is_up(from) || !self.is_up(to) || !self.nodes[from].links.contains(&to) {
            return;
        }
        if !self.wires.carry(from, to) {
            return self.tally.fault("message cut off");
        }
        let twice = self.nodes[from].rng.chance(self.network.duplicate);
        if twice {
            self.tally.fault("message twice");
        }
        for _ in 0..1 + usize::from(twice) {
            if self.nodes[from].rng.chance(self.network.loss) {
                self.tally.fault("message lost");
                continue;
            }
            let (slow, slow_ms) = self.network.slow;
            let is_slow = self.nodes[from].rng.chance(slow);
            if is_slow {
                self.tally.fault("message late");
            }
            let at = self.after(from, if is_slow { slow_ms } else { self.network.latency_ms });
            let from = self.nodes[from].id;
            self.schedule(at, Happening::Deliver { to, from, message: Box::new(message.clone()), gossip });
        }
    }

    fn work(&mut self, node: usize, ms: (u64, u64), outcome: Outcome) {
        let (at, boot) = (self.after(node, ms), self.nodes[node].boot);
        self.schedule(at, Happening::Done { node, boot, outcome });
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        self.spring(node, &effect);
        match effect {
            Effect::Send { to, message } => {
                if let Some(to) = self.index_of(to) {
                    self.post(node, to, message, false);
                }
            }
            Effect::Broadcast(message) => {
                let fits = !is_large(&message) || message.encode().len() <= GOSSIP_BYTES_MAX;
                for to in (0..self.nodes.len()).filter(|t| *t != node && fits) {
                    self.post(node, to, message.clone(), true);
                }
            }
            Effect::Persist { id, item } => self.begin_write(node, id, item),
            Effect::Fetch { blob, origin, others, .. } => {
                let transfer_ms = blob.len / self.network.bytes_per_ms.max(1);
                self.work(node, (5 + transfer_ms, 30 + 2 * transfer_ms), Outcome::Fetched { blob, origin, others });
            }
            Effect::Train { round, parent, .. } => {
                let this = &mut self.nodes[node];
                this.work += 1;
                *this.trainings.entry(round).or_default() += 1;
                let (work, id) = (this.work, this.id);
                self.invariants.trains(id, round, &self.nodes[node].disk);
                match self.nodes[node].health.trainer {
                    Trainer::Takes(ms) | Trainer::Fails(ms) => {
                        self.work(node, ms, Outcome::Trained { work, round, parent });
                    }
                    Trainer::Hangs => self.tally.fault("stuck training"),
                }
            }
            Effect::Evaluate { round, .. } => {
                self.nodes[node].work += 1;
                let work = self.nodes[node].work;
                self.work(node, (50, 200), Outcome::Evaluated { work, round });
            }
            Effect::StopTraining => self.nodes[node].work += 1,
            Effect::Fold { ballot, node: whose, .. } => {
                self.work(node, (1, 5), Outcome::Folded { ballot, node: whose });
            }
            Effect::Aggregate { ballot, updates, .. } => {
                self.work(node, (5, 20), Outcome::Aggregated { ballot, updates });
            }
            Effect::Keep { blobs } => {
                let keep: BTreeSet<Hash> = blobs.into_iter().collect();
                self.nodes[node].disk.blobs.retain(|b| keep.contains(b));
                self.check_disks();
            }
            Effect::Emit(event) => {
                let is_end = event == Event::Left;
                if let Event::Rejected { reject, .. } = &event {
                    self.tally.refusal(*reject);
                }
                self.invariants.happened(self.nodes[node].id, &event);
                self.nodes[node].events.push(event);
                if is_end {
                    self.check_disks();
                }
            }
            // Everybody hears gossip at first hand here.
            Effect::CancelFetch { .. } | Effect::Relay => {}
        }
    }

    fn begin_write(&mut self, node: usize, id: PersistId, item: Persist) {
        if let Persist::Committed { chain, committed, .. } = &item {
            self.invariants.committed(self.nodes[node].id, *chain, committed);
        }
        let this = &mut self.nodes[node];
        let took = this.rng.between(this.health.disk_ms);
        this.disk_free = this.disk_free.max(self.now).plus_ms(took);
        this.writing.push_back(item.clone());
        let (at, boot) = (this.disk_free, this.boot);
        if self.early.is_some_and(|early| early(&item)) {
            self.schedule(self.now, Happening::Confirmed { node, boot, id });
        }
        self.schedule(at, Happening::Written { node, boot, id, item: Box::new(item) });
    }

    fn check_disks(&mut self) {
        self.invariants.nothing_lost(self.nodes.iter().map(|n| (n.id, &n.disk)));
    }
}

/// Whether a message may be too large for gossip: only those with votes and records are.
fn is_large(message: &Message) -> bool {
    matches!(message.body, Body::Paxos { .. } | Body::Sync(_))
}

/// Traps and traces.
impl Sim {
    /// If somebody waits for the moment that an effect shows, its blow falls on this node.
    fn spring(&mut self, node: usize, effect: &Effect) {
        if self.traps.is_empty() || self.nodes[node].liar.is_some() {
            return;
        }
        let Some(moment) = Moment::of(self.nodes[node].id, effect) else { return };
        let Some(place) = self.traps.iter().position(|t| t.moment == moment) else { return };
        let trap = self.traps.remove(place);
        let boot = self.nodes[node].boot;
        self.schedule(self.now.plus_ms(trap.after_ms), Happening::Strike { node, boot, blow: trap.blow });
    }

    /// Takes what happens into the trace.
    fn note(&mut self, happening: &Happening, first: usize, second: usize) {
        let (kind, content) = match happening {
            Happening::Deliver { message, gossip, .. } => (u8::from(*gossip), message.encode()),
            Happening::Tick { .. } => (2, Vec::new()),
            Happening::Written { id, .. } => (3, id.0.to_le_bytes().to_vec()),
            Happening::Confirmed { id, .. } => (4, id.0.to_le_bytes().to_vec()),
            Happening::Done { .. } => (5, Vec::new()),
            Happening::Link { .. } => (6, Vec::new()),
            Happening::Unlink { .. } => (7, Vec::new()),
            Happening::Start { .. } => (8, Vec::new()),
            Happening::Mischief { .. } => (9, Vec::new()),
            Happening::Strike { .. } => (10, Vec::new()),
        };
        let place = [self.now.0, first as u64, second as u64].map(u64::to_le_bytes).concat();
        self.trace = Hash::of_parts("sim trace", &[self.trace.as_bytes(), &[kind], &place, &content]);
    }
}

impl SimNode {
    fn new(rng: &mut Rng, options: &SimOptions, initial_model: Hash) -> Self {
        let secret = *Hash::of_parts("sim identity", &[&rng.draw().to_le_bytes()]).as_bytes();
        let identity = Identity::from_secret(&secret);
        let id = identity.node_id();
        let mut disk = Disk::default();
        disk.blobs.insert(initial_model);
        Self {
            identity,
            id,
            part: None,
            pinned: None,
            machine: None,
            liar: None,
            stranded: false,
            rng: Rng::new(rng.draw()),
            clock: Clock::new(),
            disk,
            copy: None,
            health: options.health(),
            fails_record: None,
            boot: 0,
            disk_free: Time::default(),
            writing: VecDeque::new(),
            work: 0,
            tick_at: None,
            frozen_until: Time::default(),
            links: BTreeSet::new(),
            trainings: BTreeMap::new(),
            sent: BTreeMap::new(),
            events: Vec::new(),
        }
    }
}
