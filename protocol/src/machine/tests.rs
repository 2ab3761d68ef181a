//! One machine under test, and identities that say what they like: what must be refused, each with its typed reason, what
//! must be noticed and proven, and a round that goes on unharmed.

use std::collections::BTreeMap;

use super::*;
use crate::base::bounds::{BLOB_BYTES_MAX, MESSAGE_BYTES_MAX, SERVED_BYTES_PER_S};
use crate::base::ids::{Ballot, BlobRef};
use crate::base::roster::Member;
use crate::base::signed::{Scope, Signed};
use crate::base::timing::RETRY_MS;
use crate::chain::fixture::{
    accuracy, by_signer, chain, commit, empty, founding, founding_of, genesis, identities, member, params, propose,
    votes,
};
use crate::context::Held;
use crate::founding::message::Message as Word;
use crate::io::{Event, Persist, RecoveredBallot, RecoveredFounding, State, TrainedUpdate};
use crate::membership::message::{Activity, Presence};
use crate::paxos::message::{Heartbeat, Message as Paxos, Phase, RoundOpened, RoundPlan, Task};
use crate::record::{
    Accept, Alive, Committed, Contribution, Evaluation, Eviction, Evidence, Failure, Founding, Join, Kind, Leave, Lie,
    Metric, Proposed, Record, Refusal, Vote, founding_scope, request_scope,
};
use crate::round::message::Message as Work;
use crate::sync::message::Message as Sync;

const MINUTE_MS: u64 = 60_000;

/// A machine of the first of three identities.
struct Scene {
    identities: Vec<Identity>,
    machine: Machine,
    now: Time,
}

fn config(identity: &Identity) -> Config {
    Config {
        resumes: false,
        params: params(),
        identity: identity.clone(),
        name: "under test".into(),
        part: None,
        pinned: None,
        verifier: Verifier::default(),
    }
}

/// A node that nobody has the key of.
fn made_up(i: u32) -> NodeId {
    let mut key = [0xAA; 32];
    key[..4].copy_from_slice(&i.to_le_bytes());
    NodeId::from_public_key(key)
}

fn presence(counter: u64, chain: Hash, round: u64) -> Message {
    let presence = Presence {
        counter,
        name: "p".into(),
        part: None,
        round,
        held: None,
        founding: None,
        activity: Activity::Idle,
        at_rest: false,
    };
    Message::membership(chain, Membership::Presence(presence))
}

impl Scene {
    fn new(identities: Vec<Identity>, recovered: Recovered) -> Self {
        let machine = Machine::new(config(&identities[0]), [7; 32], Time(0), recovered);
        Self { identities, machine, now: Time(0) }
    }

    /// It is in no chain.
    fn gathering() -> Self {
        Self::new(identities(1, 3), Recovered::default())
    }

    /// It is in a chain that the three founded and listens after its start, with the two others connected.
    fn listening() -> Self {
        let identities = identities(1, 3);
        let recovered = Recovered { chain: vec![genesis(&identities)], ..Recovered::default() };
        let mut scene = Self::new(identities, recovered);
        for peer in [1, 2] {
            scene.input(Input::PeerUp(scene.id(peer)));
        }
        scene
    }

    /// It coordinates round 1: the others vote for it as soon as it asks.
    fn leading() -> Self {
        let mut scene = Self::listening();
        for _ in 0..200 {
            let mut effects = scene.step();
            while let Some(effect) = effects.pop() {
                let Effect::Send { to, message: Message { body: Body::Paxos { ballot, message }, .. } } = effect else {
                    continue;
                };
                let answer = match message {
                    Paxos::PreVote => Paxos::PreVoteGranted,
                    Paxos::VoteRequest => Paxos::Vote(scene.vote(scene.index(to), ballot, 0, None)),
                    _ => continue,
                };
                effects.extend(scene.say_paxos(to, ballot, answer));
            }
            if scene.task().is_some() {
                return scene;
            }
        }
        panic!("it was never elected");
    }

    /// Starts again with what is given.
    fn restart(&mut self, recovered: Recovered) {
        let verifier = Verifier::default();
        self.machine = Machine::new(Config { verifier, ..config(&self.identities[0]) }, [8; 32], self.now, recovered);
        while self.machine.poll_effect().is_some() {}
    }

    fn id(&self, index: usize) -> NodeId {
        self.identities[index].node_id()
    }

    fn index(&self, node: NodeId) -> usize {
        self.identities.iter().position(|i| i.node_id() == node).expect("it is one of the scene's")
    }

    fn chain(&self) -> &Chain {
        self.machine.chain().expect("the scene is in a chain")
    }

    fn scope(&self) -> Scope {
        self.chain().scope()
    }

    fn paxos(&self) -> &crate::paxos::Instance {
        &self.machine.standing.round().expect("it is a member").paxos
    }

    fn task(&self) -> Option<&Task> {
        self.paxos().opened().and_then(|o| o.plan.task.as_ref())
    }

    fn ballot(&self) -> Ballot {
        self.paxos().ballot()
    }

    /// Gives an input and confirms every write at once.
    fn input(&mut self, input: Input) -> Vec<Effect> {
        let mut all = Vec::new();
        self.machine.handle(self.now, input);
        while let Some(effect) = self.machine.poll_effect() {
            if let Effect::Persist { id, .. } = &effect {
                self.machine.handle(self.now, Input::Persisted(*id));
            }
            all.push(effect);
        }
        all
    }

    /// Goes to where something happens by itself.
    fn step(&mut self) -> Vec<Effect> {
        self.now = self.machine.deadline().unwrap_or(self.now).max(self.now.plus_ms(1));
        self.input(Input::Tick)
    }

    /// Lets time pass.
    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let end = self.now.plus_ms(ms);
        let mut all = Vec::new();
        while self.now < end {
            self.now = self.machine.deadline().unwrap_or(end).max(self.now.plus_ms(1)).min(end);
            all.extend(self.input(Input::Tick));
        }
        all
    }

    fn say(&mut self, from: NodeId, message: Message) -> Vec<Effect> {
        self.input(Input::Received { from, message })
    }

    fn say_paxos(&mut self, from: NodeId, ballot: Ballot, message: Paxos) -> Vec<Effect> {
        let chain = self.chain().genesis();
        self.say(from, Message::paxos(chain, ballot, message))
    }

    fn say_round(&mut self, from: NodeId, ballot: Ballot, message: Work) -> Vec<Effect> {
        let chain = self.chain().genesis();
        self.say(from, Message::round(chain, ballot, message))
    }

    fn say_sync(&mut self, from: NodeId, message: Sync) -> Vec<Effect> {
        let chain = self.chain().genesis();
        self.say(from, Message::sync(chain, message))
    }

    fn say_of_membership(&mut self, from: NodeId, message: Membership) -> Vec<Effect> {
        let chain = self.chain().genesis();
        self.say(from, Message::membership(chain, message))
    }

    fn vote(&self, voter: usize, ballot: Ballot, candidate: usize, accepted: Option<Signed<Proposed>>) -> Signed<Vote> {
        let vote = Vote { ballot, candidate: self.id(candidate), accepted, silent: Vec::new() };
        Signed::new(&self.identities[voter], &self.scope(), vote)
    }

    /// A record with the accepts of these, in the attempt that made it.
    fn commit_of(&self, record: Record, acceptors: &[usize]) -> Committed {
        let acceptors: Vec<&Identity> = acceptors.iter().map(|i| &self.identities[*i]).collect();
        let ballot = Ballot { round: record.round, attempt: record.attempt };
        let coordinator = record.coordinator;
        commit(&acceptors, &self.scope(), ballot, coordinator, record)
    }

    /// The last two commit a record that the second coordinates.
    fn commits(&mut self, record: Record) -> Vec<Effect> {
        let committed = self.commit_of(record, &[1, 2]);
        assert_eq!(self.chain().check_committed(&committed), Ok(()));
        let from = self.id(1);
        self.say_sync(from, Sync::Committed(committed))
    }

    fn contribution(&self, index: usize, update: &[u8]) -> Contribution {
        Contribution {
            round: self.chain().next_round(),
            samples: 10 + index as u64,
            update: BlobRef { id: Hash::of(update), len: 40 },
            train_loss: Some(1.0),
            train_ms: 5,
            evaluation: None,
            trainer: String::new(),
        }
    }

    fn signed(&self, index: usize, contribution: Contribution) -> Signed<Contribution> {
        Signed::new(&self.identities[index], &self.scope(), contribution)
    }

    /// The refusals that are counted when a peer offers this in the present ballot.
    fn offers(&mut self, from: NodeId, contribution: Signed<Contribution>) -> Vec<Reject> {
        let ballot = self.ballot();
        refusals(&self.say_round(from, ballot, Work::UpdateReady(contribution)), from)
    }

    /// Two good updates come in; the machine must then average.
    fn still_works(&mut self) {
        let (ballot, me) = (self.ballot(), self.id(0));
        let (round, parent) = (self.chain().next_round(), self.chain().head_hash());
        let Contribution { update, samples, train_loss, train_ms, .. } = self.contribution(0, b"own");
        let trained = TrainedUpdate { update, samples, train_loss, train_ms, evaluation: None, trainer: String::new() };
        self.input(Input::Trained { round, parent, outcome: Ok(trained) });
        self.input(Input::Folded { ballot, node: me, result: Ok(()) });
        for peer in [1, 2] {
            let good = self.signed(peer, self.contribution(peer, format!("good {peer}").as_bytes()));
            let (node, blob) = (self.id(peer), good.vouched().update.id);
            self.offers(node, good);
            self.input(Input::Fetched { blob });
            self.input(Input::Folded { ballot, node, result: Ok(()) });
        }
        assert_eq!(self.paxos().phase(), Some(Phase::Aggregating), "the round was harmed");
    }
}

fn refusals(effects: &[Effect], from: NodeId) -> Vec<Reject> {
    let rejected = |effect: &Effect| match effect {
        Effect::Emit(Event::Rejected { peer, reject }) if *peer == from => Some(*reject),
        _ => None,
    };
    effects.iter().filter_map(rejected).collect()
}

/// Who is called a liar, with a proof that is kept and told.
fn liars(effects: &[Effect]) -> Vec<NodeId> {
    let called = effects.iter().filter_map(|effect| match effect {
        Effect::Emit(Event::Liar { node }) => Some(*node),
        _ => None,
    });
    let liars: Vec<NodeId> = called.collect();
    let kept = effects.iter().filter(|e| matches!(e, Effect::Persist { item: Persist::Evidence(_), .. })).count();
    let told = effects.iter().filter(|e| is_evidence(e)).count();
    assert_eq!((kept, told), (liars.len(), liars.len()), "a proof is not kept, or not told");
    liars
}

fn is_evidence(effect: &Effect) -> bool {
    matches!(effect, Effect::Broadcast(Message { body: Body::Membership(Membership::Evidence(_)), .. }))
}

fn sent(effects: &[Effect]) -> impl Iterator<Item = (NodeId, &Message)> {
    effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message } => Some((*to, message)),
        _ => None,
    })
}

/// Whether somebody is asked for records.
fn asks_for_records(effects: &[Effect]) -> Vec<NodeId> {
    let asked = sent(effects).filter(|(_, m)| matches!(m.body, Body::Sync(Sync::Query { .. })));
    asked.map(|(to, _)| to).collect()
}

fn bytes_sent(effects: &[Effect]) -> usize {
    sent(effects).map(|(_, message)| message.encode().len()).sum()
}

fn has_bound_itself(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Persist { item: Persist::Bound { .. }, .. }))
}

fn accepted(effects: &[Effect]) -> Option<&crate::record::Proposal> {
    effects.iter().find_map(|effect| match effect {
        Effect::Persist { item: Persist::Accepted { proposal, .. }, .. } => Some(proposal),
        _ => None,
    })
}

// Updates

#[test]
fn an_update_of_a_stranger_is_refused() {
    let mut scene = Scene::leading();
    let stranger = Identity::from_secret(&[9; 32]);
    let offer = Signed::new(&stranger, &scene.scope(), scene.contribution(1, b"x"));
    assert_eq!(scene.offers(stranger.node_id(), offer), [Reject::NotParticipant]);
    scene.still_works();
}

#[test]
fn an_update_under_a_stale_ballot_is_refused() {
    let mut scene = Scene::leading();
    let (from, offer) = (scene.id(1), scene.signed(1, scene.contribution(1, b"x")));
    let ballot = Ballot { round: 1, attempt: 0 };
    assert!(ballot < scene.ballot(), "after a restart attempt 0 is over");
    let effects = scene.say_round(from, ballot, Work::UpdateReady(offer));
    assert_eq!(refusals(&effects, from), [Reject::StaleBallot]);
    scene.still_works();
}

#[test]
fn an_update_of_another_round_is_refused() {
    let mut scene = Scene::leading();
    let offer = scene.signed(1, Contribution { round: 2, ..scene.contribution(1, b"x") });
    let from = scene.id(1);
    assert_eq!(scene.offers(from, offer), [Reject::StaleRound]);
    scene.still_works();
}

#[test]
fn an_update_of_another_length_is_refused() {
    let mut scene = Scene::leading();
    let mut contribution = scene.contribution(1, b"x");
    contribution.update.len = 44;
    let (from, offer) = (scene.id(1), scene.signed(1, contribution));
    assert_eq!(scene.offers(from, offer), [Reject::WrongShape]);
    scene.still_works();
}

#[test]
fn an_update_whose_signature_does_not_hold_is_refused() {
    let mut scene = Scene::leading();
    let elsewhere = Scope { parent: Hash::of(b"another record"), ..scene.scope() };
    let offer = Signed::new(&scene.identities[1], &elsewhere, scene.contribution(1, b"x"));
    let from = scene.id(1);
    assert_eq!(scene.offers(from, offer), [Reject::BadSignature]);
    scene.still_works();
}

#[test]
fn an_update_in_anothers_name_is_refused() {
    let mut scene = Scene::leading();
    let (from, offer) = (scene.id(1), scene.signed(2, scene.contribution(2, b"x")));
    assert_eq!(scene.offers(from, offer), [Reject::BadSignature]);
    scene.still_works();
}

#[test]
fn metrics_that_are_not_numbers_are_refused() {
    let mut scene = Scene::leading();
    let (from, good) = (scene.id(1), scene.contribution(1, b"x"));
    let unnamed = Metric { name: String::new(), sum: 0, count: 1 };
    for bad in [
        Contribution { train_loss: Some(f64::NAN), ..good.clone() },
        Contribution { train_loss: Some(f64::INFINITY), ..good.clone() },
        Contribution { samples: 0, ..good.clone() },
        Contribution { samples: 1 << 21, ..good.clone() },
        Contribution { evaluation: Some(accuracy(11, 10)), ..good.clone() },
        Contribution { evaluation: Some(Evaluation { metrics: vec![unnamed] }), ..good.clone() },
        Contribution { trainer: "x".repeat(65), ..good.clone() },
        Contribution { trainer: "two\nlines".to_owned(), ..good.clone() },
    ] {
        let offer = scene.signed(1, bad.clone());
        assert_eq!(scene.offers(from, offer), [Reject::BadMetrics], "{bad:?}");
    }
    scene.still_works();
}

#[test]
fn a_second_different_update_is_refused_and_the_first_stays() {
    let mut scene = Scene::leading();
    let from = scene.id(1);
    let first = scene.signed(1, scene.contribution(1, b"good 1"));
    assert_eq!(scene.offers(from, first), []);
    let second = scene.signed(1, scene.contribution(1, b"other"));
    assert_eq!(scene.offers(from, second), [Reject::Twice]);
    scene.still_works();
}

#[test]
fn an_update_that_the_averager_refuses_is_answered_with_its_reason_and_left_out() {
    let mut scene = Scene::leading();
    let (from, ballot) = (scene.id(1), scene.ballot());
    let bad = scene.signed(1, scene.contribution(1, b"not a number"));
    let update = bad.vouched().update.id;
    scene.offers(from, bad);
    scene.input(Input::Fetched { blob: update });
    let effects = scene.input(Input::Folded { ballot, node: from, result: Err(Reject::NotFinite) });
    let answer = Work::UpdateAck { update, result: Err(Reject::NotFinite) };
    let message = Message::round(scene.chain().genesis(), ballot, answer);
    assert!(effects.contains(&Effect::Send { to: from, message }));
    assert_eq!(refusals(&effects, from), [Reject::NotFinite]);
}

// Elections and decisions

#[test]
fn a_plan_without_a_quorum_of_votes_is_refused() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.scope());
    let ballot = Ballot { round: 1, attempt: 1 };
    let vote = scene.vote(1, ballot, 1, None);
    let plan = Signed::new(&scene.identities[1], &scope, RoundPlan { ballot, version: 1, task: None });
    for votes in [vec![vote.clone()], vec![vote.clone(), vote]] {
        let opened = Paxos::RoundOpened(RoundOpened { votes, plan: plan.clone() });
        assert_eq!(refusals(&scene.say_paxos(from, ballot, opened), from), [Reject::NoQuorum]);
    }
    assert!(scene.paxos().opened().is_none());
}

#[test]
fn a_plan_that_its_coordinator_did_not_sign_is_refused() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.scope());
    let ballot = Ballot { round: 1, attempt: 1 };
    let votes = votes(&[&scene.identities[1], &scene.identities[2]], &scope, ballot, from);
    let plan = |signer: usize, scope: &Scope, ballot| {
        Signed::new(&scene.identities[signer], scope, RoundPlan { ballot, version: 1, task: None })
    };
    let elsewhere = Scope { parent: Hash::of(b"another record"), ..scope };
    let plans = [
        (plan(2, &scope, ballot), Reject::NoQuorum),
        (plan(1, &elsewhere, ballot), Reject::BadSignature),
        (plan(1, &scope, Ballot { attempt: 0, ..ballot }), Reject::StaleBallot),
    ];
    for (plan, reject) in plans {
        let opened = Paxos::RoundOpened(RoundOpened { votes: votes.clone(), plan });
        assert_eq!(refusals(&scene.say_paxos(from, ballot, opened), from), [reject]);
    }
    assert!(scene.paxos().opened().is_none());
}

#[test]
fn a_commit_with_accepts_of_two_ballots_is_refused() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.scope());
    let record = empty(scene.chain(), 0, from);
    let value = record.hash();
    let accept = |i: usize, attempt| {
        let content = Accept { ballot: Ballot { round: 1, attempt }, coordinator: from, value };
        Signed::new(&scene.identities[i], &scope, content)
    };
    let committed = Committed { record, accepts: by_signer(vec![accept(1, 0), accept(2, 1)]) };
    assert_eq!(refusals(&scene.say_sync(from, Sync::Committed(committed)), from), [Reject::NoQuorum]);
    assert_eq!(scene.chain().next_round(), 1);
}

#[test]
fn catching_up_takes_no_record_without_proof() {
    let mut scene = Scene::listening();
    let from = scene.id(1);
    let record = empty(scene.chain(), 0, from);
    let proven = scene.commit_of(record.clone(), &[1, 2]);
    for accepts in [vec![], proven.accepts[..1].to_vec(), vec![proven.accepts[0]; 2]] {
        let committed = Committed { record: record.clone(), accepts };
        let records = Sync::Records(vec![committed.clone()]);
        assert_eq!(refusals(&scene.say_sync(from, records), from), [Reject::NoQuorum]);
        assert_eq!(refusals(&scene.say_sync(from, Sync::Committed(committed)), from), [Reject::NoQuorum]);
        assert_eq!(scene.chain().next_round(), 1);
    }
    scene.say_sync(from, Sync::Records(vec![proven]));
    assert_eq!(scene.chain().next_round(), 2);
}

#[test]
fn what_a_voter_owes_the_order_of_candidates_it_keeps() {
    let mut scene = Scene::listening();
    let ballot = Ballot { round: 1, attempt: 0 };
    let order = scene.chain().roster().candidate_order(params().initial_model.id, ballot);
    let last = *order.iter().rev().find(|n| **n != scene.id(0)).expect("there are two others");
    let is_vote =
        |(to, m): (NodeId, &Message)| to == last && matches!(m.body, Body::Paxos { message: Paxos::Vote(_), .. });
    let effects = scene.say_paxos(last, ballot, Paxos::VoteRequest);
    assert!(!sent(&effects).any(is_vote), "in the first millisecond it votes for the last");
    let effects = scene.pass(600);
    assert!(sent(&effects).any(is_vote), "the request was not held, but forgotten");
}

#[test]
fn the_first_of_the_order_is_voted_for_at_once() {
    let mut scene = Scene::listening();
    let ballot = Ballot { round: 1, attempt: 0 };
    let order = scene.chain().roster().candidate_order(params().initial_model.id, ballot);
    let first = *order.iter().find(|n| **n != scene.id(0)).expect("there are two others");
    // Whoever is before it is not there: nobody waits for who can't stand.
    let before: Vec<NodeId> = order.iter().copied().take_while(|n| *n != first && *n != scene.id(0)).collect();
    before.into_iter().for_each(|n| drop(scene.input(Input::PeerDown(n))));
    let waits = u64::from(order[0] == scene.id(0)) * 150;
    let mut effects = scene.say_paxos(first, ballot, Paxos::VoteRequest);
    effects.extend(scene.pass(waits + 1));
    let voted =
        sent(&effects).any(|(to, m)| to == first && matches!(m.body, Body::Paxos { message: Paxos::Vote(_), .. }));
    assert!(voted);
}

/// A coordinator whose proposal names a model that it never serves: it is abandoned, and what it says over and over takes
/// nobody back.
#[test]
fn an_abandoned_coordinator_is_not_followed_again() {
    let mut scene = Scene::listening();
    let (from, other) = (scene.id(1), scene.id(2));
    let ballot = Ballot { round: 1, attempt: 1 };
    let voters = [scene.identities[1].clone(), scene.identities[2].clone()];
    let mut record = empty(scene.chain(), 1, from);
    record.kind = Kind::Train;
    record.model = BlobRef { id: Hash::of(b"never served"), len: 40 };
    record.participants = scene.chain().roster().participant_order(params().initial_model.id, 1);
    record.contributions =
        by_signer(vec![scene.signed(1, scene.contribution(1, b"a")), scene.signed(2, scene.contribution(2, b"b"))]);
    assert_eq!(scene.chain().check(&record), Ok(()));
    let proposal = propose(&voters[0], &[&voters[0], &voters[1]], &scene.scope(), ballot, record);
    let beat = Heartbeat { phase: Phase::Proposing, plan: Hash::ZERO, proposal: None, progress: Vec::new() };
    let (mut followed_ms, mut abandoned, mut willing) = (0, 0, 0);
    for _ in 0..20 * MINUTE_MS / 250 {
        for effect in scene.pass(250) {
            if let Effect::Emit(Event::AttemptOver { why, .. }) = effect {
                abandoned += u32::from(why.contains("nothing committed"));
            }
        }
        scene.say_paxos(from, ballot, Paxos::Proposal(proposal.clone()));
        scene.say_paxos(from, ballot, Paxos::Heartbeat(beat.clone()));
        followed_ms += u64::from(scene.paxos().opened().is_some_and(|o| o.coordinator == from)) * 250;
        let present = scene.ballot();
        if present > ballot {
            let effects = scene.say_paxos(other, present, Paxos::PreVote);
            let grants = sent(&effects)
                .filter(|(to, m)| *to == other && matches!(m.body, Body::Paxos { message: Paxos::PreVoteGranted, .. }));
            willing += grants.count();
        }
    }
    assert_eq!(abandoned, 1);
    assert!(followed_ms < 3 * MINUTE_MS, "it was followed for {} s", followed_ms / 1_000);
    assert!(willing > 100, "in 20 minutes another would have got {willing} votes");
}

/// Node 1 committed a record with node 2, which then says to the next coordinator that it accepted another.
#[test]
fn one_lying_vote_does_not_overwrite_a_commit() {
    let mut scene = Scene::listening();
    let scope = scene.scope();
    let (honest, liar) = (scene.identities[1].clone(), scene.identities[2].clone());
    let (first, second) = (Ballot { round: 1, attempt: 0 }, Ballot { round: 1, attempt: 1 });
    let decided = scene.commit_of(Record { open_ms: 1, ..empty(scene.chain(), 0, honest.node_id()) }, &[1, 2]);
    assert_eq!(scene.chain().check_committed(&decided), Ok(()));
    let public_votes = votes(&[&honest, &liar], &scope, first, honest.node_id());
    let made_up = Record { open_ms: 777, ..empty(scene.chain(), 1, liar.node_id()) };
    let claim = Signed::new(&liar, &scope, Proposed { ballot: second, value: made_up.hash() });
    let (chain, me, from) = (scope.chain, scene.id(0), liar.node_id());
    // Node 1 is away. The liar claims an accept in attempt 1, and shows for it votes of attempt 0 that anybody has.
    scene.input(Input::PeerDown(honest.node_id()));
    let mut asked = 0;
    for _ in 0..400 {
        let mut effects = scene.step();
        while let Some(effect) = effects.pop() {
            assert_eq!(accepted(std::slice::from_ref(&effect)), None, "it takes up what nobody can have accepted");
            let Effect::Send { to, message: Message { body: Body::Paxos { ballot, message }, .. } } = effect else {
                continue;
            };
            let answer = match message {
                Paxos::PreVote if to == from => Paxos::PreVoteGranted,
                Paxos::VoteRequest if to == from => {
                    let vote = Vote { ballot, candidate: me, accepted: Some(claim), silent: Vec::new() };
                    Paxos::Vote(Signed::new(&liar, &scope, vote))
                }
                Paxos::QueryProposal { .. } if to == from => {
                    asked += 1;
                    let record = made_up.clone();
                    Paxos::Proposal(crate::record::Proposal { proposed: claim, record, votes: public_votes.clone() })
                }
                _ => continue,
            };
            effects.extend(scene.say(from, Message::paxos(chain, ballot, answer)));
        }
    }
    assert!(asked > 0, "the lie was never looked at");
    // Node 1 is back, and with it what was decided.
    scene.say_sync(honest.node_id(), Sync::Committed(decided.clone()));
    assert_eq!(scene.chain().head_hash(), decided.record.hash());
}

// Liars, and the proofs of it

#[test]
fn two_votes_of_one_ballot_are_evidence() {
    let mut scene = Scene::listening();
    let ballot = Ballot { round: 1, attempt: 1 };
    let votes = Box::new([scene.vote(2, ballot, 0, None), scene.vote(2, ballot, 1, None)]);
    let Scope { chain, parent, .. } = scene.scope();
    let evidence = Evidence { chain, parent, lie: Lie::Votes(votes) };
    let from = scene.id(1);
    let effects = scene.say_of_membership(from, Membership::Evidence(evidence));
    assert_eq!(liars(&effects), [scene.id(2)]);
}

#[test]
fn two_votes_of_one_ballot_are_noticed_by_who_sees_both() {
    let mut scene = Scene::listening();
    let (ballot, scope) = (Ballot { round: 1, attempt: 1 }, scene.scope());
    let opened = |scene: &Scene, coordinator: usize, votes| {
        let plan = RoundPlan { ballot, version: 1, task: None };
        Paxos::RoundOpened(RoundOpened { votes, plan: Signed::new(&scene.identities[coordinator], &scope, plan) })
    };
    let first = opened(&scene, 1, by_signer(vec![scene.vote(1, ballot, 1, None), scene.vote(2, ballot, 1, None)]));
    let second = opened(&scene, 2, by_signer(vec![scene.vote(0, ballot, 2, None), scene.vote(2, ballot, 2, None)]));
    let from = scene.id(1);
    assert_eq!(liars(&scene.say_paxos(from, ballot, first)), []);
    assert_eq!(liars(&scene.say_paxos(from, ballot, second)), [scene.id(2)]);
}

#[test]
fn two_proposals_of_one_ballot_are_evidence() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.scope());
    let ballot = Ballot { round: 1, attempt: 1 };
    let voters = [scene.identities[1].clone(), scene.identities[2].clone()];
    let proposal = |open_ms| {
        let record = Record { open_ms, ..empty(scene.chain(), 1, from) };
        Paxos::Proposal(propose(&voters[0], &[&voters[0], &voters[1]], &scope, ballot, record))
    };
    let (first, second) = (proposal(1), proposal(2));
    let effects = scene.say_paxos(from, ballot, first);
    assert!(accepted(&effects).is_some());
    let effects = scene.say_paxos(from, ballot, second);
    assert!(accepted(&effects).is_none());
    assert_eq!(liars(&effects), [from]);
}

#[test]
fn a_vote_that_hides_an_accept_is_evidence() {
    let mut scene = Scene::listening();
    let (scope, first, later) = (scene.scope(), Ballot { round: 1, attempt: 0 }, Ballot { round: 1, attempt: 3 });
    let decided = scene.commit_of(empty(scene.chain(), 0, scene.id(1)), &[1, 2]);
    let told = Signed::new(&scene.identities[1], &scope, Proposed { ballot: first, value: decided.record.hash() });
    // Node 1 tells of its accept, node 2 does not.
    let votes = by_signer(vec![scene.vote(1, later, 1, Some(told)), scene.vote(2, later, 1, None)]);
    let plan = Signed::new(&scene.identities[1], &scope, RoundPlan { ballot: later, version: 1, task: None });
    let from = scene.id(1);
    let opened = Paxos::RoundOpened(RoundOpened { votes, plan });
    assert_eq!(liars(&scene.say_paxos(from, later, opened)), []);
    assert_eq!(liars(&scene.say_sync(from, Sync::Committed(decided))), [scene.id(2)]);
}

#[test]
fn a_founders_bind_and_refusal_are_evidence() {
    let mut scene = Scene::listening();
    let id = scene.chain().founding();
    let scope = founding_scope(params().run, id);
    let refusal = |i: usize| Signed::new(&scene.identities[i], &scope, Refusal { chain: None });
    let (refusal, from) = (refusal(2), scene.id(1));
    let effects = scene.say(from, Message::founding(id, Word::Refusal(refusal)));
    assert_eq!(liars(&effects), [scene.id(2)]);
    let stranger = Identity::from_secret(&[9; 32]);
    let refusal = Signed::new(&stranger, &scope, Refusal { chain: None });
    let effects = scene.say(stranger.node_id(), Message::founding(id, Word::Refusal(refusal)));
    assert_eq!(liars(&effects), []);
}

#[test]
fn honest_statements_are_no_evidence() {
    let scene = Scene::listening();
    let (first, later) = (Ballot { round: 1, attempt: 0 }, Ballot { round: 1, attempt: 1 });
    let scope = scene.scope();
    let accept = |i: usize, ballot, value: &[u8]| {
        let content = Accept { ballot, coordinator: scene.id(1), value: Hash::of(value) };
        Signed::new(&scene.identities[i], &scope, content)
    };
    let proposed =
        |ballot, value: &[u8]| Signed::new(&scene.identities[1], &scope, Proposed { ballot, value: Hash::of(value) });
    let hidden = |accept, vote| Lie::HiddenAccept { accept, vote: Box::new(vote) };
    let told = scene.vote(2, later, 1, Some(proposed(first, b"x")));
    for lie in [
        // The same said again, in different ballots, or by two.
        Lie::Votes(Box::new([scene.vote(2, first, 1, None), scene.vote(2, first, 1, None)])),
        Lie::Votes(Box::new([scene.vote(2, first, 1, None), scene.vote(2, later, 0, None)])),
        Lie::Votes(Box::new([scene.vote(2, first, 1, None), scene.vote(1, first, 0, None)])),
        Lie::Accepts([accept(2, first, b"x"), accept(2, first, b"x")]),
        Lie::Accepts([accept(2, first, b"x"), accept(2, later, b"y")]),
        Lie::Accepts([accept(2, first, b"x"), accept(1, first, b"y")]),
        Lie::Proposals([proposed(first, b"x"), proposed(later, b"y")]),
        // A vote that tells of the accept, one that came before it, and another's.
        hidden(accept(2, first, b"x"), told.clone()),
        hidden(accept(2, later, b"x"), scene.vote(2, first, 1, None)),
        hidden(accept(2, first, b"x"), scene.vote(1, later, 1, None)),
    ] {
        let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie };
        assert_eq!(scene.chain().liar(&evidence), Err(Reject::BadRosterChange), "{evidence:?}");
    }
    // What is told wrongly is a lie.
    let other = hidden(accept(2, first, b"y"), told);
    let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie: other };
    assert_eq!(scene.chain().liar(&evidence), Ok(scene.id(2)));
}

#[test]
fn a_second_commit_of_a_round_is_noticed_with_its_culprits() {
    let mut scene = Scene::listening();
    let record = |scene: &Scene, open_ms| Record { open_ms, ..empty(scene.chain(), 0, scene.id(2)) };
    let first = scene.commit_of(record(&scene, 1), &[0, 2]);
    let second = scene.commit_of(record(&scene, 2), &[1, 2]);
    let (from, liar) = (scene.id(1), scene.id(2));
    scene.say_sync(from, Sync::Committed(first.clone()));
    assert_eq!(scene.chain().next_round(), 2);
    let effects = scene.say_sync(from, Sync::Committed(second.clone()));
    let (ours, theirs) = (first.record.hash(), second.record.hash());
    let event = Event::SecondCommit { round: 1, ours, theirs, suspects: vec![liar] };
    assert!(effects.contains(&Effect::Emit(event)));
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Persist { item: Persist::SecondCommit(c), .. } if *c == second))
    );
    assert_eq!(liars(&effects), [liar]);
    // One without proof is nothing.
    let unproven = Committed { accepts: second.accepts[..1].to_vec(), ..second };
    let effects = scene.say_sync(from, Sync::Committed(unproven));
    assert_eq!(refusals(&effects, from), [Reject::NoQuorum]);
    assert_eq!(scene.chain().head_hash(), ours);
}

#[test]
fn a_second_outcome_of_the_founding_is_noticed_with_its_culprits() {
    let mut scene = Scene::listening();
    let id = scene.chain().founding();
    let scope = crate::record::founding_scope(params().run, id);
    let (ballot, coordinator) = (Ballot { round: 0, attempt: 1 }, scene.id(2));
    let abort = Record::plain(Kind::Abort, ballot, coordinator, id, BlobRef::NONE);
    let by: Vec<&Identity> = [1, 2].map(|i| &scene.identities[i]).to_vec();
    let second = commit(&by, &scope, ballot, coordinator, abort);
    let (from, ours, theirs) = (scene.id(1), scene.chain().genesis(), second.record.hash());
    let suspects = by.iter().map(|i| i.node_id()).collect();
    let effects = scene.say(from, Message::founding(id, Word::Decided(second)));
    assert!(effects.contains(&Effect::Emit(Event::SecondCommit { round: 0, ours, theirs, suspects })));
}

#[test]
fn evidence_never_makes_a_record_that_cannot_be_sent() {
    let mut scene = Scene::leading();
    let (scope, ballot) = (scene.scope(), Ballot { round: 1, attempt: 50 });
    let long = vec![made_up(1); 60_000];
    let vote = |candidate: usize| {
        let vote = Vote { ballot, candidate: scene.id(candidate), accepted: None, silent: long.clone() };
        Signed::new(&scene.identities[2], &scope, vote)
    };
    let lie = Lie::Votes(Box::new([vote(0), vote(1)]));
    let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie };
    let message = Message::membership(scope.chain, Membership::Evidence(evidence));
    assert!(message.encode().len() <= MESSAGE_BYTES_MAX, "it would not even arrive");
    let from = scene.id(2);
    let effects = scene.say(from, message);
    assert_eq!(liars(&effects), []);
    assert_eq!(refusals(&effects, from), [Reject::NoQuorum]);
    scene.still_works();
    let (ballot, model) = (scene.ballot(), BlobRef { id: Hash::of(b"next"), len: 40 });
    let effects = scene.input(Input::Aggregated { ballot, result: Ok(model) });
    let bytes = effects.iter().find_map(|e| match e {
        Effect::Send { message: m @ Message { body: Body::Paxos { message: Paxos::Proposal(_), .. }, .. }, .. } => {
            Some(m.encode().len())
        }
        _ => None,
    });
    assert!(bytes.is_some_and(|len| len <= MESSAGE_BYTES_MAX), "{bytes:?}");
}

#[test]
fn what_has_no_room_in_a_record_waits_for_the_next() {
    let mut scene = Scene::listening();
    let (scope, from) = (scene.scope(), scene.id(1));
    let ballot = Ballot { round: 1, attempt: 1 };
    let lie = Lie::Votes(Box::new([scene.vote(2, ballot, 0, None), scene.vote(2, ballot, 1, None)]));
    let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie };
    let len = crate::base::codec::encode(&Eviction::Liar { node: from, evidence: evidence.clone() }).len();
    scene.say_of_membership(from, Membership::Evidence(evidence));
    let c = scene.machine.standing.in_chain().expect("it is in a chain");
    let due = |room| c.pending.due(&scene.machine.ctx, &c.chain, &[], room).evicted.len();
    assert_eq!((due(len - 1), due(len)), (0, 1));
}

// Members that come and go

/// The last member leaves with record 1 and comes back with record 2.
fn there_and_back(scene: &mut Scene) -> (Signed<Leave>, Signed<Join>) {
    let scope = request_scope(params().run, scene.chain().genesis());
    let who = scene.identities[2].clone();
    let leave = Signed::new(&who, &scope, Leave { round: 1 });
    let join = Signed::new(&who, &scope, Join { name: "n".into(), part: None, round: 2 });
    let coordinator = scene.id(1);
    scene.commits(Record { left: vec![leave], ..empty(scene.chain(), 0, coordinator) });
    let record = Record { joined: vec![join.clone()], ..empty(scene.chain(), 0, coordinator) };
    let committed = scene.commit_of(record, &[0, 1]);
    scene.say_sync(coordinator, Sync::Committed(committed));
    assert_eq!((scene.chain().next_round(), scene.chain().roster().len()), (3, 3));
    (leave, join)
}

#[test]
fn a_request_to_leave_is_void_once_its_member_came_back() {
    let mut scene = Scene::listening();
    let (leave, _) = there_and_back(&mut scene);
    let from = scene.id(1);
    let effects = scene.say_of_membership(from, Membership::Leave(leave));
    assert_eq!(refusals(&effects, from), [Reject::Void]);
    assert_eq!(scene.chain().check_leave(&leave), Err(Reject::Void));
}

#[test]
fn a_request_to_join_is_void_once_its_member_left_again() {
    let mut scene = Scene::listening();
    let (_, join) = there_and_back(&mut scene);
    let (scope, from) = (request_scope(params().run, scene.chain().genesis()), scene.id(2));
    let leave = Signed::new(&scene.identities[2], &scope, Leave { round: 3 });
    let coordinator = scene.id(1);
    scene.commits(Record { left: vec![leave], ..empty(scene.chain(), 0, coordinator) });
    assert_eq!(scene.chain().roster().len(), 2);
    let effects = scene.say_of_membership(from, Membership::Join(join.clone()));
    assert_eq!(refusals(&effects, from), [Reject::Void]);
    // Nor in another's name.
    let effects = scene.say_of_membership(coordinator, Membership::Join(join));
    assert_eq!(refusals(&effects, coordinator), [Reject::BadSignature]);
}

#[test]
fn an_evicted_liar_does_not_come_back() {
    let mut scene = Scene::listening();
    let (scope, liar, coordinator) = (scene.scope(), scene.id(2), scene.id(1));
    let ballot = Ballot { round: 1, attempt: 1 };
    let lie = Lie::Votes(Box::new([scene.vote(2, ballot, 0, None), scene.vote(2, ballot, 1, None)]));
    let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie };
    let evicted = vec![Eviction::Liar { node: liar, evidence }];
    scene.commits(Record { evicted, ..empty(scene.chain(), 0, coordinator) });
    assert!(!scene.chain().roster().contains(liar));
    let scope = request_scope(params().run, scope.chain);
    let join = Join { name: "n".into(), part: None, round: 2 };
    let join = Signed::new(&scene.identities[2], &scope, join);
    let effects = scene.say_of_membership(liar, Membership::Join(join));
    assert_eq!(refusals(&effects, liar), [Reject::Liar]);
    let told = sent(&effects)
        .any(|(to, m)| to == liar && m.body == Body::Membership(Membership::JoinRefused { reject: Reject::Liar }));
    assert!(told, "it is not told why");
}

// Strangers

#[test]
fn a_made_up_founding_floods_nobody() {
    for mut scene in [Scene::listening(), Scene::gathering()] {
        for (secret, size) in [(8, 256), (9, 1_024)] {
            let stranger = Identity::from_secret(&[secret; 32]);
            let from = stranger.node_id();
            scene.input(Input::PeerUp(from));
            let members = (2..size).map(made_up).chain([from, scene.id(0)]).collect();
            let founding = founding_of(&stranger, members);
            let message = Message::founding(founding.id(), Word::Founding(founding));
            let len = message.encode().len();
            let mut effects = scene.say(from, message);
            effects.extend(scene.pass(8_000));
            assert!(bytes_sent(&effects) < len, "{len} bytes in, {} out", bytes_sent(&effects));
            assert!(!has_bound_itself(&effects));
        }
    }
}

#[test]
fn nobody_is_bound_to_made_up_members() {
    let mut scene = Scene::gathering();
    let stranger = Identity::from_secret(&[9; 32]);
    let from = stranger.node_id();
    scene.input(Input::PeerUp(from));
    scene.say(from, presence(1, Hash::ZERO, 0));
    // It asks first, as it must: a member that this node does not see is why not.
    let mut members: Vec<Member> = [made_up(1), from, scene.id(0)].into_iter().map(member).collect();
    members.sort();
    let invitation = Hash::of(b"an invitation");
    let effects = scene.say(from, Message::founding(invitation, Word::Invite { members }));
    let no = Word::Decline { because_of: Some(made_up(1)) };
    assert!(effects.contains(&Effect::Send { to: from, message: Message::founding(invitation, no) }));
    let founding = founding_of(&stranger, vec![made_up(1), from, scene.id(0)]);
    let mut effects = scene.say(from, Message::founding(founding.id(), Word::Founding(founding)));
    scene.input(Input::PeerDown(from));
    effects.extend(scene.pass(10 * MINUTE_MS));
    assert!(!has_bound_itself(&effects));
    assert_eq!(scene.machine.state(), State::Gathering);
    // The real run is there.
    let real = genesis(&scene.identities).record.hash();
    let mut effects = Vec::new();
    for peer in [scene.id(1), scene.id(2)] {
        scene.input(Input::PeerUp(peer));
        effects.extend(scene.say(peer, presence(1, real, 3)));
    }
    effects.extend(scene.pass(MINUTE_MS));
    assert!(!asks_for_records(&effects).is_empty());
}

#[test]
fn a_strangers_founding_makes_nobody_fetch_anything() {
    for mut scene in [Scene::listening(), Scene::gathering()] {
        let forged = identities(21, 2);
        let from = forged[0].node_id();
        scene.input(Input::PeerUp(from));
        let model = BlobRef { id: Hash::of(b"4 GiB of nothing"), len: BLOB_BYTES_MAX };
        let mut content = founding_of(&forged[0], vec![forged[0].node_id(), forged[1].node_id(), scene.id(0)]);
        content = Signed::new(
            &forged[0],
            &Founding::proposal_scope(params().run),
            Founding { model, ..content.vouched().clone() },
        );
        let (id, scope) = (content.id(), content.scope());
        let mut effects = scene.say(from, Message::founding(id, Word::Founding(content)));
        let ballot = Ballot { round: 0, attempt: 3 };
        let record = Record::plain(Kind::Abort, ballot, from, id, model);
        let proposal = propose(&forged[0], &[&forged[0], &forged[1]], &scope, ballot, record);
        effects.extend(scene.say(from, Message::paxos(id, ballot, Paxos::Proposal(proposal))));
        effects.extend(scene.pass(MINUTE_MS));
        assert!(!effects.iter().any(|e| matches!(e, Effect::Fetch { blob, .. } if *blob == model)));
        assert!(!has_bound_itself(&effects));
    }
}

#[test]
fn records_that_nobody_asked_for_capture_nobody() {
    let mut scene = Scene::gathering();
    let forged = identities(21, 3);
    let first = genesis(&forged);
    let (from, trap) = (forged[0].node_id(), first.record.hash());
    scene.input(Input::PeerUp(from));
    let effects = scene.say(from, Message::sync(trap, Sync::Records(vec![first.clone()])));
    assert_eq!(refusals(&effects, from), [Reject::Unasked]);
    // Nor does it follow a chain of which it sees no quorum, asked for or not.
    let mut effects = scene.say(from, presence(1, trap, 9));
    assert_eq!(asks_for_records(&effects), [from]);
    effects.extend(scene.say(from, Message::sync(trap, Sync::Records(vec![first]))));
    effects.extend(scene.pass(MINUTE_MS));
    assert!(scene.machine.chain().is_none(), "it is in the stranger's chain, on whose roster it is not");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Persist { .. })), "and keeps it");
}

#[test]
fn a_presence_ends_no_chain() {
    let mut scene = Scene::leading();
    let forged = identities(21, 3);
    let first = genesis(&forged);
    let (from, trap) = (forged[0].node_id(), first.record.hash());
    scene.input(Input::PeerUp(from));
    let mut effects = scene.say(from, presence(1, trap, 9));
    effects.extend(scene.say(from, Message::sync(trap, Sync::Records(vec![first]))));
    // It gives its own word that its chain lives, in one name after another.
    let scope = request_scope(params().run, trap);
    for signer in &forged {
        let word = Signed::new(signer, &scope, Alive { yielding: scene.chain().genesis() });
        effects.extend(scene.say(from, Message::sync(trap, Sync::Alive(word))));
    }
    effects.extend(scene.pass(5_000));
    assert!(accepted(&effects).is_none(), "it proposes to yield");
    assert_eq!(scene.chain().genesis(), genesis(&scene.identities).record.hash());
    assert!(effects.contains(&Effect::Emit(Event::Fork { genesis: trap })), "and nobody hears of the other chain");
}

#[test]
fn a_yield_is_accepted_only_for_a_chain_that_was_shown() {
    let mut scene = Scene::listening();
    let forged = identities(21, 3);
    let (trap, scope, from) = (genesis(&forged).record.hash(), scene.scope(), scene.id(1));
    let yielding = scene.chain().genesis();
    let word = |i: &Identity| Signed::new(i, &request_scope(params().run, trap), Alive { yielding });
    let alive = by_signer(forged.iter().map(word).collect());
    let ballot = Ballot { round: 1, attempt: 1 };
    let record = Record { kind: Kind::Yield { to: trap, alive }, ..empty(scene.chain(), 1, from) };
    assert_eq!(scene.chain().check(&record), Ok(()), "the words hold, whosever they are");
    let voters = [scene.identities[1].clone(), scene.identities[2].clone()];
    let proposal = propose(&voters[0], &[&voters[0], &voters[1]], &scope, ballot, record);
    let effects = scene.say_paxos(from, ballot, Paxos::Proposal(proposal.clone()));
    assert!(accepted(&effects).is_none());
    // Whoever proposes it is asked to show the other chain. Then it may.
    assert_eq!(asks_for_records(&effects), [from]);
    scene.say(from, Message::sync(trap, Sync::Records(vec![genesis(&forged)])));
    let effects = scene.say_paxos(from, ballot, Paxos::Proposal(proposal));
    assert!(accepted(&effects).is_some());
}

#[test]
fn made_up_names_do_not_fill_the_table_of_peers() {
    let mut scene = Scene::listening();
    for i in 0..8_192 {
        let node = made_up(i);
        scene.say(node, presence(1, Hash::ZERO, 0));
        // Some connect for a moment.
        if i % 4 == 0 {
            scene.input(Input::PeerUp(node));
            scene.input(Input::PeerDown(node));
        }
    }
    assert!((0..8_192).all(|i| scene.machine.ctx.peers.get(made_up(i)).is_none()));
    let fresh = Identity::from_secret(&[77; 32]).node_id();
    scene.input(Input::PeerUp(fresh));
    assert!(scene.machine.ctx.peers.is_connected(fresh));
}

#[test]
fn records_on_request_are_served_at_a_bounded_rate() {
    let mut scene = Scene::listening();
    let stranger = Identity::from_secret(&[9; 32]).node_id();
    let question = |scene: &mut Scene| {
        let effects = scene.say_sync(stranger, Sync::Query { from: 0 });
        bytes_sent(&effects) as u64
    };
    assert_eq!(question(&mut scene), 0, "who is not connected is served nothing");
    scene.input(Input::PeerUp(stranger));
    assert!(question(&mut scene) > 0);
    let (mut served, mut answers) = (0, 0);
    for step in 0..20_000 {
        scene.now = scene.now.plus_ms(u64::from(step % 10 == 0));
        let bytes = question(&mut scene);
        (served, answers) = (served + bytes, answers + u64::from(bytes > 0));
    }
    // Two seconds, and a burst of one.
    assert!(served <= 3 * SERVED_BYTES_PER_S && answers <= 3_100, "{served} bytes in {answers} answers");
}

// Between chains

#[test]
fn a_silent_peer_does_not_keep_a_node_out() {
    let mut scene = Scene::gathering();
    let real = genesis(&scene.identities).record.hash();
    let peers = [scene.id(1), scene.id(2)];
    let mut asked: BTreeMap<NodeId, u32> = BTreeMap::new();
    for peer in peers {
        scene.input(Input::PeerUp(peer));
    }
    let mut effects: Vec<Effect> = peers.into_iter().flat_map(|peer| scene.say(peer, presence(1, real, 3))).collect();
    effects.extend(scene.pass(3 * RETRY_MS));
    asks_for_records(&effects).into_iter().for_each(|peer| *asked.entry(peer).or_default() += 1);
    assert_eq!(asked.keys().copied().collect::<Vec<_>>(), peers, "asked: {asked:?}");
}

/// The record that ends a chain, for another.
fn yields(chain: &Chain, members: &[Identity]) -> Committed {
    let to = Hash::of(b"another chain");
    let others = identities(21, 3);
    let scope = request_scope(params().run, to);
    let word = |i: &Identity| Signed::new(i, &scope, Alive { yielding: chain.genesis() });
    let kind = Kind::Yield { to, alive: by_signer(others.iter().map(word).collect()) };
    let record = Record { kind, ..empty(chain, 0, members[1].node_id()) };
    let ballot = Ballot { round: 1, attempt: 0 };
    commit(&[&members[1], &members[2]], &chain.scope(), ballot, members[1].node_id(), record)
}

#[test]
fn killed_in_the_middle_of_a_yield_a_node_moves_on_after_its_restart() {
    let members = identities(1, 3);
    let own = chain(&members);
    let pair = [genesis(&members), yields(&own, &members)];
    assert_eq!(own.check_committed(&pair[1]), Ok(()));
    // As the chain that it is in, and as one that was given up: the record alone says it.
    let as_chain = Recovered { chain: pair.to_vec(), ..Recovered::default() };
    let as_given_up = Recovered { given_up: vec![pair.clone()], ..Recovered::default() };
    for recovered in [as_chain, as_given_up] {
        let mut scene = Scene::new(members.clone(), recovered);
        assert_eq!(scene.machine.state(), State::Gathering);
        // One that missed the yield shows the chain: it is shown the yield, and not followed.
        let from = scene.id(1);
        scene.input(Input::PeerUp(from));
        let mut effects = scene.say(from, presence(1, own.genesis(), 1));
        let shown = Message::sync(own.genesis(), Sync::Records(vec![pair[1].clone()]));
        assert!(effects.contains(&Effect::Send { to: from, message: shown }));
        effects.extend(scene.pass(MINUTE_MS));
        assert!(asks_for_records(&effects).is_empty());
        assert_eq!(scene.machine.state(), State::Gathering);
    }
}

#[test]
fn a_chain_that_gave_itself_up_is_not_entered_again() {
    let mut scene = Scene::listening();
    let own = scene.chain().clone();
    let (from, record) = (scene.id(1), yields(&own, &scene.identities));
    let effects = scene.say_sync(from, Sync::Committed(record.clone()));
    let to = Hash::of(b"another chain");
    assert!(effects.contains(&Effect::Emit(Event::Yielded { from: own.genesis(), to })));
    assert_eq!(scene.machine.state(), State::Gathering);
    // Both others still show it, which is a quorum.
    let mut effects = Vec::new();
    for peer in [scene.id(1), scene.id(2)] {
        effects.extend(scene.say(peer, presence(9, own.genesis(), 1)));
        let records = Sync::Records(own.records().to_vec());
        effects.extend(scene.say(peer, Message::sync(own.genesis(), records)));
    }
    // They may even ask for votes in its first round.
    let ballot = Ballot { round: 1, attempt: 0 };
    effects.extend(scene.say(from, Message::paxos(own.genesis(), ballot, Paxos::VoteRequest)));
    effects.extend(scene.pass(MINUTE_MS));
    assert!(scene.machine.chain().is_none());
    let signs = |e: &Effect| matches!(e, Effect::Persist { item: Persist::Vote { .. } | Persist::Accepted { .. }, .. });
    assert!(!effects.iter().any(signs));
}

#[test]
fn a_crash_between_the_decision_and_the_first_record_loses_no_chain() {
    let members = identities(1, 3);
    let (founding, committed) = (founding(&members), genesis(&members));
    let bind = crate::chain::fixture::bind(&members[0], &founding);
    let ballot = Ballot::of_round(0);
    let all: Vec<&Identity> = members.iter().collect();
    let proposal = propose(&members[0], &all, &founding.scope(), ballot, committed.record.clone());
    let accepted = RecoveredBallot { chain: founding.id(), round: 0, vote: None, accepted: Some(proposal) };
    let recovered = Recovered {
        promises: vec![(founding.id(), ballot)],
        foundings: vec![RecoveredFounding::Bound { founding: founding.clone(), bind }],
        ballots: vec![accepted],
        ..Recovered::default()
    };
    let mut scene = Scene::new(members, recovered);
    assert_eq!(scene.machine.state(), State::Founding);
    let from = scene.id(1);
    scene.input(Input::PeerUp(from));
    let effects = scene.say(from, Message::founding(founding.id(), Word::Decided(committed.clone())));
    let is_written = |e: &Effect| matches!(e, Effect::Persist { item: Persist::Committed { .. }, .. });
    assert!(effects.iter().any(is_written));
    assert_eq!(scene.chain().genesis(), committed.record.hash());
}

#[test]
fn a_promise_whose_vote_is_gone_keeps_a_node_from_voting() {
    let mut scene = Scene::listening();
    let (genesis, from) = (genesis(&scene.identities), scene.id(1));
    let chain = genesis.record.hash();
    let promised = Ballot { round: 1, attempt: 4 };
    let recovered = Recovered { chain: vec![genesis], promises: vec![(chain, promised)], ..Recovered::default() };
    scene.restart(recovered);
    for peer in [1, 2] {
        scene.input(Input::PeerUp(scene.id(peer)));
    }
    let mut effects = Vec::new();
    for attempt in 0..12 {
        effects.extend(scene.say_paxos(from, Ballot { round: 1, attempt }, Paxos::VoteRequest));
        effects.extend(scene.pass(1_000));
    }
    assert!(!effects.iter().any(|e| matches!(e, Effect::Persist { item: Persist::Vote { .. }, .. })));
    // The next round is another matter.
    let record = empty(scene.chain(), 0, from);
    scene.commits(record);
    let effects = scene.pass(MINUTE_MS);
    assert!(effects.iter().any(|e| matches!(e, Effect::Persist { item: Persist::Vote { .. }, .. })));
}

#[test]
fn what_waits_for_the_disk_leaves_when_it_is_there_and_not_before() {
    let mut scene = Scene::listening();
    while scene.machine.poll_effect().is_some() {}
    let (chain, to) = (scene.chain().genesis(), scene.id(1));
    let ballot = Ballot { round: 1, attempt: 0 };
    let vote = scene.vote(0, ballot, 1, None);
    let message = Message::paxos(chain, ballot, Paxos::Vote(vote.clone()));
    let ctx = &mut scene.machine.ctx;
    let id = ctx.persist_then(Persist::Vote { chain, vote }, vec![Held::Send(to, message.clone())]);
    let effects: Vec<Effect> = std::iter::from_fn(|| ctx.poll_effect()).collect();
    assert!(matches!(effects.as_slice(), [Effect::Persist { .. }]), "{effects:?}");
    assert_eq!(ctx.promise(chain), Some(ballot), "the promise holds from the moment of the write");
    ctx.persisted(PersistId(id.0 + 1));
    assert_eq!(ctx.poll_effect(), None);
    ctx.persisted(id);
    assert_eq!(ctx.poll_effect(), Some(Effect::Send { to, message }));
    ctx.persisted(id);
    assert_eq!(ctx.poll_effect(), None, "once");
}

// What the status says

impl Scene {
    /// Says which members a test means: 1 and 2 are the others.
    fn told(&self, silent: [u64; 3]) -> Option<String> {
        let index = |node| self.identities.iter().position(|i| i.node_id() == node).unwrap_or_default();
        let reason = self.machine.view(self.now, |node| silent[index(node)]).reason;
        let names = |text: String| (0..3).fold(text, |text, i| text.replace(&self.id(i).short(), &format!("node-{i}")));
        reason.map(names)
    }

    /// The same, while everybody connected is heard.
    fn reason(&self) -> Option<String> {
        self.told([0; 3])
    }

    /// Lets time pass while the others answer the heartbeats of this node.
    fn pass_led(&mut self, ms: u64) {
        for _ in 0..ms / 200 {
            self.pass(200);
            let promised = self.ballot();
            for peer in [1, 2] {
                self.say_paxos(self.id(peer), promised, Paxos::HeartbeatAck { promised });
            }
        }
    }

    /// It follows node 1, which plans that all take part.
    fn following() -> Self {
        let mut scene = Self::listening();
        scene.is_led();
        scene
    }

    /// Node 1 opens the next round, and plans that all take part.
    fn is_led(&mut self) -> Vec<Effect> {
        let chain = self.chain();
        let (from, scope, ballot) = (self.id(1), chain.scope(), Ballot { round: chain.next_round(), attempt: 0 });
        let votes = votes(&[&self.identities[1], &self.identities[2]], &scope, ballot, from);
        let participants = chain.roster().participant_order(chain.head().model.id, ballot.round);
        let plan = RoundPlan { ballot, version: 1, task: Some(Task::Train { participants }) };
        let plan = Signed::new(&self.identities[1], &scope, plan);
        let effects = self.say_paxos(from, ballot, Paxos::RoundOpened(RoundOpened { votes, plan }));
        assert_eq!(self.paxos().phase(), Some(Phase::Collecting));
        effects
    }

    /// Lets time pass while node 1, which it follows, says what participants do.
    fn pass_following(&mut self, ms: u64, does: impl Fn(usize) -> Activity) {
        for _ in 0..ms / 200 {
            self.pass(200);
            let (from, ballot, phase) = (self.id(1), self.ballot(), Phase::Collecting);
            let opened = self.paxos().opened().expect("it follows");
            let Some(Task::Train { participants }) = &opened.plan.task else { panic!("{opened:?}") };
            let progress = participants.iter().map(|n| does(self.index(*n))).collect();
            let plan = RoundOpened {
                votes: opened.votes.clone(),
                plan: Signed::new(&self.identities[1], &self.scope(), opened.plan.clone()),
            }
            .plan_hash();
            let heartbeat = Heartbeat { phase, plan, proposal: None, progress };
            self.say_paxos(from, ballot, Paxos::Heartbeat(heartbeat));
        }
    }
}

#[test]
fn while_all_train_nothing_is_in_the_way() {
    let mut scene = Scene::leading();
    scene.pass_led(20_000);
    assert_eq!(scene.reason(), None);
    let mut scene = Scene::following();
    scene.pass_following(20_000, |_| Activity::Training { percent: 0 });
    assert_eq!(scene.reason(), None);
}

/// It asked for the model again as soon as it could not keep it, a thousand times a second; that it fetched something was all
/// that the others knew, and each round waited for it.
#[test]
fn who_can_t_keep_the_model_says_so_at_once_and_asks_for_it_now_and_then() {
    let mut scene = Scene::listening();
    let next = BlobRef { id: Hash::of(b"the next model"), len: scene.chain().head().model.len };
    let chain = scene.chain();
    let participants = chain.roster().participant_order(chain.head().model.id, 1);
    let contributions =
        [1, 2].map(|i| Signed::new(&scene.identities[i], &scene.scope(), scene.contribution(i, b"update")));
    let record = Record {
        participants,
        contributions: by_signer(contributions.to_vec()),
        ..Record::plain(Kind::Train, Ballot::of_round(1), scene.id(1), scene.chain().head_hash(), next)
    };
    let mut effects = scene.commits(record);
    effects.extend(scene.is_led());
    let mut fetches = 0;
    let began = scene.now;
    while scene.now.since_ms(began) < 10_000 {
        let asked = |e: &&Effect| matches!(e, Effect::Fetch { blob, .. } if *blob == next);
        effects = match effects.iter().find(asked) {
            Some(_) => {
                fetches += 1;
                scene.input(Input::FetchFailed { blob: next.id, failure: FetchFailure::Disk })
            }
            None => scene.pass(50),
        };
        assert!(fetches <= 1 + scene.now.since_ms(began) / 400, "{fetches} in {} ms", scene.now.since_ms(began));
    }
    let reason = scene.reason().unwrap_or_default();
    assert!(reason.contains("this node has no update for this round: the model can't be kept on its disk"), "{reason}");
}

#[test]
fn a_coordinator_names_whose_update_it_waits_for_and_who_is_silent() {
    let mut scene = Scene::leading();
    scene.pass_led(3_000);
    let waits =
        "round 1 has waited 3 s for the update of node-2 (silent for 5 s); see whether it runs and has a network";
    assert_eq!(scene.told([0, 0, 5_000]).as_deref(), Some(waits));
    let (ballot, node, me) = (scene.ballot(), scene.id(1), scene.id(0));
    let good = scene.signed(1, scene.contribution(1, b"good"));
    let blob = good.vouched().update.id;
    scene.offers(node, good);
    scene.input(Input::Fetched { blob });
    scene.input(Input::Folded { ballot, node, result: Ok(()) });
    assert_eq!(scene.reason(), None, "most still train");
    let Contribution { update, samples, train_loss, train_ms, .. } = scene.contribution(0, b"own");
    let trained = TrainedUpdate { update, samples, train_loss, train_ms, evaluation: None, trainer: String::new() };
    let parent = scene.chain().head_hash();
    scene.input(Input::Trained { round: 1, parent, outcome: Ok(trained) });
    scene.input(Input::Folded { ballot, node: me, result: Ok(()) });
    scene.pass_led(1_000);
    assert_eq!(scene.reason().as_deref(), Some("round 1 has waited 4 s for the update of node-2"));
}

#[test]
fn a_follower_names_whose_update_its_coordinator_waits_for() {
    let mut scene = Scene::following();
    scene.pass_following(4_000, |i| if i == 2 { Activity::Training { percent: 0 } } else { Activity::Done });
    assert_eq!(scene.reason(), None, "this node trains, too");
    let (parent, ballot, from) = (scene.chain().head_hash(), scene.ballot(), scene.id(1));
    let Contribution { update, samples, train_loss, train_ms, .. } = scene.contribution(0, b"own");
    let trained = TrainedUpdate { update, samples, train_loss, train_ms, evaluation: None, trainer: String::new() };
    scene.input(Input::Trained { round: 1, parent, outcome: Ok(trained) });
    scene.say_round(from, ballot, Work::UpdateAck { update: update.id, result: Ok(()) });
    assert_eq!(scene.reason().as_deref(), Some("round 1 has waited 4 s for the update of node-2 (trains)"));
}

#[test]
fn a_coordinator_names_who_has_not_accepted() {
    let mut scene = Scene::leading();
    scene.still_works();
    let (ballot, model) = (scene.ballot(), BlobRef { id: Hash::of(b"average"), len: 40 });
    scene.input(Input::Aggregated { ballot, result: Ok(model) });
    scene.pass_led(3_000);
    let waits = "round 1 has waited 3 s for accepts: 1 of 2 are in, and none of node-1 and node-2 (silent for 5 s); \
                 see whether it runs and has a network";
    assert_eq!(scene.told([0, 0, 5_000]).as_deref(), Some(waits));
}

impl Scene {
    /// Node 1, which it follows, proposes this model.
    fn is_proposed(&mut self, model: BlobRef) {
        let (from, ballot, scope) = (self.id(1), self.ballot(), self.scope());
        let contributions = by_signer((0..2).map(|i| self.signed(i, self.contribution(i, b"u"))).collect());
        let participants = self.chain().roster().participant_order(self.chain().head().model.id, 1);
        let mut record = Record { contributions, participants, ..empty(self.chain(), 0, from) };
        (record.kind, record.model) = (Kind::Train, model);
        let voters = [&self.identities[1], &self.identities[2]];
        let proposal = propose(voters[0], &voters, &scope, ballot, record);
        self.say_paxos(from, ballot, Paxos::Proposal(proposal));
    }
}

#[test]
fn whose_bytes_are_wrong_is_named() {
    let mut scene = Scene::following();
    let model = BlobRef { id: Hash::of(b"average"), len: 40 };
    scene.is_proposed(model);
    let effects = scene.input(Input::FetchFailed { blob: model.id, failure: FetchFailure::Invalid(Reject::WrongHash) });
    let refusal = Paxos::ProposalRefused { reject: Reject::WrongHash };
    assert!(sent(&effects).any(|(_, m)| matches!(&m.body, Body::Paxos { message, .. } if *message == refusal)));
    assert_eq!(scene.reason().as_deref(), Some("node-1 served bytes that fail their hash: see to the disk there"));
}

#[test]
fn a_follower_says_that_it_lacks_what_is_proposed_or_waits_for_others() {
    for lacks in [true, false] {
        let mut scene = Scene::following();
        let model = BlobRef { id: Hash::of(b"average"), len: 40 };
        scene.is_proposed(model);
        if !lacks {
            scene.input(Input::Fetched { blob: model.id });
        }
        assert_eq!(scene.paxos().phase(), Some(Phase::Proposing));
        scene.pass_following(3_000, |_| Activity::Done);
        let expected = match lacks {
            true => "this node lacks the model that node-1 proposed 3 s ago, and fetches it",
            false => "round 1 has waited 3 s for accepts of what node-1 proposes",
        };
        assert_eq!(scene.reason().as_deref(), Some(expected));
    }
}

#[test]
fn without_a_coordinator_the_wait_for_one_is_named() {
    let mut scene = Scene::listening();
    scene.pass(5_000);
    assert_eq!(scene.reason().as_deref(), Some("round 1 has waited 5 s for a coordinator"));
}

#[test]
fn who_is_not_heard_is_named_with_what_helps() {
    let mut scene = Scene::leading();
    scene.input(Input::PeerDown(scene.id(2)));
    assert_eq!(scene.reason(), None, "it may be back in a moment");
    let (ballot, promised) = (scene.ballot(), scene.ballot());
    for _ in 0..15 {
        scene.pass(200);
        scene.say_paxos(scene.id(1), ballot, Paxos::HeartbeatAck { promised });
    }
    let without = "round 1 has waited 3 s for the update of node-2 (not reachable for 3 s); \
                   see whether it runs and has a network";
    assert_eq!(scene.reason().as_deref(), Some(without));
    scene.input(Input::PeerDown(scene.id(1)));
    let lost = "only 1 of 3 members are reachable; 2 must be: see to this node's network, or start node-1 and node-2";
    assert_eq!(scene.reason().as_deref(), Some(lost));
}

#[test]
fn who_hears_nobody_looks_at_its_own_network_first() {
    let mut scene = Scene::leading();
    scene.pass_led(1_000);
    let lost = "only 1 of 3 members are reachable; 2 must be: see to this node's network, or start node-1 and node-2";
    assert_eq!(scene.told([0, 4_000, 4_000]).as_deref(), Some(lost));
    let view = scene.machine.view(scene.now, |_| 4_000);
    let silent: Vec<Option<u64>> = view.roster.iter().map(|m| m.silent_ms).collect();
    assert_eq!(silent.iter().flatten().count(), 2, "{silent:?}");
    assert!(scene.machine.view(scene.now, |_| 3_999).roster.iter().all(|m| m.silent_ms.is_none()));
}

#[test]
fn whose_training_failed_is_named_with_the_reason_where_it_is_known() {
    let mut scene = Scene::leading();
    let (from, ballot, scope) = (scene.id(1), scene.ballot(), scene.scope());
    let failure = Failure { round: 1, why: "the disk is full".into() };
    scene.say_round(from, ballot, Work::Failed(Signed::new(&scene.identities[1], &scope, failure)));
    scene.pass_led(1_000);
    assert_eq!(scene.reason().as_deref(), Some("training failed on node-1 (node-1: the disk is full)"));
    let mut scene = Scene::following();
    scene.pass_following(1_000, |i| if i == 2 { Activity::Failed } else { Activity::Training { percent: 0 } });
    assert_eq!(scene.reason().as_deref(), Some("training failed on node-2, whose own status says why"));
}
