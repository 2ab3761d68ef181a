//! The rules of a chain, case by case: `testdata/chain.txt`.

use super::fixture::{accuracy, bind, by_signer, chain, commit, consent, founding_of, identities, member, params};
use super::*;
use crate::base::aggregation::Aggregation;
use crate::base::bounds::{FAILURE_BYTES_MAX, NAME_BYTES_MAX};
use crate::base::ids::{Ballot, BlobRef, Identity};
use crate::base::roster::Part;
use crate::base::signed::Signed;
use crate::base::table::{Line, cases, none};
use crate::record::{
    Accept, Alive, Bind, Eviction, Evidence, Failure, FinalEvaluation, Forced, Founder, Founding, Join, Leave, Lie,
    Proposed, Resume, Vote, request_scope,
};

const NAMES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

/// The chain of a case, and everybody in it and around it.
struct World {
    all: Vec<Identity>,
    chain: Chain,
}

#[test]
fn what_may_follow_and_what_not() {
    let mut wrong = Vec::new();
    for case in cases("chain/testdata/chain.txt", include_str!("testdata/chain.txt")) {
        let all = identities(1, 6);
        let mut world = World { chain: chain(&all[..3]), all };
        for mut line in case.lines {
            let got = world.carry_out(&mut line);
            line.check(&case.name, &got, &mut wrong);
        }
    }
    none(&wrong);
}

fn name_of(result: Result<(), Reject>) -> String {
    result.map_or_else(|reject| format!("{reject:?}"), |()| "ok".to_owned())
}

/// The scope that a statement does not hold in.
fn elsewhere(scope: Scope) -> Scope {
    Scope { parent: Hash::of(b"elsewhere"), chain: Hash::of(b"elsewhere"), ..scope }
}

impl World {
    fn carry_out(&mut self, line: &mut Line) -> String {
        match line.word().as_str() {
            "check" => {
                let record = self.record(line).0;
                name_of(self.chain.check(&record))
            }
            "commit" => {
                let (record, accepts) = self.record(line);
                let committed = self.committed(line, record, &accepts);
                name_of(self.chain.append(committed))
            }
            "found" => self.found(line),
            "outcome" => self.outcome(line),
            "elect" => self.elect(line),
            word => line.unknown(word),
        }
    }

    fn named(&self, line: &Line, name: &str) -> &Identity {
        match NAMES.iter().position(|n| *n == name) {
            Some(place) => &self.all[place],
            None => line.unknown(name),
        }
    }

    /// `A,B`, or `none`.
    fn several(&self, line: &Line, names: &str) -> Vec<&Identity> {
        match names {
            "none" => Vec::new(),
            names => names.split(',').map(|name| self.named(line, name)).collect(),
        }
    }

    fn contributions(&self, whose: &[&Identity], scope: &Scope, content: Contribution) -> Vec<Signed<Contribution>> {
        whose.iter().map(|i| Signed::new(i, scope, content.clone())).collect()
    }

    /// A record as a line describes it, and who accepts it.
    fn record(&self, line: &mut Line) -> (Record, String) {
        let chain = &self.chain;
        let (head, round, own) = (chain.head().clone(), chain.next_round(), chain.scope());
        let mut kind = match line.word().as_str() {
            "train" => Kind::Train,
            "empty" => Kind::Empty,
            "closing" => Kind::Closing,
            "abort" => Kind::Abort,
            "genesis" => chain.records()[0].record.kind.clone(),
            "yield" => Kind::Yield { to: Hash::of(b"other"), alive: Vec::new() },
            word => line.unknown(word),
        };
        let is_training = matches!(kind, Kind::Train);
        let order = chain.roster().participant_order(head.model.id, round);
        let ballot = Ballot { round, attempt: 0 };
        let mut record = Record::plain(kind.clone(), ballot, self.all[0].node_id(), chain.head_hash(), head.model);
        let mut participants = if is_training { order.clone() } else { Vec::new() };
        let mut updates = if is_training { self.several(line, "A,B,C") } else { Vec::new() };
        let (mut evaluations, mut failures, mut resumed) = (Vec::new(), Vec::new(), None);
        let mut failure = Failure { round, why: "it diverged".to_owned() };
        let mut content = Contribution {
            round,
            samples: 10,
            update: BlobRef { id: Hash::of(b"update"), len: 40 },
            train_loss: Some(1.0),
            train_ms: 1,
            evaluation: Some(accuracy(1, 10)),
            trainer: String::new(),
        };
        let mut last = FinalEvaluation { round, evaluation: accuracy(1, 10) };
        let (mut scope, mut requests) = (own, request_scope(own.run, own.chain));
        let (mut joins, mut leaves) = (Vec::new(), Vec::new());
        let (mut silent, mut liar) = (None, None);
        let (mut alive, mut yielding) = (self.several(line, "D,E"), own.chain);
        let (mut accepts, mut name) = ("A,B".to_owned(), "n".to_owned());
        if is_training {
            record.model = BlobRef { id: Hash::of_parts("model", &[&round.to_le_bytes()]), ..head.model };
        }
        while let Some(word) = line.next() {
            match word.as_str() {
                "round" => record.round = line.number(),
                "parent" => {
                    line.keyword("other");
                    record.parent = Hash::of(b"other");
                }
                "by" => record.coordinator = self.one(line).node_id(),
                "rule" => {
                    let rule = line.word();
                    record.aggregation = Aggregation(rule);
                }
                "participants" => match line.word().as_str() {
                    "first-two" => participants = order[..2].to_vec(),
                    "reversed" => participants.reverse(),
                    "none" => participants.clear(),
                    "four" => participants = self.all[..4].iter().map(Identity::node_id).collect(),
                    word => line.unknown(word),
                },
                "updates" => {
                    let names = line.word();
                    updates = self.several(line, &names);
                }
                "update" => match line.word().as_str() {
                    "round" => content.round = line.number(),
                    "len" => content.update.len = line.number(),
                    "samples" => content.samples = line.number(),
                    "correct" => content.evaluation = Some(accuracy(line.number(), 10)),
                    "loss" => {
                        line.keyword("NaN");
                        content.train_loss = Some(f64::NAN);
                    }
                    "signed" => scope = self.elsewhere(line, scope),
                    word => line.unknown(word),
                },
                "model" => match line.word().as_str() {
                    "len" => record.model.len = line.number(),
                    "other" => record.model.id = Hash::of(b"other"),
                    word => line.unknown(word),
                },
                "evaluations" => {
                    let names = line.word();
                    evaluations = self.several(line, &names);
                }
                "failures" => {
                    let names = line.word();
                    failures = self.several(line, &names);
                }
                "failure" => {
                    failures = self.several(line, "A,B");
                    match line.word().as_str() {
                        "round" => failure.round = line.number(),
                        "long" => failure.why = "x".repeat(FAILURE_BYTES_MAX + 1),
                        "signed" => scope = self.elsewhere(line, scope),
                        word => line.unknown(word),
                    }
                }
                "resumed" => resumed = Some(self.one(line)),
                "evaluation" => {
                    evaluations = self.several(line, "A");
                    match line.word().as_str() {
                        "round" => last.round = line.number(),
                        "correct" => last.evaluation = accuracy(line.number(), 10),
                        "signed" => scope = self.elsewhere(line, scope),
                        word => line.unknown(word),
                    }
                }
                "joins" => joins = line.word().split(',').map(str::to_owned).collect(),
                "leaves" => leaves = line.word().split(',').map(str::to_owned).collect(),
                "name" => name = wrong_name(line),
                "signed" => {
                    requests = self.elsewhere(line, requests);
                    scope = elsewhere(scope);
                }
                "silent" => silent = Some(self.silent(line, &own)),
                "liar" => liar = Some(self.liar(line, &own)),
                "to" => {
                    line.keyword("own");
                    kind = Kind::Yield { to: own.chain, alive: Vec::new() };
                }
                "alive" => match line.word().as_str() {
                    "for" => {
                        line.keyword("other");
                        yielding = Hash::of(b"a third chain");
                    }
                    "signed" => requests = self.elsewhere(line, requests),
                    names => alive = self.several(line, names),
                },
                "accepts" => accepts = line.word(),
                word => line.unknown(word),
            }
        }
        if let Kind::Yield { to, .. } = kind {
            let scope = if requests.chain == own.chain { request_scope(own.run, to) } else { requests };
            let word = |i: &&Identity| Signed::new(i, &scope, Alive { yielding });
            record.kind = Kind::Yield { to, alive: alive.iter().map(word).collect() };
        }
        record.participants = participants;
        record.contributions = self.contributions(&updates, &scope, content);
        record.evaluations = evaluations.into_iter().map(|i| Signed::new(i, &scope, last.clone())).collect();
        record.failures = failures.into_iter().map(|i| Signed::new(i, &scope, failure.clone())).collect();
        record.resumed = resumed.map(|i| Signed::new(i, &scope, Resume { round }));
        record.joined = joins.iter().map(|join| self.join(line, join, &name, &requests)).collect();
        record.left = leaves.iter().map(|leave| self.leave(line, leave, &requests)).collect();
        record.evicted = silent.into_iter().chain(liar).collect();
        (record, accepts)
    }

    fn one(&self, line: &mut Line) -> &Identity {
        let name = line.word();
        self.named(line, &name)
    }

    fn elsewhere(&self, line: &mut Line, scope: Scope) -> Scope {
        line.keyword("elsewhere");
        elsewhere(scope)
    }

    /// `D:1`, or `D:1:5`.
    fn join(&self, line: &Line, text: &str, name: &str, scope: &Scope) -> Signed<Join> {
        let parts: Vec<&str> = text.split(':').collect();
        let part = |k: &&str| Part { index: number(line, k), of: 9 };
        match parts.as_slice() {
            [who, round, rest @ ..] if rest.len() <= 1 => {
                let join = Join { name: name.to_owned(), part: rest.first().map(part), round: number(line, round) };
                Signed::new(self.named(line, who), scope, join)
            }
            _ => line.unknown(text),
        }
    }

    fn leave(&self, line: &Line, text: &str, scope: &Scope) -> Signed<Leave> {
        match text.split_once(':') {
            Some((who, round)) => Signed::new(self.named(line, who), scope, Leave { round: number(line, round) }),
            None => line.unknown(text),
        }
    }

    /// `silent C by A,B`, with changes.
    fn silent(&self, line: &mut Line, scope: &Scope) -> Eviction {
        let node = self.one(line).node_id();
        line.keyword("by");
        let names = line.word();
        let (mut named, mut ballot, mut scope) = (node, Ballot { round: scope_round(self), attempt: 1 }, *scope);
        while let Some(word) = line.next() {
            match word.as_str() {
                "naming" => named = self.one(line).node_id(),
                "round" => ballot.round = line.number(),
                "signed" => scope = self.elsewhere(line, scope),
                word => line.unknown(word),
            }
        }
        let candidate = self.all[0].node_id();
        let vote = Vote { ballot, candidate, accepted: None, silent: vec![named] };
        let voters = self.several(line, &names);
        Eviction::Silent { node, votes: voters.iter().map(|i| Signed::new(i, &scope, vote.clone())).collect() }
    }

    /// `liar C`, with changes.
    fn liar(&self, line: &mut Line, scope: &Scope) -> Eviction {
        let liar = self.one(line);
        let (mut node, mut candidates, mut signed, mut claimed) = (liar.node_id(), [0, 1], *scope, *scope);
        while let Some(word) = line.next() {
            match word.as_str() {
                "named" => node = self.one(line).node_id(),
                "honest" => candidates = [0, 0],
                "of" => {
                    line.keyword("other-chain");
                    claimed = elsewhere(claimed);
                }
                "signed" => signed = self.elsewhere(line, signed),
                word => line.unknown(word),
            }
        }
        let ballot = Ballot { round: scope_round(self), attempt: 1 };
        let vote = |candidate: usize| {
            let candidate = self.all[candidate].node_id();
            Signed::new(liar, &signed, Vote { ballot, candidate, accepted: None, silent: Vec::new() })
        };
        let lie = Lie::Votes(Box::new(candidates.map(vote)));
        Eviction::Liar { node, evidence: Evidence { chain: claimed.chain, parent: claimed.parent, lie } }
    }

    fn committed(&self, line: &Line, record: Record, accepts: &str) -> Committed {
        let (scope, coordinator) = (self.chain.scope(), record.coordinator);
        let ballot = Ballot { round: record.round, attempt: record.attempt };
        let good = Accept { ballot, coordinator, value: record.hash() };
        let pair = |scope: &Scope, first: Accept, second: Accept| {
            vec![Signed::new(&self.all[0], scope, first), Signed::new(&self.all[1], scope, second)]
        };
        let later = Accept { ballot: Ballot { attempt: 7, ..ballot }, ..good };
        let other = Accept { value: Hash::of(b"other"), ..good };
        let ahead = Accept { ballot: Ballot { round: record.round + 1, ..ballot }, ..good };
        let accepts = match accepts {
            "two-ballots" => pair(&scope, good, later),
            "two-coordinators" => pair(&scope, good, Accept { coordinator: self.all[1].node_id(), ..good }),
            "of-another-record" => pair(&scope, other, other),
            "of-another-round" => pair(&scope, ahead, ahead),
            "of-a-later-ballot" => pair(&scope, later, later),
            "signed-elsewhere" => pair(&elsewhere(scope), good, good),
            names => self.several(line, names).iter().map(|i| Signed::new(i, &scope, good)).collect(),
        };
        Committed { record, accepts }
    }

    fn found(&self, line: &mut Line) -> String {
        let mut params = params();
        let mut members: Vec<NodeId> = self.all[..3].iter().map(Identity::node_id).collect();
        let (mut proposer, mut content) = (&self.all[0], founding_of(&self.all[0], members.clone()).vouched().clone());
        let mut scope = Founding::proposal_scope(params.run);
        while let Some(word) = line.next() {
            match word.as_str() {
                "by" => proposer = self.one(line),
                "members" => {
                    let names = line.word();
                    members = self.several(line, &names).iter().map(|i| i.node_id()).collect();
                    let founder = |node: &NodeId| Founder { member: member(*node), consent: consent(*node) };
                    content.founders = members.iter().map(founder).collect();
                }
                "part" => {
                    for text in line.word().split(',') {
                        let Some((who, part)) = text.split_once(':') else { line.unknown(text) };
                        let node = self.named(line, who).node_id();
                        let part = Part { index: number(line, part), of: 9 };
                        content.founders.iter_mut().filter(|f| f.member.node == node).for_each(|f| {
                            f.member.part = Some(part);
                        });
                    }
                }
                "name" => content.founders[1].member.name = wrong_name(line),
                "model" => {
                    line.keyword("other");
                    content.model.id = Hash::of(b"other");
                }
                "run" => {
                    line.keyword("other");
                    params.run = Hash::of(b"another run");
                }
                "signed" => scope = self.elsewhere(line, scope),
                word => line.unknown(word),
            }
        }
        let founding = Signed::new(proposer, &scope, content);
        name_of(check_founding(&params, &founding, &Verifier::default()))
    }

    fn outcome(&self, line: &mut Line) -> String {
        let members: Vec<NodeId> = self.all[..3].iter().map(Identity::node_id).collect();
        let founding = founding_of(&self.all[0], members.clone());
        let mut proposed = founding.clone();
        let mut binds: Vec<Signed<Bind>> = self.all[..3].iter().map(|i| bind(i, &founding)).collect();
        let (mut round, mut model, mut other_kind) = (0, params().initial_model, None);
        while let Some(word) = line.next() {
            match word.as_str() {
                "abort" => (other_kind, model) = (Some(Kind::Abort), BlobRef::NONE),
                "train" => other_kind = Some(Kind::Train),
                "binds" => {
                    let names = line.word();
                    binds = self.several(line, &names).iter().map(|i| bind(i, &founding)).collect();
                }
                "bind" => match line.word().as_str() {
                    "consent" => {
                        line.keyword("other");
                        let other = Bind { consent: Hash::of(b"other") };
                        binds[1] = Signed::new(&self.all[1], &founding.scope(), other);
                    }
                    "signed" => {
                        let scope = self.elsewhere(line, founding.scope());
                        binds[1] = Signed::new(&self.all[1], &scope, *binds[1].vouched());
                    }
                    word => line.unknown(word),
                },
                "of" => {
                    line.keyword("another");
                    proposed = founding_of(&self.all[1], members.clone());
                }
                "model" => {
                    line.keyword("other");
                    model.id = Hash::of(b"other");
                }
                "round" => round = line.number(),
                word => line.unknown(word),
            }
        }
        let kind = other_kind.unwrap_or(Kind::Genesis { founding: proposed, binds });
        let record = Record::plain(kind, Ballot { round, attempt: 0 }, members[0], founding.id(), model);
        name_of(check_outcome(&founding, &record, &Verifier::default()))
    }

    fn elect(&self, line: &mut Line) -> String {
        let (scope, verifier) = (self.chain.scope(), Verifier::default());
        let mut ballot = Ballot { round: 1, attempt: 0 };
        let (mut asked, mut candidate, mut voters) = (None, self.all[0].node_id(), "A,B".to_owned());
        let (mut of_votes, mut of_claims, mut silent, mut claims) = (scope, scope, Vec::new(), Vec::new());
        while let Some(word) = line.next() {
            match word.as_str() {
                "votes" => voters = line.word(),
                "candidate" => candidate = self.one(line).node_id(),
                "attempt" => ballot.attempt = attempt(line),
                "ballot" => asked = Some(Ballot { round: 1, attempt: attempt(line) }),
                "silent" => match line.word().as_str() {
                    "unordered" => silent = vec![self.all[2].node_id(), self.all[1].node_id()],
                    "many" => silent = (0..9).map(|i| NodeId::from_public_key([i; 32])).collect(),
                    word => line.unknown(word),
                },
                "accepted" => claims = line.word().split(',').map(str::to_owned).collect(),
                // What was accepted, where votes tell of it; else the votes.
                "signed" if claims.is_empty() => of_votes = self.elsewhere(line, of_votes),
                "signed" => of_claims = self.elsewhere(line, of_claims),
                word => line.unknown(word),
            }
        }
        let value = |attempt: u32| Hash::of(&attempt.to_le_bytes());
        let claim = |name: &str| {
            let text = claims.iter().find_map(|c| c.strip_prefix(name)?.strip_prefix(':'))?;
            let attempt: u32 = number(line, text);
            let proposed = Proposed { ballot: Ballot { round: 1, attempt }, value: value(attempt) };
            Some(Signed::new(&self.all[2], &of_claims, proposed))
        };
        let for_whom = self.all[0].node_id();
        let vote = |name: &str| {
            let vote = Vote { ballot, candidate: for_whom, accepted: claim(name), silent: silent.clone() };
            Signed::new(self.named(line, name), &of_votes, vote)
        };
        let votes: Vec<_> = voters.split(',').map(vote).collect();
        let asked = asked.unwrap_or(ballot);
        match check_votes(&votes, &scope, self.chain.roster(), asked, candidate, &verifier) {
            Ok(None) => "elected".to_owned(),
            Ok(Some(bound)) => format!("elected bound to {}", bound.vouched().ballot.attempt),
            Err(reject) => format!("{reject:?}"),
        }
    }
}

fn scope_round(world: &World) -> u64 {
    world.chain.next_round()
}

/// A name that none may have.
fn wrong_name(line: &mut Line) -> String {
    match line.word().as_str() {
        "long" => "n".repeat(NAME_BYTES_MAX + 1),
        "clearing" => "\x1b[2J".to_owned(),
        word => line.unknown(word),
    }
}

fn attempt(line: &mut Line) -> u32 {
    let word = line.word();
    number(line, &word)
}

fn number<N: std::str::FromStr>(line: &Line, text: &str) -> N {
    text.parse().unwrap_or_else(|_| line.unknown(text))
}

/// A coordinator that proposed two records in one ballot and claims to have accepted its second: the others' word counts
/// before its own.
#[test]
fn of_two_claims_of_one_ballot_that_of_another_counts() {
    let all = identities(1, 3);
    let scope = chain(&all).scope();
    let (first, later) = (Ballot { round: 1, attempt: 0 }, Ballot { round: 1, attempt: 1 });
    for liar in 0..3 {
        let proposed =
            |value: &[u8]| Signed::new(&all[liar], &scope, Proposed { ballot: first, value: Hash::of(value) });
        let vote = |i: usize| {
            let claim = proposed(if i == liar { b"second" } else { b"first" });
            let vote = Vote { ballot: later, candidate: all[0].node_id(), accepted: Some(claim), silent: Vec::new() };
            Signed::new(&all[i], &scope, vote)
        };
        let votes = by_signer((0..3).map(vote).collect());
        assert_eq!(highest_accepted(&votes), Some(proposed(b"first")));
    }
}

#[test]
fn a_record_on_disk_follows_on_the_one_before() {
    let all = identities(1, 3);
    let mut chain = chain(&all);
    let record = super::fixture::empty(&chain, 0, all[0].node_id());
    let behind_a_gap = Record { round: 2, ..record.clone() };
    let elsewhere = Record { parent: Hash::ZERO, ..record.clone() };
    let stored = |record| commit(&[], &chain.scope(), Ballot::of_round(1), all[0].node_id(), record);
    let [gap, other, good] = [behind_a_gap, elsewhere, record].map(stored);
    assert_eq!(chain.append_stored(gap), Err(Reject::WrongParent));
    assert_eq!(chain.append_stored(other), Err(Reject::WrongParent));
    assert_eq!(chain.append_stored(good), Ok(()));
}

/// A chain that `by` begins alone behind the head of `chain`, changed by `lie` before it signs.
fn begun_alone(by: &Identity, chain: &Chain, lie: impl FnOnce(&mut Forced)) -> Result<Chain, Reject> {
    let (round, trained) = chain.progress_at(chain.head().round);
    let member = member(by.node_id());
    let (head, model) = (chain.head_hash(), chain.head().model);
    let nonce = Hash::of(b"drawn");
    let mut content = Forced { chain: chain.genesis(), head, round, trained, model, member, nonce };
    lie(&mut content);
    let (parent, model) = (content.head, content.model);
    let forced = Signed::new(by, &Founding::proposal_scope(params().run), content);
    let (scope, ballot) = (forced.scope(params().run), Ballot::of_round(0));
    let record = Record::plain(Kind::Forced(forced), ballot, by.node_id(), parent, model);
    Chain::begin(params(), commit(&[by], &scope, ballot, by.node_id(), record), Verifier::default())
}

#[test]
fn a_chain_that_is_begun_alone_goes_on_where_the_other_was() {
    let all = identities(1, 3);
    let mut old = chain(&all);
    let record = super::fixture::empty(&old, 0, all[0].node_id());
    let (scope, ballot) = (old.scope(), Ballot::of_round(1));
    let signers: Vec<&Identity> = all.iter().collect();
    old.append(commit(&signers, &scope, ballot, all[0].node_id(), record)).expect("it holds");
    let alone = begun_alone(&all[1], &old, |_| {}).expect("it holds");
    assert_eq!(alone.roster().nodes().collect::<Vec<_>>(), [all[1].node_id()]);
    assert_eq!((alone.next_round(), alone.training_round(), alone.trained()), (1, 2, 0));
    let again = begun_alone(&all[1], &alone, |_| {}).expect("it holds");
    assert_eq!((again.next_round(), again.training_round()), (1, 2), "it had no round of its own");
}

#[test]
fn a_chain_that_is_begun_alone_is_checked_like_any_other() {
    let (all, stranger) = (identities(1, 3), identities(7, 1));
    let begin = |lie: &dyn Fn(&mut Forced)| begun_alone(&all[0], &chain(&all), lie).map(drop);
    assert_eq!(begin(&|c| c.member.node = stranger[0].node_id()), Err(Reject::Stranger));
    assert_eq!(begin(&|c| c.model.len += 1), Err(Reject::WrongShape));
    assert_eq!(begin(&|c| (c.round, c.trained) = (params().rounds + 1, params().rounds + 1)), Err(Reject::OverBound));
    assert_eq!(begin(&|c| c.trained = c.round + 1), Err(Reject::OverBound));
    assert_eq!(begin(&|c| c.round = u64::MAX), Err(Reject::OverBound));
    for name in ["x".repeat(NAME_BYTES_MAX + 1), "\x1b[2J".to_owned()] {
        assert_eq!(begin(&|c| c.member.name.clone_from(&name)), Err(Reject::BadRosterChange));
    }
    assert_eq!(begin(&|c| c.member.part = Some(Part { index: 3, of: 2 })), Err(Reject::BadRosterChange));
    assert_eq!(begin(&|_| ()), Ok(()));
}

#[test]
fn a_chain_that_is_begun_alone_never_yields() {
    let all = identities(1, 3);
    let alone = begun_alone(&all[0], &chain(&all), |_| {}).expect("it holds");
    let to = Hash::of(b"another");
    let word = Signed::new(&all[1], &request_scope(params().run, to), Alive { yielding: alone.genesis() });
    let ballot = Ballot::of_round(1);
    let kind = Kind::Yield { to, alive: vec![word] };
    let record = Record::plain(kind, ballot, all[0].node_id(), alone.head_hash(), alone.head().model);
    assert_eq!(alone.check(&record), Err(Reject::WrongKind));
}
