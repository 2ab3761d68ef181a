//! Chaos: worlds in which everything goes wrong that a plan says. No law may break, and once it is calm again the run must go
//! on, and end.

use std::collections::BTreeMap;
use std::fmt;

use crate::base::ids::Hash;
use crate::io::{Command, State};

use super::invariants::Violation;
use super::plan::{Fault, LASTING, Plan};
use super::tally::Tally;
use super::trap::{Blow, Trap};
use super::wires::{Block, BlockId};
use super::world::Sim;

/// Virtual time within which something is committed once a world is healed, whatever was before: an attempt may be stuck for
/// a round's timeout and `STUCK_MS`, the next ones find each other by and by, and whoever was cut off catches up.
pub const COMMIT_MS: u64 = 240_000;

/// The same where messages go on to be lost or late and disks to be slow: each exchange takes several tries.
pub const COMMIT_IN_BAD_WEATHER_MS: u64 = 900_000;

/// Virtual time within which a healed run ends: so much, and so much more a round.
const END_MS: (u64, u64) = (1_800_000, 60_000);

/// How often it is looked whether a world is at its end, in virtual time.
const LOOK_MS: u64 = 250;

/// How a world failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A promise was broken.
    Broken(Violation),
    /// Nothing was committed for so long after the healing.
    NoCommit {
        /// In virtual milliseconds.
        within_ms: u64,
        /// Where every node stood.
        stands: String,
    },
    /// The run did not end for so long after the healing.
    NoEnd {
        /// In virtual milliseconds.
        within_ms: u64,
        /// Where every node stood.
        stands: String,
    },
    /// A node that lied brought about a second truth, and nobody shows it.
    NotShown {
        /// Where every node stood.
        stands: String,
    },
}

impl Failure {
    /// Whether two failures are of one kind: the same law, in other words and at another time.
    pub fn is_like(&self, other: &Failure) -> bool {
        match (self, other) {
            (Failure::Broken(a), Failure::Broken(b)) => a.law() == b.law(),
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Broken(violation) => violation.fmt(f),
            Failure::NoCommit { within_ms, stands } => {
                write!(f, "nothing was committed within {within_ms} ms of virtual time after the healing\n{stands}")
            }
            Failure::NoEnd { within_ms, stands } => {
                write!(f, "the run did not end within {within_ms} ms of virtual time after the healing\n{stands}")
            }
            Failure::NotShown { stands } => write!(f, "a second truth came about, and nobody shows it\n{stands}"),
        }
    }
}

/// What came of a world.
#[derive(Debug, Clone)]
pub struct Life {
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// Rounds that were committed, of all chains.
    pub rounds: u64,
    /// Virtual time that it took.
    pub virtual_ms: u64,
    /// Virtual time from the healing to the next commit, where there was one to come.
    pub commit_ms: Option<u64>,
    /// Whether a node that lied brought about a second truth that was not promised against, and somebody showed it.
    pub second_truth: bool,
    /// A hash over all that happened: the same plan gives the same.
    pub trace: Hash,
    /// What befell it.
    pub tally: Tally,
}

/// Lets a planned world happen.
pub fn live(plan: &Plan) -> Life {
    live_with(plan, |_| {}).1
}

/// The same, with bugs planted in it; and the world afterwards.
pub(super) fn live_with(plan: &Plan, plant: impl Fn(&mut Sim)) -> (Sim, Life) {
    let mut sim = Sim::new(plan.options());
    plant(&mut sim);
    let mut story = Story { plan, sim, active: BTreeMap::new(), blocks: BTreeMap::new() };
    let mut commit_ms = None;
    let failure = story.tell(&mut commit_ms).err();
    let sim = story.sim;
    let life = Life {
        failure,
        rounds: sim.decided(),
        virtual_ms: sim.now_ms(),
        commit_ms,
        second_truth: sim.has_second_truth(),
        trace: sim.trace(),
        tally: sim.tally().clone(),
    };
    (sim, life)
}

/// A plan as it happens.
struct Story<'a> {
    plan: &'a Plan,
    sim: Sim,
    /// The faults that go on, by their place in the plan.
    active: BTreeMap<usize, &'a Fault>,
    /// What they put in the way.
    blocks: BTreeMap<usize, BlockId>,
}

/// What the plan has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    /// A flapping partition changes.
    Flap,
    End,
}

impl<'a> Story<'a> {
    fn tell(&mut self, commit_ms: &mut Option<u64>) -> Result<(), Failure> {
        self.prepare();
        for (at_ms, place, step) in self.timeline() {
            self.pass(at_ms.saturating_sub(self.sim.now_ms()))?;
            self.take(place, step);
        }
        self.pass(self.plan.heal_ms.saturating_sub(self.sim.now_ms()))?;
        self.heal();
        if self.sim.has_second_truth() {
            // What members that lie tore in two goes no further.
            self.pass(COMMIT_MS)?;
        } else {
            *commit_ms = self.goes_on()?;
            self.ends()?;
        }
        match self.sim.lies_are_shown() {
            true => Ok(()),
            false => Err(Failure::NotShown { stands: self.sim.describe() }),
        }
    }

    /// All steps by time; what begins first comes first.
    fn timeline(&self) -> Vec<(u64, usize, Step)> {
        let mut steps = Vec::new();
        for (place, planned) in self.plan.faults.iter().enumerate() {
            let (from, lasts) = (planned.at_ms, planned.fault.lasts_ms());
            let to = from.saturating_add(lasts);
            steps.push((from, place, Step::Begin));
            if let Fault::Flapping { period_ms, .. } = planned.fault {
                let flaps = (from..to).step_by(period_ms.max(1) as usize).skip(1);
                steps.extend(flaps.map(|at_ms| (at_ms, place, Step::Flap)));
            }
            if lasts > 0 {
                steps.push((to, place, Step::End));
            }
        }
        steps.retain(|(at_ms, ..)| *at_ms < self.plan.heal_ms);
        steps.sort_by_key(|(at_ms, place, _)| (*at_ms, *place));
        steps
    }

    /// Roles are given before anybody starts, and those who are there from the beginning start.
    fn prepare(&mut self) {
        let mut late = Vec::new();
        for planned in &self.plan.faults {
            match planned.fault {
                Fault::Lies { node, how } => self.sim.turn(node, how),
                Fault::DeadHome { node, rounds } => self.sim.strand(node, rounds, self.plan.stream),
                Fault::ComesLate { node } => late.push(node),
                _ => continue,
            }
        }
        for node in self.plan.present.iter().filter(|n| !late.contains(n)) {
            self.sim.start(*node);
        }
    }

    fn pass(&mut self, ms: u64) -> Result<(), Failure> {
        self.sim.run_until(ms, |_| false);
        self.unbroken()
    }

    fn unbroken(&self) -> Result<(), Failure> {
        self.sim.violation().map_or(Ok(()), |violation| Err(Failure::Broken(violation.clone())))
    }

    fn take(&mut self, place: usize, step: Step) {
        let fault = &self.plan.faults[place].fault;
        match step {
            Step::Begin => {
                self.sim.tally_mut().fault(fault.name());
                if fault.lasts_ms() > 0 {
                    self.active.insert(place, fault);
                }
                self.begin(place, fault);
            }
            Step::Flap => match self.blocks.remove(&place) {
                Some(block) => self.sim.unblock(block),
                None => self.begin(place, fault),
            },
            Step::End => {
                self.active.remove(&place);
                if let Some(block) = self.blocks.remove(&place) {
                    self.sim.unblock(block);
                }
                match fault {
                    Fault::OldHome { node, .. } => drop(self.sim.roll_back(*node)),
                    Fault::Drift { node, .. } => self.sim.set_clock_rate(*node, 1_000),
                    Fault::Pause { node, .. } => self.sim.command(*node, Command::Unpause),
                    _ => self.set_conditions(),
                }
            }
        }
    }

    fn begin(&mut self, place: usize, fault: &Fault) {
        let sides = |apart: &std::collections::BTreeSet<usize>| {
            Block::Sides((0..self.plan.nodes).map(|n| u8::from(apart.contains(&n))).collect())
        };
        let block = match fault {
            Fault::Partition { apart, .. } | Fault::Flapping { apart, .. } => Some((sides(apart), true)),
            Fault::Cut { a, b, .. } => Some((Block::Pair(*a, *b), true)),
            Fault::OneWay { mute, is_noticed, .. } => Some((Block::Mute(mute.clone()), *is_noticed)),
            _ => None,
        };
        if let Some((block, is_noticed)) = block {
            let id = self.sim.block(block, is_noticed);
            self.blocks.insert(place, id);
        }
        match fault {
            Fault::Drift { node, per_mille, .. } => self.sim.set_clock_rate(*node, *per_mille),
            Fault::Jump { node, by_ms } => self.sim.jump_clock(*node, *by_ms),
            Fault::Crash { node, down_ms } => self.sim.kill(*node, *down_ms),
            Fault::CrashAll { down_ms } => self.plan.present.iter().for_each(|n| self.sim.kill(*n, *down_ms)),
            Fault::CrashIn { moment, after_ms, down_ms } => {
                let blow = Blow::Crash { down_ms: *down_ms };
                self.sim.set_trap(Trap { moment: *moment, after_ms: *after_ms, blow });
            }
            Fault::Freeze { node, ms } => self.sim.freeze(*node, *ms),
            Fault::FreezeIn { moment, after_ms, ms } => {
                let blow = Blow::Freeze { ms: *ms };
                self.sim.set_trap(Trap { moment: *moment, after_ms: *after_ms, blow });
            }
            Fault::FailedRecord { node } => self.sim.fail_record(*node, 0),
            Fault::ComesLate { node } => self.sim.start_again(*node),
            Fault::Leave { node } => self.sim.command(*node, Command::Leave),
            Fault::Pause { node, .. } => self.sim.command(*node, Command::Pause),
            Fault::OldHome { node, .. } => self.sim.copy_home(*node),
            _ => self.set_conditions(),
        }
    }

    /// The network and the nodes as the faults that go on make them.
    fn set_conditions(&mut self) {
        let options = self.plan.options();
        let mut network = options.network();
        self.active.values().for_each(|fault| fault.bear_on(&mut network));
        self.sim.set_network(network);
        for node in 0..self.plan.nodes {
            let mut health = options.health();
            self.active.values().for_each(|fault| fault.weaken(node, &mut health));
            self.sim.set_health(node, health);
        }
    }

    fn heal(&mut self) {
        self.active.retain(|_, fault| fault.lasts_ms() == LASTING);
        self.blocks.clear();
        self.set_conditions();
        self.sim.calm_down();
        for node in &self.plan.present {
            self.sim.start_again(*node);
            self.sim.command(*node, Command::Unpause);
        }
    }

    /// Waits for the next commit. How long it took; `None` if the run is over already.
    fn goes_on(&mut self) -> Result<Option<u64>, Failure> {
        let (began_ms, decided) = (self.sim.now_ms(), self.sim.decided());
        let within_ms = if self.plan.is_never_calm() { COMMIT_IN_BAD_WEATHER_MS } else { COMMIT_MS };
        loop {
            let gone_ms = self.sim.now_ms() - began_ms;
            if self.sim.decided() > decided {
                return Ok(Some(gone_ms));
            }
            if self.sim.all_ended() || self.sim.has_second_truth() {
                return Ok(None);
            }
            if gone_ms >= within_ms {
                return Err(Failure::NoCommit { within_ms, stands: self.sim.describe() });
            }
            self.resume();
            self.sim.run_until(LOOK_MS, |s| s.decided() > decided);
            self.unbroken()?;
        }
    }

    fn ends(&mut self) -> Result<(), Failure> {
        let within_ms = END_MS.0 + self.plan.rounds * END_MS.1;
        let end_ms = self.sim.now_ms() + within_ms;
        while !self.sim.all_ended() && !self.sim.has_second_truth() {
            if self.sim.now_ms() >= end_ms {
                return Err(Failure::NoEnd { within_ms, stands: self.sim.describe() });
            }
            self.resume();
            self.pass(LOOK_MS)?;
        }
        for _ in (0..self.plan.nodes).filter(|n| self.sim.is_left_behind(*n)).collect::<Vec<_>>() {
            self.sim.tally_mut().fault("member left behind by a founder that lied");
        }
        Ok(())
    }

    /// A run that stopped since training failed everywhere is resumed, as people do who have mended that.
    fn resume(&mut self) {
        let halted = self.plan.present.iter().find(|n| self.sim.state(**n) == Some(State::Halted));
        halted.into_iter().for_each(|node| self.sim.command(*node, Command::Resume));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::SimOptions;
    use super::super::plan::{Liars, Range};
    use super::super::scenarios::must;
    use super::super::shrink::shrink;
    use super::*;
    use crate::base::plant::{self, plant};
    use crate::io::Event;

    /// Small worlds, in which nobody lies.
    pub(in super::super) const HONEST: Range = Range { nodes_min: 3, nodes_max: 7, liars: Liars::Never };

    /// Small worlds, in each of which somebody lies.
    pub(in super::super) const HOSTILE: Range = Range { nodes_min: 5, nodes_max: 7, liars: Liars::Always };

    /// Tries of a test to make a failing world small.
    const TRIES_MAX: u32 = 200;

    /// A few worlds, the same in every run; the example `chaos` lives as many as one likes.
    fn survives(range: Range, seeds: std::ops::Range<u64>) {
        let (mut rounds, mut worlds) = (0, 0);
        for seed in seeds {
            let plan = Plan::draw(seed, range);
            let life = live(&plan);
            if let Some(failure) = life.failure {
                let small = shrink(&plan, &failure, TRIES_MAX, live);
                panic!(
                    "seed {seed}: {failure}\nand smaller, after {} tries:\n{}{}",
                    small.tried, small.plan, small.failure
                );
            }
            rounds += life.rounds;
            worlds += 1;
        }
        println!("{worlds} worlds, {rounds} rounds");
    }

    #[test]
    fn chaos_breaks_no_promise_and_ends() {
        survives(HONEST, 0..100);
    }

    #[test]
    fn chaos_with_a_node_that_lies_breaks_no_promise_and_ends() {
        survives(HOSTILE, 0..60);
    }

    #[test]
    fn a_seed_repeats_a_whole_world() {
        let trace = |seed| live(&Plan::draw(seed, Range { nodes_max: 9, ..Range::default() })).trace;
        assert_eq!(trace(11), trace(11));
        assert_ne!(trace(11), trace(12));
    }

    #[test]
    fn a_failing_world_is_made_small() {
        let _planted = plant(plant::Fault::CommitOnTooFew);
        let worlds = (0..8).map(|seed| Plan::draw(seed, HONEST));
        let found = worlds.filter_map(|plan| live(&plan).failure.map(|failure| (plan, failure)));
        let (plan, failure) = found.max_by_key(|(plan, _)| plan.faults.len()).expect("chaos finds it");
        let small = shrink(&plan, &failure, TRIES_MAX, live);
        println!(
            "{} faults, of which {} are left after {} tries",
            plan.faults.len(),
            small.plan.faults.len(),
            small.tried
        );
        println!("{}{}", small.plan, small.failure);
        assert!(small.failure.is_like(&failure));
        assert!(small.plan.faults.len() <= 3 && small.plan.present.len() <= 3, "{}", small.plan);
        let again = live(&small.plan).failure;
        assert_eq!(again, Some(small.failure), "the small world fails again");
    }

    /// Two groups meet on a lossy network while neither has a round.
    fn groups_meet(seed: u64, sizes: (usize, usize), loss: f64) -> Sim {
        let n = sizes.0 + sizes.1;
        let options = SimOptions {
            min_nodes: 3,
            train_ms: (4_000, 9_000),
            loss,
            latency_ms: (1, 150),
            slow: (0.1, (200, 3_000)),
            disk_ms: (1, 60),
            ..SimOptions::calm(n, 2, seed)
        };
        let mut sim = Sim::new(options);
        let side: Vec<u8> = (0..n).map(|i| u8::from(i >= sizes.0)).collect();
        sim.partition(&side);
        sim.start_all();
        sim.run_until(60_000, |s| (0..n).all(|i| s.round(i) == 1));
        sim.heal();
        sim
    }

    #[test]
    fn groups_that_meet_on_a_bad_network_enter_no_chain_twice_and_leave_nobody_behind() {
        let mut yields = 0;
        for seed in 0..60 {
            let mut sim = groups_meet(seed, (5, 3), 0.1);
            must(&mut sim, 1_800_000, seed, "the end of the runs", |s| {
                // Groups that had a round each go on as two runs: a fork, and no violation.
                (0..8).all(|n| s.chain(n).is_some_and(|c| c.is_closed()))
            });
            for node in 0..8 {
                let founded = sim.events(node).iter().filter_map(|e| match e {
                    Event::Founded { genesis, .. } | Event::Following { genesis } => Some(*genesis),
                    _ => None,
                });
                let founded: Vec<_> = founded.collect();
                let distinct: std::collections::BTreeSet<_> = founded.iter().collect();
                assert_eq!(distinct.len(), founded.len(), "seed {seed}: node {node} entered a chain twice");
            }
            yields += (0..8).filter(|n| sim.events(*n).iter().any(|e| matches!(e, Event::Yielded { .. }))).count();
        }
        assert!(yields > 0, "no world showed a yield");
    }
}
