//! Chaos: worlds in which everything goes wrong at random, drawn from a seed. No law may break, and once it is calm again
//! the run must end.

use super::scenarios::must;
use super::{Hostility, Sim, SimOptions, Violation};
use crate::io::{Command, Event, State};
use crate::paxos::message::Phase;

/// What a world is made of; a seed draws it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) nodes: usize,
    min_nodes: usize,
    /// Of the nodes, those that come later.
    late: usize,
    /// Whether the nodes begin in two groups that don't see each other.
    apart: bool,
    /// Whether members leave.
    leaves: bool,
    /// The last node lies, if any does.
    hostility: Option<Hostility>,
    fail_write: f64,
    loss: f64,
    duplicate: f64,
    slow: (f64, (u64, u64)),
    disk_ms: (u64, u64),
    model_bytes: u64,
    train_ms: (u64, u64),
    steps: usize,
}

/// Messages that arrive when nobody expects them any more; and disks on which a write takes so long that a crash often
/// loses it.
const STORMS: [Storm; 2] = [((0.2, (200, 4_000)), (1, 200)), ((0.3, (500, 5_000)), (100, 1_500))];

/// How many messages are slow and how slow, and how long a write takes, in milliseconds.
type Storm = ((f64, (u64, u64)), (u64, u64));

impl Weather {
    /// The world of a seed: honest nodes, among which some come later, leave, or begin apart.
    pub(super) fn honest(seed: u64) -> Self {
        let (slow, disk_ms) = STORMS[(seed % 2) as usize];
        let nodes = [3, 5, 4, 6][(seed / 2 % 4) as usize];
        Self {
            nodes,
            min_nodes: 3,
            late: if seed % 5 == 3 { nodes / 3 } else { 0 },
            apart: seed % 7 == 4 && nodes >= 6,
            leaves: seed % 3 == 1 && nodes > 3,
            hostility: None,
            fail_write: if seed % 4 == 3 { 0.02 } else { 0.0 },
            loss: 0.05,
            duplicate: 0.02,
            slow,
            disk_ms,
            model_bytes: [4_000, 40_000][(seed / 8 % 2) as usize],
            train_ms: if seed % 7 == 4 { (4_000, 9_000) } else { (100, 900) },
            steps: 60,
        }
    }

    /// A world with one node that lies, without whom the others can found. With six members any two majorities share an
    /// honest one; with five a lie may bring about a second truth, which must then be shown.
    pub(super) fn hostile(seed: u64) -> Self {
        let kinds = [Hostility::Stranger, Hostility::Equivocates, Hostility::Replays, Hostility::Withholds];
        let nodes = [5, 6][(seed / 4 % 2) as usize];
        Self {
            nodes,
            min_nodes: nodes - 1,
            late: 0,
            apart: false,
            leaves: false,
            hostility: Some(kinds[(seed % 4) as usize]),
            fail_write: 0.0,
            ..Self::honest(seed / 8)
        }
    }

    fn options(&self, rounds: u64, seed: u64) -> SimOptions {
        SimOptions {
            loss: self.loss,
            duplicate: self.duplicate,
            latency_ms: (1, 100),
            slow: self.slow,
            disk_ms: self.disk_ms,
            fail_write: self.fail_write,
            train_ms: self.train_ms,
            model_bytes: self.model_bytes,
            round_timeout_ms: 8_000,
            min_nodes: self.min_nodes,
            ..SimOptions::calm(self.nodes, rounds, seed)
        }
    }
}

/// Crashes, restarts, partitions, loss, processes that stand still, nodes that come, go and lie, at random.
pub(super) fn chaos(weather: Weather, rounds: u64, seed: u64, plant: impl Fn(&mut Sim)) -> Result<Sim, Violation> {
    let mut sim = Sim::new(weather.options(rounds, seed));
    plant(&mut sim);
    chaos_in(&mut sim, weather)?;
    Ok(sim)
}

fn chaos_in(sim: &mut Sim, weather: Weather) -> Result<(), Violation> {
    let liar = weather.hostility.map(|hostility| {
        sim.turn(weather.nodes - 1, hostility);
        weather.nodes - 1
    });
    if weather.apart {
        let side: Vec<u8> = (0..weather.nodes).map(|n| u8::from(n >= weather.nodes / 2)).collect();
        sim.partition(&side);
    }
    (0..weather.nodes - weather.late).for_each(|n| sim.start(n));
    let mut leavers = 0;
    for step in 0..weather.steps {
        let pause = sim.rng().below(1_200) as u64;
        sim.run_until(pause, |_| false);
        let node = sim.rng().below(weather.nodes);
        if Some(node) != liar {
            stir(sim, weather, node, step, &mut leavers);
        }
        if let Some(violation) = sim.violation() {
            return Err(violation.clone());
        }
    }
    sim.heal();
    sim.start_all();
    for node in 0..weather.nodes {
        sim.fill_disk(node, false);
    }
    sim.run_until(1_800_000, Sim::all_ended);
    match sim.violation() {
        Some(violation) => Err(violation.clone()),
        None => Ok(()),
    }
}

fn stir(sim: &mut Sim, weather: Weather, node: usize, step: usize, leavers: &mut usize) {
    // Nodes that begin apart need the time to found.
    let calm = weather.apart && step < 12;
    match sim.rng().below(15) {
        0..=1 if !calm => sim.crash(node),
        2..=4 => sim.start_all(),
        5 if !calm => {
            let side: Vec<u8> = (0..weather.nodes).map(|_| sim.rng().below(2) as u8).collect();
            sim.partition(&side);
        }
        6..=7 if !calm => sim.heal(),
        8..=9 => {
            // Whoever coordinates stands still, and wakes up when others may have gone on without it.
            if sim.rng().below(2) == 0 {
                sim.run_until(2_000, |s| s.coordinator().is_some_and(|(_, phase)| phase == Phase::Proposing));
            }
            let sleeper = sim.coordinator().map_or(node, |(n, _)| n);
            let ms = 1_000 + sim.rng().below(4_000) as u64;
            sim.freeze(sleeper, ms);
        }
        10..=11 => {
            // Killed in the middle of a vote and back at once.
            sim.run_until(3_000, |s| s.writes_vote().is_some());
            let voter = sim.writes_vote().unwrap_or(node);
            let moment = sim.rng().below(60) as u64;
            sim.run_until(moment, |_| false);
            sim.crash(voter);
            sim.start(voter);
        }
        12 if weather.leaves && *leavers == 0 && sim.state(node) == Some(State::Member) => {
            *leavers += 1;
            sim.command(node, Command::Leave);
        }
        13 if weather.fail_write > 0.0 => {
            sim.fill_disk(node, true);
            let pause = sim.rng().below(3_000) as u64;
            sim.run_until(pause, |_| false);
            sim.fill_disk(node, false);
        }
        _ => {}
    }
}

/// Seeds of a chaos test; more of them with the environment variable `PACELINE_CHAOS_SEEDS`, from
/// `PACELINE_CHAOS_FROM` on.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let from = number("PACELINE_CHAOS_FROM").unwrap_or(0);
    from..from + number("PACELINE_CHAOS_SEEDS").unwrap_or(default)
}

fn survives(weather: impl Fn(u64) -> Weather, seeds: std::ops::Range<u64>) {
    let (mut rounds, mut worlds) = (0, 0);
    for seed in seeds {
        let weather = weather(seed);
        let sim = chaos(weather, 6, seed, |_| {}).unwrap_or_else(|violation| panic!("{violation}\n{weather:?}"));
        assert!(sim.all_ended(), "seed {seed}: the run does not end\n{weather:?}\n{}", sim.describe());
        assert!(sim.lies_are_shown(), "seed {seed}: nobody shows the lie\n{weather:?}\n{}", sim.describe());
        rounds += (0..weather.nodes).map(|n| sim.round(n)).max().unwrap_or(0);
        worlds += 1;
    }
    println!("{worlds} worlds, {rounds} rounds");
}

#[test]
fn chaos_breaks_no_promise_and_ends() {
    survives(Weather::honest, seeds(120));
}

#[test]
fn chaos_with_a_node_that_lies_breaks_no_promise_and_ends() {
    survives(Weather::hostile, seeds(80));
}

#[test]
fn a_seed_repeats_a_whole_world() {
    let trace = |seed| {
        let sim = chaos(Weather::honest(seed), 4, seed, |_| {}).unwrap_or_else(|violation| panic!("{violation}"));
        (sim.now_ms(), sim.head(0), sim.events(1).len())
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
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
    for seed in seeds(60) {
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
