//! One decision, case by case: what a node promises (`testdata/acceptor.txt`), and how it elects (`testdata/election.txt`).

use super::acceptor::Acceptor;
use super::*;
use crate::base::ids::Identity;
use crate::base::signed::Verifier;
use crate::base::table::{Line, cases, none};
use crate::chain::fixture::{chain, commit, identities, member, params, propose, votes};
use crate::context::Parts;
use crate::io::{Effect, LocalStats, Persist, PersistId};
use crate::record::{Kind, Proposed};

fn context(me: &Identity, promises: BTreeMap<Hash, Ballot>, blobs: BTreeSet<Hash>) -> Context {
    Context::new(Parts {
        params: params(),
        identity: me.clone(),
        name: "under test".into(),
        part: None,
        verifier: Verifier::default(),
        seed: [7; 32],
        now: Time(0),
        blobs,
        promises,
    })
}

fn attempt(line: &mut Line) -> u32 {
    let number = line.number();
    u32::try_from(number).unwrap_or_else(|_| line.fail("an attempt is smaller"))
}

fn joined(said: Vec<String>) -> String {
    if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
}

const NAMES: [&str; 3] = ["A", "B", "C"];

/// A node and its disk. The first of three is under test.
struct Node {
    all: Vec<Identity>,
    scope: Scope,
    ctx: Context,
    acceptor: Acceptor,
    writing: Vec<(PersistId, Persist)>,
    promises: BTreeMap<Hash, Ballot>,
    blobs: BTreeSet<Hash>,
    vote: Option<Signed<Vote>>,
    accepted: Option<Proposal>,
}

#[test]
fn what_a_node_promises() {
    let mut wrong = Vec::new();
    for case in cases("paxos/testdata/acceptor.txt", include_str!("testdata/acceptor.txt")) {
        let mut node = Node::new();
        for mut line in case.lines {
            let got = node.carry_out(&mut line);
            line.check(&case.name, &got, &mut wrong);
        }
    }
    none(&wrong);
}

impl Node {
    fn new() -> Self {
        let all = identities(1, 3);
        let scope = chain(&all).scope();
        let ctx = context(&all[0], BTreeMap::new(), BTreeSet::new());
        let acceptor = Acceptor::new(&ctx, scope, 1, None);
        let (promises, blobs, writing) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { all, scope, ctx, acceptor, writing, promises, blobs, vote: None, accepted: None }
    }

    fn node(&self, line: &mut Line) -> &Identity {
        let name = line.word();
        match NAMES.iter().position(|n| *n == name) {
            Some(place) => &self.all[place],
            None => line.unknown(&name),
        }
    }

    fn name_of(&self, node: NodeId) -> &'static str {
        let place = self.all.iter().position(|i| i.node_id() == node).expect("it is one of the three");
        NAMES[place]
    }

    fn record(&self, name: &str) -> Record {
        let model = if name == "z" { BlobRef::NONE } else { BlobRef { id: Hash::of(name.as_bytes()), len: 40 } };
        let (ballot, parent) = (Ballot::of_round(1), self.scope.parent);
        Record {
            open_ms: name.len() as u64,
            ..Record::plain(Kind::Train, ballot, self.all[1].node_id(), parent, model)
        }
    }

    fn value(&self, line: &mut Line) -> String {
        let name = line.word();
        if ["x", "y", "z"].contains(&name.as_str()) { name } else { line.unknown(&name) }
    }

    fn name_of_value(&self, value: Hash) -> &'static str {
        ["x", "y", "z"].into_iter().find(|name| self.record(name).hash() == value).expect("it is one of the three")
    }

    fn carry_out(&mut self, line: &mut Line) -> String {
        let result = match line.word().as_str() {
            "vote" => {
                let ballot = Ballot { round: 1, attempt: attempt(line) };
                let candidate = self.node(line).node_id();
                let would = self.acceptor.would_vote(&self.ctx, ballot, candidate);
                let result = self.acceptor.vote(&mut self.ctx, ballot, candidate, Vec::new());
                assert_eq!(would, result, "it says otherwise when it is asked without being bound");
                result
            }
            "accept" => {
                let ballot = Ballot { round: 1, attempt: attempt(line) };
                let coordinator = self.node(line).clone();
                let roster = Roster::new(self.all.iter().map(|i| member(i.node_id())).collect());
                let record = self.record(&self.value(line));
                let proposal = propose(&coordinator, &[], &self.scope, ballot, record);
                self.acceptor.accept(&mut self.ctx, proposal, &roster)
            }
            "repeat" => {
                let ballot = Ballot { round: 1, attempt: attempt(line) };
                let value = self.record(&self.value(line)).hash();
                if !self.acceptor.repeat_accept(&mut self.ctx, ballot, value) {
                    return "no".to_owned();
                }
                Ok(())
            }
            "disk" => {
                for (id, item) in std::mem::take(&mut self.writing) {
                    self.write(item);
                    self.ctx.persisted(id);
                }
                Ok(())
            }
            "restart" => {
                self.restart();
                Ok(())
            }
            "model" => {
                let model = self.record(&self.value(line)).model.id;
                self.blobs.insert(model);
                self.ctx.blobs.insert(model);
                Ok(())
            }
            "lose" => {
                let model = self.record(&self.value(line)).model.id;
                self.blobs.remove(&model);
                Ok(())
            }
            "lose-vote" => {
                self.vote = None;
                Ok(())
            }
            "lose-accept" => {
                self.accepted = None;
                Ok(())
            }
            "decided" => {
                let record = self.record("z");
                let committed = commit(&[], &self.scope, Ballot::of_round(1), self.all[1].node_id(), record);
                let item = Persist::Committed { chain: self.scope.chain, committed, stats: LocalStats::default() };
                self.ctx.persist(item.clone());
                self.write(item);
                while self.ctx.poll_effect().is_some() {}
                Ok(())
            }
            word => line.unknown(word),
        };
        match result {
            Ok(()) => self.said(),
            Err(reject) => format!("{reject:?}"),
        }
    }

    fn write(&mut self, item: Persist) {
        for (chain, ballot) in item.promises() {
            let promise = self.promises.entry(chain).or_insert(ballot);
            *promise = ballot.max(*promise);
        }
        match item {
            Persist::Vote { vote, .. } => self.vote = Some(vote),
            Persist::Accepted { proposal, .. } => self.accepted = Some(proposal),
            _ => {}
        }
    }

    fn restart(&mut self) {
        self.writing.clear();
        self.ctx = context(&self.all[0], self.promises.clone(), self.blobs.clone());
        let (chain, round) = (self.scope.chain, 1);
        let found = RecoveredBallot { chain, round, vote: self.vote.clone(), accepted: self.accepted.clone() };
        self.acceptor = Acceptor::new(&self.ctx, self.scope, 1, Some(found));
    }

    fn said(&mut self) -> String {
        let mut said = Vec::new();
        while let Some(effect) = self.ctx.poll_effect() {
            match effect {
                Effect::Persist { id, item } => {
                    let what = if matches!(item, Persist::Vote { .. }) { "vote" } else { "accept" };
                    said.push(format!("writes {what}"));
                    self.writing.push((id, item));
                }
                Effect::Send { to, message } => said.push(self.in_words(to, &message)),
                Effect::Broadcast(message) => said.push(self.in_words(self.ctx.me, &message)),
                effect => panic!("{effect:?}"),
            }
        }
        while let Some(message) = self.ctx.take_loopback() {
            said.push(self.in_words(self.ctx.me, &message));
        }
        joined(said)
    }

    fn in_words(&self, to: NodeId, message: &Message) -> String {
        let crate::message::Body::Paxos { ballot, message } = &message.body else { panic!("{message:?}") };
        let attempt = ballot.attempt;
        match message {
            Paxos::Vote(vote) => {
                let content = vote.open(&self.scope, &self.ctx.verifier).expect("it is signed");
                assert_eq!((content.ballot, content.candidate), (*ballot, to));
                let claim = content.accepted(&self.scope, &self.ctx.verifier).expect("it is one that may be made");
                let told = claim.map(|p| format!("{} {}", p.ballot.attempt, self.name_of_value(p.value)));
                format!("says vote {attempt} {} accepted {}", self.name_of(to), told.unwrap_or("none".to_owned()))
            }
            Paxos::Accept(accept) => {
                let content = accept.open(&self.scope, &self.ctx.verifier).expect("it is signed");
                assert_eq!((content.ballot, content.coordinator), (*ballot, to));
                format!("says accept {attempt} {} to {}", self.name_of_value(content.value), self.name_of(to))
            }
            Paxos::Proposal(proposal) => {
                let value = self.name_of_value(proposal.proposed.vouched().value);
                format!("proposes {attempt} {value} to {}", self.name_of(to))
            }
            message => panic!("{message:?}"),
        }
    }
}

/// A node among others that hold an election.
struct Booth {
    all: Vec<Identity>,
    roster: Roster,
    scope: Scope,
    ctx: Context,
    paxos: Instance,
}

#[test]
fn who_is_elected_and_when() {
    let mut wrong = Vec::new();
    for case in cases("paxos/testdata/election.txt", include_str!("testdata/election.txt")) {
        let mut lines = case.lines.into_iter();
        let mut first = lines.next().expect("a case has lines");
        let mut booth = Booth::new(&mut first);
        first.check(&case.name, "nothing", &mut wrong);
        for mut line in lines {
            let got = booth.carry_out(&mut line);
            line.check(&case.name, &got, &mut wrong);
        }
    }
    none(&wrong);
}

impl Booth {
    /// `nodes N me P`, `away Q`, `garbles Q`, `restarted`, `without-model`.
    fn new(line: &mut Line) -> Self {
        line.keyword("nodes");
        let count = line.number();
        line.keyword("me");
        let place = line.number() as usize;
        let count = u8::try_from(count).unwrap_or_else(|_| line.fail("so many nodes"));
        let all = identities(1, count);
        let roster = Roster::new(all.iter().map(|i| member(i.node_id())).collect());
        let (model, scope) = (params().initial_model, chain(&all).scope());
        let order = roster.candidate_order(model.id, Ballot::of_round(1));
        let me = all.iter().find(|i| i.node_id() == order[place - 1]).expect("it is on the roster");
        let mut ctx = context(me, BTreeMap::new(), BTreeSet::from([model.id]));
        roster.nodes().filter(|n| *n != order[place - 1]).for_each(|n| ctx.peers.set_connected(n, true, Time(0), 1));
        let mut start = Start::Fresh;
        while let Some(word) = line.next() {
            match word.as_str() {
                "away" => ctx.peers.set_connected(order[line.number() as usize - 1], false, Time(0), 1),
                "garbles" => ctx.peers.doubt(order[line.number() as usize - 1], Doubt::Bytes),
                "restarted" => start = Start::AfterRestart(None),
                "without-model" => drop(ctx.blobs.remove(&model.id)),
                word => line.unknown(word),
            }
        }
        let paxos = Instance::begin(&mut ctx, scope, 1, roster.clone(), model, start);
        Self { all, roster, scope, ctx, paxos }
    }

    fn order(&self, attempt: u32) -> Vec<NodeId> {
        self.roster.candidate_order(params().initial_model.id, Ballot { round: 1, attempt })
    }

    /// `2`, or `2/1`: another than the node itself.
    fn node(&self, line: &mut Line) -> &Identity {
        let word = line.word();
        let (place, attempt) = word.split_once('/').unwrap_or((&word, "0"));
        let (Ok(place), Ok(attempt)) = (place.parse::<usize>(), attempt.parse()) else { line.unknown(&word) };
        let order = self.order(attempt);
        let Some(node) = order.get(place.wrapping_sub(1)) else { line.unknown(&word) };
        if *node == self.ctx.me {
            line.fail("that is the node itself");
        }
        self.all.iter().find(|i| i.node_id() == *node).expect("it is on the roster")
    }

    fn name_of(&self, node: NodeId, attempt: u32) -> String {
        let place = self.order(attempt).iter().position(|n| *n == node).expect("it is on the roster") + 1;
        if attempt == 0 { place.to_string() } else { format!("{place}/{attempt}") }
    }

    fn carry_out(&mut self, line: &mut Line) -> String {
        match line.word().as_str() {
            "wait" => {
                let ms = line.number();
                self.wait(ms)
            }
            "model" => {
                self.ctx.blobs.insert(params().initial_model.id);
                self.paxos.tick(&mut self.ctx);
                self.said()
            }
            "gone" => {
                let node = self.node(line).node_id();
                self.ctx.peers.set_connected(node, false, self.ctx.now, 1);
                self.paxos.peer_down(&mut self.ctx, node);
                self.said()
            }
            "live" => {
                let (from, attempt) = (self.node(line).node_id(), attempt(line));
                let mut said = Vec::new();
                for _ in 0..line.number() / 250 {
                    said.push(self.wait(250));
                    said.push(self.receive(from, attempt, Self::heartbeat()));
                }
                said.retain(|s| s != "nothing");
                joined(said)
            }
            word => {
                let node = self.node(line).clone();
                let attempt = attempt(line);
                let message = self.message(line, word, &node, attempt);
                self.receive(node.node_id(), attempt, message)
            }
        }
    }

    fn heartbeat() -> Paxos {
        Paxos::Heartbeat(Heartbeat { phase: Phase::Collecting, plan: Hash::ZERO, proposal: None, progress: Vec::new() })
    }

    fn message(&self, line: &Line, word: &str, node: &Identity, attempt: u32) -> Paxos {
        let (ballot, scope) = (Ballot { round: 1, attempt }, self.scope);
        match word {
            "asks" => Paxos::VoteRequest,
            "pre-asks" => Paxos::PreVote,
            "grants" => Paxos::PreVoteGranted,
            "votes" => Paxos::Vote(votes(&[node], &scope, ballot, self.ctx.me).remove(0)),
            "claims" => {
                let earlier = Proposed { ballot: Ballot::of_round(1), value: Hash::of(b"what it alone has") };
                let accepted = Some(Signed::new(node, &scope, earlier));
                let vote = Vote { ballot, candidate: self.ctx.me, silent: Vec::new(), accepted };
                Paxos::Vote(Signed::new(node, &scope, vote))
            }
            "beats" => Self::heartbeat(),
            "steps-down" => Paxos::StepDown,
            "opens" => {
                let voters: Vec<&Identity> = self.all.iter().take(self.roster.quorum()).collect();
                let votes = votes(&voters, &scope, ballot, node.node_id());
                let plan = Signed::new(node, &scope, RoundPlan { ballot, version: 1, task: None });
                Paxos::RoundOpened(RoundOpened { votes, plan })
            }
            word => line.unknown(word),
        }
    }

    fn receive(&mut self, from: NodeId, attempt: u32, message: Paxos) -> String {
        let ballot = Ballot { round: 1, attempt };
        self.paxos.receive(&mut self.ctx, from, ballot, message, &|_, _| Ok(()));
        self.said()
    }

    fn wait(&mut self, ms: u64) -> String {
        let end = self.ctx.now.plus_ms(ms);
        let mut said = Vec::new();
        loop {
            let due = self.paxos.deadline(&self.ctx);
            if due > end {
                break;
            }
            self.ctx.now = due.max(self.ctx.now);
            self.paxos.tick(&mut self.ctx);
            let words = self.said();
            if words != "nothing" && !said.contains(&words) {
                said.push(words);
            }
            // An alarm that changes nothing is not tried for ever.
            if self.paxos.deadline(&self.ctx) <= self.ctx.now {
                if self.ctx.now == end {
                    break;
                }
                self.ctx.now = self.ctx.now.plus_ms(1);
            }
        }
        self.ctx.now = end;
        joined(said)
    }

    /// What the node says, as far as it is about the election; its writes are on disk at once.
    fn said(&mut self) -> String {
        let mut said: Vec<String> = Vec::new();
        loop {
            let words = match (self.ctx.poll_effect(), self.paxos.take_output()) {
                (Some(Effect::Persist { id, .. }), _) => {
                    self.ctx.persisted(id);
                    continue;
                }
                (Some(Effect::Send { to, message }), _) => self.in_words(to, &message),
                (Some(Effect::Emit(event)), _) => self.event_in_words(&event),
                (Some(_), _) | (None, Some(_)) => None,
                (None, None) => match self.ctx.take_loopback() {
                    Some(Message { body: crate::message::Body::Paxos { ballot, message }, .. }) => {
                        let me = self.ctx.me;
                        self.paxos.receive(&mut self.ctx, me, ballot, message, &|_, _| Ok(()));
                        None
                    }
                    _ => break,
                },
            };
            said.extend(words.filter(|w| !said.contains(w)));
        }
        joined(said)
    }

    fn in_words(&self, to: NodeId, message: &Message) -> Option<String> {
        let crate::message::Body::Paxos { ballot, message } = &message.body else { return None };
        let name = self.name_of(to, ballot.attempt);
        match message {
            Paxos::VoteRequest => Some("asks".to_owned()),
            Paxos::PreVote => Some("pre-asks".to_owned()),
            Paxos::Vote(_) => Some(format!("votes for {name}")),
            Paxos::PreVoteGranted => Some(format!("grants {name}")),
            Paxos::VoteRefused { reject, .. } => Some(format!("refuses {name} {reject:?}")),
            _ => None,
        }
    }

    fn event_in_words(&self, event: &Event) -> Option<String> {
        match event {
            Event::Elected { .. } => Some("elected".to_owned()),
            Event::CoordinatorSeen { ballot, coordinator } => {
                Some(format!("follows {}", self.name_of(*coordinator, ballot.attempt)))
            }
            Event::AttemptOver { why, .. } => Some(format!("over {why}")),
            Event::Rejected { reject, .. } => Some(format!("rejects {reject:?}")),
            _ => None,
        }
    }
}
