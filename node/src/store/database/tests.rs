use super::*;
use paceline_protocol::record::{Accept, Record};
use paceline_protocol::rule::Rule;
use paceline_protocol::sign::Scope;
use paceline_protocol::{Ballot, BlobRef, Identity, NodeId, Signature};
use redb::StorageBackend;
use std::sync::{Arc, Mutex};

const RUN: Hash = Hash::from_bytes([5; 32]);
const GENESIS: Hash = Hash::from_bytes([6; 32]);

fn me() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn record(round: u64) -> Record {
    Record {
        kind: Kind::Empty,
        round,
        attempt: 0,
        coordinator: me().node_id(),
        parent: GENESIS,
        model: BlobRef { id: GENESIS, len: 4 },
        participants: vec![],
        contributions: vec![],
        evaluations: vec![],
        rule: Rule::FedAvg,
        joined: vec![],
        left: vec![],
        evicted: vec![],
        open_ms: 1,
    }
}

fn vote(round: u64, candidate: NodeId) -> Vote {
    let scope = Scope { run: RUN, genesis: GENESIS, parent: GENESIS };
    Vote::new(&me(), &scope, Ballot { round, attempt: 0 }, candidate, None, vec![])
}

fn open(dir: &tempfile::TempDir) -> Database {
    Database::open(&dir.path().join("store.redb"), RUN).expect("it opens")
}

#[test]
fn votes_and_accepts_are_there_after_a_restart_until_their_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let vote = vote(3, me().node_id());
    let proposal = Proposal {
        genesis: GENESIS,
        ballot: vote.ballot,
        coordinator: me().node_id(),
        record: record(3),
        votes: vec![vote.clone()],
    };
    let database = open(&dir);
    let items = [
        Persist::Vote { genesis: GENESIS, vote: vote.clone() },
        Persist::Accepted { genesis: GENESIS, proposal: proposal.clone() },
    ];
    database.write(&items).expect("room on the disk");
    drop(database);
    let database = open(&dir);
    let expected = RecoveredBallot { genesis: GENESIS, round: 3, vote: Some(vote), accepted: Some(proposal) };
    assert_eq!(database.recover(vec![]).expect("reads").ballots, [expected]);
    let committed = Committed { record: record(3), accepts: vec![] };
    let item = Persist::Committed { genesis: GENESIS, committed, figures: Figures::default() };
    database.write(&[item]).expect("room on the disk");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.ballots.len(), recovered.chain.len()), (0, 1));
}

#[test]
fn a_chain_that_was_given_up_is_kept_aside() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let committed = |round| Committed { record: record(round), accepts: vec![] };
    let item =
        |round| Persist::Committed { genesis: GENESIS, committed: committed(round), figures: Figures::default() };
    database.write(&[item(0), item(1), Persist::SwitchChain { from: GENESIS, to: RUN }]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain, recovered.aside), (vec![], vec![committed(0), committed(1)]));
}

#[test]
fn the_home_of_another_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(&dir));
    let error = Database::open(&dir.path().join("store.redb"), GENESIS).expect_err("another run");
    assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    std::fs::write(&path, b"not a database at all").expect("writes");
    let error = Database::open(&path, RUN).expect_err("garbage");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

fn founding(nonce: u8) -> Founding {
    let model = BlobRef { id: GENESIS, len: 4 };
    Founding { run: RUN, proposer: me().node_id(), nonce: Hash::from_bytes([nonce; 32]), members: vec![], model }
}

fn abort(founding: Hash) -> Persist {
    let record = Record { kind: Kind::Abort { founding }, ..record(0) };
    Persist::Decided { founding, committed: Committed { record, accepts: vec![] } }
}

fn committed(round: u64) -> Persist {
    let committed = Committed { record: record(round), accepts: vec![] };
    Persist::Committed { genesis: GENESIS, committed, figures: Figures::default() }
}

fn contribution() -> Contribution {
    Contribution {
        node: me().node_id(),
        samples: 7,
        update: BlobRef { id: RUN, len: 4 },
        train_loss: 0.25,
        train_ms: 9,
        evaluation: None,
        signature: Signature::from_bytes(&[0; 64]),
    }
}

fn lie() -> Evidence {
    let accept = |value| Accept {
        acceptor: me().node_id(),
        ballot: Ballot { round: 3, attempt: 0 },
        coordinator: me().node_id(),
        value,
        signature: Signature::from_bytes(&[1; 64]),
    };
    Evidence::Accepts { parent: GENESIS, accepts: (accept(RUN), accept(GENESIS)) }
}

#[test]
fn a_founding_is_there_after_a_restart_with_its_bind_refusal_and_decision() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let founding = founding(1);
    let (id, scope) = (founding.id(), founding.scope());
    let (bind, refusal) = (Bind::new(&me(), &scope), Refusal::new(&me(), &scope, Some(GENESIS)));
    let mut expected = RecoveredFounding { founding: founding.clone(), bind: None, refusal: None, decided: None };
    let found = |item| {
        open(&dir).write(&[item]).expect("room on the disk");
        open(&dir).recover(vec![]).expect("reads").foundings
    };
    assert_eq!(found(Persist::Founding(founding)), [expected.clone()]);
    expected.bind = Some(bind);
    assert_eq!(found(Persist::Bind { founding: id, bind }), [expected.clone()]);
    expected.refusal = Some(refusal);
    assert_eq!(found(Persist::Refusal { founding: id, refusal }), [expected.clone()]);
    let decision = Committed { record: record(0), accepts: vec![] };
    expected.decided = Some(decision.clone());
    assert_eq!(found(Persist::Decided { founding: id, committed: decision }), [expected]);
}

#[test]
fn a_decision_makes_the_ballots_of_its_founding_useless_and_no_others() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let founding = founding(1);
    let id = founding.id();
    let database = open(&dir);
    let vote = |genesis| Persist::Vote { genesis, vote: vote(0, me().node_id()) };
    database.write(&[Persist::Founding(founding), vote(id), vote(GENESIS), abort(id)]).expect("room");
    let ballots = database.recover(vec![]).expect("reads").ballots;
    assert_eq!(ballots.iter().map(|b| b.genesis).collect::<Vec<_>>(), [GENESIS]);
}

#[test]
fn foundings_that_came_to_nothing_do_not_pile_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let bound = founding(0);
    let bind = Persist::Bind { founding: bound.id(), bind: Bind::new(&me(), &bound.scope()) };
    database.write(&[Persist::Founding(bound.clone()), bind]).expect("room");
    for nonce in 1..100 {
        let founding = founding(nonce);
        let id = founding.id();
        database.write(&[Persist::Founding(founding), abort(id)]).expect("room");
    }
    let foundings = database.recover(vec![]).expect("reads").foundings;
    assert!(foundings.len() <= FOUNDINGS_MAX, "{} foundings", foundings.len());
    assert!(foundings.iter().any(|f| f.founding == bound && f.bind.is_some()), "the bind is forgotten");
}

#[test]
fn a_contribution_is_there_after_a_restart_until_its_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let item = Persist::Contribution { genesis: GENESIS, round: 3, contribution: contribution() };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, Some((3, contribution())));
    open(&dir).write(&[committed(3)]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, None);
}

#[test]
fn evidence_and_leaving_are_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let proof = || Persist::Evidence { genesis: GENESIS, evidence: lie() };
    open(&dir).write(&[proof(), proof(), Persist::Left { genesis: GENESIS }]).expect("room on the disk");
    let recovered = open(&dir).recover(vec![RUN]).expect("reads");
    assert_eq!((recovered.evidence, recovered.left, recovered.blobs), (vec![lie(), lie()], true, vec![RUN]));
}

#[test]
fn a_record_comes_with_this_node_s_figures() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let committed = Committed { record: record(0), accepts: vec![] };
    let figures = Figures { duration_ms: Some(5), overhead_ms: Some(2), bytes_sent: 3, bytes_received: 4 };
    let item = Persist::Committed { genesis: GENESIS, committed: committed.clone(), figures };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads"), [HistoryEntry { committed, figures }]);
}

#[test]
fn a_record_takes_the_place_of_an_older_chain_s_and_of_all_behind_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&(0..5).map(committed).collect::<Vec<_>>()).expect("room");
    database.write(&[committed(2)]).expect("room");
    let rounds: Vec<u64> =
        database.history().expect("reads").iter().map(|entry| entry.committed.record.round).collect();
    assert_eq!(rounds, [0, 1, 2]);
}

#[test]
fn a_later_vote_replaces_the_one_before_in_its_round_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = Identity::from_secret(&[2; 32]).node_id();
    let items = [vote(3, me().node_id()), vote(4, me().node_id()), vote(3, other)];
    let items = items.map(|vote| Persist::Vote { genesis: GENESIS, vote });
    open(&dir).write(&items).expect("room on the disk");
    let ballots = open(&dir).recover(vec![]).expect("reads").ballots;
    let candidates: Vec<_> = ballots.iter().map(|b| (b.round, b.vote.as_ref().map(|v| v.candidate))).collect();
    assert_eq!(candidates, [(3, Some(other)), (4, Some(me().node_id()))]);
}

#[test]
fn another_version_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database
        .write_all(|tx| {
            tx.open_table(META)?.insert("version", &9u32.to_le_bytes()[..])?;
            Ok(())
        })
        .expect("room");
    drop(database);
    let error = Database::open(&dir.path().join("store.redb"), RUN).expect_err("version 9");
    assert!(matches!(error, StoreError::Version { found: 9, .. }), "{error}");
}

#[test]
fn a_value_that_is_no_record_is_named_with_its_file_and_table() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database
        .write_all(|tx| {
            tx.open_table(RECORDS)?.insert(0, &b"no record"[..])?;
            Ok(())
        })
        .expect("room");
    let error = database.recover(vec![]).expect_err("it is none").to_string();
    assert!(error.contains("store.redb") && error.contains("records"), "{error}");
}

/// Numbers from a seed, for where to damage and what to lose (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
fn a_damaged_file_is_an_error_or_reads_as_it_was_and_never_a_panic() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    open(&dir).write(&(0..40).map(committed).collect::<Vec<_>>()).expect("room");
    let before = open(&dir).recover(vec![]).expect("reads");
    let sound = std::fs::read(&path).expect("reads");
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let mut bytes = sound.clone();
        match seed % 3 {
            0 => bytes.truncate(draw.below(sound.len())),
            1 => (0..8).for_each(|_| bytes[draw.below(sound.len())] ^= 1 << draw.below(8)),
            _ => {
                let from = draw.below(sound.len());
                bytes[from..].iter_mut().take(4096).for_each(|b| *b = 0);
            }
        }
        std::fs::write(&path, bytes).expect("writes");
        let found = Database::open(&path, RUN).and_then(|database| database.recover(vec![]));
        if let Ok(found) = found {
            assert_eq!(found, before, "seed {seed}: damage was believed");
        }
    }
}

/// What was done to a disk.
#[derive(Debug, Clone)]
enum Done {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
}

/// A disk that remembers what was done to it, so that a power loss can be played at any moment.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    log: Arc<Mutex<Vec<Done>>>,
}

fn apply(bytes: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Length(len) => bytes.resize(*len as usize, 0),
        Done::Write(offset, data) => {
            let range = *offset as usize..*offset as usize + data.len();
            if range.end > bytes.len() {
                bytes.resize(range.end, 0);
            }
            bytes[range].copy_from_slice(data);
        }
        Done::Sync => {}
    }
}

impl Disk {
    fn with(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), ..Self::default() }
    }

    fn does(&self, done: Done) {
        apply(&mut self.bytes.lock().expect("no panic holds it"), &done);
        self.log.lock().expect("no panic holds it").push(done);
    }

    /// How much was done so far.
    fn mark(&self) -> usize {
        self.log.lock().expect("no panic holds it").len()
    }

    /// What a power loss after `mark` leaves: all that was synced, and of the rest some.
    fn after_power_loss(&self, mark: usize, draw: &mut Draw) -> Vec<u8> {
        let log = self.log.lock().expect("no panic holds it");
        let synced = log[..mark].iter().rposition(|d| matches!(d, Done::Sync)).map_or(0, |i| i + 1);
        let mut bytes = Vec::new();
        log[..synced].iter().for_each(|done| apply(&mut bytes, done));
        for done in &log[synced..mark] {
            if draw.below(2) == 0 {
                apply(&mut bytes, done);
            }
        }
        bytes
    }

    fn open(&self) -> Result<Database, StoreError> {
        Database::prepared(Path::new("a disk in memory"), builder().create_with_backend(self.clone()), RUN)
    }
}

type Io<T> = Result<T, std::io::Error>;

impl StorageBackend for Disk {
    fn len(&self) -> Io<u64> {
        Ok(self.bytes.lock().expect("no panic holds it").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Io<()> {
        let bytes = self.bytes.lock().expect("no panic holds it");
        out.copy_from_slice(&bytes[offset as usize..offset as usize + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Io<()> {
        self.does(Done::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> Io<()> {
        self.does(Done::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Io<()> {
        self.does(Done::Write(offset, data.to_vec()));
        Ok(())
    }
}

#[test]
fn what_was_confirmed_survives_a_power_loss_at_any_moment() {
    let disk = Disk::default();
    let database = disk.open().expect("an empty disk");
    let begun = disk.mark();
    // Where each round's write ended.
    let mut confirmed = Vec::new();
    for round in 0..12 {
        let vote = Persist::Vote { genesis: GENESIS, vote: vote(round + 1, me().node_id()) };
        database.write(&[committed(round), vote]).expect("room");
        confirmed.push(disk.mark());
    }
    let end = disk.mark();
    for seed in 0..200 {
        let mut draw = Draw(seed);
        let mark = begun + draw.below(end - begun + 1);
        let image = disk.after_power_loss(mark, &mut draw);
        let recovered = Disk::with(image).open().and_then(|database| database.recover(vec![]));
        let recovered = recovered.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let promised = confirmed.iter().filter(|at| **at <= mark).count();
        let found = recovered.chain.len();
        assert!((promised..=promised + 1).contains(&found), "seed {seed}: {found} records of {promised} confirmed");
        // Record and vote were written together: there is one with the other.
        let votes: Vec<u64> = recovered.ballots.iter().map(|b| b.round).collect();
        assert_eq!(votes, recovered.chain.last().map(|c| c.record.round + 1).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_database_that_was_half_made_in_an_earlier_life_is_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // What a kill or a power loss leaves while the file is made.
    let disk = Disk::default();
    drop(disk.open().expect("an empty disk"));
    let image = disk.after_power_loss(disk.mark() / 2, &mut Draw(1));
    std::fs::write(dir.path().join("store.redb.new"), image).expect("writes");
    open(&dir).write(&[committed(0)]).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads").len(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 1, "nothing is left behind");
}
