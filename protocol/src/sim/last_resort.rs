//! Where a majority of the roster is gone for good: one member goes on alone, and others come to it at their owners' wish.

use super::scenarios::{MINUTE_MS, genesis, must, pass, reach, start};
use super::{Sim, SimOptions};
use crate::base::ids::Hash;
use crate::io::{Command, Event, State};
use crate::paxos::message::Phase;

/// `node` goes on alone, in the chain that is returned.
fn drop_roster(sim: &mut Sim, node: usize, seed: u64) -> Hash {
    let before = genesis(sim, node);
    sim.command(node, Command::DropRoster);
    must(sim, MINUTE_MS, seed, "a chain of its own", |s| genesis(s, node) != before);
    genesis(sim, node).expect("it is in one")
}

/// A node's owner stops it and moves it to another chain.
fn switch(sim: &mut Sim, node: usize, genesis: Hash) {
    if sim.machine(node).is_some() {
        sim.crash(node);
    }
    sim.switch(node, genesis);
    sim.start(node);
}

/// Four nodes and a newcomer that is not started; the last two members are gone for good in round 3 or later, with the
/// second of those who stay on the record of the first.
fn bereft(rounds: u64, seed: u64) -> Sim {
    let mut sim = Sim::new(SimOptions { min_nodes: 4, ..SimOptions::calm(5, rounds, seed) });
    (0..4).for_each(|n| sim.start(n));
    must(&mut sim, 2 * MINUTE_MS, seed, "round 3", |s| (0..4).all(|n| s.round(n) >= 3));
    sim.crash(2);
    sim.crash(3);
    let head = sim.head(0);
    pass(&mut sim, MINUTE_MS);
    assert!(sim.round(0) <= 4 && sim.head(1) == sim.head(0), "seed {seed}: {:?} {head:?}", sim.describe());
    sim
}

#[test]
fn those_who_are_left_of_a_run_finish_it_behind_its_last_record() {
    for seed in 0..6 {
        let mut sim = bereft(8, seed);
        let (old, trained) = (sim.chain(0).cloned().expect("it is in one"), sim.trained(0));
        let alone = drop_roster(&mut sim, 0, seed);
        let chain = sim.chain(0).expect("it is in one");
        let forced = chain.forced().expect("its record says so");
        assert_eq!((forced.chain, forced.head), (old.genesis(), old.head_hash()), "seed {seed}");
        assert_eq!((chain.head().model, chain.trained()), (old.head().model, trained), "seed {seed}");
        assert_eq!(genesis(&sim, 1), Some(old.genesis()), "seed {seed}: nobody else is taken along");
        switch(&mut sim, 1, alone);
        sim.pin(4, alone);
        sim.start(4);
        must(&mut sim, 2 * MINUTE_MS, seed, "three members", |s| {
            [0, 1, 4].iter().all(|n| s.state(*n) == Some(State::Member) || s.chain(*n).is_some_and(|c| c.is_closed()))
        });
        must(&mut sim, 4 * MINUTE_MS, seed, "the end", |s| {
            [0, 1, 4].iter().all(|n| s.chain(*n).is_some_and(|c| c.is_closed()))
        });
        assert!([0, 1, 4].iter().all(|n| sim.trained(*n) == 8 && genesis(&sim, *n) == Some(alone)), "seed {seed}");
    }
}

#[test]
fn nobody_enters_a_chain_that_was_begun_alone_unasked() {
    for seed in 0..4 {
        let mut sim = bereft(400, seed);
        drop_roster(&mut sim, 0, seed);
        sim.start(4);
        pass(&mut sim, 2 * MINUTE_MS);
        assert_eq!(sim.state(4), Some(State::Gathering), "seed {seed}: {}", sim.describe());
        let reason = sim.reason(4).unwrap_or_default();
        assert!(reason.contains("--switch"), "seed {seed}: {reason}");
        assert_eq!(sim.state(1), Some(State::Member), "seed {seed}");
        assert_ne!(genesis(&sim, 1), genesis(&sim, 0), "seed {seed}");
    }
}

#[test]
fn nobody_goes_on_alone_while_a_quorum_is_in_sight() {
    let mut sim = start(SimOptions::calm(4, 400, 1));
    reach(&mut sim, 0, 2, 1);
    let before = genesis(&sim, 0);
    sim.crash(3);
    sim.command(0, Command::DropRoster);
    pass(&mut sim, 5_000);
    assert_eq!(genesis(&sim, 0), before);
    let rounds = sim.round(0);
    reach(&mut sim, 0, rounds + 2, 1);
    // A quorum that was there a moment ago may be back in another.
    (1..3).for_each(|n| sim.crash(n));
    pass(&mut sim, 10_000);
    sim.command(0, Command::DropRoster);
    pass(&mut sim, 5_000);
    assert_eq!(genesis(&sim, 0), before);
}

/// It gives no vote, so it is none of those who could decide.
#[test]
fn members_that_must_not_vote_keep_nobody_from_going_on_alone() {
    for seed in 0..4 {
        let mut sim = start(SimOptions::calm(3, 400, seed));
        reach(&mut sim, 0, 3, seed);
        sim.lose_home(2);
        must(&mut sim, MINUTE_MS, seed, "its return", |s| s.state(2) == Some(State::Joining));
        sim.crash(1);
        pass(&mut sim, MINUTE_MS);
        assert_eq!(sim.state(2), Some(State::Joining), "seed {seed}: {}", sim.describe());
        assert_eq!(sim.chain(0).map(|c| c.roster().len()), Some(3), "seed {seed}: nothing was decided any more");
        drop_roster(&mut sim, 0, seed);
        let round = sim.round(0);
        reach(&mut sim, 0, round + 2, seed);
    }
}

#[test]
fn who_goes_on_alone_twice_behind_one_record_begins_two_chains() {
    for seed in 0..4 {
        let mut sim = bereft(400, seed);
        let old = genesis(&sim, 0).expect("it is in one");
        let first = drop_roster(&mut sim, 0, seed);
        switch(&mut sim, 0, old);
        pass(&mut sim, MINUTE_MS);
        assert_eq!(genesis(&sim, 0), Some(old), "seed {seed}");
        let second = drop_roster(&mut sim, 0, seed);
        assert_ne!(first, second, "seed {seed}");
        let round = sim.round(0);
        reach(&mut sim, 0, round + 2, seed);
    }
}

/// Nothing could be decided, the leave included; and it must not end who goes on.
#[test]
fn a_wish_to_leave_that_could_not_come_true_is_over_once_its_node_goes_on_alone() {
    for seed in 0..4 {
        let mut sim = bereft(400, seed);
        for node in 0..2 {
            sim.command(node, Command::Leave);
        }
        pass(&mut sim, 10_000);
        assert_eq!(sim.state(0), Some(State::Leaving), "seed {seed}");
        let alone = drop_roster(&mut sim, 0, seed);
        switch(&mut sim, 1, alone);
        pass(&mut sim, 1_000);
        sim.crash(0);
        sim.start(0);
        must(&mut sim, 2 * MINUTE_MS, seed, "two members", |s| (0..2).all(|n| s.state(n) == Some(State::Member)));
    }
}

/// A record that a quorum accepted is decided though nobody left has seen its commit; who accepted it may be needed to say so.
#[test]
fn what_was_accepted_in_a_chain_is_kept_with_it() {
    let mut tried = 0;
    for seed in 0..40 {
        let mut sim = start(SimOptions::calm(3, 4_000, seed));
        let proposes = |s: &Sim| s.coordinator().filter(|(n, p)| *p == Phase::Proposing && s.round(*n) >= 3);
        must(&mut sim, MINUTE_MS, seed, "a proposal", |s| proposes(s).is_some());
        let (leader, _) = proposes(&sim).expect("it was just seen");
        let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
        let round = sim.round(one);
        // Only the leader and one more have the proposal.
        sim.crash(two);
        must(&mut sim, MINUTE_MS, seed, "a commit", |s| s.round(leader) > round);
        sim.cut(leader, one);
        sim.crash(leader);
        pass(&mut sim, MINUTE_MS);
        // The commit was on its way.
        if sim.round(one) > round {
            continue;
        }
        tried += 1;
        let old = genesis(&sim, one).expect("it is in one");
        drop_roster(&mut sim, one, seed);
        pass(&mut sim, MINUTE_MS);
        switch(&mut sim, one, old);
        sim.start(two);
        must(&mut sim, 2 * MINUTE_MS, seed, "the next round of the old chain", |s| s.round(one) > round + 1);
    }
    assert!(tried >= 4, "{tried} seeds led there");
}

#[test]
fn who_is_killed_as_it_goes_on_alone_is_in_one_chain_or_the_other() {
    for seed in 0..12 {
        let mut sim = bereft(400, seed);
        let old = genesis(&sim, 0);
        sim.command(0, Command::DropRoster);
        // Its write takes as long as it takes: some have it on disk by then.
        sim.run_until(seed, |_| false);
        sim.crash(0);
        sim.start(0);
        let is_alone = genesis(&sim, 0) != old;
        assert_eq!(sim.chain(0).is_some_and(|c| c.forced().is_some()), is_alone, "seed {seed}");
        if !is_alone {
            pass(&mut sim, 30_000);
            drop_roster(&mut sim, 0, seed);
        }
        let rounds = sim.round(0);
        reach(&mut sim, 0, rounds + 2, seed);
    }
}

#[test]
fn a_majority_that_comes_back_takes_who_went_on_alone_off_and_in_again() {
    for seed in 0..4 {
        let mut sim = start(SimOptions::calm(3, 4_000, seed));
        reach(&mut sim, 0, 2, seed);
        sim.partition(&[1, 0, 0]);
        pass(&mut sim, MINUTE_MS);
        let old = genesis(&sim, 1).expect("it is in one");
        let alone = drop_roster(&mut sim, 0, seed);
        sim.heal();
        // Connected, and yet no member of theirs any more: they don't wait for it, and take it off.
        must(&mut sim, 3 * MINUTE_MS, seed, "an eviction", |s| s.chain(1).is_some_and(|c| c.roster().len() == 2));
        assert_eq!((genesis(&sim, 0), genesis(&sim, 1)), (Some(alone), Some(old)), "seed {seed}");
        assert!(sim.events(1).iter().any(|e| matches!(e, Event::Fork { genesis } if *genesis == alone)), "seed {seed}");
        // Its old chain was kept: it goes on there where its records end, under the promises that it gave.
        switch(&mut sim, 0, old);
        must(&mut sim, 3 * MINUTE_MS, seed, "the return", |s| {
            s.state(0) == Some(State::Member) && s.chain(1).is_some_and(|c| c.roster().len() == 3)
        });
        assert_eq!(genesis(&sim, 0), Some(old), "seed {seed}");
        let rounds = sim.round(0);
        reach(&mut sim, 0, rounds + 3, seed);
    }
}

/// One key suffices to begin a chain alone, so what it shows must stand in nobody's way.
#[test]
fn a_chain_that_was_begun_alone_hides_no_other_and_keeps_nobody_from_founding() {
    for seed in 0..4 {
        let mut sim = Sim::new(SimOptions { min_nodes: 3, ..SimOptions::calm(7, 4_000, seed) });
        (0..3).for_each(|n| sim.start(n));
        reach(&mut sim, 0, 2, seed);
        // Node 0 hears nobody, goes on alone, and is all that the newcomer 3 hears of at first.
        sim.partition(&[1, 0, 0, 1, 2, 2, 2]);
        pass(&mut sim, 40_000);
        let old = genesis(&sim, 1).expect("it is in one");
        drop_roster(&mut sim, 0, seed);
        sim.start(3);
        pass(&mut sim, 20_000);
        assert_eq!(sim.state(3), Some(State::Gathering), "seed {seed}");
        sim.partition(&[1, 1, 1, 1, 2, 2, 2]);
        must(&mut sim, MINUTE_MS, seed, "the chain that lives", |s| genesis(s, 3) == Some(old));
        // Three that hear of nothing but a chain begun alone found one of their own.
        sim.partition(&[1, 0, 0, 0, 1, 1, 1]);
        (4..7).for_each(|n| sim.start(n));
        must(&mut sim, MINUTE_MS, seed, "a founding", |s| (4..7).all(|n| s.round(n) >= 1));
    }
}

#[test]
fn who_was_moved_away_from_a_chain_is_led_back_by_its_owner_alone() {
    for seed in 0..4 {
        let mut sim = start(SimOptions::calm(3, 4_000, seed));
        reach(&mut sim, 2, 3, seed);
        let old = genesis(&sim, 2).expect("it is in one");
        let round = sim.round(2);
        sim.crash(2);
        sim.switch(2, Hash::of(b"a chain that nobody is in"));
        sim.unpin(2);
        sim.start(2);
        pass(&mut sim, 20_000);
        assert_eq!(sim.state(2), Some(State::Gathering), "seed {seed}: {}", sim.describe());
        switch(&mut sim, 2, old);
        must(&mut sim, MINUTE_MS, seed, "the return", |s| genesis(s, 2) == Some(old) && s.round(2) > round);
    }
}

/// Bound to its founding, it takes part in nothing else, and nobody else is left who could tell it.
#[test]
fn a_founder_that_missed_the_founding_is_shown_it_by_who_went_on_alone() {
    let mut tried = 0;
    for seed in 0..60 {
        let mut sim = start(SimOptions::calm(4, 4_000, seed));
        must(&mut sim, MINUTE_MS, seed, "a bind", |s| s.is_bound_on_disk(3));
        pass(&mut sim, 50);
        if sim.chain(3).is_some() {
            continue;
        }
        sim.crash(3);
        if !sim.run_until(MINUTE_MS, |s| (0..3).all(|n| s.round(n) >= 2)) || !sim.is_bound_on_disk(3) {
            continue;
        }
        tried += 1;
        let old = genesis(&sim, 0);
        sim.crash(1);
        sim.crash(2);
        pass(&mut sim, MINUTE_MS);
        drop_roster(&mut sim, 0, seed);
        sim.start(3);
        must(&mut sim, MINUTE_MS, seed, "the genesis", |s| genesis(s, 3) == old);
    }
    assert!(tried >= 4, "{tried} seeds led there");
}
