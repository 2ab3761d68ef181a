use super::*;
use paceline_protocol::base::aggregation::Rule;
use paceline_protocol::base::signed::Scope;
use paceline_protocol::record::{Accept, Founding, Lie, Proposed, Record, Refusal};
use paceline_protocol::{BlobRef, Identity, NodeId};
use redb::StorageBackend;
use std::sync::{Arc, Mutex};

const RUN: Hash = Hash::from_bytes([5; 32]);
const CHAIN: Hash = Hash::from_bytes([6; 32]);

fn me() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn scope() -> Scope {
    Scope { run: RUN, chain: CHAIN, parent: CHAIN }
}

fn record(round: u64) -> Record {
    Record {
        kind: Kind::Empty,
        round,
        attempt: 0,
        coordinator: me().node_id(),
        parent: CHAIN,
        model: BlobRef { id: CHAIN, len: 4 },
        participants: vec![],
        contributions: vec![],
        evaluations: vec![],
        failures: vec![],
        resumed: None,
        aggregation: Rule::FedAvg,
        joined: vec![],
        left: vec![],
        evicted: vec![],
        open_ms: 1,
    }
}

fn vote(round: u64, candidate: NodeId) -> Signed<Vote> {
    let vote = Vote { ballot: Ballot { round, attempt: 0 }, candidate, accepted: None, silent: vec![] };
    Signed::new(&me(), &scope(), vote)
}

fn proposal(round: u64) -> Proposal {
    let (record, vote) = (record(round), vote(round, me().node_id()));
    let proposed = Proposed { ballot: Ballot { round, attempt: 0 }, value: record.hash() };
    Proposal { proposed: Signed::new(&me(), &scope(), proposed), record, votes: vec![vote] }
}

fn founding(model: u8) -> Signed<Founding> {
    let model = BlobRef { id: Hash::from_bytes([model; 32]), len: 4 };
    let content = Founding { run: RUN, founders: vec![], model };
    Signed::new(&me(), &Founding::proposal_scope(RUN), content)
}

fn bound(founding: &Signed<Founding>) -> (Persist, Signed<Bind>) {
    let bind = Signed::new(&me(), &founding.scope(), Bind { consent: RUN });
    (Persist::Bound { founding: founding.clone(), bind }, bind)
}

fn abort(founding: Hash) -> (Persist, AbortProof) {
    let scope = Scope { run: RUN, chain: founding, parent: founding };
    let proof = AbortProof::Refused(Signed::new(&me(), &scope, Refusal { chain: None }));
    (Persist::Aborted { founding, proof: proof.clone() }, proof)
}

fn committed(round: u64) -> Persist {
    committed_in(CHAIN, record(round))
}

fn committed_in(chain: Hash, record: Record) -> Persist {
    Persist::Committed { chain, committed: Committed { record, accepts: vec![] }, stats: LocalStats::default() }
}

/// The record that begins a chain: it makes it the node's own.
fn genesis() -> Record {
    Record { kind: Kind::Genesis { founding: founding(1), binds: vec![] }, ..record(0) }
}

fn contribution() -> Signed<Contribution> {
    let content = Contribution {
        round: 3,
        samples: 7,
        update: BlobRef { id: RUN, len: 4 },
        train_loss: 0.25,
        train_ms: 9,
        evaluation: None,
    };
    Signed::new(&me(), &scope(), content)
}

fn lie() -> Evidence {
    let ballot = Ballot { round: 3, attempt: 0 };
    let accept = |value| Signed::new(&me(), &scope(), Accept { ballot, coordinator: me().node_id(), value });
    Evidence { chain: CHAIN, parent: CHAIN, lie: Lie::Accepts([accept(RUN), accept(CHAIN)]) }
}

/// The chain up to a round, the genesis included.
fn chain_to(round: u64) -> Vec<Persist> {
    [committed_in(CHAIN, genesis())].into_iter().chain((1..=round).map(committed)).collect()
}

fn open(dir: &tempfile::TempDir) -> Database {
    Database::open(&dir.path().join("store.redb"), RUN, me().node_id()).expect("it opens")
}

#[test]
fn votes_and_accepts_are_there_after_a_restart_until_their_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (vote, proposal) = (vote(3, me().node_id()), proposal(3));
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room on the disk");
    let items = [
        Persist::Vote { chain: CHAIN, vote: vote.clone() },
        Persist::Accepted { chain: CHAIN, proposal: proposal.clone() },
    ];
    database.write(&items).expect("room on the disk");
    drop(database);
    let database = open(&dir);
    let expected = RecoveredBallot { chain: CHAIN, round: 3, vote: Some(vote), accepted: Some(proposal) };
    assert_eq!(database.recover(vec![]).expect("reads").ballots, [expected]);
    database.write(&[committed(3)]).expect("room on the disk");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.ballots.len(), recovered.chain.len()), (0, 4));
}

#[test]
fn promises_only_grow_and_outlive_what_they_were_given_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let promised = || {
        let promises = open(&dir).recover(vec![]).expect("reads").promises;
        promises.into_iter().find(|(chain, _)| *chain == CHAIN).map(|(_, ballot)| ballot)
    };
    open(&dir).write(&chain_to(2)).expect("room");
    assert_eq!(promised(), Some(Ballot::end_of_round(2)));
    open(&dir).write(&[Persist::Vote { chain: CHAIN, vote: vote(3, me().node_id()) }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }));
    open(&dir).write(&[Persist::Vote { chain: CHAIN, vote: vote(1, me().node_id()) }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }));
    open(&dir).write(&[Persist::LetGo { chain: CHAIN }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }), "the chain is gone, its promise is not");
}

#[test]
fn a_record_behind_a_gap_is_refused_with_all_that_is_written_with_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    let items = [Persist::Vote { chain: CHAIN, vote: vote(4, me().node_id()) }, committed(4)];
    let error = database.write(&items).expect_err("record 3 is missing");
    assert!(matches!(error, StoreError::Gap { round: 4, expected: 3, .. }), "{error}");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain.len(), recovered.ballots.len()), (3, 0));
}

#[test]
fn a_chain_that_gave_itself_up_is_remembered_as_that() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let yielded = Record { kind: Kind::Yield { to: RUN, alive: vec![] }, ..record(1) };
    database.write(&[committed_in(CHAIN, genesis()), committed_in(CHAIN, yielded.clone())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    let pair = [genesis(), yielded].map(|record| Committed { record, accepts: vec![] });
    assert_eq!((recovered.chain, recovered.given_up), (vec![], vec![pair]));
    assert!(database.history().expect("reads").is_empty());
    // Another chain is the node's from now on; the first stays what it is.
    database.write(&[committed_in(RUN, genesis())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain.len(), recovered.given_up.len()), (1, 1));
}

#[test]
fn a_chain_that_was_let_go_of_is_gone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    database.write(&[Persist::LetGo { chain: CHAIN }]).expect("room");
    assert!(database.recover(vec![]).expect("reads").chain.is_empty());
    database.write(&chain_to(1)).expect("it can be entered again from its beginning");
}

#[test]
fn the_home_of_another_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(&dir));
    let error = Database::open(&dir.path().join("store.redb"), CHAIN, me().node_id()).expect_err("another run");
    assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
}

#[test]
fn the_store_of_another_node_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(&dir));
    let other = Identity::from_secret(&[2; 32]).node_id();
    let error = Database::open(&dir.path().join("store.redb"), RUN, other).expect_err("another node");
    assert!(matches!(error, StoreError::OtherNode { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    std::fs::write(&path, b"not a database at all").expect("writes");
    let error = Database::open(&path, RUN, me().node_id()).expect_err("garbage");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[test]
fn a_founding_binds_over_restarts_until_its_outcome_is_known() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let founding = founding(1);
    let (item, bind) = bound(&founding);
    open(&dir).write(&[item]).expect("room on the disk");
    let expected = RecoveredFounding::Bound { founding: founding.clone(), bind };
    assert_eq!(open(&dir).recover(vec![]).expect("reads").foundings, [expected]);
    let (item, proof) = abort(founding.id());
    open(&dir).write(&[item]).expect("room on the disk");
    let expected = RecoveredFounding::Aborted { founding: founding.id(), proof };
    assert_eq!(open(&dir).recover(vec![]).expect("reads").foundings, [expected]);
}

#[test]
fn a_genesis_ends_the_founding_that_led_to_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let id = founding(1).id();
    let vote = |chain| Persist::Vote { chain, vote: vote(0, me().node_id()) };
    database.write(&[bound(&founding(1)).0, vote(id), vote(RUN), committed_in(CHAIN, genesis())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert!(recovered.foundings.is_empty());
    assert_eq!(recovered.ballots.iter().map(|b| b.chain).collect::<Vec<_>>(), [RUN]);
    assert!(recovered.promises.contains(&(id, Ballot::end_of_round(0))), "nobody votes in it again");
}

#[test]
fn proofs_of_foundings_that_came_to_nothing_are_bounded_and_the_oldest_go_first() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let number = |n: usize| Hash::of(&n.to_le_bytes());
    let aborts: Vec<Persist> = (0..ABORTED_FOUNDINGS_MAX + 3).map(|n| abort(number(n)).0).collect();
    database.write(&aborts).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    let ids = |f: &RecoveredFounding| match f {
        RecoveredFounding::Aborted { founding, .. } => *founding,
        RecoveredFounding::Bound { founding, .. } => founding.id(),
    };
    let ids: Vec<Hash> = recovered.foundings.iter().map(ids).collect();
    assert_eq!((ids.len(), ids[0]), (ABORTED_FOUNDINGS_MAX, number(3)));
    assert_eq!(recovered.promises.len(), ABORTED_FOUNDINGS_MAX + 3, "their promises stay");
}

#[test]
fn a_contribution_is_there_after_a_restart_until_its_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    open(&dir).write(&chain_to(2)).expect("room on the disk");
    let item = Persist::Contribution { chain: CHAIN, contribution: contribution() };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, Some(contribution()));
    open(&dir).write(&[committed(3)]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, None);
}

#[test]
fn evidence_and_leaving_are_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let proof = || Persist::Evidence(lie());
    open(&dir).write(&[proof(), proof(), Persist::Left]).expect("room on the disk");
    let recovered = open(&dir).recover(vec![RUN]).expect("reads");
    assert_eq!((recovered.evidence, recovered.left, recovered.blobs), (vec![lie(), lie()], true, vec![RUN]));
}

#[test]
fn a_record_comes_with_this_node_s_figures() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let committed = Committed { record: genesis(), accepts: vec![] };
    let stats = LocalStats { duration_ms: Some(5), overhead_ms: Some(2), bytes_sent: 3, bytes_received: 4 };
    let item = Persist::Committed { chain: CHAIN, committed: committed.clone(), stats };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads"), [HistoryEntry { committed, stats }]);
}

#[test]
fn a_later_vote_replaces_the_one_before_in_its_round_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = Identity::from_secret(&[2; 32]).node_id();
    let items = [vote(3, me().node_id()), vote(4, me().node_id()), vote(3, other)];
    let items = items.map(|vote| Persist::Vote { chain: CHAIN, vote });
    open(&dir).write(&items).expect("room on the disk");
    let ballots = open(&dir).recover(vec![]).expect("reads").ballots;
    let votes: Vec<_> = ballots.iter().map(|b| (b.round, b.vote.clone())).collect();
    assert_eq!(votes, [(3, Some(vote(3, other))), (4, Some(vote(4, me().node_id())))]);
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
    let error = Database::open(&dir.path().join("store.redb"), RUN, me().node_id()).expect_err("version 9");
    assert!(matches!(error, StoreError::Version { found: 9, .. }), "{error}");
}

#[test]
fn a_value_that_is_no_record_is_named_with_its_file_and_table() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database
        .write_all(|tx| {
            tx.open_table(RECORDS)?.insert(&key(CHAIN, 0)[..], &b"no record"[..])?;
            Ok(())
        })
        .expect("room");
    let error = database.recover(vec![]).expect_err("it is none").to_string();
    assert!(error.contains("store.redb") && error.contains("chains"), "{error}");
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
    open(&dir).write(&chain_to(39)).expect("room");
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
        let found = Database::open(&path, RUN, me().node_id()).and_then(|database| database.recover(vec![]));
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
        Database::prepared(
            Path::new("a disk in memory"),
            builder().create_with_backend(self.clone()),
            RUN,
            me().node_id(),
        )
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
        let vote = Persist::Vote { chain: CHAIN, vote: vote(round + 1, me().node_id()) };
        let record = if round == 0 { committed_in(CHAIN, genesis()) } else { committed(round) };
        database.write(&[record, vote]).expect("room");
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
    open(&dir).write(&chain_to(0)).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads").len(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 1, "nothing is left behind");
}
