use super::*;
use paceline_protocol::base::roster::Member;
use paceline_protocol::base::signed::{Signed, Statement};
use paceline_protocol::io::LocalStats;
use paceline_protocol::record::{Accept, Bind, Contribution, Founder, Founding, Vote};
use paceline_protocol::{Ballot, BlobRef, Identity};

use crate::blobs::BlobStore;
use crate::run_file::parse;
use crate::store::Database;

const RUN_FILE: &str = r#"
[run]
name = "checked"
rounds = 3
[model]
layers = [ { type = "flatten" }, { type = "linear", out = 10 } ]
[data]
dataset = "shapes"
samples = 100
[train]
batch = 10
"#;

/// A home as a node leaves it after two rounds of three nodes, made by hand, so that each part of it can be made wrong.
struct Bench {
    dir: tempfile::TempDir,
    all: Vec<Identity>,
    chain: Chain,
    plan: Plan,
    state: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let run_file = parse(RUN_FILE, "run.toml").expect("it is sound");
        std::fs::write(dir.path().join("run.toml"), run_file.canonical()).expect("room");
        std::fs::write(dir.path().join("identity.key"), [1; 32]).expect("room");
        let plan = Plan::of(&run_file).expect("it can be trained");
        let state = plan.initial_state(&plan.drawn_weights().expect("memory"));
        let params = RunParams::of(&run_file, plan.formats.learned(&run_file, Manifest::of(&state).blob()));
        let mut all: Vec<Identity> = [1, 2, 3].map(|i| Identity::from_secret(&[i; 32])).into();
        all.sort_by_key(Identity::node_id);
        let genesis = genesis(&all, &params);
        let chain = Chain::begin(params, genesis.clone(), Verifier::default()).expect("it holds");
        let bench = Self { dir, all, chain, plan, state };
        let initial = bench.state.clone();
        bench.blobs().put(&initial).expect("room");
        bench.write(genesis);
        bench
    }

    fn home(&self) -> Home {
        Home::at(self.dir.path())
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::open(&self.home().blobs()).expect("it opens")
    }

    fn database(&self) -> Database {
        let me = Identity::from_secret(&[1; 32]).node_id();
        Database::open(&self.home().database(), self.chain.params().run, me).expect("it opens")
    }

    fn write(&self, committed: Committed) {
        let item = Persist::Committed { chain: self.chain.genesis(), committed, stats: LocalStats::default() };
        self.database().write(&[item]).expect("room");
    }

    /// The next round: every node's update in `deltas`, averaged. `change` is made to the record before it is accepted.
    fn record(&mut self, change: impl Fn(&mut Record)) -> Committed {
        let (scope, round) = (self.chain.scope(), self.chain.next_round());
        let mut sum = self.plan.formats.update.sum();
        let mut contributions = Vec::new();
        for (i, node) in self.all.iter().enumerate() {
            let delta: Vec<u8> = (0..self.plan.formats.parameters())
                .flat_map(|p| (0.001 * (i as f32 + 1.0) * (p % 7) as f32).to_le_bytes())
                .collect();
            let (update, samples) = (self.blobs().put(&delta).expect("room"), 10 + i as u64);
            sum.add(&delta, samples).expect("in range");
            let content = Contribution {
                round,
                update,
                samples,
                train_loss: Some(1.0),
                train_ms: 1,
                evaluation: None,
                trainer: String::new(),
            };
            contributions.push(Signed::new(node, &scope, content));
        }
        let samples = 3 * (10 + 12) / 2;
        let state = self.plan.formats.rule().step(&self.state, &sum, samples).expect("in range");
        let model = self.blobs().put(&state).expect("room");
        let head = self.chain.head().clone();
        let mut record = Record {
            kind: Kind::Train,
            round,
            coordinator: self.all[0].node_id(),
            parent: self.chain.head_hash(),
            model,
            participants: self.chain.roster().participant_order(head.model.id, round),
            contributions,
            aggregation: self.chain.params().aggregation.clone(),
            ..head
        };
        change(&mut record);
        self.state = state;
        commit(&self.all, &scope, Ballot { round, attempt: 0 }, record)
    }

    /// A round that holds.
    fn round(&mut self) {
        let committed = self.record(|_| {});
        self.chain.append(committed.clone()).expect("it holds");
        self.write(committed);
    }

    fn verify(&self) -> Verification {
        verify(&self.home(), None).expect("it can be read")
    }

    /// (round, culprit, what) of each finding.
    fn findings(&self) -> Vec<(Option<u64>, Option<String>, String)> {
        let found = self.verify();
        assert_eq!(found.ok, found.findings.is_empty());
        found.findings.into_iter().map(|f| (f.round, f.culprit.map(|c| c.node_id), f.what)).collect()
    }

    fn id(&self, i: usize) -> Option<String> {
        Some(self.all[i].node_id().to_string())
    }
}

fn genesis(all: &[Identity], params: &RunParams) -> Committed {
    let founder = |i: &Identity| Founder {
        member: Member { node: i.node_id(), name: "pc".into(), part: None },
        consent: Hash::of(i.node_id().as_bytes()),
    };
    let founders: Vec<Founder> = all.iter().map(founder).collect();
    let content = Founding { run: params.run, founders: founders.clone(), model: params.initial_model };
    let founding = Signed::new(&all[0], &Founding::proposal_scope(params.run), content);
    let scope = founding.scope();
    let bind = |(i, f): (&Identity, &Founder)| Signed::new(i, &scope, Bind { consent: f.consent });
    let binds = all.iter().zip(&founders).map(bind).collect();
    let (ballot, parent) = (Ballot { round: 0, attempt: 0 }, founding.id());
    let kind = Kind::Genesis { founding, binds };
    let plain = Record::plain(kind, ballot, all[0].node_id(), parent, params.initial_model);
    commit(all, &scope, ballot, plain)
}

fn commit(all: &[Identity], scope: &Scope, ballot: Ballot, record: Record) -> Committed {
    let accept = Accept { ballot, coordinator: all[0].node_id(), value: record.hash() };
    Committed { record, accepts: sign_all(all, scope, accept) }
}

fn sign_all<T: Statement + Copy>(all: &[Identity], scope: &Scope, content: T) -> Vec<Signed<T>> {
    all.iter().map(|i| Signed::new(i, scope, content)).collect()
}

#[test]
fn a_sound_home_holds_and_its_averages_come_out_the_same() {
    let mut bench = Bench::new();
    bench.round();
    bench.round();
    let found = bench.verify();
    assert_eq!(found.findings, []);
    assert_eq!((found.records, found.rounds), (3, 2));
    assert_eq!(found.averages, Repeated { all: 2, repeated: 2, equal: 2 });
    assert_eq!(found.blobs, 6);
}

#[test]
fn an_average_that_its_coordinator_made_up_is_named_with_record_and_coordinator() {
    let mut bench = Bench::new();
    bench.round();
    let other = bench.blobs().put(&vec![0; 4 * bench.plan.formats.parameters()]).expect("room");
    let committed = bench.record(|record| record.model = other);
    bench.chain.append(committed.clone()).expect("nobody sees it from the record");
    bench.write(committed);
    let [(round, culprit, what)] = &bench.findings()[..] else { panic!("{:?}", bench.findings()) };
    assert_eq!((*round, culprit), (Some(2), &bench.id(0)));
    assert!(what.contains("its coordinator made"), "{what}");
}

#[test]
fn an_update_that_no_average_may_hold_is_named_with_its_maker() {
    let mut bench = Bench::new();
    let nan: Vec<u8> = vec![f32::NAN; bench.plan.formats.parameters()].iter().flat_map(|v| v.to_le_bytes()).collect();
    let update = bench.blobs().put(&nan).expect("room");
    let (scope, node) = (bench.chain.scope(), bench.all[1].clone());
    let committed = bench.record(|record| {
        let content = Contribution {
            round: 1,
            update,
            samples: 11,
            train_loss: Some(1.0),
            train_ms: 1,
            evaluation: None,
            trainer: String::new(),
        };
        record.contributions[1] = Signed::new(&node, &scope, content);
    });
    bench.write(committed);
    let [(round, culprit, what)] = &bench.findings()[..] else { panic!("{:?}", bench.findings()) };
    assert_eq!((*round, culprit), (Some(1), &bench.id(1)));
    assert!(what.contains("can't be averaged"), "{what}");
}

#[test]
fn a_record_altered_after_its_commit_is_named_and_so_is_each_that_has_no_place_then() {
    let mut bench = Bench::new();
    let mut committed = bench.record(|_| {});
    bench.chain.append(committed.clone()).expect("it holds");
    committed.record.open_ms += 1;
    bench.write(committed);
    bench.round();
    let found = bench.findings();
    assert_eq!((found[0].0, &found[0].1), (Some(1), &bench.id(0)));
    assert!(found[0].2.contains("the proof of its commit: wrong hash"), "{found:?}");
    assert_eq!(found[1].0, Some(2), "{found:?}");
    assert!(found[1].2.contains("wrong parent"), "{found:?}");
}

#[test]
fn a_commit_with_too_few_accepts_is_named() {
    let mut bench = Bench::new();
    let mut committed = bench.record(|_| {});
    committed.accepts.truncate(1);
    bench.write(committed);
    let [(round, _, what)] = &bench.findings()[..] else { panic!("{:?}", bench.findings()) };
    assert_eq!((*round, what.as_str()), (Some(1), "the proof of its commit: no quorum"));
}

#[test]
fn a_second_commit_names_those_who_accepted_both() {
    let mut bench = Bench::new();
    let committed = bench.record(|_| {});
    let mut second = committed.record.clone();
    second.open_ms += 1;
    let second = commit(&bench.all[1..], &bench.chain.scope(), Ballot { round: 1, attempt: 0 }, second);
    bench.chain.append(committed.clone()).expect("it holds");
    bench.write(committed);
    bench.database().write(&[Persist::SecondCommit(second)]).expect("room");
    let culprits: Vec<_> = bench.findings().into_iter().map(|(round, culprit, _)| (round, culprit)).collect();
    assert_eq!(culprits, [(Some(1), bench.id(1)), (Some(1), bench.id(2))]);
}

#[test]
fn a_damaged_blob_is_named_with_its_file_and_left_as_it_is() {
    let mut bench = Bench::new();
    bench.round();
    let path = bench.home().blobs().join(format!("{}.blob", bench.chain.head().model.id));
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).expect("room");
    let found = bench.verify().findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, Some(path.display().to_string()));
    assert_eq!(std::fs::read(&path).expect("it is there"), bytes);
}

#[test]
fn votes_of_another_node_in_the_store_are_named() {
    let bench = Bench::new();
    let ballot = Ballot { round: 1, attempt: 0 };
    let vote = Vote { ballot, candidate: bench.all[0].node_id(), accepted: None, silent: vec![] };
    let vote = Signed::new(&Identity::from_secret(&[2; 32]), &bench.chain.scope(), vote);
    bench.database().write(&[Persist::Vote { chain: bench.chain.genesis(), vote }]).expect("room");
    let [(round, _, what)] = &bench.findings()[..] else { panic!("{:?}", bench.findings()) };
    assert_eq!(*round, Some(1));
    assert!(what.contains("another node's"), "{what}");
}

#[test]
fn a_home_that_was_never_started_is_said_to_be_one() {
    let bench = Bench::new();
    std::fs::remove_file(bench.home().database()).expect("it is there");
    let found = bench.verify();
    assert!(found.ok && found.notes.iter().any(|n| n.contains("never started")), "{found:?}");
}

/// The update has the length that the run file's net asks for.
#[test]
fn an_update_of_another_length_is_its_makers() {
    let mut bench = Bench::new();
    let (scope, node) = (bench.chain.scope(), bench.all[2].clone());
    let committed = bench.record(|record| {
        let update = BlobRef { id: Hash::of(b"short"), len: 4 };
        let content = Contribution {
            round: 1,
            update,
            samples: 12,
            train_loss: Some(1.0),
            train_ms: 1,
            evaluation: None,
            trainer: String::new(),
        };
        record.contributions[2] = Signed::new(&node, &scope, content);
    });
    bench.write(committed);
    let [(round, culprit, what)] = &bench.findings()[..] else { panic!("{:?}", bench.findings()) };
    assert_eq!((*round, culprit, what.as_str()), (Some(1), &bench.id(2), "the contribution: wrong shape"));
}

#[test]
fn a_chain_that_was_begun_alone_goes_on_where_the_one_kept_beside_it_ends() {
    for lies in [false, true] {
        let mut bench = Bench::new();
        bench.round();
        let me = bench.all[0].clone();
        let member = bench.chain.roster().get(me.node_id()).cloned().expect("it is a member");
        let model = if lies { bench.chain.params().initial_model } else { bench.chain.head().model };
        let (run, chain, head) = (bench.chain.params().run, bench.chain.genesis(), bench.chain.head_hash());
        let content = Forced { chain, head, round: 1, trained: 1, model, member, nonce: head };
        let forced = Signed::new(&me, &Founding::proposal_scope(run), content);
        let (scope, ballot) = (forced.scope(run), Ballot { round: 0, attempt: 0 });
        let record = Record::plain(Kind::Forced(forced), ballot, me.node_id(), head, model);
        let committed = commit(std::slice::from_ref(&me), &scope, ballot, record);
        bench.chain =
            Chain::begin(bench.chain.params().clone(), committed.clone(), Verifier::default()).expect("it holds");
        bench.write(committed);
        let found = bench.verify();
        assert!(found.notes.iter().any(|note| note.contains("began this chain alone")), "{:?}", found.notes);
        match (lies, &bench.findings()[..]) {
            (false, found) => assert_eq!(found, []),
            (true, [(round, culprit, what)]) => {
                assert_eq!((*round, culprit), (Some(0), &bench.id(0)));
                assert!(what.contains("not what its old chain, kept here, has"), "{what}");
            }
            (true, found) => panic!("{found:?}"),
        }
    }
}
