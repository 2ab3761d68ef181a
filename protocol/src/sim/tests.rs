//! The scenarios. Each runs for several seeds; a failure prints the seed.

use std::ops::Range;

use super::{Sim, SimOptions, Violation};
use crate::core::Fault;
use crate::ids::Time;
use crate::machine::{Command, Event, State};
use crate::message::Phase;
use crate::record::Kind;
use crate::roster::Part;

/// Waits for something, and fails with the seed if it does not come, or if a promise is broken on the way.
fn must(sim: &mut Sim, within_ms: u64, seed: u64, what: &str, done: impl FnMut(&Sim) -> bool) {
    if !sim.run_until(within_ms, done) {
        if let Some(violation) = sim.violation() {
            panic!("{violation}");
        }
        panic!("seed {seed}: {what} did not come within {within_ms} ms of virtual time\n{}", sim.describe());
    }
}

fn start(options: SimOptions) -> Sim {
    let mut sim = Sim::new(options);
    sim.start_all();
    sim
}

/// Virtual time within which a run must end whatever happens in it once.
fn patience_ms(rounds: u64) -> u64 {
    120_000 + rounds * 10_000
}

fn end(sim: &mut Sim, rounds: u64, seed: u64) {
    must(sim, patience_ms(rounds), seed, "the end of the run", Sim::all_closed);
    assert_eq!(sim.chains().len(), 1, "seed {seed}");
    assert_eq!(sim.trained(0), rounds, "seed {seed}");
}

/// Runs until `node` is in `round`.
fn reach(sim: &mut Sim, node: usize, round: u64, seed: u64) {
    must(sim, patience_ms(round), seed, "the round", |s| s.round(node) >= round);
}

fn fifty_rounds(nodes: usize, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions::calm(nodes, 50, seed));
        end(&mut sim, 50, seed);
    }
}

#[test]
fn three_nodes_finish_fifty_rounds() {
    fifty_rounds(3, 0..10);
}

#[test]
fn five_nodes_finish_fifty_rounds() {
    fifty_rounds(5, 0..5);
}

#[test]
fn fifty_nodes_finish_fifty_rounds() {
    fifty_rounds(50, 0..1);
}

#[test]
fn a_calm_round_needs_one_attempt() {
    let mut sim = start(SimOptions::calm(5, 20, 7));
    end(&mut sim, 20, 7);
    let chain = sim.machine(0).and_then(|m| m.chain()).expect("the run ended");
    assert!(chain.records().iter().all(|c| c.record.attempt == 0), "{:?}", sim.describe());
}

/// The coordinator is killed in `phase` of round 3 and stays down: the others commit without it, each in time, and
/// nobody trains twice. Started again, it is back within seconds.
fn coordinator_dies(nodes: usize, phase: Phase, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions::calm(nodes, 6, seed));
        let seen = |s: &Sim| s.coordinator().filter(|(n, p)| *p == phase && s.round(*n) == 3).map(|(n, _)| n);
        must(&mut sim, 120_000, seed, "the phase", |s| seen(s).is_some());
        let victim = seen(&sim).expect("it was just seen");
        let survivor = (victim + 1) % nodes;
        let head = sim.head(survivor);
        sim.crash(victim);
        must(&mut sim, 15_000, seed, "a commit without it", |s| s.head(survivor) != head);
        for node in (0..nodes).filter(|n| *n != victim) {
            assert!(sim.trainings(node, 3) <= 1, "seed {seed}: node {node} trained twice");
        }
        reach(&mut sim, survivor, 5, seed);
        sim.start(victim);
        let round = sim.round(survivor);
        must(&mut sim, 10_000, seed, "the killed node's return", |s| s.round(victim) >= round);
        end(&mut sim, 6, seed);
    }
}

#[test]
fn a_coordinator_that_dies_while_it_collects_costs_one_attempt() {
    coordinator_dies(3, Phase::Collecting, 0..20);
    coordinator_dies(5, Phase::Collecting, 0..10);
}

#[test]
fn a_coordinator_that_dies_while_it_averages_costs_one_attempt() {
    coordinator_dies(3, Phase::Aggregating, 0..20);
    coordinator_dies(5, Phase::Aggregating, 0..10);
}

#[test]
fn a_coordinator_that_dies_with_its_proposal_out_costs_one_attempt() {
    coordinator_dies(3, Phase::Proposing, 0..20);
    coordinator_dies(5, Phase::Proposing, 0..10);
}

#[test]
fn a_coordinator_of_fifty_dies_in_every_phase() {
    for phase in [Phase::Collecting, Phase::Aggregating, Phase::Proposing] {
        coordinator_dies(50, phase, 0..1);
    }
}

/// Everybody is killed at a random moment and started again.
fn all_restart(nodes: usize, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions::calm(nodes, 6, seed));
        reach(&mut sim, 0, 2, seed);
        for _ in 0..3 {
            let pause = sim.dice(3_000) as u64;
            sim.run_until(pause, |_| false);
            (0..nodes).for_each(|n| sim.crash(n));
            sim.run_until(500, |_| false);
            sim.start_all();
        }
        end(&mut sim, 6, seed);
    }
}

#[test]
fn a_run_survives_that_everybody_restarts_at_once() {
    all_restart(3, 0..20);
    all_restart(5, 0..10);
    all_restart(50, 0..1);
}

/// A minority is cut off: it commits nothing, the majority goes on, and afterwards all hold one chain.
fn partition_heals(nodes: usize, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions::calm(nodes, 8, seed));
        reach(&mut sim, 0, 3, seed);
        let pause = sim.dice(2_000) as u64;
        sim.run_until(pause, |_| false);
        let minority = (nodes - 1) / 2;
        let side: Vec<u8> = (0..nodes).map(|n| u8::from(n < minority)).collect();
        sim.partition(&side);
        sim.run_until(200, |_| false);
        let cut_off = sim.round(0);
        let last = nodes - 1;
        let round = sim.round(last);
        must(&mut sim, 60_000, seed, "progress of the majority", |s| s.round(last) >= round + 2);
        // What was decided as the cut came may still be known on the minority's side; nothing after it.
        assert!(sim.round(0) <= cut_off + 1, "seed {seed}: a minority went on");
        sim.heal();
        end(&mut sim, 8, seed);
    }
}

#[test]
fn a_minority_commits_nothing_and_catches_up() {
    partition_heals(3, 0..20);
    partition_heals(5, 0..10);
    partition_heals(50, 0..1);
}

#[test]
fn without_a_quorum_nothing_is_committed_until_it_is_back() {
    for seed in 0..10 {
        let mut sim = start(SimOptions { min_nodes: 4, ..SimOptions::calm(4, 6, seed) });
        reach(&mut sim, 0, 3, seed);
        sim.partition(&[0, 0, 1, 1]);
        sim.run_until(500, |_| false);
        let rounds: Vec<u64> = (0..4).map(|n| sim.round(n)).collect();
        let most = rounds.iter().max().copied().unwrap_or_default();
        sim.run_until(30_000, |_| false);
        assert!((0..4).all(|n| sim.round(n) <= most), "seed {seed}");
        sim.heal();
        end(&mut sim, 6, seed);
    }
}

fn lossy(nodes: usize, loss: f64, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions { loss, latency_ms: (1, 80), ..SimOptions::calm(nodes, 10, seed) });
        must(&mut sim, 1_200_000, seed, "the end of the run", Sim::all_closed);
        assert_eq!(sim.chains().len(), 1, "seed {seed}");
    }
}

#[test]
fn lost_messages_cost_time_alone() {
    lossy(3, 0.2, 0..20);
    lossy(5, 0.2, 0..10);
    lossy(50, 0.1, 0..1);
}

/// How rough a world is.
#[derive(Clone, Copy)]
struct Storm {
    slow: (f64, (u64, u64)),
    disk_ms: (u64, u64),
}

/// Messages that arrive when nobody expects them any more.
const ROUGH: Storm = Storm { slow: (0.2, (200, 4_000)), disk_ms: (1, 200) };

/// And disks on which a write takes so long that a crash often loses it.
const SLOW_DISKS: Storm = Storm { slow: (0.3, (500, 5_000)), disk_ms: (100, 1_500) };

/// Crashes, restarts, partitions, loss, and processes that stand still, at random.
fn chaos(nodes: usize, rounds: u64, seed: u64, storm: Storm, fault: Option<Fault>) -> Result<Sim, Violation> {
    let mut sim = Sim::new(SimOptions {
        loss: 0.05,
        latency_ms: (1, 100),
        slow: storm.slow,
        disk_ms: storm.disk_ms,
        train_ms: (100, 900),
        round_timeout_ms: 8_000,
        ..SimOptions::calm(nodes, rounds, seed)
    });
    fault.into_iter().for_each(|f| sim.break_on_purpose(f));
    sim.start_all();
    for _ in 0..60 {
        let pause = sim.dice(1_200) as u64;
        sim.run_until(pause, |_| false);
        let node = sim.dice(nodes);
        match sim.dice(12) {
            0..=1 => sim.crash(node),
            2..=4 => sim.start_all(),
            5 => {
                let side: Vec<u8> = (0..nodes).map(|_| sim.dice(2) as u8).collect();
                sim.partition(&side);
            }
            6..=7 => sim.heal(),
            8..=9 => {
                // Whoever coordinates stands still, and wakes up when others may have gone on without it.
                if sim.dice(2) == 0 {
                    sim.run_until(2_000, |s| s.coordinator().is_some_and(|(_, phase)| phase == Phase::Proposing));
                }
                let sleeper = sim.coordinator().map_or(node, |(n, _)| n);
                let ms = 1_000 + sim.dice(4_000) as u64;
                sim.freeze(sleeper, ms);
            }
            _ => {
                // Killed in the middle of a vote and back at once.
                sim.run_until(3_000, |s| s.writes_vote().is_some());
                let voter = sim.writes_vote().unwrap_or(node);
                let moment = sim.dice(60) as u64;
                sim.run_until(moment, |_| false);
                sim.crash(voter);
                sim.start(voter);
            }
        }
        if let Some(violation) = sim.violation() {
            return Err(violation.clone());
        }
    }
    sim.heal();
    sim.start_all();
    sim.run_until(1_200_000, Sim::all_closed);
    match sim.violation() {
        Some(violation) => Err(violation.clone()),
        None => Ok(sim),
    }
}

/// Seeds of the chaos test; more of them with the environment variable `PACELINE_CHAOS_SEEDS`.
const CHAOS_SEEDS: u64 = 60;

#[test]
fn chaos_breaks_no_promise_and_ends() {
    let seeds = std::env::var("PACELINE_CHAOS_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(CHAOS_SEEDS);
    for seed in 0..seeds {
        let nodes = if seed % 3 == 2 { 5 } else { 3 };
        let storm = if seed.is_multiple_of(2) { ROUGH } else { SLOW_DISKS };
        let sim = chaos(nodes, 6, seed, storm, None).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(sim.all_closed(), "seed {seed}: the run does not end\n{}", sim.describe());
    }
}

/// A coordinator stands still while it averages; the others elect a successor, and one of them is killed in the middle of
/// writing its vote down and comes back at once. Then the first coordinator wakes up and proposes, and knows of no other.
fn forgotten_vote(seed: u64, fault: Option<Fault>) -> Result<Sim, Violation> {
    let options =
        SimOptions { latency_ms: (40, 160), disk_ms: (1, 100), train_ms: (50, 300), ..SimOptions::calm(3, 3, seed) };
    let mut sim = Sim::new(options);
    fault.into_iter().for_each(|f| sim.break_on_purpose(f));
    sim.start_all();
    let averages = |s: &Sim| s.coordinator().filter(|(n, p)| *p == Phase::Aggregating && s.round(*n) == 2);
    if sim.run_until(60_000, |s| averages(s).is_some())
        && let Some((sleeper, _)) = averages(&sim)
    {
        let ms = 2_400 + sim.dice(1_200) as u64;
        sim.freeze(sleeper, ms);
        // The successor never reaches the sleeper, so that only the voter knows of both.
        sim.cut(sleeper, (sleeper + 1) % 3);
        if sim.run_until(4_000, |s| s.writes_vote().is_some())
            && let Some(voter) = sim.writes_vote()
        {
            sim.crash(voter);
            sim.start(voter);
        }
        sim.run_until(10_000, |_| false);
        sim.heal();
    }
    sim.run_until(120_000, Sim::all_closed);
    match sim.violation() {
        Some(violation) => Err(violation.clone()),
        None => Ok(sim),
    }
}

#[test]
fn a_vote_that_a_crash_loses_was_never_given() {
    for seed in 0..100 {
        let sim = forgotten_vote(seed, None).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(sim.all_closed(), "seed {seed}: the run does not end\n{}", sim.describe());
    }
}

/// Searches seeds for a violation with something broken on purpose: the simulator must be able to fail.
fn finds(fault: Fault, within: u64, scenario: impl Fn(u64, Option<Fault>) -> Result<Sim, Violation>) {
    let found = (0..within).find_map(|seed| scenario(seed, Some(fault)).err().map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{fault:?}: no violation in {within} seeds"));
    println!("{fault:?}: found after {} seeds: {violation}", seed + 1);
}

fn rough(seed: u64, fault: Option<Fault>) -> Result<Sim, Violation> {
    chaos(if seed.is_multiple_of(2) { 3 } else { 5 }, 6, seed, ROUGH, fault)
}

#[test]
fn the_simulator_finds_votes_that_are_sent_before_they_are_on_disk() {
    finds(Fault::VoteBeforePersist, 4_000, forgotten_vote);
}

#[test]
fn the_simulator_finds_a_ballot_check_that_is_left_out() {
    finds(Fault::SkipBallotCheck, 3_000, rough);
}

#[test]
fn the_simulator_finds_commits_on_too_few_accepts() {
    finds(Fault::CommitOnTooFew, 3_000, rough);
}

#[test]
fn the_simulator_finds_an_accepted_proposal_that_is_passed_over() {
    finds(Fault::IgnoreAccepted, 3_000, rough);
}

fn founding_with_crashes(nodes: usize, seeds: Range<u64>) {
    for seed in seeds {
        let mut sim = start(SimOptions::calm(nodes, 2, seed));
        for _ in 0..3 {
            let pause = 500 + sim.dice(1_500) as u64;
            sim.run_until(pause, |_| false);
            let node = sim.dice(nodes);
            sim.crash(node);
        }
        sim.run_until(5_000, |_| false);
        sim.start_all();
        must(&mut sim, 300_000, seed, "the end of the run", Sim::all_closed);
        assert_eq!(sim.chains().len(), 1, "seed {seed}");
    }
}

#[test]
fn a_founding_survives_crashes_in_the_middle() {
    founding_with_crashes(3, 0..40);
    founding_with_crashes(5, 0..40);
    founding_with_crashes(50, 0..2);
}

/// Two groups, each large enough to found, that share nodes: first one of them is together, then the other.
fn overlapping_groups(nodes: usize, seeds: Range<u64>) {
    let group = nodes / 2 + 1;
    for seed in seeds {
        let mut sim = Sim::new(SimOptions { min_nodes: group, ..SimOptions::calm(nodes, 3, seed) });
        let first: Vec<u8> = (0..nodes).map(|n| u8::from(n >= group)).collect();
        sim.partition(&first);
        sim.start_all();
        let pause = 1_000 + sim.dice(2_500) as u64;
        sim.run_until(pause, |_| false);
        let second: Vec<u8> = (0..nodes).map(|n| u8::from(n < nodes - group)).collect();
        sim.partition(&second);
        let pause = sim.dice(3_000) as u64;
        sim.run_until(pause, |_| false);
        sim.heal();
        must(&mut sim, 300_000, seed, "the end of the run", Sim::all_closed);
    }
}

#[test]
fn of_two_overlapping_groups_one_run_comes_about() {
    overlapping_groups(3, 0..40);
    overlapping_groups(5, 0..40);
    overlapping_groups(50, 0..2);
}

#[test]
fn two_groups_that_never_met_become_one_while_neither_has_a_round() {
    for seed in 0..20 {
        let train_ms = (20_000, 30_000);
        let mut sim = Sim::new(SimOptions { min_nodes: 3, train_ms, ..SimOptions::calm(6, 2, seed) });
        sim.partition(&[0, 0, 0, 1, 1, 1]);
        sim.start_all();
        must(&mut sim, 20_000, seed, "two foundings", |s| (0..6).all(|n| s.round(n) == 1));
        assert_eq!(sim.chains().len(), 2, "seed {seed}");
        sim.heal();
        must(&mut sim, 400_000, seed, "one chain for all", Sim::all_closed);
    }
}

#[test]
fn a_node_that_comes_later_joins_with_the_next_record() {
    for seed in 0..20 {
        let mut sim = Sim::new(SimOptions::calm(4, 8, seed));
        (0..3).for_each(|n| sim.start(n));
        reach(&mut sim, 0, 3, seed);
        sim.start(3);
        must(&mut sim, 30_000, seed, "the join", |s| s.state(3) == Some(State::Member));
        end(&mut sim, 8, seed);
        assert!((1..=8).any(|round| sim.trainings(3, round) > 0), "seed {seed}: it never trained");
    }
}

#[test]
fn a_part_that_a_member_holds_is_refused_to_another() {
    let seed = 1;
    let mut sim = Sim::new(SimOptions::calm(4, 30, seed));
    (0..3).for_each(|n| sim.set_part(n, Part { index: n as u32 + 1, of: 3 }));
    sim.set_part(3, Part { index: 1, of: 3 });
    (0..3).for_each(|n| sim.start(n));
    reach(&mut sim, 0, 2, seed);
    sim.start(3);
    sim.run_until(10_000, |_| false);
    assert_eq!(sim.state(3), Some(State::Joining));
    let reason = sim.machine(3).map(|m| m.view(crate::ids::Time(sim.now_ms())).reason);
    assert!(reason.flatten().is_some_and(|r| r.contains("part")), "{}", sim.describe());
}

#[test]
fn a_member_that_leaves_goes_when_the_others_can_do_without_it() {
    for seed in 0..20 {
        let mut sim = start(SimOptions::calm(4, 8, seed));
        reach(&mut sim, 0, 3, seed);
        sim.command(3, Command::Leave);
        must(&mut sim, 30_000, seed, "the leave", |s| s.events(3).contains(&Event::Left));
        sim.crash(3);
        end(&mut sim, 8, seed);
        let roster = sim.machine(0).and_then(|m| m.chain()).map(|c| c.roster().len());
        assert_eq!(roster, Some(3), "seed {seed}");
    }
}

#[test]
fn a_member_that_is_silent_for_long_is_evicted() {
    for seed in 0..5 {
        let mut sim = start(SimOptions { train_ms: (3_000, 5_000), ..SimOptions::calm(4, 40, seed) });
        reach(&mut sim, 0, 2, seed);
        sim.crash(3);
        let small = |s: &Sim| s.machine(0).and_then(|m| m.chain()).is_some_and(|c| c.roster().len() == 3);
        must(&mut sim, 200_000, seed, "the eviction", small);
        sim.start(3);
        must(&mut sim, 60_000, seed, "its return", |s| s.state(3) == Some(State::Member));
    }
}

#[test]
fn without_enough_updates_an_empty_record_lets_the_run_go_on() {
    let seed = 3;
    let options = SimOptions { min_updates: Some(4), round_timeout_ms: 6_000, ..SimOptions::calm(4, 4, seed) };
    let mut sim = start(options);
    reach(&mut sim, 0, 2, seed);
    sim.crash(3);
    must(&mut sim, 60_000, seed, "an empty record", |s| s.kinds(0).contains(&"empty"));
    sim.start(3);
    end(&mut sim, 4, seed);
}

#[test]
fn with_a_fraction_the_next_in_order_steps_in_for_who_is_gone() {
    for seed in 0..10 {
        let options = SimOptions { fraction: 0.5, min_updates: Some(2), ..SimOptions::calm(4, 8, seed) };
        let mut sim = start(options);
        reach(&mut sim, 0, 2, seed);
        sim.crash(3);
        must(&mut sim, 200_000, seed, "the last round", |s| s.trained(0) == 8);
    }
}

#[test]
fn a_seed_repeats_a_whole_world() {
    let trace = |seed| {
        let sim = chaos(3, 4, seed, ROUGH, None).unwrap_or_else(|violation| panic!("{violation}"));
        (sim.now_ms(), sim.head(0), sim.events(1).len())
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn a_participant_whose_training_fails_is_not_waited_for() {
    for seed in 0..10 {
        let mut sim = start(SimOptions { min_updates: Some(2), ..SimOptions::calm(3, 5, seed) });
        sim.fail_training(2);
        must(&mut sim, 60_000, seed, "a failure in the status", |s| {
            let machine = s.machine(2).map(|machine| machine.view(Time(0).plus_ms(s.now_ms())));
            machine.and_then(|view| view.reason).is_some_and(|why| why.ends_with("it diverged"))
        });
        end(&mut sim, 5, seed);
        let chain = sim.machine(0).and_then(|m| m.chain()).expect("the run ended");
        for record in chain.records().iter().map(|c| &c.record).filter(|record| record.kind == Kind::Train) {
            assert_eq!(record.contributions.len(), 2, "seed {seed}");
            // Patience would end a second after the two updates are in, which takes a training of 1.5 s at most.
            assert!(record.open_ms < 2_400, "seed {seed}: round {} was open for {} ms", record.round, record.open_ms);
        }
    }
}

#[test]
fn with_a_fraction_the_next_in_order_steps_in_for_a_training_that_fails() {
    for seed in 0..10 {
        let mut sim = start(SimOptions { fraction: 0.5, min_updates: Some(2), ..SimOptions::calm(4, 8, seed) });
        sim.fail_training(3);
        end(&mut sim, 8, seed);
        let chain = sim.machine(0).and_then(|m| m.chain()).expect("the run ended");
        let failing = sim.id(3);
        let of_training = chain.records().iter().map(|c| &c.record).filter(|record| record.kind == Kind::Train);
        let asked = of_training.clone().filter(|record| record.participants.contains(&failing)).count();
        assert!(asked > 0, "seed {seed}: it was never asked to train");
        assert!(of_training.clone().all(|record| record.contributions.len() == 2), "seed {seed}");
    }
}
