//! Small searches, each to its end; and the bugs that they must find. `cargo run --example explore` searches further.

use super::*;
use crate::base::plant::{Fault, plant};
use crate::io::Persist;

/// More states than any search here has: one that is stopped by it shows that a bound grew.
const STATES_MAX: usize = 1_000_000;

/// Two of the three can decide without the first coordinator, whose ballot may go on beside theirs.
fn two_ballots() -> Scene {
    Scene::new(Story::Round).wakes([0, 0, 1]).sleeps([1, 0, 1])
}

/// Searches to the end, and sees that what must be able to happen did.
fn holds(scene: &Scene, comes_about: &[&str]) {
    let report = scene.explore(STATES_MAX);
    println!("{scene:?}\n{report}");
    assert!(report.violation.is_none() && report.complete, "{report}");
    for outcome in comes_about {
        assert!(report.outcomes.contains(*outcome), "`{outcome}` never comes about\n{report}");
    }
}

/// Searches for what a planted bug breaks.
fn finds(scene: &Scene, law: &str) {
    let report = scene.explore(STATES_MAX);
    println!("{report}");
    let broken = report.violation.as_ref().is_some_and(|(what, _)| what.contains(law));
    assert!(broken, "`{law}` is not broken\n{report}");
}

#[test]
fn two_ballots_of_a_round_decide_one_record() {
    holds(&two_ballots(), &["train in 1.0", "train in 1.1", "train in 1.1, made in 1.0"]);
}

#[test]
fn a_voter_that_crashes_at_any_moment_contradicts_nothing() {
    holds(&Scene::new(Story::Round).crash(0), &["train in 1.0"]);
    holds(&Scene::new(Story::Round).crash(2), &["train in 1.0"]);
}

#[test]
fn a_coordinator_that_crashes_at_any_moment_contradicts_nothing() {
    holds(&Scene::new(Story::Round).crash(1), &["train in 1.0", "train in 1.1", "train in 1.1, made in 1.0"]);
}

#[test]
fn a_founding_that_nobody_refuses_comes_about() {
    holds(&Scene::new(Story::Founding { min_nodes: 3, nodes: 3 }), &["genesis in 0.0"]);
}

#[test]
fn a_founding_in_which_one_crashes_at_any_moment_comes_about_or_not() {
    for node in 0..2 {
        let founding = Scene::new(Story::Founding { min_nodes: 2, nodes: 2 }).crash(node);
        holds(&founding, &["genesis in 0.0", "founding refused"]);
    }
}

#[test]
fn two_foundings_share_no_node() {
    holds(&Scene::new(Story::Founding { min_nodes: 2, nodes: 3 }).wakes([0, 1, 0]), &["genesis in 0.0"]);
}

#[test]
fn of_two_chains_that_meet_one_yields_or_both_go_on() {
    for alone_yields in [true, false] {
        holds(&Scene::new(Story::Yield { alone_yields }), &["yield in 1.0", "train in 1.0"]);
    }
}

#[test]
fn it_finds_votes_below_the_promise() {
    let _planted = plant(Fault::VoteBelowPromise);
    let scene = Scene { attempt_max: 2, ..two_ballots().sleeps([2, 0, 1]) };
    finds(&scene, "no word is given twice");
}

#[test]
fn it_finds_accepts_below_the_promise() {
    let _planted = plant(Fault::AcceptBelowPromise);
    finds(&two_ballots(), "liar");
}

#[test]
fn it_finds_commits_on_too_few_accepts() {
    let _planted = plant(Fault::CommitOnTooFew);
    finds(&two_ballots(), "which no quorum accepted");
    finds(&Scene::new(Story::Yield { alone_yields: false }), "which no quorum accepted");
}

#[test]
fn it_finds_an_accepted_proposal_that_is_passed_over() {
    let _planted = plant(Fault::AcceptedPassedOver);
    finds(&two_ballots(), "nothing lost");
}

#[test]
fn it_finds_votes_that_are_sent_before_they_are_on_disk() {
    let early: fn(&Persist) -> bool = |item| matches!(item, Persist::Vote { .. });
    let scene = Scene { early: Some(early), ..Scene::new(Story::Round).wakes([1, 0, 1]).crash(0) };
    finds(&scene, "no word is given twice");
}

#[test]
fn it_finds_accepts_that_are_sent_before_they_are_on_disk() {
    let early: fn(&Persist) -> bool = |item| matches!(item, Persist::Accepted { .. });
    finds(&Scene { early: Some(early), ..Scene::new(Story::Round).crash(0) }, "which no quorum accepted");
}

#[test]
fn it_finds_binds_that_are_sent_before_they_are_on_disk() {
    let early: fn(&Persist) -> bool = |item| matches!(item, Persist::Bound { .. });
    let founding = Scene::new(Story::Founding { min_nodes: 3, nodes: 3 }).crash(1);
    finds(&Scene { early: Some(early), ..founding }, "no word is given twice");
}

#[test]
fn it_finds_a_restart_that_forgets_what_was_accepted() {
    finds(&Scene { forgets_accepts: true, ..Scene::new(Story::Round).crash(0) }, "nothing lost");
}
