//! The world itself: a queue of events in virtual time, and the nodes that they happen to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::aggregation::Rule;
use crate::base::bounds::GOSSIP_BYTES_MAX;
use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::base::roster::Part;
use crate::base::signed::{Scope, Verifier};
use crate::chain::{Chain, RunParams};
use crate::io::{Command, Effect, Event, FetchFailure, Input, Persist, PersistId, State, TrainedUpdate, ViewPhase};
use crate::machine::{Config, Machine};
use crate::message::{Body, Message};
use crate::paxos::message::Phase;
use crate::record::{Evaluation, Kind};
use crate::runfile::Quota;

use super::disk::Disk;
use super::hostile::{Hostility, Liar};
use super::invariants::{Invariants, Violation};
use super::rng::Rng;

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
        }
    }
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
}

/// What a node's own workers come back with.
#[derive(Debug)]
enum Outcome {
    Fetched { blob: BlobRef, sources: Vec<NodeId> },
    Trained { work: u64, round: u64, parent: Hash },
    Evaluated { work: u64, round: u64 },
    Folded { ballot: Ballot, node: NodeId },
    Aggregated { ballot: Ballot, updates: Vec<(NodeId, BlobRef, u64)> },
}

/// When a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskState {
    Works,
    /// The next write of a record of this round fails.
    FailsRecord(u64),
    /// Every write fails, of blobs, too.
    Full,
}

#[derive(Debug)]
struct SimNode {
    identity: Identity,
    id: NodeId,
    part: Option<Part>,
    pinned: Option<Hash>,
    machine: Option<Machine>,
    liar: Option<Liar>,
    disk: Disk,
    disk_state: DiskState,
    boot: u32,
    /// The write that was begun last ends then: writes are in order.
    disk_free: Time,
    /// Writes under way, oldest first.
    writing: VecDeque<Persist>,
    /// Whether every training fails here.
    untrainable: bool,
    /// Counts trainings and evaluations, so that one that was stopped comes to nothing.
    work: u64,
    tick_at: Option<Time>,
    frozen_until: Time,
    links: BTreeSet<usize>,
    /// Trainings begun, for assertions.
    trainings: BTreeMap<u64, u32>,
    /// Messages that left, and their bytes, by receiver, for assertions on amplification.
    sent: BTreeMap<usize, (u64, u64)>,
    events: Vec<Event>,
}

/// Many machines in one world.
#[derive(Debug)]
pub struct Sim {
    options: SimOptions,
    params: RunParams,
    verifier: Verifier,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    nodes: Vec<SimNode>,
    /// The side of the partition that each node is on.
    side: Vec<u8>,
    /// Pairs that don't reach each other although others reach both.
    cut: BTreeSet<(usize, usize)>,
    rng: Rng,
    invariants: Invariants,
    /// Planted: these items are confirmed before they are on disk.
    early: Option<fn(&Persist) -> bool>,
    /// Planted: a restart forgets what was accepted.
    forgets_accepts: bool,
    /// Whether messages are counted by their bytes.
    weighs: bool,
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
            aggregation: Rule::FedAvg,
        };
        let mut rng = Rng::new(options.seed);
        let nodes = (0..options.nodes).map(|_| SimNode::new(&mut rng, initial_model.id)).collect();
        let side = vec![0; options.nodes];
        let invariants = Invariants::new(options.seed);
        Self {
            options,
            params,
            verifier: Verifier::default(),
            now: Time::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            side,
            cut: BTreeSet::new(),
            rng,
            invariants,
            early: None,
            forgets_accepts: false,
            weighs: false,
        }
    }

    /// Virtual milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now.0
    }

    /// The first broken promise.
    pub fn violation(&self) -> Option<&Violation> {
        self.invariants.violation.as_ref()
    }

    /// Makes a node lie. Before it starts.
    pub fn turn(&mut self, node: usize, hostility: Hostility) {
        let this = &mut self.nodes[node];
        this.liar = Some(Liar::new(hostility, this.identity.clone(), self.params.clone()));
        self.invariants.distrust(this.id);
    }

    /// Plants a bug: these items are confirmed before they are on disk.
    #[cfg(test)]
    pub(super) fn confirm_early(&mut self, early: fn(&Persist) -> bool) {
        self.early = Some(early);
    }

    /// Plants a bug: a restart forgets what was accepted.
    #[cfg(test)]
    pub(super) fn forget_accepts(&mut self) {
        self.forgets_accepts = true;
    }

    /// Starts every node that is down.
    pub fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].machine.is_none() {
                self.start(node);
            }
        }
    }

    /// Starts a node with what is on its disk.
    pub fn start(&mut self, node: usize) {
        let seed = *Hash::of_parts("sim seed", &[&self.rng.draw().to_le_bytes()]).as_bytes();
        let this = &mut self.nodes[node];
        this.boot += 1;
        this.writing.clear();
        this.disk_free = self.now;
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
        this.machine = Some(Machine::new(config, seed, self.now, this.disk.read()));
        self.drain(node);
    }

    fn is_stranger(&self, node: usize) -> bool {
        self.nodes[node].liar.as_ref().is_some_and(|l| l.hostility == Hostility::Stranger)
    }

    /// kill -9: what was not on disk is gone; of the writes under way some were done.
    pub fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.machine.take().is_none() {
            return;
        }
        let done = self.rng.below(this.writing.len() + 1);
        for _ in 0..done {
            if let Some(item) = self.nodes[node].writing.pop_front() {
                self.write(node, item);
            }
        }
        self.end_process(node);
    }

    fn end_process(&mut self, node: usize) {
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
        self.end_process(node);
        let at = self.after(RESTART_MS);
        self.schedule(at, Happening::Start { node });
    }

    /// Writes an item, if the disk lets it. Whether it did.
    fn write(&mut self, node: usize, item: Persist) -> bool {
        let this = &mut self.nodes[node];
        let is_record =
            |round| matches!(&item, Persist::Committed { committed, .. } if committed.record.round == round);
        match this.disk_state {
            DiskState::Full => return false,
            DiskState::FailsRecord(round) if is_record(round) => {
                this.disk_state = DiskState::Works;
                return false;
            }
            DiskState::Works | DiskState::FailsRecord(_) => {}
        }
        if self.rng.chance(self.options.fail_write) {
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

    /// The process stands still for so long, as on a machine that is suspended: all that happens to it waits, and what it
    /// has received is handled before it looks at its clock.
    pub fn freeze(&mut self, node: usize, ms: u64) {
        self.nodes[node].frozen_until = self.now.plus_ms(ms);
    }

    /// The write of a record fails, once.
    pub fn fail_record(&mut self, node: usize, round: u64) {
        self.nodes[node].disk_state = DiskState::FailsRecord(round);
    }

    /// Nothing can be written on this node's disk any more, or it can again.
    pub fn fill_disk(&mut self, node: usize, full: bool) {
        self.nodes[node].disk_state = if full { DiskState::Full } else { DiskState::Works };
    }

    /// A node that has a vote for another under way to its disk, which a crash may lose.
    pub fn writes_vote(&self) -> Option<usize> {
        let is_for_another = |n: &SimNode| {
            n.writing.iter().any(|item| matches!(item, Persist::Vote { vote, .. } if vote.vouched().candidate != n.id))
        };
        self.nodes.iter().position(is_for_another)
    }

    /// Cuts the network in two: node `i` is on side `side[i]`. Connections notice late.
    pub fn partition(&mut self, side: &[u8]) {
        self.side = side.to_vec();
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                if self.side[a] != self.side[b] {
                    self.unlink_later(a, b, (2_000, 6_000));
                } else if !self.nodes[a].links.contains(&b) {
                    self.link_later(a, b);
                }
            }
        }
    }

    /// Cuts the one wire between two nodes. Connections notice late.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.unlink_later(a, b, (2_000, 6_000));
    }

    /// Ends every partition and cut.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.partition(&vec![0; self.nodes.len()]);
    }

    /// What people ask of a node.
    pub fn command(&mut self, node: usize, command: Command) {
        self.give(node, Input::Command(command));
    }

    /// Gives a node's `--part`. Before it starts.
    pub fn set_part(&mut self, node: usize, part: Part) {
        self.nodes[node].part = Some(part);
    }

    /// Names the only chain that a node may enter. Before it starts.
    pub fn pin(&mut self, node: usize, genesis: Hash) {
        self.nodes[node].pinned = Some(genesis);
    }

    /// From now on every training of a node fails.
    pub fn fail_training(&mut self, node: usize) {
        self.nodes[node].untrainable = true;
    }

    /// From now on messages are counted by their bytes, see [`Sim::sent`].
    pub fn weigh(&mut self) {
        self.weighs = true;
        self.nodes.iter_mut().for_each(|n| n.sent.clear());
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

    fn after(&mut self, ms: (u64, u64)) -> Time {
        self.now.plus_ms(self.rng.between(ms))
    }

    fn link_later(&mut self, a: usize, b: usize) {
        let at = self.after((5, 500));
        self.schedule(at, Happening::Link { a, b });
    }

    fn unlink_later(&mut self, a: usize, b: usize, ms: (u64, u64)) {
        let at = self.after(ms);
        self.schedule(at, Happening::Unlink { a, b });
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some() || (self.is_stranger(node) && self.nodes[node].boot > 0)
    }

    /// Whether a message would get from one to the other now.
    fn reaches(&self, a: usize, b: usize) -> bool {
        self.is_up(a) && self.is_up(b) && self.is_wired(a, b)
    }

    /// Whether the network carries anything between the two.
    fn is_wired(&self, a: usize, b: usize) -> bool {
        self.side[a] == self.side[b] && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn index_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == id)
    }

    fn happen(&mut self, happening: Happening) {
        let (first, second) = match &happening {
            Happening::Deliver { to: node, .. }
            | Happening::Tick { node }
            | Happening::Written { node, .. }
            | Happening::Confirmed { node, .. }
            | Happening::Start { node }
            | Happening::Mischief { node }
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
                if self.reaches(a, b) && self.nodes[a].links.insert(b) {
                    self.nodes[b].links.insert(a);
                    let (ida, idb) = (self.nodes[a].id, self.nodes[b].id);
                    self.give(a, Input::PeerUp(idb));
                    self.give(b, Input::PeerUp(ida));
                }
            }
            Happening::Unlink { a, b } => {
                if !self.reaches(a, b) {
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
        }
    }

    fn deliver(&mut self, to: usize, from: NodeId, message: Message, gossip: bool) {
        if !self.index_of(from).is_some_and(|s| self.is_wired(s, to)) {
            return;
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
        let at = self.after((20, 300));
        self.schedule(at, Happening::Mischief { node });
    }

    fn outcome(&mut self, node: usize, outcome: Outcome) {
        let full = self.nodes[node].disk_state == DiskState::Full;
        let input = match outcome {
            Outcome::Fetched { blob, .. } if full => Input::FetchFailed { blob: blob.id, failure: FetchFailure::Disk },
            Outcome::Fetched { blob, sources } => {
                let serves = |id: &NodeId| {
                    self.index_of(*id).is_some_and(|s| {
                        let honest = self.nodes[s].liar.as_ref().is_none_or(Liar::serves_blobs);
                        let here = s == node || self.reaches(node, s);
                        honest && here && self.nodes[s].disk.blobs.contains(&blob.id)
                    })
                };
                if sources.iter().any(serves) {
                    self.nodes[node].disk.blobs.insert(blob.id);
                    Input::Fetched { blob: blob.id }
                } else {
                    Input::FetchFailed { blob: blob.id, failure: FetchFailure::Unreachable }
                }
            }
            Outcome::Trained { work, round, parent } => {
                if self.nodes[node].work != work {
                    return;
                }
                if self.nodes[node].untrainable || full {
                    return self.give(node, Input::Trained { round, parent, outcome: Err("it diverged".to_owned()) });
                }
                let id = Hash::of_parts("sim update", &[parent.as_bytes(), &[node as u8]]);
                self.nodes[node].disk.blobs.insert(id);
                let trained = TrainedUpdate {
                    update: BlobRef { id, len: self.options.model_bytes },
                    samples: 100 + node as u64,
                    train_loss: 1.0,
                    train_ms: 1_000,
                    evaluation: Some(Evaluation { correct: 5, total: 10, loss: 1.0 }),
                };
                Input::Trained { round, parent, outcome: Ok(trained) }
            }
            Outcome::Evaluated { work, round } => {
                if self.nodes[node].work != work {
                    return;
                }
                Input::Evaluated { round, evaluation: Some(Evaluation { correct: 6, total: 10, loss: 1.0 }) }
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

    fn give(&mut self, node: usize, input: Input) {
        let now = self.now;
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle(now, input);
            self.drain(node);
        }
    }

    /// Carries out what a machine wants, and sets its alarm.
    fn drain(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].machine.as_mut().and_then(Machine::poll_effect) {
            self.carry_out(node, effect);
        }
        let deadline = self.nodes[node].machine.as_ref().and_then(Machine::deadline);
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
        if !self.reaches(from, to) || !self.nodes[from].links.contains(&to) {
            return;
        }
        let copies = 1 + usize::from(self.rng.chance(self.options.duplicate));
        for _ in 0..copies {
            if self.rng.chance(self.options.loss) {
                continue;
            }
            let (slow, slow_ms) = self.options.slow;
            let latency_ms = if self.rng.chance(slow) { slow_ms } else { self.options.latency_ms };
            let at = self.after(latency_ms);
            let from = self.nodes[from].id;
            self.schedule(at, Happening::Deliver { to, from, message: Box::new(message.clone()), gossip });
        }
    }

    fn work(&mut self, node: usize, ms: (u64, u64), outcome: Outcome) {
        let (at, boot) = (self.after(ms), self.nodes[node].boot);
        self.schedule(at, Happening::Done { node, boot, outcome });
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
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
            Effect::Fetch { blob, origin, mut others, .. } => {
                others.push(origin);
                let transfer_ms = blob.len / self.options.bytes_per_ms;
                self.work(node, (5 + transfer_ms, 30 + 2 * transfer_ms), Outcome::Fetched { blob, sources: others });
            }
            Effect::Train { round, parent, .. } => {
                let this = &mut self.nodes[node];
                this.work += 1;
                *this.trainings.entry(round).or_default() += 1;
                let (work, id) = (this.work, this.id);
                self.invariants.trains(id, round, &self.nodes[node].disk);
                self.work(node, self.options.train_ms, Outcome::Trained { work, round, parent });
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
        let took = self.rng.between(self.options.disk_ms);
        let this = &mut self.nodes[node];
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

/// What tests ask of a world.
impl Sim {
    /// Node ids, by index.
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
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
        self.machine(node).and_then(|m| m.view(self.now).reason)
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
            let view = self.machine(n)?.view(self.now);
            match view.phase {
                ViewPhase::Round(phase) if view.coordinator == Some(view.me) => Some((n, phase)),
                _ => None,
            }
        })
    }

    /// Whether every honest node that runs and did not leave holds the closing record, the same one.
    pub fn all_closed(&self) -> bool {
        let honest = |n: &usize| self.nodes[*n].liar.is_none() && self.state(*n) != Some(State::Left);
        let running: Vec<&Machine> = (0..self.nodes.len()).filter(honest).filter_map(|n| self.machine(n)).collect();
        let heads: BTreeSet<_> = running.iter().map(|m| m.chain().map(Chain::head_hash)).collect();
        heads.len() == 1 && running.iter().all(|m| m.chain().is_some_and(Chain::is_closed))
    }

    /// Whether every honest node that runs and did not leave is at the end of a run. Groups that founded apart and had a
    /// round each go on as two.
    pub fn all_ended(&self) -> bool {
        let honest = (0..self.nodes.len()).filter(|n| self.nodes[*n].liar.is_none());
        honest.filter_map(|n| self.state(n)).all(|state| matches!(state, State::Finished | State::Left))
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

    /// The rounds of the chain that is on a node's disk.
    #[cfg(test)]
    pub(super) fn rounds_on_disk(&self, node: usize) -> Vec<u64> {
        self.nodes[node].disk.rounds()
    }

    /// Where every node stands, a line each: what a failing test prints.
    pub fn describe(&self) -> String {
        let line = |n: usize| match self.machine(n).map(|m| m.view(self.now)) {
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

impl SimNode {
    fn new(rng: &mut Rng, initial_model: Hash) -> Self {
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
            disk,
            disk_state: DiskState::Works,
            boot: 0,
            disk_free: Time::default(),
            writing: VecDeque::new(),
            untrainable: false,
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
