//! Where a search begins, and how far it goes.

use std::collections::BTreeSet;

use crate::base::aggregation::Aggregation;
use crate::base::ids::{BlobRef, Hash, Identity};
use crate::chain::{Chain, RunParams, StopRule};
use crate::io::Persist;
use crate::machine::Machine;
use crate::membership::message::Message as Membership;
use crate::message::{Body, Message};
use crate::paxos::message::Message as Paxos;
use crate::round::message::Message as Work;
use crate::runfile::Quota;
use crate::sync::message::Message as Sync;

use super::node::{Act, Budget, Node, Rules, World};
use super::search::{Report, Search};

/// What a search is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Three members have just founded: their first round.
    Round,
    /// Nodes see each other and are in no chain; so many are enough to found.
    Founding {
        /// Nodes that a founding needs.
        min_nodes: usize,
        /// Nodes that there are: two, or all three.
        nodes: usize,
    },
    /// Node 0 has a chain, nodes 1 and 2 have one, and all three have just met.
    Yield {
        /// Whether node 0's is the one that yields, if none has a round.
        alone_yields: bool,
    },
}

/// A search: its story and its bounds. Loss, repetition, delay and reordering have none.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What it is about.
    pub story: Story,
    /// The last attempt of a round or founding that is looked at.
    pub attempt_max: u32,
    /// How often each node's clock goes on to what is due next.
    pub wakes: [u8; 3],
    /// How often each node sleeps past everything that is due.
    pub sleeps: [u8; 3],
    /// The node that crashes once, at any moment, with any of its writes under way done.
    pub crashes: Option<usize>,
    /// Whether what only speeds things up arrives, too: heartbeats, refusals, answers to updates, records for whoever is
    /// behind. Else all of it is lost.
    pub chatter: bool,
    /// Whether the trainer takes its time; else it is done at once.
    pub trains_later: bool,
    /// How many of three train in a round.
    pub trainers: usize,
    /// Planted: these items are confirmed before they are on disk.
    pub early: Option<fn(&Persist) -> bool>,
    /// Planted: a restart forgets what was accepted.
    pub forgets_accepts: bool,
}

/// Steps that it takes at most to come to where a search begins.
const PRELUDE_STEPS_MAX: usize = 10_000;

impl Scene {
    /// A search of this story in which no time passes and nobody crashes.
    pub fn new(story: Story) -> Self {
        Self {
            story,
            attempt_max: 1,
            wakes: [0; 3],
            sleeps: [0; 3],
            crashes: None,
            chatter: false,
            trains_later: false,
            trainers: 1,
            early: None,
            forgets_accepts: false,
        }
    }

    /// Each node's clock goes on so often to what is due next.
    pub fn wakes(self, wakes: [u8; 3]) -> Self {
        Self { wakes, ..self }
    }

    /// Each node sleeps so often past everything that is due.
    pub fn sleeps(self, sleeps: [u8; 3]) -> Self {
        Self { sleeps, ..self }
    }

    /// This node crashes once.
    pub fn crash(self, node: usize) -> Self {
        Self { crashes: Some(node), ..self }
    }

    /// Sees every state within the bounds, or so many, or all up to one that breaks a law.
    pub fn explore(&self, states_max: usize) -> Report {
        let (world, first) = self.begin();
        Search::new(world).run(first, states_max)
    }

    fn min_nodes(&self) -> usize {
        match self.story {
            Story::Round => 3,
            Story::Founding { min_nodes, .. } => min_nodes,
            Story::Yield { .. } => 1,
        }
    }

    fn rules(&self, salt: u8) -> Rules {
        let identity = |i: u8| Identity::from_secret(Hash::of_parts("explored identity", &[&[salt, i]]).as_bytes());
        let len = 1_000;
        Rules {
            params: RunParams {
                run: Hash::of(b"explored run"),
                rounds: 8,
                min_nodes: self.min_nodes(),
                quota: Quota { fraction: self.trainers as f64 / 3.0, min_updates: Some(1) },
                round_timeout_ms: 60_000,
                initial_model: BlobRef { id: Hash::of(b"explored model"), len },
                update_len: len,
                aggregation: Aggregation::default(),
                stop: StopRule::default(),
            },
            identities: (0..3).map(identity).collect(),
            round_max: 1,
            attempt_max: self.attempt_max,
            loses: |_| false,
            helps: true,
            foundings_heard: Some(1),
            sleep_ms: 1_500,
            trains_later: false,
            early: None,
            forgets_accepts: false,
        }
    }

    /// The world as the search finds it: what was heard before it begins is forgotten, and the budgets are full.
    pub(super) fn begin(&self) -> (World, Vec<Node>) {
        let (world, mut nodes) = self.prelude();
        for node in &mut nodes {
            node.heard.clear();
            node.budget = Budget {
                wakes: self.wakes[node.index],
                sleeps: self.sleeps[node.index],
                crashes: u8::from(self.crashes == Some(node.index)),
            };
        }
        (world, nodes)
    }

    fn prelude(&self) -> (World, Vec<Node>) {
        match self.story {
            Story::Round => {
                let mut world = World::new(self.rules(0));
                let mut nodes = Self::start(&mut world, &[(0, 1), (0, 2), (1, 2)]);
                Self::play(&mut world, &mut nodes, |nodes| nodes.iter().all(is_in_first_round));
                world.rules.loses = match self.chatter {
                    true => is_presence,
                    false => |m| is_presence(m) || is_chatter(m) || is_help(m),
                };
                // Who is where they know by now.
                let is_presence = |word: &u32| world.words[*word as usize].is_presence();
                nodes.iter_mut().for_each(|n| n.said.retain(|word| !is_presence(word)));
                (self.bounded(world), nodes)
            }
            Story::Founding { nodes, .. } => {
                let mut world = World::new(self.rules(0));
                let pairs = [(0, 1), (0, 2), (1, 2)].into_iter().filter(|(_, b)| *b < nodes);
                let mut nodes = Self::start(&mut world, &pairs.collect::<Vec<_>>());
                // All that they have said so far is who they are.
                Self::play(&mut world, &mut nodes, |nodes| nodes.iter().any(|n| n.now.0 > 0));
                world.rules.round_max = 0;
                world.rules.sleep_ms = crate::base::timing::BIND_MS;
                world.rules.loses = match self.chatter {
                    true => is_of_later_round,
                    false => |m| is_of_later_round(m) || is_chatter(m) || is_presence(m),
                };
                (self.bounded(world), nodes)
            }
            Story::Yield { alone_yields } => (0..=u8::MAX)
                .find_map(|salt| {
                    let mut world = World::new(Rules { trains_later: true, ..self.rules(salt) });
                    let mut nodes = Self::start(&mut world, &[(1, 2)]);
                    Self::play(&mut world, &mut nodes, |nodes| nodes.iter().all(is_in_first_round));
                    let genesis = |n: &Node| n.machine.as_ref().and_then(Machine::chain).map(Chain::genesis);
                    let yields = genesis(&nodes[0]) > genesis(&nodes[1]);
                    (yields == alone_yields && genesis(&nodes[1]) == genesis(&nodes[2])).then_some((world, nodes))
                })
                .map(|(mut world, mut nodes)| {
                    for (a, b) in [(0, 1), (0, 2)] {
                        world.connect(&mut nodes[a], b);
                        world.connect(&mut nodes[b], a);
                    }
                    if !self.chatter {
                        Self::hear_presences(&mut world, &mut nodes);
                        world.rules.loses = |m| is_presence(m) || is_chatter(m);
                    }
                    (self.bounded(world), nodes)
                })
                .expect("one of two orders comes up in 256 tries"),
        }
    }

    fn bounded(&self, mut world: World) -> World {
        world.rules.helps = self.chatter || self.story != Story::Round;
        world.rules.trains_later = self.trains_later;
        world.rules.early = self.early;
        world.rules.forgets_accepts = self.forgets_accepts;
        world
    }

    /// Starts all nodes and connects these pairs.
    fn start(world: &mut World, links: &[(usize, usize)]) -> Vec<Node> {
        let mut nodes: Vec<Node> = (0..3).map(|i| world.begin(i)).collect();
        for (a, b) in links {
            world.connect(&mut nodes[*a], *b);
            world.connect(&mut nodes[*b], *a);
        }
        nodes
    }

    /// All hear where the others are, and of no change of that any more.
    fn hear_presences(world: &mut World, nodes: &mut [Node]) {
        let said: BTreeSet<u32> = nodes.iter().flat_map(|n| n.said.iter().copied()).collect();
        for word in said {
            let to = world.words[word as usize].to;
            if !world.words[word as usize].is_presence() {
                continue;
            }
            if let Some(next) = world.step(&nodes[to], Act::Hear(word)) {
                nodes[to] = next;
            }
        }
        nodes.iter_mut().for_each(|n| n.said.retain(|word| !world.words[*word as usize].is_presence()));
    }

    /// Lets everything happen in its order, without loss and on time, until `done`. What was heard by then is not said again.
    fn play(world: &mut World, nodes: &mut [Node], done: impl Fn(&[Node]) -> bool) {
        let mut heard: BTreeSet<u32> = BTreeSet::new();
        for _ in 0..PRELUDE_STEPS_MAX {
            if done(nodes) {
                break;
            }
            let said: BTreeSet<u32> = nodes.iter().flat_map(|n| n.said.iter().copied()).collect();
            if let Some(word) = said.difference(&heard).next().copied() {
                heard.insert(word);
                let to = world.words[word as usize].to;
                if let Some(next) = world.step(&nodes[to], Act::Hear(word)) {
                    nodes[to] = next;
                }
                continue;
            }
            let due = |n: &Node| n.machine.as_ref().and_then(Machine::deadline);
            let Some(first) = (0..nodes.len()).min_by_key(|i| due(&nodes[*i])) else { break };
            // What is due and changes nothing would stop time.
            let at = due(&nodes[first]).unwrap_or_default().max(nodes[first].now.plus_ms(1));
            nodes.iter_mut().for_each(|n| n.now = n.now.max(at));
            nodes[first].budget.wakes = 1;
            if let Some(next) = world.step(&nodes[first], Act::Wake) {
                nodes[first] = next;
            }
        }
        assert!(done(nodes), "the world did not come to where the search begins");
        nodes.iter_mut().for_each(|n| n.said.retain(|word| !heard.contains(word)));
    }
}

fn is_in_first_round(node: &Node) -> bool {
    node.machine.as_ref().and_then(Machine::chain).is_some_and(|c| c.next_round() == 1)
}

pub(super) fn is_presence(message: &Message) -> bool {
    matches!(message.body, Body::Membership(Membership::Presence(_)))
}

/// What binds nobody and only speeds things up.
fn is_chatter(message: &Message) -> bool {
    match &message.body {
        Body::Paxos { message, .. } => matches!(
            message,
            Paxos::Heartbeat(_)
                | Paxos::HeartbeatAck { .. }
                | Paxos::VoteRefused { .. }
                | Paxos::ProposalRefused { .. }
                | Paxos::StepDown
        ),
        Body::Round { message, .. } => matches!(message, Work::UpdateAck { .. }),
        Body::Membership(message) => matches!(message, Membership::JoinRefused { .. }),
        Body::Founding(_) | Body::Sync(_) => false,
    }
}

/// Records for whoever is behind: who is there hears of the commit all the same.
fn is_help(message: &Message) -> bool {
    matches!(message.body, Body::Sync(Sync::Query { .. } | Sync::Records(_)))
}

/// What is said once a founding came about, but for its outcome.
fn is_of_later_round(message: &Message) -> bool {
    match &message.body {
        Body::Paxos { ballot, .. } | Body::Round { ballot, .. } => ballot.round > 0,
        Body::Sync(Sync::Committed(_)) | Body::Founding(_) | Body::Membership(_) => false,
        Body::Sync(_) => true,
    }
}
