//! Messages that must be refused, each with its typed reason, and a round that goes on unharmed. One machine under test,
//! and identities that say what they like.

use super::{Config, Effect, Event, Input, Machine, Recovered, TrainedUpdate};
use crate::chain::{Chain, Rules};
use crate::core::{Core, Held};
use crate::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::message::{Message, Opened, Opening};
use crate::record::{Accept, Bind, Committed, Contribution, Founding, Kind, Record, Vote};
use crate::reject::Reject;
use crate::roster::Member;
use crate::rule::Rule;
use crate::sign::Scope;

/// Three identities with a committed genesis; the first coordinates round 1 of its chain.
struct Scene {
    identities: Vec<Identity>,
    machine: Machine,
    now: Time,
}

fn rules() -> Rules {
    Rules {
        run: Hash::of(b"run"),
        rounds: 3,
        min_nodes: 3,
        fraction: 1.0,
        min_updates: Some(2),
        round_timeout_ms: 60_000,
        initial_model: BlobRef { id: Hash::of(b"model"), len: 40 },
        update_len: 40,
        rule: Rule::FedAvg,
    }
}

fn genesis(identities: &[Identity]) -> Committed {
    let member = |i: &Identity| Member { node: i.node_id(), name: "n".into(), part: None };
    let mut members: Vec<Member> = identities.iter().map(member).collect();
    members.sort();
    let founding = Founding {
        run: rules().run,
        proposer: members[0].node,
        nonce: Hash::ZERO,
        members,
        model: rules().initial_model,
    };
    let scope = founding.scope();
    let mut binds: Vec<Bind> = identities.iter().map(|i| Bind::new(i, &scope)).collect();
    binds.sort_by_key(|b| b.node);
    let coordinator = identities[0].node_id();
    let (parent, model) = (founding.id(), founding.model);
    let record = Record {
        kind: Kind::Genesis { founding, binds },
        round: 0,
        attempt: 0,
        coordinator,
        parent,
        model,
        participants: vec![],
        contributions: vec![],
        evaluations: vec![],
        rule: Rule::FedAvg,
        joined: vec![],
        left: vec![],
        evicted: vec![],
        open_ms: 0,
    };
    let value = record.hash();
    let ballot = Ballot { round: 0, attempt: 0 };
    let mut accepts: Vec<Accept> =
        identities.iter().map(|i| Accept::new(i, &scope, ballot, coordinator, value)).collect();
    accepts.sort_by_key(|a| a.acceptor);
    Committed { record, accepts }
}

impl Scene {
    /// A machine of the first identity that listens after its start, with the two others connected.
    fn listening() -> Self {
        let identities: Vec<Identity> = (1..=3).map(|i| Identity::from_secret(&[i; 32])).collect();
        let config = Config { rules: rules(), identity: identities[0].clone(), name: "under test".into(), part: None };
        let recovered = Recovered { chain: vec![genesis(&identities)], ..Recovered::default() };
        let machine = Machine::new(config, [7; 32], Time(0), recovered);
        let mut scene = Self { identities, machine, now: Time(0) };
        for peer in [1, 2] {
            scene.input(Input::PeerUp(scene.id(peer)));
        }
        scene
    }

    /// The machine under test coordinates round 1: the others vote for it as soon as it asks.
    fn leading() -> Self {
        let mut scene = Self::listening();
        for _ in 0..200 {
            scene.now = scene.machine.deadline().unwrap_or(scene.now).max(scene.now.plus_ms(1));
            let mut effects = scene.input(Input::Tick);
            while let Some(effect) = effects.pop() {
                let Effect::Send { to, message } = effect else { continue };
                let Some(voter) = scene.identities.iter().find(|i| i.node_id() == to).cloned() else { continue };
                let genesis = scene.chain().genesis();
                let answer = match message {
                    Message::Canvass { ballot, .. } => Message::WouldVote { genesis, ballot },
                    Message::VoteRequest { ballot, .. } => {
                        let scope = scene.chain().scope();
                        let vote = Vote::new(&voter, &scope, ballot, scene.id(0), None, vec![]);
                        Message::Vote { genesis, vote }
                    }
                    _ => continue,
                };
                effects.extend(scene.say(to, answer));
            }
            if scene.opened().is_some_and(|o| o.opening.is_some()) {
                return scene;
            }
        }
        panic!("it was never elected");
    }

    fn id(&self, index: usize) -> NodeId {
        self.identities[index].node_id()
    }

    fn chain(&self) -> &Chain {
        self.machine.chain().expect("the scene begins with a genesis")
    }

    fn opened(&self) -> Option<&Opened> {
        self.machine.round.as_ref().and_then(|r| r.contest.opened())
    }

    fn ballot(&self) -> Ballot {
        self.opened().expect("it leads").ballot
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

    fn say(&mut self, from: NodeId, message: Message) -> Vec<Effect> {
        self.input(Input::Received { from, message })
    }

    /// Says something and returns the refusals that were counted.
    fn refusals(&mut self, from: NodeId, message: Message) -> Vec<Reject> {
        let rejected = |effect: Effect| match effect {
            Effect::Emit(Event::Rejected { peer, reject }) if peer == from => Some(reject),
            _ => None,
        };
        self.say(from, message).into_iter().filter_map(rejected).collect()
    }

    fn contribution(&self, index: usize, update: &[u8]) -> Contribution {
        let blank = Contribution {
            node: self.id(index),
            samples: 10,
            update: BlobRef { id: Hash::of(update), len: 40 },
            train_loss: 1.0,
            train_ms: 5,
            evaluation: None,
            signature: crate::ids::Signature::from_bytes(&[0; 64]),
        };
        blank.signed(&self.identities[index], &self.chain().scope(), 1)
    }

    fn offer(&self, contribution: Contribution) -> Message {
        Message::Offer { genesis: self.chain().genesis(), ballot: self.ballot(), contribution }
    }

    /// Two good updates come in; the machine must then average.
    fn still_works(&mut self) {
        let (ballot, me) = (self.ballot(), self.id(0));
        let parent = self.chain().head_hash();
        let own = self.contribution(0, b"own");
        let trained = TrainedUpdate {
            update: own.update,
            samples: own.samples,
            train_loss: own.train_loss,
            train_ms: own.train_ms,
            evaluation: None,
        };
        self.input(Input::Trained { round: 1, parent, outcome: Ok(trained) });
        self.input(Input::Folded { ballot, node: me, result: Ok(()) });
        for peer in [1, 2] {
            let good = self.contribution(peer, format!("good {peer}").as_bytes());
            let (node, blob) = (good.node, good.update.id);
            let offer = self.offer(good);
            self.say(node, offer);
            self.input(Input::Fetched { blob });
            self.input(Input::Folded { ballot, node, result: Ok(()) });
        }
        self.now = self.now.plus_ms(10_000);
        let phase = self.machine.round.as_ref().and_then(|r| r.contest.phase());
        assert_eq!(phase, Some(crate::message::Phase::Aggregating), "the round was harmed");
    }
}

#[test]
fn an_update_of_a_stranger_is_refused() {
    let mut scene = Scene::leading();
    let stranger = Identity::from_secret(&[9; 32]);
    let scope = scene.chain().scope();
    let contribution =
        Contribution { node: stranger.node_id(), ..scene.contribution(1, b"x") }.signed(&stranger, &scope, 1);
    let offer = scene.offer(contribution);
    assert_eq!(scene.refusals(stranger.node_id(), offer), [Reject::NotParticipant]);
    scene.still_works();
}

#[test]
fn an_update_under_a_stale_ballot_is_refused() {
    let mut scene = Scene::leading();
    let (genesis, contribution) = (scene.chain().genesis(), scene.contribution(1, b"x"));
    let ballot = Ballot { round: 1, attempt: 0 };
    assert!(ballot < scene.ballot(), "after a restart attempt 0 is over");
    let offer = Message::Offer { genesis, ballot, contribution };
    let from = scene.id(1);
    assert_eq!(scene.refusals(from, offer), [Reject::StaleBallot]);
    scene.still_works();
}

#[test]
fn an_update_of_another_length_is_refused() {
    let mut scene = Scene::leading();
    let mut contribution = scene.contribution(1, b"x");
    contribution.update.len = 44;
    let contribution = contribution.signed(&scene.identities[1], &scene.chain().scope(), 1);
    let (from, offer) = (scene.id(1), scene.offer(contribution));
    assert_eq!(scene.refusals(from, offer), [Reject::WrongShape]);
    scene.still_works();
}

#[test]
fn an_update_whose_signature_does_not_hold_is_refused() {
    let mut scene = Scene::leading();
    let contribution = Contribution { samples: 11, ..scene.contribution(1, b"x") };
    let (from, offer) = (scene.id(1), scene.offer(contribution));
    assert_eq!(scene.refusals(from, offer), [Reject::BadSignature]);
    scene.still_works();
}

#[test]
fn an_update_in_anothers_name_is_refused() {
    let mut scene = Scene::leading();
    let (from, offer) = (scene.id(1), scene.offer(scene.contribution(2, b"x")));
    assert_eq!(scene.refusals(from, offer), [Reject::BadSignature]);
    scene.still_works();
}

#[test]
fn metrics_that_are_not_numbers_are_refused() {
    let mut scene = Scene::leading();
    for (loss, samples) in [(f64::NAN, 10), (f64::INFINITY, 10), (1.0, 0), (1.0, 1 << 21)] {
        let contribution = Contribution { train_loss: loss, samples, ..scene.contribution(1, b"x") };
        let contribution = contribution.signed(&scene.identities[1], &scene.chain().scope(), 1);
        let (from, offer) = (scene.id(1), scene.offer(contribution));
        assert_eq!(scene.refusals(from, offer), [Reject::BadMetrics]);
    }
    scene.still_works();
}

#[test]
fn a_second_different_update_is_refused_and_the_first_stays() {
    let mut scene = Scene::leading();
    let from = scene.id(1);
    let first = scene.offer(scene.contribution(1, b"good 1"));
    assert_eq!(scene.refusals(from, first), []);
    let second = scene.offer(scene.contribution(1, b"other"));
    assert_eq!(scene.refusals(from, second), [Reject::Twice]);
    scene.still_works();
}

#[test]
fn an_update_that_the_averager_refuses_is_answered_with_its_reason_and_left_out() {
    let mut scene = Scene::leading();
    let (from, ballot) = (scene.id(1), scene.ballot());
    let bad = scene.contribution(1, b"not a number");
    let update = bad.update.id;
    let offer = scene.offer(bad);
    scene.say(from, offer);
    scene.input(Input::Fetched { blob: update });
    let effects = scene.input(Input::Folded { ballot, node: from, result: Err(Reject::NotFinite) });
    let genesis = scene.chain().genesis();
    let answer = Message::OfferAnswer { genesis, ballot, update, result: Err(Reject::NotFinite) };
    assert!(effects.contains(&Effect::Send { to: from, message: answer }));
    assert!(effects.contains(&Effect::Emit(Event::Rejected { peer: from, reject: Reject::NotFinite })));
}

#[test]
fn a_plan_without_a_quorum_of_votes_is_refused() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.chain().scope());
    let ballot = Ballot { round: 1, attempt: 1 };
    let vote = Vote::new(&scene.identities[1], &scope, ballot, from, None, vec![]);
    let opened = Opened {
        genesis: scope.genesis,
        ballot,
        parent: scope.parent,
        coordinator: from,
        votes: vec![vote.clone()],
        model: rules().initial_model,
        opening: Some(Opening { closing: false, participants: vec![], remaining_ms: 1 }),
    };
    assert_eq!(scene.refusals(from, Message::Opened(opened.clone())), [Reject::NoQuorum]);
    let twice = Opened { votes: vec![vote.clone(), vote], ..opened };
    assert_eq!(scene.refusals(from, Message::Opened(twice)), [Reject::NoQuorum]);
    assert!(scene.opened().is_none());
}

#[test]
fn a_commit_with_accepts_of_two_ballots_is_refused() {
    let mut scene = Scene::listening();
    let (from, scope) = (scene.id(1), scene.chain().scope());
    let head = scene.chain().head();
    let record = Record {
        kind: Kind::Empty,
        round: 1,
        coordinator: from,
        parent: scope.parent,
        model: head.model,
        ..head.clone()
    };
    let value = record.hash();
    let accept =
        |i: usize, attempt| Accept::new(&scene.identities[i], &scope, Ballot { round: 1, attempt }, from, value);
    let mut accepts = vec![accept(1, 0), accept(2, 1)];
    accepts.sort_by_key(|a| a.acceptor);
    let message = Message::Committed { genesis: scope.genesis, committed: Committed { record, accepts } };
    assert_eq!(scene.refusals(from, message), [Reject::NoQuorum]);
    assert_eq!(scene.chain().next_round(), 1);
}

#[test]
fn two_votes_for_one_ballot_are_a_lie_with_proof() {
    let mut scene = Scene::listening();
    let scope = scene.chain().scope();
    let ballot = Ballot { round: 1, attempt: 1 };
    let liar = scene.identities[2].clone();
    let vote = |candidate| Vote::new(&liar, &scope, ballot, candidate, None, vec![]);
    let votes = Box::new((vote(scene.id(0)), vote(scene.id(1))));
    let evidence = crate::record::Evidence::Votes { parent: scope.parent, votes };
    let effects = scene.say(scene.id(1), Message::Evidence { genesis: scope.genesis, evidence });
    assert!(effects.contains(&Effect::Emit(Event::Liar { node: liar.node_id() })));
}

#[test]
fn a_crash_between_the_decision_and_the_first_record_loses_no_chain() {
    let identities: Vec<Identity> = (1..=3).map(|i| Identity::from_secret(&[i; 32])).collect();
    let committed = genesis(&identities);
    let Kind::Genesis { founding, binds } = committed.record.kind.clone() else { panic!("it is a genesis") };
    let me = identities[0].node_id();
    let founding = super::RecoveredFounding {
        founding,
        bind: binds.into_iter().find(|b| b.node == me),
        refusal: None,
        decided: Some(committed.clone()),
    };
    let config = Config { rules: rules(), identity: identities[0].clone(), name: "n".into(), part: None };
    let recovered = Recovered { foundings: vec![founding], ..Recovered::default() };
    let machine = Machine::new(config, [7; 32], Time(0), recovered);
    assert_eq!(machine.chain().map(Chain::genesis), Some(committed.record.hash()));
}

#[test]
fn what_waits_for_the_disk_never_leaves_when_the_disk_fails() {
    let identity = Identity::from_secret(&[1; 32]);
    let mut core = Core::new(rules(), identity.clone(), "n".into(), None, [0; 32], Time(0), Default::default());
    let scope = Scope { run: rules().run, genesis: Hash::ZERO, parent: Hash::ZERO };
    let ballot = Ballot { round: 1, attempt: 0 };
    let vote = Vote::new(&identity, &scope, ballot, identity.node_id(), None, vec![]);
    let other = Identity::from_secret(&[2; 32]).node_id();
    let message = Message::Vote { genesis: Hash::ZERO, vote: vote.clone() };
    let held = vec![Held::Send(other, message)];
    let id = core.persist_then(super::Persist::Vote { genesis: Hash::ZERO, vote }, held);
    core.persist_failed(id);
    core.persisted(id);
    let sends = std::iter::from_fn(|| core.poll_effect()).filter(|e| matches!(e, Effect::Send { .. })).count();
    assert_eq!(sends, 0);
}
