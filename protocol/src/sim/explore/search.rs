//! The search: every state that the steps of [`super::node`] reach from a first one, breadth first.
//!
//! A state is one number for each node: which of the nodes seen so far stands in that place. What a node does when
//! something happens to it depends on that node alone, so a machine handles an input once, however many states it happens
//! in; the rest is numbers.

#![expect(clippy::disallowed_types, reason = "looked up and never walked through: their order shows in nothing")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use crate::base::ids::Hash;

use super::laws::{judge, outcome};
use super::node::{Act, Node, World};

/// A state: the number of each place's node, 32 bits each.
type State = u128;

/// A table whose keys are numbers.
type Table<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// Nodes that fit into a state.
const PLACES_MAX: usize = 4;

/// What a search has found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Different states of the world.
    pub states: u64,
    /// Steps from one to another.
    pub transitions: u64,
    /// The most steps that it takes to come to a state.
    pub depth: u32,
    /// Different states of single nodes.
    pub nodes: u64,
    /// Inputs that machines handled.
    pub handled: u64,
    /// What came about in some state.
    pub outcomes: BTreeSet<String>,
    /// Whether every state within the bounds was seen.
    pub complete: bool,
    /// A broken law, and how it came to that.
    pub violation: Option<(String, Vec<String>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { states, transitions, depth, nodes, handled, .. } = self;
        let all = if self.complete { "all" } else { "not all" };
        writeln!(
            f,
            "{all} states: {states}, transitions {transitions}, depth {depth}, nodes {nodes}, inputs {handled}"
        )?;
        self.outcomes.iter().try_for_each(|outcome| writeln!(f, "  comes about: {outcome}"))?;
        let Some((what, way)) = &self.violation else { return Ok(()) };
        writeln!(f, "  BROKEN: {what}")?;
        way.iter().try_for_each(|step| writeln!(f, "    {step}"))
    }
}

pub(super) struct Search {
    world: World,
    places: usize,
    nodes: Vec<Seen>,
    known: BTreeMap<Hash, u32>,
    /// What the laws judge of a node, by number.
    judged_by: BTreeMap<Hash, u32>,
    /// Where hearing a word takes a node.
    heard: Table<u64, u32>,
    /// Where hearing any word of another takes a node.
    pairs: Table<u64, Rc<[u32]>>,
    judged: HashSet<State, BuildHasherDefault<Mixer>>,
    report: Report,
}

/// A node that was seen, and where it goes on its own.
struct Seen {
    node: Node,
    facts: u32,
    /// What it says, by receiver.
    said: Vec<Vec<u32>>,
    own: Option<Rc<[u32]>>,
}

fn place(state: State, place: usize) -> u32 {
    (state >> (32 * place)) as u32
}

fn with(state: State, place: usize, node: u32) -> State {
    let shift = 32 * place;
    (state & !(State::from(u32::MAX) << shift)) | (State::from(node) << shift)
}

fn pair(a: u32, b: u32) -> u64 {
    (u64::from(a) << 32) | u64::from(b)
}

/// Spreads numbers over a table. They are this search's own, so nobody picks them to collide.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl Search {
    pub(super) fn new(world: World) -> Self {
        Self {
            world,
            places: 0,
            nodes: Vec::new(),
            known: BTreeMap::new(),
            judged_by: BTreeMap::new(),
            heard: Table::default(),
            pairs: Table::default(),
            judged: HashSet::default(),
            report: Report::default(),
        }
    }

    /// Sees every state that can be reached from `first`, or `states_max` of them, or all up to one that breaks a law.
    pub(super) fn run(mut self, first: Vec<Node>, states_max: usize) -> Report {
        assert!(first.len() <= PLACES_MAX, "a state has room for {PLACES_MAX} nodes");
        self.places = first.len();
        let first = first.into_iter().enumerate().fold(0, |state, (i, node)| with(state, i, self.number(node)));
        // Each state with the one that it was first reached from.
        let mut seen: Table<State, State> = Table::default();
        seen.insert(first, first);
        let mut layer = VecDeque::from([(first, 0u32)]);
        self.report.complete = true;
        let mut broken = self.check(first).map(|what| (what, first));
        while let Some((state, depth)) = layer.pop_front().filter(|_| broken.is_none()) {
            self.report.depth = depth;
            for next in self.next_states(state) {
                self.report.transitions += 1;
                if seen.contains_key(&next) {
                    continue;
                }
                if seen.len() >= states_max {
                    self.report.complete = false;
                    continue;
                }
                seen.insert(next, state);
                layer.push_back((next, depth + 1));
                broken = broken.or_else(|| self.check(next).map(|what| (what, next)));
            }
        }
        self.report.states = seen.len() as u64;
        self.report.nodes = self.nodes.len() as u64;
        self.report.handled = self.world.handled;
        self.report.violation = broken.map(|(what, state)| {
            let mut way = vec![state];
            while let Some(before) = way.last().and_then(|s| seen.get(s)).copied().filter(|b| *b != way[way.len() - 1])
            {
                way.push(before);
            }
            way.reverse();
            let steps = way.windows(2).map(|pair| self.describe(pair[0], pair[1])).collect();
            (what, steps)
        });
        self.report.complete &= self.report.violation.is_none();
        self.report
    }

    /// The number of a node: that of the same one seen before, or a new one.
    fn number(&mut self, node: Node) -> u32 {
        let next = self.nodes.len() as u32;
        let number = *self.known.entry(node.digest()).or_insert(next);
        if number == next {
            let judged = self.judged_by.len() as u32;
            let facts = *self.judged_by.entry(node.digest_of_facts()).or_insert(judged);
            let mut said = vec![Vec::new(); self.places];
            node.said.iter().for_each(|w| said[self.world.words[*w as usize].to].push(*w));
            self.nodes.push(Seen { node, facts, said, own: None });
        }
        number
    }

    fn check(&mut self, state: State) -> Option<String> {
        let numbers: Vec<u32> = (0..self.places).map(|i| place(state, i)).collect();
        let facts = numbers.iter().enumerate().fold(0, |key, (i, n)| with(key, i, self.nodes[*n as usize].facts));
        if !self.judged.insert(facts) {
            return None;
        }
        let nodes: Vec<&Node> = numbers.iter().map(|n| &self.nodes[*n as usize].node).collect();
        self.report.outcomes.extend(outcome(&self.world, &nodes));
        judge(&self.world, &nodes)
    }

    fn next_states(&mut self, state: State) -> Vec<State> {
        let mut next = Vec::new();
        for i in 0..self.places {
            let node = place(state, i);
            next.extend(self.own_steps(node).iter().map(|n| with(state, i, *n)));
            for j in (0..self.places).filter(|j| *j != i) {
                next.extend(self.steps_with(node, place(state, j), i).iter().map(|n| with(state, i, *n)));
            }
        }
        next.retain(|n| *n != state);
        next
    }

    /// Where a node goes without another's doing.
    fn own_steps(&mut self, number: u32) -> Rc<[u32]> {
        if let Some(own) = &self.nodes[number as usize].own {
            return own.clone();
        }
        let acts = self.world.own_acts(&self.nodes[number as usize].node);
        let steps: Vec<u32> = acts.into_iter().filter_map(|act| self.step(number, act)).collect();
        let own: Rc<[u32]> = steps.into();
        self.nodes[number as usize].own = Some(own.clone());
        own
    }

    /// Where a node goes when it hears something of what another has said so far.
    fn steps_with(&mut self, number: u32, other: u32, index: usize) -> Rc<[u32]> {
        if let Some(steps) = self.pairs.get(&pair(number, other)) {
            return steps.clone();
        }
        let words = self.nodes[other as usize].said[index].clone();
        let mut steps: Vec<u32> =
            words.into_iter().map(|word| self.hear(number, word)).filter(|n| *n != number).collect();
        steps.sort_unstable();
        steps.dedup();
        let steps: Rc<[u32]> = steps.into();
        self.pairs.insert(pair(number, other), steps.clone());
        steps
    }

    fn hear(&mut self, number: u32, word: u32) -> u32 {
        if let Some(next) = self.heard.get(&pair(number, word)) {
            return *next;
        }
        let next = self.step(number, Act::Hear(word)).unwrap_or(number);
        self.heard.insert(pair(number, word), next);
        next
    }

    fn step(&mut self, number: u32, act: Act) -> Option<u32> {
        let next = self.world.step(&self.nodes[number as usize].node, act)?;
        Some(self.number(next))
    }

    /// What led from one state to the next.
    fn describe(&mut self, before: State, after: State) -> String {
        let Some(i) = (0..self.places).find(|i| place(before, *i) != place(after, *i)) else { return String::new() };
        let (from, to) = (place(before, i), place(after, i));
        let mut acts = self.world.own_acts(&self.nodes[from as usize].node);
        for j in (0..self.places).filter(|j| *j != i) {
            acts.extend(self.nodes[place(before, j) as usize].said[i].iter().map(|w| Act::Hear(*w)));
        }
        let act = acts.into_iter().find(|act| self.step(from, *act) == Some(to));
        let what = act.map(|act| self.world.describe(act)).unwrap_or_default();
        format!("node {i} {what}")
    }
}
