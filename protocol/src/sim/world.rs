//! The world itself: a queue of events in virtual time, and the nodes that they happen to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chain::Rules;
use crate::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::machine::{
    Command, Config, Effect, Event, FetchFailure, Input, Machine, Persist, PersistId, State, TrainedUpdate,
};
use crate::message::{Message, Phase};
use crate::record::{Evaluation, Kind};
use crate::roster::{Part, Roster};
use crate::rule::Rule;

use super::Dice;
use super::disk::Disk;
use super::laws::{Laws, Violation};

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
    /// How long a message takes, in ms.
    pub latency_ms: (u64, u64),
    /// The probability that a message is much slower, and how long it takes then: it may overtake nothing and arrive when
    /// nobody expects it any more.
    pub slow: (f64, (u64, u64)),
    /// How long a durable write takes.
    pub disk_ms: (u64, u64),
    /// How long evaluation and training take.
    pub train_ms: (u64, u64),
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
            latency_ms: (1, 5),
            slow: (0.0, (0, 0)),
            disk_ms: (1, 10),
            train_ms: (500, 1_500),
            round_timeout_ms: 60_000,
        }
    }
}

/// What is yet to happen. What belongs to a process ends with it: `boot` tells its life.
#[derive(Debug)]
enum Happening {
    Deliver { to: usize, from: NodeId, message: Box<Message> },
    Tick { node: usize },
    Written { node: usize, boot: u32, id: PersistId, item: Box<Persist> },
    Confirmed { node: usize, boot: u32, id: PersistId },
    Done { node: usize, boot: u32, outcome: Outcome },
    Link { a: usize, b: usize },
    Unlink { a: usize, b: usize },
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

#[derive(Debug)]
struct SimNode {
    identity: Identity,
    id: NodeId,
    part: Option<Part>,
    machine: Option<Machine>,
    disk: Disk,
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
    events: Vec<Event>,
}

/// Many machines in one world.
#[derive(Debug)]
pub struct Sim {
    options: SimOptions,
    rules: Rules,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    nodes: Vec<SimNode>,
    /// The side of the partition that each node is on.
    side: Vec<u8>,
    /// Pairs that don't reach each other although others reach both.
    cut: BTreeSet<(usize, usize)>,
    dice: Dice,
    laws: Laws,
    #[cfg(test)]
    faults: Vec<crate::core::Fault>,
}

/// Bytes of the simulated model.
const MODEL_BYTES: u64 = 4_000;

impl Sim {
    /// A world in which nothing runs yet.
    pub fn new(options: SimOptions) -> Self {
        let initial_model = BlobRef { id: Hash::of(b"initial model"), len: MODEL_BYTES };
        let rules = Rules {
            run: Hash::of(b"simulated run"),
            rounds: options.rounds,
            min_nodes: options.min_nodes,
            fraction: options.fraction,
            min_updates: options.min_updates,
            round_timeout_ms: options.round_timeout_ms,
            initial_model,
            update_len: MODEL_BYTES,
            rule: Rule::FedAvg,
        };
        let mut dice = Dice::new(options.seed);
        let nodes = (0..options.nodes).map(|_| SimNode::new(&mut dice, initial_model.id)).collect();
        let side = vec![0; options.nodes];
        Self {
            options,
            rules,
            now: Time::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            side,
            cut: BTreeSet::new(),
            dice,
            laws: Laws::default(),
            #[cfg(test)]
            faults: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn break_on_purpose(&mut self, fault: crate::core::Fault) {
        self.faults.push(fault);
    }

    /// Virtual milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now.0
    }

    /// The first broken promise.
    pub fn violation(&self) -> Option<&Violation> {
        self.laws.violation.as_ref()
    }

    /// Starts every node that is down, each at a moment of its own within a second.
    pub fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].machine.is_none() {
                self.start(node);
            }
        }
    }

    /// Starts a node with what is on its disk.
    pub fn start(&mut self, node: usize) {
        let seed = *Hash::of_parts("sim seed", &[&self.dice.next().to_le_bytes()]).as_bytes();
        let this = &mut self.nodes[node];
        this.boot += 1;
        this.writing.clear();
        this.disk_free = self.now;
        let config = Config {
            rules: self.rules.clone(),
            identity: this.identity.clone(),
            name: format!("node {node}"),
            part: this.part,
        };
        let machine = Machine::new(config, seed, self.now, this.disk.read());
        #[cfg(test)]
        let machine = {
            let mut machine = machine;
            self.faults.iter().for_each(|f| machine.break_on_purpose(*f));
            machine
        };
        this.machine = Some(machine);
        for other in (0..self.nodes.len()).filter(|o| *o != node) {
            self.link_later(node, other);
        }
        self.drain(node);
    }

    /// kill -9: what was not on disk is gone; of the writes under way some were done.
    pub fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.machine.take().is_none() {
            return;
        }
        let done = self.dice.next() as usize % (this.writing.len() + 1);
        for item in this.writing.drain(..).take(done) {
            this.disk.write(item);
        }
        this.tick_at = None;
        this.frozen_until = Time::default();
        let links = std::mem::take(&mut this.links);
        for other in links {
            self.unlink_later(node, other, (20, 80));
        }
    }

    /// The process stands still for so long, as on a machine that is suspended: all that happens to it waits, and what it
    /// has received is handled before it looks at its clock.
    pub fn freeze(&mut self, node: usize, ms: u64) {
        self.nodes[node].frozen_until = self.now.plus_ms(ms);
    }

    /// A node that has a vote for another under way to its disk, which a crash may lose.
    pub fn writes_vote(&self) -> Option<usize> {
        let is_for_another = |n: &SimNode| {
            n.writing.iter().any(|item| matches!(item, Persist::Vote { vote, .. } if vote.candidate != n.id))
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

    /// From now on every training of a node fails.
    pub fn fail_training(&mut self, node: usize) {
        self.nodes[node].untrainable = true;
    }

    /// Runs until `done` or until so much virtual time has passed. Whether `done` came true; never, once a promise is
    /// broken.
    pub fn run_until(&mut self, within_ms: u64, mut done: impl FnMut(&Sim) -> bool) -> bool {
        let end = self.now.plus_ms(within_ms);
        while self.laws.violation.is_none() {
            if done(self) {
                return true;
            }
            let Some((&(at, _), _)) = self.queue.first_key_value() else { return false };
            if at > end {
                self.now = end;
                return false;
            }
            let Some((_, happening)) = self.queue.pop_first() else { return false };
            self.now = at;
            self.happen(happening);
        }
        false
    }

    fn schedule(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn after(&mut self, ms: (u64, u64)) -> Time {
        self.now.plus_ms(self.dice.between(ms))
    }

    fn link_later(&mut self, a: usize, b: usize) {
        let at = self.after((5, 500));
        self.schedule(at, Happening::Link { a, b });
    }

    fn unlink_later(&mut self, a: usize, b: usize, ms: (u64, u64)) {
        let at = self.after(ms);
        self.schedule(at, Happening::Unlink { a, b });
    }

    /// Whether a message would get from one to the other now.
    fn reaches(&self, a: usize, b: usize) -> bool {
        let up = |n: usize| self.nodes[n].machine.is_some();
        up(a) && up(b) && self.is_wired(a, b)
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
            Happening::Deliver { to, from, message } => {
                let sender = self.index_of(from);
                if sender.is_some_and(|s| self.is_wired(s, to)) {
                    self.give(to, Input::Received { from, message: *message });
                }
            }
            Happening::Tick { node } => {
                if self.nodes[node].tick_at == Some(self.now) {
                    self.nodes[node].tick_at = None;
                    self.give(node, Input::Tick);
                }
            }
            Happening::Written { node, boot, id, item } => {
                if self.nodes[node].boot == boot && self.nodes[node].machine.is_some() {
                    self.nodes[node].writing.pop_front();
                    self.nodes[node].disk.write(*item);
                    self.happen(Happening::Confirmed { node, boot, id });
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
        }
    }

    fn outcome(&mut self, node: usize, outcome: Outcome) {
        let input = match outcome {
            Outcome::Fetched { blob, sources } => {
                let serves = |id: &NodeId| {
                    self.index_of(*id).is_some_and(|s| {
                        (s == node || self.reaches(node, s)) && self.nodes[s].disk.blobs.contains(&blob.id)
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
                if self.nodes[node].untrainable {
                    return self.give(node, Input::Trained { round, parent, outcome: Err("it diverged".to_owned()) });
                }
                let id = Hash::of_parts("sim update", &[parent.as_bytes(), &[node as u8]]);
                self.nodes[node].disk.blobs.insert(id);
                let trained = TrainedUpdate {
                    update: BlobRef { id, len: MODEL_BYTES },
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
            Outcome::Aggregated { ballot, updates } => {
                let id = Hash::of_parts("sim model", &[&crate::codec::encode(&updates)]);
                self.nodes[node].disk.blobs.insert(id);
                Input::Aggregated { ballot, result: Ok(BlobRef { id, len: MODEL_BYTES }) }
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

    fn post(&mut self, from: usize, to: usize, message: Message) {
        let arrives = self.reaches(from, to) && !self.dice.chance(self.options.loss);
        if arrives && self.nodes[from].links.contains(&to) {
            let (slow, slow_ms) = self.options.slow;
            let latency_ms = if self.dice.chance(slow) { slow_ms } else { self.options.latency_ms };
            let at = self.after(latency_ms);
            let from = self.nodes[from].id;
            self.schedule(at, Happening::Deliver { to, from, message: Box::new(message) });
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
                    self.post(node, to, message);
                }
            }
            Effect::Broadcast(message) => {
                for to in (0..self.nodes.len()).filter(|t| *t != node) {
                    self.post(node, to, message.clone());
                }
            }
            Effect::Persist { id, item } => {
                let took = self.dice.between(self.options.disk_ms);
                let this = &mut self.nodes[node];
                this.disk_free = this.disk_free.max(self.now).plus_ms(took);
                this.writing.push_back(item.clone());
                let (at, boot) = (this.disk_free, this.boot);
                self.schedule(at, Happening::Written { node, boot, id, item: Box::new(item) });
            }
            Effect::Fetch { blob, origin, mut others, .. } => {
                others.push(origin);
                self.work(node, (10, 60), Outcome::Fetched { blob, sources: others });
            }
            Effect::Train { round, parent, .. } => {
                let this = &mut self.nodes[node];
                this.work += 1;
                *this.trainings.entry(round).or_default() += 1;
                let (work, id) = (this.work, this.id);
                self.laws.trains((self.options.seed, self.now), id, round, &self.nodes[node].disk);
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
            }
            Effect::Emit(event) => {
                self.judge(node, &event);
                self.nodes[node].events.push(event);
            }
            Effect::CancelFetch { .. } | Effect::Disconnect { .. } => {}
        }
    }

    /// A node says that something is decided: it must be the same as everywhere else, and safe on disks.
    fn judge(&mut self, node: usize, event: &Event) {
        let round = match event {
            Event::Founded { .. } => 0,
            Event::Committed { round, .. } => *round as usize,
            _ => return,
        };
        let Some(chain) = self.nodes[node].machine.as_ref().and_then(Machine::chain) else { return };
        let Some(committed) = chain.records().get(round) else { return };
        let (genesis, record) = (chain.genesis(), committed.record.clone());
        // The roster that decided it; a genesis is decided by the one that it founds.
        let before = chain.records().iter().take(round.max(1));
        let roster = before.fold(Roster::default(), |roster, c| c.record.roster_after(&roster));
        let disks = self.nodes.iter().map(|n| (n.id, &n.disk));
        self.laws.committed((self.options.seed, self.now), genesis, &record, &roster, disks);
    }
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

    /// The chains that were founded.
    pub fn chains(&self) -> Vec<Hash> {
        self.laws.chains().collect()
    }

    /// The state of a node that runs.
    pub fn state(&self, node: usize) -> Option<State> {
        self.machine(node).map(|m| m.view(self.now).state)
    }

    /// The round that a node is in; 0 without a chain.
    pub fn round(&self, node: usize) -> u64 {
        self.machine(node).and_then(Machine::chain).map_or(0, |c| c.next_round())
    }

    /// The hash of a node's last record.
    pub fn head(&self, node: usize) -> Option<Hash> {
        self.machine(node).and_then(Machine::chain).map(|c| c.head_hash())
    }

    /// Who coordinates with a plan of its own, in which phase.
    pub fn coordinator(&self) -> Option<(usize, Phase)> {
        (0..self.nodes.len()).find_map(|n| {
            let view = self.machine(n)?.view(self.now);
            match view.phase {
                crate::machine::ViewPhase::Round(phase) if view.coordinator == Some(view.me) => Some((n, phase)),
                _ => None,
            }
        })
    }

    /// Whether every node that runs holds the closing record, the same one.
    pub fn all_closed(&self) -> bool {
        let running = || (0..self.nodes.len()).filter_map(|n| self.machine(n));
        running().all(|m| m.chain().is_some_and(|c| c.is_closed()))
            && running().filter_map(|m| m.chain().map(|c| c.head_hash())).collect::<BTreeSet<_>>().len() == 1
    }

    /// Records with contributions on the chain of a node.
    pub fn trained(&self, node: usize) -> u64 {
        self.machine(node).and_then(Machine::chain).map_or(0, |c| c.trained())
    }

    /// The kinds of the records of a node's chain, from the genesis on.
    pub fn kinds(&self, node: usize) -> Vec<&'static str> {
        let chain = self.machine(node).and_then(Machine::chain);
        chain.map(|c| c.records().iter().map(|r| Kind::name(&r.record.kind)).collect()).unwrap_or_default()
    }

    /// Where every node stands, a line each: what a failing test prints.
    pub fn describe(&self) -> String {
        let line = |n: usize| match self.machine(n).map(|m| m.view(self.now)) {
            Some(v) => format!(
                "node {n} {:?}: {} round {}.{} {} coordinator {:?} reason {:?}\n",
                v.me,
                v.state.name(),
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

    /// A random number of this world, for a test's own choices.
    pub fn dice(&mut self, below: usize) -> usize {
        self.dice.next() as usize % below
    }
}

impl SimNode {
    fn new(dice: &mut Dice, initial_model: Hash) -> Self {
        let secret = *Hash::of_parts("sim identity", &[&dice.next().to_le_bytes()]).as_bytes();
        let identity = Identity::from_secret(&secret);
        let id = identity.node_id();
        let mut disk = Disk::default();
        disk.blobs.insert(initial_model);
        Self {
            identity,
            id,
            part: None,
            machine: None,
            disk,
            boot: 0,
            disk_free: Time::default(),
            writing: VecDeque::new(),
            untrainable: false,
            work: 0,
            tick_at: None,
            frozen_until: Time::default(),
            links: BTreeSet::new(),
            trainings: BTreeMap::new(),
            events: Vec::new(),
        }
    }
}
