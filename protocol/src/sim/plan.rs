//! What a world is made of: an explicit list of faults, drawn from a seed. Since it is a list, a failure can be looked for
//! with fewer of them ([`super::shrink()`]).

use std::collections::BTreeSet;
use std::fmt;

use super::hostile::Hostility;
use super::rng::Rng;
use super::trap::Moment;
use super::world::{Health, Network, SimOptions, Trainer};

/// Something that goes wrong. What takes a while says for how long, in milliseconds; [`LASTING`] outlives even the healing.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants say what their fields are; times are in milliseconds")]
pub enum Fault {
    /// Messages are lost.
    Loss { probability: f64, ms: u64 },
    /// Messages come twice.
    Duplicate { probability: f64, ms: u64 },
    /// Some messages take so long that others overtake them, and that nobody expects them any more.
    Late { probability: f64, late_ms: (u64, u64), ms: u64 },
    /// All messages take so long: a WAN, or jitter.
    Latency { latency_ms: (u64, u64), ms: u64 },
    /// Blobs come so slowly.
    Bandwidth { bytes_per_ms: u64, ms: u64 },
    /// Some nodes are cut off from the others.
    Partition { apart: BTreeSet<usize>, ms: u64 },
    /// Nothing that these nodes say gets to the others, who are heard by them. Connections end over it or not.
    OneWay { mute: BTreeSet<usize>, is_noticed: bool, ms: u64 },
    /// Some nodes are cut off and back, again and again.
    Flapping { apart: BTreeSet<usize>, period_ms: u64, ms: u64 },
    /// One wire is cut, though others reach both of its ends.
    Cut { a: usize, b: usize, ms: u64 },
    /// A clock runs so many milliseconds a second.
    Drift { node: usize, per_mille: u64, ms: u64 },
    /// A clock jumps forward.
    Jump { node: usize, by_ms: u64 },
    /// A process is killed and stays down for so long.
    Crash { node: usize, down_ms: u64 },
    /// The next process that takes this step is killed so much later.
    CrashIn { moment: Moment, after_ms: u64, down_ms: u64 },
    /// All processes are killed at once.
    CrashAll { down_ms: u64 },
    /// A process stands still.
    Freeze { node: usize, ms: u64 },
    /// The next process that takes this step stands still.
    FreezeIn { moment: Moment, after_ms: u64, ms: u64 },
    /// A disk is slow; every disk, without a node.
    SlowDisk { node: Option<usize>, write_ms: (u64, u64), ms: u64 },
    /// Some writes fail.
    FailingWrites { node: usize, probability: f64, ms: u64 },
    /// The next write of a record fails.
    FailedRecord { node: usize },
    /// Nothing can be written.
    FullDisk { node: usize, ms: u64 },
    /// Training takes so long.
    SlowTrainer { node: usize, train_ms: (u64, u64), ms: u64 },
    /// Training never ends.
    StuckTrainer { node: usize, ms: u64 },
    /// Training fails.
    FailingTrainer { node: usize, ms: u64 },
    /// A node is paused: it trains nothing.
    Pause { node: usize, ms: u64 },
    /// A node is there from this moment on only.
    ComesLate { node: usize },
    /// A member leaves for good.
    Leave { node: usize },
    /// A node has the home of another run of the same file, whose other members are gone for good.
    DeadHome { node: usize, rounds: u64 },
    /// A node comes back, so much later, with the home that it has now: it forgets its promises, and counts as one that
    /// lies.
    OldHome { node: usize, back_ms: u64 },
    /// A node lies, from the beginning on.
    Lies { node: usize, how: Hostility },
}

/// Longer than any world: what goes on after the healing.
pub const LASTING: u64 = u64::MAX;

impl Fault {
    /// One or two words, as a summary counts them.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Loss { .. } => "loss",
            Fault::Duplicate { .. } => "duplication",
            Fault::Late { .. } => "reordering",
            Fault::Latency { .. } => "latency",
            Fault::Bandwidth { .. } => "bandwidth",
            Fault::Partition { .. } => "partition",
            Fault::OneWay { is_noticed: true, .. } => "one-way partition",
            Fault::OneWay { is_noticed: false, .. } => "one-way partition, unnoticed",
            Fault::Flapping { .. } => "flapping partition",
            Fault::Cut { .. } => "cut wire",
            Fault::Drift { .. } => "clock that drifts",
            Fault::Jump { .. } => "clock that jumps",
            Fault::Crash { .. } => "kill",
            Fault::CrashIn { .. } => "kill in a step",
            Fault::CrashAll { .. } => "kill of everybody",
            Fault::Freeze { .. } => "freeze",
            Fault::FreezeIn { .. } => "freeze in a step",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::FailingWrites { .. } => "failing writes",
            Fault::FailedRecord { .. } => "failed record",
            Fault::FullDisk { .. } => "full disk",
            Fault::SlowTrainer { .. } => "slow trainer",
            Fault::StuckTrainer { .. } => "stuck trainer",
            Fault::FailingTrainer { .. } => "failing trainer",
            Fault::Pause { .. } => "pause",
            Fault::ComesLate { .. } => "late node",
            Fault::Leave { .. } => "leave",
            Fault::DeadHome { .. } => "home of a dead run",
            Fault::OldHome { .. } => "old home",
            Fault::Lies { how: Hostility::Stranger, .. } => "stranger",
            Fault::Lies { .. } => "member that lies",
        }
    }

    /// How long it takes; 0 for what only begins.
    pub(super) fn lasts_ms(&self) -> u64 {
        match self {
            Fault::Loss { ms, .. }
            | Fault::Duplicate { ms, .. }
            | Fault::Late { ms, .. }
            | Fault::Latency { ms, .. }
            | Fault::Bandwidth { ms, .. }
            | Fault::Partition { ms, .. }
            | Fault::OneWay { ms, .. }
            | Fault::Flapping { ms, .. }
            | Fault::Cut { ms, .. }
            | Fault::Drift { ms, .. }
            | Fault::SlowDisk { ms, .. }
            | Fault::FailingWrites { ms, .. }
            | Fault::FullDisk { ms, .. }
            | Fault::SlowTrainer { ms, .. }
            | Fault::StuckTrainer { ms, .. }
            | Fault::FailingTrainer { ms, .. }
            | Fault::Pause { ms, .. } => *ms,
            Fault::OldHome { back_ms, .. } => *back_ms,
            _ => 0,
        }
    }

    /// The one node that it is about.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Fault::Drift { node, .. }
            | Fault::Jump { node, .. }
            | Fault::Crash { node, .. }
            | Fault::Freeze { node, .. }
            | Fault::FailingWrites { node, .. }
            | Fault::FailedRecord { node }
            | Fault::FullDisk { node, .. }
            | Fault::SlowTrainer { node, .. }
            | Fault::StuckTrainer { node, .. }
            | Fault::FailingTrainer { node, .. }
            | Fault::Pause { node, .. }
            | Fault::ComesLate { node }
            | Fault::Leave { node }
            | Fault::DeadHome { node, .. }
            | Fault::OldHome { node, .. }
            | Fault::Lies { node, .. } => Some(*node),
            Fault::SlowDisk { node, .. } => *node,
            _ => None,
        }
    }

    /// Whether a run can't count on this node afterwards, however calm it is.
    fn takes_away(&self) -> bool {
        matches!(self, Fault::Leave { .. } | Fault::DeadHome { .. } | Fault::OldHome { .. } | Fault::Lies { .. })
    }

    /// Whether a member may say what it may not.
    fn makes_a_liar(&self) -> bool {
        match self {
            Fault::OldHome { .. } => true,
            Fault::Lies { how, .. } => *how != Hostility::Stranger,
            _ => false,
        }
    }

    /// What it makes of the network.
    pub(super) fn bear_on(&self, network: &mut Network) {
        match self {
            Fault::Loss { probability, .. } => network.loss = network.loss.max(*probability),
            Fault::Duplicate { probability, .. } => network.duplicate = network.duplicate.max(*probability),
            Fault::Late { probability, late_ms, .. } => network.slow = (*probability, *late_ms),
            Fault::Latency { latency_ms, .. } => network.latency_ms = *latency_ms,
            Fault::Bandwidth { bytes_per_ms, .. } => network.bytes_per_ms = *bytes_per_ms,
            _ => {}
        }
    }

    /// What it makes of a node's disk and trainer.
    pub(super) fn weaken(&self, node: usize, health: &mut Health) {
        if self.node().is_some_and(|n| n != node) {
            return;
        }
        match self {
            Fault::SlowDisk { write_ms, .. } => health.disk_ms = *write_ms,
            Fault::FailingWrites { probability, .. } => health.fail_write = *probability,
            Fault::FullDisk { .. } => health.is_full = true,
            Fault::SlowTrainer { train_ms, .. } => health.trainer = Trainer::Takes(*train_ms),
            Fault::StuckTrainer { .. } => health.trainer = Trainer::Hangs,
            Fault::FailingTrainer { .. } => health.trainer = Trainer::Fails((20, 500)),
            _ => {}
        }
    }
}

/// A fault and when it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its number in the plan that was drawn.
    pub number: usize,
    /// In virtual milliseconds from the beginning.
    pub at_ms: u64,
    /// The fault.
    pub fault: Fault,
}

/// Whether nodes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liars {
    /// None does, and nobody comes with an old copy of its own home.
    Never,
    /// In some worlds.
    Sometimes,
    /// In every world.
    Always,
}

/// What worlds are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The fewest nodes.
    pub nodes_min: usize,
    /// The most nodes. Most worlds have few.
    pub nodes_max: usize,
    /// Whether nodes lie.
    pub liars: Liars,
}

impl Default for Range {
    fn default() -> Self {
        Self { nodes_min: 3, nodes_max: 200, liars: Liars::Sometimes }
    }
}

/// A world that can be lived, again and again the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// Where all that is not planned comes from: latencies, keys, what a crash leaves of a write.
    pub stream: u64,
    /// Nodes that were drawn.
    pub nodes: usize,
    /// Those of them that exist.
    pub present: BTreeSet<usize>,
    /// Nodes that a founding needs.
    pub min_nodes: usize,
    /// Rounds of the run.
    pub rounds: u64,
    /// C of FedAvg.
    pub fraction: f64,
    /// Bytes of the model.
    pub model_bytes: u64,
    /// How long training takes.
    pub train_ms: (u64, u64),
    /// When all is healed.
    pub heal_ms: u64,
    /// What goes wrong, by time.
    pub faults: Vec<Planned>,
}

/// The longest round of a world.
pub(super) const ROUND_TIMEOUT_MS: u64 = 8_000;

/// Members below which nothing is promised of a world with one that lies.
const NODES_BESIDE_A_LIAR: usize = 4;

impl Plan {
    /// The world of a seed.
    pub fn draw(seed: u64, range: Range) -> Plan {
        Drawing::new(seed, range).draw()
    }

    /// The world with only these of its faults and nodes, and with other chances if `stream` is another.
    pub fn only(&self, faults: &BTreeSet<usize>, present: &BTreeSet<usize>, stream: u64) -> Plan {
        let is_kept =
            |p: &&Planned| faults.contains(&p.number) && p.fault.node().is_none_or(|node| present.contains(&node));
        let mut plan = Plan { stream, present: present.clone(), ..self.clone() };
        plan.faults = self.faults.iter().filter(is_kept).cloned().collect();
        plan.min_nodes = plan.min_nodes.min(plan.reliable()).max(1);
        plan
    }

    /// Nodes that are there in the end and honest.
    fn reliable(&self) -> usize {
        let gone: BTreeSet<usize> =
            self.faults.iter().filter(|p| p.fault.takes_away()).filter_map(|p| p.fault.node()).collect();
        self.present.difference(&gone).count()
    }

    /// Whether a run in this world is promised to go on once it is calm.
    pub fn is_fair(&self) -> bool {
        let has_liar = self.faults.iter().any(|p| p.fault.makes_a_liar());
        self.reliable() >= if has_liar { NODES_BESIDE_A_LIAR } else { 2 }
    }

    /// Whether nodes lie in it.
    pub fn has_liars(&self) -> bool {
        self.faults.iter().any(|p| p.fault.makes_a_liar() || matches!(p.fault, Fault::Lies { .. }))
    }

    /// Whether something goes on after the healing.
    pub(super) fn is_never_calm(&self) -> bool {
        self.faults.iter().any(|p| p.fault.lasts_ms() == LASTING)
    }

    pub(super) fn options(&self) -> SimOptions {
        SimOptions {
            min_nodes: self.min_nodes,
            fraction: self.fraction,
            model_bytes: self.model_bytes,
            train_ms: self.train_ms,
            round_timeout_ms: ROUND_TIMEOUT_MS,
            ..SimOptions::calm(self.nodes, self.rounds, self.stream)
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} nodes, founding with {}, {} rounds, C {}, healed after {} ms",
            self.present.len(),
            self.nodes,
            self.min_nodes,
            self.rounds,
            self.fraction,
            self.heal_ms
        )?;
        for Planned { number, at_ms, fault } in &self.faults {
            writeln!(f, "  {number:>3}. at {at_ms:>6} ms: {}: {fault:?}", fault.name())?;
        }
        Ok(())
    }
}

/// Nodes of a world whose messages and disks may be slow for ever.
const NODES_IN_BAD_WEATHER: usize = 12;

/// Draws one world.
struct Drawing {
    rng: Rng,
    range: Range,
    seed: u64,
    nodes: usize,
    span_ms: u64,
    /// Nodes that are not counted on.
    gone: BTreeSet<usize>,
    faults: Vec<(u64, Fault)>,
}

/// Faults that may come in any number at any time. Each world has some kinds of them only (swarm testing, Groce 2012): where
/// everything happens at once, much of it never happens in peace.
const KINDS: usize = 22;

impl Drawing {
    fn new(seed: u64, range: Range) -> Self {
        let rng = Rng::new(seed);
        Self { rng, range, seed, nodes: 0, span_ms: 0, gone: BTreeSet::new(), faults: Vec::new() }
    }

    fn draw(mut self) -> Plan {
        self.nodes = self.draw_nodes();
        let (rounds, intensity) = self.draw_length();
        self.span_ms = 6_000 + rounds * 2_500;
        self.draw_weather();
        self.draw_roles();
        let kinds: Vec<usize> = (0..KINDS).filter(|_| self.rng.chance(0.45)).collect();
        let number = (self.span_ms / 700 * intensity / 100) as usize;
        for _ in 0..number.max(1) {
            let kind = if kinds.is_empty() { self.rng.below(KINDS) } else { kinds[self.rng.below(kinds.len())] };
            let at_ms = self.rng.below(self.span_ms as usize) as u64;
            let fault = self.draw_fault(kind);
            self.faults.push((at_ms, fault));
        }
        self.faults.sort_by_key(|(at_ms, _)| *at_ms);
        self.into_plan(rounds)
    }

    fn into_plan(mut self, rounds: u64) -> Plan {
        let reliable = self.nodes - self.gone.len();
        let min_nodes = match self.rng.below(3) {
            0 => reliable,
            1 => reliable.min(3),
            _ => reliable.min(3) + self.rng.below(reliable - reliable.min(3) + 1),
        };
        // Where words and writes take seconds, for ever, only who trains quickly brings an update before a round's time is up.
        let is_slow = |fault: &Fault| match fault {
            Fault::Late { ms, .. } => *ms == LASTING,
            Fault::SlowDisk { write_ms: (_, most), ms, .. } => *ms == LASTING && *most > 1_000,
            _ => false,
        };
        let slowest_ms = match self.faults.iter().filter(|(_, fault)| is_slow(fault)).count() {
            0 | 1 => (4_000, 9_000),
            _ => (1_000, 3_000),
        };
        let faults = self.faults.into_iter().enumerate();
        let faults = faults.map(|(number, (at_ms, fault))| Planned { number, at_ms, fault }).collect();
        let rng = &mut self.rng;
        Plan {
            seed: self.seed,
            stream: self.seed,
            nodes: self.nodes,
            present: (0..self.nodes).collect(),
            min_nodes,
            rounds,
            fraction: [1.0, 1.0, 1.0, 0.5][rng.below(4)],
            model_bytes: [4_000, 40_000][rng.below(2)],
            train_ms: [(100, 900), (100, 900), (20, 60), slowest_ms][rng.below(4)],
            heal_ms: self.span_ms,
            faults,
        }
    }

    /// Mostly few nodes, now and then many: what goes wrong among many does among few, and that costs less.
    fn draw_nodes(&mut self) -> usize {
        let most = match self.rng.below(500) {
            0..=439 => 7,
            440..=489 => 12,
            490..=498 => 40,
            _ => self.range.nodes_max,
        };
        let least = match most {
            0..=12 => self.range.nodes_min,
            40 => 13,
            _ => 41,
        };
        let (min, max) = (self.range.nodes_min, self.range.nodes_max.max(self.range.nodes_min));
        let (least, most) = (least.clamp(min, max), most.clamp(min, max));
        self.rng.between((least as u64, most.max(least) as u64)) as usize
    }

    /// Rounds, and how many faults come in a while, in percent. Where there are many rounds, faults are rare.
    fn draw_length(&mut self) -> (u64, u64) {
        if self.nodes > 12 {
            return (self.rng.between((3, 6)), self.rng.between((5, 60)));
        }
        match self.rng.below(20) {
            0 => (self.rng.between((30, 120)), self.rng.between((3, 15))),
            1..=3 => (self.rng.between((12, 30)), self.rng.between((5, 60))),
            _ => (self.rng.between((3, 10)), self.rng.between((5, 130))),
        }
    }

    fn push(&mut self, at_ms: u64, fault: Fault) {
        self.faults.push((at_ms, fault));
    }

    /// What lasts, mild enough for a run to go on.
    fn draw_weather(&mut self) {
        let rng = &mut self.rng;
        let mut weather = Vec::new();
        match rng.below(4) {
            0 => {}
            1 => weather.push(Fault::Latency { latency_ms: (20, 120), ms: LASTING }),
            _ => weather.push(Fault::Latency { latency_ms: (1, 100), ms: LASTING }),
        }
        // Nor do hundreds where each of tens of thousands of words that they give each other may be lost.
        if rng.chance(0.4) && self.nodes <= 40 {
            weather.push(Fault::Loss { probability: 0.05, ms: LASTING });
        }
        if rng.chance(0.4) {
            weather.push(Fault::Duplicate { probability: 0.02, ms: LASTING });
        }
        // Dozens of nodes that must all answer in time hardly do where a third of all messages takes seconds.
        if self.nodes > NODES_IN_BAD_WEATHER {
            return weather.into_iter().for_each(|fault| self.push(0, fault));
        }
        match rng.below(4) {
            0 => weather.push(Fault::Late { probability: 0.2, late_ms: (200, 4_000), ms: LASTING }),
            1 => weather.push(Fault::Late { probability: 0.3, late_ms: (500, 5_000), ms: LASTING }),
            _ => {}
        }
        match rng.below(4) {
            0 => weather.push(Fault::SlowDisk { node: None, write_ms: (1, 200), ms: LASTING }),
            1 => weather.push(Fault::SlowDisk { node: None, write_ms: (100, 1_500), ms: LASTING }),
            _ => {}
        }
        weather.into_iter().for_each(|fault| self.push(0, fault));
    }

    /// Nodes that are special for a whole world: they lie, have old homes, come late, leave.
    fn draw_roles(&mut self) {
        let lies = match self.range.liars {
            Liars::Never => false,
            Liars::Sometimes => self.rng.chance(0.35),
            Liars::Always => true,
        };
        let how =
            [Hostility::Equivocates, Hostility::Replays, Hostility::Withholds, Hostility::Garbles, Hostility::Stranger];
        if lies && self.nodes > NODES_BESIDE_A_LIAR {
            let kind = self.rng.below(how.len() + 1);
            if let Some(node) = self.take_away(NODES_BESIDE_A_LIAR) {
                let back_ms = 500 + self.rng.below(20_000) as u64;
                match how.get(kind) {
                    Some(how) => self.push(0, Fault::Lies { node, how: *how }),
                    None => {
                        let at_ms = self.moment();
                        self.push(at_ms, Fault::OldHome { node, back_ms });
                    }
                }
            }
        }
        let least = if lies { NODES_BESIDE_A_LIAR } else { 3 };
        if lies
            && self.rng.chance(0.3)
            && let Some(node) = self.take_away(least)
        {
            self.push(0, Fault::Lies { node, how: Hostility::Stranger });
        }
        if self.rng.chance(0.12)
            && let Some(node) = self.take_away(least)
        {
            let rounds = self.rng.below(4) as u64;
            self.push(0, Fault::DeadHome { node, rounds });
        }
        if self.rng.chance(0.25)
            && let Some(node) = self.take_away(least)
        {
            let at_ms = self.moment();
            self.push(at_ms, Fault::Leave { node });
        }
        if self.rng.chance(0.3) {
            for _ in 0..1 + self.rng.below(self.nodes / 3 + 1) {
                let (at_ms, node) = (self.moment(), self.rng.below(self.nodes));
                let is_new = |(_, fault): &(u64, Fault)| fault.node() != Some(node);
                if self.faults.iter().all(is_new) {
                    self.push(at_ms, Fault::ComesLate { node });
                }
            }
        }
        // Two groups found apart, and meet.
        if self.nodes >= 6 && self.rng.chance(0.25) {
            let apart = (0..self.nodes / 2).collect();
            let ms = 4_000 + self.rng.below(8_000) as u64;
            self.push(0, Fault::Partition { apart, ms });
        }
    }

    fn moment(&mut self) -> u64 {
        self.rng.below(self.span_ms as usize) as u64
    }

    /// A node that is not counted on any more, if enough others are.
    fn take_away(&mut self, least: usize) -> Option<usize> {
        let node = self.rng.below(self.nodes);
        let is_spare = self.nodes - self.gone.len() > least && !self.gone.contains(&node);
        is_spare.then(|| {
            self.gone.insert(node);
            node
        })
    }

    fn group(&mut self) -> BTreeSet<usize> {
        match self.rng.below(3) {
            0 => [self.rng.below(self.nodes)].into(),
            _ => (0..self.nodes).filter(|_| self.rng.chance(0.5)).collect(),
        }
    }

    /// A while: mostly seconds, now and then long enough for an eviction.
    fn while_ms(&mut self) -> u64 {
        match self.rng.below(20) {
            0 => 60_000 + self.rng.below(60_000) as u64,
            1..=6 => self.rng.below(15_000) as u64,
            _ => self.rng.below(4_000) as u64,
        }
    }

    fn draw_fault(&mut self, kind: usize) -> Fault {
        let (node, ms) = (self.rng.below(self.nodes), self.while_ms());
        let rng = &mut self.rng;
        match kind {
            0 => Fault::Loss { probability: [0.1, 0.3, 0.7][rng.below(3)], ms },
            1 => Fault::Duplicate { probability: 0.3, ms },
            2 => Fault::Late { probability: [0.1, 0.5][rng.below(2)], late_ms: (100, 8_000), ms },
            3 => Fault::Latency { latency_ms: [(100, 300), (1, 900), (600, 1_200)][rng.below(3)], ms },
            4 => Fault::Bandwidth { bytes_per_ms: [1, 4, 20][rng.below(3)], ms },
            5 => Fault::Partition { apart: self.group(), ms },
            6 => Fault::OneWay { mute: self.group(), is_noticed: self.rng.chance(0.5), ms },
            7 => {
                let period_ms = [150, 700, 2_500, 7_000][rng.below(4)];
                Fault::Flapping { apart: self.group(), period_ms, ms: ms.clamp(1_000, 20_000) }
            }
            8 => Fault::Cut { a: node, b: (node + 1 + rng.below(self.nodes - 1)) % self.nodes, ms },
            9 => Fault::Drift { node, per_mille: [300, 900, 990, 1_010, 1_100, 3_000][rng.below(6)], ms: 4 * ms },
            10 => Fault::Jump { node, by_ms: [300, 2_000, 20_000, 3_600_000][rng.below(4)] },
            11 => Fault::Crash { node, down_ms: [0, 200, ms][rng.below(3)] },
            12 | 13 => {
                let moment = Moment::ALL[rng.below(Moment::ALL.len())];
                Fault::CrashIn {
                    moment,
                    after_ms: [0, rng.below(60) as u64, rng.below(1_000) as u64][rng.below(3)],
                    down_ms: [0, 200, ms][rng.below(3)],
                }
            }
            14 => Fault::CrashAll { down_ms: [0, ms][rng.below(2)] },
            15 => Fault::Freeze { node, ms: ms.min(30_000) },
            16 => {
                let moment = Moment::ALL[rng.below(Moment::ALL.len())];
                Fault::FreezeIn { moment, after_ms: rng.below(300) as u64, ms: 1_000 + rng.below(4_000) as u64 }
            }
            17 => {
                let write_ms = [(50, 400), (300, 3_000), (2_000, 9_000)][rng.below(3)];
                Fault::SlowDisk { node: Some(node), write_ms, ms }
            }
            18 if rng.chance(0.5) => Fault::FailingWrites { node, probability: [0.05, 0.4][rng.below(2)], ms },
            18 => Fault::FailedRecord { node },
            19 => Fault::FullDisk { node, ms },
            20 => Fault::SlowTrainer { node, train_ms: [(3_000, 6_000), (6_000, 20_000)][rng.below(2)], ms },
            _ => match rng.below(3) {
                0 => Fault::StuckTrainer { node, ms },
                1 => Fault::FailingTrainer { node, ms },
                _ => Fault::Pause { node, ms },
            },
        }
    }
}
