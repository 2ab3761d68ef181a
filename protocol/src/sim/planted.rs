//! Bugs planted on purpose: the suite must find each, in every run, and general chaos must be able to.
//!
//! `PACELINE_PLANT_SEEDS` says how many seeds of chaos are tried for each; the regular run tries what it takes to find
//! each of them for certain, which the printed lines tell.

use super::chaos::live_with;
use super::chaos::tests::{HONEST, HOSTILE};
use super::{Failure, Plan, Range, Sim};
use crate::base::plant::{Fault, plant};
use crate::io::Persist;

/// Searches worlds of general chaos for a broken promise. A run that only gets stuck is not what is looked for.
fn finds(what: &str, within: u64, range: Range, planted: impl Fn(&mut Sim)) {
    let within = std::env::var("PACELINE_PLANT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(within);
    let violates = |seed: u64| match live_with(&Plan::draw(seed, range), &planted).1.failure {
        Some(Failure::Broken(violation)) => Some((seed, violation)),
        _ => None,
    };
    let (seed, violation) =
        (0..within).find_map(violates).unwrap_or_else(|| panic!("{what}: not found in {within} seeds"));
    println!("{what}: found after {} worlds of chaos: {violation}", seed + 1);
}

#[test]
fn chaos_finds_votes_that_are_sent_before_they_are_on_disk() {
    finds("a vote is sent before it is on disk", 60, HONEST, |sim| {
        sim.confirm_early(|item| matches!(item, Persist::Vote { .. }));
    });
}

#[test]
fn chaos_finds_accepts_that_are_sent_before_they_are_on_disk() {
    finds("an accept is sent before it is on disk", 60, HONEST, |sim| {
        sim.confirm_early(|item| matches!(item, Persist::Accepted { .. }));
    });
}

#[test]
fn chaos_finds_a_restart_that_forgets_what_was_accepted() {
    finds("a restart forgets what was accepted", 120, HONEST, Sim::forget_accepts);
}

#[test]
fn chaos_finds_votes_below_the_promise() {
    let _planted = plant(Fault::VoteBelowPromise);
    finds("a vote below the promise", 120, HONEST, |_| {});
}

#[test]
fn chaos_finds_accepts_below_the_promise() {
    let _planted = plant(Fault::AcceptBelowPromise);
    finds("an accept below the promise", 400, HONEST, |_| {});
}

#[test]
fn chaos_finds_commits_on_too_few_accepts() {
    let _planted = plant(Fault::CommitOnTooFew);
    finds("a commit on too few accepts", 20, HONEST, |_| {});
}

#[test]
fn chaos_finds_an_accepted_proposal_that_is_passed_over() {
    let _planted = plant(Fault::AcceptedPassedOver);
    finds("an accepted proposal is passed over", 200, HONEST, |_| {});
}

#[test]
fn chaos_finds_a_quorum_that_does_not_grow_with_the_roster() {
    let _planted = plant(Fault::QuorumOfThree);
    finds("a roster decides like one of three", 60, HONEST, |_| {});
}

#[test]
fn chaos_finds_records_that_are_taken_without_proof() {
    let _planted = plant(Fault::RecordsWithoutProof);
    finds("catching up takes records without proof", 60, HOSTILE, |_| {});
}
